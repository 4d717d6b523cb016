"""What the forward pass keeps for the backward pass: bytes on one rank, block by block.

In: a ModelConfig, the split and the kernels. Out: bytes of one micro-batch. Always: pure arithmetic; a test counts the
tensors that real blocks keep, for every kind, reading and mode, and finds these bytes.

Per token of the micro-batch, in elements of e bytes, with h = H/t heads on this rank, D' = D (D/t with sequence
parallelism), fused norms and activation checkpointing `none`:

    residual stream     2 D'                      inputs of the two norms
    norms' outputs      2 D                       whole sequence, read by the column-parallel layers
    feed-forward        4 F/t                     gate, swish(gate), up, their product
    standard            8 h K                     q, k, v, output; fp32 log-sum-exp 2 h
    diff, shared_diff   16 h K + 2 h K + 2 h K    stacked q, k, v, output; head norm in and out; log-sum-exp 4 h;
                        + 4 h K in fp32           both streams before the difference (only where e < 4)
    shared_diff         + 4 R (h times for down `head`)
    diff_v2             (5 + 2 G/H) h K           q, output, difference, k, v; log-sum-exp 2 h;
                        + 2 h K in fp32           the pairs before the difference (only where e < 4)

`selective` keeps q, k and v as they are before stacking, and nothing of the attention product. `full` keeps a block's
input, and needs one block's activations again while it recomputes it.
"""

from dataclasses import dataclass, replace

from model.communication import Split
from model.config import ModelConfig


@dataclass(frozen=True)
class Kernels:
    """What kernels keep besides their inputs and outputs."""

    fused_norm: bool
    """RMSNorm keeps its input and one number per row; torch on a CPU keeps fp32 copies"""
    stacked: bool
    """differential attention runs 4h heads of K (GPU), else 2h heads of 2K (CPU)"""
    grouped: bool
    """the attention kernel reads grouped key/value heads without repeating them (flash-attn)"""


GPU = Kernels(fused_norm=True, stacked=True, grouped=True)
"""apex's or torch's fused norm, flash-attn"""
CPU = Kernels(fused_norm=False, stacked=False, grouped=False)


@dataclass(frozen=True)
class BlockActivations:
    """Bytes that one block keeps for one micro-batch."""

    kept: int
    recomputed: int
    """there for a moment only, while the backward pass computes it again"""


def block_activations(model: ModelConfig, split: Split, kernels: Kernels) -> BlockActivations:
    """Of any block."""
    mode = split.activation_checkpointing
    everything = _block(model, replace(split, activation_checkpointing="none"), kernels)
    if mode == "full":
        return BlockActivations(_residual(model, split), everything)
    if mode == "selective":
        kept = _block(model, split, kernels)
        return BlockActivations(kept, max(0, everything - kept))
    return BlockActivations(everything, 0)


def ends_activations(model: ModelConfig, split: Split) -> int:
    """Bytes that the final norm and the head keep: the norm's input, and its output for the head."""
    return _residual(model, split) + split.bytes_of(model.hidden_size)


