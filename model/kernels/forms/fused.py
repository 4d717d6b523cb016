"""The project's own operator for differential attention, in Triton.

In: rotated queries and keys, values, the documents. Out: the attention product. Always: both maps over one pass of keys
and values; nothing of T x T is stored; documents are ranges of tokens; lazily imported.
"""

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.base import Case, Form, Heads, Kept
from model.kernels.forms.kernel import needs_half_on_cuda
from model.kernels.fused.operator import fused_attention
from model.kernels.fused.tiles import NARROWEST, UNIT, WIDEST


class Fused(Form):
    """The form."""

    name = "fused"
    title = "fused differential attention in Triton"
    keeps_inputs_only = False
    keeps_copies = False

    def refusal(self, case: Case) -> str | None:
        if case.maps.queries != 2:
            return "is for differences of two maps"
        if case.head_dim % UNIT or not NARROWEST <= case.head_dim <= WIDEST:
            return f"takes heads of a multiple of {UNIT} from {NARROWEST} to {WIDEST}, here {case.head_dim}"
        return needs_half_on_cuda(case.machine, case.dtype, "triton")

    def softmax(self, q_UBNK: Tensor, k_TBGK: Tensor, v_TBGK: Tensor, documents: Documents | None) -> Tensor:
        raise NotImplementedError(f"{self.name} {self.title}: there is no difference in one map")

    def difference(
        self, q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, documents: Documents | None
    ) -> Tensor:
        weight_UBH = weight.squeeze(-1) if weight.ndim else weight.expand(q_UBHSK.shape[:3])
        starts, ends = (None, None) if documents is None else (documents.starts_TB, documents.ends_TB)
        return fused_attention(q_UBHSK, k_TBGSK, v_TBGE, weight_UBH, starts, ends)

    def prepared(self, documents: Documents, dtype: torch.dtype) -> Documents:
        return documents

    def layout_elements(self, keys: int) -> int:
        return 0

    def kept(self, heads: Heads) -> Kept:
        """The inputs, the second map's output, log-sum-exps; the result, which its reader counts."""
        inputs = 2 * heads.heads + 2 * heads.maps.keys * heads.groups
        second = heads.maps.keys * heads.heads
        return Kept((inputs + second) * heads.head_dim, numbers=2 * heads.heads, result=True)

    def workspace(self, heads: Heads, sequences: int, queries: int, keys: int, element_bytes: int) -> int:
        """The gradients of result and inputs, and for each query and head dQ in fp32 and three numbers: two
        deltas, lambda's gradient."""
        of_query = (2 + heads.maps.keys) * heads.heads * heads.head_dim * element_bytes
        in_fp32 = 4 * heads.heads * (2 * heads.head_dim + 3)
        of_key = 2 * heads.maps.keys * heads.groups * heads.head_dim * element_bytes
        return sequences * (queries * (of_query + in_fp32) + keys * of_key)
