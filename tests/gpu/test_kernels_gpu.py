"""On a GPU: every form of attention and every operation on rows that can run there, against its equation in fp64."""

from collections.abc import Callable

import pytest
import torch

from scripts.speed.attention_checks import attention_checks
from scripts.speed.rowwise_checks import rowwise_checks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("checks", [rowwise_checks, lambda *x: attention_checks(*x, (1, 67, 192), (64, 88, 104, 128))])
def test_what_can_run_computes_its_equation(
    checks: Callable[..., dict[str, Callable[[], None]]], dtype: torch.dtype
) -> None:
    found = checks("cuda", dtype)
    assert found
    for check in found.values():
        check()
