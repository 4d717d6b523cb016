"""Documents sorted into classes of lengths, and mixtures in which the long ones come up more often."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from data import length_pieces
from data.batch import BatchConfig
from data.config import CacheConfig, DataConfig, SourceConfig, StageConfig
from data.document_index import document_records
from data.lengths import LengthsConfig, print_classes, sort_by_length
from data.manifest import parse_manifest, write_manifest
from data.outlook import outlook_of
from data.run_order import ModelOrder, RunOrder, TrainOrder
from data.source import TokenSource, open_source
from data.stream import TokenStream, open_stream
from data.tokenizer import load_tokenizer
from data.trace import TraceConfig, trace
from data.verify import VerifyConfig, verify
from tests.data.helpers import write_dataset

BOUNDS = [30, 101, 400]
NAMES = ["under_30", "from_30", "from_101", "from_400"]
LENGTH = 37
EOD = 300
MARKED = 7
"""the document whose tokens are all ``MARK``, which stands nowhere else"""
MARK = 299


@dataclass(frozen=True)
class Corpus:
    """A dataset whose tokens tell the class of the document that they are in: 50 * class to 50 * class + 49."""

    folder: Path
    documents: list[np.ndarray]
    """with their EODs, in order"""

    def of_class(self, number: int) -> list[np.ndarray]:
        """The documents of one class."""
        low, high = [0, *BOUNDS][number], [*BOUNDS, 10**9][number]
        return [document for document in self.documents if low <= len(document) < high]


@pytest.fixture(scope="module")
def corpus(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Lengths at, below and above every bound, and many between; the last file ends inside a document."""
    random = np.random.default_rng(5)
    lengths = [29, 30, 31, 100, 101, 102, 399, 400, 401, 1, 1999]
    lengths += np.exp(random.uniform(0.7, 6.8, 230)).astype(int).tolist()
    random.shuffle(lengths)
    lengths[MARKED] = 150
    documents = []
    for number, size in enumerate(lengths):
        block = 50 * int(np.searchsorted(BOUNDS, size, side="right"))
        content = np.full(size - 1, MARK) if number == MARKED else random.integers(block, block + 50, size - 1)
        documents.append(np.append(content, EOD).astype(np.uint16))
    shards = [np.concatenate(documents[first : first + 60]) for first in range(0, len(documents), 60)]
    shards[-1] = shards[-1][:-1]
    tokenizer = load_tokenizer(prepared / "train")
    folder = tmp_path_factory.mktemp("lengths") / "corpus"
    write_dataset(folder, shards, fingerprint=tokenizer.fingerprint, eod_id=EOD, vocab_size=400)
    tokenizer.save(folder)
    return Corpus(folder, documents)


