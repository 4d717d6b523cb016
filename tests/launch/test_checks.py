"""Preflight: what must not be trained on is refused by name and node, what is only slow is named."""

import contextlib
import io
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import run_command, to_yaml
from common.errors import InputError
from data.config import DataConfig, SourceConfig
from launch.__main__ import main
from launch.checks import software, storage
from launch.checks.clock import judge_clocks
from launch.checks.devices import Product, judge_products
from launch.checks.finding import Finding, Level, refuse_errors
from launch.checks.network import judge_bandwidths, neighbour_rounds
from launch.node_checks import check_nodes
from pretrain.config import CheckpointConfig, RunConfig
from pretrain.engines.connection import connect
from pretrain.topology import topology_from_environment
from tests.pretrain.test_run import config_for
from tests.world import run_world

Usage = namedtuple("Usage", ["total", "used", "free"])


def levels(findings: list[Finding]) -> list[Level]:
    return [finding.level for finding in findings]


def test_all_nodes_of_a_healthy_world_pass(corpus: Path, tmp_path: Path) -> None:
    said, _ = run_world(2, said_by_preflight, config_for(corpus, tmp_path / "run"))
    lines = [line for line in said.splitlines() if line.startswith("preflight")]
    lines = [line for line in lines if "cores:" not in line]  # the desk may have few
    assert [line.split(":")[0].split(maxsplit=2)[2] for line in lines if " ok " in line] == [
        "software",
        "clocks",
        "devices",
        "all-reduce inside nodes",
        "data",
        "run folder",
        "space",
    ]
    assert not list((tmp_path / "run").glob(".probe*"))


def test_a_node_with_other_code_and_without_data_is_refused_on_every_rank(corpus: Path, tmp_path: Path) -> None:
    config = config_for(corpus, tmp_path / "run")
    for said in run_world(2, _check_on_two_nodes, config):
        assert "software: the nodes differ: code is " in said
        assert "changed on node2" in said
        assert "data: node2: " in said
        assert "/nowhere" in said


def said_by_preflight(config: RunConfig) -> str:
    """What a rank prints; for `run_world`."""
    topology = topology_from_environment(config.parallel)
    connect(topology)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        check_nodes(config, topology)
    return said.getvalue()


def _check_on_two_nodes(config: RunConfig) -> str:
    """Every rank takes itself for a node of its own, and node2 has changed code and no data."""
    topology = topology_from_environment(config.parallel)
    connect(topology)
    import socket

    name = f"node{topology.rank + 1}"
    socket.gethostname = lambda: name
    if name == "node2":
        software.code_hash = lambda project: "changed"
        config = replace(config, data=DataConfig(train=[SourceConfig("/nowhere")]))
    with pytest.raises(InputError) as error:
        check_nodes(config, topology)
    return str(error.value)


def test_the_code_hash_sees_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.py").write_text("x = 1\n")
    before = software.code_hash(tmp_path)
    assert software.code_hash(tmp_path) == before
    (tmp_path / "data/a.py").write_text("x = 2\n")
    changed = software.code_hash(tmp_path)
    (tmp_path / "data/a.py").rename(tmp_path / "data/b.py")
    assert len({before, changed, software.code_hash(tmp_path)}) == 3


def test_the_code_hash_leaves_an_editors_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that lead nowhere, hidden copies, a file that goes between two looks."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.py").write_text("x = 1\n")
    before = software.code_hash(tmp_path)
    (tmp_path / "data/.#a.py").symlink_to("someone@node1.4711")
    (tmp_path / "data/lost.py").symlink_to("nothing")
    (tmp_path / "data/.copies").mkdir()
    (tmp_path / "data/.copies/a.py").write_text("x = 0\n")
    assert software.code_hash(tmp_path) == before
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert software.code_hash(tmp_path) == before


def test_a_clock_that_is_off_is_named() -> None:
    reference = [100.0, 101.0, 102.0]
    close = judge_clocks({"node1": reference, "node2": [time + 0.004 for time in reference]})
    assert (close.level, close.text) == (Level.OK, "within 4 ms")
    off = judge_clocks({"node1": reference, "node2": [time - 90 for time in reference]})
    assert off.level is Level.WARNING
    assert "node2 by -90.0 s" in off.text


