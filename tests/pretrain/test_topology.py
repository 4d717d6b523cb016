"""A rank's place along every axis: the plain enumeration, DeepSpeed's map and megatron-core's, whatever the sizes."""

import ast
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from megatron.core.parallel_state import RankGenerator

from common.errors import InputError
from pretrain.config import ParallelConfig
from pretrain.engines.connection import connect
from pretrain.topology import AXES, COPIES, Axis, Topology, plan_topology, replica_size, topology_from_environment
from tests.conftest import ROOT
from tests.world import run_world

SIZES = [
    *((tensor, 1, data, pipeline) for tensor, data, pipeline in itertools.permutations((3, 2, 5))),
    *((2, 3, 5, 1), (5, 3, 1, 2), (1, 2, 3, 5), (3, 2, 2, 3)),
    *((2, 1, 4, 3), (1, 1, 7, 1), (1, 5, 1, 1), (4, 1, 1, 1), (1, 1, 1, 6), (1, 1, 1, 1)),
]
"""tensor, context, data, pipeline"""
SETS = [axes for count in range(len(AXES) + 1) for axes in itertools.combinations(AXES, count)]
DEEPSPEED: dict[tuple[Axis, ...], str] = {("tensor",): "model", COPIES: "data", ("pipeline",): "pipe"}
"""its axes: those that hold copies of the same weights are one"""
MEGATRON: dict[Axis, str] = {"tensor": "tp", "context": "cp", "data": "dp", "pipeline": "pp"}
Sizes = tuple[int, int, int, int]

by_size = pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(map(str, sizes)))


def ranks_of(sizes: Sizes) -> list[Topology]:
    tensor, context, _, pipeline = sizes
    config, world = ParallelConfig(tensor=tensor, context=context, pipeline=pipeline), math.prod(sizes)
    return [plan_topology(config, world, rank, local_rank=rank % 4) for rank in range(world)]


def enumerated(sizes: Sizes) -> list[dict[Axis, int]]:
    """Every rank's place, by counting: tensor fastest, pipeline slowest."""
    tensor, context, data, pipeline = sizes
    return [
        {"tensor": t, "context": c, "data": d, "pipeline": p}
        for p in range(pipeline)
        for d in range(data)
        for c in range(context)
        for t in range(tensor)
    ]


@by_size
def test_a_place_is_the_one_that_counting_gives(sizes: Sizes) -> None:
    for topology, place in zip(ranks_of(sizes), enumerated(sizes), strict=True):
        assert {axis: topology.index(axis) for axis in AXES} == place
        ranks = topology.tensor_rank, topology.context_rank, topology.data_rank, topology.stage
        assert ranks == tuple(place[axis] for axis in AXES)
        assert (topology.tensor_size, topology.context_size, topology.data_size, topology.pipeline_size) == sizes
        assert tuple(topology.size(axis) for axis in AXES) == sizes
        assert topology.is_main == (set(place.values()) == {0})


@by_size
@pytest.mark.parametrize("axes", SETS, ids=lambda axes: "+".join(axes) or "none")
def test_ranks_along_axes_are_alike_in_all_others(sizes: Sizes, axes: tuple[Axis, ...]) -> None:
    places, others = enumerated(sizes), set(AXES) - set(axes)
    for topology, own in zip(ranks_of(sizes), places, strict=True):
        alike = [rank for rank, place in enumerate(places) if all(place[axis] == own[axis] for axis in others)]
        assert list(topology.ranks(*axes)) == alike
        assert topology.ranks(*reversed(axes)) == topology.ranks(*axes, *axes) == topology.ranks(*axes)


@by_size
@pytest.mark.parametrize("axes", SETS, ids=lambda axes: "+".join(axes) or "none")
def test_the_first_rank_of_each_place_along_axes(sizes: Sizes, axes: tuple[Axis, ...]) -> None:
    first: dict[tuple[int, ...], int] = {}
    for rank, place in enumerate(enumerated(sizes)):
        first.setdefault(tuple(place[axis] for axis in axes), rank)
    for topology in ranks_of(sizes):
        assert [other.rank for other in topology.firsts(*axes)] == list(first.values())


@by_size
def test_going_along_axes_changes_nothing_else(sizes: Sizes) -> None:
    places, topologies = enumerated(sizes), ranks_of(sizes)
    for topology, own in zip(topologies, places, strict=True):
        for axes in SETS:
            for indices in itertools.product(*(range(topology.size(axis)) for axis in axes)):
                moved = dict(zip(axes, indices, strict=True))
                there = topology.at(**moved)
                assert places[there.rank] == {**own, **moved}
                assert there == replace(topology, rank=there.rank)
        assert topology.at() == topology


