"""Where the tokens of a micro-batch stand: what the layers of a stage share.

In: sizes, and the documents if attention stays inside them. Out: a Layout. Always: made once for each micro-batch on
each pipeline stage, and read by all layers, forward, backward and when a block is recomputed; making it waits for no
device.
"""

from dataclasses import dataclass

from torch import Tensor

from model.config import ModelConfig
from model.documents import Documents
from model.kernels.kept import Kernels
from model.rope import positions_TB, rotary_angles


@dataclass(frozen=True)
class Layout:
    """Positions and documents of one micro-batch."""

    documents: Documents | None
    """None: every sequence is one"""
    angles: tuple[Tensor, Tensor]
    """(cos, sin) of the rotary positions: [T, B, K/2], or [T, 1, K/2] without documents"""

    @classmethod
    def of(
        cls, config: ModelConfig, length: int, documents: Documents | None, like: Tensor, kernels: Kernels
    ) -> "Layout":
        """The layout of sequences of ``length`` tokens, for activations of the type and device of ``like``."""
        starts_TB = None if documents is None else documents.starts_TB
        positions = positions_TB(length, starts_TB, like.device)
        if documents is not None:
            documents = kernels.attention.prepared(documents, like.dtype)
        angles = rotary_angles(positions, config.head_dim, config.rope_theta, like.dtype, config.rope_scaling)
        return cls(documents, angles)

    @property
    def document_starts_TB(self) -> Tensor | None:
        """Index of the first token of the document that each token is in; None: every sequence is one."""
        return None if self.documents is None else self.documents.starts_TB
