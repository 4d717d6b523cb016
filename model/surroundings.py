"""What a layer is built with beside its sizes.

In: what build_layers is told. Out: Surroundings. Always: one object for all layers of a model; only the place at which
a layer's numbers are recorded differs.
"""

from dataclasses import dataclass, replace

from model.context.base import Context
from model.kernels.kept import Kernels
from model.parallel import Sharding
from model.recompute import ActivationCheckpointing
from model.recorder import Recorder


@dataclass(frozen=True)
class Surroundings:
    """How layers and samples are split, who takes their numbers, which kernels they call, what they recompute."""

    sharding: Sharding
    recorder: Recorder
    kernels: Kernels
    context: Context
    recompute: ActivationCheckpointing = "none"

    def within(self, place: str) -> "Surroundings":
        """The same for a part of this layer, whose numbers' names start with ``place``."""
        return replace(self, recorder=self.recorder.within(place))
