"""What is kept from megatron-core or changed for it, and the reasons."""

import inspect
import sys

import pytest
import torch
from megatron.core.tensor_parallel import mappings

from model.megatron_compat import let_megatron_run_on_cpu
from tests.world import run_world


def test_megatron_allocates_where_cuda_says_so_the_cpu_must_be_an_answer() -> None:
    assert "torch.cuda.current_device()" in inspect.getsource(mappings)  # once it is gone, the patch can go


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA nothing is changed")
def test_without_cuda_the_answer_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", torch.cuda.current_device)
    let_megatron_run_on_cpu()
    assert torch.empty(2, device=torch.cuda.current_device()).device.type == "cpu"


def test_with_cuda_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", before := lambda: 3)
    let_megatron_run_on_cpu()
    assert torch.cuda.current_device is before


def loaded_at_the_start_of_a_rank() -> list[str]:
    return [name for name in ("torch._inductor.compile_fx", "wandb") if name in sys.modules]


def test_a_rank_starts_without_a_compiler_and_without_wandb() -> None:
    assert torch.compile.__module__ == "torch"
    assert run_world(1, loaded_at_the_start_of_a_rank) == [[]]
