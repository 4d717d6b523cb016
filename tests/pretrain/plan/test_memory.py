"""The memory of a rank: the state is what an engine holds after a step, the total is close to a real step's peak."""

import gc
from dataclasses import replace

import pytest

from model.block import kernels_of
from model.kernels.rowwise import pieces
from pretrain.config import OptimizerConfig, RunConfig
from pretrain.plan.memory import RankMemory, State, most_loaded, rank_memory
from pretrain.topology import plan_topology
from tests.live_bytes import LiveBytes
from tests.parallel.training import TINY, start_engine, variant
from tests.world import run_world

SCALARS = 1000
"""bytes of losses, norms and step counters, one for each parameter, which the formula leaves out"""
PEAK = 0.05
"""tensors of one operation's backward pass, which the formula leaves out, in so small a model"""
DEFERRED = 0.08
"""the same in the middle of a backward pass that leaves products for later before it lets go of activations"""
PIECE_ELEMENTS = 2**9
"""what norms, gate and rotation work on at once on a CPU: next to nothing, as beside a model of usual size"""
BUCKET = 20_000
STEPS = 2
"""with exchanges between layers or stages that are measured: gloo's threads let go of what they have sent a
moment late, never early, so the smallest figure is the update's own"""


def measure(configs: dict[str, RunConfig]) -> dict[str, tuple[int, int, int, RankMemory]]:
    """By case: bytes of this rank's tensors after a step, their peak in the second, that of its update, and the plan.

    The peak of the update is counted from what is there when it begins.
    """
    from megatron.core import parallel_state

    pieces.CPU_PIECE_ELEMENTS = PIECE_ELEMENTS  # in this process, which is the test's own
    result = {}
    for name, config in configs.items():
        with LiveBytes() as live:
            engine, feed = start_engine(config)
            batches = list(feed.steps(0, 2))
            own = sum(tensor_bytes(batch) for batch in batches)
            engine.train_step(batches[0], 1e-3)
            gc.collect()
            at_rest = live.now - own
            update, within = engine.optimizer.step, []

            def watched(update=update, within=within, live=live) -> None:
                before, peak = live.now, live.peak
                live.peak = before
                update()
                within.append(live.peak - before)
                live.peak = max(peak, live.peak)

            engine.optimizer.step = watched
            peaks, updates = [], []
            axes = config.parallel.tensor, config.parallel.context, config.parallel.pipeline
            for _ in range(STEPS if max(axes) > 1 else 1):
                gc.collect()
                live.peak = live.now
                within.clear()
                engine.train_step(batches[1], 1e-3)
                peaks.append(live.peak - own)
                updates.append(max(within))
        planned = rank_memory(config, engine.topology, kernels_of(engine.module))
        result[name] = at_rest, min(peaks), min(updates), planned
        parallel_state.destroy_model_parallel()
    return result


def tensor_bytes(micro_batches) -> int:
    return sum(batch.tokens_BT.nbytes + batch.labels_BT.nbytes for batch in micro_batches)


def small(precision: str = "fp32", recompute: str = "none", form: str = "sdpa", **parallel: object) -> RunConfig:
    config = variant(
        model={"num_layers": 4, "vocab_size": 480},
        data={"sequence_length": 96},
        parallel=parallel,
        batch={"micro_size": 2},
        train={"precision": precision, "activation_checkpointing": recompute, "attention_form": form},
    )
    bucket = {"zero_optimization": {"reduce_bucket_size": BUCKET}} if config.parallel.zero_stage == 3 else {}
    return replace(config, deepspeed=bucket)


def settled(config: RunConfig) -> RunConfig:
    """No bucket is on its way when the backward pass ends, as it could be in the next forward pass on a CPU."""
    return replace(config, parallel=replace(config.parallel, overlap=False))


DATA_PARALLEL = {
    **{f"fp32 zero{stage}": small(zero_stage=stage) for stage in (0, 1, 3)},
    **{f"bf16 zero{stage}": small("bf16", zero_stage=stage) for stage in (1, 3)},
    "fp32 zero2": settled(small(zero_stage=2)),
    "bf16 zero2": settled(small("bf16", zero_stage=2)),
}


