"""Sharded layers compute what plain layers compute: losses and every gradient, for all kinds, readings and modes.

Every rank builds the sharded and the plain model with the same weights and compares its own part; partial gradients
are summed over the group first. Layers are compared in fp64, where nothing but an error is above 1e-10; the loss, which
is fp32 by contract, within 1e-5. One world of processes checks everything for one size of the group.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model import loss as loss_module
from model.config import ModelConfig
from model.documents import Documents
from model.kernels.rowwise import cross_entropy
from model.layers import LanguageModel, build_layers
from model.loss import cross_entropy_TB, mean_loss
from model.parallel import Sharding, Unsharded, info_of, logical_parameters
from tests.model.helpers import every_reading, spread, tokens
from tests.world import run_world

FP64, FP32 = 1e-10, 1e-5
SIZES = {
    "num_layers": 2,
    "hidden_size": 24,
    "ffn_hidden_size": 32,
    "num_heads": 4,
    "head_dim": 8,
    "rank": 6,
    "vocab_size": 64,
}
KINDS = every_reading({**SIZES, "num_heads": 8}, group=2)


def tensor_parallel(sequence_parallel: bool) -> Sharding:
    """This world as one tensor-parallel group."""
    from megatron.core import parallel_state

    from model.tensor_parallel import TensorParallel

    if not dist.is_initialized():
        dist.init_process_group("gloo")
        parallel_state.initialize_model_parallel(dist.get_world_size(), 1, create_gloo_process_groups=False)
    group = parallel_state.get_tensor_model_parallel_group()
    return TensorParallel(group, sequence_parallel, row_pieces=3)  # which divides none of the lengths


def own_part(whole: Tensor, parameter: torch.nn.Parameter, sharding: Sharding) -> Tensor:
    dim = info_of(parameter).shard_dim
    return whole if dim is None else whole.chunk(sharding.size, dim)[sharding.rank]


def build_pair(config: ModelConfig, sharding: Sharding, **options) -> tuple[LanguageModel, LanguageModel]:
    """(sharded model, plain model) with the same weights, moved away from their initial values."""
    plain = LanguageModel(build_layers(config, Unsharded(), seed=1, dtype=torch.float64))
    spread(plain)
    sharded = LanguageModel(build_layers(config, sharding, seed=1, dtype=torch.float64, **options))
    whole = logical_parameters(plain)
    with torch.no_grad():
        for name, parameter in logical_parameters(sharded).items():
            parameter.copy_(own_part(whole[name], parameter, sharding))
    return sharded, plain


def loss_and_gradients(model: LanguageModel, payload, labels_BT: Tensor, sharding: Sharding):
    """The loss, and the gradient of each parameter of a functional that weighs every logit differently."""
    parameters = logical_parameters(model)
    loss = model(payload, finish=mean_loss(labels_BT)).detach()
    logits_TBV = model(payload)
    whole_shape = (*logits_TBV.shape[:2], logits_TBV.shape[2] * sharding.size)
    direction = torch.randn(whole_shape, generator=torch.Generator().manual_seed(4), dtype=logits_TBV.dtype)
    probe = (logits_TBV * direction.chunk(sharding.size, -1)[sharding.rank]).sum()
    gradients = dict(zip(parameters, torch.autograd.grad(probe, list(parameters.values())), strict=True))
    for name, parameter in parameters.items():
        if info_of(parameter).partial_gradient:
            dist.all_reduce(gradients[name], group=sharding.group)
    return loss, gradients


def payload_and_labels(config: ModelConfig, documents: bool):
    tokens_BT = tokens(config, batch=2, length=17)
    starts_BT = torch.zeros(2, 16, dtype=torch.int32)
    starts_BT[0, 5:] = 5
    starts_BT[1, 12:] = 12
    inputs_BT, labels_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
    return ((inputs_BT, Documents.of(starts_BT)) if documents else inputs_BT), labels_BT


def compare_with_plain(kinds: dict[str, ModelConfig]) -> dict[str, float]:
    """Largest relative difference of the loss and of each gradient on this rank, by case."""
    differences = {}
    for (kind, config), sequence_parallel, tied in itertools.product(kinds.items(), (False, True), (False, True)):
        sharding = tensor_parallel(sequence_parallel)
        config = dataclasses.replace(config, tie_embeddings=tied)
        sharded, plain = build_pair(config, sharding)
        payload, labels_BT = payload_and_labels(config, documents=sequence_parallel)
        loss, gradients = loss_and_gradients(sharded, payload, labels_BT, sharding)
        expected_loss, expected = loss_and_gradients(plain, payload, labels_BT, Unsharded())
        case = f"{kind}{' sequence-parallel' * sequence_parallel}{' tied' * tied}"
        differences[f"{case}: loss"] = float((loss - expected_loss).abs())
        for name, parameter in logical_parameters(sharded).items():
            whole = own_part(expected[name], parameter, sharding)
            scale = expected[name].abs().max()
            differences[f"{case}: gradient of {name}"] = float((gradients[name] - whole).abs().max() / scale)
    return differences


@pytest.mark.parametrize(
    ("size", "kinds"),
    [(2, list(KINDS)), (4, ["standard", "shared_diff-layer-layer", "shared_diff-head-head", "diff_v2-grouped"])],
    ids=["tensor 2", "tensor 4"],
)
def test_loss_and_gradients_equal_the_plain_model(size, kinds):
    for differences in run_world(size, compare_with_plain, {kind: KINDS[kind] for kind in kinds}):
        wrong = {case: value for case, value in differences.items() if not value <= (FP32 if "loss" in case else FP64)}
        assert not wrong
        assert len(differences) > 40 * len(kinds)


@contextlib.contextmanager
def chunks_of(rows: int, columns: int, element_bytes: int) -> Iterator[None]:
    """Within it the loss works on so many tokens at once, a part of them in fp32."""
    with (
        mock.patch.object(loss_module, "CHUNK_BYTES", rows * columns * element_bytes),
        mock.patch.object(cross_entropy, "CPU_PIECE_ELEMENTS", 3 * columns),
    ):
        yield


def gradients_agree(
    sharded: LanguageModel, plain: LanguageModel, payload, labels_BT: Tensor, sharding: Sharding
) -> bool:
    """Whether the mean loss has the gradients that autograd finds for the plain model's logits, whole and in fp64."""
    parameters = logical_parameters(sharded)
    loss = sharded(payload, finish=mean_loss(labels_BT))
    found = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    whole = logical_parameters(plain)
    expected_loss = torch.nn.functional.cross_entropy(plain(payload).flatten(0, 1), labels_BT.t().flatten())
    expected = dict(zip(whole, torch.autograd.grad(expected_loss, list(whole.values())), strict=True))
    agreed = torch.allclose(loss.double(), expected_loss, atol=1e-6)
    for name, parameter in parameters.items():
        if info_of(parameter).partial_gradient:
            dist.all_reduce(found[name], group=sharding.group)
        scale = expected[name].abs().max()
        difference = (found[name] - own_part(expected[name], parameter, sharding)).abs().max()
        agreed &= bool(difference <= 1e-6 * scale)
    return agreed


