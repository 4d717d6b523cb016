"""Kernels are chosen once, by what was measured, and a choice that nobody measured says so."""

from dataclasses import replace

import pytest
import torch

from common.errors import InputError
from model.block import kernels_of
from model.kernels import table
from model.kernels.choice import choose_kernels
from model.kernels.forms.base import PLAIN, SHARED_KEYS, TWO_STREAMS, Case
from model.kernels.forms.registry import FORMS, form_named, form_names
from model.kernels.machine import PACKAGES, Machine
from model.kernels.table import ROWS, Row
from tests.model.helpers import KINDS, build

CPU = Machine("cpu", "CPU with AVX512")
H100 = Machine("cuda", "NVIDIA H100 80GB HBM3", (9, 0), PACKAGES)
CASE = Case(CPU, torch.float32, TWO_STREAMS, 64, 2048)


def on(machine: Machine, dtype: torch.dtype = torch.bfloat16, head_dim: int = 64) -> Case:
    return replace(CASE, machine=machine, dtype=dtype, head_dim=head_dim)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.device} {row.form} {row.lengths}")
def test_the_form_of_a_row_is_chosen_where_the_row_says(row: Row) -> None:
    kind = "cpu" if row.device.startswith("CPU") else "cuda"
    machine = Machine(kind, row.device.replace("*", "x"), H100.capability, PACKAGES)
    for dtype in row.dtypes:
        for maps in row.maps:
            for head_dim in row.head_dims:
                for length in row.lengths:
                    case = Case(machine, dtype, maps, head_dim, length, bool(row.documents))
                    if table.measured(case) is row:
                        kernels = choose_kernels(case)
                        assert (kernels.attention.name, kernels.notes) == (row.form, ())
    assert any(char.isdigit() for char in row.measured)


def test_documents_and_maps_decide_on_a_cpu() -> None:
    plain = replace(CASE, maps=PLAIN)
    assert choose_kernels(CASE).attention.name == "explicit"
    assert choose_kernels(plain).attention.name == "sdpa"
    assert choose_kernels(replace(plain, documents=True)).attention.name == "explicit"
    assert "not measured" in choose_kernels(replace(CASE, length=127)).notes[0]


def test_no_row_lies_wholly_behind_another_one() -> None:
    for row in ROWS:
        machine = Machine("cpu" if row.device.startswith("CPU") else "cuda", row.device)
        first = [
            table.measured(Case(machine, dtype, maps, head_dim, length, bool(row.documents)))
            for dtype in row.dtypes
            for maps in row.maps
            for head_dim in row.head_dims
            for length in row.lengths
        ]
        assert row in first


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (on(H100), "flash2"),
        (on(H100, torch.float32), "sdpa"),
        (on(H100, head_dim=160), "sdpa"),
        (on(replace(H100, packages=frozenset())), "sdpa"),
        (on(Machine("cpu", "CPU with SVE256")), "sdpa"),
        (on(CPU, torch.float64), "sdpa"),
        (on(Machine("meta", "meta")), "sdpa"),
    ],
    ids=["GPU", "fp32", "too wide", "no package", "another CPU", "fp64", "meta"],
)
def test_what_nobody_measured_takes_the_conservative_form_and_says_so(case: Case, expected: str) -> None:
    kernels = choose_kernels(case)
    assert kernels.attention.name == expected
    (note,) = kernels.notes
    assert note == f"attention forms were not measured on {case.machine.name}: {expected} is the conservative choice"


def test_a_faster_form_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = (1, 4096)
    row = Row("NVIDIA H100*", (torch.bfloat16,), (TWO_STREAMS,), everywhere, everywhere, "flash3", "a day, a place")
    monkeypatch.setattr(table, "ROWS", (row,))
    assert choose_kernels(on(H100)).attention.name == "flash3"
    kernels = choose_kernels(on(replace(H100, packages=frozenset({"flash-attn 2"}))))
    assert kernels.attention.name == "flash2"
    assert kernels.notes == (
        "attention form flash3 is faster on NVIDIA H100 80GB HBM3: needs flash-attn 3, which is not installed",
    )


def test_what_the_user_asks_for_is_taken() -> None:
    for name in ("sdpa", "explicit"):
        kernels = choose_kernels(CASE, name)
        assert (kernels.attention.name, kernels.notes) == (name, ())
    for name in ("flash3_wide", "fused"):
        assert choose_kernels(on(H100), name).attention.name == name


@pytest.mark.parametrize(
    ("case", "form", "reason"),
    [
        (CASE, "flash2", r"flash2 needs a CUDA device; usable here: auto, explicit, sdpa"),
        (on(H100, torch.float32), "flash2", r"flash2 takes bf16 and fp16 alone; usable here: auto, sdpa"),
        (on(H100), "explicit", r"explicit is for CPUs; usable here: auto, .*flash2.*sdpa"),
        (on(H100, head_dim=160), "flash2", r"flash2 takes heads of at most 256, here 320"),
        (replace(on(H100), maps=PLAIN), "fused", r"fused is for differences of two maps"),
        (on(H100, head_dim=160), "fused", r"fused takes heads of a multiple of 8 from 16 to 128, here 160"),
        (on(H100, head_dim=96), "flash3_wide", r"flash3_wide takes values of another width for keys of at most 64"),
        (on(H100, head_dim=96), "flash4", r"flash4 takes heads of a multiple of 8 up to 128, here 192"),
        (on(replace(H100, capability=(8, 0))), "flash3", r"flash3 needs a Hopper GPU"),
        (on(replace(H100, packages=frozenset())), "flash2", r"flash2 needs flash-attn 2, which is not installed"),
        (CASE, "flashh2", r"expected auto or one of fused, flash2, .*, is 'flashh2'; did you mean 'flash2'\?"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(case: Case, form: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        choose_kernels(case, form)


def test_names_are_unique() -> None:
    assert len(set(form_names())) == len(FORMS)
    for form in FORMS:
        assert form_named(form.name) is form


def test_widths_count_for_the_maps_that_need_them() -> None:
    wide = replace(on(H100, head_dim=160), maps=PLAIN)
    assert choose_kernels(wide).attention.name == "flash2"
    assert choose_kernels(replace(wide, maps=SHARED_KEYS)).attention.name == "flash2"


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_model_is_built_with_one_choice_that_all_blocks_share(config) -> None:
    model = build(config, device="meta")
    assert all(model.layers[f"blocks_{index}"].kernels is kernels_of(model) for index in range(config.num_layers))
    chosen = choose_kernels(CASE, "explicit")
    model = build(config, device="meta", kernels=chosen)
    assert kernels_of(model) is chosen
    assert model.layers["blocks_1"].attention.form is chosen.attention


def test_this_machine_knows_itself() -> None:
    here = Machine.here("cpu")
    assert here.kind == "cpu" and here.name.startswith("CPU with ")
    assert here.packages <= PACKAGES
    assert Machine.here("meta").name == "meta"
