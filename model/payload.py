"""What travels from layer to layer, and from pipeline stage to pipeline stage.

In and out: the activations x_TBD alone, or with document attention the pair (x_TBD, document_starts_TB), where
document_starts (int32) holds the index of the first token of the document that each token is in. Always: one shape
for all layers, so that any layer may be the last of a stage.
"""

from torch import Tensor

Payload = Tensor | tuple[Tensor, Tensor]


def unpack(payload: Payload) -> tuple[Tensor, Tensor | None]:
    """(activations, document starts or None)."""
    return (payload, None) if isinstance(payload, Tensor) else (payload[0], payload[1])


def pack(x: Tensor, document_starts: Tensor | None) -> Payload:
    """The inverse of ``unpack``."""
    return x if document_starts is None else (x, document_starts)
