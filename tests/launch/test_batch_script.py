"""The batch script at work, with Slurm's commands replaced: what it does after each way an attempt can end."""

import signal
import time
from pathlib import Path

import pytest

from launch.slurm.container import Container
from launch.slurm.site import Site
from pretrain.resilience.attempts import read_attempts
from tests.launch.fake_slurm import FakeSlurm

END = """printf '{{"outcome": "{}", "reason": "{}", "time": 1}}' >"$A/end.json" """
FINISH = END.format("finished", "all done")


def once(first: str, then: str) -> str:
    return f'if [ "$PRETRAIN_ATTEMPT" = 1 ]; then\n{first}\nelse\n{then}\nfi'


def test_a_finished_run_ends_the_job(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path, FINISH)
    assert slurm.start().wait() == 0
    assert slurm.calls == ["srun"]
    log = (slurm.run / "logs/run.log").read_text()
    assert "attempt 1 of" in log
    assert "job 12 on node1, node2" in log


def test_srun_gets_one_task_per_node_with_rendezvous_on_the_first(tmp_path: Path) -> None:
    record = (
        'echo "$@" >"$RECORD/arguments"; echo "$MASTER_ADDR $MASTER_PORT $SLURM_EXPORT_ENV" >"$RECORD/environment"\n'
    )
    slurm = FakeSlurm(tmp_path, record + FINISH)
    assert slurm.start().wait() == 0
    assert (tmp_path / "arguments").read_text().strip() == (
        "--nodes=2 --ntasks=2 --ntasks-per-node=1 --mem=0 --cpu-bind=none --kill-on-bad-exit=1 --label "
        "python -m launch torchrun --processes 1 "
        f"--run={slurm.run} -- launch.rank --config x"
    )
    assert (tmp_path / "environment").read_text().split() == ["node1", str(12000 + 12 * 7 + 1), "ALL"]


def test_the_step_gets_all_cores_of_a_node(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path, 'echo "$@" >"$RECORD/arguments"\n' + FINISH, site=Site(cpus_per_task=6))
    assert slurm.start(environment={"SLURM_CPUS_PER_TASK": "6"}).wait() == 0
    arguments = (tmp_path / "arguments").read_text().split(" --kill-on-bad-exit")[0].split()
    assert arguments == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--mem=0", "--cpus-per-task=6"]


def test_an_interactive_job_around_the_submission_does_not_reach_the_step(tmp_path: Path) -> None:
    leaked = {
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SLURM_CPU_BIND_LIST": "0x1",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_MEM_PER_NODE": "200",
        "SLURM_TRES_PER_TASK": "cpu=1",
    }
    slurm = FakeSlurm(tmp_path, 'env >"$RECORD/environment"\n' + FINISH)
    assert slurm.start(environment=leaked).wait() == 0
    seen = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert "SLURM_JOB_ID" in seen
    assert not seen & leaked.keys()


def test_a_crash_starts_again_in_the_same_allocation(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path, once(END.format("crashed", "oh") + "; exit 1", FINISH))
    assert slurm.start().wait() == 0
    assert slurm.calls == ["srun", "srun"]
    assert [record.outcome for record in read_attempts(slurm.run)] == ["crashed", "finished"]


def test_a_hang_requeues(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path, END.format("hung", "oh") + "; exit 76")
    assert slurm.start().wait() == 0
    assert slurm.calls == ["srun", "requeue 12"]


@pytest.mark.parametrize("outcome", ["bad input", "gave up"])
def test_what_a_person_must_mend_ends_the_job_with_the_reason_on_top_of_the_log(outcome: str, tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path, END.format(outcome, "model.rank is wrong") + "; exit 2")
    assert slurm.start().wait() == 1
    assert slurm.calls == ["srun"]
    first = (slurm.run / "logs/run.log").read_text().splitlines()[0]
    assert first == f"STOPPED: attempt 1 {outcome} after step 0: model.rank is wrong"


