"""Small models of every kind as checkpoints and as exported folders, made once per session."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.config import DataConfig, SourceConfig
from data.tokenizer import TiktokenTokenizer
from model.config import ModelConfig
from model.init import initial_value
from model.rope_scaling import RopeScaling
from pretrain.config import RunConfig
from scripts.export import ExportConfig, export
from scripts.hub.checkpoint_file import write_checkpoint
from scripts.hub.fast_tokenizer import write_tokenizer
from scripts.hub.layout import parameter_shapes

SMALL = ModelConfig(
    num_layers=2, hidden_size=48, ffn_hidden_size=80, num_heads=2, head_dim=16, rank=6, vocab_size=320, rope_theta=500.0
)
YARN = RopeScaling("yarn", 7.5, 40)
SHARED = {
    f"shared_diff-{base}-{down}": dataclasses.replace(SMALL, attention="shared_diff", base=base, down=down)
    for base in ("layer", "head")
    for down in ("layer", "head")
}
KINDS = {
    "standard": dataclasses.replace(SMALL, attention="standard"),
    "standard-odd": dataclasses.replace(SMALL, attention="standard", hidden_size=52, num_heads=3),
    "diff": dataclasses.replace(SMALL, attention="diff", tie_embeddings=False),
    "diff-no-norm": dataclasses.replace(SMALL, attention="diff", head_norm=False, lambda_init=0.5),
    "diff_v2": dataclasses.replace(SMALL, attention="diff_v2"),
    "diff_v2-grouped": dataclasses.replace(SMALL, attention="diff_v2", num_heads=4, num_kv_heads=2),
    "standard-yarn": dataclasses.replace(SMALL, attention="standard", rope_scaling=YARN),
    "diff-linear": dataclasses.replace(SMALL, attention="diff", rope_scaling=RopeScaling("linear", 3.5)),
    "shared_diff-yarn": dataclasses.replace(SMALL, rope_scaling=YARN),
    **SHARED,
    "standard-grouped": dataclasses.replace(SMALL, attention="standard", num_heads=3, num_kv_heads=2),
    "diff-grouped": dataclasses.replace(SMALL, attention="diff", num_heads=6, num_kv_heads=2),
    "shared_diff-grouped": dataclasses.replace(SMALL, num_heads=3, num_kv_heads=1),
    "shared_diff-head-head-grouped": dataclasses.replace(SMALL, base="head", down="head", num_heads=6, num_kv_heads=2),
}
"""One model per kind and reading; standard-odd has a hidden size that is no multiple of its heads."""


def small_tokenizer() -> TiktokenTokenizer:
    """Bytes, a few merges, and ids behind a gap for the special tokens, as cl100k_base has."""
    merges = [b"th", b"the", b"  ", b"    ", b"in", b"ing", b"12", b"\n\n", "é".encode(), b"he", b"ab", b"aba"]
    ranks = {bytes([byte]): byte for byte in range(256)} | {token: 256 + rank for rank, token in enumerate(merges)}
    words = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    pattern = words + r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"  # cl100k_base's
    return TiktokenTokenizer("small", pattern, ranks, {"<|endoftext|>": 300, "<|fim|>": 305}, 300)


def noisy_value(name: str, shape: tuple[int, ...], config: ModelConfig) -> Tensor:
    """The initial value with norms and lambdas moved away from where all heads and layers are alike."""
    value = initial_value(name, shape, config, seed=7)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
    return value + 0.3 * noise if len(shape) == 1 else value


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Callable[[str], Path]:
    """The run folder, with one checkpoint, of a kind."""
    root = tmp_path_factory.mktemp("runs")

    def make(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            train, validation = str(corpus / "train"), str(corpus / "validation")
            data = DataConfig(train=[SourceConfig(train)], validation=validation, sequence_length=96)
            config = RunConfig(name=kind, model=KINDS[kind], data=data)
            shapes = parameter_shapes(config.model)
            read = lambda name: noisy_value(name, shapes[name], config.model)  # noqa: E731
            write_checkpoint(folder / "checkpoints", config, shapes, read, {})
        return folder

    return make


@pytest.fixture(scope="session")
def export_of(tmp_path_factory: pytest.TempPathFactory, run_of: Callable[[str], Path]) -> Callable[..., Path]:
    """The exported folder of a kind, with factored or merged weights."""
    root = tmp_path_factory.mktemp("exports")

    def make(kind: str, weights: str = "factored") -> Path:
        folder = root / f"{kind}-{weights}"
        if not folder.exists():
            export(ExportConfig(run=str(run_of(kind)), output=str(folder), weights=weights))  # type: ignore[arg-type]
        return folder

    return make


@pytest.fixture(scope="session")
def stock_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that transformers itself made and saved, with grouped key/value heads and another tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=306,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=600,
        initializer_range=0.3,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, small_tokenizer(), max_length=600, vocab_size=306)
    (folder / "tokenizer_info.json").unlink()  # a stranger's folder has no file of ours
    return folder
