"""The GPU's benchmark, rehearsed on the CPU; its table in the README."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from common.cli import run_command
from scripts import bench_gpu
from scripts.speed import rowwise_checks
from scripts.speed.comparing import WrongResult, expect_close
from scripts.speed.readme import MARKS, NOT_MEASURED, table, write_readme
from tests.conftest import ROOT

BEGIN, END = f"<!-- {MARKS}: begin -->", f"<!-- {MARKS}: end -->"


def test_a_rehearsal_goes_all_the_way(tmp_path: Path) -> None:
    output = tmp_path / "made/found.json"
    done = subprocess.run(
        [sys.executable, "scripts/bench_gpu.py", "--rehearse", "--output", output],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "checks against fp64 in float32: all right" in done.stdout
    found = json.loads(output.read_text())
    assert found["rehearsal"] and found["device"] == "CPU" and found["versions"]["torch"]
    assert {row["operator"] for row in found["attention"]} == {
        "differential attention, (K, 2K) = (8, 16)",
        "standard attention, K 8",
    }
    assert not [row for part in ("attention", "rowwise") for row in found[part] if row["error"]]
    assert all(row["seconds"] > row["forward_seconds"] * 0.5 > 0 for row in found["attention"])
    assert {row["kind"] for row in found["kinds"]} == {"standard", "diff", "shared_diff", "diff_v2"}
    (model,) = found["models"]
    assert model["planned_bytes"] > 0 and sum(model["shares"].values()) == pytest.approx(1)
    assert run_command(bench_gpu.main, ["--readme", str(output)]) == 2


def test_a_wrong_result_ends_it_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong() -> None:
        expect_close(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]), 0.01, "output 0")

    assert not bench_gpu._all_right({"right": lambda: None, "this one": wrong}, torch.float32)
    line = "wrong: this one: output 0: off by 2.5e-01 of the largest value, allowed are 1.0e-02; nothing is measured\n"
    assert capsys.readouterr().err == line


def test_what_is_not_a_number_is_wrong() -> None:
    with pytest.raises(WrongResult):
        expect_close(torch.tensor([torch.nan]), torch.ones(1), 1e9, "output")


def measured(implementation: str, operator: str, seconds: float | None) -> dict[str, Any]:
    return {"operator": operator, "implementation": implementation, "seconds": seconds}


RESULTS = {
    "device": "NVIDIA H100",
    "date": "2026-12-01",
    "rehearsal": False,
    "versions": {"torch": "2.13.0"},
    "attention": [
        measured("fused", "differential attention, (K, 2K) = (64, 128)", 2.0),
        measured("halves-flash2", "differential attention, (K, 2K) = (64, 128)", 3.0),
        measured("flash2", "differential attention, (K, 2K) = (64, 128)", None),
        measured("sdpa", "differential attention, (K, 2K) = (64, 128)", 9.0),
        measured("flash2", "standard attention, K 64", 1.6),
        measured("sdpa", "standard attention, K 64", 4.0),
    ],
    "models": [
        {"name": "shared_diff_830m", "model_flops_utilization": 0.4567, "peak_bytes": 3, "planned_bytes": 4},
    ],
}


def test_the_readmes_table_has_the_files_figures(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_readme(readme, RESULTS)
    first, *lines, last = readme.read_text().splitlines()
    assert (first, last) == ("before", "after") and "old" not in lines
    cells = [line.split("|")[2].strip() for line in lines[3:-1]]
    assert cells == ["1.50", "1.25", NOT_MEASURED, NOT_MEASURED, "45.7%", "0.75", NOT_MEASURED, NOT_MEASURED]
    write_readme(readme, RESULTS)
    assert readme.read_text().splitlines() == [first, *lines, last]


def test_the_readme_says_what_nobody_has_measured() -> None:
    between = (ROOT / "README.md").read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()
    stored = ROOT / "docs/gpu.json"
    assert between == table(json.loads(stored.read_text()) if stored.exists() else None)


def test_without_a_device_it_says_what_would_work(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert run_command(bench_gpu.main, []) == 2
    assert "--rehearse" in capsys.readouterr().err


@pytest.mark.parametrize("operation", ["norm", "swiglu", "rotary", "cross_entropy"])
def test_every_operation_is_checked(operation: str) -> None:
    assert any(name.startswith(operation) for name in rowwise_checks.rowwise_checks("cpu", torch.float32))
