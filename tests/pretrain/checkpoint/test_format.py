"""A checkpoint is whole or absent, and readable in pieces by any other split."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import InputError
from pretrain.checkpoint.layout import MANIFEST, POINTER, TensorLayout, list_steps, step_folder
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.resume import newest_whole
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.state import LocalFragment
from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter, WriterSettings
from pretrain.config import ParallelConfig
from pretrain.topology import Topology, plan_topology
from tests.pretrain.checkpoint.edited import edit_manifest

SHAPES = {"column": ((8, 6), 0), "row": ((6, 8), 1), "replicated": ((5,), None), "stacked": ((4, 2, 3), 0)}
WHOLE = {name: torch.randn(shape, generator=torch.Generator().manual_seed(7)) for name, (shape, _) in SHAPES.items()}


def alone() -> Topology:
    return plan_topology(ParallelConfig(), world_size=1)


def shard(name: str, layout: TensorLayout, rank: int) -> torch.Tensor:
    whole = WHOLE[name]
    return whole if layout.shard_dim is None else whole.chunk(layout.tensor_size, layout.shard_dim)[rank]


def fragments(tensor_size: int, pieces: int) -> list[LocalFragment]:
    """Every shard of every parameter, each cut into uneven pieces as ZeRO partitions cut them."""
    result = []
    for name, (shape, dim) in SHAPES.items():
        layout = TensorLayout(shape, dim, tensor_size)
        for rank in range(layout.shards):
            flat = shard(name, layout, rank).reshape(-1).contiguous()
            cuts = [flat.numel() * i // pieces for i in range(pieces + 1)]
            for start, stop in itertools.pairwise(cuts):
                for kind in ("weight", "exp_avg", "exp_avg_sq"):
                    values = flat[start:stop].clone() if kind == "weight" else torch.zeros(stop - start)
                    result.append(LocalFragment(name, kind, layout, rank, start, values, slice(0, stop - start)))
    return result


def save(folder: Path, step: int = 3, tensor_size: int = 2, pieces: int = 3, keep: int = 0) -> str | None:
    writer = CheckpointWriter(folder, alone(), WriterSettings(Retention(keep, 0, 0), asynchronous=False))
    facts = CheckpointFacts(step, {"name": "x"}, {"data": {"consumed": 1}}, "alone")
    return writer.save(fragments(tensor_size, pieces), facts)


@pytest.mark.parametrize("stored", [1, 2, 4])
@pytest.mark.parametrize("wanted", [1, 2, 4])
def test_any_range_of_any_split_is_read_from_any_other(tmp_path: Path, stored: int, wanted: int) -> None:
    for name, (shape, dim) in SHAPES.items():
        if dim is not None and (shape[dim] % stored or shape[dim] % wanted):
            continue
        save(tmp_path, tensor_size=stored)
        reader = CheckpointReader(step_folder(tmp_path, 3))
        assert torch.equal(reader.read(name), WHOLE[name])
        layout = TensorLayout(shape, dim, wanted)
        for rank in range(layout.shards):
            flat = shard(name, layout, rank).reshape(-1)
            for start in range(0, flat.numel(), 2):
                for numel in {1, (flat.numel() - start) // 2, flat.numel() - start} - {0}:
                    found = reader.read_range(name, "weight", layout, rank, start, numel)
                    assert torch.equal(found, flat[start : start + numel])


def of_optimizer(kind: Any, moments: list[str], name: str) -> Callable[[Any], Any]:
    """A manifest of a run with that optimizer, in which ``name`` has those moments in the place of AdamW's."""

    def change(body: Any) -> Any:
        body["config"]["optimizer"] = {"kind": kind}
        renamed = dict(zip(("exp_avg", "exp_avg_sq"), moments, strict=False))
        body["fragments"] = [
            [fragment[0], renamed.get(fragment[1], fragment[1]), *fragment[2:]] if fragment[0] == name else fragment
            for fragment in body["fragments"]
        ]
        return body

    return change


