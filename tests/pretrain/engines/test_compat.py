"""One contract test for each private name of DeepSpeed: an upgrade that takes names away fails with the list of them.

Every stage is driven once by two ranks; each name is then asked for what the engines rely on.
"""

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from model.parallel import logical_parameters
from pretrain.config import RunConfig
from pretrain.engines import compat
from pretrain.engines.zero_bubble import WeightGradients, ZeroBubbleSchedule
from pretrain.feed import BatchFeed
from tests.parallel.training import SyntheticTokens, run_steps, start_engine, variant
from tests.world import run_world

Contract = Callable[[], bool]


def trained(
    zero: int, precision: str = "fp32", pipeline: int = 1, on_host: bool = False, schedule: str = "1f1b"
) -> Any:
    """An engine of two ranks after one step."""
    config = variant(
        parallel={"zero_stage": zero, "pipeline": pipeline, "pipeline_schedule": schedule},
        train={"precision": precision},
        batch={"micro_size": 2},
    )
    if on_host:
        zero_settings = {"offload_optimizer": {"device": "cpu"}}
        config = replace(config, deepspeed={"zero_optimization": zero_settings, "zero_force_ds_cpu_optimizer": False})
    engine, feed = start_engine(config)
    run_steps(engine, feed, 0, 1)
    engine.settle()
    return engine


def of_stage_1(engine: Any) -> Iterator[tuple[str, Contract]]:
    wrapper = engine.deepspeed.optimizer
    parameters = logical_parameters(engine.module)
    ranges = [compat.partition_range(parameter) for parameter in parameters.values()]
    partitions = compat.fp32_partitions(wrapper)
    of_buckets = isinstance(wrapper, compat.PartitionedOptimizer)
    name = "fp32_groups_flat_partition" if of_buckets else "partition_of_fp32_groups"
    groups = len(engine.optimizer.param_groups)
    yield name, lambda: len(partitions) == groups and all(one.dtype == torch.float32 for one in partitions)
    if of_buckets:
        flat = wrapper.flat_buckets()
        yield "bf16_groups_flat", lambda: all(_is_flat(bucket) for bucket in flat)
        yield "fp32_groups_gradients_flat", lambda: {bucket.sums is None for bucket in flat} == {engine.zero_stage == 2}
        yield "param_names", lambda: len(compat.parameter_names(engine.deepspeed)) == len(engine.parameters)
    yield "_global_grad_norm", lambda: 0 < compat.gradient_norm(wrapper) < 1e3
    yield "_hp_mapping", lambda: _covers(engine, ranges)
    yield "update_lp_params", lambda: _publishes(engine, lambda: partitions[0].detach().fill_(3.0), compat.publish)


def _is_flat(bucket: Any) -> bool:
    """The parameters are views of the flat weights, of which two ranks own a half each."""
    views = bucket.views_of(bucket.weights)
    return bucket.weights.numel() == 2 * bucket.own_weights.numel() == 2 * bucket.master.numel() and all(
        view.data_ptr() == parameter.data_ptr() for view, parameter in zip(views, bucket.parameters, strict=True)
    )


def of_stage_3(engine: Any) -> Iterator[tuple[str, Contract]]:
    wrapper = engine.deepspeed.optimizer
    flat = compat.fp32_partitions_of_stage_3(wrapper)
    yield (
        "ds_numel",
        lambda: (
            [compat.whole_numel(p) for p in engine.parameters]
            == [torch.Size(p.info.full_shape).numel() for p in engine.parameters]
        ),
    )
    yield "fp32_partitioned_groups_flat", lambda: {number for number, _ in flat} == {0, 1}
    yield (
        "_reassign_or_swap_out_partitioned_parameters",
        lambda: _publishes(engine, lambda: [values.detach().fill_(3.0) for _, values in flat], compat.publish_stage_3),
    )


