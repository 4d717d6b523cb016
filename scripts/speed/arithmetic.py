"""What a step computes, and where its time goes.

In: a step, as a function. Out: its multiply-adds, and an Account of one run of it. Always: what runs is counted, so an
operation that computes all of T x T counts for all of it; SDPA with `is_causal` counts the pairs at or below the
diagonal, and of its backward pass the scores, which it computes again.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from pretrain.torch_compat import dispatch_mode, operation_name
from scripts.speed.shares import STEP, Account, account


class MultiplyAdds(dispatch_mode()):  # type: ignore[misc]
    """Counts them in all matrix products and in SDPA's kernel for CPUs, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = operation_name(function).rpartition("::")[2]
        if name in _FORMULAS:
            self.count += _FORMULAS[name](*args)
        return function(*args, **(kwargs or {}))


def multiply_adds(step: Callable[[], None]) -> int:
    """Of one run of ``step``."""
    with MultiplyAdds() as counted:
        step()
    return counted.count


def profiled_once(step: Callable[[], None]) -> Account:
    """The account of one run of ``step`` on a CPU."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded, record_function(STEP):
        step()
    return account(recorded.events(), on_gpu=False)


def _product(a: Tensor, b: Tensor, *_: Any) -> int:
    return a.numel() * b.shape[-1]


def _added_product(_: Tensor, a: Tensor, b: Tensor, *__: Any) -> int:
    return _product(a, b)


def _linear(x: Tensor, weight_nD: Tensor, *_: Any) -> int:
    return x.numel() * len(weight_nD)


def _attention(query: Tensor, key: Tensor, value: Tensor, _: float = 0.0, causal: bool = False, *__: Any) -> int:
    return _pairs(query, key, causal) * (query.shape[-1] + value.shape[-1])


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> int:
    _, _, _, causal = rest[:4]  # the result, its log-sum-exps, dropout
    return _pairs(query, key, causal) * (3 * query.shape[-1] + 2 * value.shape[-1])


def _pairs(query: Tensor, key: Tensor, causal: bool) -> int:
    rows, tokens, others = query.shape[:-2].numel(), query.shape[-2], key.shape[-2]
    return rows * (tokens * (tokens + 1) // 2 if causal else tokens * others)


_FORMULAS: dict[str, Callable[..., int]] = {
    "mm": _product,
    "bmm": _product,
    "addmm": _added_product,
    "addmm_": _added_product,
    "baddbmm": _added_product,
    "baddbmm_": _added_product,
    "_linear_pointwise": _linear,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}
