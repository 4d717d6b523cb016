"""What the tensor-parallel ranks exchange: every collective of every layer, as a formula.

In: a ModelConfig, the split and the micro-batch. Out: the collectives of each layer's forward and backward pass with
their bytes. Always: pure arithmetic; a test counts the same collectives in real processes.

Per block and micro-batch, in elements (TB = tokens of the micro-batch):

                                        plain                       with sequence parallelism
    every kind, forward                 2 all-reduces of TB D       2 all-gathers, 2 reduce-scatters of TB D
    every kind, backward                2 all-reduces of TB D       2 all-gathers, 2 reduce-scatters of TB D
    shared_diff, base layer, forward    1 all-gather of TB 2K       1 all-gather of TB 2K
                             backward   1 reduce-scatter of TB 2K   1 reduce-scatter of TB 2K
    shared_diff, down layer, forward    -                           1 all-gather of TB 4R
                             backward   -                           1 reduce-scatter of TB 4R

`diff`, `standard` and `diff_v2` have the first two rows only; so has `shared_diff` with base `head` and down `head`.
Once per optimizer step the partial gradients are summed (``partial_gradient_elements``): for `shared_diff` the factors
A and B of every block, which is what replicating them costs.
"""

from dataclasses import dataclass
from typing import Literal

from model.config import ModelConfig
from model.recompute import ActivationCheckpointing

Operation = Literal["all_reduce", "all_gather", "reduce_scatter"]


@dataclass(frozen=True)
class Collective:
    """One exchange within the tensor-parallel group."""

    operation: Operation
    purpose: str
    """what is exchanged, in words"""
    whole_bytes: int
    """size of the whole tensor: what an all-reduce sums, an all-gather returns, a reduce-scatter takes"""

    def wire_bytes(self, ranks: int) -> float:
        """Bytes that each rank sends with ring algorithms."""
        passes = 2 if self.operation == "all_reduce" else 1
        return passes * self.whole_bytes * (ranks - 1) / ranks


@dataclass(frozen=True)
class LayerCommunication:
    """The collectives of one layer for one micro-batch; autograd decides on the order of those going backward."""

    forward: tuple[Collective, ...] = ()
    backward: tuple[Collective, ...] = ()


@dataclass(frozen=True)
class Split:
    """What the bytes depend on besides the model."""

    tensor_size: int
    sequence_parallel: bool
    micro_size: int
    """sequences per forward pass"""
    sequence_length: int
    element_bytes: int
    """of activations: 2 for bf16, 4 for fp32"""
    activation_checkpointing: ActivationCheckpointing = "none"

    def bytes_of(self, width: int) -> int:
        """Size of the activations of one micro-batch, ``width`` elements for each token."""
        return self.micro_size * self.sequence_length * width * self.element_bytes


def layer_communication(config: ModelConfig, split: Split) -> dict[str, LayerCommunication]:
    """Collectives of "embedding", "block" (each of the L blocks), "head" and "loss"."""
    if split.tensor_size == 1:
        return {layer: LayerCommunication() for layer in ("embedding", "block", "head", "loss")}
    scalar_bytes = 4 * split.micro_size * split.sequence_length
    scalars = ("largest logit", "logit of the label", "sum of exponentials")  # one fp32 number for each token
    return {
        "embedding": _leave(split, config.hidden_size, "embedding"),
        "block": _block(config, split),
        "head": _enter(split, config.hidden_size, "head input"),
        "loss": LayerCommunication(tuple(Collective("all_reduce", what, scalar_bytes) for what in scalars)),
    }


def partial_gradient_elements(config: ModelConfig, sequence_parallel: bool) -> dict[str, int]:
    """Elements of replicated parameters whose gradients are summed over the tensor-parallel group, by part."""
    D, H, K, R, L = config.hidden_size, config.num_heads, config.head_dim, config.rank, config.num_layers
    elements = {"factors": 0, "lambda": 0, "head norm": 0, "norms": (2 * L + 1) * D if sequence_parallel else 0}
    if config.attention in ("diff", "shared_diff"):
        elements["lambda"] = L * 4 * K
        elements["head norm"] = L * 2 * K if config.head_norm else 0
    if config.attention == "shared_diff":
        elements["factors"] = L * 4 * R * (D * (H if config.down == "head" else 1) + H * K)
    return elements


def _block(config: ModelConfig, split: Split) -> LayerCommunication:
    attention = [_enter(split, config.hidden_size, "attention input")]
    if config.attention == "shared_diff" and config.base == "layer":
        attention.append(_gather(split, 2 * config.head_dim, "shared bases"))
    if config.attention == "shared_diff" and config.down == "layer" and split.sequence_parallel:
        attention.append(_gather(split, 4 * config.rank, "low-rank projections"))
    steps = [
        *attention,
        _leave(split, config.hidden_size, "attention output"),
        _enter(split, config.hidden_size, "ffn input"),
        _leave(split, config.hidden_size, "ffn output"),
    ]
    forward = tuple(exchange for step in steps for exchange in step.forward)
    backward = tuple(exchange for step in steps for exchange in step.backward)
    if split.activation_checkpointing == "full":  # recomputation ends where nothing more is needed: before the last sum
        backward = forward[:-1] + backward
    return LayerCommunication(forward, backward)


def _enter(split: Split, width: int, purpose: str) -> LayerCommunication:
    """``Sharding.enter``."""
    if split.sequence_parallel:
        return _gather(split, width, purpose)
    return LayerCommunication((), (Collective("all_reduce", f"gradient of {purpose}", split.bytes_of(width)),))


def _gather(split: Split, width: int, purpose: str) -> LayerCommunication:
    """A gather along the sequence or the features."""
    whole = split.bytes_of(width)
    return LayerCommunication(
        (Collective("all_gather", purpose, whole),), (Collective("reduce_scatter", f"gradient of {purpose}", whole),)
    )


def _leave(split: Split, width: int, purpose: str) -> LayerCommunication:
    """The sum over ranks at the end of a row-parallel layer or a vocabulary-parallel look-up."""
    whole = split.bytes_of(width)
    if split.sequence_parallel:
        return LayerCommunication(
            (Collective("reduce_scatter", purpose, whole),),
            (Collective("all_gather", f"gradient of {purpose}", whole),),
        )
    return LayerCommunication((Collective("all_reduce", purpose, whole),))
