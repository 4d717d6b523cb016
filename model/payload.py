"""What enters the model, and what travels from layer to layer.

In and out: tokens before the embedding, a Payload between the layers. Always: one shape for all layers, so that any
layer may be the last of a pipeline stage. Between stages the activations travel alone: each stage knows the layout of
its micro-batches by itself.
"""

from typing import NamedTuple

from torch import Tensor

from model.documents import Documents
from model.layout import Layout

Tokens = Tensor | tuple[Tensor, Documents | None]
"""tokens_BT alone, or with their documents"""


class Payload(NamedTuple):
    """What a layer takes and returns."""

    x_TBD: Tensor
    layout: Layout
