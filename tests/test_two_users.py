"""Two users of one machine: what the second one plants where the first will write is refused, and harms nothing.

The kernel's own protection of links covers sticky folders only, and not on every machine: these places are not sticky.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import InputError
from data.adopt import AdoptConfig, adopt
from data.prepare import PrepareConfig, prepare
from launch.checks.storage import writing_problem
from launch.local import check
from pretrain.config import CheckpointConfig, RunConfig
from pretrain.run import pretrain
from scripts import compare, report
from scripts.evaluate import evaluate
from scripts.evaluation.settings import EvaluateConfig
from scripts.export import ExportConfig, export
from scripts.import_hf import ImportConfig, import_folder
from tests.other_user import as_stranger, shared_place

WRITTEN = {
    "metrics.jsonl": False,
    "skipped_steps.jsonl": False,
    "config.yaml": False,
    "loss.png": False,
    "logs": True,
    "logs/rank_0.log": False,
    "checkpoints": True,
    "checkpoints/latest": False,
    "attempts": True,
    "starts": True,
    "wandb": True,
    "tensorboard": True,
}
"""what a run writes, and whether it is a folder"""


@pytest.fixture
def place() -> Iterator[Path]:
    with shared_place(0o777) as place:
        yield place


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """Files of the first user, which stay as they are."""
    folder = tmp_path / "victim"
    (folder / "step_00000002").mkdir(parents=True)
    for name in ("thesis", "thesis.partial", "step_00000002/manifest.json"):
        (folder / name).write_text("precious")
    yield folder
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == [
        "step_00000002",
        "step_00000002/manifest.json",
        "thesis",
        "thesis.partial",
    ]
    assert all(path.read_text() == "precious" for path in folder.rglob("*") if path.is_file())


def start(run_folder: Path) -> None:
    pretrain(RunConfig(run_dir=str(run_folder)))


def launch(run_folder: Path) -> None:
    check(RunConfig(run_dir=str(run_folder)), 1)


@pytest.mark.parametrize("begin", [start, launch])
@pytest.mark.parametrize("where", ["", "runs", "runs/mine"])
def test_a_strangers_folder_takes_no_run(place: Path, begin: Callable[[Path], None], where: str, victim: Path) -> None:
    def plant() -> None:
        folder = place / "theirs" / where
        folder.mkdir(parents=True)
        for name in WRITTEN:
            if "/" not in name:
                (folder / name).symlink_to(victim)

    as_stranger(plant)
    with pytest.raises(InputError, match=r"^run_dir: .*/theirs belongs to") as refusal:
        begin(place / "theirs/runs/mine")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("begin", [start, launch])
@pytest.mark.parametrize("name", WRITTEN)
def test_links_in_a_run_folder_that_is_open_to_all_are_refused(
    place: Path, begin: Callable[[Path], None], name: str, victim: Path
) -> None:
    run = place / "run"
    for folder in (run, run / "logs", run / "checkpoints"):
        folder.mkdir()
        folder.chmod(0o777)
    if (run / name).is_dir():
        (run / name).rmdir()
    target = victim if WRITTEN[name] else victim / "thesis"
    as_stranger(lambda: (run / name).symlink_to(target))
    with pytest.raises(InputError, match=rf"^run_dir: .*/{name} belongs to"):
        begin(run)


def outputs(output: Path) -> dict[str, Callable[[], object]]:
    nothing = str(output.parent / "nothing")
    return {
        "prepare": lambda: prepare(PrepareConfig(["stdlib"], str(output))),
        "adopt": lambda: adopt(AdoptConfig([nothing], str(output), "small")),
        "export": lambda: export(ExportConfig(nothing, str(output))),
        "import": lambda: import_folder(ImportConfig(nothing, str(output))),
        "evaluate": lambda: evaluate(
            EvaluateConfig(model=nothing, tasks="sample", output=str(output / "results.json"))
        ),
        "report": lambda: report.main([nothing, "--output", str(output / "report.html")]),
        "compare": lambda: compare.main([nothing, nothing, "--output", str(output / "compare.png")]),
    }


@pytest.mark.parametrize("command", outputs(Path()))
@pytest.mark.parametrize("is_link", [True, False])
def test_a_strangers_folder_takes_no_output(place: Path, command: str, is_link: bool, victim: Path) -> None:
    planted = place / "output"
    as_stranger(lambda: planted.symlink_to(victim) if is_link else planted.mkdir())
    with pytest.raises(InputError, match=r"^--output: .*/output belongs to"):
        outputs(planted)[command]()
    assert planted.is_symlink() or not list(planted.iterdir())


@pytest.mark.parametrize("is_link", [True, False])
def test_staging_in_a_strangers_folder_is_refused_before_there_is_a_run_folder(
    place: Path, tmp_path: Path, is_link: bool, victim: Path
) -> None:
    planted = place / "staging"
    as_stranger(lambda: planted.symlink_to(victim) if is_link else planted.mkdir())
    checkpoint = CheckpointConfig(staging=str(planted))
    with pytest.raises(InputError, match=r"^checkpoint\.staging: .*/staging belongs to"):
        pretrain(RunConfig(run_dir=str(tmp_path / "run"), checkpoint=checkpoint))
    assert not (tmp_path / "run").exists()


def test_copies_of_checkpoints_go_to_no_folder_of_a_stranger(place: Path, tmp_path: Path, victim: Path) -> None:
    as_stranger(lambda: (place / "copies").mkdir())
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    as_stranger(lambda: (place / "open/step_00000002").symlink_to(victim / "step_00000002"))
    for remote, said in (("copies", "copies belongs to"), ("open", "step_00000002 belongs to")):
        for prefix in ("", "file://"):
            checkpoint = CheckpointConfig(remote=f"{prefix}{place / remote}")
            with pytest.raises(InputError, match=rf"^checkpoint\.remote: .*{said}"):
                pretrain(RunConfig(run_dir=str(tmp_path / "run"), checkpoint=checkpoint))


@pytest.mark.parametrize("name", ["train", "validation", "work"])
def test_a_corpus_folder_that_is_open_to_all_holds_no_links_of_a_stranger(place: Path, name: str, victim: Path) -> None:
    (place / "corpus").mkdir()
    (place / "corpus").chmod(0o777)
    as_stranger(lambda: (place / "corpus" / name).symlink_to(victim))
    with pytest.raises(InputError, match=rf"^--output: .*/corpus/{name} belongs to"):
        prepare(PrepareConfig(["stdlib"], str(place / "corpus")))


def test_looking_whether_a_folder_can_be_written_harms_nothing_there(place: Path, victim: Path) -> None:
    planted = place / f".probe_{os.getpid()}"
    as_stranger(lambda: planted.symlink_to(victim / "thesis"))
    assert writing_problem(place / "not/there/yet") is None
    assert list(place.iterdir()) == [planted]
