"""Job scripts on a real Slurm, without training: what sbatch and srun make of settings and of hostile names."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launch.slurm.script import Job, render
from launch.slurm.site import Site
from tests.launch.sbatch_reader import read_directives
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm

CORES = 2
PYTHON = """#!/bin/bash
case "$3" in
  begin)
    echo "the log" >&2
    echo 1
    ;;
  conclude) echo finished ;;
  torchrun)
    mask=$(taskset -pc $$)
    printf '%s\\n' "$SLURMD_NODENAME" "${mask##*: }" "$@" >"$OUT/$SLURMD_NODENAME.$SLURM_PROCID"
    ;;
esac
"""
"""stands in for all that the script starts, and writes down what it was given"""
LOG = "the log\n"
"""all that a job prints: no complaint of Slurm's"""


@dataclass
class Desk:
    """A folder from which scripts are submitted, whose ranks only write down where they are."""

    cluster: Cluster
    folder: Path
    setup: list[str] = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        python = self.folder / "bin/python"
        python.write_text(PYTHON)
        python.chmod(0o755)
        here = shlex.quote(str(self.folder))
        self.setup = [f"export PATH={here}/bin:$PATH OUT={here}"]

    def job(self, script: str) -> dict[str, str]:
        """Runs ``script`` to its end; what Slurm knows of it."""
        path = self.folder / "job.sbatch"
        path.write_text(script)
        number = self.cluster.slurm("sbatch", "--parsable", str(path))
        self.cluster.wait_for(lambda: not self.cluster.slurm("squeue", "--noheader"), f"job {number} to end", 60)
        lines = self.cluster.slurm("scontrol", "show", "job", number).splitlines()
        return {name: value for name, _, value in (line.strip().partition("=") for line in lines)}

    def ranks(self) -> dict[str, list[str]]:
        """What every rank has written down."""
        return {path.name: path.read_text().splitlines() for path in sorted(self.folder.glob("node*"))}


@pytest.fixture
def desk(cluster: Cluster, request: pytest.FixtureRequest) -> Desk:
    return Desk(cluster, cluster.folder / f"desk {abs(hash(request.node.name))}")


@pytest.mark.parametrize(
    ("cores", "options"),
    [
        (CORES, []),
        (None, ["--exclusive"]),
        (CORES, ["--exclusive"]),
        (CORES, ["--hint=nomultithread"]),
        (None, ["--exclusive", "--hint=nomultithread"]),
        (CORES, ["--threads-per-core=1"]),
        (CORES, ["--mem-per-cpu=100"]),
        (CORES, ["--mem=200"]),
    ],
)
def test_one_task_a_node_has_all_cores_of_the_job(cores: int | None, options: list[str], desk: Desk) -> None:
    site = Site(processes_per_node=2, cpus_per_task=cores, options=options, setup=desk.setup)
    (desk.folder / "run/logs").mkdir(parents=True)
    desk.job(render(Job("cores", 2, desk.folder / "run", [], Path.cwd()), site))
    log = (desk.folder / "run/logs/run.log").read_text()
    assert list(desk.ranks()) == ["node1.0", "node2.1"], log
    assert [lines[1] for lines in desk.ranks().values()] == ["0,1", "0,1"], log
    assert log == LOG


@pytest.mark.parametrize(
    "text",
    [
        "two words",
        "100%j of %x_%A",
        "$(touch hacked) `touch hacked` ${HOME}",
        "it's \"quoted\" 'twice'",
        "; touch hacked # not a comment",
        "-dash --nodes=9",
        "caf\u00e9 *?[a-z]{1,2}~!&|<>",
    ],
)
def test_a_name_and_a_folder_arrive_as_they_were(text: str, desk: Desk) -> None:
    run = desk.folder / text
    (run / "logs").mkdir(parents=True)
    options = [f"--comment={shlex.quote(text)}"]
    arguments = ["--name", text, "", "a\nb", f"--run-dir={run}"]
    site = Site(processes_per_node=3, cpus_per_task=CORES, options=options, setup=desk.setup)
    script = render(Job(text, 2, run, arguments, Path.cwd()), site)
    shown = desk.job(script)
    said = dict(entry.decode().partition("=")[::2] for entry in read_directives(script.encode()))
    assert (shown["JobId"].split(" JobName=")[1], shown["Comment"]) == (text, said["--comment"])
    assert (run / "logs/run.log").read_text() == LOG
    for lines in desk.ranks().values():
        given = "\n".join(lines[2:])
        expected = ["-m", "launch", "torchrun", "--processes", "3", f"--run={run}", "--", "launch.rank", *arguments]
        assert given == "\n".join(expected)
    assert not list(Path.cwd().glob("hacked")) + list(desk.folder.rglob("hacked"))
