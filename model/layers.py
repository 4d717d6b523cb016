"""The model: one list of layers, read from top to bottom.

In: a ModelConfig and a Sharding. Out: how to build each layer, in order. Always: a single process, ZeRO and the
pipeline all use this list, with the same parameter names and the same initial values.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from model.block import Block
from model.config import ModelConfig
from model.context.base import ALONE, Context
from model.counts import block_flops, head_flops
from model.embedding import Embedding, FinalNorm, Head
from model.init import initialise
from model.kernels.choice import choose_kernels
from model.kernels.forms.base import Case
from model.kernels.kept import Kernels
from model.kernels.machine import Machine
from model.kinds.registry import kind_of
from model.parallel import Sharding
from model.payload import Payload, Tokens
from model.prediction import Finish, Prediction
from model.recompute import ActivationCheckpointing
from model.recorder import Recorder
from model.surroundings import Surroundings


def call(layer: nn.Module, payload: Tokens | Payload, **options: Finish) -> Payload | Tensor:
    """The usual way to run a layer."""
    return layer(payload, **options)


@dataclass(frozen=True)
class LayerDefinition:
    """How to build and run one layer of the list."""

    name: str
    """"embedding", "blocks.0" .., "final_norm", "head\""""
    build: Callable[[], nn.Module]
    """constructs the layer with its initial values; of a tied layer, a copy of what it is tied to"""
    cost: float
    """forward floating-point operations per token, relative to one block"""
    tied_to: str | None = None
    """name of the layer whose module this one uses (the tied head: "embedding")"""
    forward: Callable[..., Payload | Tensor] = call
    """runs the built module on a payload; of the head, with ``finish=`` too"""


def build_layers(
    config: ModelConfig,
    sharding: Sharding,
    recorder: Recorder | None = None,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    activation_checkpointing: ActivationCheckpointing = "none",
    sequence_length: int = 2048,
    kernels: Kernels | None = None,
    context: Context = ALONE,
) -> list[LayerDefinition]:
    """The model as a list; nothing is allocated before a ``build`` is called.

    Args:
        recorder: takes numbers from inside the layers while it is open; None: nobody asks for any.
        seed: with a parameter's logical name, the source of its initial value.
        dtype: type of the parameters and so of the activations.
        device: where parameters are allocated; "meta" allocates and generates nothing.
        activation_checkpointing: what the blocks' backward pass recomputes: "none", "selective" (the attention
            product, and what the feed-forward network's last layer reads) or "full" (the whole block).
        sequence_length: tokens of a sequence, for ``cost`` and the choice of kernels; others can be run, too.
        kernels: what the layers call; None: what suits the device, type and length.
        context: how the tokens of a sample are split over ranks.
    """

    kernels = kernels or choose_kernels(case_of(config, Machine.here(device), dtype, sequence_length))
    around = Surroundings(sharding, recorder or Recorder(), kernels, context, activation_checkpointing)

    def layer(construct: Callable[[], nn.Module], prefix: str) -> Callable[[], nn.Module]:
        return partial(_build, construct, prefix, config, sharding, seed, dtype, device)

    def block(index: int) -> LayerDefinition:
        construct = partial(Block, config, index, around.within(f"blocks.{index}."))
        return LayerDefinition(f"blocks.{index}", layer(construct, f"blocks.{index}."), cost=1.0)

    at_head = around.within("head.")
    embedding = layer(partial(Embedding, config, at_head), "")
    head_cost = head_flops(config) / block_flops(config, sequence_length)
    if config.tie_embeddings:
        head = LayerDefinition("head", embedding, head_cost, tied_to="embedding", forward=tied_head)
    else:
        head = LayerDefinition("head", layer(partial(Head, config, at_head), "head."), head_cost)
    return [
        LayerDefinition("embedding", embedding, cost=0.0),
        *(block(index) for index in range(config.num_layers)),
        LayerDefinition("final_norm", layer(partial(FinalNorm, config, around), ""), cost=0.0),
        head,
    ]


def case_of(
    config: ModelConfig, machine: Machine, dtype: torch.dtype, sequence_length: int, documents: bool = False
) -> Case:
    """What the kernels of this model have to serve; ``documents``: attention stays inside them."""
    return Case(machine, dtype, kind_of(config).maps, config.head_dim, sequence_length, documents)


def tied_head(embedding: nn.Module, payload: Payload, finish: Finish = Prediction.logits) -> Tensor:
    """The tied head, from the embedding's weight; a ``forward_fn`` for DeepSpeed's TiedLayerSpec."""
    assert isinstance(embedding, Embedding)
    return embedding.predict(payload, finish)


class LanguageModel(nn.Module):
    """The whole list in one process: tokens_BT or (tokens_BT, documents) to logits_TBV, or to a loss."""

    def __init__(self, definitions: list[LayerDefinition]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {_module_name(layer.name): layer.build() for layer in definitions if layer.tied_to is None}
        )
        self.steps = [(_module_name(layer.tied_to or layer.name), layer.forward) for layer in definitions]

    def forward(self, tokens: Tokens, finish: Finish = Prediction.logits) -> Tensor:
        """``finish`` says what the head makes of its prediction: logits, or one of the losses of model/loss.py."""
        *before, (head_name, run_head) = self.steps
        payload: Tokens | Payload = tokens
        for module_name, run in before:
            payload = run(self.layers[module_name], payload)
        out = run_head(self.layers[head_name], payload, finish=finish)
        assert isinstance(out, Tensor)
        return out


def _module_name(layer_name: str) -> str:
    """Module names may not contain dots."""
    return layer_name.replace(".", "_")


def _build(
    construct: Callable[[], nn.Module],
    prefix: str,
    config: ModelConfig,
    sharding: Sharding,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> nn.Module:
    with torch.device(device), _default_dtype(dtype):
        layer = construct()
    return initialise(layer, prefix, config, sharding, seed)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """torch's own way to say in which type parameters are allocated, for the time of one construction."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)
