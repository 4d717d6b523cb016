"""`python scripts/plan.py`: every config that ships is planned, its parameters are printed; bad input is one line."""

import json
from pathlib import Path

import pytest

from common.cli import parse_config, run_command
from model.counts import parameter_counts
from pretrain.config import RunConfig
from scripts.plan import main

CONFIGS = sorted(Path("configs").glob("*.yaml"))
MILLIONS = {  # of the configs that follow the papers' sizes
    "shared_diff_830m": 748.7,
    "shared_diff_1.4b": 1260.3,
    "shared_diff_2.8b": 3110.4,
    "shared_diff_3b": 2934.0,
    "shared_diff_6.8b": 6617.1,
    "shared_diff_13b": 12757.5,
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run_command(main, list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_planned_and_its_parameters_are_printed(path, capsys) -> None:
    status, text, errors = run(capsys, "--config", str(path))
    assert (status, errors) == (0, "")
    config = parse_config(RunConfig, ["--config", str(path)], "test")
    total = sum(parameter_counts(config.model).values())
    shown = f"{total / 1e9:.3f} B" if total >= 1e9 else f"{total / 1e6:.1f} M"
    assert text.startswith(f"{config.name}: {config.model.attention}")
    assert f"{shown} parameters" in text.splitlines()[0]
    assert f"{total / 1e6:,.1f}" in next(line for line in text.splitlines() if line.startswith("  total"))


def test_the_papers_configs_have_the_sizes_that_the_readme_states(capsys) -> None:
    for name, millions in MILLIONS.items():
        _, text, _ = run(capsys, "--config", f"configs/{name}.yaml", "--json")
        plan = json.loads(text)
        assert plan["sizes"][plan["attention"]]["parameters"] / 1e6 == pytest.approx(millions, abs=0.05)


def test_json_holds_the_figures_of_the_text(capsys) -> None:
    arguments = ("--config", "configs/shared_diff_13b.yaml", "--world-size", "512", "--device", "H200")
    _, text, _ = run(capsys, *arguments)
    _, raw, _ = run(capsys, *arguments, "--json")
    plan = json.loads(raw)
    assert (plan["world_size"], plan["device"]) == (512, "H200")
    assert (
        f"{plan['memory']['total'] / 2**30:.1f} of 140 GiB on the most loaded device, rank {plan['memory']['rank']}"
        in text
    )
    assert f"MFU {plan['step']['shared_diff']['model_flops_utilization']:.0%}" in text
    sent = sum(exchange["wire_bytes"] for exchange in plan["communication"]["diff"])
    assert f"{sent / 1e6:,.1f}" in text
    assert set(plan["communication"]) == set(plan["step"]) == {"standard", "diff", "shared_diff", "diff_v2"}


def test_overrides_change_the_plan(capsys) -> None:
    _, small, _ = run(capsys, "--config", "configs/debug_cpu.yaml", "--json")
    _, large, _ = run(capsys, "--config", "configs/debug_cpu.yaml", "--model.num_layers", "8", "--json")
    assert json.loads(large)["memory"]["total"] > json.loads(small)["memory"]["total"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "H10"], "--device H10: not in the table; did you mean 'H100'?"),
        (["--world-size", "0"], "--world-size: must be at least 1, is 0"),
        (["--efficiency", "1.5"], "--efficiency: must be at most 1, is 1.5"),
        (["--search"], "--search: needs the number of devices; add --world-size N"),
        (["--search", "--world-size", "7"], "batch.global_size: must be a multiple"),
        (["--world-size", "3"], "batch.global_size: must be a multiple"),
        (["--model.rnak", "3"], "--model.rnak: unknown key 'model.rnak'; did you mean 'model.rank'?"),
        (["--parallel.tensor", "2"], "model.num_heads: 3 cannot be split over parallel.tensor 2"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys) -> None:
    status, text, errors = run(capsys, "--config", "configs/debug_cpu.yaml", *arguments)
    assert (status, text) == (2, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_a_search_lists_splits_that_fit_fastest_first_and_each_is_planned_with_the_same_figures(capsys) -> None:
    arguments = ("--config", "configs/shared_diff_3b.yaml", "--world-size", "16", "--batch.global_size", "96")
    _, raw, _ = run(capsys, *arguments, "--search", "--json")
    found = json.loads(raw)
    seconds = [candidate["step"]["seconds"] for candidate in found]
    assert len(found) > 10
    assert seconds == sorted(seconds)
    assert {candidate["settings"]["parallel.tensor"] for candidate in found} >= {"1", "2"}
    assert {candidate["settings"]["parallel.gradient_exchange"] for candidate in found} == {"fp32", "bf16"}
    among = [candidate for candidate in found if "parallel.partition_ranks" in candidate["settings"]]
    assert {candidate["settings"]["parallel.partition_ranks"] for candidate in among} <= {"8", "4", "2"}
    for candidate in (found[0], found[len(found) // 2], found[-1], among[0]):
        flags = [part for key, value in candidate["settings"].items() for part in (f"--{key}", value)]
        _, raw, _ = run(capsys, *arguments, *flags, "--json")
        plan = json.loads(raw)
        assert plan["memory"]["fits"]
        assert plan["memory"]["total"] == candidate["memory"]
        assert plan["step"]["shared_diff"]["seconds"] == candidate["step"]["seconds"]


def test_a_search_shows_what_the_time_goes_into_and_the_flags_of_the_best(capsys) -> None:
    status, text, errors = run(capsys, "--config", "configs/debug_cpu.yaml", "--search", "--world-size", "2")
    assert (status, errors) == (0, "")
    assert "step s" in text.splitlines()[1]
    assert "the first: --parallel.tensor 1 " in text


def test_a_search_in_which_nothing_fits_names_the_smallest(capsys) -> None:
    arguments = ("--config", "configs/shared_diff_13b.yaml", "--device", "4090", "--search", "--world-size", "2")
    status, text, errors = run(capsys, *arguments)
    assert (status, text) == (2, "")
    assert errors.startswith(
        "error: --world-size 2: nothing fits into the usable 21.6 GiB of 4090; the smallest needs "
    )
    assert errors.count("\n") == 1


def test_long_samples_are_searched_with_ranks_that_share_them_in_both_ways(capsys) -> None:
    arguments = ("--config", "configs/shared_diff_830m.yaml", "--world-size", "16", "--data.sequence_length", "65536")
    arguments = (*arguments, "--batch.global_size", "16", "--search")
    _, raw, _ = run(capsys, *arguments, "--json")
    found = json.loads(raw)
    ways = {candidate["settings"].get("parallel.context_exchange") for candidate in found}
    assert ways == {None, "gather", "heads"}
    assert {candidate["settings"].get("parallel.context", "1") for candidate in found} >= {"1", "2", "4"}
    shared = next(one for one in found if "parallel.context" in one["settings"])
    flags = [part for key, value in shared["settings"].items() for part in (f"--{key}", value)]
    _, raw, _ = run(capsys, *arguments[:-1], *flags, "--json")
    plan = json.loads(raw)
    assert plan["memory"]["total"] == shared["memory"]
    assert plan["step"]["shared_diff"]["seconds"] == shared["step"]["seconds"]
    _, text, _ = run(capsys, *arguments)
    assert f"the first with shared samples: gather {shared['step']['seconds']:.3f} s, heads " in text


def test_lengths_are_planned_as_a_run_of_that_length_is(capsys) -> None:
    arguments = ("--config", "configs/shared_diff_3b.yaml", "--world-size", "64")
    _, raw, _ = run(capsys, *arguments, "--lengths", "--json")
    places = {(place["sequence_length"], place["context"]): place for place in json.loads(raw)}
    assert sorted({length for length, _ in places}) == [4096, 16384, 65536, 262144, 1048576]
    one = places[65536, 8]
    settings = {
        "data.sequence_length": 65536,
        "parallel.context": 8,
        "parallel.context_exchange": one["context_exchange"],
        "batch.global_size": 64,
        "batch.micro_size": 1,
    }
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    _, raw, _ = run(capsys, *arguments, *flags, "--json")
    plan = json.loads(raw)
    assert plan["memory"]["total"] == one["memory"]
    assert plan["memory"]["fits"] == one["fits"]
    assert plan["step"]["shared_diff"]["seconds"] == one["step"]["seconds"]
    for length in (65536, 1048576):
        used = [places[length, context]["memory"] for context in (1, 2, 4, 8, 16, 32)]
        assert used == sorted(used, reverse=True)
