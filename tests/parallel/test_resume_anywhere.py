"""A run goes on from any topology's checkpoint on any other, and on the same one bit for bit."""

from dataclasses import asdict
from pathlib import Path

import pytest

from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.resume import load
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.state import local_fragments
from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter, WriterSettings
from pretrain.config import RunConfig
from tests.parallel.training import run_steps, start_engine, variant
from tests.world import run_world

SAVED_AT, STOP = 3, 6
KEEP_ALL = Retention(keep=0, keep_every=0, keep_tokens=0)

TOPOLOGIES: dict[str, tuple[int, dict[str, object], int]] = {
    "single": (1, {"zero_stage": 0}, 8),
    "tp2-sp": (2, {"tensor": 2, "sequence": True, "zero_stage": 1}, 4),
    "pp2": (2, {"pipeline": 2, "zero_stage": 0}, 2),
    "context2-zero0": (2, {"context": 2, "zero_stage": 0}, 4),
    "context2-dp2-zero1": (4, {"context": 2, "zero_stage": 1}, 2),
    "dp2-zero2": (2, {"zero_stage": 2}, 4),
    "dp2-zero3": (2, {"zero_stage": 3}, 2),
    "tp2-pp2-dp2": (8, {"tensor": 2, "pipeline": 2, "zero_stage": 1}, 2),
}


def config_of(name: str, precision: str = "fp32") -> RunConfig:
    _, parallel, micro = TOPOLOGIES[name]
    return variant(parallel=parallel, batch={"micro_size": micro}, train={"precision": precision})


def save_and_go_on(config: RunConfig, folder: Path) -> list[float]:
    """Trains, saves at SAVED_AT without stopping, and returns the losses after that."""
    engine, feed = start_engine(config)
    run_steps(engine, feed, 0, SAVED_AT)
    writer = CheckpointWriter(folder, engine.topology, WriterSettings(KEEP_ALL))
    facts = CheckpointFacts(SAVED_AT, asdict(config), {}, engine.topology.describe())
    writer.save(list(local_fragments(engine)), facts)
    results = run_steps(engine, feed, SAVED_AT, STOP)  # while the save is under way
    assert writer.wait() is None
    return [result.loss for result in results] + [result.grad_norm for result in results]


def resume_each(config: RunConfig, folders: dict[str, Path]) -> dict[str, list[float]]:
    """Loads each checkpoint into the same engine and goes on from it."""
    engine, feed = start_engine(config)
    run_steps(engine, feed, 0, 1)  # state that every load must replace
    after = {}
    for name, folder in folders.items():
        reader = CheckpointReader(step_folder(folder, SAVED_AT))
        load(engine, reader, reader.step)
        results = run_steps(engine, feed, reader.step, STOP)
        after[name] = [result.loss for result in results] + [result.grad_norm for result in results]
    return after


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[float]]]:
    """Per topology: a checkpoint, and what the run that wrote it did next."""
    result = {}
    for name, (processes, _, _) in TOPOLOGIES.items():
        folder = tmp_path_factory.mktemp(name)
        result[name] = folder, run_world(processes, save_and_go_on, config_of(name), folder)[0]
    return result


@pytest.mark.parametrize("target", TOPOLOGIES)
def test_goes_on_as_the_run_never_stopped(target: str, saved: dict[str, tuple[Path, list[float]]]) -> None:
    folders = {name: folder for name, (folder, _) in saved.items()}
    after = run_world(TOPOLOGIES[target][0], resume_each, config_of(target), folders)
    for source, (_, expected) in saved.items():
        for found in (rank[source] for rank in after):
            assert found == pytest.approx(expected, abs=1e-5), f"from {source} to {target}"
        if source == target:
            assert after[0][source] == expected, f"{target} onto itself is not bitwise equal"


def test_bf16_goes_on_bit_for_bit_and_across_stages(tmp_path: Path) -> None:
    names = ("context2-dp2-zero1", "dp2-zero3")
    sizes = {name: TOPOLOGIES[name][0] for name in names}
    expected = {
        name: run_world(size, save_and_go_on, config_of(name, "bf16"), tmp_path / name)[0]
        for name, size in sizes.items()
    }
    for name, size in sizes.items():
        after = run_world(size, resume_each, config_of(name, "bf16"), {other: tmp_path / other for other in names})[0]
        assert after[name] == expected[name]
        for other in names:
            assert after[other] == pytest.approx(expected[other], rel=2e-2)
