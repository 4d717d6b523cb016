"""Buckets: what leaves together, cut in the order of the forward pass."""

import itertools

import pytest

from model.config import ModelConfig
from model.parallel import ParameterInfo
from pretrain.config import ParallelConfig, RunConfig
from pretrain.engines.zero.buckets import Bucket, bucket_elements, cut_into_buckets
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.registry import optimizer_kind
from pretrain.plan.layers import elements_per_rank, stage_parameters
from pretrain.topology import plan_topology


def cut(full: int, optimizer: str = "adamw", tensor: int = 1) -> tuple[list[ParameterInfo], list[Bucket]]:
    model = ModelConfig(num_layers=7, hidden_size=64, num_heads=2, ffn_hidden_size=176, tie_embeddings=False)
    config = RunConfig(model=model, parallel=ParallelConfig(tensor=tensor))
    infos = stage_parameters(config, plan_topology(config.parallel, tensor))
    sizes = [elements_per_rank(info, tensor) for info in infos]
    return infos, cut_into_buckets(infos, sizes, optimizer_kind(OptimizerConfig(kind=optimizer)), full)


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("full", [1, 10_007, 50_021, 10**9])
def test_every_parameter_is_in_one_bucket_with_others_of_its_kind(full: int, optimizer: str, tensor: int) -> None:
    infos, buckets = cut(full, optimizer, tensor)
    assert sorted(itertools.chain(*(bucket.members for bucket in buckets))) == list(range(len(infos)))
    kind = optimizer_kind(OptimizerConfig(kind=optimizer))
    for bucket in buckets:
        members = [infos[index] for index in bucket.members]
        assert {kind.group_of(info) for info in members} == {bucket.group}
        assert {info.partial_gradient for info in members} == {bucket.partial}
        assert list(bucket.members) == sorted(bucket.members)
        assert bucket.elements == sum(elements_per_rank(info, tensor) for info in members)
    firsts = [bucket.members[0] for bucket in buckets]
    assert firsts == sorted(firsts), "in the order in which the forward pass needs them"


def test_a_bucket_is_closed_when_it_is_full_and_the_vocabulary_stands_alone() -> None:
    infos, buckets = cut(50_021)
    names = [[infos[index].name for index in bucket.members] for bucket in buckets]
    assert ["embedding.weight"] in names
    assert ["head.weight"] in names
    closed = [bucket for bucket in buckets if bucket.group.name == "matrices" and len(bucket.members) > 1][:-1]
    assert len(closed) > 2
    for bucket in closed:
        last = elements_per_rank(infos[bucket.members[-1]], 1)
        assert bucket.elements - last < 50_021 <= bucket.elements


def test_matrices_that_are_updated_whole_are_not_spread_over_buckets() -> None:
    infos, buckets = cut(1, "muon")
    holding_matrices = [bucket for bucket in buckets if infos[bucket.members[0]].matrix]
    assert len(holding_matrices) == 1
    assert len(holding_matrices[0].members) == sum(info.matrix for info in infos)


def test_the_default_size_follows_the_model_and_the_ranks() -> None:
    billion = 10**9
    assert bucket_elements(None, 3 * billion, 64) == 3 * billion // 32
    assert bucket_elements(None, 1000, 3) * 4 == 3 * 2**19
    assert bucket_elements(None, 1000, 1) * 4 == 2**20
    assert bucket_elements(7, 3 * billion, 64) * 4 == 7 * 2**20
