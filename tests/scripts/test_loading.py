"""Whose code runs when a folder is imported or evaluated: never the folder's, unless a flag says so."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.cli import run_command
from common.errors import InputError
from pretrain.checkpoint.reader import CheckpointReader
from scripts.evaluate import main as evaluate
from scripts.evaluation.loaded import load_subject
from scripts.hub import loading
from scripts.hub.config_files import CODE_FILES
from scripts.import_hf import ImportConfig, import_folder

HOSTILE = "from pathlib import Path\nPath({marker!r}).write_text('ran')\n"
AUTO_MAP = {
    "AutoConfig": "other.OtherConfig",
    "AutoModelForCausalLM": "other.OtherForCausalLM",
    "AutoTokenizer": ["other.OtherTokenizer", "other.OtherTokenizer"],
}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that code of a folder writes when it runs."""
    return tmp_path / "marker"


def with_code(source: Path, folder: Path, marker: Path, **config: object) -> Path:
    """A copy of the model whose every configuration names code, and that holds code under usual names."""
    shutil.copytree(source, folder)
    values = json.loads((folder / "config.json").read_text())
    model_map = {name: target for name, target in AUTO_MAP.items() if isinstance(target, str)}
    (folder / "config.json").write_text(json.dumps(values | {"auto_map": model_map} | config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    names = {"AutoTokenizer": AUTO_MAP["AutoTokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"auto_map": names}))
    for name in ("other", "modeling_llama", "__init__", "torch", "conftest", "sitecustomize"):
        (folder / f"{name}.py").write_text(HOSTILE.format(marker=str(marker)))
    return folder


def test_a_llama_that_names_code_is_imported_as_a_llama_and_the_code_does_not_run(
    stock_llama: Path, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_code(stock_llama, tmp_path / "model", marker)
    reader = CheckpointReader(import_folder(ImportConfig(str(folder), str(tmp_path / "run"))))
    assert reader.config.model.attention == "standard"
    assert not marker.exists()
    assert "config.json: names code (other.py), which is not run; llama is computed" in capsys.readouterr().out


def test_the_evaluator_runs_code_only_where_the_flag_says_so(
    stock_llama: Path, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_code(stock_llama, tmp_path / "model", marker)
    command = [f"--model={folder}", "--tasks=sample", "--sample.tokens=1"]
    assert run_command(evaluate, command) == 0
    assert not marker.exists()
    assert "which is not run; llama is computed" in capsys.readouterr().out
    with_code(stock_llama, tmp_path / "unknown", marker, model_type="other")
    command[0] = f"--model={tmp_path / 'unknown'}"
    assert run_command(evaluate, command) == 2
    assert not marker.exists()
    line = capsys.readouterr().err
    assert "names code to run (other.py); read it, then allow it with --trust-remote-code true" in line
    assert len(line.strip().splitlines()) == 1
    run_command(evaluate, [*command, "--trust-remote-code=true"])
    assert marker.exists()


def test_a_tokenizer_that_needs_code_is_refused(stock_llama: Path, tmp_path: Path, marker: Path) -> None:
    folder = with_code(stock_llama, tmp_path / "model", marker)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "OtherTokenizer"}))
    with pytest.raises(InputError, match=r"model or tokenizer needs; .* --trust-remote-code true"):
        load_subject(str(folder), "cpu", "auto", 1024)
    assert not marker.exists()


@pytest.mark.parametrize("name", CODE_FILES)
def test_an_export_whose_code_was_changed_is_not_run(
    name: str, export_of: Callable[..., Path], tmp_path: Path, marker: Path
) -> None:
    folder = shutil.copytree(export_of("diff"), tmp_path / "model")
    with (folder / name).open("a") as file:
        file.write(HOSTILE.format(marker=str(marker)))
    with pytest.raises(InputError, match=rf"{name}: is not the code of this version; read it, .*trust-remote-code"):
        load_subject(str(folder), "cpu", "auto", 1024)
    assert CheckpointReader(import_folder(ImportConfig(str(folder), str(tmp_path / "run")))).step == 0
    assert not marker.exists()


def test_the_code_of_an_earlier_version_is_not_run_but_replaced_by_todays(
    export_of: Callable[..., Path], tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(export_of("diff"), tmp_path / "model")
    for name in CODE_FILES:
        (folder / name).write_text(HOSTILE.format(marker=str(marker)))
    code = hashlib.sha256((folder / CODE_FILES[0]).read_bytes()).hexdigest()
    monkeypatch.setattr("scripts.hub.loading.EARLIER_CODE", loading.EARLIER_CODE | {code})
    subject = load_subject(str(folder), "cpu", "auto", 1024)
    assert type(subject.model).__module__ == "scripts.hub.modeling_shared_diff"
    assert not marker.exists()


def test_an_export_is_loaded_by_the_code_of_this_installation(export_of: Callable[..., Path]) -> None:
    subject = load_subject(str(export_of("diff")), "cpu", "auto", 1024)
    assert type(subject.model).__module__ == "scripts.hub.modeling_shared_diff"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_never_opened(name: str, stock_llama: Path, tmp_path: Path, marker: Path) -> None:
    folder = shutil.copytree(stock_llama, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(f"cbuiltins\nexec\n(V{HOSTILE.format(marker=str(marker))!r}\ntR.".encode())
    for load in (
        lambda: load_subject(str(folder), "cpu", "auto", 1024),
        lambda: import_folder(ImportConfig(str(folder), str(tmp_path / "run"))),
    ):
        with pytest.raises(InputError, match=rf"{name}: is a pickle, .* save the model as safetensors"):
            load()
    assert not marker.exists()
    assert not (tmp_path / "run").exists()


def test_an_adapter_leads_to_no_other_model(stock_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stock_llama, tmp_path / "model")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    for load in (
        lambda: load_subject(str(folder), "cpu", "auto", 1024),
        lambda: import_folder(ImportConfig(str(folder), str(tmp_path / "run"))),
    ):
        with pytest.raises(InputError, match="the adapter of another model; merge the two"):
            load()


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "pytorch_model.bin", 3, None, ""])
def test_an_index_names_only_weights_of_its_folder(file: object, stock_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stock_llama, tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    index = {"weight_map": {"model.norm.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"index.json: names .*; expected a safetensors file of this folder"):
        import_folder(ImportConfig(str(folder), str(tmp_path / "run")))