def of_the_pipeline(engine: Any) -> Iterator[tuple[str, Contract]]:
    stage = dist.get_rank()
    copies = {p.info.name for p in engine.parameters if compat.is_tied_copy(p)}
    yield "ds_pipe_replicated", lambda: copies == ({"embedding.weight"} if stage == 1 else set())
    yield "grid", lambda: dist.get_world_size(compat.replica_group(engine.deepspeed)) == 2
    yield "_aggregate_total_loss", lambda: 0 < compat.step_loss(engine.deepspeed) < 20
    yield "total_loss", lambda: (compat.stage_loss(engine.deepspeed) is None) == (stage == 0)
    tied = [(weight.info.name, dist.get_world_size(group)) for weight, group in compat.tied_weights(engine.module)]
    layers = {type(layer).__name__ for layer in compat.pipeline_layers(engine.module)}
    yield "get_tied_weights_and_groups", lambda: tied == [("embedding.weight", 2)]
    yield "forward_funcs", lambda: "Block" in layers
    yield "loss", lambda: _is_forgotten(engine.deepspeed, last=stage == 1)
    yield "_partition_layers", lambda: isinstance(engine.module, compat.CutPipelineModule) and len(copies) == stage


def _is_forgotten(pipeline: Any, last: bool) -> bool:
    """After the last backward pass nothing holds the last stage's loss, which DeepSpeed starts from by that name."""
    starts = "backward(self.loss)" in inspect.getsource(pipeline._exec_backward_pass)
    return starts and (not last or (pipeline.loss is None and set(compat.pipe_buffers(pipeline)["outputs"]) == {None}))


def _is_followed(engine: Any) -> bool:
    """An action after each forward pass: four micro-batches, four calls."""
    passes: list[None] = []
    compat.after_each(engine.deepspeed, "ForwardPass", lambda: passes.append(None))
    short = variant(data={"sequence_length": 16}, batch={"micro_size": 2})
    run_steps(engine, BatchFeed(SyntheticTokens(short.model.vocab_size, 16), short, engine.topology), 1, 2)
    return len(passes) == engine.accumulation_steps == 4


def of_another_schedule(engine: Any) -> Iterator[tuple[str, Contract]]:
    stage, pipeline = dist.get_rank(), engine.deepspeed
    executes, trains = (inspect.getsource(getattr(pipeline, name)) for name in ("_exec_schedule", "train_batch"))
    yield (
        "_train_schedule",
        lambda: "self._train_schedule()" in trains and type(pipeline._train_schedule()) is ZeroBubbleSchedule,
    )
    yield (
        "_INSTRUCTION_MAP",
        lambda: "self._INSTRUCTION_MAP[type(cmd)]" in executes and WeightGradients in pipeline._INSTRUCTION_MAP,
    )
    yield "pipe_buffers", lambda: {"inputs", "outputs"} <= compat.pipe_buffers(pipeline).keys()
    yield "grad_layer", lambda: stage == 1 or pipeline.grad_layer.shape == (16, 2, 32)
    yield "first_output_send", lambda: pipeline.first_output_send == (stage == 1)
    yield "_recv_tensor_meta", lambda: stage == 0 or compat.arriving(pipeline).shape == (16, 2, 32)
    yield "_INSTRUCTION_MAP, followed", lambda: _is_followed(engine)
    yield "stage_to_global", lambda: compat.neighbours(pipeline) == (1 - stage, 1 - stage)


def _covers(engine: Any, ranges: list[compat.PartitionRange | None]) -> bool:
    """The two ranks' ranges make up every parameter once."""
    held = torch.tensor([0 if part is None else part.numel for part in ranges])
    dist.all_reduce(held)
    return held.tolist() == [parameter.numel() for parameter in logical_parameters(engine.module).values()]