def test_a_slow_device_is_named_and_a_wrong_one_refused() -> None:
    hosts = ["node1", "node1", "node2", "node2"]
    products = [Product("H100", 0.001, "abc")] * 4
    assert levels(judge_products(hosts, products, operations=10**12, slow=1.25)) == [Level.OK]
    slow, _ = judge_products(hosts, [*products[:3], Product("H100", 0.002, "abc")], 10**12, slow=1.25)
    assert (slow.level, slow.text) == (Level.WARNING, "rank 3 on node2 takes 2.0 times the median for a matrix product")
    wrong, _ = judge_products(hosts, [Product("H100", 0.001, "xyz"), *products[1:]], 10**12, slow=1.25)
    assert wrong.level is Level.ERROR
    assert "rank 0 on node1: the matrix product differs from that of 3 equal devices" in wrong.text


def test_devices_of_another_kind_may_round_otherwise() -> None:
    products = [Product("A", 0.001, "abc"), Product("A", 0.001, "abc"), Product("B", 0.001, "xyz")]
    assert levels(judge_products(["x", "y", "z"], products, 10**12, slow=1.25)) == [Level.OK]


@pytest.mark.parametrize("nodes", range(2, 9))
def test_every_node_is_measured_with_both_neighbours_and_never_twice_at_once(nodes: int) -> None:
    rounds = neighbour_rounds(nodes)
    for pairs in rounds:
        members = [node for pair in pairs for node in pair]
        assert len(members) == len(set(members))
    met = {frozenset(pair) for pairs in rounds for pair in pairs}
    assert met == {frozenset((node, (node + 1) % nodes)) for node in range(nodes)}


def test_a_node_with_a_slow_network_is_named() -> None:
    slow, summary = judge_bandwidths("all-reduce", {"node1": 50e9, "node2": 20e9, "node3": 48e9})
    assert (slow.level, slow.text) == (Level.WARNING, "node2 reaches 20.00 GB/s, the median is 48.00 GB/s")
    assert summary.level is Level.OK


def test_room_for_the_checkpoints_is_asked_before_they_are_written(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config_for(corpus, tmp_path / "run"), checkpoint=CheckpointConfig(every=3, keep=2))
    assert storage.check_space(config).level is Level.OK
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, 1000))
    full = storage.check_space(config)
    assert full.level is Level.ERROR
    assert "1 KB free for 3 checkpoints" in full.text


def test_all_errors_are_told_at_once() -> None:
    findings = [
        Finding("a", "bad", Level.ERROR),
        Finding("b", "slow", Level.WARNING),
        Finding("c", "worse", Level.ERROR),
    ]
    with pytest.raises(InputError, match="preflight: a: bad; c: worse"):
        refuse_errors(findings)
    refuse_errors(findings[1:2])


def test_a_plan_is_checked_without_nodes(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config_for(corpus, tmp_path / "run")))
    assert run_command(main, ["preflight", f"--config={path}", "--world-size=2"]) == 0
    assert "preflight ok      topology: 2 processes: tensor 1 x pipeline 1 x data 2" in capsys.readouterr().out
    assert not (tmp_path / "run").exists(), "a plan leaves nothing behind"
    wrong = ["--batch.micro_size=3", "--data.train=[{path: /nowhere}]"]
    assert run_command(main, ["preflight", f"--config={path}", *wrong]) == 2
    error = capsys.readouterr().err
    assert "batch.global_size: must be a multiple of" in error
    assert "/nowhere" in error
    assert error.count("\n") == 1


def test_a_desk_may_lack_what_the_planned_machines_have(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config_for(corpus, tmp_path / "run")))
    missing = ["--data.train=[{path: /nowhere}]"]
    assert run_command(main, ["preflight", f"--config={path}", "--world-size=2", *missing]) == 0
    [told] = [line for line in capsys.readouterr().out.splitlines() if "/nowhere" in line]
    assert told.startswith("preflight WARNING data:")
    assert "on this machine" in told
