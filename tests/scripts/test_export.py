"""Export: what is written, what it equals, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from common.errors import InputError
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded, logical_parameters
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from scripts.export import ExportConfig, export, find_checkpoint
from scripts.hub import check
from scripts.hub.check import FP32_TOLERANCE, folder_logits
from scripts.hub.checkpoint_file import write_checkpoint
from scripts.hub.layout import hub_tensors, parameter_shapes
from tests.scripts.conftest import KINDS, SHARED, noisy_value

TOKENS = torch.randint(320, (2, 40), generator=torch.Generator().manual_seed(5))


def whole_model_logits(run: Path) -> torch.Tensor:
    """The trainer's model, loaded whole and run at once: not the layer-by-layer way of the check."""
    reader = CheckpointReader(find_checkpoint(run, None))
    model = LanguageModel(build_layers(reader.config.model, Unsharded(), seed=0))
    with torch.no_grad():
        for name, parameter in logical_parameters(model).items():
            parameter.copy_(reader.read(name))
        return model(TOKENS).transpose(0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_trainers(kind: str, run_of: Callable[[str], Path], export_of: Callable[..., Path]) -> None:
    expected = whole_model_logits(run_of(kind))
    for weights in ("factored", "merged") if kind in SHARED else ("factored",):
        with torch.no_grad():
            found = folder_logits(export_of(kind, weights), TOKENS, streamed=False)
        torch.testing.assert_close(found, expected, atol=FP32_TOLERANCE, rtol=0)


def test_standard_is_a_stock_llama_and_its_odd_twin_a_mistral(export_of: Callable[..., Path]) -> None:
    for kind, name in (("standard", "LlamaForCausalLM"), ("standard-odd", "MistralForCausalLM")):
        folder = export_of(kind)
        assert not list(folder.glob("*.py"))
        assert type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == name


def test_merged_weights_are_plain_matrices_and_factored_ones_are_what_was_trained(
    export_of: Callable[..., Path],
) -> None:
    kind = "shared_diff-layer-layer"
    merged = {tensor.name for tensor in hub_tensors(KINDS[kind], factored=False)}
    factored = {tensor.name for tensor in hub_tensors(KINDS[kind], factored=True)}
    assert "model.layers.0.self_attn.q_proj.weight" in merged - factored
    assert {
        f"model.layers.0.self_attn.q_proj.{part}" for part in ("base.weight", "down.weight", "up")
    } <= factored - merged
    for weights, names in (("merged", merged), ("factored", factored)):
        index = json.loads((export_of(kind, weights) / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == names


def test_shards_are_small_and_stream_through_the_check(run_of: Callable[[str], Path], tmp_path: Path) -> None:
    run, output = run_of("diff"), tmp_path / "out"
    tensors = hub_tensors(KINDS["diff"], factored=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "LARGE_BYTES", 0)  # every model counts as large: the disk-offloaded way
        patch.setattr("scripts.export.SHARD_UNIT", 1000)
        export(ExportConfig(run=str(run), output=str(output), shard_megabytes=60))
    files = sorted(output.glob("*.safetensors"))
    assert len(files) > 2
    assert sum(file.stat().st_size for file in files) > sum(tensor.numel * 4 for tensor in tensors)
    with torch.no_grad():
        streamed, whole = (folder_logits(output, TOKENS, streamed=streamed) for streamed in (True, False))
    torch.testing.assert_close(streamed, whole, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_stored_and_checked(dtype: str, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    export(ExportConfig(run=str(run_of("diff_v2")), output=str(tmp_path / "out"), dtype=dtype))  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert model.dtype == getattr(torch, dtype)


def test_logits_that_differ_leave_no_folder(
    run_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong merge (the update's sign) is caught by the check, in fp32 and in bf16."""
    monkeypatch.setattr("model.kinds.shared_diff.merged_weight", lambda base, down, up: wrong(base, -down, up))
    from model.shared_projection import merged_weight as wrong

    for dtype in ("float32", "bfloat16"):
        settings = ExportConfig(str(run_of("shared_diff-layer-layer")), str(tmp_path / "out"), weights="merged")
        with pytest.raises(InputError, match=r"differ .* nothing was exported"):
            export(ExportConfig(settings.run, settings.output, weights="merged", dtype=dtype))  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())


def test_what_a_folder_holds(export_of: Callable[..., Path]) -> None:
    folder = export_of("shared_diff-layer-layer")
    card = (folder / "README.md").read_text()
    for fact in ("shared_diff (base per layer, down per layer, rank 6)", "trust_remote_code=True", "| steps | 0 |"):
        assert fact in card
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert config.max_position_embeddings == 96
    facts = json.loads((folder / "export.json").read_text())
    assert facts["logits_difference"] < FP32_TOLERANCE
    assert facts["config"]["model"]["rank"] == 6
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert tokenizer.is_fast and tokenizer.eos_token_id == 299 and tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id == config.pad_token_id == 300, "the first id that is free in the model"


def test_the_same_export_is_not_made_twice_and_another_replaces_it(
    run_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    export(ExportConfig(str(run_of("standard")), str(output)))
    export(ExportConfig(str(run_of("standard")), str(output)))
    assert "already holds" in capsys.readouterr().out
    export(ExportConfig(str(run_of("diff")), str(output)))
    assert json.loads((output / "config.json").read_text())["attention"] == "diff"


def test_bad_input_is_named(run_of: Callable[[str], Path], tmp_path: Path) -> None:
    run, output = str(run_of("standard")), str(tmp_path / "out")
    with pytest.raises(InputError, match="holds no checkpoints"):
        export(ExportConfig(str(tmp_path / "none"), output))
    with pytest.raises(InputError, match=r"--step 7: .* only 0"):
        export(ExportConfig(run, output, step=7))
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="not made by an export"):
        export(ExportConfig(run, str(tmp_path / "mine")))
    with pytest.raises(InputError, match="no such tokenizer"):
        export(ExportConfig(run, output, tokenizer=str(tmp_path)))
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    data = damaged / "checkpoints" / "step_00000000" / "rank_00000.bin"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(InputError, match=r"rank_00000.bin: damaged: weight of embedding.weight"):
        export(ExportConfig(str(damaged), output))
    assert not Path(output).exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers_are_refused(bad: float, dtype: str, tmp_path: Path, corpus: Path) -> None:
    config = RunConfig(model=KINDS["shared_diff-layer-layer"])
    shapes = parameter_shapes(config.model)
    spoiled = "blocks.1.attention.query_up"  # merged into the matrix of another name

    def read(name: str) -> torch.Tensor:
        value = noisy_value(name, shapes[name], config.model)
        if name == spoiled:
            value.view(-1)[-1] = bad
        return value

    write_checkpoint(tmp_path / "run" / "checkpoints", config, shapes, read, {})
    for weights in ("factored", "merged"):
        settings = ExportConfig(
            str(tmp_path / "run"),
            str(tmp_path / "out"),
            weights=weights,  # type: ignore[arg-type]
            dtype=dtype,  # type: ignore[arg-type]
            tokenizer=str(corpus / "train"),
        )
        with pytest.raises(InputError, match=r"run: step 0: .*(attn.q_proj|query_up).*(NaN or infinite|not finite)"):
            export(settings)
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_beyond_the_range_of_half_precision_are_refused(tmp_path: Path, corpus: Path) -> None:
    config = RunConfig(model=KINDS["standard"])
    shapes = parameter_shapes(config.model)
    read = lambda name: torch.full(shapes[name], 1e5 if name == "final_norm.weight" else 0.1)  # noqa: E731
    write_checkpoint(tmp_path / "run" / "checkpoints", config, shapes, read, {})
    settings = ExportConfig(
        str(tmp_path / "run"), str(tmp_path / "out"), dtype="float16", tokenizer=str(corpus / "train")
    )
    with pytest.raises(InputError, match=r"model.norm.weight: has weights beyond the range of float16; choose"):
        export(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
