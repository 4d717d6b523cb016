"""The yardstick for changing batches: one process, whole batches, torch's own AdamW and nothing of the engines.

In: a config and samples by number. Out: loss and gradient norm of every step. Always: a step's batch is what the
config's sizes say, added up here and not by data/batch.py.
"""

from itertools import accumulate

import numpy as np
import torch

from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded
from pretrain.config import RunConfig
from pretrain.feed import Samples


def sizes_of_steps(config: RunConfig) -> list[int]:
    """Sequences of every step."""
    ramp = [entry.global_size for entry in config.batch.ramp for _ in range(entry.steps)]
    return (ramp + [config.batch.global_size] * config.train.steps)[: config.train.steps]


def plain_losses(config: RunConfig, samples: Samples, rate: float) -> tuple[list[float], list[float]]:
    """Losses and gradient norms (before clipping) of all steps."""
    layers = build_layers(
        config.model, Unsharded(), seed=config.seed, dtype=torch.float32, device=torch.device("cpu"),
        activation_checkpointing="none", sequence_length=config.data.sequence_length,
    )  # fmt: skip
    model = LanguageModel(list(layers))
    decaying = [p for p in model.parameters() if p.info.decay]  # type: ignore[attr-defined]
    others = [p for p in model.parameters() if not p.info.decay]  # type: ignore[attr-defined]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": decaying, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    losses, norms = [], []
    sizes = sizes_of_steps(config)
    for size, last in zip(sizes, accumulate(sizes), strict=True):
        tokens = torch.from_numpy(samples.fetch(np.arange(last - size, last)))
        optimizer.zero_grad()
        logits_TBV = model(tokens[:, :-1].contiguous())
        loss = torch.nn.functional.cross_entropy(logits_TBV.transpose(0, 1).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
        norm = squares**0.5
        for parameter in model.parameters():
            parameter.grad.mul_(min(1.0, settings.gradient_clipping / (norm + 1e-6)))
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm)
    return losses, norms
