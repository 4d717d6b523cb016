"""What is true of a cluster, whatever is trained on it.

In: a site file (YAML) and `--site.key value` overrides. Out: a checked, frozen Site.
Always: secrets are passed on by name and never written into a script.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.cli import parse_config
from common.errors import InputError
from common.ranges import MOST_WORKERS, check_range
from launch.slurm.container import Container
from launch.slurm.options import option_line
from launch.slurm.time_limit import check_limit

ALWAYS_PASSED = ("HOME", "USER", "PATH", "LANG")
SET_BY_THE_SCRIPT = (
    *("RUN", "PROCESSES", "CORES", "TRIES", "SRUN", "PYTHON", "HELPER", "ARGUMENTS", "STEP", "NODES"),
    *("MASTER_ADDR", "MASTER_PORT", "PRETRAIN_ATTEMPT", "SLURM_EXPORT_ENV"),
)
SET_BY_SLURM = re.compile(r"SLURM_(JOB|NNODES|NODE|NTASKS|NPROCS|CPU|MEM_|TRES|RESTART|PROCID|LOCALID)\w*")
SET_BY_BASH = ("UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO")
NO_NAMES = ("ALL", "NONE", "NIL")
"""words that sbatch's --export does not take for names of variables"""


@dataclass(frozen=True)
class Site:
    """Slurm settings of a cluster."""

    partition: str | None = None
    """partition; none: the cluster's default"""
    account: str | None = None
    """account to charge"""
    qos: str | None = None
    """quality of service"""
    time_limit: str | None = None
    """as sbatch takes it, such as 24:00:00 or 7-00:00:00; none: the partition's"""
    gpus_per_node: int = 0
    """GPUs of a node, one process each; 0: none, see processes_per_node"""
    processes_per_node: int | None = None
    """processes of a node without GPUs (default: 1)"""
    cpus_per_task: int | None = None
    """CPU cores per node for the run; none: the partition's default"""
    interface: str | None = None
    """network interface between the nodes, for NCCL and gloo; none: they choose"""
    setup: list[str] = field(default_factory=list)
    """shell lines that prepare the environment, such as module load or source .venv/bin/activate"""
    environment: dict[str, str] = field(default_factory=dict)
    """variables that are set in the job"""
    pass_environment: list[str] = field(default_factory=list)
    """variables that are taken over from your shell, beside HOME, USER, PATH and LANG"""
    signal_seconds: int = 300
    """warning before the time limit; longer than one step and one save"""
    options: list[str] = field(default_factory=list)
    """further sbatch options, one an entry; its value may hold blanks"""
    container: Container | None = None
    """image that ranks run in"""

    def __post_init__(self) -> None:
        check_range(self, "site.", "gpus_per_node", low=0, high=MOST_WORKERS)
        check_range(self, "site.", "processes_per_node", "cpus_per_task", low=1, high=MOST_WORKERS)
        check_range(self, "site.", "signal_seconds", low=1, high=65_535)  # what sbatch takes
        if self.time_limit is not None:
            check_limit(self.time_limit, self.signal_seconds)
        for name in [*self.pass_environment, *self.environment]:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise InputError(f"site: '{name}' is no name of an environment variable")
        for name in self.pass_environment:
            if name.upper() in NO_NAMES:
                raise InputError(f"site.pass_environment: takes variables by name; sbatch takes '{name}' for a word")
        for name in self.environment:
            if name in (*SET_BY_THE_SCRIPT, *SET_BY_BASH) or SET_BY_SLURM.fullmatch(name):
                raise InputError(f"site.environment: '{name}' is set by the job script, bash or Slurm")
        for option in self.options:
            option_line(option)

    @property
    def says_processes(self) -> bool:
        """Whether the ranks of a node were chosen, and are not one for want of a word."""
        return self.processes_per_node is not None or self.gpus_per_node > 0

    @property
    def has_whole_nodes(self) -> bool:
        """Whether the options ask for whole nodes, with all their cores."""
        return any(option.split("=")[0].strip() == "--exclusive" for option in self.options)

    @property
    def processes(self) -> int:
        """Ranks on one node."""
        return self.processes_per_node or self.gpus_per_node or 1


def load_site(path: str | None, overrides: Sequence[str]) -> Site:
    """The site file, with ``overrides`` such as ``--partition main`` on top.

    Raises:
        InputError: unreadable file, unknown key or wrong type.
    """
    return parse_config(Site, [*(["--config", path] if path else []), *overrides], "python -m launch slurm")
