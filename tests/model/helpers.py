"""Small models and the comparison of two of them: outputs and the gradient of every parameter."""

from dataclasses import replace

import torch
from torch import Tensor

from model.config import ModelConfig
from model.kernels.forms.registry import form_named
from model.kernels.kept import Kernels
from model.kernels.rowwise import cross_entropy, norm, rotary, swiglu
from model.kernels.rowwise.choice import Rowwise
from model.kinds import registry
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded, logical_parameters

READINGS = [(base, down) for base in ("layer", "head") for down in ("layer", "head")]
WRITTEN = Rowwise(norm.WRITTEN, swiglu.WRITTEN, rotary.WRITTEN, cross_entropy.WRITTEN)
CPU = Kernels(form_named("explicit"), WRITTEN)
GPU = Kernels(form_named("flash2"), replace(WRITTEN, norm=norm.TORCH))
TINY = {
    "num_layers": 2,
    "hidden_size": 24,
    "ffn_hidden_size": 40,
    "num_heads": 3,
    "head_dim": 8,
    "rank": 4,
    "vocab_size": 32,
}


def every_reading(sizes: dict[str, int], group: int) -> dict[str, ModelConfig]:
    """A model of every kind and reading that is registered; in a "-grouped" one, ``group`` key/value heads are one.

    Every second reading has a head of its own.
    """
    models: dict[str, ModelConfig] = {}
    for kind in registry.KINDS:
        for number, reading in enumerate(kind.readings):
            name = f"{kind.name}-{reading.heading.replace('/', '-')}" if reading.label else kind.name
            config = ModelConfig(attention=kind.name, **reading.settings, **sizes)
            models[name] = replace(config, tie_embeddings=number % 2 == 0)
            models[f"{name}-grouped"] = replace(config, num_kv_heads=kind.key_value_heads(config) // group)
    return models


KINDS = every_reading(TINY, group=3)


def build(config: ModelConfig, seed: int = 1, dtype: torch.dtype = torch.float64, **options) -> LanguageModel:
    return LanguageModel(build_layers(config, Unsharded(), seed=seed, dtype=dtype, **options))


def spread(model: torch.nn.Module) -> None:
    """Moves every parameter away from its initial value, so that scales of 1 and near-zero lambdas are tested too."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in sorted(logical_parameters(model).items()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.2 * noise.to(parameter.dtype))


def tokens(config: ModelConfig, batch: int = 2, length: int = 12) -> Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(3))


def probe(logits_BTV: Tensor) -> Tensor:
    """A scalar that depends on every logit differently; its gradient reaches every parameter."""
    generator = torch.Generator().manual_seed(4)
    direction = torch.randn(logits_BTV.shape, generator=generator, dtype=torch.float64)
    return (logits_BTV * direction.to(logits_BTV.dtype)).sum()


def outputs_and_gradients(model: LanguageModel, payload) -> tuple[Tensor, dict[str, Tensor]]:
    """(logits_BTV, gradient of ``probe`` by logical name)."""
    parameters = logical_parameters(model)
    logits_BTV = model(payload).transpose(0, 1)
    gradients = torch.autograd.grad(probe(logits_BTV), list(parameters.values()))
    return logits_BTV.detach(), dict(zip(parameters, gradients, strict=True))


def assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Largest difference, relative to the largest expected value."""
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference <= tolerance, f"{what}: relative difference {difference:.2e} > {tolerance:.0e}"
