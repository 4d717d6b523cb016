"""`python -m launch slurm`: submits, says how to follow, and refuses in one line before anything is queued."""

from pathlib import Path

import pytest

from common.cli import run_command
from launch.__main__ import main

CONFIG = ["--config=configs/debug_cpu.yaml", "--site.processes_per_node=1"]
SINFO = r"printf 'main* 3\nbig 40\n'"
SBATCH = """
echo "$@" >>"$RECORD/sbatch"
case "$1" in
  --test-only) [ ! -e "$RECORD/refuse" ] || { cat "$RECORD/refuse" >&2; exit 1; } ;;
  *) echo '17;cluster' ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sinfo and sbatch that leave a record."""
    for name, lines in {"sinfo": SINFO, "sbatch": SBATCH}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{lines}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("RECORD", str(tmp_path))
    return tmp_path


def launch(folder: Path, *arguments: str) -> int:
    return run_command(main, ["slurm", *CONFIG, f"--run_dir={folder / 'run'}", *arguments])


def test_a_job_is_submitted_after_slurm_has_judged_it(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(slurm, "--nodes=2") == 0
    script = slurm / "run/job.sbatch"
    assert (slurm / "sbatch").read_text().splitlines() == [f"--test-only {script}", f"--parsable {script}"]
    assert (slurm / "run/logs").is_dir()
    out = capsys.readouterr().out
    assert out.startswith("job 17: debug_cpu on 2 nodes x 1 processes")
    for hint in ("squeue --job 17", f"tail -F {slurm}/run/logs/run.log", f"python -m launch status {slurm}/run"):
        assert hint in out


def test_a_dry_run_prints_the_script_and_touches_nothing(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(slurm, "--nodes=2", "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.startswith("#!/bin/bash\n")
    assert f"RUN={slurm / 'run'}\n" in out
    assert not (slurm / "sbatch").exists()
    assert not (slurm / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--nodes=2", "--site.partition=bigg"],
            "partition 'bigg' does not exist; did you mean 'big'?; there are main, big",
        ),
        (["--nodes=4"], "--nodes: is 4, but partition main has 3 nodes"),
        (["--nodes=0"], "--nodes: must be at least 1, is 0"),
        (["--nodes=2", "--tries=0"], "--tries: must be at least 1"),
        (["--nodes=2", "--model.rnk=3"], "unknown key 'model.rnk'; did you mean 'model.rank'?"),
        (["--nodes=3"], "batch.global_size: must be a multiple of"),
        (["--nodes=2", "--site=missing.yaml"], "missing.yaml: no such file"),
        (["--nodes=2", "--site.partiton=main"], "unknown key 'partiton'"),
    ],
)
def test_what_cannot_run_is_one_line(
    slurm: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert launch(slurm, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (slurm / "sbatch").exists()


def test_what_slurm_refuses_is_told_in_slurms_words(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (slurm / "refuse").write_text("sbatch: error: Invalid account\nallocation failure\n")
    assert launch(slurm, "--nodes=2") == 2
    assert capsys.readouterr().err == ("error: sbatch --test-only: sbatch: error: Invalid account allocation failure\n")
    assert "--parsable" not in (slurm / "sbatch").read_text()


def test_without_slurm_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch(tmp_path, "--nodes=2") == 2
    assert "there is no sbatch on this machine" in capsys.readouterr().err
