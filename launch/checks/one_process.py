"""What one process can say about a run before there are nodes: does the plan hold together?

In: a RunConfig and a world size. Out: Findings. No process group, no GPU, no model.
"""

from common.errors import InputError
from launch.checks.finding import Finding, Level
from launch.checks.storage import check_space, data_problem, writing_problem
from pretrain.checks import check_run
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps
from pretrain.topology import plan_topology


def check_topology(config: RunConfig, world_size: int) -> Finding:
    """Do the sections of the config fit together, on so many processes?"""
    try:
        topology = plan_topology(config.parallel, world_size)
        check_run(config, topology)
    except InputError as error:
        return Finding("topology", str(error), Level.ERROR)
    steps = accumulation_steps(config, topology)
    return Finding("topology", f"{world_size} processes: {topology.describe()}, {steps} micro-batches per step")


def check_folders(config: RunConfig, elsewhere: bool) -> list[Finding]:
    """Can this machine read the data and write the run's folder, and is there room?

    Args:
        elsewhere: the run is planned for other machines, so that what is missing on this one is a warning only.
    """
    data, run = data_problem(config), writing_problem(config.run_folder)
    findings = [
        Finding("data", data or "a sample reads back", Level.ERROR if data else Level.OK),
        Finding("run folder", run or f"{config.run_folder} can be written", Level.ERROR if run else Level.OK),
        check_space(config),
    ]
    return [_warning(finding) for finding in findings] if elsewhere else findings


def _warning(finding: Finding) -> Finding:
    if finding.level is not Level.ERROR:
        return finding
    return Finding(finding.what, f"{finding.text} (on this machine; the run is planned for others)", Level.WARNING)
