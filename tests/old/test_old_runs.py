"""What an earlier version left on users' disks goes on, and computes what it did."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint.reader import CheckpointReader
from scripts.import_hf import ImportConfig, import_folder
from tests.old.runs import KEPT, KINDS, MADE, STEPS, config_of, logits, losses, train


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((MADE / "expected.json").read_text())
    assert found.keys() == KINDS.keys()
    return found


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Every kind's run taken to its last step."""
    place = shutil.copytree(MADE, tmp_path_factory.mktemp("old") / "made")
    configs = [config_of(kind, place / "corpus", place / kind / "run", STEPS) for kind in KINDS]
    return {kind: losses(lines, KEPT) for kind, lines in zip(KINDS, train(*configs), strict=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_as_the_version_did_that_began_it(
    kind: str, resumed: dict[str, dict[str, float]], expected: dict[str, dict[str, Any]]
) -> None:
    assert len(resumed[kind]) == 5
    assert resumed[kind] == pytest.approx(expected[kind]["losses"], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_read_whole_and_its_config_means_the_same(kind: str) -> None:
    reader = CheckpointReader(MADE / kind / "run" / "checkpoints" / f"step_{KEPT:08d}")
    reader.verify()
    assert reader.config.model == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_gives_the_same_logits(kind: str, expected: dict[str, dict[str, Any]]) -> None:
    assert logits(MADE / kind / "export") == pytest.approx(expected[kind]["logits"], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_becomes_the_checkpoint_that_it_was_made_of(kind: str, tmp_path: Path) -> None:
    found = CheckpointReader(import_folder(ImportConfig(str(MADE / kind / "export"), str(tmp_path / "run"))))
    expected = CheckpointReader(MADE / kind / "run" / "checkpoints" / f"step_{KEPT:08d}")
    assert found.names() == expected.names()
    for name in found.names():
        assert torch.equal(found.read(name), expected.read(name)), name
