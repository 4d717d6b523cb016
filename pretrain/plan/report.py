"""A Plan as text: one screen, the answers first.

In: a Plan. Out: lines. Always: every figure is the Plan's; units stand beside them, assumptions below them.
"""

from collections.abc import Iterable, Sequence

from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps, exchanges_itself
from pretrain.optimizers.registry import optimizer_kind
from pretrain.plan.exchange import Exchange
from pretrain.plan.layer_times import peak_flops
from pretrain.plan.plan import USABLE, Plan

GIB = 2**30
ROWS = {
    "embedding": ("embedding",),
    "query and key (base)": ("query and key", "query and key base"),
    "low-rank updates": ("query and key updates",),
    "value": ("value",),
    "output": ("output",),
    "ffn": ("ffn",),
    "lambda and norms": ("lambda", "head norm", "block norms", "final norm"),
    "head": ("head",),
}
"""rows of the table of parameters, and the parts that each adds up; other parts have a row of their own"""
STEP_ROWS = {
    "compute": "compute, slowest stage",
    "tensor": "tensor-parallel exchanges",
    "context": "waiting for keys and values",
    "boundaries": "between stages",
    "bubble": "pipeline bubble",
    "data": "waiting for gradients and weights",
    "update": "optimizer",
    "total": "total",
    "hidden": "not in it: gradients and weights, hidden",
    "context_hidden": "not in it: keys and values, hidden",
}
"""parts of StepTime in words"""
OF_CONTEXT = ("context", "context_hidden")
"""those that there are only where ranks share samples"""


def report(plan: Plan) -> list[str]:
    """The whole text."""
    sections = [summary(plan), parameters(plan), memory(plan), step(plan), communication(plan)]
    return [line for section in sections for line in (*section, "")][:-1]


def summary(plan: Plan) -> list[str]:
    """What is planned, and the four figures that matter."""
    config, time = plan.config, plan.times[plan.config.model.attention]
    return [
        f"{config.name}: {plan.chosen.name}, {_count(plan.chosen.total)} parameters",
        f"  on      {plan.topology.world_size} x {plan.cluster.device_name}: {plan.topology.describe()}, "
        f"ZeRO {config.parallel.zero_stage}, {config.train.precision}",
        f"  step    {config.batch.global_size} x {config.data.sequence_length} = {time.tokens:,} tokens in "
        f"micro-batches of {config.batch.micro_size} sequences, {accumulation_steps(config, plan.topology)} for each "
        f"replica, about "
        f"{duration(time.total)} (MFU {time.model_flops_utilization:.0%})",
        f"  run     {config.train.steps:,} steps, {_count(config.train.steps * time.tokens)} tokens, "
        f"about {duration(plan.run_seconds)}, {plan.device_hours:,.0f} device-hours",
        f"  memory  {plan.memory.total / GIB:.1f} of {plan.cluster.device.memory / GIB:.0f} GiB on the most loaded "
        f"device, rank {plan.memory.rank} (stage {plan.memory.stage})",
        *(f"  NOTE    {note}" for note in plan.notes()),
    ]


def parameters(plan: Plan) -> list[str]:
    """Parameters by part: the config's model, and the same with every other attention."""
    marked = [f"*{size.heading}" if size.chosen else size.heading for size in plan.sizes]
    reference = max(size.query_and_key for size in plan.sizes)
    rows = [["parameters, millions", *marked]]
    listed = {part for parts in ROWS.values() for part in parts}
    others = dict.fromkeys(part for size in plan.sizes for part in size.parameters if part not in listed)
    for row, parts in [*ROWS.items(), *((part, (part,)) for part in others)]:
        rows.append([row, *(_millions(sum(size.parameters.get(part, 0) for part in parts)) for size in plan.sizes)])
    rows.append(["total", *(_millions(size.total) for size in plan.sizes)])
    rows.append(["query and key / largest", *(f"{size.query_and_key / reference:.0%}" for size in plan.sizes)])
    rows.append(["GFLOP per token", *(f"{size.flops_per_token / 1e9:,.2f}" for size in plan.sizes)])
    return [
        *table(rows),
        "  (* this config; layer/head: shared_diff, owners of base/down. FLOP per token, forward and backward:",
        "   3 x (L x (2 x the block's matrices + 8 T H K) + 2 V D); T x T in full, recomputation not counted)",
    ]


