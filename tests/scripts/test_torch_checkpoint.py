"""A checkpoint becomes torch's and comes back bit for bit; torch alone reads it; hostile folders are one line."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from common.cli import parse_config, run_command
from pretrain.checkpoint.layout import WEIGHT
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.resume import newest_whole
from pretrain.config import CheckpointConfig, EvaluationConfig, OptimizerConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.topology import plan_topology
from scripts.checkpoint import main
from tests.pretrain.test_run import config_for, losses, train
from tests.world import run_world

STEPS = 5


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of two tensor-parallel ranks under Muon, whose parameters have moments of two kinds."""
    config = config_for(
        corpus,
        tmp_path_factory.mktemp("trained") / "run",
        parallel=ParallelConfig(tensor=2),
        optimizer=OptimizerConfig(kind="muon", learning_rate=3e-3),
        train=TrainConfig(steps=STEPS),
        checkpoint=CheckpointConfig(every=0, keep=0),
        evaluation=EvaluationConfig(every=0, batches=1, ar_hits=False),
    )
    assert set(run_world(2, train, config)) == {"finished"}
    return config


@pytest.fixture(scope="module")
def written(trained: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "torch"
    assert run_command(main, ["to-torch", str(trained.run_folder), str(folder)]) == 0
    return folder


def checkpoint(run: Path) -> CheckpointReader:
    reader = newest_whole(run / "checkpoints", plan_topology(ParallelConfig(), 1))
    assert reader is not None
    return reader


def test_torch_alone_reads_every_tensor_under_its_logical_name(trained: RunConfig, written: Path) -> None:
    """By its own reader, told nothing but the keys that its own table of contents has."""
    table = dcp.FileSystemReader(written).read_metadata().state_dict_metadata
    found: dict[str, Any] = {key: torch.full(entry.size, torch.nan) for key, entry in table.items()}  # type: ignore[union-attr]
    dcp.load(found, checkpoint_id=written)
    reader, expected = checkpoint(trained.run_folder), {}
    for name in reader.names():
        expected[f"model.{name}"] = reader.read(name)
        expected[f"optimizer.state.{name}.step"] = torch.tensor(float(STEPS))
        for kind in reader.moments(name):
            expected[f"optimizer.state.{name}.{kind}"] = reader.read(name, kind)
    assert found.keys() == expected.keys()
    assert len({tuple(reader.moments(name)) for name in reader.names()}) == 2
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_steps_that_were_skipped_are_no_updates(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointReader, "applied_steps", STEPS - 2)
    assert run_command(main, ["to-torch", str(trained.run_folder), str(tmp_path / "torch")]) == 0
    key = f"optimizer.state.{checkpoint(trained.run_folder).names()[0]}.step"
    found = {key: torch.tensor(torch.nan)}
    dcp.load(found, checkpoint_id=tmp_path / "torch")
    assert found[key] == STEPS - 2


def test_it_comes_back_bit_for_bit(trained: RunConfig, written: Path, tmp_path: Path) -> None:
    assert run_command(main, ["from-torch", str(written), str(tmp_path / "back")]) == 0
    ours, theirs = checkpoint(tmp_path / "back"), checkpoint(trained.run_folder)
    assert (ours.step, ours.names()) == (theirs.step, theirs.names())
    assert (ours.manifest.state, ours.manifest.topology) == (theirs.manifest.state, theirs.manifest.topology)
    assert ours.config == replace(theirs.config, run_dir=str(tmp_path / "back"))
    for name in theirs.names():
        assert ours.moments(name) == theirs.moments(name)
        for kind in (WEIGHT, *theirs.moments(name)):
            assert torch.equal(ours.read(name, kind), theirs.read(name, kind)), (name, kind)
    assert run_command(main, ["diff", str(theirs.folder), str(ours.folder)]) == 0


def test_and_goes_on_as_the_run_itself_does(trained: RunConfig, written: Path, tmp_path: Path) -> None:
    assert run_command(main, ["from-torch", str(written), str(tmp_path / "back")]) == 0
    shutil.copytree(trained.run_folder, tmp_path / "own")
    config = parse_config(
        RunConfig, ["--config", str(tmp_path / "back/config.yaml"), f"--train.steps={STEPS + 2}"], "t"
    )
    for name in ("back", "own"):
        assert set(run_world(2, train, replace(config, run_dir=str(tmp_path / name)))) == {"finished"}
    assert losses(tmp_path / "back") == losses(tmp_path / "own")[-2:]


def test_no_more_than_one_tensor_is_held(written: Path) -> None:
    """A file for each: of one file torch keeps every tensor until it is whole."""
    table = dcp.FileSystemReader(written).read_metadata()
    assert len(list(written.glob("*.distcp"))) == len(table.state_dict_metadata)


class Calls:
    """A pickle that makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.made,))


def hostile(folder: Path, how: str) -> None:
    """Damages it."""
    run_file, table = folder / "run.json", folder / ".metadata"
    facts = json.loads(run_file.read_text())
    if how == "pickle":
        table.write_bytes(pickle.dumps(Calls(folder.parent / "made")))
    elif how == "cut table":
        table.write_bytes(table.read_bytes()[:100])
    elif how == "no table":
        table.unlink()
    elif how == "no run":
        run_file.unlink()
    elif how == "cut tensor":
        largest = max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-9])
    elif how == "other model":
        facts["config"]["model"]["ffn_hidden_size"] = 66
        run_file.write_text(json.dumps(facts))
    elif how == "other optimizer":
        facts["config"]["optimizer"]["kind"] = "sgd"
        run_file.write_text(json.dumps(facts))
    elif how == "unknown":
        run_file.write_text(json.dumps(facts | {"steps": 3}))
    elif how == "no moments":
        with table.open("rb") as file:
            content = pickle.load(file)
        content.state_dict_metadata = {
            key: entry for key, entry in content.state_dict_metadata.items() if not key.endswith("exp_avg_sq")
        }
        table.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("pickle", ".metadata: names pathlib.Path.touch, which no checkpoint needs"),
        ("cut table", ".metadata: not a readable table of a torch checkpoint"),
        ("no table", ".metadata: not a readable table of a torch checkpoint"),
        ("no run", "run.json: no such run.json, which `scripts/checkpoint.py to-torch` writes beside it"),
        ("cut tensor", " cannot be read: "),
        ("other model", "the model of run.json has "),
        ("other optimizer", "optimizer.kind: expected one of adamw, muon, is 'sgd'"),
        ("unknown", "run.json: unknown key 'steps'; did you mean 'step'?"),
        ("no moments", "the moments of "),
    ],
)
def test_a_folder_that_is_none_is_one_line_and_leaves_nothing(
    how: str, said: str, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(written, tmp_path / "torch")
    hostile(tmp_path / "torch", how)
    assert run_command(main, ["from-torch", str(tmp_path / "torch"), str(tmp_path / "back")]) == 2
    errors = capsys.readouterr().err
    assert said in errors and errors.count("\n") == 1
    assert not (tmp_path / "back").exists() and not (tmp_path / "made").exists()


def test_what_is_there_is_not_written_over_and_damage_ends_it(
    trained: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    for command in ("to-torch", "from-torch"):
        assert run_command(main, [command, str(trained.run_folder), str(tmp_path / "there")]) == 2
        assert "there: is there already; choose another " in capsys.readouterr().err
    shutil.copytree(trained.run_folder, tmp_path / "run")
    file = checkpoint(tmp_path / "run").folder / "rank_00001.bin"
    content = bytearray(file.read_bytes())
    content[4] ^= 8
    file.write_bytes(content)
    assert run_command(main, ["to-torch", str(tmp_path / "run"), str(tmp_path / "torch")]) == 2
    assert "rank_00001.bin: damaged: " in capsys.readouterr().err
    assert not (tmp_path / "torch").exists()
