"""`python -m launch slurm --nodes N --config configs/X.yaml [--site FILE] [--dry-run] [--section.key value ...]`

In: the training's arguments and a site file. Out: a submitted job, its id and how to follow it; or the script.
Always: a wrong config, partition or number of nodes is one line and status 2 before anything is queued.
"""

import argparse
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from common.cli import parse_config
from common.errors import InputError, nearest
from common.files import write_atomically
from common.flags import FlagParser
from common.output import say
from common.ranges import check_range
from common.typed import shortened
from common.urls import references_in_values
from launch.local import check
from launch.slurm.container import check_container
from launch.slurm.environment import outside_of_jobs
from launch.slurm.installation import interpreter, packages_folder
from launch.slurm.script import Job, render
from launch.slurm.setup import check_setup
from launch.slurm.site import ALWAYS_PASSED, Site, load_site
from pretrain.config import RunConfig
from pretrain.places import LOG_FILE

SITE_FILE = Path("site.yaml")
EXAMPLE_SITE = Path(__file__).parent / "site.yaml"
SCRIPT_FILE = "job.sbatch"
SITE_PREFIX = "--site."


def main(arguments: list[str]) -> int:
    """Renders the script; submits it unless ``--dry-run`` is given."""
    settings, site_overrides, training = _parse(arguments)
    site_file = settings.site or (str(SITE_FILE) if SITE_FILE.exists() else None)
    site = load_site(site_file, site_overrides)
    check_site(site, site_file)
    config = parse_config(RunConfig, training, "python -m launch slurm")
    if not settings.dry_run:
        check_cluster(site, settings.nodes)
        if site.container is not None:
            check_container(site.container, Path.cwd(), Path.home(), config.run_folder, paths_inside(config))
    check(config, settings.nodes * site.processes)
    check_references(config, site)
    job = Job(
        config.name,
        settings.nodes,
        config.run_folder,
        training,
        project=Path.cwd(),
        tries=settings.tries,
        python=interpreter(site),
        code=packages_folder(site, Path.cwd()),
    )
    check_setup(site.setup)
    script = render(job, site)
    warn_of_shared_cores(site)
    if site_file is None:
        say(
            f"WARNING: there is no {SITE_FILE} here: what --site.* does not say is Slurm's default; copy {EXAMPLE_SITE}"
        )
    if settings.dry_run:
        print(script, end="")
        return 0
    path = config.run_folder / SCRIPT_FILE
    try:
        (config.run_folder / LOG_FILE).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, script)
    except OSError as error:
        raise InputError(f"run_dir: {config.run_folder} cannot be written: {error}") from None
    number = submit(path.absolute())
    print(f"job {number}: {config.name} on {settings.nodes} nodes x {site.processes} processes, script {path}")
    print(f"  site: {site_file or 'no file'}")
    print(f"  squeue --job {number}                            is it running?")
    print(f"  {shlex.join(['tail', '-F', str(config.run_folder / LOG_FILE)])}")
    print(f"  {shlex.join(['python', '-m', 'launch', 'status', str(config.run_folder)])}")
    print(f"  scancel {number}                                 ends it for good")
    return 0


def paths_inside(config: RunConfig) -> list[tuple[str, Path]]:
    """Settings and paths on a file system, beside the run folder, that ranks read or write."""
    mixtures = [config.data.train, *(stage.train or [] for stage in config.data.stages)]
    paths = [("data.train", source.path) for mixture in mixtures for source in mixture]
    for setting, path in {
        "data.validation": config.data.validation,
        "checkpoint.branch_from": config.checkpoint.branch_from,
        "checkpoint.remote": config.checkpoint.remote,
    }.items():
        paths += [(setting, path)] if path else []
    plain = [(setting, path.removeprefix("file://")) for setting, path in paths]
    return [(setting, Path(path)) for setting, path in plain if "://" not in path]


def check_site(site: Site, site_file: str | None) -> None:
    """Refuses a site that leaves open how many ranks a node has.

    Raises:
        InputError: no site file, or one that does not say it.
    """
    if not site.says_processes:
        raise InputError(
            f"site: there is no {SITE_FILE} here, and nothing else says how many processes a node has; copy "
            f"{EXAMPLE_SITE}, or set --site.gpus_per_node or --site.processes_per_node"
            if site_file is None
            else f"{site_file}: says nothing of processes; set gpus_per_node or processes_per_node"
        )


