"""The form of attention that a run asks for: taken, or refused in one line before anything is built."""

from dataclasses import replace

import pytest
import torch

from common.errors import InputError
from pretrain.build import run_kernels
from pretrain.config import ParallelConfig, RunConfig, TrainConfig
from pretrain.plan.kernels import planned_kernels
from pretrain.topology import plan_topology

ONE = plan_topology(ParallelConfig(), 1)


def asking_for(form: str) -> RunConfig:
    return RunConfig(train=TrainConfig(attention_form=form))


def test_an_unknown_form_is_refused_with_the_config() -> None:
    with pytest.raises(InputError, match=r"train\.attention_form: expected auto or one of .*; did you mean 'flash2'\?"):
        asking_for("flahs2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_one_that_this_device_cannot_run_is_refused_with_what_it_can() -> None:
    with pytest.raises(InputError, match=r"^train\.attention_form: flash2 needs a CUDA device; usable here: auto,"):
        run_kernels(asking_for("flash2"), ONE)
    assert run_kernels(asking_for("explicit"), ONE).attention.name == "explicit"


def test_a_plan_assumes_a_gpu_unless_the_run_names_a_form() -> None:
    half = replace(RunConfig(), train=TrainConfig(precision="bf16"))
    assert planned_kernels(half).attention.name == "flash2"
    for form in ("fused", "explicit"):
        assert planned_kernels(asking_for(form)).attention.name == form
