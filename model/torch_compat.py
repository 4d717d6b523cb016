"""Every private name of torch that this room relies on, one function for each.

In: what stands at each. Out: the same under a name of ours. Always: these names stand in no other file of the room, and
each has one test in tests/model/test_torch_compat.py.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]
"""What becomes of a tensor that is saved for the backward pass, and how it comes back"""


def saved_tensor_hooks() -> Hooks | None:
    """``torch._C._autograd._top_saved_tensors_default_hooks``: those of the innermost
    ``torch.autograd.graph.saved_tensors_hooks`` around the caller; None: there are none."""
    hooks: Hooks | None = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks


def onednn_linear(x: Tensor, weight_nD: Tensor) -> Tensor:
    """``torch.ops.mkldnn._linear_pointwise``: x W^T by oneDNN, for x [..., D], without a gradient."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_nD, None, "none", [], "")
    return result