def check_references(config: RunConfig, site: Site) -> None:
    """Refuses URLs that name variables which do not get into the job.

    Raises:
        InputError: names the variables.
    """
    passed = {*ALWAYS_PASSED, *site.pass_environment, *site.environment}
    missing = [name for name in references_in_values(dataclasses.asdict(config)) if name not in passed]
    if missing:
        raise InputError(f"site.pass_environment: lacks {', '.join(missing)}, which URLs of the config name")


def warn_of_shared_cores(site: Site) -> None:
    """One line where the ranks of a node will share cores."""
    if site.cpus_per_task is None and not site.has_whole_nodes:
        say(f"WARNING: site.cpus_per_task is not set: Slurm may give all {site.processes} processes of a node 1 core")
    elif site.cpus_per_task is not None and site.cpus_per_task < site.processes:
        say(
            f"WARNING: site.cpus_per_task: {site.cpus_per_task} for the {site.processes} processes of a node, which "
            "will share cores"
        )


def check_cluster(site: Site, nodes: int) -> None:
    """Refuses a partition that does not exist or is too small.

    Raises:
        InputError: there is no Slurm here, no such partition, or it has fewer nodes.
    """
    if shutil.which("sbatch") is None:
        raise InputError("slurm: there is no sbatch on this machine; run this on the cluster's login node")
    sizes: dict[str, int] = {}
    default = None
    for line in _ask("sinfo", "--all", "--noheader", "--format=%P %D").splitlines():
        name, count = line.split()
        default = name.rstrip("*") if name.endswith("*") else default
        sizes[name.rstrip("*")] = sizes.get(name.rstrip("*"), 0) + int(count)
    partition = site.partition or default
    if partition is None:
        raise InputError("site: partition is not set and the cluster has no default; there are " + ", ".join(sizes))
    for name in partition.split(","):  # Slurm takes the first that fits
        if name not in sizes:
            raise InputError(
                f"site: partition '{name}' does not exist{nearest(name, sizes)}; there are {', '.join(sizes)}"
            )
    largest = max(sizes[name] for name in partition.split(","))
    if nodes > largest:
        raise InputError(f"--nodes: is {nodes}, but partition {partition} has {largest} nodes")


def submit(script: Path) -> str:
    """Hands ``script`` to Slurm, which judges it first; returns the job's id.

    Raises:
        InputError: Slurm refuses it, in Slurm's words.
    """
    environment = outside_of_jobs(os.environ, script.read_text())
    _ask("sbatch", "--test-only", str(script), environment=environment)
    said = _ask("sbatch", "--parsable", str(script), environment=environment)
    number = said.strip().rpartition("\n")[2].partition(";")[0]
    if not re.fullmatch(r"[0-9]+", number):
        raise InputError(f"sbatch: named no job; it said: {shortened(said)}")
    return number


def _ask(*command: str, environment: Mapping[str, str] | None = None) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if answer.returncode != 0:
        said = " ".join((answer.stderr or answer.stdout).split()) or f"exit status {answer.returncode}"
        raise InputError(f"{shlex.join(command[:2])}: {said}")
    return answer.stdout


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    parser = FlagParser(
        prog="python -m launch slurm",
        usage="%(prog)s --nodes N [--site FILE] [--dry-run] --config FILE [--site.key value ...] "
        "[--section.key value ...]",
        description="Submits a run that looks after itself. `--site.key` overrides the site file; all other arguments "
        "go to `python -m pretrain`; its --help lists them.",
    )
    parser.add_argument("--nodes", type=int, required=True, help="nodes of the job")
    parser.add_argument("--site", help=f"the cluster's settings (default: {SITE_FILE}, if there is one)")
    parser.add_argument("--tries", type=int, default=Job.tries, help="attempts that may end after the same step")
    parser.add_argument("--dry-run", action="store_true", help="print the script and submit nothing")
    settings, rest = parser.parse_known_args(arguments)
    check_range(settings, "--", "nodes", "tries", low=1)
    site, training = split_site_overrides(rest)
    return settings, site, training


def split_site_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """``--site.key value`` and ``--site.key=value``, as ``--key``, apart from the rest."""
    site: list[str] = []
    rest: list[str] = []
    takes_value = False
    for argument in arguments:
        if takes_value:
            site.append(argument)
            takes_value = False
        elif argument.startswith(SITE_PREFIX):
            site.append("--" + argument.removeprefix(SITE_PREFIX))
            takes_value = "=" not in argument
        else:
            rest.append(argument)
    return site, rest
