"""The user's evaluation beside training: what it is told, what a bad command does, and when that is said."""

import time
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.checks import check_run
from pretrain.config import EvaluationConfig, RunConfig
from pretrain.evaluation_job import EvaluationJob
from pretrain.topology import plan_topology


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


def test_the_job_gets_run_checkpoint_and_step_and_is_not_waited_for(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    done = run / "done"
    command = f"test $(basename {{checkpoint}}) = step_00000007 && echo {{run}} {{step}} && touch '{done}'"
    EvaluationJob(command, run).start(run / "checkpoints" / "step_00000007", 7)
    wait_for(done)
    assert (run / "logs" / "evaluation_00000007.log").read_text() == f"{run} 7\n"


def test_a_folder_whose_name_is_shell_code_is_a_name(tmp_path: Path) -> None:
    run = tmp_path / "'; touch hacked; '{step}"
    EvaluationJob("""cd '{run}'; echo '{run}' "{run}" {run}; touch done""", run).start(run / "checkpoints", 7)
    wait_for(run / "done")
    assert (run / "logs/evaluation_00000007.log").read_text() == f"{run} {run} {run}\n"
    assert not list(tmp_path.rglob("hacked"))


def test_a_folder_whose_name_begins_with_a_dash_is_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    EvaluationJob("ls {run}; touch {run}/done", Path("-la")).start(Path("-la/checkpoints"), 7)
    wait_for(tmp_path / "-la/done")
    assert (tmp_path / "-la/logs/evaluation_00000007.log").read_text() == "logs\n"


def test_the_command_is_no_rank_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "3")
    EvaluationJob("env; echo $PRETRAIN_STEP > {run}/done", tmp_path).start(tmp_path / "c", 3)
    wait_for(tmp_path / "done")
    seen = (tmp_path / "logs/evaluation_00000003.log").read_text()
    assert "PRETRAIN_RUN=" in seen
    assert "RANK" not in seen
    assert "MASTER_ADDR" not in seen


def test_a_job_that_the_command_submits_is_not_bound_to_the_cores_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ["SLURM_CPU_BIND", "SLURM_CPU_BIND_LIST", "SLURM_MEM_PER_NODE", "SLURM_STEP_ID", "SLURM_PROCID"]
    for name in [*step, "SLURM_JOB_ID", "SLURM_CONF"]:
        monkeypatch.setenv(name, "3")
    EvaluationJob("env; echo $PRETRAIN_STEP > {run}/done", tmp_path).start(tmp_path / "c", 3)
    wait_for(tmp_path / "done")
    lines = (tmp_path / "logs/evaluation_00000003.log").read_text().splitlines()
    assert {line for line in lines if line.startswith("SLURM")} == {"SLURM_JOB_ID=3", "SLURM_CONF=3"}


def test_a_job_that_cannot_start_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    EvaluationJob("echo {step}", tmp_path).start(tmp_path, 3)
    assert "evaluation.command of step 3 did not start" in capsys.readouterr().out


def test_a_command_that_names_no_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match="names no checkpoint"):
        EvaluationConfig(command="sbatch evaluate.sbatch")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo '{step}", "the shell does not take it"),
        ("sh -c 'echo {run}'", "as code; write $PRETRAIN_RUN there"),
        ("bash <<< {run}", "has a here-document; write $PRETRAIN_RUN instead"),
        ("cat <<E\n{run}\nE", "has a here-document; write $PRETRAIN_RUN instead"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_training(command: str, said: str, tmp_path: Path) -> None:
    config = RunConfig(run_dir=str(tmp_path / "a run"), evaluation=EvaluationConfig(command=command))
    with pytest.raises(InputError) as error:
        check_run(config, plan_topology(config.parallel, 1))
    assert said in str(error.value)
