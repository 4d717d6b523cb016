"""What the head says about the next token, before anything of the size of the vocabulary is computed.

In: the last activations and this rank's part of the head's weight. Out: logits for who asks for them, or a loss that
never holds them whole (model/loss.py). Always: the layer list ends in a head that hands a Prediction to the function
it is called with, so that the product runs where the weight is whole on this rank even where ZeRO 3 partitions it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model.kernels.rowwise.cross_entropy import CrossEntropyKernel
from model.packed import packed_linear
from model.parallel import Sharding
from model.recorder import Recorder


@dataclass(frozen=True)
class Prediction:
    """The two factors of the logits."""

    x_TBD: Tensor
    """activations; under sequence parallelism of this rank's part of the sequence"""
    weight_VD: Tensor
    """this rank's part of the vocabulary"""
    sharding: Sharding
    recorder: Recorder
    cross_entropy: CrossEntropyKernel
    """what computes a loss of them"""

    def logits(self) -> Tensor:
        """logits_TBV of this rank's part of the vocabulary; their largest value goes to the recorder."""
        (logits_TBV,) = packed_linear(self.x_TBD, [self.weight_VD], self.sharding.exchange)
        self.record_largest(logits_TBV)
        return logits_TBV

    def record_largest(self, logits: Tensor) -> None:
        """Tells the recorder of the largest of some logits."""
        self.recorder.record("largest_logit", logits, "max")


Finish = Callable[[Prediction], Tensor]
"""What becomes of a prediction: its logits, or a loss"""
