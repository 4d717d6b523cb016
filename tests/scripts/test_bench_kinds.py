"""The table of kinds: every kind has its turn and its line."""

import pytest

from common.cli import run_command
from scripts.bench_kinds import main


def test_every_kind_stands_beside_standard(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--config", "configs/debug_cpu.yaml", "--layers", "1", "--lengths", "32", "--tokens", "64"]
    assert run_command(main, [*sizes, "--rounds", "2", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[-4:]}
    assert list(rows) == ["standard", "diff", "shared_diff", "diff_v2"]
    assert rows["standard"][0] == "1.00"
    assert all(float(ratio) > 0 and int(rate.replace(",", "")) > 0 for ratio, rate, *_ in rows.values())


def test_a_wrong_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--layers", "0"]) == 2
    assert capsys.readouterr().err == "error: --layers: must be at least 1, is 0\n"
