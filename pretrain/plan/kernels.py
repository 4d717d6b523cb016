"""The kernels that a plan assumes.

In: a RunConfig. Out: Kernels. Always: those of a GPU with every optional package, chosen as training would choose
there; a form that the config names is taken as it is, since who plans need not have the device.
"""

from dataclasses import replace

from model.kernels.choice import AUTO, choose_kernels
from model.kernels.forms.registry import form_named
from model.kernels.kept import Kernels
from model.kernels.machine import PACKAGES, Machine
from model.layers import case_of
from pretrain.config import RunConfig
from pretrain.devices import DEFAULT_DEVICE

PLANNED = Machine("cuda", DEFAULT_DEVICE, (9, 0), PACKAGES)


def planned_kernels(config: RunConfig) -> Kernels:
    """What ``config`` runs on a GPU of the kind that is planned for."""
    data = config.data
    case = case_of(config.model, PLANNED, config.train.dtype, data.sequence_length, data.document_attention)
    kernels = choose_kernels(case)
    if config.train.attention_form == AUTO:
        return kernels
    return replace(kernels, attention=form_named(config.train.attention_form))
