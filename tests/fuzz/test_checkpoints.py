"""Damaged and hostile checkpoints: what is read back is what was written, or one line says why not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.checkpoint.layout import MANIFEST, step_folder
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.resume import newest_whole
from pretrain.checkpoint.saved_state import check_resumable
from tests.fuzz.json_values import VALUES, changed, changes
from tests.fuzz.rules import answer, fuzz
from tests.pretrain.checkpoint.edited import edit_manifest
from tests.pretrain.checkpoint.test_format import WHOLE, alone, save

STATE = {
    "data": {
        "algorithm": 1,
        "consumed": 12,
        "seed": 3,
        "skip": [[4, 7]],
        "shuffle_window": 0,
        "stages": [{"first": 0, "sequence_length": 8, "datasets": ["ab"], "shares": [5]}],
    },
    "trainer": {"best_validation_loss": None, "tokens": 96, "applied_steps": 3},
    "spikes": {"losses": [1.5], "log_norms": [0.1], "skipped_steps": [], "norm_was_out": False},
    "random": {"torch": "00" * torch.get_rng_state().numel()},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 3 and 5."""
    checkpoints = tmp_path_factory.mktemp("fuzzed") / "checkpoints"
    for step in (3, 5):
        save(checkpoints, step)
        edit_manifest(step_folder(checkpoints, step), lambda body: body | {"state": STATE})
    return checkpoints


def check(folder: Path, checkpoints: Path) -> None:
    """The damaged checkpoint of step 5 gives its own values or a line; the one of step 3 is tried then."""
    values, _ = answer(lambda: read_all(folder))
    if values is not None:
        assert all(torch.equal(values[name], WHOLE[name]) for name in values)
    found, line = answer(lambda: newest_whole(checkpoints, alone(), check_resumable))
    assert line is None and found is not None and found.step in (3, 5)
    found.verify()


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    reader = CheckpointReader(folder)
    reader.verify()
    return {name: reader.read(name) for name in reader.names()}


def fresh(folder: Path) -> Path:
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy


@fuzz(quick=120, long=1500)
@given(change=changes())
def test_a_manifest_with_other_values_and_a_right_digest(change: Any, folder: Path) -> None:
    checkpoints = fresh(folder)
    damaged = step_folder(checkpoints, 5)

    def apply(body: Any) -> Any:
        for place, value in change:
            body = changed(body, place, value)
        return body

    edit_manifest(damaged, apply)
    check(damaged, checkpoints)


@fuzz(quick=60, long=800)
@given(name=st.sampled_from(list(STATE)), change=changes())
def test_a_trainers_state_with_other_values(name: str, change: Any, folder: Path) -> None:
    checkpoints = fresh(folder)
    damaged = step_folder(checkpoints, 5)

    def apply(body: Any) -> Any:
        state = body["state"][name]
        for place, value in change:
            state = changed(state, place, value)
        return body | {"state": body["state"] | {name: state}}

    edit_manifest(damaged, apply)
    check(damaged, checkpoints)


@fuzz(quick=60, long=800)
@given(number=st.integers(0, 10**6), where=st.integers(0, 10**6), kind=st.sampled_from(["drop", "double", "move"]))
def test_fragments_that_are_missing_or_stand_there_twice(number: int, where: int, kind: str, folder: Path) -> None:
    checkpoints = fresh(folder)
    damaged = step_folder(checkpoints, 5)

    def apply(body: Any) -> Any:
        fragments = body["fragments"]
        place = number % len(fragments)
        if kind == "drop":
            return body | {"fragments": fragments[:place] + fragments[place + 1 :]}
        if kind == "double":
            return body | {"fragments": [*fragments, fragments[place]]}
        moved = fragments[place].copy()
        moved[(3, 4, 6)[where % 3]] += 1 + where % 5
        return body | {"fragments": [*fragments[:place], moved, *fragments[place + 1 :]]}

    edit_manifest(damaged, apply)
    _, line = answer(lambda: read_all(damaged))
    assert line is not None
    check(damaged, checkpoints)


@fuzz(quick=60, long=800)
@given(
    file=st.sampled_from(["rank_00000.bin", MANIFEST]), place=st.floats(0, 1), bit=st.integers(0, 7), cut=st.booleans()
)
def test_flipped_bits_and_cut_files(file: str, place: float, bit: int, cut: bool, folder: Path) -> None:
    checkpoints = fresh(folder)
    path = step_folder(checkpoints, 5) / file
    content = bytearray(path.read_bytes())
    index = min(int(place * len(content)), len(content) - 1)
    content[index] ^= 1 << bit
    path.write_bytes(content[:index] if cut else content)
    check(path.parent, checkpoints)


@fuzz(quick=60, long=300)
@given(name=st.sampled_from([MANIFEST, "rank_00000.bin", "latest", "step_00000009", "step_00000011"]), value=VALUES)
def test_other_things_in_the_place_of_files(name: str, value: Any, folder: Path) -> None:
    checkpoints = fresh(folder)
    place = checkpoints / name if name.startswith(("latest", "step")) else step_folder(checkpoints, 5) / name
    place.unlink(missing_ok=True)
    if isinstance(value, list | dict):
        place.mkdir()
    else:
        place.write_text(json.dumps(value))
    check(step_folder(checkpoints, 5), checkpoints)
