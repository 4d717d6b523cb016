"""Attention across the parts of a sample is that of the whole sample: three ranks against maps written out in fp64."""

import gc
from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor

from model.config import ModelConfig
from model.context.base import Context, Product, spans_of
from model.context.costs import sharing
from model.context.gathering import Gathering, heads_of_pieces
from model.context.over_heads import OverHeads
from model.context.pieces import Piece
from model.documents import Documents
from model.kernels.forms.arrangements import Halves, Wide
from model.kernels.forms.registry import form_named
from model.kernels.forms.sdpa import Sdpa
from model.recompute import recomputed
from model.split import Split
from pretrain.plan.layer_times import ATTENTION_BACKWARD
from tests.live_bytes import LiveBytes
from tests.world import run_world

RANKS, CHUNK, B, K = 3, 5, 2, 4
T = 2 * RANKS * CHUNK
STARTS = [0] * 7 + [7] * 1 + [8] * 17 + [25] * 5, [0] * 16 + [16] * 14
"""documents that cross borders of chunks, one of a single token"""
HEADS = {"standard": (1, None), "shared_diff": (2, 2), "diff_v2": (2, 1)}
"""streams of queries and of keys; None: no streams at all"""
FORMS = {form.name: form for form in (form_named("explicit"), form_named("sdpa"), Halves(Sdpa()), Wide(Sdpa()))}
COPYING = [name for name, form in FORMS.items() if form.keeps_copies]
"""forms whose backward pass reads copies of keys or values: no note of where they lay stands for them"""


def inputs(kind: str, groups: int) -> tuple[list[Tensor], Tensor]:
    """q, k, v and a weight where there is one, of whole samples, in fp64, and the gradient of the output."""
    queries, keys = HEADS[kind]
    draw = torch.Generator().manual_seed(groups)
    normal = partial(torch.randn, generator=draw, dtype=torch.float64)
    H, E = 2 * groups, K * (keys or 1)
    if keys is None:
        return [normal(T, B, H, K), normal(T, B, groups, K), normal(T, B, groups, K)], normal(T, B, H, K)
    q, k, v = normal(T, B, H, queries, K), normal(T, B, groups, keys, K), normal(T, B, groups, E)
    weight = torch.tensor(0.37, dtype=torch.float64) if kind == "shared_diff" else normal(T, B, H, 1).sigmoid()
    return [q, k, v, weight], normal(T, B, H, E)


def expected(kind: str, tensors: list[Tensor], starts_BT: Tensor | None) -> Tensor:
    """The product of whole samples with T x T maps."""
    q, k, v, *weight = tensors
    if kind == "standard":
        q, k = q.unsqueeze(3), k.unsqueeze(3)
    each = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(each, 2).expand(-1, -1, -1, q.shape[3], -1), v.repeat_interleave(each, 2)
    index = torch.arange(T)
    visible = (index <= index[:, None]).expand(B, T, T)
    if starts_BT is not None:
        visible = visible & (index >= starts_BT[..., None])
    scores = torch.einsum("tbhsk,ubhsk->bhstu", q, k) * K**-0.5
    maps = scores.masked_fill(~visible[:, None, None], -torch.inf).softmax(-1)
    if kind == "standard":
        whole = maps[:, :, 0]
    else:
        whole = maps[:, :, 0] - (weight[0].permute(1, 2, 0, 3) if weight[0].ndim else weight[0]) * maps[:, :, 1]
    return torch.einsum("bhtu,ubhe->tbhe", whole, v)


def own(x: Tensor, rank: int) -> Tensor:
    return torch.cat([x[slice(*span)] for span in spans_of(T, RANKS, rank)])


