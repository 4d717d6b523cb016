"""Differential attention from explicit T x T maps in fp64, and cases to compare on."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from model.documents import Documents


@dataclass(frozen=True)
class Case:
    """Sizes by the legend of model/config.py; S keys for each value."""

    T: int
    B: int
    H: int
    G: int
    S: int
    K: int
    borders: tuple[int, ...] = ()
    """where the first sequence's documents after the first begin; each other sequence is one document less"""
    one_lambda: bool = False
    begin: int = 0
    """the first token that is a query"""

    def documents(self) -> Documents | None:
        """Some of which go on behind T."""
        if not self.borders:
            return None
        starts_BT = torch.zeros(self.B, self.T + 3, dtype=torch.int32)
        for b in range(self.B):
            for border in self.borders[b:]:
                starts_BT[b, border:] = border
        return Documents.of(starts_BT).part(self.begin, self.T)


@dataclass
class Inputs:
    """Views into one tensor, as projections of one input are, with gradients of their own."""

    q_UBHSK: Tensor
    k_TBGSK: Tensor
    v_TBGE: Tensor
    weight_UBH: Tensor
    documents: Documents | None

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.q_UBHSK, self.k_TBGSK, self.v_TBGE, self.weight_UBH

    @property
    def ranges(self) -> tuple[Tensor | None, Tensor | None]:
        return (None, None) if self.documents is None else (self.documents.starts_TB, self.documents.ends_TB)


def drawn_cases(number: int, widths: list[int]) -> list[Case]:
    """Small ones, lengths mostly no multiple of a tile, every width, both forms of key and parts of the queries among
    them."""
    dice = random.Random(9)
    cases = []
    for index in range(number):
        T, G = dice.choice([1, 2, 15, 16, 17, 31, 37, 53, 67]), dice.choice([1, 1, 2, 3])
        borders = sorted(dice.sample(range(1, T), min(T - 1, dice.choice([0, 1, 3, 5]))))
        cases.append(
            Case(T, dice.choice([1, 2]), G * dice.choice([1, 1, 2, 3]), G, 1 + index % 2, widths[index % len(widths)],
                 tuple(borders), one_lambda=dice.random() < 0.3, begin=dice.choice([0, dice.randrange(T)]))
        )  # fmt: skip
    return cases


def inputs(case: Case, dtype: torch.dtype = torch.float32, seed: int = 2, factor: float = 1.0) -> Inputs:
    """Random ones; logits grow with the square of ``factor``."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(case.H, 2, case.K), (case.G, case.S, case.K), (case.G, case.S * case.K)]
    sizes = [math.prod(shape) for shape in shapes]
    whole = torch.randn((case.T, case.B, sum(sizes) + 8), generator=generator).to(dtype)
    parts = whole.split([*sizes, 8], dim=-1)[:3]
    q, k, v = (part.unflatten(-1, shape).detach() for part, shape in zip(parts, shapes, strict=True))
    if factor != 1:
        q, k = q * factor, k * factor
    weight = torch.rand(() if case.one_lambda else (case.T, case.B, case.H), generator=generator)
    weight = weight.expand(case.T, case.B, case.H)
    tensors = (x.requires_grad_() for x in (q[case.begin :], k, v, weight[case.begin :]))
    return Inputs(*tensors, case.documents())


def explicit_attention(given: Inputs, scale: float | None = None) -> tuple[Tensor, list[Tensor]]:
    """(the output in fp64, its inputs in fp64, to ask for gradients of)."""
    q, k, v, weight = leaves = [x.detach().double().requires_grad_() for x in given.tensors]
    U, _, H, _, K = q.shape
    share = H // k.shape[2]
    k, v = k.repeat_interleave(share, 2).expand(-1, -1, -1, 2, -1), v.repeat_interleave(share, 2)
    scores = torch.einsum("ibhsk,jbhsk->sbhij", q, k) * (K**-0.5 if scale is None else scale)
    index = torch.arange(len(k))
    hidden = index > index[len(k) - U :, None]
    if given.documents is not None:
        hidden = hidden | (index < given.documents.starts_TB.t()[:, None, :, None])
    first, second = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    out = torch.einsum("bhij,jbhe->ibhe", first, v) - weight[..., None] * torch.einsum("bhij,jbhe->ibhe", second, v)
    return out, leaves


def direction_of(out: Tensor) -> Tensor:
    """What the gradient is taken along, [U, B, H, E], laid out batch first: not as the output is."""
    U, B, *rest = out.shape
    return torch.randn((B, U, *rest), generator=torch.Generator().manual_seed(7)).to(out.dtype).transpose(0, 1)


def assert_near(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Within ``tolerance`` of the largest number, or of 0.1 where all are smaller: some are 0 but for rounding."""
    assert found.shape == expected.shape, what
    error = float((found.double() - expected).abs().max() / expected.abs().max().clamp_min(0.1))
    assert error <= tolerance, f"{what}: {error:.1e} of the largest, beyond {tolerance:.0e}"
