"""Damaged and hostile model folders, to the importer, the evaluator and the exporter: one line, or a right result.

What is accepted is compared with a reader of safetensors of our own; what is refused leaves nothing behind.
"""

import json
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.cli import parse_config
from model.config import ModelConfig
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from scripts.evaluation.loaded import load_subject
from scripts.export import ExportConfig, export
from scripts.hub.checkpoint_file import write_checkpoint
from scripts.hub.fast_tokenizer import HARD_TEXTS
from scripts.hub.layout import hub_name, parameter_shapes
from scripts.import_hf import ImportConfig, import_folder
from tests.fuzz.json_values import changed
from tests.fuzz.rules import answer, fuzz
from tests.scripts.conftest import noisy_value, small_tokenizer

SIZES = {"num_layers": 2, "hidden_size": 8, "ffn_hidden_size": 6, "num_heads": 1, "head_dim": 4, "rank": 2}
TINY = ModelConfig(attention="standard", vocab_size=306, **SIZES)
KINDS = {
    "standard": TINY,
    "shared_diff": replace(TINY, attention="shared_diff", tie_embeddings=False),
    "diff_v2": replace(TINY, attention="diff_v2", num_heads=2, num_kv_heads=1),
}
MODELS = [*KINDS, "llama"]
WEIGHTS = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"
JSON_FILES = ["config.json", INDEX, "generation_config.json", "tokenizer_config.json", "tokenizer_info.json"]
JSON_FILES += ["tokenizer.json", "export.json"]
FILES = [*JSON_FILES, WEIGHTS, "tokenizer.tiktoken", "modeling_shared_diff.py"]
# fmt: off
KEYS = [
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "head_dim", "stream_dim", "attention", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
    "num_key_value_heads", "rope_theta", "factored", "base", "down", "rank", "head_norm", "lambda_inits",
    "rope_base", "dtype", "torch_dtype", "rope_parameters", "rope_scaling", "sliding_window", "attention_bias",
    "mlp_bias", "hidden_act", "auto_map", "quantization_config", "architectures", "eos_token_id", "pad_token_id",
    "partial_rotary_factor", "layer_types", "transformers_weights", "attn_implementation", "_attn_implementation",
    "use_cache", "torchscript", "num_labels",
]
# fmt: on
SPECIAL: list[Any] = [0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 2**31, 2**63, 10**40, 0.5, 1e-300, 1e300, True, False, None]
SPECIAL += ["", "4", [], {}, [1, 2], float("nan"), float("inf"), "llama", "mistral", "shared_diff", "diff", "layer"]
SPECIAL += ["float16", "nonsense", {"rope_type": "linear", "factor": 2.0}, {"rope_theta": 7.0}, {"a": {"b": []}}]
SPECIAL += ["../model", "/etc/passwd", "\ud800"]
TENSORS = ["missing", "extra", "transposed", "flat", "wider", "F64", "BF16", "I32", "U8", "nan", "moved"]
PLACES_OF_FILES = ["../x.safetensors", "x.safetensors", "a.bin", ""]
VALUES = st.sampled_from(SPECIAL) | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
PLACES = st.lists(st.floats(0, 0.999), min_size=1, max_size=4)
DAMAGES = st.one_of(
    st.tuples(st.just("key"), st.sampled_from(KEYS), VALUES),
    st.tuples(st.just("key"), st.sampled_from(KEYS), VALUES),
    st.tuples(st.just("drop"), st.sampled_from(JSON_FILES), PLACES),
    st.tuples(st.just("value"), st.sampled_from(JSON_FILES), PLACES, VALUES),
    st.tuples(st.just("cut"), st.sampled_from(FILES), st.floats(0, 1)),
    st.tuples(st.just("write"), st.sampled_from(FILES), st.floats(0, 1), st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("replace"), st.sampled_from(FILES), st.sampled_from(["gone", "folder", "pipe", "empty", "link"])),
    st.tuples(st.just("header"), PLACES, VALUES),
    st.tuples(st.just("header length"), st.integers(0, 2**64 - 1) | st.integers(0, 5000)),
    st.tuples(st.just("tensor"), st.floats(0, 0.999), st.sampled_from(TENSORS)),
    st.tuples(st.just("file of"), st.floats(0, 0.999), st.sampled_from(PLACES_OF_FILES)),
)
MOST_DAMAGES = st.lists(DAMAGES, min_size=1, max_size=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where everything lies; the disk is not waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def models(place: Path) -> dict[str, Path]:
    """A whole folder of each kind, and `llama`, which transformers wrote, with grouped key/value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    (place / "tokenizer").mkdir()
    small_tokenizer().save(place / "tokenizer")
    for kind, config in KINDS.items():
        shapes = parameter_shapes(config)
        read = lambda name, config=config, shapes=shapes: noisy_value(name, shapes[name], config)  # noqa: E731
        write_checkpoint(place / f"run-{kind}" / "checkpoints", RunConfig(model=config), shapes, read, {})
        export(ExportConfig(str(place / f"run-{kind}"), str(place / kind), tokenizer=str(place / "tokenizer")))
    torch.manual_seed(1)
    llama = LlamaConfig(
        vocab_size=306,
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    LlamaForCausalLM(llama).save_pretrained(place / "llama")
    (place / "llama" / "model.safetensors").rename(place / "llama" / WEIGHTS)
    names = read_tensors(place / "llama" / WEIGHTS)
    (place / "llama" / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, WEIGHTS)}))
    for path in (place / "standard").glob("tokenizer*"):
        shutil.copy(path, place / "llama")
    return {kind: place / kind for kind in MODELS}


def read_tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Type, shape and bytes of the tensors of a whole file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    return {name: (e["dtype"], e["shape"], data[slice(*e["data_offsets"])]) for name, e in header.items()}


def write_tensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    header, offset = dict[str, Any](), 0
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def in_single(kind: str, data: bytes) -> np.ndarray:
    """The values of a stored tensor in fp32."""
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[kind]).astype("<f4")


def damage(folder: Path, how: tuple[Any, ...]) -> None:
    """Does it, where it can be done."""
    kind, *rest = how
    path = folder / (rest[0] if isinstance(rest[0], str) and kind != "key" else WEIGHTS)
    path = folder / "config.json" if kind == "key" else folder / INDEX if kind == "file of" else path
    if not path.is_file():
        return
    content = path.read_bytes()
    if kind in ("key", "drop", "value", "file of"):
        try:
            document = json.loads(content)
        except ValueError:
            return
        if kind == "key":
            document = {**document, rest[0]: rest[1]} if isinstance(document, dict) else document
        elif kind == "file of":
            document = changed(document, [0.999, rest[0]], rest[1])
        else:
            document = changed(document, rest[1], rest[2] if kind == "value" else ())
        path.write_text(json.dumps(None if document == () else document))
    elif kind == "cut":
        path.write_bytes(content[: int(rest[1] * len(content))])
    elif kind == "write":
        at = int(rest[1] * len(content))
        path.write_bytes(content[:at] + rest[2] + content[at + len(rest[2]) :])
    elif kind == "replace":
        path.unlink()
        if rest[1] == "folder":
            path.mkdir()
        elif rest[1] == "pipe":
            os.mkfifo(path)
        elif rest[1] == "empty":
            path.touch()
        elif rest[1] == "link":
            path.symlink_to(folder / "nowhere")
    elif kind == "header length":
        path.write_bytes(struct.pack("<Q", rest[0]) + content[8:])
    elif kind == "header":
        (length,) = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
        try:
            header = json.dumps(changed(json.loads(content[8 : 8 + length]), rest[0], rest[1])).encode()
        except ValueError:
            return
        path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    else:
        damage_tensor(path, *rest)


def damage_tensor(path: Path, share: float, how: str) -> None:
    try:
        tensors = read_tensors(path)
        name = list(tensors)[int(share * len(tensors))]
    except (ValueError, KeyError, TypeError, struct.error, IndexError):
        return
    kind, shape, data = tensors[name]
    if how in ("missing", "moved"):
        del tensors[name]
        tensors |= {f"{name}.old": (kind, shape, data)} if how == "moved" else {}
    elif how == "extra":
        tensors["model.layers.0.self_attn.q_proj.bias"] = (kind, shape, data)
    elif how in ("F64", "BF16", "I32", "U8"):
        size = len(data) // 4 * {"F64": 8, "BF16": 2, "I32": 4, "U8": 1}[how]
        tensors[name] = (how, shape, (data * 2)[:size])
    elif how == "nan":
        tensors[name] = (kind, shape, data[:-4] + struct.pack("<f", float("nan")))
    elif how == "wider":
        tensors[name] = (kind, [*shape[:-1], shape[-1] + 1], data + bytes(len(data) // shape[-1]))
    else:
        tensors[name] = (kind, shape[::-1] if how == "transposed" else [len(data) // 4], data)
    write_tensors(path, tensors)
    index = path.parent / INDEX
    if how in ("missing", "moved", "extra") and share < 0.5 and index.is_file():  # the index agrees
        index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, WEIGHTS)}))


def damaged_copy(place: Path, whole: Path, damages: list[tuple[Any, ...]]) -> Path:
    """``place``/case/model: a copy of ``whole`` with these damages."""
    case = place / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(whole, case / "model")
    for how in damages:
        damage(case / "model", how)
    return case / "model"


@fuzz(quick=30, long=1200)
@given(kind=st.sampled_from(MODELS), damages=MOST_DAMAGES)
def test_a_damaged_folder_is_imported_right_or_not_at_all(
    kind: str, damages: list[tuple[Any, ...]], place: Path, models: dict[str, Path]
) -> None:
    folder = damaged_copy(place, models[kind], damages)
    run = folder.parent / "run"
    checkpoint, line = answer(lambda: import_folder(ImportConfig(str(folder), str(run))))
    if checkpoint is None:
        assert str(folder) in (line or "")
        assert [path.name for path in folder.parent.iterdir()] == ["model"]
        return
    reader = CheckpointReader(checkpoint)
    reader.verify()
    assert parse_config(RunConfig, [f"--config={run / 'config.yaml'}"], "test").model == reader.config.model
    stored = read_tensors(folder / WEIGHTS)
    assert set(reader.names()) == set(parameter_shapes(reader.config.model))
    for name in reader.names():
        kind_of, shape, data = stored[hub_name(name)]
        value = reader.read(name).numpy()
        expected = in_single(kind_of, data).reshape(shape)
        if value.size == expected.size:  # down-projections of heads and streams lie below each other in one matrix
            expected = expected.reshape(value.shape)
        else:  # one key/value head for each query head
            heads = expected.reshape(-1, reader.config.model.head_dim, shape[1])
            expected = heads.repeat(len(value) // len(expected), axis=0).reshape(value.shape)
        assert np.array_equal(value, expected), name
        assert np.isfinite(value).all()


@fuzz(quick=30, long=1100)
@given(kind=st.sampled_from(MODELS), damages=MOST_DAMAGES)
def test_a_damaged_folder_is_evaluated_with_its_own_tokens_or_not_at_all(
    kind: str, damages: list[tuple[Any, ...]], place: Path, models: dict[str, Path]
) -> None:
    folder = damaged_copy(place, models[kind], damages)
    subject, _ = answer(lambda: load_subject(str(folder), "cpu", "auto", 256))
    if subject is None:
        return
    assert subject.max_length > 0
    if (folder / "export.json").exists():
        for text in HARD_TEXTS:
            assert subject.encode(text) == small_tokenizer().encode(text)
    tokens = torch.arange(min(10, subject.max_length + 1)) % subject.vocab_size
    losses, _ = answer(lambda: subject.token_losses(tokens.view(1, -1)))
    assert losses is None or losses.isfinite().all()


def listing(folder: Path) -> dict[Path, int]:
    """Everything in a folder, and how large it is."""
    return {path: path.lstat().st_size for path in folder.rglob("*")}


OUTPUTS = [
    "nothing",
    "file",
    "folder",
    "strange folder",
    "link",
    "dangling link",
    "link to export",
    "export",
    "other export",
    "pipe",
]


@fuzz(quick=6, long=200)
@given(
    kind=st.sampled_from(list(KINDS)),
    output=st.sampled_from(OUTPUTS),
    facts=VALUES,
    step=st.sampled_from([None, 0, 1]),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    tokenizer=st.none() | st.tuples(st.sampled_from(["tokenizer.tiktoken", "tokenizer_info.json"]), st.floats(0, 1)),
)
def test_an_export_takes_the_place_of_an_export_and_of_nothing_else(
    kind: str,
    output: str,
    facts: Any,
    step: int | None,
    dtype: Any,
    tokenizer: tuple[str, float] | None,
    place: Path,
    models: dict[str, Path],
) -> None:
    case = place / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(place / "tokenizer", case / "tokenizer")
    if tokenizer:
        damage(case / "tokenizer", ("cut", *tokenizer))
    target = case / "out"
    if output in ("export", "other export"):
        shutil.copytree(models[kind], target)
        if output == "other export":
            (target / "export.json").write_text(json.dumps(facts))
    elif output in ("folder", "strange folder"):
        target.mkdir()
        if output == "strange folder":
            (target / "mine").write_text("mine")
    elif output == "file":
        target.write_text("mine")
    elif output == "pipe":
        os.mkfifo(target)
    elif output == "link to export":
        shutil.copytree(models[kind], case / "mine")
        target.symlink_to(case / "mine")
    elif output != "nothing":
        (case / "mine").mkdir()
        target.symlink_to(case / ("mine" if output == "link" else "nowhere"))
    before = listing(case)
    settings = ExportConfig(
        str(place / f"run-{kind}"), str(target), step, dtype=dtype, tokenizer=str(case / "tokenizer")
    )
    _, line = answer(lambda: export(settings))
    if line is not None:
        assert before == listing(case)
        return
    assert step in (None, 0)
    if output == "link to export":  # it was this very export
        return
    assert output in ("nothing", "export")
    assert json.loads((target / "export.json").read_text())["dtype"] == dtype
    assert sorted(path.name for path in case.iterdir()) == ["out", "out.places.json", "tokenizer"]
    assert load_subject(str(target), "cpu", "auto", 256).vocab_size == TINY.vocab_size
