"""The example of docs/parallelism.md is what the planner says, and its percentages follow from the sizes."""

import json
import re
from dataclasses import replace

import pytest
import yaml

from common.cli import parse_config
from model.activations import block_activations
from pretrain.config import RunConfig
from pretrain.plan.communication import layer_split
from pretrain.plan.kernels import planned_kernels
from pretrain.topology import plan_topology
from scripts.plan import main
from tests.conftest import ROOT

TEXT = (ROOT / "docs/parallelism.md").read_text()
CONFIG = ROOT / "configs/shared_diff_3b.yaml"
NUMBERS = r" \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$"
ROWS = re.findall(r"^\| (none|`--).*?" + NUMBERS, TEXT, flags=re.MULTILINE)
Row = tuple[str, str, str]
SCALE: list[Row] = re.findall(r"^\| (?:none|`(--.*?)`) \| ([\d.]+) % \| ([\d.]+) % \|$", TEXT, flags=re.MULTILINE)
SETTINGS = [row[0] for row in re.findall(r"^\| (?:none: .*?|`(--.*?)`)" + NUMBERS, TEXT, flags=re.MULTILINE)]


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_row_of_the_example_is_what_the_planner_says(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(CONFIG), "--world-size", "64", "--json", *SETTINGS[number].split()]) == 0
    plan = json.loads(capsys.readouterr().out)
    step = plan["step"]["shared_diff"]
    memory = plan["memory"]["total"] / 2**30
    said = f"{memory:.1f}", f"{step['seconds']:.2f}", f"{step['data']:.2f}", f"{step['hidden']:.2f}"
    assert ROWS[number][1:] == said


def test_the_example_shows_every_axis() -> None:
    assert len(ROWS) == len(SETTINGS) == 8
    shown = " ".join(SETTINGS)
    assert all(f"--parallel.{axis}" in shown for axis in ("tensor", "sequence", "pipeline", "zero_stage"))


@pytest.mark.parametrize("row", SCALE, ids=lambda row: row[0] or "none")
def test_the_same_batch_on_more_devices_is_as_the_planner_says(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    settings, *shares = row
    for devices, said in zip((64, 512), shares, strict=True):
        assert main(["--config", str(CONFIG), "--world-size", str(devices), "--json", *settings.split()]) == 0
        step = json.loads(capsys.readouterr().out)["step"]["shared_diff"]
        assert said == f"{100 * step['model_flops_utilization']:.1f}"


def test_the_table_of_lengths_is_what_the_planner_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(CONFIG), "--world-size", "64", "--lengths"]) == 0
    assert f"```\n{capsys.readouterr().out}```\n" in TEXT


KEPT = dict(re.findall(r"^\| ([a-z][^|]*?) \| [^|]* \| [^|]* \| ([\d.]+) \|$", TEXT, flags=re.MULTILINE))


def test_what_a_block_keeps_is_said_term_by_term() -> None:
    config = parse_config(RunConfig, ["--config", str(CONFIG)], "plan")
    D, ranks = config.model.hidden_size, config.parallel.tensor
    K, heads = config.model.head_dim, config.model.num_heads
    said = {
        "inputs of the two norms": 4,
        "input of the attention": 2,
        "queries and keys, of both streams": 8 * heads * K / D,
        "values": 4 * heads * K / D,
        "low-rank projections, of all tokens on every rank": 8 * config.model.rank * ranks / D,
        "input of the head norm": 4 * heads * K / D,
        "input of the output layer": 4 * heads * K / D,
        "input of the feed-forward network": 2,
        "its first products (of SwiGLU two)": 4 * config.model.ffn_hidden_size / D,
        "input of its last product": 0,
        "masks of dropout": 0,
    }
    said["sum"] = sum(said.values())
    assert {what: f"{size:.2f}" for what, size in said.items()} == KEPT
    split = layer_split(config, plan_topology(config.parallel, ranks))
    unit = split.tokens * D / ranks
    kernels = planned_kernels(config)
    rest = block_activations(config.model, split, kernels).kept / unit - said["sum"]
    assert f"is {rest:.2f} for the 3B model" in " ".join(TEXT.split())
    everything = replace(split, activation_checkpointing="none")
    assert f"its output: {block_activations(config.model, everything, kernels).kept / unit:.1f} in all" in " ".join(
        TEXT.split()
    )


def test_what_shared_diff_adds_is_said_in_percent() -> None:
    model = yaml.safe_load(CONFIG.read_text())["model"]
    bases, projections = model["head_dim"] / model["hidden_size"], model["rank"] / model["hidden_size"]
    shares = f"{bases / 2:.0%}, or {2 * bases / 5:.0%} and {4 * projections / 5:.0%} for the 3B model"
    assert shares.replace("%", " %") in " ".join(TEXT.split())
