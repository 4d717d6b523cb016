"""Kernels of apex, flash-attn and Liger behind the interfaces of this room.

In: what the interfaces say, on a GPU. Out: the same. Always: a package is imported when its kernel first runs, never
before. Their code was looked up in flash-attn 2.7.0 to 2.8.4, Liger 0.8.2 and apex's main branch of
August 2026. Before 2.8, flash-attn's rotation rounded angles to the type of what it rotates.

What is not here, and why: apex's rotation takes one table of angles for all sequences, and its cross-entropy no split
vocabulary; Liger's gate reads whole rows with equal strides, so both halves of the packed product would be copied, and
it overwrites them with their gradients; its rotation works in place on queries and keys together.
"""

from dataclasses import replace

import torch
from torch import Tensor

from model.kernels.rowwise.cross_entropy import CrossEntropyKernel, Ranks
from model.kernels.rowwise.implementation import GPU_TYPES, HALF_TYPES, Needs
from model.kernels.rowwise.norm import NormKernel, after_sum
from model.kernels.rowwise.rotary import RotaryKernel
from model.kernels.rowwise.swiglu import SwigluKernel, again_by


def _apex_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from apex.normalization.fused_layer_norm import fused_rms_norm_affine

    normed: Tensor = fused_rms_norm_affine(x, weight, weight.shape, eps)
    return normed


def _flash_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from flash_attn.ops.triton.layer_norm import rms_norm_fn

    normed: Tensor = rms_norm_fn(x, weight, None, eps=eps)
    return normed


def _flash_add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from flash_attn.ops.triton.layer_norm import rms_norm_fn

    both: tuple[Tensor, Tensor] = rms_norm_fn(x, weight, None, residual=residual, eps=eps, prenorm=True)
    return both


LIGER_SETTINGS = (0.0, "gemma", False)
"""no offset of the scale; everything in fp32 until the result is rounded; the gradient is not overwritten"""


def _liger_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    normed: Tensor = LigerRMSNormFunction.apply(x, weight, eps, *LIGER_SETTINGS)
    return normed


def _liger_add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction

    both: tuple[Tensor, Tensor] = LigerFusedAddRMSNormFunction.apply(x, residual, weight, eps, *LIGER_SETTINGS)
    return both


def _flash_product(gate: Tensor, up: Tensor) -> Tensor:
    from flash_attn.ops.activations import swiglu_fwd

    product: Tensor = swiglu_fwd(gate, up)
    return product


def _flash_gradients(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    from flash_attn.ops.activations import swiglu_bwd

    both: tuple[Tensor, Tensor] = swiglu_bwd(gate, up, gradient)
    return both


def _flash_turn(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """One sequence of T or T B tokens: the kernel's angles belong to places, the same for all sequences."""
    from flash_attn.ops.triton.rotary import apply_rotary

    T, B, K = x.shape[0], x.shape[1], x.shape[-1]
    alike = cos.shape[1] == 1
    sequences = x.reshape(T, B, -1, K).transpose(0, 1) if alike else x.reshape(1, T * B, -1, K)
    turned: Tensor = apply_rotary(sequences, cos.flatten(0, 1), sin.flatten(0, 1), conjugate=back)
    return (turned.transpose(0, 1) if alike else turned).reshape(x.shape)


def _flash_losses(logits_nV: Tensor, labels_n: Tensor, ranks: Ranks, factor: float | None) -> Tensor:
    """The package's own autograd function, whose backward pass writes over the logits."""
    from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

    with torch.enable_grad():
        logits = logits_nV.detach().requires_grad_(factor is not None)
        group = ranks.group if ranks.size > 1 else None
        losses, _ = cross_entropy_loss(logits, labels_n, inplace_backward=True, process_group=group)
    if factor is not None:
        torch.autograd.grad(losses, logits, torch.full_like(losses, factor))
    result: Tensor = losses.detach()
    return result


FLASH = Needs(gpu=True, package="flash-attn 2", dtypes=GPU_TYPES)
APEX_NORM = NormKernel("apex", replace(FLASH, package="apex"), _apex_norm, after_sum(_apex_norm))
FLASH_NORM = NormKernel("flash_attn", FLASH, _flash_norm, _flash_add_norm)
LIGER_NORM = NormKernel("liger", replace(FLASH, package="liger-kernel"), _liger_norm, _liger_add_norm)
FLASH_SWIGLU = SwigluKernel(
    "flash_attn",
    replace(FLASH, dtypes=HALF_TYPES),
    _flash_product,
    _flash_gradients,
    again_by(_flash_product, _flash_gradients),
)
FLASH_ROTARY = RotaryKernel("flash_attn", replace(FLASH, package="flash-attn 2.8"), _flash_turn)
FLASH_CROSS_ENTROPY = CrossEntropyKernel("flash_attn", FLASH, _flash_losses)
