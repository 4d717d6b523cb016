"""A few rows of the attention maps, and what can be read from them.

In: the queries and keys that the attention product gets. Out: the maps of the sampled queries, [rows, T] and never
T x T, and numbers of each row. Always: rows lie at the same places of every sequence on every step and every topology;
the product of queries and keys is in their own type, everything after it in fp32 or better.

Besides the project's legend: r sampled rows, N query heads or streams.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 8
"""sampled queries of each sequence"""


def sampled_rows(length: int, device: torch.device) -> Tensor:
    """Indices of the sampled queries, [r]: evenly spaced, the last token of the sequence among them."""
    rows = min(ROWS, length)
    return torch.arange(1, rows + 1, device=device) * length // rows - 1


@dataclass(frozen=True)
class SampledMaps:
    """What the sampled queries read."""

    logits: Tensor
    """q k^T / sqrt K, [B, N, r, T]; -inf where a query may not look"""
    maps: Tensor
    """softmax of the logits, [B, N, r, T]"""
    first: Tensor
    """index of the first token that each row sees, int64 [B, r]: that of its document, or of the sequence"""


def sampled_maps(q_rBNK: Tensor, k_TBGK: Tensor, rows_r: Tensor, document_starts_TB: Tensor | None) -> SampledMaps:
    """The sampled rows of causal attention.

    Args:
        q_rBNK: the queries of the rows, rotated. k_TBGK: the keys of the whole sequence; query head j reads key head
            j // (N/G).
        rows_r: where the queries stand in the sequence (``sampled_rows``).
        document_starts_TB: index of the first token of the document that each token is in; attention stays inside it.
    """
    r, B, N, K = q_rBNK.shape
    T, _, G, _ = k_TBGK.shape
    queries = q_rBNK.permute(1, 2, 0, 3).reshape(B * G, N // G * r, K)
    keys = k_TBGK.flatten(1, 2).permute(1, 2, 0)  # [B G, K, T], a view
    precise = torch.promote_types(q_rBNK.dtype, torch.float32)
    scores = (queries @ keys).to(precise) * K**-0.5
    if document_starts_TB is None:
        first_Br = torch.zeros(B, r, dtype=torch.int64, device=q_rBNK.device)
    else:
        first_Br = document_starts_TB.index_select(0, rows_r).t().long()
    index_T = torch.arange(T, device=q_rBNK.device)
    visible_BrT = (index_T <= rows_r[:, None]) & (index_T >= first_Br[..., None])
    logits = scores.view(B, N, r, T).masked_fill(~visible_BrT[:, None], -torch.inf)
    return SampledMaps(logits, logits.softmax(-1), first_Br)


def entropy(weights: Tensor) -> Tensor:
    """-sum p ln p of each row in nats, p = |weights| / sum |weights|: [..., T] to [...]."""
    return torch.special.entr(_normalised(weights)).sum(-1)


def share_on_first(weights_BNrT: Tensor, first_Br: Tensor) -> Tensor:
    """|weight| of the first visible token as a share of each row's sum of |weights|: [B, N, r]."""
    index = first_Br[:, None, :, None].expand(*weights_BNrT.shape[:3], 1)
    return _normalised(weights_BNrT).gather(-1, index).squeeze(-1)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle between vectors, over the last dimension, in fp32 or better."""
    precise = torch.promote_types(first.dtype, torch.float32)
    return F.cosine_similarity(first.to(precise), second.to(precise), dim=-1)


def _normalised(weights: Tensor) -> Tensor:
    """|weights| of each row, so that they sum to 1: a softmax stays what it is."""
    return F.normalize(weights.abs(), p=1.0, dim=-1)
