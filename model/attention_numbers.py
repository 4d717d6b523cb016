"""The numbers that kinds of attention record of their maps.

In: a Recorder and what the attention product gets. Out: entries in the recorder. Always: called only while it is open;
sampled rows, no T x T; gradients do not flow.

Every number is a mean over the sampled rows, heads and sequences, but the largest logit. Where a head has two streams,
those of the first end with _1, of the second with _2, of A1 - lambda A2 with _difference.
"""

import torch
from torch import Tensor

from model.recorder import Recorder
from model.sampled_maps import SampledMaps, cosine, entropy, sampled_maps, sampled_rows, share_on_first


@torch.no_grad()
def record_maps(recorder: Recorder, q_TBNK: Tensor, k_TBGK: Tensor, document_starts_TB: Tensor | None) -> None:
    """Of heads that stand alone: entropy, first_token, largest_logit."""
    sampled = sampled_maps(q_TBNK, k_TBGK, document_starts_TB)
    _record(recorder, "", sampled.maps, sampled.first)
    recorder.record("largest_logit", sampled.logits, "max")


@torch.no_grad()
def record_streams(
    recorder: Recorder, q_TBHSK: Tensor, k_TBGSK: Tensor, lambda_full: Tensor, document_starts_TB: Tensor | None
) -> None:
    """Of heads with two streams, S = 2, each with keys of its own; ``lambda_full`` is a scalar."""
    rows_r = sampled_rows(q_TBHSK.shape[0], q_TBHSK.device)
    for name, x in (("query_cosine", q_TBHSK), ("key_cosine", k_TBGSK)):
        recorder.record(name, cosine(*x.index_select(0, rows_r).unbind(3)), "mean")
    queries, keys = (x.transpose(2, 3).flatten(2, 3) for x in (q_TBHSK, k_TBGSK))  # stream by stream, so groups hold
    sampled = sampled_maps(queries, keys, document_starts_TB)
    first_BHrT, second_BHrT = sampled.maps.chunk(2, dim=1)
    _record_two(recorder, sampled, first_BHrT, second_BHrT, lambda_full)


@torch.no_grad()
def record_pairs(
    recorder: Recorder, q_TBNK: Tensor, k_TBGK: Tensor, weight_TBH1: Tensor, document_starts_TB: Tensor | None
) -> None:
    """Of 2H heads in H neighbouring pairs with shared keys; ``weight_TBH1`` is lambda of each token and pair."""
    sampled = sampled_maps(q_TBNK, k_TBGK, document_starts_TB)
    rows_r = sampled_rows(q_TBNK.shape[0], q_TBNK.device)
    weight_BHr1 = weight_TBH1.index_select(0, rows_r).permute(1, 2, 0, 3)
    queries = q_TBNK.index_select(0, rows_r)
    recorder.record("query_cosine", cosine(queries[:, :, 0::2], queries[:, :, 1::2]), "mean")
    _record_two(recorder, sampled, sampled.maps[:, 0::2], sampled.maps[:, 1::2], weight_BHr1)


def _record_two(
    recorder: Recorder, sampled: SampledMaps, first_BHrT: Tensor, second_BHrT: Tensor, weight: Tensor
) -> None:
    _record(recorder, "_1", first_BHrT, sampled.first)
    _record(recorder, "_2", second_BHrT, sampled.first)
    _record(recorder, "_difference", first_BHrT - weight * second_BHrT, sampled.first)
    recorder.record("map_cosine", cosine(first_BHrT, second_BHrT), "mean")
    recorder.record("largest_logit", sampled.logits, "max")


def _record(recorder: Recorder, which: str, weights_BNrT: Tensor, first_Br: Tensor) -> None:
    recorder.record(f"entropy{which}", entropy(weights_BNrT), "mean")
    recorder.record(f"first_token{which}", share_on_first(weights_BNrT, first_Br), "mean")