def compared(cases: list[tuple[str, str, str, bool, str]]) -> list[float]:
    """The largest error of output and gradients of this rank, for each case."""
    dist.init_process_group("gloo")
    rank, errors = dist.get_rank(), []
    for kind, exchange, form_name, documents, recompute in cases:
        groups = 6 if exchange == "heads" else 5
        context: Context = OverHeads(dist.group.WORLD) if exchange == "heads" else Gathering(dist.group.WORLD, 3)
        tensors, outer = inputs(kind, groups)
        starts = torch.tensor(STARTS, dtype=torch.int32) if documents else None
        leaves = [x.clone().requires_grad_() for x in tensors]
        whole = expected(kind, leaves, starts)
        whole.backward(outer)
        form = FORMS[form_name]
        inside = None
        if starts is not None:
            inside = Documents.of(starts).cut(spans_of(T, RANKS, rank))
            inside = context.prepared(inside, partial(form.prepared, dtype=torch.float64))
        parts = [(own(x, rank) if x.ndim else x.clone()).requires_grad_() for x in tensors]
        whole_product: Product = form.softmax if kind == "standard" else form.difference
        if kind == "shared_diff":
            whole_product = partial(form.difference, weight=parts[3])
        attend = partial(context.attend, whole_product)
        arguments = *parts[:3], parts[3:] if kind == "diff_v2" else (), inside
        out = recomputed(attend, *arguments) if recompute == "recomputed" else attend(*arguments)
        out.backward(own(outer, rank))
        if kind == "shared_diff":
            dist.all_reduce(parts[3].grad)
        pairs = [(out, own(whole, rank))]
        pairs += [
            (part.grad, own(leaf.grad, rank) if leaf.ndim else leaf.grad)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        errors.append(max(float((ours - theirs).abs().max()) for ours, theirs in pairs))
    return errors


def cases() -> Iterator[tuple[str, str, str, bool, str]]:
    kinds, forms = HEADS, ("explicit", "sdpa")
    for kind, exchange, form, documents in product(kinds, ("gather", "heads"), forms, (False, True)):
        yield kind, exchange, form, documents, "kept"
    for kind, form in product(kinds, forms):
        yield kind, "gather", form, True, "recomputed"
    for form, recompute in product(COPYING, ("kept", "recomputed")):
        yield "shared_diff", "gather", form, True, recompute


def test_outputs_and_gradients_are_those_of_the_whole_sample() -> None:
    every = list(cases())
    for errors in run_world(RANKS, compared, every):
        for case, error in zip(every, errors, strict=True):
            assert error < 1e-12, case


def difference(context: Context, parts: list[Tensor]) -> Tensor:
    """With one weight for all."""
    product = partial(form_named("explicit").difference, weight=parts[3])
    return context.attend(product, *parts[:3], (), None)


def kept_bytes(pieces: int) -> tuple[int, int]:
    """Bytes of tensors between a forward and a backward pass, beyond the inputs, and their peak in both."""
    dist.init_process_group("gloo")
    rank, context = dist.get_rank(), Gathering(dist.group.WORLD, pieces)
    tensors, outer = inputs("shared_diff", 5)
    parts = [(own(x, rank) if x.ndim else x.clone()).requires_grad_() for x in tensors]
    gradient = own(outer, rank)
    with LiveBytes(known=[*parts, gradient]) as live:
        out = difference(context, parts)
        gc.collect()
        kept = live.now
        live.peak = live.now
        out.backward(gradient)
        return kept, live.peak


def test_gathered_keys_and_values_are_not_kept() -> None:
    """What is kept besides queries: keys and values by pieces, and outputs, of this rank's tokens."""
    tokens, groups, heads = T // RANKS * B, 5, 10
    both = tokens * groups * 4 * K * 8
    outputs = tokens * heads * 2 * K * 8
    found = {pieces: run_world(RANKS, kept_bytes, pieces) for pieces in (1, 5)}
    for kept, _ in (*found[1], *found[5]):
        assert kept == both + outputs
    for (_, at_once), (_, by_heads) in zip(found[1], found[5], strict=True):
        assert by_heads < at_once - both  # all ranks' keys and values, of one head instead of five


def order_of_work(pieces: int) -> tuple[list[tuple[int, int, int]], list[str]]:
    """Queries, keys and query heads of all samples in each product of a forward pass; then the exchanges that set out
    in the backward pass, where a sum follows a piece's products."""
    dist.init_process_group("gloo")
    rank, context, seen = dist.get_rank(), Gathering(dist.group.WORLD, pieces), []
    tensors, outer = inputs("shared_diff", 5)
    parts = [(own(x, rank) if x.ndim else x.clone()).requires_grad_() for x in tensors]
    products: list[tuple[int, int, int]] = []

    def noted(q: Tensor, k: Tensor, v: Tensor, documents: None) -> Tensor:
        products.append((len(q), len(k), q.shape[1] * q.shape[2]))
        return form_named("explicit").difference(q, k, v, parts[3], documents)

    out = context.attend(noted, *parts[:3], (), None)
    start, send = Piece.start, Piece.send_gradient

    def started(piece: Piece, part: Tensor) -> None:
        seen.append("gather")
        start(piece, part)

    def sent(piece: Piece, gradient: Tensor) -> Tensor:
        seen.append("sum")
        return send(piece, gradient)

    Piece.start, Piece.send_gradient = started, sent  # type: ignore[method-assign]
    out.backward(own(outer, rank))
    return products, seen


def test_a_ranks_products_are_those_of_the_plan_and_the_next_piece_sets_out_before_one_ends() -> None:
    """The plan has T/2 keys for a token, of which there are (T + 1)/2: a token reads itself."""
    model = ModelConfig(num_heads=10, num_kv_heads=5, head_dim=K)
    split = Split(1, False, B, T, 8, context_size=RANKS, context_pieces=3)
    communication = sharing(model, split)
    planned = communication.forward[0].beside
    assert [one.beside for one in communication.backward] == [ATTENTION_BACKWARD / 2 * planned] * 2
    of_a_pair = 2 * (2 * 2 * K + 2 * 2 * K)  # as grouped queries: two maps, keys and values of 2K
    for products, seen in run_world(RANKS, order_of_work, 3):
        pairs = sum(heads * (queries * keys - queries * (queries - 1) // 2) for queries, keys, heads in products)
        assert of_a_pair * pairs * T == planned * (T + 1)
        assert seen == ["gather", "gather", "sum", "gather", "sum", "sum"]


def test_pieces_are_as_even_as_can_be() -> None:
    assert heads_of_pieces(7, 3) == [3, 2, 2]
    assert heads_of_pieces(2, 4) == [1, 1]
    assert heads_of_pieces(4, 1) == [4]