@by_size
def test_copies_of_the_weights_lie_along_context_and_data(sizes: Sizes) -> None:
    _, context, data, _ = sizes
    places = enumerated(sizes)
    for topology, own in zip(ranks_of(sizes), places, strict=True):
        same = [r for r, place in enumerate(places) if all(place[axis] == own[axis] for axis in ("tensor", "pipeline"))]
        assert topology.copies == len(same) == context * data
        assert same[topology.copy] == topology.rank
        for among in (None, *(count for count in (1, 2, 3, 5) if len(same) % count == 0)):
            size = among or len(same)
            assert list(topology.sharing(among)) == same[topology.copy // size * size :][:size]
            assert list(topology.alike(among)) == same[topology.copy % size :: size]


@by_size
def test_deepspeed_has_the_same_map(sizes: Sizes) -> None:
    tensor, context, data, pipeline = sizes
    theirs = PipeModelDataParallelTopology(num_pp=pipeline, num_mp=tensor, num_dp=context * data)
    for topology in ranks_of(sizes):
        coordinate = theirs.get_coord(topology.rank)
        own = {"model": topology.tensor_rank, "data": topology.copy, "pipe": topology.stage}
        assert {name: getattr(coordinate, name) for name in own} == own
        for count in range(len(DEEPSPEED) + 1):
            for groups in itertools.combinations(DEEPSPEED, count):
                fixed = {name: own[name] for group, name in DEEPSPEED.items() if group not in groups}
                axes = itertools.chain.from_iterable(groups)
                assert list(topology.ranks(*axes)) == sorted(theirs.filter_match(**fixed))


@by_size
def test_megatron_has_the_same_groups(sizes: Sizes) -> None:
    tensor, context, data, pipeline = sizes
    theirs = RankGenerator(tp=tensor, ep=1, dp=data, pp=pipeline, cp=context, order="tp-cp-ep-dp-pp")
    for axes in SETS[1:]:
        groups = sorted(theirs.get_ranks("-".join(MEGATRON[axis] for axis in axes)))
        assert sorted({topology.ranks(*axes) for topology in ranks_of(sizes)}) == [tuple(group) for group in groups]


def test_what_is_not_there_is_refused_by_name() -> None:
    topology = plan_topology(ParallelConfig(tensor=3, pipeline=5), world_size=30, rank=29)
    with pytest.raises(ValueError, match="the axes are tensor, context, data, pipeline, not stage"):
        topology.at(stage=1)
    for index in (5, -1):
        with pytest.raises(ValueError, match=f"pipeline: there are places 0 to 4, not {index}"):
            topology.at(pipeline=index)


def test_a_world_that_does_not_divide_is_refused_with_the_nearest_that_does() -> None:
    with pytest.raises(InputError, match=r"^parallel: tensor 2 x pipeline 2 needs a multiple of 4 .* are 6; start 4"):
        plan_topology(ParallelConfig(tensor=2, pipeline=2), world_size=6)
    with pytest.raises(InputError, match=r"^parallel: tensor 1 x context 3 x pipeline 1 needs a multiple of 3"):
        plan_topology(ParallelConfig(context=3), world_size=4)


@pytest.mark.parametrize("rank", [6, -1])
def test_a_rank_outside_of_the_world_is_refused(rank: int) -> None:
    with pytest.raises(InputError, match=rf"^RANK: {rank} is none of 6 processes \(WORLD_SIZE\)"):
        plan_topology(ParallelConfig(tensor=2), world_size=6, rank=rank)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
def test_an_environment_without_numbers_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    with pytest.raises(InputError, match=f"^{name}: must be a whole number"):
        topology_from_environment(ParallelConfig())


def test_words_name_every_axis_and_a_replica_has_no_data_axis() -> None:
    config = ParallelConfig(tensor=3, pipeline=5, sequence=True)
    assert plan_topology(config, 30).describe() == "tensor 3 x pipeline 5 x data 2 with sequence parallelism"
    assert replica_size(config) == 15
    shared = replace(config, context=2)
    assert plan_topology(shared, 60).describe().startswith("tensor 3 x context 2 x pipeline 5 x data 2 with ")
    assert replica_size(shared) == 30


def test_connecting_compiles_nothing() -> None:
    assert run_world(1, _shared_memory_operation) == [None]


def _shared_memory_operation() -> object:
    connect(topology_from_environment(ParallelConfig()))
    from deepspeed.comm import comm

    return comm.cdb.shm_comm_op


def test_no_other_file_computes_with_ranks_and_sizes_of_axes() -> None:
    rooms = ("common", "data", "model", "pretrain", "launch", "scripts")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py") if path != ROOT / "pretrain/topology.py"]
    assert [f"{path.relative_to(ROOT)}:{line}" for path in files for line in rank_arithmetic(path)] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("stride = topology.tensor_size * topology.data_size", True),
        ("stride = topology.world_size // topology.pipeline_size", True),
        ("place = topology.rank // per_stage % topology.data_size", True),
        ("first = self.topology.rank - topology.tensor_rank", True),
        ("one = config.parallel.tensor * config.parallel.pipeline", True),
        ("unit = micro_size * topology.data_size", False),
        ("node = rank // gpus_per_node", False),
        ("replica = topology.tensor_rank != 0", False),
    ],
)
def test_rank_arithmetic_is_seen(tmp_path: Path, code: str, found: bool) -> None:
    (tmp_path / "code.py").write_text(code)
    assert list(rank_arithmetic(tmp_path / "code.py")) == [1] * found


def rank_arithmetic(path: Path) -> Iterator[int]:
    """Lines on which one size or rank of an axis is combined with another."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.BinOp) and _of_an_axis(node.left) and _of_an_axis(node.right):
            yield node.lineno


def _of_an_axis(node: Any) -> bool:
    """Whether an operand is, or is computed from, what a topology or the `parallel` section says of an axis."""
    if isinstance(node, ast.BinOp):
        return _of_an_axis(node.left) or _of_an_axis(node.right)
    text = ast.unparse(node)
    names = ("rank", "stage", "world_size", *(f"{axis}_{what}" for axis in AXES for what in ("size", "rank")))
    return any(text.endswith(f"topology.{name}") for name in names) or text in {f"config.parallel.{a}" for a in AXES}
