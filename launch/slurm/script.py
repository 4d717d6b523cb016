"""The batch script of a run: settings on top, then the body of launch/slurm/pretrain.sbatch word for word.

In: a Site, the run's folder and arguments. Out: the script's text. Always: pure, and every value quoted for who reads
it, the shell or sbatch; only `site.setup` is shell of the user's own.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.urls import references_in, with_references, without_credentials
from launch.slurm.options import option_line
from launch.slurm.quote import check_argument, check_line, directive, log_pattern
from launch.slurm.site import ALWAYS_PASSED, Site
from pretrain.places import LOG_FILE

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
    """the job's working folder, which relative paths of the config begin at"""
    tries: int = 3
    """attempts that may end after the same step before the run is stopped"""
    python: str = "python"
    """interpreter of the job; a container has its own"""
    code: Path | None = None
    """folder that the packages are imported from; none: the interpreter finds them by itself, or in ``project``"""


def render(job: Job, site: Site) -> str:
    """The script.

    Raises:
        InputError: a value that no job script can hold.
    """
    for argument in job.arguments:
        check_no_credentials(argument)
    for setting, value in _shell_values(job, site):
        check_argument(value, setting)
    check_line(job.name, "name")  # a comment says it, too
    parts = [
        f"#!/bin/bash\n# {job.name} on {job.nodes} nodes, rendered by `python -m launch slurm`.",
        "\n".join(f"#SBATCH {option}" for option in _options(job, site)),
        "\n".join(site.setup),  # a blank line follows: a backslash at its end takes nothing of the script in
        "\n".join(_exports(job, site)),
        "\n".join(_variables(job, site)),
        _body(),
    ]
    return "\n\n".join(part for part in parts if part)


def check_no_credentials(argument: str) -> None:
    """Refuses a password or signed query, which everybody who reads the script or the queue would see.

    Raises:
        InputError: says what to write in its place.
    """
    referring = with_references(argument)
    if referring != argument:
        names = " and ".join(f"${{{name}}}" for name in references_in(referring))
        raise InputError(
            f"the arguments: {without_credentials(argument)}: has a password or a query, which would stand in the job "
            f"script; write {names} in its place, set that in the environment, and name it in site.pass_environment"
        )


def _options(job: Job, site: Site) -> list[str]:
    named: list[tuple[str, object, str]] = [
        ("job-name", job.name, "name"),
        ("chdir", job.project, "the project's folder"),
        ("nodes", job.nodes, "--nodes"),
        ("ntasks-per-node", 1, ""),
        ("partition", site.partition, "site.partition"),
        ("account", site.account, "site.account"),
        ("qos", site.qos, "site.qos"),
        ("time", site.time_limit, "site.time_limit"),
        ("gpus-per-node", site.gpus_per_node or None, "site.gpus_per_node"),
        ("cpus-per-task", site.cpus_per_task, "site.cpus_per_task"),
        ("signal", f"B:USR1@{site.signal_seconds}", "site.signal_seconds"),
        ("open-mode", "append", ""),
        ("output", log_pattern(job.run_folder / LOG_FILE, "run_dir"), "run_dir"),
        ("export", ",".join(dict.fromkeys([*ALWAYS_PASSED, *site.pass_environment])), "site.pass_environment"),
    ]
    options = [directive(name, str(value), setting) for name, value, setting in named if value is not None]
    return [*options, "--requeue", *map(option_line, site.options)]


def _shell_values(job: Job, site: Site) -> list[tuple[str, str]]:
    """Everything that is quoted for the shell, and the setting that it comes from."""
    container = [site.container.image, *site.container.mounts] if site.container is not None else []
    return [
        *(("the arguments", argument) for argument in job.arguments),
        *((f"site.environment.{name}", value) for name, value in site.environment.items()),
        *(("site.setup", line) for line in site.setup),
        *(("site.container", value) for value in container),
        ("site.interface", site.interface or ""),
        ("the interpreter", job.python),
        ("the packages' folder", str(job.code or "")),
    ]


def _exports(job: Job, site: Site) -> list[str]:
    variables = dict(site.environment)
    if site.interface:
        variables = {"NCCL_SOCKET_IFNAME": site.interface, "GLOO_SOCKET_IFNAME": site.interface} | variables
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if job.code is not None:
        lines.append(f"export PYTHONPATH={shlex.quote(str(job.code))}${{PYTHONPATH:+:$PYTHONPATH}}")
    return lines


def _variables(job: Job, site: Site) -> list[str]:
    srun, python, helper = ["srun"], [job.python], []
    if site.container is not None and site.container.runtime == "pyxis":
        srun += [f"--container-image={site.container.image}"]
        srun += [f"--container-mounts={','.join(site.container.mounts)}"] if site.container.mounts else []
        srun += [f"--container-workdir={job.project}"]
        helper = [*srun, "--nodes=1", "--ntasks=1", "--mem=0"]
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
