"""Attention calls of a model of transformers, each given to a function of ours.

In: a subject, a function of transformers' attention interface. Out: nothing; while the context lasts, the model calls
it. Always: what every kernel gets is seen, so any model that uses the interface can be measured.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scripts.evaluation.loaded import LoadedSubject
from scripts.hub.loading import ATTENTION

Attend = Callable[..., Any]
"""(module, query [B, H, U, K], key and value [B, G, T, ...], mask, **settings) -> output [B, U, H, ...], maps"""


@contextmanager
def attending(subject: LoadedSubject, name: str, attend: Attend) -> Iterator[None]:
    """While this lasts, the model attends by ``attend``, which is registered as ``name``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    subject.model.set_attn_implementation(name)
    try:
        yield
    finally:
        subject.model.set_attn_implementation(ATTENTION)


def causal_logits(query: Tensor, key: Tensor, scaling: float | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Head by head: logits [B, U, T], and which of them are before no query [U, T]; queries are those of the last U."""
    scale = scaling or query.shape[-1] ** -0.5
    queries, keys = query.shape[2], key.shape[2]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    group = query.shape[1] // key.shape[1]
    for head in range(query.shape[1]):
        yield query[:, head] @ key[:, head // group].transpose(-1, -2) * scale, causal
