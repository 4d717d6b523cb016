"""Every private name of torch that this room relies on, one function or class for each.

In: what stands at each. Out: the same under a name of ours. Always: these names stand in no other file, and each has
one test in tests/pretrain/test_torch_compat.py; torch is imported where it is used, because reports of hangs must also
work without it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def fake_store() -> Any:
    """``torch.testing._internal``'s store for the backend "fake": a world of which only one rank is there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    return FakeStore()


def dispatch_mode() -> type:
    """``torch.utils._python_dispatch.TorchDispatchMode``: sees every operation while it is active."""
    from torch.utils._python_dispatch import TorchDispatchMode

    return TorchDispatchMode


def tensors_in(value: Any) -> list["Tensor"]:
    """``torch.utils._pytree.tree_leaves``: the tensors in nested lists, tuples and dicts."""
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def operation_name(function: Any) -> str:
    """``OpOverload._schema.name``, as in "c10d::allreduce_"."""
    name: str = function._schema.name
    return name


def argument_names(function: Any) -> list[str]:
    """``OpOverload._schema.arguments``: their names, in order."""
    return [argument.name for argument in function._schema.arguments]


def named_groups(distributed: Any) -> dict[Any, str]:
    """``torch.distributed.distributed_c10d._world.pg_names``: all process groups of this process."""
    return dict(distributed.distributed_c10d._world.pg_names)


def collectives_started(group: Any) -> int | None:
    """``ProcessGroup._get_sequence_number_for_group``; None where the backend does not count."""
    try:
        count: int = group._get_sequence_number_for_group()
    except RuntimeError:
        return None
    return count


def scale_(tensors: "list[torch.Tensor]", factor: float) -> None:
    """``torch._foreach_mul_``: multiplies all of them in few kernels."""
    import torch

    torch._foreach_mul_(tensors, factor)


def norms(tensors: "list[torch.Tensor]") -> "torch.Tensor":
    """``torch._foreach_norm``: the 2-norm of each, stacked, in few kernels."""
    import torch

    return torch.stack(torch._foreach_norm(tensors))
