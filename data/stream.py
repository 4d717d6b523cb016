"""The stream of training samples, and the held-out one.

In: DataConfig, seed, numbers of samples. Out: tokens. Always: sample n is a pure function of (config, seed, n);
nothing is opened, read or kept per sample; the state is a few numbers that any other number of processes can
go on from.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, named
from data.batch import BatchSchedule
from data.config import DataConfig, SkipConfig, SourceConfig, StageConfig
from data.length_classes import with_classes
from data.lookahead import Lookahead
from data.order import ALGORITHM, GlobalOrder, Places, StagePlan, StageSource
from data.shards import Stretch
from data.skip import SkipList
from data.source import TokenSource, open_source

LOOKAHEAD = 1024
CHECKED_SHARDS = 256


@dataclass(frozen=True)
class Reading:
    """A stretch of tokens that will be read, and those around it that are fetched with it."""

    source: TokenSource
    start: int
    count: int
    around: Stretch | None
    block_bytes: int
    """what is fetched where nothing is around it"""

    @property
    def whole(self) -> tuple[str, Stretch]:
        """What is fetched: the same for all that are fetched together."""
        return self.source.id, self.around or Stretch(self.start, self.count)

    @property
    def fetched_bytes(self) -> int:
        """About as many as travel."""
        return self.around.count * self.source.manifest.item_bytes if self.around else self.block_bytes

    @property
    def fetch_seconds(self) -> float | None:
        """As the storage measures it."""
        return self.source.storage.fetch_seconds

    @property
    def fetch_rate(self) -> float | None:
        """As the storage measures it."""
        return self.source.storage.fetch_rate

    @property
    def room(self) -> int:
        """As the storage says."""
        return self.source.storage.room

    def prefetch(self) -> None:
        """Begins to fetch it, and all that is fetched with it."""
        self.source.reader.prefetch(self.start, self.count, self.around)

    def read(self) -> NDArray[np.int64]:
        """The tokens."""
        return self.source.reader.read(self.start, self.count, self.around)


class Samples(ABC):
    """Tokens of samples by number."""

    eod_id: int

    @abstractmethod
    def fetch(self, sample_numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of shape [samples, T + 1]."""

    def by_block(self, sample_numbers: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The samples of a step in the order in which ranks share them; None: by number."""
        return None

    def look_ahead(
        self, numbers_of: Callable[[int], NDArray[np.int64]], start: int, stop: int, processes: int
    ) -> Lookahead:
        """What fetches ahead of a reader; here nothing has to be fetched."""
        return Lookahead(lambda step: (), start, start, budget=0)


class TokenStream(Samples):
    """The training samples of a run."""

    def __init__(self, config: DataConfig, seed: int, sources: list[TokenSource]) -> None:
        self._config, self._seed = config, seed
        self.sources = sources
        self._all_local = all(source.reader.is_local for source in sources)
        self.skip = SkipList(config.skip)
        plans = plan_stages(config, sources)
        ids = [source.id for source in sources]
        self.order = GlobalOrder(ids, plans, seed, config.shuffle_window, config.shuffle_by_block)
        manifest = sources[0].manifest
        self._located_run = lru_cache(maxsize=4)(self._locate_run)
        self.vocab_size = max(source.manifest.vocab_size for source in sources)
        self.eod_id = manifest.eod_id
        self.tokenizer = manifest.tokenizer
        self.fingerprint = manifest.tokenizer["fingerprint"]

    def fetch(self, sample_numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens [n, T + 1] of the samples with these numbers, skipped samples not counted.

        Raises:
            InputError: a damaged or missing shard, or samples of stages with different sequence lengths.
        """
        numbers = self.skip.number_of(np.asarray(sample_numbers, np.int64))
        places = self._places(numbers)
        length = self._length_of(numbers, places.stage)
        tokens = np.empty((len(numbers), length + 1), np.int64)
        readings = self._readings(places)
        for reading in _from_afar(readings):
            reading.prefetch()
        for row, reading in enumerate(readings):
            tokens[row] = reading.read()
        return tokens

    def look_ahead(
        self, numbers_of: Callable[[int], NDArray[np.int64]], start: int, stop: int, processes: int
    ) -> Lookahead:
        """Fetches what steps ``start`` .. ``stop - 1`` of a reader want from afar before it reads them.

        Args:
            numbers_of: the samples that the reader takes in a step.
            processes: readers on this node, which share half of the cache; the rest is for what was read.
        """

        def wanted(step: int) -> list[Reading]:
            numbers = self.skip.number_of(numbers_of(step))
            return _from_afar(self._readings(self._places(numbers)))

        budget = int(self._config.cache.gigabytes * 1e9 / 2 / processes)
        return Lookahead(wanted, start, start if self._all_local else stop, budget)

    def by_block(self, sample_numbers: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """With data.shuffle_by_block, by their place in the window."""
        if not self._config.shuffle_by_block:
            return None
        shares = self.order.shares(self.skip.number_of(np.asarray(sample_numbers, np.int64)))
        return sample_numbers[np.lexsort((sample_numbers, shares))]

    @property
    def first_mixture(self) -> list[tuple[TokenSource, float]]:
        """The sources of the first stage, with their weights."""
        return [(self.sources[entry.source], entry.weight) for entry in self.order.stages[0].plan.sources]

    def stage_of(self, sample_number: int) -> int:
        """The stage that one sample belongs to, counted from 0."""
        return int(self.order.stage_of(self.skip.number_of(np.array([sample_number])))[0])

    def check_stage_starts(self, schedule: BatchSchedule, start: int, stop: int) -> None:
        """Refuses a stage of another sequence length that begins inside a global batch of steps ``start`` to ``stop``.

        Raises:
            InputError: it names the step, and the sizes that would be right.
        """
        for before, stage in itertools.pairwise(self.order.stages):
            first = self.skip.trained_before(stage.first)
            if stage.plan.sequence_length == before.plan.sequence_length or first <= schedule.first_sample(start):
                continue
            step = schedule.step_of(first)
            begins = schedule.first_sample(step)
            if step < stop and begins != first:
                raise InputError(
                    f"data.stages: the sequence length changes inside the global batch of step {step}, after "
                    f"{first - begins} of its {schedule.global_size(step)} samples; begin the stage at a multiple of a "
                    "global batch's tokens, or let a stretch of batch.ramp end there"
                )

    def tokens_before(self, consumed: int) -> int:
        """Tokens of the first ``consumed`` samples; a stage may have its own sequence length."""
        passed = self.skip.passed(consumed)
        tokens = 0
        for stage in self.order.stages:
            if stage.first < passed:
                samples = self.skip.trained_before(min(stage.last, passed)) - self.skip.trained_before(stage.first)
                tokens += samples * stage.plan.sequence_length
        return tokens

    def state(self, consumed: int) -> dict[str, Any]:
        """What a checkpoint keeps after ``consumed`` samples: independent of processes, batches and workers."""
        return {
            "algorithm": ALGORITHM,
            "block_bytes": self._block_bytes,
            "consumed": consumed,
            "seed": self._seed,
            "shuffle_by_block": self._config.shuffle_by_block,
            "skip": [list(entry) for entry in self.skip.ranges],
            "shuffle_window": self._config.shuffle_window,
            "stages": self._describe_stages(),
            "tokenizer": self.tokenizer["fingerprint"],
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuses to go on from ``state`` where this stream's past is another one.

        Stages and skip ranges that lie in the future may change.

        Raises:
            InputError: it names the setting that differs.
        """
        if state["algorithm"] != ALGORITHM:
            raise InputError(
                f"data: the checkpoint's order is version {state['algorithm']}, this program's {ALGORITHM}"
            )
        older = {"shuffle_by_block": False, "block_bytes": self._block_bytes}  # checkpoints that do not say these
        for key, value in (
            ("seed", self._seed),
            ("data.shuffle_window", self._config.shuffle_window),
            ("data.shuffle_by_block", self._config.shuffle_by_block),
            ("data.cache.block_bytes", self._block_bytes),
        ):
            saved = (older | state)[key.rpartition(".")[2]]
            if saved != value:
                raise InputError(f"{key}: the checkpoint was trained with {saved}, now {value}; set it back")
        old_skip = SkipList([SkipConfig(first, last) for first, last in state["skip"]])
        past = old_skip.passed(int(state["consumed"]))
        if old_skip.before(past) != self.skip.before(past):
            raise InputError(
                f"data.skip: ranges below global sample {past} differ from the checkpoint's "
                f"{old_skip.before(past)}: those samples are trained already; skip only what lies ahead"
            )
        old_stages = [stage for stage in state["stages"] if stage["first"] < past]
        stages = [stage for stage in self._describe_stages() if stage["first"] < past]
        for number, (old, new) in enumerate(itertools.zip_longest(old_stages, stages)):
            if old != new:
                raise InputError(
                    f"data: stage {number} differs from the one that the checkpoint was trained on: "
                    f"{_difference(old, new)}; set it back, or begin a new stage after global sample {past}"
                )

    @property
    def _block_bytes(self) -> int:
        """The size of blocks where the order depends on it, else 0."""
        return self._config.cache.block_bytes if self._config.shuffle_window else 0

    def _describe_stages(self) -> list[dict[str, Any]]:
        return [
            {
                "first": stage.first,
                "sequence_length": stage.plan.sequence_length,
                "datasets": [self.sources[entry.source].id for entry in stage.plan.sources],
                "shares": stage.mixture.counts,
            }
            for stage in self.order.stages
        ]

    def _readings(self, places: Places) -> list[Reading]:
        """Where the tokens of each sample are read, and what is fetched with them."""
        readings, block_bytes = [], self._config.cache.block_bytes
        for index, number, sample in zip(places.stage, places.source, places.sample, strict=True):
            stage, source = self.order.stages[index], self.sources[number]
            length, around = stage.plan.sequence_length, None
            if self._config.shuffle_window:  # the samples of a chunk are wanted together, and by few
                tokens = stage.chunk_of(number) * length
                first = int(sample) * length // tokens * tokens
                around = Stretch(first, min(tokens + 1, source.manifest.tokens - first))
            readings.append(Reading(source, int(sample) * length, length + 1, around, block_bytes))
        return readings

    def _places(self, numbers: NDArray[np.int64]) -> Places:
        """Where samples lie. Neighbours are located together: a micro-batch alone costs as much as ``LOOKAHEAD``."""
        run = int(numbers[0]) // LOOKAHEAD
        if (numbers // LOOKAHEAD != run).any():
            return self.order.locate(numbers)
        places, inside = self._located_run(run), numbers % LOOKAHEAD
        return Places(places.stage[inside], places.source[inside], places.epoch[inside], places.sample[inside])

    def _locate_run(self, run: int) -> Places:
        return self.order.locate(np.arange(run * LOOKAHEAD, (run + 1) * LOOKAHEAD))

    def _length_of(self, numbers: NDArray[np.int64], stages: NDArray[np.int64]) -> int:
        """The one sequence length of samples ``numbers``, which belong to ``stages``."""
        lengths = sorted({self.order.stages[stage].plan.sequence_length for stage in set(stages.tolist())})
        if len(lengths) != 1:
            raise InputError(
                f"data.stages: the batch with global samples {numbers.min()} to {numbers.max()} has samples of "
                f"sequence lengths {lengths}: let the stage begin at a multiple of the tokens of a global batch"
            )
        return lengths[0]


class Validation(Samples):
    """Held-out samples, in the order of the shards."""

    def __init__(self, source: TokenSource, sequence_length: int) -> None:
        self.source, self._length = source, sequence_length
        manifest = source.manifest
        self.num_samples = manifest.num_samples(sequence_length)
        self.bytes_per_token = manifest.bytes_per_token
        self.vocab_size, self.eod_id = manifest.vocab_size, manifest.eod_id
        self.tokenizer, self.fingerprint = manifest.tokenizer, manifest.tokenizer["fingerprint"]

    def fetch(self, sample_numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens [n, T + 1] of these samples, each below ``num_samples``."""
        starts = np.asarray(sample_numbers, np.int64) * self._length
        return np.stack([self.source.reader.read(int(start), self._length + 1) for start in starts])

    def unigram_entropy(self) -> float:
        """Nats per token that a model without context needs at best: the entropy of the tokens' own distribution."""
        return self.source.manifest.unigram_entropy


def open_stream(config: DataConfig, seed: int, *, check_files: bool = True) -> TokenStream:
    """Opens the training data; what is sorted by length becomes a source for each class.

    Args:
        check_files: also look at the size of every shard; one process of a node is enough. With more than
            ``CHECKED_SHARDS`` that is left to `plan`: it would burden a file system for long. What is torn or
            missing is found in any case when it is read, before it is trained on.

    Raises:
        InputError: nothing named, a missing, damaged or truncated file, or sources that do not fit together.
    """
    config = with_classes(config)
    sources = open_sources(config)
    check_alike(sources)
    if check_files and sum(len(source.manifest.shards) for source in sources) <= CHECKED_SHARDS:
        with named("data.train"):
            for source in sources:
                if source.reader.is_local:
                    source.reader.check_files()
    return TokenStream(config, seed, sources)


def open_validation(config: DataConfig, *, check_files: bool = True) -> Validation | None:
    """Opens the held-out data, if the config names any. Raises InputError as ``open_stream`` does."""
    if config.validation is None:
        return None
    with named("data.validation"):
        source = open_source(config.validation, config.cache)
        if check_files and source.reader.is_local and len(source.manifest.shards) <= CHECKED_SHARDS:
            source.reader.check_files()
    stream = Validation(source, config.sequence_length)
    if stream.num_samples == 0:
        raise InputError(
            f"data.validation {source.path}: {source.manifest.tokens} tokens make no sample of "
            f"data.sequence_length {config.sequence_length} + 1"
        )
    return stream


def open_sources(config: DataConfig) -> list[TokenSource]:
    """Every source that some stage names, once, in the order of naming.

    Raises:
        InputError: nothing named, or no readable manifest.
    """
    if not config.train:
        raise InputError("data.train: names no folder of token shards; prepare one: python -m data prepare --help")
    mixtures = [config.train, *(stage.train or [] for stage in config.stages)]
    paths = dict.fromkeys(source.path for mixture in mixtures for source in mixture)
    with named("data.train"):
        return [open_source(path, config.cache) for path in paths]


def check_alike(sources: list[TokenSource]) -> None:
    """Refuses sources that cannot be trained on together.

    Raises:
        InputError: it names the two sources and what differs.
    """
    first = sources[0]
    for number, other in enumerate(sources):
        for earlier in sources[:number]:
            if other.id == earlier.id:
                raise InputError(f"data.train: {earlier.path} and {other.path} hold the same tokens; keep one of them")
        for what, one, two in (
            ("tokenizer", _fingerprint(first), _fingerprint(other)),
            ("end-of-document id", first.manifest.eod_id, other.manifest.eod_id),
            ("vocabulary size", first.manifest.vocab_size, other.manifest.vocab_size),
        ):
            if one != two:
                raise InputError(f"data.train: the {what} of {first.path} is {one}, of {other.path} it is {two}")


def plan_stages(config: DataConfig, sources: list[TokenSource]) -> list[StagePlan]:
    """The stages of ``config`` with the numbers of samples of ``sources``."""
    index = {source.path: number for number, source in enumerate(sources)}
    mixture, length = config.train, config.sequence_length
    plans = []
    for stage in [StageConfig(0), *config.stages]:
        mixture, length = stage.train or mixture, stage.sequence_length or length
        entries = [_stage_source(entry, index[entry.path], sources, length, config) for entry in mixture]
        plans.append(StagePlan(stage.from_tokens, length, tuple(entries)))
    return plans


def _stage_source(
    entry: SourceConfig, number: int, sources: list[TokenSource], length: int, config: DataConfig
) -> StageSource:
    manifest = sources[number].manifest
    samples = manifest.num_samples(length)
    if samples == 0:
        raise InputError(
            f"data.train: {entry.path}: {manifest.tokens} tokens make no sample of sequence length {length} + 1"
        )
    block_tokens = config.cache.block_bytes // manifest.item_bytes
    return StageSource(number, entry.weight, samples, max(1, block_tokens // length))


def _from_afar(readings: Iterable[Reading]) -> list[Reading]:
    """Those that are fetched from a store, one for each fetch."""
    return list({reading.whole: reading for reading in readings if not reading.source.reader.is_local}.values())


def _fingerprint(source: TokenSource) -> str:
    tokenizer = source.manifest.tokenizer
    return f"{tokenizer.get('name')} ({tokenizer['fingerprint'][:12]})"


def _difference(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    if old is None or new is None:
        return "it is missing" if new is None else "it is new"
    return ", ".join(f"{key} was {old[key]}, is {new[key]}" for key in old if old[key] != new[key])