def memory(plan: Plan) -> list[str]:
    """Memory of the most loaded rank."""
    held, state = plan.memory, plan.memory.state
    mode = plan.config.train.activation_checkpointing
    micro = "micro-batch" if held.in_flight == 1 else "micro-batches"
    deferred = f", weights' gradients of {held.deferred} deferred" if held.deferred else ""
    parts = [
        ("weights", state.weights, ""),
        ("gradients", state.gradients, "with their fp32 sums" if plan.config.train.precision == "bf16" else ""),
        ("fp32 master weights", state.master, ""),
        ("optimizer state", state.optimizer, optimizer_kind(plan.config.optimizer).title),
        ("reduction bucket", state.bucket, "deepspeed.zero_optimization.reduce_bucket_size"),
        ("activations", held.activations, f"checkpointing {mode}, {held.in_flight} {micro} in flight{deferred}"),
        ("logits and loss, or recomputation", held.transient, "the larger"),
        ("workspace of the update", held.update, "when activations are gone"),
        ("total", held.total, f"{USABLE:.0%} of {plan.cluster.device.memory / GIB:.0f} GiB are usable"),
    ]
    rows = [[f"GiB on rank {held.rank}", "", ""]]
    rows += [[name, f"{size / GIB:.2f}", note] for name, size, note in parts if size]
    totals = ", ".join(f"{mode} {other.total / GIB:.2f}" for mode, other in plan.memory_by_mode.items())
    return [*table(rows, left={0, 2}), f"  (the total by activation checkpointing: {totals})"]


def step(plan: Plan) -> list[str]:
    """Seconds of a step, for every kind of attention."""
    kinds = list(plan.times)
    rows = [["seconds per step (estimate)", *kinds]]
    rows += [
        [words, *(f"{getattr(plan.times[kind], name):.3f}" for kind in kinds)]
        for name, words in step_rows(plan.topology.context_size > 1).items()
    ]
    rows.append(["tokens per second", *(f"{plan.times[kind].tokens_per_second:,.0f}" for kind in kinds)])
    rows.append(["MFU", *(f"{plan.times[kind].model_flops_utilization:.1%}" for kind in kinds)])
    device = plan.cluster.device
    return [
        *table(rows),
        f"  (assumed: products at {plan.cluster.efficiency:.0%} of {peak_flops(plan.config, device) / 1e12:.0f} "
        f"TFLOP/s, attention at {plan.cluster.attention_efficiency:.0%}, between them the memory at "
        f"{device.memory_bandwidth / 1e12:.2f} TB/s;",
        f"   {device.link / 1e9:.0f} GB/s inside nodes of {plan.cluster.gpus_per_node}, "
        f"{device.network / 1e9:.0f} GB/s per GPU between them;",
        f"   {beside(plan.config)})",
    ]


def step_rows(context: bool) -> dict[str, str]:
    """``STEP_ROWS`` with or without those of shared samples."""
    return {name: words for name, words in STEP_ROWS.items() if context or name not in OF_CONTEXT}


def beside(config: RunConfig) -> str:
    """What goes on beside what, in words."""
    if exchanges_itself(config) and config.parallel.overlap:
        return "gradients leave during the backward and weights return during the next forward pass, bucket by bucket"
    if config.parallel.zero_stage == 3:
        return "weights are gathered ahead of the layers that read them, gradients leave during the backward pass"
    return "nothing goes on beside gradients and weights"


def communication(plan: Plan) -> list[str]:
    """What the most loaded rank exchanges in one step, for every kind of attention."""
    kinds = list(plan.communication)
    keys = dict.fromkeys(_key(exchange) for kind in kinds for exchange in plan.communication[kind])
    groups = list(dict.fromkeys(group for group, _, _ in keys))
    found = {kind: {_key(exchange): exchange for exchange in plan.communication[kind]} for kind in kinds}
    rows = [[f"MB per step, rank {plan.memory.rank}", "ranks", "operation", *kinds]]
    for key in sorted(keys, key=lambda key: groups.index(key[0])):
        group, operation, purpose = key
        exchanges = [found[kind].get(key) for kind in kinds]
        size = len(next(exchange for exchange in exchanges if exchange is not None).ranks)
        rows.append([f"{group}: {purpose}", str(size), operation, *(_megabytes(exchange) for exchange in exchanges)])
    sent = [_million_bytes(sum(exchange.wire_bytes for exchange in plan.communication[kind])) for kind in kinds]
    rows.append(["sent by this rank (ring algorithms)", "", "", *sent])
    lines = table(rows, left={0, 2})
    notes = ["  (whole tensors, summed over the step's calls; counted in real steps by tests/parallel/test_ledger.py)"]
    if plan.config.deepspeed:
        notes.append("  (the deepspeed section's settings may move bytes in ways that the formula does not follow)")
    return [*lines, *notes] if keys else ["one process: nothing to communicate"]


def _key(exchange: Exchange) -> tuple[str, str, str]:
    return exchange.group, exchange.operation, exchange.purpose


def table(rows: Sequence[Sequence[str]], left: Iterable[int] = (0,)) -> list[str]:
    """Rows as aligned lines, numbers to the right; the first row is the heading.

    Not rich's: that fits a table to the terminal, and cuts its numbers off in a file or a narrow window.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((("" if number == 0 else "  ") + "  ".join(cells)).rstrip())
    return lines


def _millions(count: float) -> str:
    return f"{count / 1e6:,.1f}" if count else "-"


def _million_bytes(count: float) -> str:
    return f"{count / 1e6:,.1f}" if count >= 5e4 else ("<0.1" if count else "-")


def _megabytes(exchange: Exchange | None) -> str:
    return _million_bytes(exchange.whole_bytes) if exchange is not None else "-"


def _count(count: float) -> str:
    return f"{count / 1e9:.3f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{1000 * seconds:.2g} ms"
