"""Where the host looks at values of tensors, which on a GPU means to wait for it.

In: code that runs within ``DeviceReads``. Out: how often each place read, and what. Always: seen on a CPU as well. A
place is the innermost file and function of this project, or of DeepSpeed where none of its own stands nearer.
"""

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::repeat_interleave.Tensor",
}
"""operations whose result the host needs, or whose size depends on the values"""
COPIES = {"tolist", "numpy", "cpu"}
"""methods that copy to the host without an operation that a dispatch mode sees"""
ROOT = Path(__file__).parent.parent


class DeviceReads:
    """Counts reads by (place, operation) between ``with`` and its end."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(_Operations(self._note))
        self._stack.enter_context(_Methods(self._note))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.close()

    def _note(self, what: str) -> None:
        self.seen[_place(sys._getframe()), what] += 1


class _Operations(TorchDispatchMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, overload = function._schema.name, function._schema.overload_name
        if name in WAITING or f"{name}.{overload}" in WAITING or _selects(name, args):
            self._note(name.removeprefix("aten::"))
        return function(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in COPIES:
            self._note(function.__name__)
        return function(*args, **(kwargs or {}))


def _selects(name: str, args: Any) -> bool:
    """Whether an index is a mask, whose true values must be counted; one value for all of them is a masked fill."""
    if name not in ("aten::index", "aten::index_put", "aten::index_put_"):
        return False
    fills = name != "aten::index" and args[2].numel() == 1
    return not fills and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _place(frame: FrameType | None) -> str:
    """The innermost place outside torch and this file, as file:function."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        parts = path.parts
        installed = "site-packages" in parts  # an environment may lie inside the project's folder
        if path.is_relative_to(ROOT) and not installed and path != Path(__file__):
            return f"{path.relative_to(ROOT)}:{frame.f_code.co_name}"
        if installed and ("deepspeed" in parts or "megatron" in parts):
            library = "deepspeed" if "deepspeed" in parts else "megatron"
            return f"{'/'.join(parts[parts.index(library) :])}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "nowhere"
