"""Every form of attention against explicit T x T maps in fp64.

In: a device, a type, lengths. Out: checks by name, each of which raises WrongResult. Always: heads in groups, sequences
with and without documents, all tokens as queries and a part of them, gradients of everything; sizes are drawn from a
fixed seed.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.base import PLAIN, SHARED_KEYS, TWO_STREAMS, Case, Form, Maps
from model.kernels.forms.registry import FORMS
from model.kernels.machine import Machine
from scripts.speed.comparing import compare, drawn

TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float32: 1e-4}
SMALLEST = 0.1
"""gradients are smaller where they cancel: those of a query that sees one key, and that of one lambda for all"""
MAPS = {"one map": PLAIN, "two queries": SHARED_KEYS, "two streams": TWO_STREAMS}


def attention_checks(
    device: str, dtype: torch.dtype, lengths: Sequence[int], head_dims: Sequence[int]
) -> dict[str, Callable[[], None]]:
    """All that this machine can run."""
    machine, rng = Machine.here(device), random.Random(1)
    checks: dict[str, Callable[[], None]] = {}
    for form, (words, maps), head_dim, length in _cases(lengths, head_dims):
        if form.refusal(Case(machine, dtype, maps, head_dim, length)) is None:
            groups = rng.choice([1, 2])
            sizes = length, rng.choice([1, 3]), groups * rng.choice([1, 3]), groups, head_dim
            cut = sorted({0, *rng.sample(range(length), min(3, length))})
            begin, end = sorted(rng.sample(range(length + 1), 2))
            for borders, part in itertools.product((None, cut), ((0, length), (begin, end))):
                inside = f"{'documents' if borders else 'one document'}, queries from {part[0]} to {part[1]}"
                name = f"{form.name}, {words}, T B H G K = {sizes}, {inside}"
                checks[name] = partial(check_form, form, maps, sizes, borders, part, device, dtype)
    return checks


def _cases(lengths: Sequence[int], head_dims: Sequence[int]) -> Iterator[tuple[Form, tuple[str, Maps], int, int]]:
    for form in FORMS:
        for maps in MAPS.items():
            for head_dim in head_dims:
                for length in lengths:
                    yield form, maps, head_dim, length


def check_form(
    form: Form,
    maps: Maps,
    sizes: tuple[int, int, int, int, int],
    cut: Sequence[int] | None,
    part: tuple[int, int],
    device: str,
    dtype: torch.dtype,
) -> None:
    """One form; ``cut`` has the places at which documents of all sequences begin, ``part`` which tokens are queries."""
    T, B, H, G, K = sizes
    begin, end = part
    documents = None
    if cut is not None:
        starts_T = torch.tensor([max(start for start in cut if start <= t) for t in range(T)], dtype=torch.int32)
        documents = Documents.of(starts_T.expand(B, T)).to(torch.device(device))
    prepared = None if documents is None else form.prepared(documents.part(begin, end), dtype)
    precise = torch.promote_types(dtype, torch.float32)

    def found(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> list[Tensor]:
        q, weight, k, v = q[begin:end], weight[begin:end], k[:end], v[:end]
        if maps == PLAIN:
            return [form.softmax(q[:, :, :, 0], k[:, :, :, 0], v, prepared) + 0 * weight.sum()]
        weight = weight.to(precise) if maps == SHARED_KEYS else weight.to(precise)[0, 0, 0, 0]
        return [form.difference(q, k, v, weight, prepared)]

    def expected(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> list[Tensor]:
        k, v = (x.repeat_interleave(H // G, dim=2) for x in (k, v))
        first, *second = (
            explicit_map(q[:, :, :, s], k[:, :, :, s % maps.keys], documents) for s in range(maps.queries)
        )
        attended = torch.einsum("bhij,jbhe->ibhe", first, v)
        for other in second:
            by = weight if maps == SHARED_KEYS else weight[begin, 0, 0, 0]
            attended = attended - by * torch.einsum("bhij,jbhe->ibhe", other, v)
        return [(attended + 0 * weight)[begin:end]]

    shapes = (T, B, H, maps.queries, K), (T, B, G, maps.keys, K), (T, B, G, maps.keys * K), (T, B, H, 1)
    added_up = 1 if maps == SHARED_KEYS else (end - begin) * B * H * maps.keys * K  # in the gradient of one lambda
    smallest = [SMALLEST, SMALLEST, SMALLEST, SMALLEST * math.sqrt(added_up)]
    compare(found, expected, drawn(*shapes), device, dtype, TOLERANCE[dtype], smallest)


def explicit_map(q_TBHK: Tensor, k_TBHK: Tensor, documents: Documents | None) -> Tensor:
    """softmax(Q K^T / sqrt K), causal and inside documents: [B, H, T, T]."""
    T, index = len(q_TBHK), torch.arange(len(q_TBHK), device=q_TBHK.device)
    scores = torch.einsum("ibhk,jbhk->bhij", q_TBHK, k_TBHK) / math.sqrt(q_TBHK.shape[-1])
    hidden = (index > index[:, None]).expand(1, 1, T, T)
    if documents is not None:
        hidden = hidden | (index < documents.starts_TB.t()[:, None, :, None])
    return scores.masked_fill(hidden, -math.inf).softmax(-1)
