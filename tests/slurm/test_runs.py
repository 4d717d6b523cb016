"""Runs on a real Slurm cluster: they train as on one machine, and whatever dies, they go on with the same losses."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.slurm.cluster import Cluster
from tests.slurm.runs import CORES, PROCESSES, STEPS, Run, Site

NOBODY = 65534

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> Run:
    """A run on two nodes to which nothing happens."""
    run = site.submit("undisturbed")
    run.end()
    return run


def check_resumed(run: Run, undisturbed: Run, *said: str) -> None:
    """The run finished by itself with the losses of the undisturbed one, left no process and says what happened."""
    run.end()
    assert run.losses() == undisturbed.losses(), run.story
    assert run.attempts[-1].outcome == "finished", run.story
    assert len(run.attempts) > 1
    assert run.attempts[-1].start["step"] > 0, "it began again from nothing"
    for text in said:
        assert text in run.log, run.story
    run.cluster.wait_for(lambda: not run.processes(), f"no process to be left: {run.processes()}", seconds=40)


def test_two_nodes_train_as_one_machine_does(undisturbed: Run, site: Site) -> None:
    losses = undisturbed.losses()
    assert list(losses) == list(range(1, STEPS + 1)), undisturbed.log
    assert losses == pytest.approx(site.train_here("one_machine"), abs=1e-5)
    assert not undisturbed.processes()


def test_a_finished_run_is_not_requeued_and_its_log_tells_of_it(undisturbed: Run, site: Site) -> None:
    assert undisturbed.state in {"", "COMPLETED"}
    [attempt] = undisturbed.attempts
    assert attempt.outcome == "finished"
    for what in ("software", "clocks", "devices", "all-reduce inside nodes", "all-reduce between nodes", "space"):
        assert f"preflight ok      {what}:" in undisturbed.log
    assert " cores: " in undisturbed.log  # a warning where both CPUs of this machine are one core
    for node in ("node1", "node2"):
        assert (undisturbed.folder / f"logs/node_{node}.log").exists()
    for rank in range(4):
        assert (undisturbed.folder / f"logs/rank_{rank}.log").exists()
    status = site.launch("status", str(undisturbed.folder)).out
    assert "finished" in status
    assert f"step         {STEPS} of {STEPS}" in status


def test_a_run_is_submitted_from_a_folder_that_holds_neither_code_nor_environment(
    site: Site, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("configs", "corpora"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    run = site.submit("elsewhere", "--site.setup=[]")
    run.end()
    assert len(run.losses()) == STEPS, run.story
    assert run.losses() == undisturbed.losses()


@pytest.mark.parametrize("way", ["rendered", "plain"])
def test_the_ranks_of_a_node_have_all_cores_that_were_asked_for(way: str, site: Site) -> None:
    run = site.submit(f"cores_{way}") if way == "rendered" else site.submit_plain_script(f"cores_{way}")
    run.reach(1)
    cores = {node: run.cores(node) for node in ("node1", "node2")}
    assert [len(ranks) for ranks in cores.values()] == [PROCESSES, PROCESSES]
    assert all(len(mask) == CORES for ranks in cores.values() for mask in ranks), cores


def test_a_killed_rank_starts_the_run_again_in_the_same_allocation(site: Site, undisturbed: Run) -> None:
    run = site.submit("killed")
    run.reach(15)
    os.kill(run.ranks("node2")[0], signal.SIGKILL)
    check_resumed(run, undisturbed, "rank 2 on node2 was killed by SIGKILL", "resuming at step 10")
    assert all(attempt.launch["restarts"] == 0 for attempt in run.attempts)


def test_a_rank_that_stops_responding_is_named_and_the_run_requeued(site: Site, undisturbed: Run) -> None:
    run = site.submit("stopped")
    run.reach(15)
    os.kill(run.ranks("node2")[1], signal.SIGSTOP)
    check_resumed(run, undisturbed, "rank 3 on node2 did not answer in time", "waited in all_reduce over ranks 0-3")
    assert run.attempts[0].outcome == "hung"
    assert list(run.attempts[0].folder.glob("rank_00000.stacks"))
    assert run.attempts[-1].launch["restarts"] >= 1


def test_a_crashed_node_requeues_the_run_on_the_others(cluster: Cluster, site: Site, undisturbed: Run) -> None:
    run = site.submit("crashed_node")
    run.reach(15)
    cluster.crash("node2")
    check_resumed(run, undisturbed, "node1, node3")
    assert run.attempts[-1].launch["nodes"] == ["node1", "node3"]


def test_a_crash_of_the_first_node_takes_the_batch_script_with_it(
    cluster: Cluster, site: Site, undisturbed: Run
) -> None:
    run = site.submit("crashed_first")
    run.reach(15)
    cluster.crash("node1")
    check_resumed(run, undisturbed, "node node1 is down")
    assert run.attempts[0].outcome == "lost"


def test_a_cut_link_requeues_the_run_on_the_others(cluster: Cluster, site: Site, undisturbed: Run) -> None:
    run = site.submit("cut")
    run.reach(15)
    cluster.cut("node2")
    run.reach(STEPS // 2, attempt=2)
    cluster.mend("node2")  # its ranks must be found and ended
    check_resumed(run, undisturbed, "node2")
    assert run.attempts[-1].launch["nodes"] == ["node1", "node3"]


def test_a_preempted_run_saves_and_goes_on(cluster: Cluster, site: Site, undisturbed: Run) -> None:
    run = site.submit("preempted")
    run.reach(15)
    cluster.slurm("scancel", "--signal=TERM", run.job)  # what Slurm sends to the steps of a job that it preempts
    check_resumed(run, undisturbed, "SIGTERM: preempted")
    first = run.attempts[0]
    assert first.outcome == "stopped"
    assert run.attempts[1].start["step"] == first.step


def test_near_its_time_limit_a_run_saves_requeues_and_goes_on(cluster: Cluster, site: Site) -> None:
    run = site.submit("time_limit", "--site.time_limit=3", train__steps=100_000, checkpoint__every=0)
    run.reach(1, attempt=2, seconds=400)
    first = run.attempts[0]
    assert first.outcome == "stopped"
    assert "SIGUSR1: the time limit is near" in first.end["reason"]
    run.reach((first.step or 0) + 10, attempt=None)
    cluster.slurm("scancel", run.job)
    run.end()
    time.sleep(5)
    assert run.state in {"", "CANCELLED"}, "a cancelled job came back"
    losses = run.losses()
    reference = site.submit_plain_script("no_limit", train__steps=100_000, checkpoint__every=0)
    reference.reach(len(losses))
    cluster.slurm("scancel", reference.job)
    reference.end()
    known = reference.losses()
    assert len(losses) > (first.step or 0)
    assert losses == {step: known[step] for step in losses}


def test_another_user_than_root_submits(cluster: Cluster, site: Site, undisturbed: Run) -> None:
    home = cluster.folder / "home"
    (cluster.folder / "runs" / "nobody").mkdir()
    home.mkdir()
    for path in (home, cluster.folder / "runs" / "nobody"):
        os.chown(path, NOBODY, NOBODY)
    run = site.submit("nobody/run", user=NOBODY, train__steps=3, schedule__warmup_steps=1, schedule__kind="linear")
    run.end()
    assert [attempt.outcome for attempt in run.attempts] == ["finished"], run.story
    assert {path.stat().st_uid for path in (run.folder / "checkpoints").rglob("*")} == {NOBODY}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--site.partition=mian"], "partition 'mian' does not exist; did you mean 'main'?"),
        (["--nodes=4"], "--nodes: is 4, but partition main has 3 nodes"),
        (["--model.rnk=3"], "unknown key 'model.rnk'; did you mean 'model.rank'?"),
        (["--batch.global_size=9"], "batch.global_size: must be a multiple of"),
        (["--site.time_limit=soon"], "site.time_limit: takes MINUTES, "),
        (["--site.account=a", "--site.options=[--nodelist=nowhere]"], "sbatch --test-only: "),
    ],
)
def test_what_cannot_run_is_one_line_before_anything_is_queued(
    site: Site, cluster: Cluster, options: list[str], said: str
) -> None:
    folder = cluster.folder / "runs" / "refused"
    answer = site.launch("slurm", "--nodes=2", f"--site={site.file}", *site.arguments(folder), *options)
    assert answer.status == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not answer.out
    assert not cluster.slurm("squeue", "--noheader")
