"""What an optimizer declares: its settings, its groups of parameters, the state of each, and how it is built.

In: an OptimizerConfig and the ParameterInfo of each parameter. Out: the abstract class OptimizerKind. Always: nothing
has a default: an optimizer that leaves something out cannot be made. The planner, the checkpoints and the engine read
these declarations and know no optimizer by name.

Every tensor of state has the shape of its parameter, is fp32 and starts at zero: ZeRO cuts the fp32 weights anywhere,
and can cut such state in the same places.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel import ParameterInfo
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.gate import Gate

BYTES_PER_ELEMENT = 4
"""of each tensor of state: fp32"""
APPLIED_STEPS = "step"
"""the key of torch's optimizers for the steps taken; checkpoints keep it once for all parameters"""


@dataclass(frozen=True)
class Moment:
    """One tensor of state for each parameter of a group."""

    name: str
    """its key in the optimizer's state, and in checkpoints"""
    never_negative: bool = False
    """a checkpoint in which it is below 0 is damaged"""


@dataclass(frozen=True)
class Group:
    """Parameters that are updated by one rule; ZeRO keeps their fp32 weights in one flat buffer."""

    name: str
    """in words"""
    moments: tuple[Moment, ...]
    """state of each parameter, in the order in which checkpoints keep it"""
    counts_steps: bool
    """whether the update depends on how many steps were applied, as a bias correction does"""
    divisible: bool
    """whether its parameters may be exchanged in several buckets, each cut over all ranks; not where an update needs
    whole matrices, of which ever more would be cut"""

    @property
    def bytes_per_element(self) -> int:
        """State of one element."""
        return BYTES_PER_ELEMENT * len(self.moments)


@dataclass(frozen=True)
class Place:
    """Where this rank keeps a contiguous part of one parameter's fp32 values."""

    parameter: nn.Parameter
    """this rank's shard, in the model's own type"""
    holder: Tensor
    """what the optimizer updates: the parameter itself, or a flat partition of its group"""
    offset: int
    """of the part in ``holder``, flattened"""
    start: int
    """of the part in the flattened shard"""
    numel: int


@dataclass(frozen=True)
class HeldPart:
    """The same on paper: what one rank updates of one parameter."""

    info: ParameterInfo
    shard: int
    """elements of the parameter on one tensor-parallel rank"""
    split: int
    """tensor-parallel ranks that it is split over"""
    numel: int
    """elements of the part"""
    holders: int
    """data-parallel ranks that hold a part of the same shard, this one included"""


@dataclass(frozen=True)
class UpdateCost:
    """What an update costs one rank beyond reading and writing weights and state."""

    gathered: int
    """bytes that its gathers among tensor-parallel ranks return"""
    exchanged: int
    """bytes that it sends to data-parallel ranks, or receives from them: the larger"""
    workspace: int
    """bytes at once, at most; activations are gone by then"""
    flops: float


FREE = UpdateCost(0, 0, 0, 0.0)
"""of an update that looks at each element by itself"""


@dataclass(frozen=True)
class Surroundings:
    """What an optimizer may ask of the engine that drives it."""

    gate: Gate
    """whether a step may reach the weights"""
    places: Callable[[], Sequence[Place]]
    """all that this rank updates, in the order of the parameters; to be asked in a step, when the engine is complete"""
    data_group: dist.ProcessGroup | None
    """the ranks among which ZeRO has cut the weights; None where each holds them whole"""
    tensor_group: dist.ProcessGroup | None
    """the ranks among which tensor parallelism has cut matrices; None where it has not"""


class OptimizerKind(ABC):
    """One optimizer. The class attributes, too, have no defaults."""

    name: ClassVar[str]
    """what `optimizer.kind` says"""
    title: ClassVar[str]
    """in messages"""
    settings: ClassVar[frozenset[str]]
    """OptimizerConfig settings that it reads beside those that every optimizer reads"""
    groups: ClassVar[tuple[Group, ...]]
    """all its groups; every stage of a pipeline, which has a block, has parameters of each"""
    zero_stages: ClassVar[frozenset[int]]
    """values of `parallel.zero_stage` with which it is right"""
    offloads: ClassVar[bool]
    """whether DeepSpeed may keep its state on the host (`zero_optimization.offload_optimizer`)"""

    def __init__(self) -> None:
        missing = [name for name in OptimizerKind.__annotations__ if not hasattr(self, name)]
        if missing:
            raise TypeError(f"{type(self).__name__} does not declare {', '.join(missing)}")

    @abstractmethod
    def group_of(self, info: ParameterInfo) -> Group:
        """Which of ``groups`` a parameter belongs to."""

    @abstractmethod
    def build(
        self, config: OptimizerConfig, parameters: Iterable[nn.Parameter], around: Surroundings
    ) -> torch.optim.Optimizer:
        """The optimizer, with one parameter group for each of ``groups``, in their order.

        Its ``step`` must do nothing while ``around.gate`` is closed.
        """

    @abstractmethod
    def update_cost(self, parts: Iterable[HeldPart], element_bytes: int) -> UpdateCost:
        """What a step costs a rank that updates ``parts`` of a model whose elements have so many bytes."""

    def moments(self) -> frozenset[tuple[str, ...]]:
        """The names of the state that a parameter can have: one tuple for each rule."""
        return frozenset(tuple(moment.name for moment in group.moments) for group in self.groups)

    def members(self, parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
        """``parameters`` that are trained, by group, in the order of ``groups``."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        return [[p for p in trained if self.group_of(p.info) is group] for group in self.groups]  # type: ignore[attr-defined]


def create_state(optimizer: torch.optim.Optimizer, group: Group, holder: Tensor) -> None:
    """Gives ``holder`` the state of ``group`` now, where no step has, so that a checkpoint can be read into it."""
    if holder in optimizer.state:
        return
    state = {moment.name: torch.zeros_like(holder) for moment in group.moments}
    if group.counts_steps:
        state[APPLIED_STEPS] = torch.zeros((), dtype=torch.float32, device=holder.device)
    optimizer.state[holder] = state


def set_applied_steps(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Tells every rule that counts them that ``steps`` steps have been applied; refused ones do not count."""
    for state in optimizer.state.values():
        if APPLIED_STEPS in state:
            state[APPLIED_STEPS].fill_(float(steps))
