"""The command line: answers as JSON, one line and status 2 for bad input, any run's config file."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.cli import run_command
from common.errors import InputError
from data.__main__ import main
from data.run_order import RunOrder, parse_run_order
from data.trace import TraceConfig
from pretrain.config import RunConfig

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def run_config(prepared: Path, tmp_path: Path) -> Path:
    """A run's config file, with sections that have nothing to do with the data."""
    values = {
        "name": "a run",
        "seed": 3,
        "model": {"attention": "diff", "num_layers": 2, "vocab_size": 400},
        "data": {
            "train": [{"path": str(prepared / "train"), "weight": 2.0}],
            "validation": str(prepared / "validation"),
            "sequence_length": 32,
            "document_attention": True,
        },
        "batch": {"global_size": 8, "micro_size": 2, "unheard_of": 1},
        "train": {"steps": 50, "precision": "bf16"},
        "optimizer": {"learning_rate": 1e-3},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def call(*arguments: str) -> int:
    return run_command(main, list(arguments))


def test_any_runs_config_will_do_and_overrides_win(run_config: Path, prepared: Path) -> None:
    run = parse_run_order(RunOrder, ["--config", str(run_config), "--train.steps", "70"], "test")
    assert (run.seed, run.train.steps, run.batch.global_size, run.model.vocab_size) == (3, 70, 8, 400)
    assert run.data.train[0].path == str(prepared / "train")
    assert run.data.document_attention
    flags = [f"--config={run_config}", "--token", "5", "--batch.ramp", "[{steps: 2, global_size: 4}]"]
    traced = parse_run_order(TraceConfig, flags, "test")
    assert traced.batch.schedule.first_sample(3) == 16


@pytest.mark.parametrize("config", sorted((PROJECT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_own_configs_are_understood(config: Path) -> None:
    run = parse_run_order(RunOrder, ["--config", str(config)], "test")
    assert run.data.sequence_length >= 2
    assert run.batch.global_size >= 1


def test_what_a_config_leaves_out_is_what_a_run_would_take() -> None:
    run, order = RunConfig(), RunOrder()
    assert (order.seed, order.train.steps, order.model.vocab_size) == (run.seed, run.train.steps, run.model.vocab_size)
    assert (order.batch.global_size, order.batch.micro_size) == (run.batch.global_size, run.batch.micro_size)


def test_plan_as_table_and_as_json(run_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "--config", str(run_config)) == 0
    assert capsys.readouterr().out.startswith("50 steps, 400 samples, 12,800 tokens\n")
    assert call("plan", "--config", str(run_config), "--json") == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert plan["problems"] == []
    assert plan["sources"][0]["tokens_seen"] == 12_800
    assert call("plan", "--config", str(run_config), "--model.vocab_size", "100") == 2
    assert "problem: model.vocab_size: is 100" in capsys.readouterr().out


def test_verify_and_trace_as_json(run_config: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(prepared / "train"), str(prepared / "validation")]
    assert call("verify", "--input", *folders, "--workers", "1", "--json") == 0
    assert [verdict["whole"] for verdict in json.loads(capsys.readouterr().out)] == [True, True]
    assert call("trace", "--config", str(run_config), "--token", "100", "--train.steps", "200", "--json") == 0
    sightings = json.loads(capsys.readouterr().out)
    assert {sighting["sample"] for sighting in sightings} == {3}


def test_a_corpus_is_sorted_and_its_classes_are_planned(
    run_config: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "sorted")
    assert call("lengths", "--input", str(prepared / "train"), "--output", output, "--classes", "[90]") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["under_90", "from_90"]
    train = f"[{{path: {output}, length_power: 1.0}}]"
    assert call("plan", "--config", str(run_config), "--data.train", train, "--json") == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [source["path"] for source in plan["sources"]] == [f"{output}/under_90", f"{output}/from_90"]
    assert call("show", output, "--samples", "1", "--tokens", "20") == 0
    assert capsys.readouterr().out.count("tokenizer small-bpe") == 2


def test_prepare_and_adopt_say_what_they_did(
    corpus_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out")
    flags = ["--vocab-size", "300", "--workers", "1", f"--input={corpus_files[0]}"]
    assert call("prepare", *flags, "--input", *corpus_files[1:2], "--output", output) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["read", "120", "documents"]
    assert lines[-2].startswith("train ")
    flat = str(Path(output) / "train" / "00000.tokens")
    assert call("adopt", "--input", flat, "--output", str(tmp_path / "x"), "--tokenizer", output + "/train") == 2
    assert "not one of Megatron's .bin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prepar"],
            "unknown command 'prepar': one of prepare, adopt, lengths, show, plan, verify, trace; did you mean",
        ),
        (["prepare", "--input", "stdlib", "--outptu", "x"], "--outptu: unknown key 'outptu'; did you mean 'output'?"),
        (["prepare", "--input", "nowhere.jsonl", "--output", "x"], "--input nowhere.jsonl: no such file or folder"),
        (["plan", "--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
        (["plan"], "data.train: names no folder of token shards"),
        (["plan", "--data.sequnce_length", "5"], "did you mean 'data.sequence_length'?"),
        (["verify", "--input", "nowhere"], "nowhere: holds no token shards"),
        (["verify", "--input", ""], "--input: name folders or URLs of token shards"),
        (["show", "nowhere"], "nowhere: holds no token shards"),
        (["show", "--samples", "0", "--folder", "x"], "--samples: must be at least 1, is 0"),
        (["trace", "--token", "many"], "--token: "),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_of_the_data_section_is_refused(run_config: Path) -> None:
    values = yaml.safe_load(run_config.read_text())
    values["data"]["sequnce_length"] = 5
    run_config.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"unknown key 'data\.sequnce_length'; did you mean 'data\.sequence_length'"):
        parse_run_order(RunOrder, ["--config", str(run_config)], "test")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == call("--help") == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in ("prepare", "adopt", "show", "plan", "verify", "trace"))