@pytest.fixture(scope="module")
def classes(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("lengths") / "classes"
    sort_by_length(settings(corpus, output))
    return output


def settings(corpus: Corpus, output: Path, **changes: Any) -> LengthsConfig:
    return LengthsConfig(str(corpus.folder), str(output), **{"classes": BOUNDS, "workers": 1} | changes)


def opened(folder: Path) -> TokenSource:
    return open_source(str(folder), CacheConfig())


def data_of(classes: Path, power: float | None = 1.0, **changes: Any) -> DataConfig:
    return DataConfig([SourceConfig(str(classes), 1.0, power)], sequence_length=LENGTH, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("pieces", [1 << 26, 1000])
def test_every_document_is_in_its_class_whole_and_in_order(
    pieces: int, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(length_pieces, "PIECE_TOKENS", pieces)
    made = sort_by_length(settings(corpus, tmp_path / "out", shard_bytes=5000))
    assert list(made) == NAMES
    for number, name in enumerate(NAMES):
        source, expected = opened(tmp_path / "out" / name), corpus.of_class(number)
        assert np.array_equal(source.reader.read(0, source.manifest.tokens), np.concatenate(expected))
        assert source.manifest.documents == len(expected)
        lengths = np.concatenate([np.diff(_starts(source, shard)) for shard in range(len(source.manifest.shards))])
        assert lengths.tolist() == [len(document) for document in expected]
        assert source.manifest.shards[0].tokens < source.manifest.tokens or number < 2
    assert all(verdict.is_whole for verdict in verify(VerifyConfig([str(tmp_path / "out")], workers=1)))


def _starts(source: TokenSource, shard: int) -> np.ndarray:
    return np.append(document_records(source, shard)["start"].astype(int), source.manifest.shards[shard].tokens)


def test_digests_follow_their_documents(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length_pieces, "PIECE_TOKENS", 700)
    made = sort_by_length(LengthsConfig(str(prepared / "train"), str(tmp_path / "out"), [90], workers=1))
    whole, sorted_ones = _by_digest(opened(prepared / "train")), {}
    for name in made:
        sorted_ones |= _by_digest(opened(tmp_path / "out" / name))
    assert sorted_ones == whole


def _by_digest(source: TokenSource) -> dict[tuple[int, int], list[int]]:
    found = {}
    for index in range(len(source.manifest.shards)):
        starts = _starts(source, index)
        for record, start, end in zip(document_records(source, index), starts, starts[1:], strict=False):
            tokens = source.reader.read_shard(index, int(start), int(end - start)).tolist()
            found[int(record["digest_high"]), int(record["digest_low"])] = tokens
    return found


def test_workers_change_nothing_and_what_is_finished_is_left_alone(
    corpus: Corpus, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(corpus, tmp_path / "out", workers=2)
    made = sort_by_length(config)
    assert contents(tmp_path / "out") == contents(classes)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.*") if file.suffix != ".lock"}
    assert sort_by_length(config) == made
    assert {file: file.stat().st_mtime_ns for file in times} == times
    with pytest.raises(InputError, match="holds classes of other input or settings"):
        sort_by_length(replace(config, classes=[30]))
    print_classes(config, made)
    assert capsys.readouterr().out.splitlines()[1].startswith("from_30")


def test_an_attempt_that_did_not_finish_is_no_source_and_leaves_nothing_in_the_next(
    corpus: Corpus, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(corpus, tmp_path / "out", shard_bytes=900)
    with monkeypatch.context() as patch:
        patch.setattr("data.lengths.write_manifest", _out_of_space)
        with pytest.raises(OSError, match="No space left"):
            sort_by_length(config)
    with pytest.raises(InputError, match=f"length_power: {tmp_path}/out is not sorted by length"):
        open_stream(data_of(tmp_path / "out"), 1)
    sort_by_length(replace(config, shard_bytes=1 << 30))
    assert {name: contents(tmp_path / "out" / name) for name in NAMES} == {
        name: contents(classes / name) for name in NAMES
    }


def _out_of_space(folder: Path, manifest: object) -> None:
    raise OSError("No space left on device")


def test_a_part_is_the_documents_that_begin_in_the_first_tokens(corpus: Corpus, tmp_path: Path) -> None:
    limit = sum(map(len, corpus.documents[:71])) + 1
    made = sort_by_length(settings(corpus, tmp_path / "out", tokens=limit))
    assert sum(manifest.tokens for manifest in made.values()) == sum(map(len, corpus.documents[:72]))
    made = sort_by_length(settings(corpus, tmp_path / "less", tokens=limit - 1))
    assert sum(manifest.documents for manifest in made.values()) == 71


def class_of(tokens_BT: np.ndarray) -> list[int]:
    """The class of each sample, from its tokens alone."""
    found = []
    for row in tokens_BT:
        (number,) = set(np.where(row == MARK, 100, row)[row != EOD] // 50)
        found.append(int(number))
    return found


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_tokens_of_each_class_are_those_of_the_formula(power: float, corpus: Corpus, classes: Path) -> None:
    """A class's share is in proportion to the sum of its documents' lengths times their mean length to the power."""
    wanted = []
    for number in range(len(NAMES)):
        lengths = [len(document) for document in corpus.of_class(number)]
        wanted.append(sum(lengths) * (sum(lengths) / len(lengths)) ** power)
    stream = open_stream(data_of(classes, power), seed=3)
    epoch = stream.sources[-1].manifest.num_samples(LENGTH)
    samples = -(-epoch * sum(wanted) // wanted[-1])  # until the longest documents were all seen
    tokens_BT = stream.fetch(np.arange(int(samples) + 3))[:, :-1]
    found = class_of(tokens_BT)
    for number, part in enumerate(wanted):
        assert abs(found.count(number) - len(found) * part / sum(wanted)) < 3, NAMES[number]
    long_ones = [tuple(row) for row, number in zip(tokens_BT.tolist(), found, strict=True) if number == 3]
    assert len(set(long_ones[:epoch])) == epoch


def test_other_sources_keep_their_shares(corpus: Corpus, classes: Path) -> None:
    data = DataConfig(
        [SourceConfig(str(classes), 3.0, 1.0), SourceConfig(str(corpus.folder), 1.0)], sequence_length=LENGTH
    )
    stream = open_stream(data, seed=3)
    assert [Path(source.path).name for source in stream.sources] == [*NAMES, "corpus"]
    places = stream.order.locate(np.arange(1000))
    assert abs(np.count_nonzero(places.source == 4) - 250) <= 2
    assert sum(weight for _, weight in stream.first_mixture[:4]) == pytest.approx(3.0)


def test_a_later_stage_may_take_long_documents_more_often(classes: Path) -> None:
    """What lies behind may not change; a resumed stream goes on where it was."""
    plain, later = data_of(classes, 0.0), StageConfig(200 * LENGTH, [SourceConfig(str(classes), 1.0, 2.0)])
    stream = open_stream(replace(plain, stages=[later]), seed=9)
    state = stream.state(150)
    open_stream(plain, 9).check_state(state)
    found = class_of(stream.fetch(np.arange(400)))
    assert found[200:].count(3) > 1.5 * found[:200].count(3)
    with pytest.raises(InputError, match=r"data: stage 0 differs .*: shares was"):
        open_stream(data_of(classes, 1.0), 9).check_state(state)
    assert np.array_equal(open_stream(replace(plain, stages=[later]), 9).fetch(np.arange(150, 190)), _read(stream))


def _read(stream: TokenStream) -> np.ndarray:
    return np.concatenate([stream.fetch(np.arange(first, first + 8)) for first in range(150, 190, 8)])


def test_tokens_and_documents_are_traced_through_their_class(corpus: Corpus, classes: Path) -> None:
    """Against all samples of the run: those that hold the mark, which one document has."""
    data, steps = data_of(classes, 0.3), 400
    tokens_BT = open_stream(data, seed=4).fetch(np.arange(8 * steps))
    source = opened(classes / "from_101")
    stream = source.reader.read(0, source.manifest.tokens)
    marked = np.flatnonzero(stream == MARK)

    def traced(**wanted: Any) -> list[int]:
        config = TraceConfig(4, data, BatchConfig(8, 2), TrainOrder(steps), workers=1, **wanted)
        return [sighting.global_sample for sighting in trace(config)]

    number = int(np.count_nonzero(stream[: marked[0]] == EOD))
    by_document = traced(source=str(classes / "from_101"), document=str(number))
    assert set(by_document) >= set(np.flatnonzero((tokens_BT == MARK).any(axis=1)).tolist())
    first = marked[0] // LENGTH + 1  # a sample of nothing but the mark
    (holding,) = np.nonzero((tokens_BT[:, :-1] == MARK).all(axis=1))
    middle = traced(source=str(classes / "from_101"), token=int(first * LENGTH + LENGTH // 2))
    assert len(middle) > 1
    assert set(middle) <= set(holding.tolist()) <= set(by_document)
    with pytest.raises(InputError, match=r"--source: name one of .*under_30, .*from_400"):
        traced(source=str(classes), token=5)


def test_a_document_is_found_by_its_digest_whatever_its_class(prepared: Path, tmp_path: Path) -> None:
    sort_by_length(LengthsConfig(str(prepared / "train"), str(tmp_path / "out"), [90], workers=1))
    data = data_of(tmp_path / "out")
    for name in ("under_90", "from_90"):
        record = document_records(opened(tmp_path / "out" / name), 0)[-1]
        digest = b"".join(int(record[half]).to_bytes(8, "little") for half in ("digest_high", "digest_low")).hex()
        for where in (None, str(tmp_path / "out")):
            config = TraceConfig(4, data, BatchConfig(8, 2), TrainOrder(400), workers=1, document=digest, source=where)
            assert {sighting.source for sighting in trace(config)} == {str(tmp_path / "out" / name)}
    with pytest.raises(InputError, match="and none with that digest"):
        trace(replace(config, document="00" * 16))


def test_plan_shows_the_classes(classes: Path) -> None:
    run = RunOrder(1, data_of(classes, 1.0), BatchConfig(8, 2), TrainOrder(50), ModelOrder(400))
    outlook = outlook_of(run)
    assert [Path(source.path).name for source in outlook.sources] == NAMES
    assert outlook.problems == []
    assert [source.epochs for source in outlook.sources] == sorted(source.epochs for source in outlook.sources)


def test_an_empty_dataset_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    """As a held-out part is into which no document fell."""
    empty = tmp_path / "validation"
    write_manifest(empty, replace(opened(corpus.folder).manifest, tokens=0, documents=0, largest_id=0, shards=[]))
    with pytest.raises(InputError, match=rf"^--input {empty}: holds no tokens, so there is nothing to sort; "):
        sort_by_length(LengthsConfig(str(empty), str(tmp_path / "classes"), BOUNDS, workers=1))
    assert not (tmp_path / "classes").exists()


def test_what_is_not_sorted_or_not_weighed_is_named(corpus: Corpus, classes: Path, tmp_path: Path) -> None:
    for data, message in [
        (data_of(corpus.folder), "data.train: length_power: .*corpus is not sorted by length; python -m data lengths"),
        (data_of(classes, None), "name one, such as .*under_30, or weigh all with length_power"),
    ]:
        with pytest.raises(InputError, match=message):
            open_stream(data, 1)
    with pytest.raises(InputError, match=r"data.train: length_power: must be at least 0"):
        SourceConfig("x", 1.0, -1.0)
    for bounds in ([], [5, 5], [9, 4], [1]):
        with pytest.raises(InputError, match="--classes: must be"):
            settings(corpus, tmp_path, classes=bounds)
    listing = classes / "length_classes.json"
    for content in (b"[]", b"{", b'{"version": 1, "folders": ["../x"]}', b'{"version": 2, "folders": ["from_3"]}'):
        broken = tmp_path / "broken"
        broken.mkdir(exist_ok=True)
        (broken / listing.name).write_bytes(content)
        with pytest.raises(InputError, match=r"broken/length_classes\.json: "):
            open_stream(data_of(broken), 1)
    assert parse_manifest((classes / "from_30" / "manifest.json").read_bytes(), "x").preparation["class"] == "from_30"
