"""Does an exported folder compute what the trainer's model computes?

In: a checkpoint and the folder made of it. Out: the differences of their logits on the same tokens.
Always: both sides go layer by layer where the model is large, so that the check needs no more memory than the export.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from common.errors import InputError
from model.config import ModelConfig
from model.layers import build_layers
from model.parallel import Unsharded, info_of
from scripts.hub.loading import load_model, refusing

LARGE_BYTES = 4 * 2**30
FP32_TOLERANCE = 1e-4  # absolute, for logits whose standard deviation is at most 1, else times that
HALF_TOLERANCE = 0.1  # mean, in standard deviations, for 8 layers; rounding adds up with the root of the layers
SAMPLES, LENGTH = 2, 64


@dataclass(frozen=True)
class LogitsDifference:
    """How far two models' logits lie apart."""

    largest: float
    """largest absolute difference"""
    relative: float
    """mean absolute difference in standard deviations of the logits"""
    scale: float
    """standard deviation of the logits"""
    layers: int
    """blocks that the difference went through"""

    def check(self, dtype: torch.dtype, where: str) -> None:
        """Raises InputError where the difference is more than rounding to ``dtype`` can explain."""
        allowed = FP32_TOLERANCE * max(1.0, self.scale)
        if dtype == torch.float32 and not self.largest <= allowed:
            raise InputError(
                f"{where}: the exported logits differ from the trainer's by {self.largest:.2e}, more than "
                f"{allowed:.1e}; nothing was exported"
            )
        allowed = HALF_TOLERANCE * max(1.0, math.sqrt(self.layers / 8))
        if dtype != torch.float32 and not self.relative <= allowed:
            raise InputError(
                f"{where}: the exported logits differ from the trainer's by {self.relative:.1%} of their standard "
                f"deviation, more than rounding explains ({allowed:.0%}); nothing was exported"
            )


@torch.no_grad()
def compare_logits(
    folder: Path,
    config: ModelConfig,
    read: Callable[[str], Tensor],
    max_length: int,
    weight_bytes: int,
    dtype: torch.dtype | Literal["auto"] = "auto",
) -> LogitsDifference:
    """Runs both on the same random tokens.

    Args:
        read: gives a parameter of the checkpoint by its logical name.
        weight_bytes: size of the folder's weights, which decides whether they are streamed.
        dtype: arithmetic of the folder's model; "auto": as its weights are stored.
    """
    length = min(LENGTH, max_length)
    tokens_BT = torch.randint(config.vocab_size, (SAMPLES, length), generator=torch.Generator().manual_seed(0))
    ours = trainer_logits(config, read, tokens_BT)
    theirs = folder_logits(folder, tokens_BT, weight_bytes > LARGE_BYTES, dtype).float()
    distance = (ours - theirs).abs()
    scale = float(ours.std())
    relative = float(distance.mean()) / max(scale, torch.finfo(torch.float32).tiny)  # all logits may be equal
    return LogitsDifference(float(distance.max()), relative, scale, config.num_layers)


def trainer_logits(config: ModelConfig, read: Callable[[str], Tensor], tokens_BT: Tensor) -> Tensor:
    """Logits [B, T, V] of the trainer's model in fp32, one layer in memory at a time."""
    payload: Any = tokens_BT
    for layer in build_layers(config, Unsharded(), seed=0, device="meta"):
        module = layer.build()
        values = {path: read(info_of(parameter).name) for path, parameter in module.named_parameters()}
        module.load_state_dict(values, assign=True)
        payload = layer.forward(module, payload)
    return payload.transpose(0, 1)


def folder_logits(
    folder: Path, tokens_BT: Tensor, streamed: bool, dtype: torch.dtype | Literal["auto"] = "auto"
) -> Tensor:
    """Logits [B, T, V] of the model that transformers loads from ``folder``; no code of the folder runs.

    Raises:
        InputError: transformers does not take it.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    with TemporaryDirectory() as offload:
        placement: dict[str, Any] = {}
        if streamed:
            devices = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu", "model.layers": "disk"}
            placement = {"device_map": devices, "offload_folder": offload}
        with refusing(f"{folder}: transformers cannot load or run it"):
            model = load_model(folder, trust_remote_code=False, dtype=dtype, **placement)
            logits: Tensor = model.eval()(tokens_BT, use_cache=False).logits
        return logits
