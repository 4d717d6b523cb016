"""Rank -> (stage, data, tensor) is DeepSpeed's and megatron-core's map."""

import pytest
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

from common.errors import InputError
from pretrain.config import ParallelConfig
from pretrain.engines.connection import connect
from pretrain.topology import plan_topology, topology_from_environment
from tests.world import run_world


def test_places_equal_deepspeeds() -> None:
    theirs = PipeModelDataParallelTopology(num_pp=2, num_mp=2, num_dp=3)
    for rank in range(12):
        ours = plan_topology(ParallelConfig(tensor=2, pipeline=2), world_size=12, rank=rank)
        place = theirs.get_coord(rank)
        assert (ours.stage, ours.data_rank, ours.tensor_rank) == (place.pipe, place.data, place.model)


def test_connecting_compiles_nothing() -> None:
    assert run_world(1, _shared_memory_operation) == [None]


def _shared_memory_operation() -> object:
    connect(topology_from_environment(ParallelConfig()))
    from deepspeed.comm import comm

    return comm.cdb.shm_comm_op


def test_a_world_that_does_not_divide_is_refused_with_the_nearest_that_does() -> None:
    with pytest.raises(InputError, match="needs a multiple of 4 processes, there are 6; start 4"):
        plan_topology(ParallelConfig(tensor=2, pipeline=2), world_size=6)
