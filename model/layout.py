"""Where the tokens of a micro-batch stand: what the layers of a stage share.

In: sizes, how samples are split, and the documents if attention stays inside them. Out: a Layout. Always: made once for
each micro-batch on each pipeline stage, and read by all layers, forward, backward and when a block is recomputed;
making it waits for no device.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from model.config import ModelConfig
from model.context.base import ALONE, Context
from model.documents import Documents
from model.kernels.kept import Kernels
from model.rope import positions_TB, rotary_angles


@dataclass(frozen=True)
class Layout:
    """Positions and documents of one micro-batch."""

    documents: Documents | None
    """None: every sequence is one"""
    angles: tuple[Tensor, Tensor]
    """(cos, sin) of the rotary positions of this rank's tokens: [T, B, K/2], or [T, 1, K/2] without documents"""

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        tokens_per_rank: int,
        documents: Documents | None,
        like: Tensor,
        kernels: Kernels,
        context: Context = ALONE,
    ) -> "Layout":
        """The layout of samples of which this rank has ``tokens_per_rank`` tokens each.

        For activations of the type and device of ``like``.
        """
        starts_TB = None if documents is None else context.starts(documents)
        positions = positions_TB(context.positions(tokens_per_rank, like.device), starts_TB)
        if documents is not None:
            documents = context.prepared(documents, partial(kernels.attention.prepared, dtype=like.dtype))
        angles = rotary_angles(positions, config.head_dim, config.rope_theta, like.dtype, config.rope_scaling)
        return cls(documents, angles)

    @property
    def document_starts_TB(self) -> Tensor | None:
        """Of each token of the whole samples the index of its document's first token; None: every sample is one."""
        return None if self.documents is None else self.documents.starts_TB
