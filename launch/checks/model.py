"""Is the model that the config describes one that can be built, split and held?

In: a RunConfig that passes check_topology, a world size and the kind of device. Out: Findings: shards that do not
make up the model, and the memory of the most loaded rank. Always: one process and seconds, because everything is built
on the meta device.
"""

from launch.checks.finding import Finding, Level
from model.counts import parameter_counts
from pretrain.config import RunConfig
from pretrain.devices import DEFAULT_DEVICE, GIB, device_by_name
from pretrain.plan.cluster import Cluster
from pretrain.plan.meta import build_stages, shape_problems
from pretrain.plan.plan import Plan, make_plan

SHOWN = 3
"""shapes that do not fit are named up to this number"""


def check_model(config: RunConfig, world_size: int, device_name: str = DEFAULT_DEVICE) -> list[Finding]:
    """Builds every distinct shard, and compares the most loaded rank with the device.

    Raises:
        InputError: a device that is not in the table.
    """
    plan = make_plan(config, world_size, Cluster(device_by_name(device_name), device_name))
    return [_shapes(config, world_size), _memory(plan), *(_note(note) for note in plan.notes())]


def _shapes(config: RunConfig, world_size: int) -> Finding:
    stages = build_stages(config, world_size)
    problems = list(shape_problems(config, stages))
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        return Finding("model", "; ".join(problems[:SHOWN]) + more, Level.ERROR)
    total = sum(parameter_counts(config.model).values())
    largest = max(stages, key=lambda built: built.elements)
    return Finding(
        "model",
        f"{total / 1e9:.3f} B parameters; {len(stages)} different shards built, which make them up; the largest has "
        f"{largest.elements / 1e9:.3f} B (stage {largest.stage}, {largest.layers[0]} to {largest.layers[-1]})",
    )


def _memory(plan: Plan) -> Finding:
    held, device = plan.memory, plan.cluster.device
    text = (
        f"rank {held.rank} (stage {held.stage}) is the most loaded: {held.total / GIB:.1f} GiB of "
        f"{plan.cluster.device_name}'s {device.memory / GIB:.0f}"
    )
    return Finding("memory", text, Level.ERROR if held.total > device.memory else Level.OK)


def _note(note: str) -> Finding:
    return Finding("plan", note, Level.WARNING)
