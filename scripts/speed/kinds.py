"""A training step of few layers with each kind of attention.

In: Sizes. Out: a row for each kind and sequence length. Always: the measurement of scripts/bench_kinds.py.
"""

import statistics
from dataclasses import dataclass, replace

import torch

from common.cli import parse_config
from model.kinds.registry import kind_names
from pretrain.config import RunConfig
from scripts.bench_kinds import build, measure
from scripts.speed.sizes import Sizes


@dataclass(frozen=True)
class KindRow:
    """One kind at one length."""

    kind: str
    sequence_length: int
    seconds: float
    ratio: float
    """to the first kind's seconds"""
    tokens_per_second: float
    activation_bytes: int


def kind_rows(sizes: Sizes) -> list[KindRow]:
    """Of all kinds, which take turns, at all lengths."""
    model = parse_config(RunConfig, ["--config", sizes.kinds_config], "make bench-gpu").model
    device, rows = torch.device(sizes.device), []
    for length in sizes.kinds_lengths:
        configs = [replace(model, num_layers=sizes.kinds_layers, attention=kind) for kind in kind_names()]
        contenders = [build(config, device) for config in configs]
        measure(contenders, sizes.kinds_tokens, length, sizes.rounds, device)
        seconds = [statistics.median(contender.seconds) for contender in contenders]
        tokens = max(1, sizes.kinds_tokens // length) * length
        for contender, own in zip(contenders, seconds, strict=True):
            kind, memory = contender.config.attention, contender.activation_bytes
            rows.append(KindRow(kind, length, own, own / seconds[0], tokens / own, memory))
    return rows
