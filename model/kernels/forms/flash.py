"""What the packages of flash attention have in common: how they are called.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: nothing of U x T is
stored; documents are packed sequences of the variable-length kernels; packages are imported when the kernel is first
called. Of fewer queries than keys, in a packed sequence, too, all of these kernels let the last query see the last key
(flash-attn 2 since 2.1); keys of a sequence without queries get gradients of zero.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from model.documents import Documents
from model.kernels.forms.kernel import Kernel

FEWEST_QUERIES = 2
"""flash-attn 2 takes a longest sequence of one query to mean that every sequence has one"""


class Flash(Kernel):
    """A package with flash_attn_func and flash_attn_varlen_func."""

    @abstractmethod
    def package(self) -> Any:
        """The module that has both."""

    def attend(
        self, q_UBNK: Tensor, k_TBGK: Tensor, v_TBGE: Tensor, documents: Documents | None, scale: float
    ) -> Tensor:
        if documents is None:
            q, k, v = (x.transpose(0, 1) for x in (q_UBNK, k_TBGK, v_TBGE))
            return _output(self.package().flash_attn_func, q, k, v, softmax_scale=scale, causal=True).transpose(0, 1)
        q, k, v = (x.transpose(0, 1).flatten(0, 1) for x in (q_UBNK, k_TBGK, v_TBGE))
        out = _output(
            self.package().flash_attn_varlen_func,
            q,
            k,
            v,
            cu_seqlens_q=documents.queries.begins,
            cu_seqlens_k=documents.keys.begins,
            max_seqlen_q=max(documents.queries.longest, FEWEST_QUERIES),
            max_seqlen_k=documents.keys.longest,
            softmax_scale=scale,
            causal=True,
        )
        return out.unflatten(0, q_UBNK.shape[1::-1]).transpose(0, 1)


def _output(attention: Callable[..., Any], *inputs: Tensor, **arguments: Any) -> Tensor:
    """Some versions return the log-sum-exps beside the output."""
    returned = attention(*inputs, **arguments)
    output: Tensor = returned[0] if isinstance(returned, tuple) else returned
    return output
