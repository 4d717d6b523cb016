"""One contract test for each private name of torch: an upgrade that takes names away fails with the list of them."""

import pytest
import torch
import torch.distributed as dist

from pretrain import torch_compat


@pytest.fixture
def group():
    dist.init_process_group("fake", store=torch_compat.fake_store(), rank=1, world_size=3)
    try:
        yield dist.distributed_c10d._get_default_group()
    finally:
        dist.destroy_process_group()


class Watch(torch_compat.dispatch_mode()):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[str]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append((torch_compat.operation_name(function), torch_compat.argument_names(function)))
        return function(*args, **(kwargs or {}))


def test_a_fake_store_makes_a_world_of_which_one_rank_is_there(group) -> None:
    assert (dist.get_rank(), dist.get_world_size()) == (1, 3)


def test_a_dispatch_mode_sees_collectives_with_their_names_and_arguments(group) -> None:
    with Watch() as watch:
        dist.all_reduce(torch.ones(5))
    name, arguments = next(seen for seen in watch.seen if seen[0].startswith("c10d::"))
    assert name == "c10d::allreduce_"
    assert "process_group" in arguments


def test_tensors_are_found_in_nested_values() -> None:
    a, b = torch.ones(2), torch.ones(3)
    assert [t.numel() for t in torch_compat.tensors_in([a, {"x": (b, 5)}, "c"])] == [2, 3]


def test_all_groups_of_the_process_have_names(group) -> None:
    assert list(torch_compat.named_groups(dist)) == [group]


def test_a_group_counts_its_collectives_or_says_that_it_does_not(group) -> None:
    assert torch_compat.collectives_started(group) in (None, 0)


def test_many_tensors_are_scaled_and_measured_at_once() -> None:
    tensors = [torch.full((3,), 2.0), torch.full((2, 2), 1.0)]
    torch.testing.assert_close(torch_compat.norms(tensors), torch.tensor([12.0**0.5, 2.0]))
    torch_compat.scale_(tensors, 0.5)
    assert [float(tensor.max()) for tensor in tensors] == [1.0, 0.5]
