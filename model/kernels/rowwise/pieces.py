"""Functions of tokens, a piece after the other where that is faster: on CPUs.

In: tensors whose first dimension is the tokens'. Out: the same part of each in turn, or a function that works so.
Always: on a CPU the parts are so small that a core's own cache holds what is made of them: a dozen operations go
through the memory once, and what lies between them is never allocated whole. Elsewhere there is one part, and so there
is while torch's compiler looks on, which fuses operations by itself.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

CPU_PIECE_ELEMENTS = 2**16
"""elements of the first tensor's part, for each of torch's threads"""


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same tokens of each."""
    first = tensors[0]
    tokens = len(first)
    if first.device.type == "cpu" and tokens and not torch.compiler.is_compiling():
        elements = max(1, first.numel() // tokens)
        tokens = max(1, CPU_PIECE_ELEMENTS * torch.get_num_threads() // elements)
    return zip(*(tensor.split(tokens) for tensor in tensors), strict=True)


def by_pieces(function: Callable[..., tuple[Tensor, ...]], tokenwise: int, summed: int = 0) -> Callable[..., Any]:
    """``function``, called for a piece after the other.

    Args:
        tokenwise: so many of its first arguments are of the tokens; the others are handed on as they are.
        summed: so many of its last results are sums over the tokens; the others are of the tokens.
    """

    def run(*arguments: Any) -> tuple[Tensor, ...]:
        parts = list(pieces(*arguments[:tokenwise]))
        if len(parts) == 1:
            return function(*arguments)
        results: list[Tensor] = []
        sums: list[Tensor] = []
        begin, tokens = 0, len(arguments[0])
        for part in parts:
            found = function(*part, *arguments[tokenwise:])
            own, added = found[: len(found) - summed], found[len(found) - summed :]
            if not begin:
                results = [x.new_empty(tokens, *x.shape[1:]) for x in own]
                sums = [torch.zeros_like(x) for x in added]
            end = begin + len(part[0])
            for whole, x in zip(results, own, strict=True):
                whole[begin:end] = x
            for total, x in zip(sums, added, strict=True):
                total += x
            begin = end
        return *results, *sums

    return run
