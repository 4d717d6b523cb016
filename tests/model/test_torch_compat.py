"""The private names of torch that the layers rely on do what they are used for."""

import torch

from model.torch_compat import onednn_linear, saved_tensor_hooks


def test_the_innermost_hooks_are_found() -> None:
    def outer(x: object) -> object:
        return x

    def inner(x: object) -> object:
        return x

    assert saved_tensor_hooks() is None
    with torch.autograd.graph.saved_tensors_hooks(outer, outer):
        with torch.autograd.graph.saved_tensors_hooks(inner, outer):
            assert saved_tensor_hooks() == (inner, outer)
        assert saved_tensor_hooks() == (outer, outer)
    assert saved_tensor_hooks() is None


def test_onednn_multiplies_by_the_transposed_weight() -> None:
    draw = torch.Generator().manual_seed(3)
    x, weight = torch.randn(5, 2, 7, generator=draw), torch.randn(11, 7, generator=draw)
    torch.testing.assert_close(onednn_linear(x, weight), x @ weight.t())
