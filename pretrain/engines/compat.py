"""Every private or undocumented name of DeepSpeed that the engines rely on, one function for each.

In: DeepSpeed's engine, its optimizer or a parameter that it holds. Out: what stands behind the name. Always: these
names stand in no other file, and each has one test in tests/pretrain/engines/test_compat.py: an upgrade that takes
names away fails with the list of them.
"""

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed.utils
import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule
from deepspeed.runtime import bf16_optimizer, compiler
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.pipe.schedule import PipeInstruction, PipeSchedule
from deepspeed.runtime.precision_config import DeepSpeedBF16Config
from torch import nn

from pretrain.engines.zero.flat import FlatBucket


def compile_nothing() -> None:
    """``deepspeed.comm.torch.build_shm_op`` and ``deepspeed.runtime.compiler.compile``.

    The first compiles an all-reduce that only inference uses. A start that is killed meanwhile leaves a lock file in
    the user's home, on which every later start waits for ever. The second decorates functions of DeepSpeed's Muon,
    which every optimizer of ZeRO imports only to see that ours is another, and with it all of torch's compiler, on
    every rank: four fifths of a small engine's start. So Muon is imported here, with nothing compiled.
    """
    # Not as an attribute: `deepspeed.comm.torch` is torch itself, which the package's __init__ imports over the module.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    compile_function, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compile_function


def logger() -> logging.Logger:
    """``deepspeed.utils.logger``, through which all of DeepSpeed reports."""
    found: logging.Logger = deepspeed.utils.logger
    return found


Wrap = Callable[[Any, torch.optim.Optimizer], Any]
"""Takes DeepSpeed's engine, while it is being built, and the optimizer; returns what the engine is to drive"""


def wrapped_engine(
    module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], unit: Any, wrap: Wrap
) -> Any:
    """``_configure_zero_optimizer`` and ``_configure_bf16_optimizer``: DeepSpeed's engine around what ``wrap`` makes.

    What deepspeed.initialize does for the settings in use here, and no more: it takes no engine of another class.

    Args:
        unit: the `mpu`; a pipeline module has its own.
    """

    class Wrapped:
        def _configure_zero_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
            return wrap(self, optimizer)

        def _configure_bf16_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
            return wrap(self, optimizer)

    base = DeepSpeedEngine
    if isinstance(module, PipelineModule):
        base, unit = PipelineEngine, module.mpu()
    kind = type("WrappedEngine", (Wrapped, base), {})
    return kind(
        args=None,
        model=module,
        optimizer=optimizer,
        mpu=unit,
        config=config,
        config_class=DeepSpeedConfig(config, unit),
    )


def parameter_names(engine: Any) -> Mapping[nn.Parameter, str]:
    """``DeepSpeedEngine.param_names``."""
    names: Mapping[nn.Parameter, str] = engine.param_names
    return names


def tied_weights(module: Any) -> list[tuple[nn.Parameter, dist.ProcessGroup]]:
    """``PipelineModule.get_tied_weights_and_groups``: weights that other stages have, too; of a plain module, none."""
    return list(module.get_tied_weights_and_groups()) if isinstance(module, PipelineModule) else []


def pipeline_layers(module: Any) -> list[nn.Module]:
    """``PipelineModule.forward_funcs``: the layers of this stage that are called as modules."""
    return [layer for layer in module.forward_funcs if isinstance(layer, nn.Module)]


Execute = Callable[..., None]
"""Carries out one instruction: takes DeepSpeed's pipeline engine, and by name what the instruction holds"""


def follow(
    pipeline: Any, schedule: Callable[[int], PipeSchedule], execute: Mapping[type[PipeInstruction], Execute]
) -> None:
    """``PipelineEngine._train_schedule`` and ``_INSTRUCTION_MAP``: has the engine train by another schedule.

    Args:
        schedule: for so many micro-batches. execute: kinds of instructions that are carried out in another way.
    """
    pipeline._train_schedule = lambda: schedule(pipeline.micro_batches)
    pipeline._INSTRUCTION_MAP = {**pipeline._INSTRUCTION_MAP, **execute}


def execute_as_deepspeed(pipeline: Any, kind: type[PipeInstruction], buffer_id: int) -> None:
    """``PipelineEngine._INSTRUCTION_MAP``: carries out one instruction in DeepSpeed's own way."""
    PipelineEngine._INSTRUCTION_MAP[kind](pipeline, buffer_id)


def after_each(pipeline: Any, kind: str, action: Callable[[], None]) -> None:
    """``PipelineEngine._INSTRUCTION_MAP``: has ``action`` follow every instruction of ``kind``, as in "ForwardPass"."""

    def and_then(execute: Execute) -> Execute:
        def both(pipeline: Any, **values: Any) -> None:
            execute(pipeline, **values)
            action()

        return both

    pipeline._INSTRUCTION_MAP = {
        one: and_then(execute) if one.__name__ == kind else execute
        for one, execute in pipeline._INSTRUCTION_MAP.items()
    }


