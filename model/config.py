"""What defines a model: the sizes and the reading of its attention.

In: the `model` section of a config file. Out: a checked, frozen ModelConfig and the sizes derived from it.
Always: nothing here knows how a model is split over processes or trained; what only one kind of attention asks of the
sizes is checked in model/checks.py.

Shape legend of the project (suffixes of names, letters of comments):
    B batch   T tokens of a sequence   D hidden size   H differential heads   K head dim   R rank of the updates
    F FFN size   V vocabulary   L layers   S the two streams of a differential head   G key/value heads
    U the last tokens of T, where only they are queries
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from common.defaults import VOCABULARY
from common.errors import InputError
from common.ranges import check_range
from model.kinds.default import DEFAULT_KIND
from model.rope_scaling import RopeScaling

Owner = Literal["layer", "head"]


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only Transformer with pre-RMSNorm, SwiGLU, RoPE and no biases."""

    attention: str = DEFAULT_KIND
    """standard (LLaMA-like), diff (DIFF V1), shared_diff (shared base and low-rank updates) or diff_v2"""
    num_layers: int = 2
    """number of blocks, L"""
    hidden_size: int = 128
    """width of the residual stream, D"""
    ffn_hidden_size: int = 344
    """width inside the SwiGLU feed-forward network, F"""
    num_heads: int = 2
    """DIFFERENTIAL heads, H: half of the heads of the matched standard Transformer"""
    head_dim: int = 32
    """width of one query/key stream, K; a differential head's value is 2K wide"""
    rank: int = 16
    """rank R of the low-rank query/key updates (shared_diff only)"""
    base: Owner = "layer"
    """owner of the shared bases W_Q, W_K: one D x K per layer, or one D x K slice per head (shared_diff only)"""
    down: Owner = "layer"
    """owner of the updates' down-projections A: one per layer, or one per head (shared_diff only)"""
    num_kv_heads: int | None = None
    """key/value heads, G, each as wide as the kind's own (standard, diff_v2: a key and a value of K; diff, shared_diff:
    two keys of K, a value of 2K); a divisor of num_heads, of standard's 2 * num_heads; default: every head its own"""
    vocab_size: int = VOCABULARY
    """entries of the embedding, V: at least the tokenizer's, padded to a multiple of 64 at your choice"""
    tie_embeddings: bool = True
    """the output head uses the embedding's weight"""
    rope_theta: float = 10000.0
    """base of the rotary position embedding"""
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    head_norm: bool = True
    """RMSNorm over each differential head's output (diff and shared_diff)"""
    lambda_init: Literal["default"] | float = "default"
    """the constant in lambda: 'default' is 0.8 - 0.6 exp(-0.3 (l - 1)) for layer l = 1..L, or one number for all"""
    norm_eps: float = 1e-5
    """epsilon of every RMSNorm"""

    def __post_init__(self) -> None:
        check_range(self, "model.", "num_layers", low=1, high=4096)
        check_range(self, "model.", "hidden_size", "ffn_hidden_size", low=1, high=2**22)
        check_range(self, "model.", "num_heads", "num_kv_heads", "head_dim", "rank", low=1, high=2**16)
        check_range(self, "model.", "vocab_size", low=1, high=2**26)
        check_range(self, "model.", "rope_theta", above=0, high=1e30)
        self.rope_scaling.check_fits(self.rope_theta, self.head_dim)
        check_range(self, "model.", "norm_eps", low=1e-30, high=1)  # less is 0 in fp32
        if self.head_dim % 2:
            raise InputError(f"model.head_dim: must be even for rotary positions, is {self.head_dim}")
        if self.lambda_init != "default" and not 0 <= float(self.lambda_init) < 1:
            raise InputError(f"model.lambda_init: must be 'default' or in [0, 1), is {self.lambda_init}")

    def lambda_init_of(self, layer: int) -> float:
        """The constant lambda_init of block ``layer``, counted from 0 (DIFF paper, section 2.1)."""
        if self.lambda_init == "default":
            return 0.8 - 0.6 * math.exp(-0.3 * layer)
        return float(self.lambda_init)
