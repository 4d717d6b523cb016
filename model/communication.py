"""What ranks exchange inside layers: every collective of every layer, as a formula.

In: a ModelConfig, the split and the micro-batch. Out: the collectives of each layer's forward and backward pass with
their bytes. Always: pure arithmetic; a test counts the same collectives in real processes.

Per block and micro-batch, in elements (TB = tokens of the micro-batch on this rank), between tensor-parallel ranks:

                                        plain                       with sequence parallelism
    forward                             2 all-reduces of TB D       2 all-gathers, 2 reduce-scatters of TB D
    backward                            2 all-reduces of TB D       4 all-gathers, 2 reduce-scatters of TB D

(half of the latter all-gathers bring the inputs of column-parallel layers again, which would else be kept whole)
and what the kind of attention adds between them (``Kind.exchanges``); for `shared_diff`

    base layer, forward / backward      1 all-gather / 1 reduce-scatter of TB 2K, in both
    down layer, forward / backward      -                           1 all-gather / 1 reduce-scatter of TB 4R

Ranks that share the tokens of samples exchange around the attention product (model/context/costs.py).

Once per optimizer step the partial gradients are summed (``partial_gradient_elements``): for `shared_diff` the factors
A and B of every block, which is what replicating them costs.
"""

from model.config import ModelConfig
from model.context.costs import sharing
from model.kinds.registry import kind_of
from model.split import Collective, LayerCommunication, Split, entering, gathering, leaving


def layer_communication(config: ModelConfig, split: Split) -> dict[str, LayerCommunication]:
    """Collectives of "embedding", "block" (each of the L blocks), "head" and "loss".

    The loss exchanges its numbers chunk by chunk (model/loss.py): so many bytes in all, in one call or several.
    """
    if split.tensor_size == 1:
        nothing = LayerCommunication()
        return {"embedding": nothing, "block": _block(config, split), "head": nothing, "loss": nothing}
    scalar_bytes = 4 * split.tokens
    exchanged = (("largest logit", 1), ("sum of exponentials and logit of the label", 2))  # fp32 numbers of each token
    return {
        "embedding": leaving(split, config.hidden_size, "embedding"),
        "block": _block(config, split),
        "head": _head(config, split),
        "loss": LayerCommunication(
            tuple(Collective("all_reduce", what, count * scalar_bytes) for what, count in exchanged)
        ),
    }


def partial_gradient_elements(config: ModelConfig, sequence_parallel: bool) -> dict[str, int]:
    """Elements of replicated parameters whose gradients are summed over the tensor-parallel group, by part."""
    blocks = kind_of(config).partial_gradients(config)
    norms = (2 * config.num_layers + 1) * config.hidden_size if sequence_parallel else 0
    return {**{part: config.num_layers * count for part, count in blocks.items()}, "norms": norms}


def _head(config: ModelConfig, split: Split) -> LayerCommunication:
    """With the loss, whose forward pass makes the gradients: the input is not gathered again."""
    if split.sequence_parallel:
        return gathering(split, config.hidden_size, "head input")
    return entering(split, config.hidden_size, "head input", config.vocab_size // split.tensor_size)


def _block(config: ModelConfig, split: Split) -> LayerCommunication:
    """Recomputation ends where nothing more is needed: before the last sum of the block, or of the product."""
    D, t, kind = config.hidden_size, split.tensor_size, kind_of(config)
    attending = [sharing(config, split)] if split.context_size > 1 else []
    steps, last = attending, LayerCommunication()
    if t > 1:
        matrices = kind.matrices(config)
        steps = [
            entering(split, D, "attention input", matrices["value"] // D // t),  # more columns than those of values
            *kind.exchanges(config, split),
            *attending,
            leaving(split, D, "attention output", matrices["output"] // D // t),
            entering(split, D, "ffn input", 2 * config.ffn_hidden_size // t),
        ]
        last = leaving(split, D, "ffn output", config.ffn_hidden_size // t)
    forward = tuple(exchange for step in steps for exchange in step.forward)
    backward = tuple(exchange for step in (*steps, last) for exchange in step.backward)
    again: tuple[Collective, ...] = ()
    if split.activation_checkpointing == "full":
        again = forward
    return LayerCommunication((*forward, *last.forward), (*again, *backward))