def forget_loss(pipeline: Any) -> None:
    """``PipelineEngine.loss`` and ``pipe_buffers``: on the last stage, which keeps them until others come.

    Their graphs hold what the stage has received and its gradient. For the time after a backward pass.
    """
    if pipeline.is_last_stage():
        pipeline.loss = None
        outputs = pipeline.pipe_buffers["outputs"]
        outputs[:] = [None] * len(outputs)


def pipe_buffers(pipeline: Any) -> dict[str, list[Any]]:
    """``PipelineEngine.pipe_buffers``: the `inputs` and `outputs` of the micro-batches that are under way."""
    buffers: dict[str, list[Any]] = pipeline.pipe_buffers
    return buffers


def set_output_gradient(pipeline: Any, gradient: torch.Tensor) -> None:
    """``PipelineEngine.grad_layer``: what the next backward pass starts from."""
    pipeline.grad_layer = gradient


def tell_shape(pipeline: Any, outputs: torch.Tensor) -> None:
    """``PipelineEngine.first_output_send`` and ``_send_tensor_meta``: tells the next stage what will arrive, once."""
    if pipeline.first_output_send:
        pipeline.first_output_send = False
        pipeline._send_tensor_meta(outputs, pipeline.next_stage)


def arriving(pipeline: Any) -> torch.Tensor:
    """``PipelineEngine.pipe_recv_buf`` and ``_recv_tensor_meta``: a tensor like those that the stage before sends."""
    if pipeline.pipe_recv_buf is None:
        pipeline.pipe_recv_buf = pipeline._recv_tensor_meta(pipeline.prev_stage)
    return torch.empty_like(pipeline.pipe_recv_buf)


def neighbours(pipeline: Any) -> tuple[int, int]:
    """``PipelineEngine.grid.stage_to_global``: the global ranks of the stages before and after, going round."""
    stages = pipeline.num_stages
    before, after = (pipeline.stage_id - 1) % stages, (pipeline.stage_id + 1) % stages
    return pipeline.grid.stage_to_global(before), pipeline.grid.stage_to_global(after)


def stage_loss(pipeline: Any) -> torch.Tensor | None:
    """``PipelineEngine.total_loss``: the sum over the micro-batches so far; None on all stages but the last."""
    total: torch.Tensor | None = pipeline.total_loss
    return total


class CutPipelineModule(PipelineModule):
    """``PipelineModule._partition_layers``, ``_set_bounds`` and ``forward_funcs``: cut where its maker says.

    Args:
        parts: the first layer of each stage, and the number of layers.
    """

    def __init__(self, layers: list[LayerSpec], parts: Sequence[int], *, topology: Any) -> None:
        self._parts = list(parts)
        super().__init__(layers, topology=topology)

    def _partition_layers(self, method: str = "uniform") -> None:
        self.parts = self._parts
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])

    def take_last(self) -> Callable[..., Any]:
        """This stage's last layer as a function; the stage still owns it, and its forward pass leaves it out."""
        last: Callable[..., Any] = self.forward_funcs.pop()
        return last


def gradient_norm(optimizer: Any) -> float:
    """``_global_grad_norm`` of a ZeRO optimizer: known before the inner optimizer steps, unlike the engine's."""
    return float(optimizer._global_grad_norm)


def step_loss(pipeline: Any) -> float:
    """``PipelineEngine._aggregate_total_loss``: the step's loss so far, equal on every rank; a collective call."""
    return float(pipeline._aggregate_total_loss())


def replica_group(pipeline: Any) -> dist.ProcessGroup:
    """``PipelineEngine.grid``: all ranks that hold a part of one replica of the model."""
    group: dist.ProcessGroup = pipeline.grid.get_model_parallel_group()
    return group


def is_tied_copy(parameter: nn.Parameter) -> bool:
    """``ds_pipe_replicated``: whether an earlier pipeline stage has this tied parameter, too."""
    return getattr(parameter, "ds_pipe_replicated", False)


def whole_numel(parameter: nn.Parameter) -> int:
    """``ds_numel``: elements of a parameter that ZeRO 3 has partitioned."""
    count: int = parameter.ds_numel  # type: ignore[attr-defined]
    return count


@dataclass(frozen=True)
class PartitionRange:
    """Where this rank's part of a parameter lies in its partition, for ZeRO 1 and 2."""

    group: int
    """index of the parameter group"""
    start: int
    """in the flattened parameter"""
    offset: int
    """in this rank's flat partition of the group"""
    numel: int


