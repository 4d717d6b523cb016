"""Products of activations and weights, by the library that is the faster one for them.

In: x [..., D], a weight [n, D] or its transpose. Out: x W^T [..., n], without a gradient of its own. Always: exact in
the tensors' type. torch gives fp32 products on CPUs to MKL; oneDNN, which it has for the narrower types, is a tenth
faster at large products of fp32 activations and weights, but not at those of two activations, which make the gradients
of weights (LOG.md). Small ones are MKL's: oneDNN takes longer to begin.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.torch_compat import onednn_linear

LEAST_OPERATIONS = 2**26
"""multiplications and additions of a product that oneDNN computes"""


def product(x: Tensor, weight_nD: Tensor, out: Tensor | None = None) -> Tensor:
    """``x`` W^T; written to ``out``, where that is given, for x [N, D]."""
    if prefers_onednn(x, weight_nD):
        result = onednn_linear(x, weight_nD)
        return result if out is None else out.copy_(result)
    return F.linear(x, weight_nD) if out is None else torch.mm(x, weight_nD.t(), out=out)


def prefers_onednn(x: Tensor, weight_nD: Tensor) -> bool:
    """Whether oneDNN computes this product."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight_nD.dtype == torch.float32
        and x.numel() * len(weight_nD) >= LEAST_OPERATIONS
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )
