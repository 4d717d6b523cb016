"""What an export says to everybody: facts of the model, and nothing of the machine that made it."""

import dataclasses
import getpass
import json
import re
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.software import PROGRAM
from data.config import DataConfig, SourceConfig
from data.manifest import parse_manifest
from pretrain.checkpoint.lineage import Ancestor, Begun, Lineage, Software
from pretrain.config import CheckpointConfig, EvaluationConfig, MetricsConfig, RunConfig
from scripts.evaluate import evaluate
from scripts.evaluation.held_out import open_samples
from scripts.evaluation.loaded import load_subject
from scripts.evaluation.settings import EvaluateConfig, HeldOutSettings
from scripts.export import ExportConfig, export
from scripts.hub.checkpoint_file import write_checkpoint
from scripts.hub.layout import parameter_shapes
from scripts.hub.places import Places, read_places
from scripts.hub.provenance import TOLD, plain_name
from tests.scripts.conftest import KINDS, noisy_value

HOSTILE = "ev|il](http:__x) `rm -rf` --- license: mine <script>"
KIND = "shared_diff-layer-layer"


@pytest.fixture(scope="module")
def corpora(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus under a name that breaks tables and lines."""
    home = tmp_path_factory.mktemp("home-of-alice")
    (home / HOSTILE).mkdir()
    for split in ("train", "validation"):
        (home / HOSTILE / split).symlink_to(corpus / split)
    (home / HOSTILE / f"train{HOSTILE}").symlink_to(corpus / "train")
    return home / HOSTILE


@pytest.fixture(scope="module")
def exported(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a run whose settings name the machine wherever they can."""
    run = tmp_path_factory.mktemp("runs-of-alice") / HOSTILE
    sources = [
        SourceConfig(str(corpora / f"train{HOSTILE}"), license="odc-by"),
        SourceConfig("s3://key:secret@bucket/far/shards?s=ecret"),
    ]
    config = RunConfig(
        name=f"run of {getpass.getuser()}",
        run_dir=str(run),
        model=KINDS[KIND],
        data=DataConfig(train=sources, validation=str(corpora / "validation"), sequence_length=96),
        checkpoint=CheckpointConfig(remote="https://me:secret@store.alice.example/x", staging="/nvme/alice"),
        evaluation=EvaluationConfig(command="ssh alice@login sbatch {run}"),
        metrics=MetricsConfig(wandb_project="project-of-alice"),
        deepspeed={"comms_logger": {"debug": False}},
    )
    shapes = parameter_shapes(config.model)
    software = Software(2, "c0ffee-changed", {"python": "3.12", PROGRAM: "0.1", "torch": "/home/alice/2.7"})
    parents = [Ancestor("/home/alice/base", 7, 40_000, "0f", ["d1g"], [software]), Ancestor("second", 3, 7_000)]
    begun = Begun(["ssh", "alice@login", "--run-dir", "/tmp/x"], ["host-of-alice"])
    lineage = asdict(Lineage("1e", parents, [software], begun))
    state = {"trainer": {"tokens": 960}, "imported_from": "/home/alice/llama", "lineage": lineage}
    write_checkpoint(
        run / "checkpoints", config, shapes, lambda name: noisy_value(name, shapes[name], config.model), state
    )
    evaluated = {"step": 0, "validation_loss": 5.5, "validation_perplexity": None, "validation_of_alice": 1.0}
    evaluated["validation_samples"] = 2
    lines = [evaluated, {"step": 3, "validation_loss": 1.0}, {"step": 0, "loss": 2.0, "host": "alice"}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path_factory.mktemp("exports") / "model"
    export(ExportConfig(str(run), str(output), tokenizer=str(corpora / "train")))
    return output


def texts(value: Any) -> list[str]:
    """Every key and text in a JSON value."""
    if isinstance(value, dict):
        return [*value, *(text for entry in value.values() for text in texts(entry))]
    if isinstance(value, list):
        return [text for entry in value for text in texts(entry)]
    return [value] if isinstance(value, str) else []


def test_no_file_names_a_place_an_address_a_command_or_a_user(exported: Path) -> None:
    private = re.compile(
        rf"alice|secret|bucket|store\.|sbatch|ssh|/nvme|/tmp/|/home/|{re.escape(str(Path.home()))}/|{socket.gethostname()}/"
        f"|{re.escape(str(exported.parent))}"
    )
    for path in exported.rglob("*"):
        if path.suffix not in (".safetensors", ".tiktoken") and path.name != "tokenizer.json":
            assert not private.search(path.read_text()), path
        assert not private.search(path.name)
    header = next(exported.glob("*.safetensors")).read_bytes()[:20000]
    assert b"alice" not in header and b"/tmp" not in header


def test_export_json_is_numbers_and_plain_words(exported: Path) -> None:
    facts = json.loads((exported / "export.json").read_text())
    for text in texts(facts):
        assert re.fullmatch(r"[\w.+-]{1,80}", text, re.ASCII), text
    assert set(facts["config"]) == {*TOLD, "seed"}


def test_export_json_says_what_the_model_is_and_what_it_saw(exported: Path, corpora: Path) -> None:
    facts = json.loads((exported / "export.json").read_text())
    config = RunConfig(model=KINDS[KIND])
    assert facts["config"]["model"] == dataclasses.asdict(config.model)
    for section in ("optimizer", "schedule"):
        assert facts["config"][section] == dataclasses.asdict(getattr(config, section))
    assert facts["tokens"] == 960 and facts["step"] == 0
    manifest = parse_manifest((corpora / "train" / "manifest.json").read_bytes(), "")
    near, far = facts["training_data"]
    assert near == {
        "name": "train" + plain_name(HOSTILE),
        "weight": 1.0,
        "id": manifest.dataset_id(),
        "tokens": manifest.tokens,
        "documents": manifest.documents,
        "tokenizer": manifest.tokenizer["name"],
        "license": "odc-by",
    }
    assert far == {"name": "shards", "weight": 1.0, "license": None}
    assert facts["validation_data"]["name"] == "validation"
    assert facts["validation"]["validation_loss"] == 5.5 and facts["validation"]["validation_perplexity"] is None
    assert {"python", "torch", "transformers", "safetensors", "tokenizers"} <= set(facts["software"])


def test_the_card_is_whole_whatever_things_are_called(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.count("---\n") == 3 - 1 + card.count("|---\n"), "a name began a second head"
    assert "<" not in card.replace("<|", "").replace("|>", "")
    rows = [line for line in card.splitlines() if line.startswith("| trainev")]
    assert [row.count("|") for row in rows] == [7]
    assert "| held-out perplexity | not known |" in card


def test_both_tell_what_trained_the_weights_and_what_was_trained_before(exported: Path) -> None:
    facts, card = json.loads((exported / "export.json").read_text()), (exported / "README.md").read_text()
    assert [(parent["name"], parent["step"], parent["tokens"]) for parent in facts["parents"]] == [
        ("base", 7, 40_000),
        ("second", 3, 7_000),
    ]
    assert facts["tokens_ever"] == 47_960
    assert facts["trained_by"][0]["commit"] == "c0ffee-changed"
    assert "| begun from | base, step 7 (40,000 tokens), then second, step 3 (7,000 tokens) |" in card
    assert "| tokens ever trained on | 47,960 |" in card
    (row,) = [line for line in card.splitlines() if line.startswith("| trained by, from step 2 |")]
    assert f"{PROGRAM} 0.1, commit c0ffee-changed, python 3.12, torch 2.7 |" in row


def test_licences_are_told_and_so_is_that_none_is_stated(
    exported: Path, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    card = (exported / "README.md").read_text()
    assert "\nlicense:" not in card and "Licence of the weights: not stated." in card
    rows = [line for line in card.splitlines() if line.startswith(("| trainev", "| shards"))]
    assert [row.split("|")[-2].strip() for row in rows] == ["odc-by", "not stated"]
    export(ExportConfig(str(run_of("standard")), str(tmp_path / "out"), license="cc-by-4.0"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "Licence of the weights: cc-by-4.0." in card


@pytest.mark.parametrize("word", ["Apache 2.0", "mit\nlicense: other", "", "-x", "a" * 61])
def test_a_licence_is_one_word(word: str) -> None:
    with pytest.raises(InputError, match=r"^--license: must be a word as in apache-2\.0"):
        ExportConfig("run", "out", license=word)
    with pytest.raises(InputError, match=r"^data\.train: license: must be a word"):
        SourceConfig("corpus", license=word)


@pytest.mark.parametrize(
    ("place", "name"),
    {
        "/home/alice/corpora/py/": "py",
        "corpora/py/..": "py",
        "s3://key:secret@bucket/a/shards?sig=secret": "shards",
        "s3://bucket": "unnamed",
        "https://host:80/": "unnamed",
        "/": "unnamed",
        "a b|c\n# d": "a_b_c_d",
        "Ünïcode": "n_code",
        "x" * 300: "x" * 80,
    }.items(),
)
def test_a_place_becomes_a_plain_word(place: str, name: str) -> None:
    assert plain_name(place) == name


def test_the_evaluator_finds_the_data_of_this_machine_beside_the_folder(
    exported: Path, corpora: Path, tmp_path: Path
) -> None:
    facts = json.loads((exported / "export.json").read_text())
    expected = Places(str(corpora / f"train{HOSTILE}"), str(corpora / "validation"))
    assert read_places(exported, facts) == expected
    assert read_places(exported, facts | {"checkpoint": "another"}) == Places()
    assert read_places(tmp_path / "elsewhere", facts) == Places()
    assert "secret" not in exported.with_name("model.places.json").read_text()
    result = evaluate(EvaluateConfig(str(exported), "held_out"))["held_out"]
    assert result.settings["samples"] == 2
    assert result.details["trainer"]["validation_loss"] == 5.5, "it is the trainer's own held-out data"
    subject = load_subject(str(exported), "cpu", "auto", 900)
    for other in (HeldOutSettings(samples=1), HeldOutSettings(sequence_length=48)):
        opened = open_samples(subject, EvaluateConfig(str(exported), "held_out", held_out=other), facts)
        assert opened.trainer is None, "these are other samples than the trainer's"


def test_an_export_of_a_version_that_told_more_is_made_anew(run_of: Callable[[str], Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    export(ExportConfig(str(run_of("standard")), str(output)))
    facts = json.loads((output / "export.json").read_text())
    told = facts["config"] | {"run_dir": "/home/alice"}
    (output / "export.json").write_text(json.dumps(facts | {"format": 1, "config": told}))
    export(ExportConfig(str(run_of("standard")), str(output)))
    assert json.loads((output / "export.json").read_text()) == facts