def partition_range(parameter: nn.Parameter) -> PartitionRange | None:
    """``_hp_mapping`` of a parameter under ZeRO 1 or 2; None where this rank holds no part of it."""
    mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    here = mapping.hp_fragment_address
    return PartitionRange(mapping.param_group_index, mapping.lp_fragment_address.start, here.start, here.numel)


def fp32_partitions(optimizer: Any) -> list[torch.Tensor]:
    """``fp32_groups_flat_partition`` (bf16) or ``single_partition_of_fp32_groups``, by parameter group: ZeRO 1, 2."""
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        return list(optimizer.fp32_groups_flat_partition)
    return list(optimizer.single_partition_of_fp32_groups)


def fp32_partitions_of_stage_3(optimizer: Any) -> list[tuple[int, torch.Tensor]]:
    """``fp32_partitioned_groups_flat`` and ``sub_group_to_group_id``: partitions, each with its group's index."""
    flat = optimizer.fp32_partitioned_groups_flat
    return [(optimizer.sub_group_to_group_id[number], flat[number]) for number in range(len(flat))]


def publish(optimizer: Any) -> None:
    """``update_lp_params``: copies fp32 weights into the model's, gathered over the data group; ZeRO 1 and 2."""
    optimizer.update_lp_params()


def publish_stage_3(optimizer: Any) -> None:
    """``_reassign_or_swap_out_partitioned_parameters`` and what goes with it: fp32 weights into the model's partitions.

    Small parameters, ``persistent_parameters``, stay whole between steps and are gathered again.
    """
    optimizer._partition_all_parameters()
    for group in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


@contextlib.contextmanager
def _no_memory_reports() -> Iterator[None]:
    """``deepspeed.runtime.bf16_optimizer.see_memory_usage``: collects garbage and prints, twice for every group."""
    report = bf16_optimizer.see_memory_usage
    bf16_optimizer.see_memory_usage = lambda *_, **__: None
    try:
        yield
    finally:
        bf16_optimizer.see_memory_usage = report


class PartitionedOptimizer(BF16_Optimizer):
    """``BF16_Optimizer``: flat weights, fp32 partitions and ``_hp_mapping``, for weights of any type.

    Subclasses move gradients and weights; what DeepSpeed's engines call to have that done does nothing here.

    Args:
        inner: the optimizer of the partitions. names: of the parameters. group: the ranks that share the partitions.
        clipping: largest norm. keeps_whole_sums: keep the fp32 sums of gradients whole, or this rank's partition only.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        names: Mapping[nn.Parameter, str],
        group: dist.ProcessGroup,
        clipping: float,
        keeps_whole_sums: bool,
    ) -> None:
        self._keeps_whole_sums = keeps_whole_sums
        with _no_memory_reports():
            super().__init__(
                inner,
                names,
                bfloat16_config=DeepSpeedBF16Config(enabled=True),
                clip_grad=clipping,
                dp_process_group=group,
                grad_acc_dtype=torch.float32,
            )

    def _split_flat_tensor(self, flat_tensor: torch.Tensor, num_elem_list: Sequence[int]) -> list[torch.Tensor]:
        """Called once for each group's whole fp32 sums, of which only the shape stays where they are not kept."""
        if not self._keeps_whole_sums:
            flat_tensor = flat_tensor.to("meta")
            self.fp32_groups_gradients_flat[-1] = self.non_expert_gradients[-1] = flat_tensor
        return super()._split_flat_tensor(flat_tensor, num_elem_list)

    def flat_buckets(self) -> list[FlatBucket]:
        """The tensors of every group."""
        rank = dist.get_rank(self.dp_process_group)
        return [
            FlatBucket(
                parameters=tuple(parameters),
                weights=weights,
                own_weights=partitions[rank],
                master=master,
                sums=sums if self._keeps_whole_sums else None,
                own_sums=own if self._keeps_whole_sums else torch.zeros_like(master, requires_grad=False),
            )
            for parameters, weights, partitions, master, sums, own in zip(
                self.bf16_groups,
                self.bf16_groups_flat,
                self.bf16_partitioned_groups,
                self.fp32_groups_flat_partition,
                self.fp32_groups_gradients_flat,
                self.fp32_groups_gradient_flat_partition,
                strict=True,
            )
        ]

    def backward_prologue(self) -> None:
        """Gradients are taken by hooks, and nothing is left of the pass before."""

    def backward_epilogue(self, *_: Any, **__: Any) -> None:
        """The hooks have done it."""

    def overlapping_partition_gradients_reduce_epilogue(self) -> None:
        """ZeRO 2 calls it after every backward pass."""

    def reduce_gradients(self, pipeline_parallel: bool = False) -> None:
        """ZeRO 1 calls it after the last backward pass."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """No gradient outlives its hook."""
