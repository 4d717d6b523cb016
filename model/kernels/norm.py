"""RMSNorm: apex's fused kernel where it is installed and the data is on a GPU, else torch's.

In: x [..., n] and a scale [n]. Out: x / sqrt(mean(x²) + eps) * scale in x's type. Always: the mean is fp32 or better.
"""

import functools
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension of ``x``."""
    if x.is_cuda and has_apex():
        return _apex_kernel()(x, weight, weight.shape, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


def norm_backend(device: torch.device | str) -> str:
    """Which kernel ``rms_norm`` uses on ``device``, in words."""
    return "apex fused RMSNorm" if torch.device(device).type == "cuda" and has_apex() else "torch RMSNorm"


@functools.cache
def has_apex() -> bool:
    """NVIDIA's apex with its compiled norm is installed (PyPI's package of that name is another project)."""
    return importlib.util.find_spec("fused_layer_norm_cuda") is not None


@functools.cache
def _apex_kernel() -> Callable[..., Tensor]:
    from apex.normalization.fused_layer_norm import fused_rms_norm_affine

    return fused_rms_norm_affine
