"""The estimated time of a step follows from the stated assumptions and nothing else."""

from dataclasses import replace

import pytest

from model.config import ModelConfig
from model.counts import block_flops, executed_flops, head_flops, training_flops_per_token
from pretrain.config import BatchConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.devices import Device
from pretrain.plan.buckets import bucket_exchanges
from pretrain.plan.cluster import Cluster
from pretrain.plan.communication import step_communication
from pretrain.plan.layer_times import exposed
from pretrain.plan.layers import elements_per_rank, stage_parameters
from pretrain.plan.time import step_time
from pretrain.plan.zero import zero3_calls, zero3_limits
from pretrain.topology import Topology, plan_topology

DEVICE = Device(bf16_flops=1e12, fp32_flops=1e11, memory=1e9, memory_bandwidth=1e12, link=1e11, network=1e10)
CLUSTER = Cluster(DEVICE, gpus_per_node=2, efficiency=0.5, attention_efficiency=0.25, traffic=0.0, backend="gloo")
"""bytes alone, no latencies"""
NCCL = replace(CLUSTER, backend="nccl", gpus_per_node=1)
MODEL = ModelConfig(
    attention="standard", num_layers=4, hidden_size=64, ffn_hidden_size=96, num_heads=4, head_dim=8, vocab_size=128
)
T, B, M = 256, 2, 8
LOSS = (8 + 8) * 128 / 1e12
"""seconds for the logits of one token"""


def plan(world_size: int = 1, data: int = 1, **parallel: object) -> tuple[RunConfig, Topology]:
    config = RunConfig(
        model=MODEL,
        parallel=ParallelConfig(**parallel),  # type: ignore[arg-type]
        batch=BatchConfig(global_size=B * M * data, micro_size=B),
        train=TrainConfig(precision="bf16"),
    )
    return config, plan_topology(config.parallel, world_size)


def test_one_device_computes_and_updates_and_waits_for_nobody() -> None:
    config, topology = plan()
    time = step_time(config, topology, CLUSTER)
    square = 4 * 8 * T * 4 * 8  # of 4 blocks' attention; a kernel computes half of it
    products = training_flops_per_token(MODEL, T) - 3 * square
    seconds = products / (1e12 * 0.5) + (1 + 2.5) * square / 2 / (1e12 * 0.25) + LOSS
    assert time.compute == pytest.approx(M * B * T * seconds)
    assert (time.tensor, time.boundaries, time.bubble, time.data) == (0, 0, 0, 0)
    assert time.total == time.compute + time.update
    assert time.tokens_per_second == pytest.approx(M * B * T / time.total)
    assert time.model_flops_utilization == pytest.approx(
        training_flops_per_token(MODEL, T) * M * B * T / (time.total * 1e12)
    )


def test_fp32_runs_at_the_devices_fp32_peak() -> None:
    config, topology = plan()
    slow = replace(config, train=TrainConfig(precision="fp32"))
    loss = M * B * T * LOSS
    ratio = (step_time(slow, topology, CLUSTER).compute - loss) / (step_time(config, topology, CLUSTER).compute - loss)
    assert ratio == pytest.approx(10)


def test_recomputation_is_charged_but_is_no_use_of_the_model() -> None:
    config, topology = plan()
    block, product = executed_flops(MODEL, T)
    plain = step_time(config, topology, CLUSTER)
    of_attention = product / (1e12 * 0.25)
    for mode, extra in (("selective", of_attention), ("full", (block - product) / (1e12 * 0.5) + of_attention)):
        again = step_time(
            replace(config, train=replace(config.train, activation_checkpointing=mode)),  # type: ignore[arg-type]
            topology,
            CLUSTER,
        )
        assert again.compute - plain.compute == pytest.approx(M * B * T * 4 * extra)
        assert again.model_flops_utilization < plain.model_flops_utilization


