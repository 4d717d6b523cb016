"""What the forward pass keeps for the backward pass: bytes on one rank, block by block.

In: a ModelConfig, the split and the kernels. Out: bytes of one micro-batch. Always: pure arithmetic; a test counts the
tensors that real blocks keep, for every kind, reading and mode, and finds these bytes.

Per token of the micro-batch, in elements of e bytes, with D' = D (D/t with sequence parallelism), fused norms and
activation checkpointing `none`:

    residual stream     2 D'         inputs of the two norms
    norms' outputs      2 D'         read by the column-parallel layers, which gather them again
    feed-forward        3 F/t        gate, up, their product
    attention           what the kind declares (``Kind.kept_bytes``)

`selective` keeps nothing of the attention product, and gate and up alone of the feed-forward network. `full` keeps a
block's input, and needs one block's activations again while it recomputes it, with the first gradients on the way back:
of its output, of the last product's input and of what that is made of.

When the backward pass comes to the attention product, what the block keeps of what lies behind that is free, and the
form of attention may need more for a moment than that was (``Form.workspace``).
"""

from dataclasses import dataclass, replace

from model.config import ModelConfig
from model.context.costs import product_workspace
from model.kernels.kept import Kernels, norm_bytes
from model.kernels.rowwise.cross_entropy import piece_rows
from model.kinds.heads import product_bytes, rank_heads
from model.kinds.registry import kind_of
from model.loss import chunk_rows
from model.split import Split


@dataclass(frozen=True)
class BlockActivations:
    """Bytes that one block keeps for one micro-batch."""

    kept: int
    recomputed: int
    """bytes that the backward pass holds on top while it works on this block, most of them computed again"""


def block_activations(model: ModelConfig, split: Split, kernels: Kernels) -> BlockActivations:
    """What one block keeps, which is the same for every block."""
    mode = split.activation_checkpointing
    everything = _block(model, replace(split, activation_checkpointing="none"), kernels)
    if mode == "full":
        gradients = _residual(model, split) + split.bytes_of(3 * model.ffn_hidden_size // split.tensor_size)
        product = _product(model, replace(split, activation_checkpointing="none"), kernels)
        return BlockActivations(_residual(model, split), everything + max(gradients, product))
    kept = _block(model, split, kernels)
    return BlockActivations(kept, max(0, everything - kept, _product(model, split, kernels)))


def layout_bytes(model: ModelConfig, split: Split, documents: bool, kernels: Kernels) -> int:
    """Bytes of a micro-batch's Layout, which all blocks of a stage share; with ``documents`` every token has a position
    of its own. The documents' bounds, a few numbers, are left out.

    Angles are fp32; what a form reads of the documents is its own, at worst a T x T mask for each sequence.
    """
    positions = split.tokens if documents else split.own_length
    angles = 2 * 4 * positions * (model.head_dim // 2)  # cosines and sines
    if not documents:
        return angles
    length, chunk, prepared = split.sequence_length, split.own_length // 2, kernels.attention.layout_elements
    bounds, masks = 2 * length, length * prepared(length)  # where documents begin and end
    if split.context_size > 1:
        ends = length + chunk  # the keys that one chunk's queries and the other's read
        bounds += split.own_length + ends
        masks = chunk * prepared(ends) if split.context_exchange == "gather" else masks
    return angles + split.micro_size * (4 * bounds + split.element_bytes * masks)


def ends_activations(model: ModelConfig, split: Split) -> int:
    """Bytes that the final norm and the head keep: the norm's input, and its output for the head."""
    return 2 * _residual(model, split)


def logits_bytes(model: ModelConfig, split: Split) -> int:
    """Most bytes of logits, and of what is made of them, that are there at the same time.

    One chunk, whose gradient takes its place, and two pieces of it in fp32, this one and the one before.
    """
    columns, rows = model.vocab_size // split.tensor_size, _chunk_rows(model, split)
    return columns * (rows * split.element_bytes + min(rows, 2 * piece_rows(columns)) * 4)


def loss_bytes(model: ModelConfig, split: Split) -> int:
    """Most bytes that logits, loss and the gradients of the head hold at the same time.

    The gradients of the head's input and weight are there when the forward pass ends; with more than one chunk the
    weight's is summed in fp32. Under sequence parallelism a chunk's input is gathered, the next chunk's on its way, and
    its gradient is there whole before it is summed over the ranks.
    """
    columns, e, rows = model.vocab_size // split.tensor_size, split.element_bytes, _chunk_rows(model, split)
    of_weight, of_input = columns * model.hidden_size, _residual(model, split)
    chunk = rows * model.hidden_size * e if split.sequence_parallel else 0
    summing = chunk + chunk // split.tensor_size  # the gradient of a chunk's input, before and after
    if split.tokens <= rows:
        product = columns * split.tokens * e + of_weight * e + chunk + summing
        return of_input + max(logits_bytes(model, split) + chunk, product)
    adding = 4 * of_weight + 2 * chunk + max(logits_bytes(model, split), columns * rows * e + summing)
    rounding = (4 + e) * of_weight if e < 4 else 0
    return of_input + max(adding, rounding)


def _chunk_rows(model: ModelConfig, split: Split) -> int:
    """Tokens of one chunk of the loss."""
    rows = chunk_rows(model.vocab_size // split.tensor_size, split.element_bytes)
    parts = split.tensor_size if split.sequence_parallel else 1
    return min(split.tokens, max(1, rows // parts) * parts)


def _residual(model: ModelConfig, split: Split) -> int:
    """The residual stream between two layers."""
    whole = split.bytes_of(model.hidden_size)
    return whole // split.tensor_size if split.sequence_parallel else whole


def _block(model: ModelConfig, split: Split, kernels: Kernels) -> int:
    attention = kind_of(model).kept_bytes(model, split, kernels)
    return 2 * _norm(model, split) + _feed_forward(model, split) + attention


def _norm(model: ModelConfig, split: Split) -> int:
    """A norm of the residual stream, and its output."""
    rows = split.tokens // split.tensor_size if split.sequence_parallel else split.tokens
    return norm_bytes(rows, model.hidden_size, split.element_bytes) + _residual(model, split)


def _feed_forward(model: ModelConfig, split: Split) -> int:
    widths = 2 if split.activation_checkpointing == "selective" else 3
    return split.bytes_of(widths * model.ffn_hidden_size // split.tensor_size)


def _product(model: ModelConfig, split: Split, kernels: Kernels) -> int:
    """What the attention product's backward pass needs beyond what has become free by then; may be negative."""
    kind = kind_of(model)
    heads = rank_heads(kind.maps, model, kind.key_value_heads(model), split)
    behind = kind.kept_bytes(model, split, kernels) - product_bytes(heads, split, kernels)
    free = behind + _norm(model, split) + _feed_forward(model, split)
    return product_workspace(model, split, kernels) + _residual(model, split) - free
