"""The four architectures in fp64, written from the equations alone: one head, one stream, one matrix at a time.

Nothing here is shared with the package: positions rotate as complex numbers, masks are explicit, weights are plain
tensors under their logical names, batch comes first.
"""

import math

import torch
from torch import Tensor

from model.config import ModelConfig


def reference_logits(config: ModelConfig, weights: dict[str, Tensor], tokens_BT: Tensor, starts_BT=None) -> Tensor:
    """logits_BTV."""
    x = weights["embedding.weight"][tokens_BT]
    if starts_BT is None:
        starts_BT = torch.zeros_like(tokens_BT)
    for layer in range(config.num_layers):
        prefix = f"blocks.{layer}."
        block = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        attention = {name.removeprefix("attention."): w for name, w in block.items()}
        y = rms(x, config.norm_eps) * block["attention_norm.weight"]
        x = x + ATTENTION[config.attention](config, layer, attention, y, starts_BT)
        y = rms(x, config.norm_eps) * block["ffn_norm.weight"]
        gate = y @ block["ffn.gate.weight"].T
        x = x + (gate / (1 + torch.exp(-gate)) * (y @ block["ffn.up.weight"].T)) @ block["ffn.down.weight"].T
    x = rms(x, config.norm_eps) * weights["final_norm.weight"]
    return x @ weights["embedding.weight" if config.tie_embeddings else "head.weight"].T


def rms(x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps)


def attention_map(config: ModelConfig, q_BTK: Tensor, k_BTK: Tensor, starts_BT: Tensor) -> Tensor:
    """softmax(q k^T / sqrt K) over the earlier tokens of the same document, [B, T, T]."""
    T, K = q_BTK.shape[-2:]
    index = torch.arange(T)
    position = (index - starts_BT).double()
    frequencies = config.rope_theta ** (-torch.arange(0, K, 2).double() / K)
    turn = torch.polar(torch.ones(1, dtype=torch.float64), position[..., None] * frequencies)

    def rotated(x):
        z = torch.complex(x[..., : K // 2].contiguous(), x[..., K // 2 :].contiguous()) * turn
        return torch.cat([z.real, z.imag], -1)

    scores = rotated(q_BTK) @ rotated(k_BTK).transpose(1, 2) / math.sqrt(K)
    visible = (index[:, None] >= index) & (starts_BT[:, :, None] == starts_BT[:, None, :])
    return torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1)


def standard(config, layer, w, x, starts):
    K = config.head_dim
    heads = []
    for h in range(2 * config.num_heads):
        rows = slice(h * K, (h + 1) * K)
        g = h // (2 * config.num_heads // (config.num_kv_heads or 2 * config.num_heads))
        q = x @ w["query.weight"][rows].T
        k, v = (x @ w[f"{name}.weight"][g * K : (g + 1) * K].T for name in ("key", "value"))
        heads.append(attention_map(config, q, k, starts) @ v)
    return torch.cat(heads, -1) @ w["output.weight"].T


def differential(config, layer, w, x, starts, projection):
    """``projection(which, head, stream)`` is the matrix [D, K] of "query" or "key"."""
    K = config.head_dim
    default = 0.8 - 0.6 * math.exp(-0.3 * layer)
    lambda_init = default if config.lambda_init == "default" else config.lambda_init
    lam = torch.exp(w["lambda_q1"] @ w["lambda_k1"]) - torch.exp(w["lambda_q2"] @ w["lambda_k2"]) + lambda_init
    heads = []
    for h in range(config.num_heads):
        g = h // (config.num_heads // (config.num_kv_heads or config.num_heads))
        maps = [
            attention_map(config, x @ projection("query", h, s), x @ projection("key", g, s), starts) for s in (0, 1)
        ]
        v = x @ w["value.weight"][g * 2 * K : (g + 1) * 2 * K].T
        head = (maps[0] - lam * maps[1]) @ v
        if config.head_norm:
            head = (1 - lambda_init) * rms(head, config.norm_eps) * w["head_norm.weight"]
        heads.append(head)
    return torch.cat(heads, -1) @ w["output.weight"].T


def diff(config, layer, w, x, starts):
    K = config.head_dim

    def projection(which, h, s):
        return w[f"{which}.weight"][(2 * h + s) * K : (2 * h + s + 1) * K].T

    return differential(config, layer, w, x, starts, projection)


def shared_diff(config, layer, w, x, starts):
    K = config.head_dim

    def projection(which, h, s):
        base = w[f"{which}_base.weight"]
        base = base if config.base == "layer" else base[h * K : (h + 1) * K]
        down = w[f"{which}_down"] if config.down == "layer" else w[f"{which}_down"][h]
        A, B = down[s].T, w[f"{which}_up"][h, s].T
        return base.T + A @ B

    return differential(config, layer, w, x, starts, projection)


def diff_v2(config, layer, w, x, starts):
    K, group = config.head_dim, 2 * config.num_heads // (config.num_kv_heads or config.num_heads)
    lam = x @ w["lambda_proj.weight"].T

    def attended(j):
        q = x @ w["query.weight"][j * K : (j + 1) * K].T
        g = j // group
        k, v = (x @ w[f"{name}.weight"][g * K : (g + 1) * K].T for name in ("key", "value"))
        return attention_map(config, q, k, starts) @ v

    heads = [
        attended(2 * i) - 1 / (1 + torch.exp(-lam[..., i : i + 1])) * attended(2 * i + 1)
        for i in range(config.num_heads)
    ]
    return torch.cat(heads, -1) @ w["output.weight"].T


ATTENTION = {"standard": standard, "diff": diff, "shared_diff": shared_diff, "diff_v2": diff_v2}