def test_what_lies_between_products_passes_the_memory() -> None:
    config, topology = plan()
    extra = (
        step_time(config, topology, replace(CLUSTER, traffic=3.0)).compute
        - step_time(config, topology, CLUSTER).compute
    )
    tokens = B * T
    norms = 2 * (2 * 64 * 2 + 4)  # input and output in bf16, one fp32 number
    heads = 4 * 64 * 2 + 4 * 8  # queries, keys, values and the result of 4 x 2 heads of 8; a logarithm for each
    assert extra == pytest.approx(M * 4 * tokens * (1 + 2) * 3.0 * (norms + 4 * 96 * 2 + heads) / 1e12)


def test_stacked_streams_cost_twice_the_equations_product() -> None:
    equation = 8 * T * 4 * 8
    for attention, factor in (("standard", 1), ("diff_v2", 1), ("diff", 2), ("shared_diff", 2)):
        model = replace(MODEL, attention=attention)  # type: ignore[arg-type]
        everything, product = executed_flops(model, T)
        assert product == equation / 2 * factor
        assert everything == block_flops(model, T) - equation + product


def test_a_pipeline_waits_once_for_every_other_stage() -> None:
    config, topology = plan(2, pipeline=2, zero_stage=1)
    time = step_time(config, topology, CLUSTER)
    whole, attention = executed_flops(MODEL, T)
    block = 3 * (whole - attention) / (1e12 * 0.5) + 3.5 * attention / (1e12 * 0.25)
    last = B * T * (2 * block + 3 * head_flops(MODEL) / (1e12 * 0.5) + LOSS)
    boundary = 2 * 2 * B * T * 64 / 1e11  # activations there, gradients back
    assert time.compute == pytest.approx(M * last)
    assert time.boundaries == pytest.approx(M * boundary)
    assert time.bubble == pytest.approx(B * T * 2 * block + boundary)


def test_deferred_products_fill_what_a_pipeline_waits_for_twice() -> None:
    """No other stage waits for them, and they are there for as long a wait besides."""
    waiting = step_time(*plan(2, pipeline=2, zero_stage=1), CLUSTER)
    filled = step_time(*plan(2, pipeline=2, zero_stage=1, pipeline_schedule="zero_bubble"), CLUSTER)
    block = 4 * 64 * 64 + 3 * 64 * 96  # query, key, value and output; gate, up and down
    products = 2 * B * T * 2 * block / (1e12 * 0.5)
    assert waiting.bubble - filled.bubble == pytest.approx(2 * products)
    assert waiting.total - filled.total == pytest.approx(2 * products)


def test_exchanges_run_at_the_speed_of_their_slowest_link() -> None:
    config, topology = plan(4, data=2, tensor=2, zero_stage=1, overlap=False)
    time = step_time(config, topology, CLUSTER)
    one_node = step_time(config, topology, replace(CLUSTER, gpus_per_node=4))
    assert one_node.data < time.data / 5
    assert one_node.tensor == time.tensor


@pytest.mark.parametrize("sequence", [False, True])
def test_tensor_parallel_exchanges_count_but_for_the_products_of_the_backward_pass_beside_them(sequence: bool) -> None:
    config, topology = plan(2, tensor=2, sequence=sequence, zero_stage=1, row_pieces=1)
    cluster = replace(
        CLUSTER, device=replace(DEVICE, link=1e10)
    )  # slower than the values' product, faster than gate and up
    exchanges = step_communication(config, topology, "gloo")
    in_the_open = sum(cluster.seconds(exchange) for exchange in exchanges if exchange.per_micro_batch)
    sent = B * T * 64 * 2 / 2  # by an all-gather; twice by an all-reduce, and by gloo's reduce-scatter
    beside = 0.0
    for columns, layers in ((4 * 8, 4), (96, 4), (64, 0 if sequence else 1)):  # values; gate and up; the head
        product = 2 * B * T * 64 * columns / (1e12 * 0.5)
        taken = [sent / 1e10, 2 * sent / 1e10] if sequence else [2 * sent / 1e10]
        beside += M * layers * sum(min(seconds, product) for seconds in taken)
    assert step_time(config, topology, cluster).tensor == pytest.approx(in_the_open - beside)
    assert 2 * B * T * 64 * 32 / (1e12 * 0.5) < 2 * sent / 1e10 < 2 * B * T * 64 * 96 / (1e12 * 0.5)