def _publishes(engine: Any, write: Callable[[], Any], publish: Callable[[Any], None]) -> bool:
    """What is written into the fp32 weights is what the model computes with."""
    write()
    publish(engine.deepspeed.optimizer)
    embedding = next(p for p in engine.parameters if p.info.name == "embedding.weight")
    held = embedding.ds_tensor if hasattr(embedding, "ds_tensor") else embedding
    return bool((held.detach().flatten()[:7] == 3.0).all())


CASES: dict[str, tuple[dict[str, Any], Callable[[Any], Iterator[tuple[str, Contract]]]]] = {
    "zero 1": ({"zero": 1}, of_stage_1),
    "zero 1 bf16": ({"zero": 1, "precision": "bf16"}, of_stage_1),
    "zero 2": ({"zero": 2}, of_stage_1),
    "zero 2 on the host": ({"zero": 2, "on_host": True}, of_stage_1),
    "zero 3": ({"zero": 3}, of_stage_3),
    "pipeline": ({"zero": 0, "pipeline": 2}, of_the_pipeline),
    "zero_bubble": ({"zero": 0, "pipeline": 2, "schedule": "zero_bubble"}, of_another_schedule),
}
OF_BUCKETS = (
    "fp32_groups_flat_partition",
    "bf16_groups_flat",
    "fp32_groups_gradients_flat",
    "param_names",
    "_global_grad_norm",
    "_hp_mapping",
    "update_lp_params",
)
NAMES = {
    **dict.fromkeys(("zero 1", "zero 1 bf16", "zero 2"), OF_BUCKETS),
    "zero 2 on the host": ("partition_of_fp32_groups", "_global_grad_norm", "_hp_mapping", "update_lp_params"),
    "zero 3": ("ds_numel", "fp32_partitioned_groups_flat", "_reassign_or_swap_out_partitioned_parameters"),
    "pipeline": (
        "ds_pipe_replicated",
        "grid",
        "_aggregate_total_loss",
        "total_loss",
        "get_tied_weights_and_groups",
        "forward_funcs",
        "loss",
        "_partition_layers",
    ),
    "zero_bubble": (
        "_train_schedule",
        "_INSTRUCTION_MAP",
        "pipe_buffers",
        "grad_layer",
        "first_output_send",
        "_recv_tensor_meta",
        "_INSTRUCTION_MAP, followed",
        "stage_to_global",
    ),
}


def ask(case: str) -> dict[str, str]:
    """By name: "" where it holds, or what is wrong."""
    settings, contracts = CASES[case]
    answers = {}
    for name, contract in contracts(trained(**settings)):
        try:
            answers[name] = "" if contract() else "does not hold"
        except Exception as error:
            answers[name] = f"{type(error).__name__}: {error}"
    return answers


@pytest.fixture(scope="module")
def answers() -> dict[str, list[dict[str, str]]]:
    return {case: run_world(2, ask, case) for case in CASES}


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, names in NAMES.items() for name in names])
def test_a_private_name_of_deepspeed_does_what_the_engines_rely_on(case: str, name: str, answers: Any) -> None:
    assert [rank[name] for rank in answers[case]] == ["", ""]


def test_deepspeed_reports_through_one_logger() -> None:
    assert isinstance(compat.logger(), logging.Logger)
    assert compat.logger().name == "DeepSpeed"


def test_nothing_is_compiled_when_process_groups_start() -> None:
    module = importlib.import_module("deepspeed.comm.torch")
    compat.compile_nothing()
    assert module.build_shm_op() is None
    assert "build_shm_op()" in inspect.getsource(module)  # who would compile asks for it by this name


@pytest.mark.parametrize("stage", [1, 3])
def test_a_start_with_zero_imports_no_compiler(stage: int) -> None:
    (imported,) = run_world(1, names_imported_by_a_start, variant(parallel={"zero_stage": stage}))
    assert imported and not [name for name in imported if name.startswith("torch._inductor")]


def names_imported_by_a_start(config: RunConfig) -> set[str]:
    before = set(sys.modules)
    start_engine(config)
    return set(sys.modules) - before
