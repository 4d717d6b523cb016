"""Every configuration of the fused operator that the table of tiles can choose: how it is launched, what it costs.

In: nothing. Out: configurations; the launches of one, on tensors without memory, through the operator's own code; the
count of one of its kernels. Always: two sequences of COUNTED_TOKENS, grouped heads, aligned tensors.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from scripts.kernels.cost import Cost
from scripts.kernels.counted import COUNTED_TOKENS, fused_blocks
from scripts.kernels.forms import Shape, deltas, forward_parts, keys_parts, queries_pass

WIDTHS = (32, 64, 96, 104, 128)
"""of a key: what the papers' models and the shipped configs have; 88 (13B) is filled up as 104 is"""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FORWARD, BACKWARD, REPEATABLE = "forward", "backward", "backward, repeatable"
HEADS, GROUPS, SEQUENCES = 6, 3, 2


class Configuration(NamedTuple):
    """What the operator is compiled for."""

    direction: str
    K: int
    key_streams: int
    """2; 1 where both queries read one key"""
    documents: bool
    dtype: str

    @property
    def E(self) -> int:
        """Width of a value."""
        return self.key_streams * self.K


def configurations() -> list[Configuration]:
    """All of them."""
    parts = WIDTHS, (2, 1), DTYPES, (FORWARD, BACKWARD, REPEATABLE), (False, True)
    return [
        Configuration(direction, K, key_streams, documents, dtype)
        for K, key_streams, dtype, direction, documents in itertools.product(*parts)
    ]


def launch(configuration: Configuration) -> None:
    """Starts the operator's kernels as for tensors of this kind, which have no memory."""
    from model.kernels.fused import launch as operator

    T, B, H, G, K, E = COUNTED_TOKENS, SEQUENCES, HEADS, GROUPS, configuration.K, configuration.E

    def tensor(*shape: int, dtype: torch.dtype = DTYPES[configuration.dtype]) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    q, k, v = tensor(T, B, H, 2, K), tensor(T, B, G, configuration.key_streams, K), tensor(T, B, G, E)
    weight = tensor(T, B, H, dtype=torch.float32)
    starts, ends = (tensor(T, B, dtype=torch.int32) if configuration.documents else None for _ in range(2))
    scale = K**-0.5
    if configuration.direction == FORWARD:
        _start(operator.forward(q, k, v, weight, starts, scale)[0])
        return
    out, second, d_out = (tensor(T, B, H, E) for _ in range(3))
    log_sums = tensor(B, H, 2, T, dtype=torch.float32)
    repeatable = configuration.direction == REPEATABLE
    kept = out, second, log_sums
    _start(operator.backward(d_out, q, k, v, weight, starts, ends, *kept, scale, repeatable)[0])


def costs_of(configuration: Configuration, kernel: str) -> list[Cost]:
    """Of each launch of one kernel, for one head and sequence.

    Raises:
        KeyError: nobody has said how to count a kernel of this name.
    """
    shape = Shape(COUNTED_TOKENS, 1, 1, configuration.K, configuration.E, configuration.key_streams)
    blocks = fused_blocks(shape)
    costs = {
        "forward_kernel": forward_parts(shape, blocks.forward),
        "deltas_kernel": [deltas(shape)],
        "keys_kernel": keys_parts(shape, blocks.keys, adds_dq=configuration.direction == BACKWARD),
        "queries_kernel": [queries_pass(shape, blocks.queries)],
    }
    return costs[kernel]


def _start(launches: Iterable[Callable[[], None]]) -> None:
    for start in launches:
        start()