def test_of_row_parallel_outputs_the_last_piece_travels_in_the_open() -> None:
    whole, topology = plan(2, tensor=2, sequence=True, row_pieces=1)
    pieces = replace(whole, parallel=replace(whole.parallel, row_pieces=5))
    cluster = replace(CLUSTER, device=replace(DEVICE, link=1e11))
    before, after = (step_time(config, topology, cluster).tensor for config in (whole, pieces))
    travels = 2 * (B * T * 64 * 2 / 2) / 1e11  # twice, as gloo has it
    products = [2 * B * T * 64 * features / (1e12 * 0.5) for features in (4 * 8 // 2, 96 // 2)]
    assert travels < min(products)
    assert before - after == pytest.approx(M * 4 * 2 * travels * 4 / 5)


def test_ranks_that_share_samples_divide_their_work_and_wait_for_the_first_piece_and_the_last() -> None:
    alone, one = plan()
    shared, two = plan(2, context=2, context_pieces=4, zero_stage=1)
    fast = step_time(shared, two, CLUSTER)
    assert fast.compute == pytest.approx(step_time(alone, one, CLUSTER).compute / 2)
    travels = B * T * (2 * 4) * (2 * 8) * 2 / 2 / 1e11  # keys and values of 2 x 4 heads of 8, as many from the other
    product = B * T / 2 * executed_flops(MODEL, T)[1] / (1e12 * 0.25)
    assert travels / 4 < product / 4
    open_ones = (travels + travels + 2 * travels) / 4  # forward, backward, gradients: twice, as gloo has it
    assert fast.context == pytest.approx(M * 4 * open_ones)
    assert fast.context_hidden == pytest.approx(M * 4 * 3 * open_ones)
    at_once = step_time(replace(shared, parallel=replace(shared.parallel, context_pieces=1)), two, CLUSTER)
    assert (at_once.context, at_once.context_hidden) == (pytest.approx(4 * fast.context), pytest.approx(0))


def test_a_form_that_copies_what_is_gathered_computes_and_gathers_again() -> None:
    shared, two = plan(2, context=2, context_pieces=4, zero_stage=1)
    heads, _ = plan(2, context=2, context_exchange="heads", zero_stage=1)
    product = M * 4 * B * T / 2 * executed_flops(MODEL, T)[1] / (1e12 * 0.25)
    travels = M * 4 * B * T * (2 * 4) * (2 * 8) * 2 / 2 / 1e11
    for config, again in ((shared, 1), (heads, 0)):
        with_form = [
            replace(config, train=replace(config.train, attention_form=form)) for form in ("flash2", "flex_wide")
        ]
        whole, copies = (step_time(one, two, CLUSTER) for one in with_form)
        assert copies.compute - whole.compute == pytest.approx(again * product)
        assert copies.context - whole.context == pytest.approx(again * travels / 4)


def test_heads_that_are_exchanged_are_in_the_open() -> None:
    config, topology = plan(2, context=2, context_exchange="heads", zero_stage=1)
    time = step_time(config, topology, CLUSTER)
    own = B * T / 2 * (2 * 4 * 8) * 2 / 2  # of one number for each token, head and dimension half goes to the other
    assert time.context == pytest.approx(M * 4 * 2 * (3 + 1) * own / 1e11)  # queries, keys, values; results; and back
    assert time.context_hidden == 0


def test_without_overlap_the_step_waits_for_every_exchange_and_with_it_for_a_part() -> None:
    for stage, passes in ((1, 1), (2, M)):
        config, topology = plan(2, data=2, zero_stage=stage, overlap=False)
        config = replace(config, model=replace(MODEL, hidden_size=512, ffn_hidden_size=1030))  # of several buckets
        exposed = step_time(config, topology, NCCL)
        buckets = bucket_exchanges(config, topology, "nccl")
        exchanges = sum(passes * NCCL.seconds(one.gradients) + NCCL.seconds(one.weights) for one in buckets)
        others = [one for one in step_communication(config, topology) if not one.overlaps]
        assert exposed.data == pytest.approx(exchanges + sum(map(NCCL.seconds, others)))
        assert exposed.hidden == pytest.approx(0, abs=1e-12)
        beside = step_time(replace(config, parallel=replace(config.parallel, overlap=True)), topology, NCCL)
        assert beside.total < exposed.total
        assert beside.data + beside.hidden == pytest.approx(exposed.data)
        assert replace(beside, data=0, hidden=0) == replace(exposed, data=0, hidden=0)


def test_zero_0_hides_nothing_and_a_model_of_one_prefetch_under_zero_3_only_reductions() -> None:
    config, topology = plan(2, data=2, zero_stage=1)
    first = replace(config, parallel=replace(config.parallel, zero_stage=0), train=TrainConfig(precision="fp32"))
    time = step_time(first, topology, NCCL)
    assert time.hidden == 0
    assert time.data == pytest.approx(sum(map(NCCL.seconds, step_communication(first, topology))))
    in_one_piece = {"zero_optimization": {"stage3_prefetch_bucket_size": 10**9}}
    third = replace(config, parallel=replace(config.parallel, zero_stage=3), deepspeed=in_one_piece)
    time = step_time(third, topology, NCCL)
    assert time.data == pytest.approx(sum(map(NCCL.seconds, step_communication(third, topology))))
    assert time.hidden == 0


def test_stages_wait_for_weights_one_after_the_other_and_only_for_what_is_not_there_yet() -> None:
    config, topology = plan(4, data=2, pipeline=2, zero_stage=1)
    slow = replace(CLUSTER, gpus_per_node=1, device=replace(DEVICE, network=1e9))
    beside = step_time(config, topology, slow)
    exposed = step_time(replace(config, parallel=replace(config.parallel, overlap=False)), topology, slow)
    assert beside.bubble == exposed.bubble
    assert 0 < beside.data < exposed.data


@pytest.mark.parametrize(("exchange", "product"), [(3.7, 11.3), (11.3, 3.7), (5.0, 5.0), (2.0, 0.0)])
@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_a_piece_travels_while_the_next_is_computed(exchange: float, product: float, pieces: int) -> None:
    computed = arrived = 0.0
    for _ in range(pieces):
        computed += product / pieces
        arrived = max(arrived, computed) + exchange / pieces
    assert exposed(exchange, product, pieces) == pytest.approx(arrived - product)


@pytest.mark.parametrize(("exchange", "product"), [(3.7, 23.3), (3.7, 11.3), (5.0, 5.0), (11.3, 3.7), (2.0, 0.0)])
@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
def test_gathers_and_sums_of_a_backward_pass_are_planned_a_pieces_product_too_long_at_most(
    exchange: float, product: float, pieces: int
) -> None:
    """Each is planned with half of the products beside it. Played through: a piece's product begins when it is there,
    and with it the next one sets out; its sum leaves behind that, when the sum before has arrived."""
    free = time = 0.0
    arrived = [0.0] * (pieces + 1)

    def carried(asked: float) -> float:
        nonlocal free
        free = max(free, asked) + exchange / pieces
        return free

    arrived[0], summed = carried(time), 0.0
    for piece in range(pieces):
        if piece + 1 < pieces:
            arrived[piece + 1] = carried(time)
        time = max(max(time, arrived[piece]) + product / pieces, summed)
        summed = carried(time)
    waited = max(time, summed) - product
    beside = product / 2 if pieces > 1 else 0.0  # in one piece it is needed at once
    planned = 2 * exposed(exchange, beside, pieces)
    assert waited - 1e-9 <= planned <= waited + product / pieces + 1e-9


def test_an_exchange_in_one_piece_begins_with_the_product_beside_it() -> None:
    assert [exposed(3.0, product, pieces=1) for product in (0.0, 2.0, 5.0)] == [3.0, 1.0, 0.0]


def test_a_small_model_is_gathered_ahead_in_parts_under_zero_3() -> None:
    config, topology = plan(2, data=2, zero_stage=3)
    sizes = [elements_per_rank(info, 1) for info in stage_parameters(config, topology)]
    assert 27 <= zero3_calls(config, topology).forward <= 33
    assert zero3_limits(config, topology).prefetch == sum(sizes) // 32
