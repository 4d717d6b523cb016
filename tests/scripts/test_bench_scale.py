"""The lab of slow links: what it compares, what it says of it, and links that are as fast as they are set."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.checks import check_run
from pretrain.topology import plan_topology
from scripts.bench_scale import CURVE, _chosen, main, shares_of
from scripts.scale import links as links_module
from scripts.scale.job import sent_bytes
from scripts.scale.lab import Race, Row, planned_bytes, planned_seconds
from scripts.scale.links import PREFIX, Links
from scripts.scale.programs import MODEL, Program, all_programs, rated_as, yardstick
from scripts.scale.results import HEADS, bars, draw, header, line, race_line, save

ROW = Row("zero1 fp32 overlap", 0.6, 75e6, 1.1, 1.1, 1.2, 100.0e6, 97.0e6, 99.0e6, 98.0e6, 2.5)
CAN_MAKE_LINKS = os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("tc") is not None


def test_programs_have_names_of_their_own_and_settings_that_fit() -> None:
    programs = all_programs()
    assert len({program.name for program in programs}) == len(programs)
    for program in programs:
        replicas = program.nodes // program.pipeline // program.tensor // program.context
        topology = plan_topology(program.config.parallel, program.nodes)
        if program.kind in ("engine", "alone", "races"):
            check_run(program.config, topology)
        assert topology.data_size == replicas
        samples = program.config.batch.micro_size * program.micro_batches
        assert samples * replicas == program.config.batch.global_size


def test_every_engine_has_a_yardstick_that_is_measured_before_it() -> None:
    programs = all_programs()
    for number, program in enumerate(programs):
        if program.kind in ("engine", "ddp"):
            assert yardstick(program) in programs[:number]


def test_a_step_of_more_samples_keeps_the_links_of_the_step_that_it_has_grown_from() -> None:
    split, grown = Program("engine", 2, micro_batches=4), Program("engine", 2, micro_batches=4, grown=True)
    assert (split.config.batch.global_size, grown.config.batch.global_size) == (8, 32)
    assert (rated_as(split), rated_as(grown)) == (split, Program("engine", 2))
    assert (yardstick(split), yardstick(grown)) == (Program("plain", micro_batches=4), Program("plain"))


def test_the_embedding_is_a_small_part_of_the_model() -> None:
    whole = planned_bytes(Program("ddp")) / 4
    assert MODEL.vocab_size * MODEL.hidden_size / whole < 0.05


def test_plain_loops_send_nothing_and_replicas_more_than_their_gradients() -> None:
    assert planned_bytes(Program("plain")) == planned_bytes(Program("alone")) == 0
    gradients = planned_bytes(Program("ddp"))
    assert gradients == pytest.approx(planned_bytes(Program("engine", 0)), rel=1e-4)
    assert planned_bytes(Program("engine", 3)) > gradients


def test_the_ledger_s_sums_are_bytes_sent() -> None:
    pair, three = (0, 1), (0, 1, 2)
    assert sent_bytes({(pair, "all_reduce"): 100, (three, "all_gather"): 90}) == 100 + 60
    scattered = {(three, "reduce_scatter"): 90}
    assert (sent_bytes(scattered), sent_bytes(scattered, by_gloo=True)) == (60, 120)
    assert sent_bytes({(three, "all_to_all"): 90, (pair, "send"): 7, (pair, "receive"): 1000}) == 60 + 7


def test_a_plan_is_the_measured_step_on_unlimited_links_and_longer_on_slow_ones() -> None:
    program = Program("engine", 1, overlap=False)
    assert planned_seconds(program, free=1.7, rate=None) == pytest.approx(1.7)
    slow = [planned_seconds(program, free=1.7, rate=planned_bytes(program) / (share * 1.7)) for share in (0.3, 5.0)]
    assert 1.7 <= slow[0] < slow[1]
    assert slow[1] > 5 * 1.7


def test_the_picture_s_programs_have_several_rates_and_others_one() -> None:
    assert shares_of(Program("engine", 2)) == CURVE
    assert shares_of(Program("engine", 2, micro_batches=4)) == shares_of(Program("engine", 2), quick=True) == (0.6,)


def test_rows_are_chosen_by_name_with_their_yardsticks() -> None:
    assert [p.name for p in _chosen("zero3 bf16 x4", quick=False)] == ["plain bf16 x4", "zero3 bf16 x4"]
    assert _chosen("", quick=False) == all_programs()
    with pytest.raises(InputError, match=r"--only zero7: no row is called so; there are plain fp32, "):
        _chosen("zero7", quick=False)


def test_whoever_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(InputError, match="by root only; this is user 1234"):
        main(["--output", str(tmp_path / "lab")])
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "tc" else name)
    with pytest.raises(InputError, match="made with tc, not found here; install iproute2"):
        main(["--output", str(tmp_path / "lab")])
    assert not (tmp_path / "lab").exists()


def test_a_row_says_what_was_measured_and_whether_bars_hold() -> None:
    said = line(ROW)
    assert said.startswith("zero1 fp32 overlap")
    assert re.findall(r"\S+", header())[1:3] == ["share", "Mbit/s"]
    cells = said.removeprefix("zero1 fp32 overlap").split("  ratio at most")[0].split()
    assert cells == ["0.60", "600", "1.100", "1.100", "1.200", "+9.1%", "100.00", "99.00", "97.00", "98.00", "2.5000"]
    assert len(cells) == len(HEADS)
    assert bars(ROW) == ["ratio at most 1.15: holds", "bytes +1.0%: holds", "plan: holds"]


def test_missed_bars_are_named() -> None:
    missed = replace(ROW, ratio=1.2, sent=110e6, planned_seconds=1.3)
    assert [bar.rpartition(": ")[2] for bar in bars(missed)] == ["MISSED"] * 3
    assert "ratio at most 1.25: holds" in bars(replace(missed, program="zero1 fp32 x4 2 stages overlap"))
    assert not any("ratio" in bar for bar in bars(replace(missed, program="zero1 fp32 no overlap")))
    assert bars(replace(ROW, program="alone fp32", share=0.0, sent=0.0, planned_seconds=None, over_plain=1.06)) == [
        "1.060 of the plain loop: MISSED"
    ]


def test_results_are_lines_of_json_and_a_picture(tmp_path: Path) -> None:
    race = Race("races zero1 fp32", 200, False, 900)
    assert "LOSSES DIFFER" in race_line(race)
    assert "every loss equal" in race_line(replace(race, equal=True))
    file = io.StringIO()
    save(ROW, file)
    save(race, file)
    kinds = [json.loads(saved)["kind"] for saved in file.getvalue().splitlines()]
    assert kinds == ["row", "race"]
    free = replace(ROW, share=0.0, rate=None, seconds=1.0, ratio=1.0)
    assert not draw([free, ROW], tmp_path / "few.png")
    assert draw([free, ROW, replace(ROW, share=0.3, rate=150e6)], tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def links() -> Iterator[Links]:
    if not CAN_MAKE_LINKS:
        pytest.skip("needs root and iproute2")
    try:
        with Links(2) as made:
            yield made
    except InputError as error:
        pytest.skip(str(error))


RECEIVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 4711)); print("ready", flush=True)
connection, _ = server.accept()
while connection.recv(2**20): pass
print("done", flush=True)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 4711)) as connection: connection.sendall(bytes(int(sys.argv[2])))
"""


