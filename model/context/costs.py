"""What it costs that ranks share the tokens of samples: exchanges around the attention product, bytes for a moment.

In: a ModelConfig and the split. Out: LayerCommunication, bytes. Always: pure arithmetic, in the order of
model/context/gathering.py and over_heads.py; tests count the same in real processes.

With U = T/c tokens of this rank, G/t key/value heads of W = 2 S K elements (S streams of keys), N = H/t times the
streams of queries, E values' width; in elements, for one block and micro-batch:

    gather   forward    all_gather       T B G/t W                   by pieces of heads, beside the product
             backward   all_gather       T B G/t W                   again
                        reduce_scatter   T B G/t W
    heads    forward    all_to_all       U B (N K + G/t W), U B H/t E    in the open
             backward   all_to_all       the same

What is recomputed exchanges once more what is needed for it. The weight of the second map travels with the heads, in
fp32, where every token has its own.

Beside a gather goes a c-th of the causal half of T x T, T/2 keys for a token: the two chunks of a rank have (T + 1)/2
on average, whatever the rank. Pieces count as equal. Of the backward pass, where a gather and a sum share the link,
each is given half of the products: that is right where products hide them, and makes the wait longer by one piece's
product at most where they do not (tests/pretrain/plan/test_time.py plays it through).
"""

import math
from dataclasses import replace

from model.config import ModelConfig
from model.context.gathering import heads_of_pieces
from model.kernels.forms.base import Heads
from model.kernels.kept import Kernels
from model.kinds.heads import made_bytes, product_bytes, rank_heads
from model.kinds.registry import kind_of
from model.split import Collective, LayerCommunication, Split


def sharing(config: ModelConfig, split: Split) -> LayerCommunication:
    """The exchanges of one block."""
    return _gathering(config, split) if split.context_exchange == "gather" else _over_heads(config, split)


def product_workspace(config: ModelConfig, split: Split, kernels: Kernels) -> int:
    """Most bytes that the backward pass of one block's product holds for a moment.

    Gradients of result and inputs included. One rank alone: the form's, which may be 0 for "less than is free by then".
    """
    heads, form, e = _heads(config, split), kernels.attention, split.element_bytes
    if split.context_size == 1:
        return form.workspace(heads, split.micro_size, split.sequence_length, split.sequence_length, e)
    recomputed = made_bytes(heads, split, kernels) - product_bytes(heads, split, kernels)
    held = _gathered_workspace if split.context_exchange == "gather" else _exchanged_workspace
    return recomputed + held(heads, split, kernels)


def _gathering(config: ModelConfig, split: Split) -> LayerCommunication:
    heads = _heads(config, split)
    pieces = heads_of_pieces(heads.groups, split.context_pieces)
    _, for_a_token = kind_of(config).product_flops(config, split.sequence_length)
    product = round(split.tokens * for_a_token / split.tensor_size) if len(pieces) > 1 else 0
    whole = split.context_size * split.bytes_of(_key_value_width(heads))

    def gather(purpose: str, beside: int) -> Collective:
        return Collective("all_gather", purpose, whole, beside, len(pieces), "context")

    forward = gather("keys and values", product)
    # Either exchange of the backward pass has half of its product, which is 2.5 times as large.
    beside = round(1.25 * product)
    back = gather("keys and values, again", beside)
    summed = replace(back, operation="reduce_scatter", purpose="gradients of keys and values")
    return LayerCommunication((forward,), (*([forward] if split.attends_again else []), back, summed))


def _over_heads(config: ModelConfig, split: Split) -> LayerCommunication:
    heads = _heads(config, split)

    def exchange(purpose: str, size: int) -> Collective:
        return Collective("all_to_all", purpose, size, ranks="context")

    inputs, result = split.bytes_of(_input_width(heads)), split.bytes_of(_result_width(heads))
    weights = 4 * heads.heads * split.tokens if kind_of(config).weighs_by_token else 0
    there = [exchange("queries, keys and values", inputs), exchange("weights of second maps", weights)]
    there = [one for one in there if one.whole_bytes]
    forward = (*there, exchange("results of heads", result))
    backward = tuple(replace(one, purpose=f"gradients of {one.purpose}") for one in forward)
    return LayerCommunication(forward, (*(there if split.attends_again else []), *backward))


def _gathered_workspace(heads: Heads, split: Split, kernels: Kernels) -> int:
    """Of this rank's tokens, the gradients of result and inputs. Of all tokens, a piece's keys and values and those
    that arrive; gradients of its heads, which both chunks make apart, then their sum, laid out by rank to leave; and
    the sums of the piece before on their way."""
    c, e = split.context_size, split.element_bytes
    own = split.bytes_of(_result_width(heads) + _input_width(heads))
    pieces = heads_of_pieces(heads.groups, split.context_pieces)
    part = replace(heads, heads=heads.heads // heads.groups * pieces[0], groups=pieces[0])
    piece = c * split.bytes_of(_key_value_width(part))
    others = min(2, len(pieces) - 1)
    chunk = split.own_length // 2
    product = kernels.attention.workspace(part, split.micro_size, chunk, split.sequence_length, e)
    added = math.ceil(piece * (2 + 1 / (2 * c)))
    return own + piece * (1 + others) + max(product, added)


def _exchanged_workspace(heads: Heads, split: Split, kernels: Kernels) -> int:
    """The form's, of all tokens of some heads, or three copies of the gradients of its inputs on their way back."""
    c, e = split.context_size, split.element_bytes
    part = replace(heads, heads=heads.heads // c, groups=heads.groups // c)
    product = kernels.attention.workspace(part, split.micro_size, split.sequence_length, split.sequence_length, e)
    return max(product + split.bytes_of(_result_width(heads)), 3 * split.bytes_of(_input_width(heads)))


def _heads(config: ModelConfig, split: Split) -> Heads:
    kind = kind_of(config)
    return rank_heads(kind.maps, config, kind.key_value_heads(config), split)


def _key_value_width(heads: Heads) -> int:
    return 2 * heads.maps.keys * heads.groups * heads.head_dim


def _input_width(heads: Heads) -> int:
    return heads.maps.queries * heads.heads * heads.head_dim + _key_value_width(heads)


def _result_width(heads: Heads) -> int:
    return heads.maps.keys * heads.heads * heads.head_dim