def inspect_details() -> dict[str, bool]:
    """What does not fit the comparison above, as named facts that must hold on every rank."""
    config = KINDS["shared_diff-layer-layer"]
    facts = {}
    for sequence_parallel in (False, True):
        mode = "sequence-parallel" if sequence_parallel else "plain"
        sharding = tensor_parallel(sequence_parallel)
        whole = logical_parameters(LanguageModel(build_layers(config, Unsharded(), seed=1)))
        own = logical_parameters(LanguageModel(build_layers(config, sharding, seed=1)))
        facts[f"{mode}: initial values are parts of the plain model's"] = all(
            torch.equal(p, own_part(whole[name], p, sharding)) for name, p in own.items()
        )

        payload, labels_BT = payload_and_labels(config, documents=True)
        runs = {}
        for recompute in ("none", "selective", "full"):
            sharded, _ = build_pair(config, sharding, activation_checkpointing=recompute)
            runs[recompute] = loss_and_gradients(sharded, payload, labels_BT, sharding)
        for recompute in ("selective", "full"):
            same = torch.equal(runs[recompute][0], runs["none"][0])
            same &= all(torch.equal(runs[recompute][1][name], g) for name, g in runs["none"][1].items())
            facts[f"{mode}: {recompute} recomputation gives the same bits"] = same

        sharded, plain = build_pair(config, sharding)
        loss_TB, expected_TB = (model(payload, finish=cross_entropy_TB(labels_BT)) for model in (sharded, plain))
        facts[f"{mode}: every token's loss is the plain model's"] = torch.allclose(loss_TB, expected_TB, atol=FP32)
        for rows in (5, 1000):  # tokens whose logits are there at once
            with chunks_of(rows, columns=config.vocab_size // sharding.size, element_bytes=8):
                facts[f"{mode}: so are the loss's gradients, {rows} rows at once"] = gradients_agree(
                    sharded, plain, payload, labels_BT, sharding
                )

        partial = {name for name, p in logical_parameters(sharded).items() if info_of(p).partial_gradient}
        heads = ("query_down", "key_down", "query_up", "key_up", "lambda", "head_norm")
        expected = {n for n in logical_parameters(sharded) if any(part in n for part in heads)}
        if sequence_parallel:
            expected |= {n for n in logical_parameters(sharded) if n.endswith("norm.weight")}
        facts[f"{mode}: partial gradients are those of heads and of sequence shards"] = partial == expected

    sharding = tensor_parallel(False)
    x = torch.ones(3, 4, requires_grad=True)
    strided = torch.full((4, 3), sharding.rank + 1.0).t()
    sharding.enter(x).backward(strided)
    facts["a gradient with unusual strides is summed over the ranks"] = bool((x.grad == 3.0).all())
    return facts


def test_recomputation_losses_and_partial_gradients():
    for facts in run_world(2, inspect_details):
        assert [fact for fact, holds in facts.items() if not holds] == []
        assert len(facts) == 15


def build_13b_on_meta(rank: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """{name: (whole shape, shape on ``rank`` of 512)} of one block of the largest model, without values."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from model.tensor_parallel import TensorParallel

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=512)
    sharding = TensorParallel(dist.new_group(list(range(rank // 2 * 2, rank // 2 * 2 + 2))), sequence_parallel=True)
    config = ModelConfig(
        num_layers=44,
        hidden_size=5120,
        ffn_hidden_size=13656,
        num_heads=30,
        head_dim=88,
        rank=448,
        vocab_size=100_288,
        tie_embeddings=False,
    )
    shapes = {}
    for layer in build_layers(config, sharding, seed=1, dtype=torch.bfloat16, device="meta"):
        for name, parameter in logical_parameters(layer.build()).items():
            assert parameter.is_meta
            assert parameter.dtype == torch.bfloat16
            shapes[name] = (info_of(parameter).full_shape, tuple(parameter.shape))
    return shapes


def test_the_meta_device_needs_neither_memory_nor_other_processes():
    (shapes,) = run_world(1, build_13b_on_meta, 511)
    prefix = "blocks.43.attention."
    assert shapes["embedding.weight"] == ((100_288, 5120), (50_144, 5120))
    assert shapes["head.weight"] == ((100_288, 5120), (50_144, 5120))
    assert shapes[f"{prefix}query_base.weight"] == ((88, 5120), (44, 5120))
    assert shapes[f"{prefix}query_up"] == ((30, 2, 88, 448), (30, 2, 88, 448))
    assert shapes[f"{prefix}output.weight"] == ((5120, 5280), (5120, 2640))
