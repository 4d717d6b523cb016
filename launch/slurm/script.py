"""The batch script of a run: settings on top, then the body of launch/slurm/pretrain.sbatch word for word.

In: a Site, the run's folder and arguments. Out: the script's text. Always: pure, and every value quoted for the shell.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from launch.slurm.site import ALWAYS_PASSED, Site
from launch.verdict import LOG_FILE

TEMPLATE = Path(__file__).parent / "pretrain.sbatch"
BODY_BEGINS = "# ---- From here on"


@dataclass(frozen=True)
class Job:
    """What is started."""

    name: str
    nodes: int
    run_folder: Path
    arguments: list[str]
    """the training's own, such as --config configs/X.yaml"""
    project: Path
    """folder that holds the packages; the job runs there"""
    tries: int = 3
    """attempts that may end after the same step before the run is stopped"""


def render(job: Job, site: Site) -> str:
    """The script."""
    parts = [
        f"#!/bin/bash\n# {job.name} on {job.nodes} nodes, rendered by `python -m launch slurm`.",
        "\n".join(f"#SBATCH {option}" for option in _options(job, site)),
        "\n".join([*site.setup, *_exports(site)]),
        "\n".join(_variables(job, site)),
        _body(),
    ]
    return "\n\n".join(part for part in parts if part)


def _options(job: Job, site: Site) -> list[str]:
    named: dict[str, object] = {
        "job-name": job.name,
        "chdir": job.project,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "time": site.time_limit,
        "gpus-per-node": site.gpus_per_node or None,
        "cpus-per-task": site.cpus_per_task,
        "signal": f"B:USR1@{site.signal_seconds}",
        "open-mode": "append",
        "output": job.run_folder / LOG_FILE,
        "export": ",".join(dict.fromkeys([*ALWAYS_PASSED, *site.pass_environment])),
    }
    options = [f"--{name}={shlex.quote(str(value))}" for name, value in named.items() if value is not None]
    return [*options, "--requeue", *site.options]


def _exports(site: Site) -> list[str]:
    variables = dict(site.environment)
    if site.interface:
        variables = {"NCCL_SOCKET_IFNAME": site.interface, "GLOO_SOCKET_IFNAME": site.interface} | variables
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _variables(job: Job, site: Site) -> list[str]:
    srun, python, helper = ["srun"], ["python"], []
    if site.container is not None and site.container.runtime == "pyxis":
        srun += [f"--container-image={site.container.image}"]
        srun += [f"--container-mounts={','.join(site.container.mounts)}"] if site.container.mounts else []
        srun += [f"--container-workdir={job.project}"]
        helper = [*srun, "--nodes=1", "--ntasks=1"]
    elif site.container is not None:
        binds = [f"--bind={mount}" for mount in site.container.mounts]
        python = [
            "apptainer",
            "exec",
            *(["--nv"] if site.gpus_per_node else []),
            *binds,
            site.container.image,
            "python",
        ]
    return [
        f"RUN={shlex.quote(str(job.run_folder))}",
        f"PROCESSES={site.processes}",
        f"CORES={site.cpus_per_task or ''}",
        f"TRIES={job.tries}",
        f"SRUN=({shlex.join(srun)})",
        f"PYTHON=({shlex.join(python)})",
        f"HELPER=({shlex.join(helper)})",
        f"ARGUMENTS=({shlex.join(job.arguments)})",
    ]


def _body() -> str:
    text = TEMPLATE.read_text()
    return text[text.index(BODY_BEGINS) :]
