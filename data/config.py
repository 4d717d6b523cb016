"""What defines the training data: which token shards, in which proportions, cut into which samples.

In: the `data` section of a config file. Out: a checked, frozen DataConfig.
Always: nothing here depends on the number of processes.
"""

from dataclasses import dataclass, field

from common.errors import InputError
from common.ranges import (
    LONGEST_SEQUENCE,
    LONGEST_WAIT,
    MOST_STEPS,
    MOST_TOKENS,
    MOST_WORKERS,
    check_filled,
    check_license,
    check_range,
)

LARGEST_BATCH = 10**7
"""sequences of one step: steps times batch times length still fit into 64 bits wherever they mean something"""


@dataclass(frozen=True)
class SourceConfig:
    """One folder of token shards and its share of the mixture."""

    path: str
    """folder or URL with manifest.json, as `python -m data prepare` writes it"""
    weight: float = 1.0
    """share of the samples, relative to the other sources' weights"""
    length_power: float | None = None
    """for a folder that `python -m data lengths` sorted: a class of documents gets a share of this source's samples in
    proportion to its tokens times the mean length of its documents to this power; 0: the corpus as it is, 1: documents
    in proportion to their length"""
    license: str | None = None
    """licence of the texts in the hub's words, as in odc-by; an export's card tells it, or that none is stated"""

    def __post_init__(self) -> None:
        check_filled(self, "data.train: ", "path")
        check_license(self, "data.train: ")
        check_range(self, "data.train: ", "length_power", low=0, high=8)


@dataclass(frozen=True)
class StageConfig:
    """A change of the mixture or of the sequence length during training."""

    from_tokens: int
    """the stage begins with the first sample at or after this many tokens of the run"""
    train: list[SourceConfig] | None = None
    """the mixture from there on; none: as before"""
    sequence_length: int | None = None
    """tokens of one sample from there on; none: as before"""


@dataclass(frozen=True)
class SkipConfig:
    """A range of global samples to leave out, after a loss spike for instance."""

    first: int
    """first global sample left out"""
    last: int
    """last global sample left out"""

    def __post_init__(self) -> None:
        check_range(self, "data.skip: ", "first", "last", low=0, high=MOST_TOKENS)
        if self.first > self.last:
            raise InputError(f"data.skip: first must be 0 to last, is first {self.first}, last {self.last}")


@dataclass(frozen=True)
class CacheConfig:
    """The node-local copy of blocks of remote token shards, shared by the processes of a node."""

    folder: str | None = None
    """folder of your own on a local disk (default: one in the user's cache folder, ~/.cache)"""
    gigabytes: float = 50.0
    """bound of its size, in 1e9 bytes"""
    block_bytes: int = 1 << 23
    """what is fetched at once"""
    connections: int = 8
    """blocks fetched at the same time by one process"""
    attempts: int = 10
    """tries of one fetch before it is an error; waits double from `backoff` to a minute: three minutes by default"""
    backoff: float = 0.5
    """seconds before the second try"""
    timeout: float = 60.0
    """seconds after which a fetch counts as failed"""

    def __post_init__(self) -> None:
        check_filled(self, "data.cache.", "folder")
        check_range(self, "data.cache.", "gigabytes", above=0, high=1e9)
        check_range(self, "data.cache.", "block_bytes", low=1, high=2**40)
        check_range(self, "data.cache.", "connections", low=1, high=MOST_WORKERS)
        check_range(self, "data.cache.", "attempts", low=1, high=1000)
        check_range(self, "data.cache.", "backoff", low=0, high=LONGEST_WAIT)
        check_range(self, "data.cache.", "timeout", above=0, high=LONGEST_WAIT)
        if self.gigabytes * 1e9 < 2 * self.block_bytes:
            raise InputError(f"data.cache.gigabytes: must hold two blocks of {self.block_bytes} bytes")


@dataclass(frozen=True)
class RampConfig:
    """The first steps of a batch-size ramp."""

    steps: int
    """steps with this batch size"""
    global_size: int
    """sequences per step"""

    def __post_init__(self) -> None:
        check_range(self, "batch.ramp: ", "steps", low=1, high=MOST_STEPS)
        check_range(self, "batch.ramp: ", "global_size", low=1, high=LARGEST_BATCH)


@dataclass(frozen=True)
class DataConfig:
    """Training and held-out tokens."""

    train: list[SourceConfig] = field(default_factory=list)
    """the mixture: folders of token shards and their weights, as [{path: DIR, weight: 1.0}, ...]"""
    validation: str | None = None
    """folder of held-out token shards; none: no evaluation"""
    sequence_length: int = 256
    """tokens of one sample, T"""
    document_attention: bool = False
    """attention stops at document ends and positions restart there"""
    stages: list[StageConfig] = field(default_factory=list)
    """later mixtures or sequence lengths, as [{from_tokens: N, train: [...], sequence_length: T}, ...]"""
    skip: list[SkipConfig] = field(default_factory=list)
    """global samples to leave out, as [{first: N, last: M}, ...]; later samples move up"""
    shuffle_window: int = 0
    """samples that are mixed with each other; 0: all of an epoch. Set it for remote shards, to at least four global
    batches: whole blocks are then read once, in a random order"""
    shuffle_by_block: bool = False
    """for remote shards and several nodes: every step takes equally many samples of each block of the window, and ranks
    share the samples of a step by block, so that one node fetches a block, not all. Best with 20 blocks and more in a
    window for each node"""
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        if self.shuffle_by_block and not self.shuffle_window:
            raise InputError("data.shuffle_by_block: blocks are kept together in windows only; set data.shuffle_window")
        check_range(self, "data.", "sequence_length", low=2, high=LONGEST_SEQUENCE)
        check_range(self, "data.", "shuffle_window", low=0, high=MOST_TOKENS)
        check_filled(self, "data.", "validation")
        self._check_mixture("data.train", self.train)
        previous = 0
        for number, stage in enumerate(self.stages):
            where = f"data.stages[{number}]"
            if stage.from_tokens <= previous:
                raise InputError(f"{where}.from_tokens: must be larger than {previous}, is {stage.from_tokens}")
            check_range(stage, f"{where}.", "from_tokens", low=1, high=MOST_TOKENS)
            check_range(stage, f"{where}.", "sequence_length", low=2, high=LONGEST_SEQUENCE)
            if stage.train is not None and not stage.train:
                raise InputError(f"{where}.train: an empty mixture; leave the key out to keep the one before")
            self._check_mixture(f"{where}.train", stage.train or [])
            previous = stage.from_tokens

    @property
    def longest_sample(self) -> int:
        """Tokens of the samples of the stage that has the longest."""
        return max([self.sequence_length, *(stage.sequence_length or 0 for stage in self.stages)])

    @staticmethod
    def _check_mixture(where: str, sources: list[SourceConfig]) -> None:
        paths = [source.path for source in sources]
        for source in sources:
            if not 0 < source.weight < float("inf"):
                raise InputError(f"{where}: the weight of {source.path} must be positive, is {source.weight}")
            if paths.count(source.path) > 1:
                raise InputError(f"{where}: {source.path} is named twice; add up its weights")