@pytest.mark.parametrize(
    ("kind", "moments", "said"),
    [
        ("adamw", ["exp_avg", "momentum"], "a fragment of the text 'momentum' of column: not one that there is"),
        ("muon", ["momentum", "exp_avg_sq"], "a fragment of the text 'momentum' of column: not one that there is"),
        ("adamw", ["exp_avg", "exp_avg"], "exp_avg.* of column is not whole"),
        ("adam", [], "optimizer.kind: expected one of adamw, muon, is 'adam'"),
        (["adamw"], [], "'config.optimizer' is"),
    ],
)
def test_a_parameter_has_all_moments_of_one_rule_of_the_optimizer_and_no_other(
    tmp_path: Path, kind: Any, moments: list[str], said: str
) -> None:
    save(tmp_path)
    edit_manifest(step_folder(tmp_path, 3), of_optimizer(kind, moments, "column"))
    with pytest.raises(InputError, match=said):
        CheckpointReader(step_folder(tmp_path, 3))


def test_what_the_trainer_put_in_comes_out(tmp_path: Path) -> None:
    assert save(tmp_path) is None
    manifest = CheckpointReader(step_folder(tmp_path, 3)).manifest
    assert (manifest.step, manifest.state, manifest.config) == (3, {"data": {"consumed": 1}}, {"name": "x"})
    assert (tmp_path / POINTER).read_text() == "step_00000003\n"


def test_every_bit_flip_and_truncation_is_found(tmp_path: Path) -> None:
    save(tmp_path)
    folder = step_folder(tmp_path, 3)
    dice = random.Random(1)
    for file in (folder / MANIFEST, folder / "rank_00000.bin"):
        whole = file.read_bytes()
        for _ in range(100):
            place = dice.randrange(len(whole))
            if dice.random() < 0.5:
                damaged = whole[:place]
            else:
                flipped = whole[place] ^ (1 << dice.randrange(8))
                damaged = whole[:place] + bytes([flipped]) + whole[place + 1 :]
            file.write_bytes(damaged)
            if file.name == MANIFEST and _same_json(whole, damaged):
                continue  # white space
            with pytest.raises(InputError, match=file.name):
                CheckpointReader(folder).verify()
        file.write_bytes(whole)
    CheckpointReader(folder).verify()


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, step=3)
    save(tmp_path, step=6)
    file = step_folder(tmp_path, 6) / "rank_00000.bin"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    reader = newest_whole(tmp_path, alone())
    assert reader is not None
    assert reader.step == 3
    assert "step_00000006/rank_00000.bin: damaged" in capsys.readouterr().out


def test_a_save_that_fails_leaves_the_older_ones_and_no_leftover(tmp_path: Path) -> None:
    save(tmp_path, step=3)
    blocker = tmp_path / "full"
    blocker.write_text("a file where the folder should be")
    failure = save(blocker, step=6)
    assert failure is not None
    assert "checkpoint of step 6 failed on rank 0" in failure
    assert [folder.name for folder in list_steps(tmp_path)] == ["step_00000003"]


def test_only_the_newest_are_kept_and_leftovers_of_killed_saves_go(tmp_path: Path) -> None:
    (tmp_path / "step_00000001.abc.partial").mkdir(parents=True)
    for step in (2, 4, 6):
        save(tmp_path, step=step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [POINTER, "step_00000004", "step_00000006"]


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path)
    reader = CheckpointReader(step_folder(tmp_path, 3))
    with pytest.raises(InputError, match="holds no parameter other"):
        reader.read_range("other", "weight", TensorLayout((5,), None, 1), 0, 0, 5)
    with pytest.raises(InputError, match=r"column has shape \(8, 6\), this model's has \(8, 7\)"):
        reader.read_range("column", "weight", TensorLayout((8, 7), 0, 1), 0, 0, 5)
