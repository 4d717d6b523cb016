"""Both maps written out, a block of queries at a time: for CPUs.

In: rotated queries and keys, values, the documents. Out: the attention product. Always: computed in fp32 or better;
kept for the backward pass are the inputs alone, from which it makes the maps again; keys before a block's documents and
after its last query are never read, so there is no U x T mask, and of U x T there is one block's rows at a time.

Where a kernel reads the values once for each map, the difference of the maps reads them once: with heads of K and
values of 2K a pair of tokens costs 4 K products forward and 10 K backward, the maps' second time included, against 8 K
and 20 K.
"""

from dataclasses import replace

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.base import Case, Form, Heads, Kept
from model.kernels.forms.explicit_maps import most_elements
from model.kernels.forms.explicit_operator import at_once, attend


class Explicit(Form):
    """The form."""

    name = "explicit"
    title = "explicit maps, by blocks of queries"
    keeps_inputs_only = True
    keeps_copies = False

    def refusal(self, case: Case) -> str | None:
        return None if case.machine.kind == "cpu" else "is for CPUs"

    def softmax(self, q_UBNK: Tensor, k_TBGK: Tensor, v_TBGK: Tensor, documents: Documents | None) -> Tensor:
        return attend(q_UBNK.unsqueeze(3), k_TBGK.unsqueeze(3), v_TBGK, None, documents)

    def difference(
        self, q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, documents: Documents | None
    ) -> Tensor:
        return attend(q_UBHSK, k_TBGSK, v_TBGE, weight, documents)

    def prepared(self, documents: Documents, dtype: torch.dtype) -> Documents:
        return documents

    def layout_elements(self, keys: int) -> int:
        return 0

    def kept(self, heads: Heads) -> Kept:
        queries, keys_and_values = heads.maps.queries * heads.heads, 2 * heads.maps.keys * heads.groups
        return Kept((queries + keys_and_values) * heads.head_dim, numbers=0)

    def workspace(self, heads: Heads, sequences: int, queries: int, keys: int, element_bytes: int) -> int:
        """The gradients of result and inputs, and what is made of the heads that are worked on at once."""
        of_query = (heads.maps.queries + heads.maps.keys) * heads.heads * heads.head_dim
        of_key = 2 * heads.maps.keys * heads.groups * heads.head_dim
        some, groups = at_once(sequences, heads.groups, keys, separate=False)
        part = replace(heads, heads=heads.heads // heads.groups * groups, groups=groups)
        own = most_elements(part, some, queries, keys)
        return sequences * (queries * of_query + keys * of_key) * element_bytes + own * max(4, element_bytes)
