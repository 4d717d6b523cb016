"""`python scripts/recipes.py [--devices 8,64,512]`: writes docs/recipes.md, how to split each of the papers' sizes.

In: configs/shared_diff_*.yaml and the planner's search. Out: one page, a table for each size and for the stage of long
samples. Always: a recipe fits into the device, and its shards make up the model, as `python -m launch preflight` asks;
of those as good as the fastest the plainest is taken: least ZeRO, fewest stages, smallest tensor-parallel group, fewest
ranks that share a sample, least memory.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import parse_config, run_command
from common.errors import InputError
from common.files import write_atomically
from common.flags import FlagParser
from pretrain.config import RunConfig
from pretrain.devices import DEFAULT_DEVICE, DEVICES
from pretrain.plan.cluster import Cluster
from pretrain.plan.meta import build_stages, shape_problems
from pretrain.plan.report import GIB, duration
from pretrain.plan.search import Candidate, search

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
SIZES = ("830m", "1.4b", "2.8b", "3b", "3b_64k", "6.8b", "13b")
NEAR = 1.03
"""of the fastest step: nearer than a plan is to a measurement"""
INTRODUCTION = f"""# Recipes

Made by `python scripts/recipes.py` from the planner's search; do not edit. How each of the papers' sizes, and their
stage of 64K tokens, is split over {DEFAULT_DEVICE}s in nodes of 8, with the global batch and the steps of its config.
Take a row's settings as they are:

```
python -m launch slurm --nodes 8 --config configs/shared_diff_3b.yaml SETTINGS
```

Figures are planned, none is measured; [parallelism.md](parallelism.md) says how far plans are from what was measured.
*Waiting* is the share of a step in which passes wait for other ranks: exchanges in the open, and the pipeline's bubble.
Where it is half of a step, the paper's global batch has too few sequences for so many devices.
"""
HEAD = (
    "| devices | GiB | step, s | MFU | tokens/s | whole run | waiting | settings |\n|---|---|---|---|---|---|---|---|"
)


def recipe(config: RunConfig, devices: int, cluster: Cluster) -> Candidate:
    """The plainest of the fastest splits."""
    found = search(config, devices, cluster)
    near = [candidate for candidate in found if candidate.time.total <= NEAR * found[0].time.total]
    return min(near, key=_plainness)


def row(candidate: Candidate) -> str:
    """A row of a table."""
    time = candidate.time
    waiting = (time.tensor + time.boundaries + time.bubble + time.data) / time.total
    cells = (
        str(candidate.topology.world_size),
        f"{candidate.memory.total / GIB:.1f}",
        f"{time.total:.3f}",
        f"{time.model_flops_utilization:.1%}",
        f"{time.tokens_per_second:,.0f}",
        duration(candidate.run_seconds),
        f"{waiting:.1%}",
        f"`{candidate.flags()}`",
    )
    return f"| {' | '.join(cells)} |"


def check(candidate: Candidate) -> None:
    """Raises InputError where the shards of the recipe do not make up the model."""
    shards = build_stages(candidate.config, candidate.topology.world_size)
    if problems := list(shape_problems(candidate.config, shards)):
        raise InputError(f"{candidate.config.name} on {candidate.topology.world_size} devices: {problems[0]}")


def config_of(size: str, settings: Sequence[str] = ()) -> RunConfig:
    """The config of one of the papers' sizes, with ``settings`` on top."""
    path = ROOT / "configs" / f"shared_diff_{size}.yaml"
    return parse_config(RunConfig, ["--config", str(path), *settings], "python scripts/recipes.py")


def main(arguments: list[str]) -> int:
    """Writes the page."""
    parser = FlagParser(prog="python scripts/recipes.py", description=__doc__)
    parser.add_argument("--devices", default="8,64,512", help="numbers of devices, with commas between them")
    flags = parser.parse_args(arguments)
    counts = [int(part) for part in flags.devices.split(",") if part.strip().isdigit()]
    if len(counts) != len(flags.devices.split(",")) or min(counts, default=0) < 1:
        raise InputError(f"--devices {flags.devices}: numbers with commas between them are asked for, as 8,64,512")
    cluster = Cluster(DEVICES[DEFAULT_DEVICE])
    lines = [INTRODUCTION]
    for size in SIZES:
        lines.append(f"## configs/shared_diff_{size}.yaml\n\n{HEAD}")
        for devices in counts:
            found = recipe(config_of(size), devices, cluster)
            check(found)
            lines.append(row(found))
            print(f"{size} on {devices}: {found.flags()}", flush=True)
        lines.append("")
    write_atomically(PAGE, "\n".join(lines))
    return 0


def _plainness(candidate: Candidate) -> tuple[int, int, int, int, bool, bool, int]:
    parallel = candidate.config.parallel
    exchange = parallel.partition_ranks is not None, parallel.gradient_exchange != "fp32"
    sizes = parallel.pipeline, parallel.tensor, parallel.context
    return parallel.zero_stage, *sizes, *exchange, candidate.memory.total


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