def test_links_are_as_fast_as_they_are_set_and_count_what_they_carry(links: Links, tmp_path: Path) -> None:
    size, rate = 3_000_000, 5e6
    links.limit(50e6)
    links.limit(rate)  # the later one counts
    with (tmp_path / "log").open("ab") as log:
        receiver = links.start(1, [sys.executable, "-c", RECEIVE, links.address(1)], {}, log)
        assert receiver.stdout is not None and receiver.stdout.readline() == "ready\n"
        before, start = links.sent(), time.monotonic()
        links.start(0, [sys.executable, "-c", SEND, links.address(1), str(size)], {}, log)
        assert receiver.stdout.readline() == "done\n"
        seconds = time.monotonic() - start
    sent = [b - a for a, b in zip(before, links.sent(), strict=True)]
    assert seconds > 0.8 * (size - links_module.LEAST_BURST) / rate
    assert size <= sent[0] < 1.1 * size
    assert sent[1] < 0.1 * size


def test_nothing_of_the_links_stays(links: Links, tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as log:
        waiting = links.start(0, [sys.executable, "-c", "import time; time.sleep(600)"], {}, log)
    with pytest.raises(KeyboardInterrupt), Links(1):
        raise KeyboardInterrupt
    assert waiting.poll() is None  # another's links are left alone
    links.stop()
    assert waiting.poll() is not None
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert len(re.findall(rf"^{PREFIX}-{os.getpid()}-", names, flags=re.MULTILINE)) == 3


def test_leftovers_of_a_killed_process_are_removed(links: Links) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = f"{PREFIX}-{dead.pid}-0"
    subprocess.run(["ip", "netns", "add", name], check=True)
    with pytest.raises(KeyboardInterrupt), Links(1):
        raise KeyboardInterrupt
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert name not in names