def test_the_same_crash_stops_after_the_set_number_of_tries(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path, END.format("crashed", "oh") + "; exit 1")
    assert slurm.start(tries=2).wait() == 1
    assert slurm.calls == ["srun", "srun"]
    log = (slurm.run / "logs/run.log").read_text()
    assert log.startswith("STOPPED: 2 attempts in a row ended after step 0; attempt 2 crashed after step 0: oh\n")


TRAIN_UNTIL_TOLD = """
trap '{end}; exit 0' USR1
touch "$RECORD/training"
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize(("number", "named"), [(signal.SIGUSR1, "SIGUSR1"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_reaches_the_ranks_as_usr1_and_the_job_is_requeued(
    number: signal.Signals, named: str, tmp_path: Path
) -> None:
    slurm = FakeSlurm(tmp_path, TRAIN_UNTIL_TOLD.format(end="kill $$"))
    job = slurm.start()
    _wait_for(tmp_path / "training")
    job.send_signal(number)
    assert job.wait(30) == 0
    assert slurm.calls == ["srun", "requeue 12"]
    [record] = read_attempts(slurm.run)
    assert record.end["reason"] == f"{named}: before training had begun"


def test_a_signal_just_before_a_step_begins_is_passed_on_to_it(tmp_path: Path) -> None:
    """The shell sends it to itself, between srun's start and the line after it."""
    debug = """trap '[ "$BASH_COMMAND" != "step=\\$!" ] || kill -USR1 $$' DEBUG"""
    slurm = FakeSlurm(tmp_path, TRAIN_UNTIL_TOLD.format(end="kill $$"), site=Site(setup=[debug]))
    assert slurm.start().wait(30) == 0
    assert slurm.calls[-1] == "requeue 12"
    assert read_attempts(slurm.run)[0].end["reason"] == "SIGUSR1: before training had begun"


def test_a_cancelled_job_is_not_requeued(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path, TRAIN_UNTIL_TOLD.format(end="kill $$"), state="COMPLETING")
    job = slurm.start()
    _wait_for(tmp_path / "training")
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 0
    assert slurm.calls == ["srun"]


def test_an_attempt_whose_node_died_is_closed_by_the_next_with_the_nodes_state(tmp_path: Path) -> None:
    died = FakeSlurm(tmp_path, 'echo "{\\"step\\": 0}" >"$A/start.json"; kill -9 $PPID; exit 1')
    assert died.start().wait() == -signal.SIGKILL
    assert read_attempts(died.run)[0].outcome is None
    again = FakeSlurm(tmp_path, FINISH, sinfo="echo 'node1 idle none'; echo 'node2 down* Not responding'")
    assert again.start(restarts=1).wait() == 0
    first, second = read_attempts(again.run)
    assert (first.outcome, first.end["reason"]) == ("lost", "node node2 is down* (Not responding)")
    assert second.launch["restarts"] == 1
    assert "attempt 1 lost after step 0: node node2 is down* (Not responding)" in (
        (again.run / "logs/run.log").read_text()
    )


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_an_image_needs_no_commands_of_slurms(runtime: str, tmp_path: Path) -> None:
    container = Container("/image", runtime=runtime, mounts=[str(tmp_path)])  # type: ignore[arg-type]
    lost = 'echo "{\\"step\\": 0}" >"$A/start.json"; kill -9 $PPID; exit 1'
    states = "echo 'node1 idle none'; echo 'node2 down* Not responding'; echo 'node3 down none'"
    FakeSlurm(tmp_path, lost, site=Site(container=container)).start().wait()
    slurm = FakeSlurm(tmp_path, FINISH, sinfo=states, site=Site(container=container))
    assert slurm.start(restarts=1).wait() == 0, (slurm.run / "logs/run.log").read_text()
    first, second = read_attempts(slurm.run)
    assert first.end["reason"] == "node node2 is down* (Not responding)"
    assert (second.outcome, second.launch["nodes"]) == ("finished", ["node1", "node2"])


def test_a_job_that_was_requeued_after_the_run_had_finished_does_nothing(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path, FINISH)
    assert slurm.start().wait() == 0
    assert slurm.start(restarts=1).wait() == 0
    assert slurm.calls == ["srun"]


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)
