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
    rows_r = sampled_rows(q_TBNK.shape[0], q_TBNK.device)
    sampled = sampled_maps(q_TBNK.index_select(0, rows_r), k_TBGK, rows_r, document_starts_TB)
    _record(recorder, "", sampled.maps, sampled.first)
    recorder.record("largest_logit", sampled.logits, "max")


@torch.no_grad()
def record_streams(
    recorder: Recorder, q_TBHSK: Tensor, k_TBGSK: Tensor, lambda_full: Tensor, document_starts_TB: Tensor | None
) -> None:
    """Of heads with two streams, S = 2, each with keys of its own; ``lambda_full`` is a scalar."""
    rows_r = sampled_rows(q_TBHSK.shape[0], q_TBHSK.device)
    q_rBHSK = q_TBHSK.index_select(0, rows_r)
    for name, x in (("query_cosine", q_rBHSK), ("key_cosine", k_TBGSK.index_select(0, rows_r))):
        recorder.record(name, cosine(*x.unbind(3)), "mean")
    G = k_TBGSK.shape[2]
    # The heads of a group stream by stream, as its keys lie: the keys of the whole sequence need no copy.
    queries = q_rBHSK.unflatten(2, (G, -1)).transpose(3, 4).flatten(2, 4)
    sampled = sampled_maps(queries, k_TBGSK.flatten(2, 3), rows_r, document_starts_TB)
    first_BHrT, second_BHrT = (maps.flatten(1, 2) for maps in sampled.maps.unflatten(1, (G, 2, -1)).unbind(2))
    _record_two(recorder, sampled, first_BHrT, second_BHrT, lambda_full)


@torch.no_grad()
def record_pairs(
    recorder: Recorder, q_TBNK: Tensor, k_TBGK: Tensor, weight_TBH1: Tensor, document_starts_TB: Tensor | None
) -> None:
    """Of 2H heads in H neighbouring pairs with shared keys; ``weight_TBH1`` is lambda of each token and pair."""
    rows_r = sampled_rows(q_TBNK.shape[0], q_TBNK.device)
    q_rBNK = q_TBNK.index_select(0, rows_r)
    recorder.record("query_cosine", cosine(q_rBNK[:, :, 0::2], q_rBNK[:, :, 1::2]), "mean")
    sampled = sampled_maps(q_rBNK, k_TBGK, rows_r, document_starts_TB)
    weight_BHr1 = weight_TBH1.index_select(0, rows_r).permute(1, 2, 0, 3)
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
