"""Which implementations run: what was measured, what is asked for, and what ran before where neither says anything."""

from dataclasses import fields, replace

import pytest
import torch

from common.errors import InputError
from model.kernels.machine import PACKAGES, Machine
from model.kernels.rowwise import choice
from model.kernels.rowwise.choice import IMPLEMENTATIONS, TABLE, UNMEASURED, Measured, Rowwise, choose_rowwise
from model.layers import build_layers
from model.parallel import Unsharded
from pretrain.config import TrainConfig
from tests.model.helpers import CPU, KINDS

SOME_CPU = Machine("cpu", "CPU with NEON")
SOME_GPU = Machine("cuda", "NVIDIA H100 80GB HBM3", (9, 0), PACKAGES)
BARE_GPU = replace(SOME_GPU, packages=frozenset())
HALF = torch.bfloat16


def names(chosen: Rowwise) -> dict[str, str]:
    return {operation: getattr(chosen, operation).name for operation in IMPLEMENTATIONS}


def test_every_operation_has_implementations_a_setting_and_a_place() -> None:
    assert list(IMPLEMENTATIONS) == list(UNMEASURED) == [field.name for field in fields(Rowwise)][:-1]
    assert list(TrainConfig().rowwise_kernels) == list(IMPLEMENTATIONS)
    for implementations in IMPLEMENTATIONS.values():
        assert len({one.name for one in implementations}) == len(implementations)


def test_where_nobody_has_measured_what_ran_before_runs() -> None:
    written = dict.fromkeys(IMPLEMENTATIONS, "written")
    assert names(choose_rowwise(SOME_CPU, HALF, {})) == written
    assert names(choose_rowwise(SOME_GPU, HALF, {})) == written | {"norm": "apex"}
    assert names(choose_rowwise(BARE_GPU, HALF, {})) == written | {"norm": "torch"}
    assert names(choose_rowwise(Machine("meta", "meta"), HALF, {})) == written


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.device)
def test_a_row_is_taken_where_it_says(row: Measured) -> None:
    machine = Machine("cpu" if row.device.startswith("CPU") else "cuda", row.device, packages=PACKAGES)
    for dtype in row.dtypes:
        assert names(choose_rowwise(machine, dtype, {})) == row.names
    assert row.date and row.where


def test_what_was_fastest_but_is_not_installed_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = {"norm": "liger", "swiglu": "compiled", "rotary": "flash_attn", "cross_entropy": "flash_attn"}
    monkeypatch.setattr(choice, "TABLE", (Measured("NVIDIA H100*", (HALF,), fastest, "2026-12-01", "there"),))
    assert names(choose_rowwise(SOME_GPU, HALF, {})) == fastest
    assert names(choose_rowwise(SOME_GPU, torch.float32, {}))["swiglu"] == "written"
    given = names(choose_rowwise(BARE_GPU, HALF, {}))
    assert given == {"norm": "torch", "swiglu": "compiled", "rotary": "written", "cross_entropy": "written"}


def test_what_is_asked_for_is_taken_operation_by_operation() -> None:
    asked = {"norm": "compiled", "swiglu": "auto"}
    assert names(choose_rowwise(SOME_CPU, HALF, asked)) == dict.fromkeys(UNMEASURED, "written") | {"norm": "compiled"}


@pytest.mark.parametrize(
    ("machine", "dtype", "asked", "line"),
    [
        (
            SOME_CPU,
            HALF,
            {"norm": "torch"},
            "train.norm_kernel: torch needs a CUDA device; usable here: auto, written,",
        ),
        (BARE_GPU, HALF, {"norm": "liger"}, "train.norm_kernel: liger needs liger-kernel, which is not installed;"),
        (SOME_GPU, torch.float32, {"swiglu": "flash_attn"}, "train.swiglu_kernel: flash_attn does not take float32;"),
        (
            replace(SOME_GPU, packages=frozenset({"flash-attn 2"})),
            HALF,
            {"rotary": "flash_attn"},
            "train.rotary_kernel: flash_attn needs flash-attn 2.8, which is not installed;",
        ),
    ],
)
def test_what_cannot_run_here_is_refused(
    machine: Machine, dtype: torch.dtype, asked: dict[str, str], line: str
) -> None:
    with pytest.raises(InputError) as refused:
        choose_rowwise(machine, dtype, asked)
    assert str(refused.value).startswith(line)


def test_an_unknown_name_is_refused_with_the_config() -> None:
    with pytest.raises(InputError, match=r"train.rotary_kernel: expected auto or one of .*; did you mean 'compiled'\?"):
        TrainConfig(rotary_kernel="compilled")


def test_layers_call_what_was_chosen() -> None:
    chosen = choose_rowwise(SOME_CPU, HALF, dict.fromkeys(IMPLEMENTATIONS, "compiled"))
    config = KINDS["diff"]
    layers = build_layers(config, Unsharded(), seed=1, device="meta", kernels=replace(CPU, rowwise=chosen))
    built = {layer.name: layer.build() for layer in layers}
    block = built["blocks.0"]
    norms = (block.attention_norm, block.ffn_norm, block.attention.head_norm, built["final_norm"].final_norm)
    assert all(norm.kernel is chosen.norm for norm in norms)
    assert block.attention.rotary is chosen.rotary
    assert block.ffn.down.product.args == (chosen.swiglu,)
    assert built["head"].cross_entropy is chosen.cross_entropy


def test_in_words() -> None:
    words = "norm written, swiglu written, rotary written, cross_entropy written"
    assert CPU.rowwise.describe() == words
    assert choose_rowwise(SOME_CPU, HALF, {}).describe() == f"{words} (not measured on CPU with NEON)"
    assert choose_rowwise(replace(SOME_CPU, name="CPU with AVX512"), HALF, {}).describe() == words
