"""`python scripts/plan.py --config configs/X.yaml [--world_size N] [--section.key value ...] [--json]`

In: the training's own arguments, a number of devices and their kind. Out: parameters by part, operations per token,
memory of the most loaded device, communication and time of one step, as text or JSON.
"""

import argparse
import json
import sys

from common.cli import parse_config, run_command
from common.errors import InputError
from common.flags import FlagParser
from pretrain.config import RunConfig
from pretrain.devices import device_by_name

PROGRAM = "python scripts/plan.py"


def main(arguments: list[str]) -> int:
    """Prints the plan."""
    settings, training = _parse(arguments)
    device = device_by_name(settings.device)
    config = parse_config(RunConfig, training, PROGRAM)
    from pretrain.plan.plan import make_plan  # torch is slow to import: --help does without
    from pretrain.plan.report import report
    from pretrain.plan.time import Cluster

    world_size = settings.world_size or config.parallel.tensor * config.parallel.pipeline
    cluster = Cluster(device, settings.device, settings.gpus_per_node, settings.efficiency)
    plan = make_plan(config, world_size, cluster)
    print(json.dumps(plan.as_json(), indent=1) if settings.json else "\n".join(report(plan)))
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = FlagParser(
        prog=PROGRAM,
        usage="%(prog)s --config FILE [--world_size N] [--device H100] [--json] [--section.key value ...]",
        description="What a run needs. All other arguments are those of `python -m pretrain`; its --help lists them.",
    )
    parser.add_argument("--world_size", type=int, help="devices (default: one replica, tensor x pipeline)")
    parser.add_argument("--device", default="H100", help="H100, H200, B200, A100, L40S or 4090")
    parser.add_argument("--gpus_per_node", type=int, default=8, help="devices of a node, between which links are fast")
    parser.add_argument(
        "--efficiency", type=float, default=0.55, help="assumed share of the peak that matrix products reach"
    )
    parser.add_argument("--json", action="store_true", help="all figures, for machines")
    settings, training = parser.parse_known_args(arguments)
    for name in ("world_size", "gpus_per_node"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(f"--{name}: must be at least 1, is {value}")
    if not 0 < settings.efficiency <= 1:
        raise InputError(f"--efficiency: must be in (0, 1], is {settings.efficiency}")
    return settings, training


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
