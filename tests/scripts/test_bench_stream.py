"""The lab of the far store: what it says of runs, and answers that are spoiled as they should be."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.source import open_source
from scripts.bench_stream import bars, line, ratio
from scripts.stream.lab import BATCH, BLOCK, CACHE, LENGTH, NODES, WINDOW, WINDOW_BLOCKS, Run, run_config, write_corpus
from scripts.stream.store import FAULTS, FarStore

LOCAL = Run("local 0", (1.0, 1.1, 1.2), 0.0, (5.0, 4.0), 1000, 0, 0, 0, {}, 0, "")
STORE = replace(LOCAL, name="store 0", seconds=(1.0, 1.13, 4.0), fetched=1040, spoiled=30, cache_peak=900)


def test_the_lab_says_what_holds_and_what_does_not() -> None:
    runs = [LOCAL, STORE, replace(STORE, name="killed", faults={"cut": 2})]
    assert ratio(STORE, runs) == pytest.approx(1.13 / 1.1)
    assert sum(said.endswith(": holds") for said in bars(runs)) == 4
    assert "spoiled answers: 2 cut" in bars(runs)
    for change in (
        {"seconds": (1.2, 1.2, 1.2)},
        {"fetched": 1051},
        {"cache_peak": int(CACHE) + 1},
        {"losses": (5.0, 4.0000001)},
    ):
        assert sum(said.endswith(": MISSED") for said in bars([LOCAL, replace(STORE, **change)])) == 1, change
    assert line(STORE, runs).split()[2:5] == ["1.130", "4.000", "1.027"]
    assert "1.040" in line(STORE, runs)


def test_each_nodes_part_of_two_windows_fits_into_half_of_its_cache_and_steps_take_whole_windows(
    tmp_path: Path,
) -> None:
    write_corpus(tmp_path / "corpus", 40)
    source = open_source(str(tmp_path / "corpus"), run_config(tmp_path, "corpus", 40, 40).data.cache)
    assert source.manifest.num_samples(LENGTH) == 40 * BATCH
    assert WINDOW * LENGTH * source.manifest.item_bytes == WINDOW_BLOCKS * BLOCK
    assert WINDOW % BATCH == BATCH % WINDOW_BLOCKS == 0
    assert 2 * WINDOW_BLOCKS * BLOCK / NODES <= CACHE / 2


def test_every_third_answer_with_tokens_is_spoiled_in_turns_and_all_is_counted() -> None:
    def application(environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        respond("200 OK", [("Content-Length", "100"), ("ETag", "x")])
        return [bytes(60), bytes(40)]

    class Connection:
        cut = 0

        def shutdown(self, how: int) -> None:
            self.cut += 1

    store, connection = FarStore(application, latency=0.0), Connection()
    store.spoil(3)
    said: list[tuple[str, str, bytes]] = []
    for number in range(2 * 3 * len(FAULTS)):
        path = "/corpus/mine/00000.tokens" if number % 2 else "/corpus/mine/manifest.json"
        answer: list[Any] = []
        body = b""
        try:
            for piece in store(
                {"REQUEST_METHOD": "GET", "PATH_INFO": path, "werkzeug.socket": connection},
                lambda status, headers, answer=answer: answer.extend((status, dict(headers))),
            ):
                body += piece
        except ConnectionAbortedError:
            assert body == bytes(50)
            assert answer[1]["Content-Length"] == "100"
        if number % 6 == 5:
            said.append((answer[0], answer[1]["Content-Length"], body))
        else:
            assert (answer[0], body) == ("200 OK", bytes(100))
    unavailable, cut, short, wrong = said
    assert unavailable[0] == "503 Service Unavailable"
    assert int(unavailable[1]) == len(unavailable[2])
    assert cut[1:] == ("100", bytes(50))
    assert connection.cut == 1
    assert short == ("200 OK", "50", bytes(50))
    assert wrong == ("200 OK", "100", bytes(50) + b"\x01" + bytes(49))
    tally = store.tally()
    assert tally["faults"] == dict.fromkeys(FAULTS, 1)
    assert tally["answers"] == 24
    assert tally["bytes"] == 20 * 100 + tally["spoiled_bytes"]
