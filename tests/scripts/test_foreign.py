"""A stranger's folder is looked at before it is computed with: each value of config.json, each tensor, each file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import InputError
from model.rope_scaling import RopeScaling
from scripts.evaluation.loaded import load_subject
from scripts.hub.foreign import open_foreign
from scripts.import_hf import ImportConfig, import_folder

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def llama(stock_llama: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(stock_llama, tmp_path / "model"))


def set_values(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


VALUES = [
    ({"num_hidden_layers": 10**40}, "num_hidden_layers: expected a whole number from 1 to 4096, found a number of"),
    ({"num_hidden_layers": 4000}, "holds 2 layers, config.json names 4000"),
    ({"hidden_size": "48"}, "hidden_size: expected a whole number .* found the text '48'"),
    ({"hidden_size": True}, "hidden_size: expected a whole number"),
    ({"hidden_size": 64}, r"has the shape \[306, 48\], by config.json it has \[306, 64\]"),
    ({"vocab_size": None}, "lacks 'vocab_size'"),
    ({"num_key_value_heads": 3}, r"num_key_value_heads: must divide num_attention_heads \(4\), is 3"),
    ({"num_attention_heads": 3}, "odd number of heads"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a number above 0"),
    ({"rms_norm_eps": 0}, "rms_norm_eps: expected a number above 0"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: expected true or false"),
    ({"max_position_embeddings": -1}, "max_position_embeddings: expected a whole number"),
    ({"rope_parameters": []}, "rope_parameters: expected a mapping, found a list"),
    ({"rope_scaling": {"type": "yarn"}}, "lacks 'factor'"),
    ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "rope_scaling: scaled rotary positions .llama3."),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor: expected a number"),
    ({"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "rope_scaling: yarn with truncate"),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "linear", "factor": 3.0}},
        "rope_scaling: and rope_parameters scale the rotary positions in two ways",
    ),
    ({"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 7.0}, "rope_theta: is told twice: 5.0 and 7.0"),
    ({"partial_rotary_factor": 0.5}, "partly rotated heads"),
    ({"quantization_config": {"bits": 4}}, "quantized weights"),
]


@pytest.mark.parametrize(("values", "message"), VALUES)
def test_values_without_meaning_are_named(values: dict[str, Any], message: str, llama: Path) -> None:
    set_values(llama, **values)
    with pytest.raises(InputError, match=message):
        open_foreign(llama)


LINEAR, YARN = {"rope_type": "linear", "factor": 2.5}, {"rope_type": "yarn", "factor": 4}
SCALED = [
    ({"rope_parameters": LINEAR}, RopeScaling("linear", 2.5)),
    ({"rope_scaling": {"type": "linear", "factor": 2.5}, "rope_theta": 1e4}, RopeScaling("linear", 2.5)),
    ({"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"rope_theta": 7.0}}, RopeScaling("linear", 2.5)),
    ({"rope_parameters": YARN}, RopeScaling("yarn", 4.0, 600)),  # as transformers takes it: the folder's longest
    (
        {"rope_parameters": YARN | {"original_max_position_embeddings": 150, "beta_slow": 2, "truncate": True}},
        RopeScaling("yarn", 4.0, 150, beta_slow=2.0),
    ),
    ({"rope_parameters": YARN | {"attention_factor": 1.5}}, RopeScaling("yarn", 4.0, 600, attention_factor=1.5)),
    ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, RopeScaling()),
]


@pytest.mark.parametrize(("values", "scaling"), SCALED)
def test_scaled_positions_are_read_in_all_ways_to_say_them(
    values: dict[str, Any], scaling: RopeScaling, llama: Path
) -> None:
    set_values(llama, **values)
    assert open_foreign(llama).config.rope_scaling == scaling


HEADS = [
    ({"head_dim": 16}, r"head_dim: must be 2 times stream_dim \(16\), is 16"),
    ({"stream_dim": 2.5}, "stream_dim: expected a whole number"),
    ({"num_key_value_heads": 4}, r"num_key_value_heads: must divide half of num_attention_heads \(6\), is 4"),
    ({"stream_dim": None, "num_key_value_heads": 3}, "num_key_value_heads: must be a multiple of 2, is 3"),
]


@pytest.mark.parametrize(("values", "message"), HEADS)
def test_heads_of_a_differential_model_go_together(
    values: dict[str, Any], message: str, export_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(export_of("diff-grouped"), tmp_path / "model"))
    set_values(folder, **values)
    with pytest.raises(InputError, match=message):
        open_foreign(folder)


TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda t: t.pop(UP), f"holds no tensor {UP}"),
    "left over": (
        lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": t[UP][0].clone()}),
        "bias is one too many",
    ),
    "a layer more": (lambda t: t.update({"model.layers.2.x": t[UP][0].clone()}), "holds 3 layers, config.json names 2"),
    "transposed": (lambda t: t.update({UP: t[UP].T.contiguous()}), rf"{UP} has the shape \[48, 64\]"),
    "whole numbers": (lambda t: t.update({UP: t[UP].to(torch.int8)}), f"{UP} is stored as I8"),
    "eight bits": (lambda t: t.update({UP: t[UP].to(torch.float8_e4m3fn)}), f"{UP} is stored as F8_E4M3"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_are_those_of_the_configuration(case: str, llama: Path) -> None:
    change, message = TENSORS[case]
    tensors = load_file(llama / "model.safetensors")
    change(tensors)
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(InputError, match=message):
        open_foreign(llama)


def test_a_tied_head_may_be_there_if_it_is_the_embedding(llama: Path) -> None:
    set_values(llama, tie_word_embeddings=True)
    tensors = load_file(llama / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head.weight differs from the embedding that config.json ties it to"):
        open_foreign(llama)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)  # as Llamas of 2023 have it
    save_file(tensors, llama / "model.safetensors")
    assert open_foreign(llama).config.tie_embeddings


def test_weights_that_are_no_numbers_are_neither_imported_nor_evaluated(llama: Path, tmp_path: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    tensors[UP][3, 4] = float("inf")
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(InputError, match=f"{UP}: 1 of 3072 weights are NaN or infinite"):
        import_folder(ImportConfig(str(llama), str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=f"{UP} has weights that are NaN or infinite"):
        load_subject(str(llama), "cpu", "auto", 64)


def test_a_model_is_not_evaluated_with_random_numbers_for_what_it_lacks(llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    del tensors[UP]
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"lacks 1 tensors of its model, such as {UP}"):
        load_subject(str(llama), "cpu", "auto", 64)


def test_a_pipe_in_a_folder_is_not_waited_for(llama: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (llama / name).rename(llama / "aside")
        os.mkfifo(llama / name)
        for door in (open_foreign, lambda folder: load_subject(str(folder), "cpu", "auto", 64)):
            with pytest.raises(InputError, match=f"{name}: is neither a file nor a folder"):
                door(llama)
        (llama / "aside").rename(llama / name)


def test_a_tokenizer_that_gives_other_ids_by_its_settings_is_refused(
    export_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(export_of("diff"), tmp_path / "model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"split_special_tokens": False}))
    with pytest.raises(InputError, match="default call gives other ids"):
        load_subject(str(folder), "cpu", "auto", 64)
