"""The ranks of every group are DeepSpeed's, and ring algorithms send what the textbook says."""

import pytest
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

from pretrain.config import ParallelConfig
from pretrain.plan.exchange import Exchange, Group, group_ranks, totals
from pretrain.topology import plan_topology

SIZES = {"tensor": 2, "pipeline": 3}
WORLD = 24


def ranks_of(group: Group, rank: int) -> tuple[int, ...]:
    return group_ranks(plan_topology(ParallelConfig(**SIZES), WORLD, rank=rank), group)


@pytest.mark.parametrize(("group", "axis"), [("tensor", "model"), ("data", "data"), ("pipeline", "pipe")])
def test_groups_along_one_axis_are_deepspeeds(group: Group, axis: str) -> None:
    theirs = PipeModelDataParallelTopology(num_pp=3, num_mp=2, num_dp=4).get_axis_comm_lists(axis)
    for rank in range(WORLD):
        assert list(ranks_of(group, rank)) == next(ranks for ranks in theirs if rank in ranks)


def test_the_model_group_holds_one_replica() -> None:
    topology = PipeModelDataParallelTopology(num_pp=3, num_mp=2, num_dp=4)
    for rank in range(WORLD):
        assert list(ranks_of("model", rank)) == sorted(topology.filter_match(data=topology.get_coord(rank).data))


def test_stages_talk_to_their_neighbours_and_the_ends_share_the_embedding() -> None:
    assert ranks_of("next stage", 3) == (3, 11)
    assert ranks_of("previous stage", 11) == (11, 3)
    assert ranks_of("tied", 3) == (3, 19)
    assert ranks_of("tied", 11) == (3, 19)


@pytest.mark.parametrize(
    ("operation", "sent"),
    [("all_reduce", 1500), ("all_gather", 750), ("reduce_scatter", 750), ("broadcast", 1000), ("send", 1000)],
)
def test_bytes_on_the_wire(operation, sent: float) -> None:
    assert Exchange("data", (0, 1, 2, 3), operation, "", 1000).wire_bytes == sent


def test_totals_add_up_by_ranks_and_operation_and_leave_out_what_needs_no_partner() -> None:
    pair, alone = (0, 1), (0,)
    exchanges = [
        Exchange("tensor", pair, "all_reduce", "one", 10),
        Exchange("data", pair, "all_reduce", "another", 5),
        Exchange("tensor", pair, "all_gather", "third", 7),
        Exchange("data", alone, "all_reduce", "nobody else", 9),
        Exchange("tensor", pair, "broadcast", "nothing", 0),
    ]
    assert totals(exchanges) == {(pair, "all_reduce"): 15, (pair, "all_gather"): 7}
