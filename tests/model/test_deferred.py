"""Gradients of weights that come later are the same bits, arrive where hooks see them, and leave nothing behind."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from model.deferred import DeferredGradients
from model.packed import linear, packed_linear
from model.recompute import recomputed
from tests.live_bytes import LiveBytes

ROWS = (5, 1, 7)
WIDTH = 11


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(rows, WIDTH, generator=generator)) for rows in (*ROWS, WIDTH)]


def inputs(seed: int) -> Tensor:
    return torch.randn(3, 2, WIDTH, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def network(x: Tensor, of: list[nn.Parameter]) -> Tensor:
    *packed, alone = of
    results = packed_linear(linear(x, alone).tanh(), packed)
    return torch.stack([result.square().sum() * factor for factor, result in enumerate(results, start=1)]).sum()


def network_again(x: Tensor, of: list[nn.Parameter]) -> Tensor:
    return recomputed(network, x, of)


@pytest.mark.parametrize("run", [network, network_again])
def test_gradients_come_when_they_are_asked_for_pass_by_pass(run: Callable[..., Tensor]) -> None:
    expected, late = weights(), weights()
    deferred = DeferredGradients(late)
    seen: list[int] = []
    for index, weight in enumerate(late):
        weight.register_post_accumulate_grad_hook(lambda _, index=index: seen.append(index))
    sums = []
    for seed in (2, 3):
        x, other = inputs(seed), inputs(seed)
        run(other, expected).backward()
        sums.append([weight.grad.clone() for weight in expected])
        deferred.begin_pass()
        run(x, late).backward()
        assert torch.equal(x.grad, other.grad)
        assert all(weight.grad is None for weight in late)
    assert seen == []
    for expected_sums in sums:
        deferred.compute_oldest()
        assert all(torch.equal(weight.grad, total) for weight, total in zip(late, expected_sums, strict=True))
    assert seen[:4] == seen[4:] == [0, 1, 2, 3]  # the last layer's first, as autograd does


def test_nothing_of_a_pass_is_left() -> None:
    late = weights()
    deferred = DeferredGradients(late)
    with LiveBytes(late) as live:
        for _ in range(2):
            deferred.begin_pass()
            x = inputs(4)
            network(x, late).backward()
            held = live.now
            deferred.compute_oldest()
            for weight in late:
                weight.grad = None
            gc.collect()
            assert live.now < held
            del x
        gc.collect()
        assert live.now == 0


def test_what_a_step_has_left_unfinished_is_forgotten() -> None:
    late = weights()
    deferred = DeferredGradients(late)
    deferred.begin_pass()
    network(inputs(5), late).backward()
    deferred.forget()
    deferred.begin_pass()
    network(inputs(6), late).backward()
    deferred.compute_oldest()
    expected = weights()
    network(inputs(6), expected).backward()
    assert all(torch.equal(weight.grad, other.grad) for weight, other in zip(late, expected, strict=True))


def test_an_input_without_a_gradient_defers_nothing() -> None:
    late = weights()
    DeferredGradients(late)
    linear(inputs(7).detach(), late[0]).sum().backward()
    assert late[0].grad is not None