def muon(config: RunConfig) -> RunConfig:
    """Of 3 blocks: ZeRO's border lies inside a matrix."""
    model = replace(config.model, num_layers=3)
    return replace(config, optimizer=OptimizerConfig(kind="muon"), model=model)


MUON = {
    "zero1 muon": muon(small(zero_stage=1)),
    "bf16 zero1 muon": muon(small("bf16", zero_stage=1)),
    "bf16 zero2 muon": muon(settled(small("bf16", zero_stage=2))),
    "zero1 muon, sequence": muon(small(tensor=2, sequence=True, zero_stage=1)),
}
EXPLICIT = {
    "zero1, explicit": small(form="explicit", zero_stage=1),
    "bf16 zero1, explicit": small("bf16", form="explicit", zero_stage=1),
    "full, explicit": small("bf16", "full", form="explicit", zero_stage=1),
}
SPLIT = {
    "pipeline, full": small("bf16", "full", pipeline=2, zero_stage=1),
    "pipeline, deferred": small("bf16", pipeline=2, zero_stage=1, pipeline_schedule="zero_bubble"),
    "pipeline, deferred, full": small("bf16", "full", pipeline=2, zero_stage=1, pipeline_schedule="zero_bubble"),
    "sequence, selective": small("bf16", "selective", tensor=2, sequence=True, zero_stage=1),
    "shared samples": small("bf16", form="explicit", context=2, context_pieces=3, zero_stage=1),
    "shared samples, heads": small("bf16", form="explicit", context=2, context_exchange="heads", zero_stage=1),
}


def held_at_rest(name: str, state: State) -> int:
    """What of the state is there between two steps: gradients only where DeepSpeed keeps a place for their sums."""
    held = state.weights + state.master + state.optimizer
    if "zero0" not in name:
        held += state.gradients
    if "zero3" in name:
        held += state.bucket
    return held


@pytest.fixture(scope="module")
def measured() -> list[dict[str, tuple[int, int, int, RankMemory]]]:
    return run_world(2, measure, {**DATA_PARALLEL, **EXPLICIT, **MUON, **SPLIT})


def test_the_state_is_what_an_engine_holds(measured) -> None:
    for cases in measured:
        for name in (*DATA_PARALLEL, *MUON):
            at_rest, _, _, planned = cases[name]
            assert 0 <= at_rest - held_at_rest(name, planned.state) < SCALARS, name


def test_the_total_is_close_to_the_peak_of_a_step(measured) -> None:
    for cases in measured:
        for name, (_, peak, _, planned) in cases.items():
            assert planned.total == pytest.approx(peak, rel=DEFERRED if "deferred" in name else PEAK), name


def test_the_workspace_of_the_update_is_what_the_update_takes(measured) -> None:
    for cases in measured:
        for name in MUON:
            *_, update, planned = cases[name]
            assert planned.update == pytest.approx(update, abs=SCALARS), name
            assert planned.update > 10 * SCALARS


def test_the_first_stage_has_most_micro_batches_in_flight_and_the_last_the_logits() -> None:
    config = replace(small("bf16", pipeline=3), batch=replace(TINY.batch, global_size=8, micro_size=1))
    stages = [rank_memory(config, plan_topology(config.parallel, 6, rank=rank)) for rank in (0, 2, 4)]
    assert [(memory.stage, memory.in_flight) for memory in stages] == [(0, 3), (1, 2), (2, 1)]
    assert [memory.transient > 0 for memory in stages] == [False, False, True]
    few = replace(config, batch=replace(config.batch, global_size=4))
    assert rank_memory(few, plan_topology(config.parallel, 6)).in_flight == 2


def test_the_most_loaded_rank_is_the_first_of_the_stage_that_needs_most() -> None:
    config = replace(
        small("bf16", pipeline=2, tensor=2, sequence=True, zero_stage=1), model=replace(TINY.model, vocab_size=96_000)
    )
    topology = plan_topology(config.parallel, 8)
    heaviest = most_loaded(config, topology)
    stages = [rank_memory(config, replace(topology, rank=rank)) for rank in range(8)]
    assert heaviest.rank == 4
    assert heaviest.total == max(memory.total for memory in stages)
    assert len({memory.total for memory in stages}) == 2
