"""The environment that sbatch is called in, without what would be obeyed against the script.

In: this process's environment and the script. Out: the environment for sbatch.
Always: a job that is submitted from within another one is not ruled by that one.
"""

import re
from collections.abc import Mapping

WHERE_SLURM_IS = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS"}
OF_A_JOB = ("SLURM_", "SLURMD_", "_SLURM_", "SPANK_")
"""sbatch passes all of these on, whatever --export says, and srun in the job would obey them"""
NEVER = {"SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_NO_REQUEUE", "SBATCH_INPUT"}
"""variables that would make the script another kind of job"""
OTHER_NAMES = {
    "time": "TIMELIMIT",
    "mem": "MEM_PER_NODE",
    "C": "CONSTRAINT",
    "G": "GPUS",
    "k": "NO_KILL",
    "L": "LICENSES",
    "m": "DISTRIBUTION",
    "M": "CLUSTERS",
    "O": "OVERCOMMIT",
    "S": "CORE_SPEC",
}
"""sbatch's variables that are not called like their options"""


def outside_of_jobs(environment: Mapping[str, str], script: str) -> dict[str, str]:
    """``environment`` without another job's variables and without SBATCH_* for what ``script`` itself says.

    For sbatch a variable wins over an `#SBATCH` line; a site's defaults, such as SBATCH_ACCOUNT, stay where the
    script says nothing.
    """
    said = re.findall(r"^#SBATCH --?([a-zA-Z-]+)", script, re.MULTILINE)
    dropped = NEVER | {f"SBATCH_{OTHER_NAMES.get(name, name.replace('-', '_').upper())}" for name in said}
    return {
        name: value
        for name, value in environment.items()
        if name not in dropped and (name in WHERE_SLURM_IS or not name.startswith(OF_A_JOB))
    }
