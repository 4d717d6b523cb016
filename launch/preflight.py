"""`python -m launch preflight --config configs/X.yaml [--world-size N]`

In: the training's arguments and the number of processes it is meant for. Out: one line per finding; status 2 if
something must not be trained on. Under srun or torchrun, on several processes, the nodes are looked at, too.
"""

from common.cli import parse_config
from common.environment import whole_number
from common.flags import FlagParser
from common.ranges import check_range
from launch.node_checks import check_nodes
from pretrain.config import RunConfig
from pretrain.devices import DEFAULT_DEVICE, DEVICES
from pretrain.engines.accelerator import choose_accelerator


def main(arguments: list[str]) -> int:
    """Looks at the plan from one process, or at the nodes from all of them."""
    parser = FlagParser(
        prog="python -m launch preflight",
        usage="%(prog)s [--world-size N] [--device H100] --config FILE [--section.key value ...]",
        description="Checks a run before it starts. All other arguments are those of `python -m pretrain`.",
    )
    parser.add_argument("--world-size", type=int, help="processes of the planned job (default: those there are)")
    parser.add_argument("--device", default=DEFAULT_DEVICE, help=f"its GPUs: {', '.join(DEVICES)}")
    settings, training = parser.parse_known_args(arguments)
    check_range(settings, "--", "world_size", low=1)
    config = parse_config(RunConfig, training, "python -m launch preflight")
    choose_accelerator()
    connected = whole_number("WORLD_SIZE", 1, low=1)
    if connected > 1:
        _look_at_nodes(config)
    else:
        _look_at_plan(config, settings.world_size or connected, connected, settings.device)
    return 0


def _look_at_plan(config: RunConfig, world_size: int, connected: int, device: str) -> None:
    from launch.checks.finding import Level, refuse_errors
    from launch.checks.model import check_model
    from launch.checks.one_process import check_folders, check_topology

    topology = check_topology(config, world_size)
    model = check_model(config, world_size, device) if topology.level is Level.OK else []
    findings = [topology, *model, *check_folders(config, elsewhere=world_size > connected)]
    for finding in findings:
        print(finding, flush=True)
    refuse_errors(findings)


def _look_at_nodes(config: RunConfig) -> None:
    from pretrain.engines.connection import connect, disconnect
    from pretrain.topology import topology_from_environment

    topology = topology_from_environment(config.parallel)
    connect(topology)
    try:
        check_nodes(config, topology)
    finally:
        disconnect()
