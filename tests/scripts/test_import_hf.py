"""Folders become checkpoints, and checkpoints folders again."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.cli import parse_config, run_command
from common.errors import InputError
from model.kinds.growth import GROWN
from pretrain.checkpoint.lineage import lineage_of
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from scripts.export import ExportConfig, export, find_checkpoint
from scripts.hub import foreign
from scripts.hub.check import folder_logits
from scripts.import_hf import ImportConfig, import_folder
from scripts.import_hf import main as import_main
from tests.pretrain.test_run import losses, train
from tests.scripts.conftest import KINDS
from tests.world import run_world

TOKENS = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_comes_back_as_it_was(
    kind: str, run_of: Callable[[str], Path], export_of: Callable[..., Path], tmp_path: Path
) -> None:
    reader = CheckpointReader(import_folder(ImportConfig(str(export_of(kind)), str(tmp_path / "run"))))
    original = CheckpointReader(find_checkpoint(run_of(kind), None))
    expected = original.config.model
    if expected.attention == "standard":  # a Llama's folder does not tell the rank that it does not have
        expected = dataclasses.replace(expected, rank=reader.config.model.rank)
    assert reader.config.model == expected
    assert reader.names() == original.names()
    for name in reader.names():
        assert torch.equal(reader.read(name), original.read(name)), name
        assert not reader.read(name, "exp_avg").any() and not reader.read(name, "exp_avg_sq").any()
    config = parse_config(RunConfig, ["--config", str(tmp_path / "run" / "config.yaml")], "test")
    assert config.model == expected
    assert config.run_folder == tmp_path / "run"
    assert [(parent.name, parent.step) for parent in lineage_of(reader).parents] == [(kind, 0)]


def test_merged_weights_come_back_as_the_diff_model_that_they_are(
    export_of: Callable[..., Path], tmp_path: Path
) -> None:
    reader = CheckpointReader(
        import_folder(ImportConfig(str(export_of("shared_diff-head-head", "merged")), str(tmp_path / "run")))
    )
    assert reader.config.model.attention == "diff"


def test_a_stock_llama_can_be_trained_on_and_exported_again(stock_llama: Path, corpus: Path, tmp_path: Path) -> None:
    """Grouped key/value heads stay grouped, and the logits the same."""
    import_folder(ImportConfig(str(stock_llama), str(tmp_path / "run")))
    again = tmp_path / "again"
    export(ExportConfig(str(tmp_path / "run"), str(again), tokenizer=str(corpus / "train")))
    with torch.no_grad():
        found, expected = (folder_logits(folder, TOKENS, streamed=False) for folder in (again, stock_llama))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert json.loads((again / "config.json").read_text())["num_key_value_heads"] == 2
    assert "| begun from | llama" in (again / "README.md").read_text()
    assert "| tokens ever trained on | not known |" in (again / "README.md").read_text()


@pytest.mark.parametrize("kind", GROWN)
def test_a_llama_becomes_a_differential_model_that_begins_with_its_logits(
    kind: str, stock_llama: Path, corpus: Path, tmp_path: Path
) -> None:
    """Compared beyond the import's own look: two folders in transformers, the Llama's and that of an export."""
    run, again = tmp_path / "run", tmp_path / "again"
    command = [f"--model={stock_llama}", f"--output={run}", f"--attention={kind}", "--rank=5", "--down=head"]
    assert run_command(import_main, command) == 0
    model = CheckpointReader(find_checkpoint(run, None)).config.model
    assert (model.attention, model.num_heads, model.num_kv_heads) == (kind, 4, 2)
    assert kind != "shared_diff" or (model.base, model.down, model.rank) == ("head", "head", 5)
    for weights in ("factored", "merged") if kind == "shared_diff" else ("factored",):
        export(ExportConfig(str(run), str(again), weights=weights, tokenizer=str(corpus / "train")))  # type: ignore[arg-type]
        with torch.no_grad():
            found, expected = (folder_logits(folder, TOKENS, streamed=False) for folder in (again, stock_llama))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_only_a_plain_model_can_become_another(
    export_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [f"--model={export_of('diff')}", f"--output={tmp_path / 'run'}", "--attention=diff_v2"]
    assert run_command(import_main, command) == 2
    assert "--attention: only standard can become diff_v2, the model is diff" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


SCALED = [
    {"rope_scaling": {"type": "linear", "factor": 2.5}},  # as Llamas of 2023 have it
    {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 9}},
]


@pytest.mark.parametrize("words", SCALED)
def test_a_stock_llama_with_scaled_positions_computes_the_same_after_a_round_trip(
    words: dict[str, Any], stock_llama: Path, corpus: Path, tmp_path: Path
) -> None:
    """The import compares logits itself; here also far beyond the tokens that it looks at."""
    folder, again = Path(shutil.copytree(stock_llama, tmp_path / "model")), tmp_path / "again"
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps({"rope_theta": 700.0, **config, **words}))
    reader = CheckpointReader(import_folder(ImportConfig(str(folder), str(tmp_path / "run"))))
    assert reader.config.model.rope_scaling.kind in str(words)
    export(ExportConfig(str(tmp_path / "run"), str(again), tokenizer=str(corpus / "train")))
    tokens = torch.randint(300, (1, 500), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, expected = (folder_logits(each, tokens, streamed=False) for each in (again, folder))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


REFUSED = {
    "biases": {"attention_bias": True},
    "the activation gelu": {"hidden_act": "gelu"},
    "scaled rotary positions": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    "a sliding window": {"sliding_window": 16},
    "model_type is gpt2": {"model_type": "gpt2"},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_our_layers_cannot_compute_is_refused(problem: str, stock_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stock_llama, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | REFUSED[problem]))
    with pytest.raises(InputError, match=problem):
        import_folder(ImportConfig(str(folder), str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_logits_that_differ_leave_no_checkpoint(
    stock_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.hub.foreign.hub_name", lambda name: _swapped(name))
    from scripts.hub.layout import hub_name

    def _swapped(name: str) -> str:
        return hub_name(name.replace("ffn.gate", "ffn.up") if "ffn.gate" in name else name)

    with pytest.raises(InputError, match="differ"):
        import_folder(ImportConfig(str(stock_llama), str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_an_import_that_was_quicker_keeps_its_folder(
    stock_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, open_it = tmp_path / "run", foreign.open_foreign

    def meanwhile(folder: Path) -> object:
        output.mkdir()
        (output / "checkpoint").write_text("theirs")
        return open_it(folder)

    monkeypatch.setattr(foreign, "open_foreign", meanwhile)
    with pytest.raises(InputError, match=f"--output {output}: is there already"):
        import_folder(ImportConfig(str(stock_llama), str(output)))
    assert (output / "checkpoint").read_text() == "theirs"


def test_an_output_that_exists_and_folders_that_are_none_are_named(stock_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        import_folder(ImportConfig(str(stock_llama), str(tmp_path)))
    with pytest.raises(InputError, match="no such model configuration"):
        import_folder(ImportConfig(str(tmp_path), str(tmp_path / "run")))


def test_an_imported_folder_can_be_trained_as_it_is(stock_llama: Path, corpus: Path, tmp_path: Path) -> None:
    """Weights that no run has trained on begin a run in their own folder: at step 0, with moments of their own."""
    import_folder(ImportConfig(str(stock_llama), str(tmp_path / "run")))
    arguments = [f"--config={tmp_path / 'run' / 'config.yaml'}", f"--data.train=[{{path: {corpus / 'train'}}}]"]
    settings = [
        "--train.steps=3",
        "--data.sequence_length=32",
        "--batch.global_size=4",
        "--batch.micro_size=2",
        "--schedule.warmup_steps=1",
    ]
    config = parse_config(RunConfig, [*arguments, *settings, "--metrics.wandb=false", "--metrics.every=1"], "test")
    assert run_world(1, train, config) == ["finished"]
    begun = losses(config.run_folder)
    assert [step for step, _ in begun] == [1, 2, 3]
    branch = dataclasses.replace(
        config,
        run_dir=str(tmp_path / "branch"),
        checkpoint=dataclasses.replace(config.checkpoint, branch_from=str(tmp_path / "run/checkpoints/step_00000000")),
    )
    assert run_world(1, train, branch) == ["finished"]
    assert losses(branch.run_folder) == begun
    assert run_world(1, train, dataclasses.replace(config, train=dataclasses.replace(config.train, steps=5))) == [
        "finished"
    ]
    assert [step for step, _ in losses(config.run_folder)] == [1, 2, 3, 4, 5]
