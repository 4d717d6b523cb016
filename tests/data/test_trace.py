"""`trace`: from a token, a document or a text to the steps that see it, checked against the stream itself."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from data.batch import BatchConfig, BatchSchedule
from data.config import CacheConfig, DataConfig, SkipConfig, SourceConfig, StageConfig
from data.dealing import Dealing
from data.run_order import TrainOrder
from data.stream import open_stream
from data.tokenizer import load_tokenizer
from data.trace import Sighting, TraceConfig, print_sightings, trace

LENGTH = 32


def traced(
    folder: Path, steps: int = 400, by_block: bool = False, **settings: Any
) -> tuple[TraceConfig, list[Sighting]]:
    data = DataConfig(
        [SourceConfig(str(folder / "train")), SourceConfig(str(folder / "validation"))],
        sequence_length=LENGTH,
        stages=[StageConfig(100 * 8 * LENGTH, sequence_length=16)],
        skip=[SkipConfig(40, 79)],
        shuffle_window=48 if by_block else 0,
        shuffle_by_block=by_block,
        cache=CacheConfig(block_bytes=4 * 2 * LENGTH),
    )
    values = {"source": str(folder / "train"), "workers": 1} | settings
    config = TraceConfig(7, data, BatchConfig(8, 2), TrainOrder(steps), done=60, data_size=2, **values)
    return config, trace(config)


def check_against_the_stream(config: TraceConfig, sightings: list[Sighting]) -> None:
    """Every sighting is a sample that holds the tokens, read by that rank in that step; and there are no others."""
    stream = open_stream(config.data, config.seed)
    dealing = Dealing(stream, BatchSchedule(8), 2, 2)
    source = stream.sources[0].reader
    seen = [sighting for sighting in sightings if sighting.step is not None]
    for sighting in seen:
        samples = dealing.rank_samples(sighting.step or 0, sighting.data_rank or 0)[sighting.micro_batch or 0]
        numbers = stream.skip.number_of(samples)
        assert sighting.global_sample in numbers
        tokens = stream.fetch(samples[numbers == sighting.global_sample])[0]
        length = len(tokens) - 1
        assert np.array_equal(tokens, source.read(sighting.sample * length, length + 1))
        assert sighting.sample * length <= sighting.last_token
        assert (sighting.sample + 1) * length >= sighting.first_token
        assert sighting.when == ("past" if (sighting.step or 0) < 60 else "future")
    first, last = sightings[0].first_token, sightings[0].last_token
    places = stream.order.locate(stream.skip.number_of(np.arange(8 * config.train.steps)))
    lengths = np.where(places.stage == 0, LENGTH, 16)
    holding = (places.sample * lengths <= last) & ((places.sample + 1) * lengths >= first) & (places.source == 0)
    assert np.count_nonzero(holding) == len(seen)


@pytest.mark.parametrize("by_block", [False, True])
def test_a_token_is_found_in_past_and_future(prepared: Path, by_block: bool) -> None:
    for token in (0, 31, 32, 33, 1000, 3200):
        config, sightings = traced(prepared, token=token, by_block=by_block)
        check_against_the_stream(config, sightings)
    assert {sighting.when for sighting in traced(prepared, token=3200)[1]} <= {"past", "future", "skipped"}


def test_skipped_samples_are_said_to_be_skipped(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = traced(prepared, token=0)
    stream = open_stream(config.data, 7)
    places = stream.order.locate(np.arange(40, 80))
    place = int(np.flatnonzero(places.source == 0)[0])
    config, sightings = traced(prepared, token=int(places.sample[place]) * LENGTH + 5)
    (skipped,) = [sighting for sighting in sightings if sighting.global_sample == 40 + place]
    assert (skipped.when, skipped.step) == ("skipped", None)
    print_sightings(config, sightings)
    assert f"global sample {40 + place}: skipped" in capsys.readouterr().out


def test_a_document_is_found_by_number_and_by_digest(prepared: Path) -> None:
    config, by_number = traced(prepared, document="20")
    check_against_the_stream(config, by_number)
    stream = open_stream(config.data, 7)
    tokenizer = load_tokenizer(prepared / "train")
    reader = stream.sources[0].reader
    first, last = by_number[0].first_token, by_number[0].last_token
    tokens = reader.read(first, last - first + 1)
    assert np.flatnonzero(tokens == tokenizer.eod_id).tolist() == [last - first]
    assert first == 0 or reader.read(first - 1, 1)[0] == tokenizer.eod_id
    text = tokenizer.decode(tokens[:-1].tolist())
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    assert traced(prepared, document=digest)[1] == by_number


def test_a_spoiled_list_of_documents_is_no_answer(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "copy")
    file = tmp_path / "copy" / "train" / "00000.documents"
    whole = file.read_bytes()
    for content in (whole[: 24 * 9], whole[24:] + whole[:24], whole[:24] * (len(whole) // 24)):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"00000\.documents: "):
            traced(tmp_path / "copy", document="20")


def test_a_text_is_found_where_it_stands(prepared: Path) -> None:
    stream = open_stream(traced(prepared, token=0)[0].data, 7)
    manifest, reader = stream.sources[0].manifest, stream.sources[0].reader
    tokens = reader.read(0, manifest.tokens)
    tokenizer = load_tokenizer(prepared / "train")
    start = int(np.flatnonzero(tokens == tokenizer.eod_id)[30]) + 1
    snippet = tokenizer.decode(tokens[start + 3 : start + 28].tolist())[2:-2]
    config, sightings = traced(prepared, text=snippet)
    check_against_the_stream(config, sightings)
    assert start < sightings[0].first_token < sightings[0].last_token < start + 28


def test_what_is_not_there_is_refused(prepared: Path) -> None:
    for settings, message in (
        ({}, "name one of --token, --document and --text"),
        ({"token": 1, "text": "x"}, "name one of --token, --document and --text"),
        ({"token": 10**9}, "--token 1000000000: .* has the tokens 0 to"),
        ({"token": -1}, "--token: must be at least 0, is -1"),
        ({"document": "100000"}, "--document 100000: .* has the documents 0 to"),
        ({"document": "zz"}, "--document zz: neither a number nor a digest"),
        ({"text": "evening fell"}, "too short to look for"),
        ({"text": "words that nobody has ever written down in this corpus"}, "does not stand in"),
        ({"token": 1, "source": None}, "--source: name one of"),
        ({"token": 1, "source": "nowhere"}, "--source nowhere: not a source of this run"),
    ):
        with pytest.raises(InputError, match=message):
            traced(prepared, **settings)
