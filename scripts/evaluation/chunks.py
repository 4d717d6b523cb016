"""Long rows of tokens through a model in chunks, each over the cache of the tokens before it.

In: a model, token ids [B, T], the tokens of a chunk. Out: logits chunk by chunk; or the cache behind the last token.
Always: no T x T tensor and no logits [T, V]: the largest tensors are a chunk's logits and its mask over the keys so far
(chunk x T; attention over a cache has one in transformers); what stays is the cache, which grows with T.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError

Mask = Callable[[int, int], Tensor]
"""(begin, end) -> which of the keys [0, end) the queries [begin, end) see, in a form that transformers takes"""


def in_chunks(
    model: Any,
    ids_BT: Tensor,
    chunk_tokens: int,
    mask: Mask | None = None,
    positions_BT: Tensor | None = None,
    keep_cache: bool = False,
    **options: Any,
) -> Iterator[tuple[int, int, Tensor, Any]]:
    """Where each chunk begins and ends, its logits [B, chunk, V], and the cache up to its end.

    Args:
        mask: by default every token sees all before it.
        positions_BT: by default 0 .. T - 1.
        keep_cache: whether the cache is wanted where one chunk is all, too.
        options: go to the model's ``forward``, such as ``logits_to_keep``.

    Raises:
        InputError: there are several chunks, and the model returns no cache to go on from.
    """
    length, cache = ids_BT.shape[1], None
    for begin in range(0, length, chunk_tokens):
        end = min(begin + chunk_tokens, length)
        out = model(
            ids_BT[:, begin:end],
            attention_mask=None if mask is None else mask(begin, end),
            position_ids=None if positions_BT is None else positions_BT[:, begin:end],
            past_key_values=cache,
            use_cache=keep_cache or length > chunk_tokens,
            **options,
        )
        cache, logits = out.get("past_key_values"), out.logits
        if cache is None and end < length:
            raise InputError(
                f"--model {model.name_or_path}: returns no cache from which {length} tokens could go on in chunks; "
                f"take them at once with --chunk-tokens {length}"
            )
        del out  # nor may the caller hold a chunk's logits while the next ones are computed
        yield begin, end, logits, cache
        del logits


def within_documents(starts_BT: Tensor) -> Mask:
    """Keeps every token to its document, whose first token stands at ``starts_BT``."""

    def mask(begin: int, end: int) -> Tensor:
        keys, queries = (torch.arange(*ends, device=starts_BT.device) for ends in ((0, end), (begin, end)))
        starts = starts_BT[:, None, begin:end, None]
        return (keys >= starts) & (keys <= queries[:, None])  # B 1 chunk end

    return mask


def behind_padding(mask_BT: Tensor | None) -> tuple[Mask | None, Tensor | None]:
    """The mask of left-padded rows, whose tokens ``mask_BT`` marks with 1, and their positions [B, T]."""
    if mask_BT is None:
        return None, None
    return lambda _, end: mask_BT[:, :end], (mask_BT.cumsum(1) - 1).clamp(min=0)
