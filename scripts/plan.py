"""`python scripts/plan.py --config configs/X.yaml [--world-size N] [--search] [--section.key value ...] [--json]`

In: the training's own arguments, a number of devices and their kind. Out: parameters by part, operations per token,
memory of the most loaded device, communication and time of one step, what to change and what all that rests on, as text
or JSON; with --search, the fastest splits over the devices that fit; with --lengths, memory and time of longer samples,
over ranks that share them.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import parse_config, run_command
from common.errors import InputError
from common.files import finite
from common.flags import FlagParser
from common.ranges import check_range
from pretrain.config import RunConfig
from pretrain.devices import DEFAULT_DEVICE, DEVICES, EFFICIENCY, GPUS_PER_NODE, device_by_name

if TYPE_CHECKING:  # --help does without torch
    from pretrain.plan.cluster import Cluster

PROGRAM = "python scripts/plan.py"


def main(arguments: list[str]) -> int:
    """Prints the plan."""
    settings, training = _parse(arguments)
    config = parse_config(RunConfig, training, PROGRAM)
    from pretrain.plan.advice import advice_lines, advise
    from pretrain.plan.lengths import lengths_report, plan_lengths
    from pretrain.plan.plan import make_plan  # torch is slow to import: --help does without
    from pretrain.plan.report import report
    from pretrain.plan.search import search
    from pretrain.plan.search_report import search_report
    from pretrain.topology import replica_size

    world_size = settings.world_size or replica_size(config.parallel)
    cluster = _cluster(settings)
    figures: Any
    if settings.search:
        found = search(config, world_size, cluster)
        figures, lines = [candidate.as_json() for candidate in found], search_report(found, cluster)
    elif settings.lengths:
        places = plan_lengths(config, world_size, cluster)
        figures, lines = [place.as_json() for place in places], lengths_report(config, world_size, cluster, places)
    else:
        plan = make_plan(config, world_size, cluster)
        advice = advise(plan)
        figures = plan.as_json() | {"advice": advice and advice.as_json()}
        lines = [*report(plan), "", *advice_lines(plan, advice)]
    print(json.dumps(finite(figures), indent=1) if settings.json else "\n".join(lines))
    return 0


def _cluster(settings: argparse.Namespace) -> "Cluster":
    from pretrain.plan.calibration import ENDING, read_calibration
    from pretrain.plan.cluster import Cluster

    if settings.device.endswith(ENDING):
        cluster = read_calibration(Path(settings.device)).cluster(settings.gpus_per_node)
    else:
        cluster = Cluster(device_by_name(settings.device), settings.device, settings.gpus_per_node)
    return cluster if settings.efficiency is None else replace(cluster, efficiency=settings.efficiency)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = FlagParser(
        prog=PROGRAM,
        usage="%(prog)s --config FILE [--world-size N] [--device H100] [--search | --lengths] [--json] "
        "[--section.key value ...]",
        description="What a run needs. All other arguments are those of `python -m pretrain`; its --help lists them.",
    )
    parser.add_argument("--world-size", type=int, help="devices (default: those of one replica of the model)")
    names = ", ".join(DEVICES)
    parser.add_argument("--device", default=DEFAULT_DEVICE, help=f"one of {names}, or a file of `make calibrate`")
    parser.add_argument(
        "--gpus-per-node", type=int, default=GPUS_PER_NODE, help="devices of a node, between which links are fast"
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        help=f"share of the peak that matrix products reach (default: {EFFICIENCY}, or as make calibrate measured it)",
    )
    parser.add_argument(
        "--search", action="store_true", help="list the fastest splits over --world-size devices that fit (seconds)"
    )
    parser.add_argument(
        "--lengths", action="store_true", help="samples of 4K to 1M tokens, each shared by 1 to 32 devices (seconds)"
    )
    parser.add_argument("--json", action="store_true", help="all figures, for machines")
    settings, training = parser.parse_known_args(arguments)
    check_range(settings, "--", "world_size", "gpus_per_node", low=1)
    check_range(settings, "--", "efficiency", above=0, high=1)
    for name in ("search", "lengths"):
        if getattr(settings, name) and settings.world_size is None:
            raise InputError(f"--{name}: needs the number of devices; add --world-size N")
    return settings, training


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
