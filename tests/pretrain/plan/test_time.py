"""The estimated time of a step follows from the stated assumptions and nothing else."""

from dataclasses import replace

import pytest

from model.config import ModelConfig
from model.counts import block_flops, head_flops, training_flops_per_token
from pretrain.config import BatchConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.devices import Device
from pretrain.plan.communication import step_communication
from pretrain.plan.time import Cluster, executed_flops, step_time
from pretrain.topology import Topology, plan_topology

DEVICE = Device(bf16_flops=1e12, fp32_flops=1e11, memory=1e9, memory_bandwidth=1e12, link=1e11, network=1e10)
CLUSTER = Cluster(DEVICE, gpus_per_node=2, efficiency=0.5)
MODEL = ModelConfig(
    attention="standard", num_layers=4, hidden_size=64, ffn_hidden_size=96, num_heads=4, head_dim=8, vocab_size=128
)
T, B, M = 256, 2, 8


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
    flops = training_flops_per_token(MODEL, T) - 3 * 4 * 4 * T * 4 * 8  # the masked half of 4 blocks' attention
    assert time.compute == pytest.approx(M * B * T * flops / (1e12 * 0.5))
    assert (time.tensor, time.boundaries, time.bubble, time.data) == (0, 0, 0, 0)
    assert time.total == time.compute + time.update
    assert time.tokens_per_second == pytest.approx(M * B * T / time.total)
    assert time.model_flops_utilization == pytest.approx(
        training_flops_per_token(MODEL, T) * M * B * T / (time.total * 1e12)
    )


def test_fp32_runs_at_the_devices_fp32_peak() -> None:
    config, topology = plan()
    slow = replace(config, train=TrainConfig(precision="fp32"))
    ratio = step_time(slow, topology, CLUSTER).compute / step_time(config, topology, CLUSTER).compute
    assert ratio == pytest.approx(10)


def test_recomputation_is_charged_but_is_no_use_of_the_model() -> None:
    config, topology = plan()
    block, product = executed_flops(MODEL, T)
    plain = step_time(config, topology, CLUSTER)
    for mode, extra in (("selective", product), ("full", block)):
        again = step_time(
            replace(config, train=replace(config.train, activation_checkpointing=mode)),  # type: ignore[arg-type]
            topology,
            CLUSTER,
        )
        assert again.compute - plain.compute == pytest.approx(M * B * T * 4 * extra / (1e12 * 0.5))
        assert again.model_flops_utilization < plain.model_flops_utilization


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
    block, _ = executed_flops(MODEL, T)
    micro = B * T / (1e12 * 0.5)
    last = micro * 3 * (2 * block + head_flops(MODEL))
    boundary = 2 * 2 * B * T * 64 / 1e11  # activations there, gradients back
    assert time.compute == pytest.approx(M * last)
    assert time.boundaries == pytest.approx(M * boundary)
    assert time.bubble == pytest.approx(micro * 3 * 2 * block + boundary)


def test_exchanges_run_at_the_speed_of_their_slowest_link() -> None:
    config, topology = plan(4, data=2, tensor=2, zero_stage=1)
    time = step_time(config, topology, CLUSTER)
    exchanges = step_communication(config, topology)
    inside = sum(exchange.wire_bytes for exchange in exchanges if exchange.per_micro_batch)
    assert time.tensor == pytest.approx(inside / 1e11)
    assert time.data == pytest.approx(
        sum(
            exchange.wire_bytes / (1e11 if exchange.ranks == (0, 1) else 1e10)
            for exchange in exchanges
            if not exchange.per_micro_batch
        )
    )
    one_node = step_time(config, topology, replace(CLUSTER, gpus_per_node=4))
    assert one_node.data < time.data / 5
