"""Runs of the debug model on the test cluster: how to submit, watch and compare them.

In: a Cluster. Out: Runs, whose folder, job and losses can be asked for at any time.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pretrain.resilience.attempts import AttemptRecord, read_attempts
from pretrain.step_lines import read_steps
from tests.processes import environment_of
from tests.slurm.cluster import CONTROLLER, Answer, Cluster

STEPS = 40
PROCESSES = 2
CORES = 2
"""of a node, for all its ranks"""
OVERRIDES = {
    "train.steps": STEPS,
    "schedule.warmup_steps": 5,
    "data.sequence_length": 64,
    "batch.global_size": 8,
    "batch.micro_size": 2,
    "checkpoint.every": 10,
    "evaluation.every": 0,
    "evaluation.batches": 1,
    "metrics.every": 1,
    "metrics.wandb": "false",
    "resilience.hang_seconds": 30,
}
SITE = """\
processes_per_node: {processes}
cpus_per_task: {cores}
interface: eth0
time_limit: "30"
signal_seconds: 60
setup: [source .venv/bin/activate]
environment: {{OMP_NUM_THREADS: "1", TORCH_CPP_LOG_LEVEL: ERROR}}
pass_environment: [TORCH_EXTENSIONS_DIR]
"""


@dataclass(frozen=True)
class Run:
    """A submitted run."""

    folder: Path
    job: str
    cluster: Cluster

    @property
    def log(self) -> str:
        """What all attempts have printed."""
        path = self.folder / "logs/run.log"
        return path.read_text() if path.exists() else ""

    @property
    def story(self) -> str:
        """The log without its steps and preflight, for the message of a failed test."""
        dull = (": step ", ": preflight ok")
        return "\n" + "\n".join(line for line in self.log.splitlines() if not any(text in line for text in dull))

    @property
    def attempts(self) -> list[AttemptRecord]:
        """All attempts so far."""
        return read_attempts(self.folder)

    @property
    def state(self) -> str:
        """Slurm's state of the job; empty when it is gone."""
        return self.cluster.run(CONTROLLER, "squeue", "--noheader", f"--job={self.job}", "--format=%T").out.strip()

    def reach(self, step: int, attempt: int | None = 1, seconds: float = 300) -> None:
        """Waits until ``attempt``, or any if None, has finished ``step``."""

        def reached() -> bool:
            records = [record for record in self.attempts if attempt in {record.number, None}]
            assert self.state, f"the job is gone:{self.story}"
            return any((record.step or 0) >= step for record in records)

        self._wait(reached, f"attempt {attempt} to reach step {step}", seconds)

    def end(self, seconds: float = 400) -> None:
        """Waits until the job is gone from the queue."""
        self._wait(lambda: self.state in {"", "COMPLETED", "FAILED", "CANCELLED"}, "the job to end", seconds)

    def ranks(self, node: str) -> list[int]:
        """Process numbers of the run's ranks on a node, as this machine counts."""
        mine = [process for process, line in self.cluster.processes(node) if str(self.folder) in line]
        return sorted(p for p in mine if b"\0LOCAL_RANK=" in environment_of(p))

    def cores(self, node: str) -> list[set[int]]:
        """The cores that each of the run's ranks on a node may use."""
        return [os.sched_getaffinity(rank) for rank in self.ranks(node)]

    def processes(self) -> list[str]:
        """Command lines of everything that belongs to the run, on every node that is up."""
        found = [line for node in self.cluster.names for _, line in self.cluster.processes(node)]
        return [line for line in found if str(self.folder) in line]

    def losses(self) -> dict[int, float]:
        """The training loss of every step."""
        return losses(self.folder)

    def _wait(self, done, what: str, seconds: float) -> None:  # type: ignore[no-untyped-def]
        try:
            self.cluster.wait_for(done, what, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the log:{self.story}") from None


class Site:
    """Where runs are submitted from."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.file = cluster.folder / "site.yaml"
        self.file.write_text(SITE.format(processes=PROCESSES, cores=CORES))

    def arguments(self, folder: Path, **overrides: object) -> list[str]:
        """The training's own arguments."""
        settings = {**OVERRIDES, **{key.replace("__", "."): value for key, value in overrides.items()}}
        flags = [f"--{key}={value}" for key, value in settings.items()]
        return ["--config=configs/debug_cpu.yaml", f"--run-dir={folder}", *flags]

    def launch(self, *arguments: str, user: int = 0, **environment: str) -> Answer:
        """`python -m launch ...` on the login node."""
        python = [sys.executable, "-m", "launch", *arguments]
        return self.cluster.run(CONTROLLER, *python, user=user, environment=environment)

    def submit(self, name: str, *options: str, user: int = 0, nodes: int = 2, **overrides: object) -> Run:
        """Submits a run into a folder of its own."""
        folder = self.cluster.folder / "runs" / name
        arguments = [f"--nodes={nodes}", f"--site={self.file}", *options, *self.arguments(folder, **overrides)]
        answer = self.launch(
            "slurm", *arguments, user=user, HOME=str(self.cluster.folder / "home") if user else "/root"
        )
        assert answer.status == 0, answer.err
        return Run(folder, answer.out.split()[1].rstrip(":"), self.cluster)

    def submit_plain_script(self, name: str, **overrides: object) -> Run:
        """As ``submit`` does, but by a copy of launch/slurm/pretrain.sbatch that is edited as its comment says."""
        folder = self.cluster.folder / "runs" / name
        (folder / "logs").mkdir(parents=True)
        edits = {
            "#SBATCH --nodes=16": "#SBATCH --nodes=2",
            "#SBATCH --gpus-per-node=8\n": "",
            "#SBATCH --cpus-per-task=64": f"#SBATCH --cpus-per-task={CORES}",
            "NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0": "GLOO_SOCKET_IFNAME=eth0 OMP_NUM_THREADS=1",
            "PROCESSES=8": f"PROCESSES={PROCESSES}",
            "CORES=64": f"CORES={CORES}",
            "--config configs/shared_diff_3b.yaml --run-dir runs/shared_diff_3b": " ".join(
                self.arguments(folder, **overrides)
            ),
            "runs/shared_diff_3b": str(folder),
        }
        text = Path("launch/slurm/pretrain.sbatch").read_text()
        for old, new in edits.items():
            assert old in text, old
            text = text.replace(old, new)
        script = folder / "mine.sbatch"
        script.write_text(text)
        return Run(folder, self.cluster.slurm("sbatch", "--parsable", str(script)), self.cluster)

    def train_here(self, name: str, **overrides: object) -> dict[int, float]:
        """The same run on this machine, by `python -m launch local`; its losses."""
        folder = self.cluster.folder / "runs" / name
        command = [sys.executable, "-m", "launch", "local", f"--nproc={2 * PROCESSES}"]
        subprocess.run([*command, *self.arguments(folder, **overrides)], check=True, capture_output=True)
        found = losses(folder)
        shutil.rmtree(folder)
        return found


def losses(folder: Path) -> dict[int, float]:
    """The training loss of every step of a run; fails where a step stands twice."""
    lines = [line for line in read_steps(folder / "metrics.jsonl") if "loss" in line]
    found = {line["step"]: line["loss"] for line in lines}
    assert len(found) == len(lines), "a step stands twice in metrics.jsonl"
    return found