def loss_bytes(model: ModelConfig, split: Split) -> int:
    """Most bytes that logits and loss hold at the same time.

    Plain: log-softmax, its gradient and the logits' gradient, all fp32. Vocabulary-parallel: this rank's part of the
    logits and their softmax, which becomes the gradient in place.
    """
    tokens = split.micro_size * split.sequence_length
    if split.tensor_size == 1:
        return tokens * model.vocab_size * 12
    return tokens * (model.vocab_size // split.tensor_size) * (4 + split.element_bytes)


def _residual(model: ModelConfig, split: Split) -> int:
    """The residual stream between two layers."""
    whole = split.bytes_of(model.hidden_size)
    return whole // split.tensor_size if split.sequence_parallel else whole


def _block(model: ModelConfig, split: Split, kernels: Kernels) -> int:
    tokens = split.micro_size * split.sequence_length
    rows = tokens // split.tensor_size if split.sequence_parallel else tokens
    norms = 2 * _norm(rows, model.hidden_size, split, kernels) + 2 * split.bytes_of(model.hidden_size)
    feed_forward = split.bytes_of(4 * model.ffn_hidden_size // split.tensor_size)
    return norms + feed_forward + _attention(model, split, kernels)


def _norm(rows: int, width: int, split: Split, kernels: Kernels) -> int:
    """What an RMSNorm keeps: one fp32 number per row, and its input or copies of it."""
    if kernels.fused_norm:
        return rows * (width * split.element_bytes + 4)
    return rows * (width * 8 + 4)  # fp32: input and scaled input; bf16: both as fp32 copies


def _attention(model: ModelConfig, split: Split, kernels: Kernels) -> int:
    """Between the entered input and the output layer's input, this included."""
    tokens = split.micro_size * split.sequence_length
    angles = 2 * 4 * split.sequence_length * (model.head_dim // 2)  # cosines and sines
    match model.attention:
        case "standard":
            return angles + _standard(model, split, tokens)
        case "diff_v2":
            return angles + _diff_v2(model, split, kernels, tokens)
        case "diff":
            return angles + _differential(model, split, kernels, tokens)
        case _:
            return angles + _differential(model, split, kernels, tokens) + _shared(model, split)


def _standard(model: ModelConfig, split: Split, tokens: int) -> int:
    heads = model.num_heads // split.tensor_size
    width = 2 * heads * model.head_dim
    logsumexp = 0 if split.activation_checkpointing == "selective" else 4 * 2 * heads * tokens
    return split.bytes_of(4 * width) + logsumexp


def _diff_v2(model: ModelConfig, split: Split, kernels: Kernels, tokens: int) -> int:
    heads, selective = model.num_heads // split.tensor_size, split.activation_checkpointing == "selective"
    width, key_width = heads * model.head_dim, model.kv_heads // split.tensor_size * model.head_dim
    key_value = 2 * (key_width if kernels.grouped or selective else 2 * width)
    bytes_kept = split.bytes_of(2 * width + key_value + width) + 4 * heads * tokens  # q, k, v, difference, sigmoid
    precise = split.element_bytes < 4
    if precise or not selective:
        bytes_kept += split.bytes_of(0 if selective else 2 * width)  # output
    if not selective:
        bytes_kept += 4 * 2 * heads * tokens  # log-sum-exp
    if precise or selective:
        bytes_kept += 4 * 2 * width * tokens  # the pairs in fp32
    return bytes_kept


def _differential(model: ModelConfig, split: Split, kernels: Kernels, tokens: int) -> int:
    heads = model.num_heads // split.tensor_size
    width = 2 * heads * model.head_dim
    precise = split.element_bytes < 4
    if split.activation_checkpointing == "selective":
        product = split.bytes_of(3 * width)
    else:
        product = split.bytes_of(8 * width) + 4 * tokens * heads * (4 if kernels.stacked else 2)
        product += 4 * tokens * 2 * width if precise else 0
    head_norm = _norm(tokens * heads, 2 * model.head_dim, split, kernels) if model.head_norm else 0
    vectors = 16 * model.head_dim * precise + 12  # lambda's vectors and sums in fp32
    return product + head_norm + split.bytes_of(width) + vectors


def _shared(model: ModelConfig, split: Split) -> int:
    """The low-rank projections, and with shared ones the copies of the factors that their products make."""
    heads, R = model.num_heads // split.tensor_size, model.rank
    if model.down == "head":
        return split.bytes_of(4 * R * heads)
    copies = 4 * R * (model.hidden_size + heads * model.head_dim) * split.element_bytes
    own_tokens = _residual(model, split) if split.sequence_parallel else 0  # A acts on this rank's tokens
    return split.bytes_of(4 * R) + copies + own_tokens
