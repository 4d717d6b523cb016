"""Differential Transformers (DIFF, Shared DIFF, DIFF V2) for transformers' AutoModelForCausalLM.

In: token ids, an attention mask, a cache. Out: logits, loss, the cache. Always: this file and the configuration
beside it stand alone; the logits equal those of the trainer that exported the weights.

Shapes in names: B batch, T query tokens, U key tokens, D hidden size, H differential heads, S the two streams of a
head, N = 2H query heads, G key/value heads, K head dim, R rank, V vocabulary.

A differential head is grouped-query attention, so every layer makes one ordinary call. DIFF V1 and Shared DIFF: the
query heads [q1, 0] and [0, q2], E = 2K wide, read the same key [k1, k2] and the same value, and their outputs are A1 V
and A2 V. DIFF V2: both queries of a pair read one key, E = K. A cache holds G keys and G values of E, the least there
is. No T x U matrix is made unless the implementation is `eager` or a padding mask asks for one.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_shared_diff import SharedDiffConfig

MASK_ARGUMENTS = frozenset(inspect.signature(create_causal_mask).parameters)  # the names changed between releases


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight.float()).to(x.dtype)


class FeedForward(nn.Module):
    """SwiGLU: (swish(x W_gate) * x W_up) W_down."""

    def __init__(self, config: SharedDiffConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class SharedProjection(nn.Module):
    """Queries or keys of all heads and streams as a shared base plus low-rank updates.

    W[h, s] = base(of the layer, or of head h) + up[h, s] @ down(of the layer, or of head h)[s]

    ``base`` and ``down`` are linear modules, where tools that adapt models look for weights; ``up`` acts on each head
    by itself, which no linear module does.
    """

    def __init__(self, config: SharedDiffConfig, num_heads: int) -> None:
        super().__init__()
        bases, downs = (1 if owner == "layer" else num_heads for owner in (config.base, config.down))
        self.base = nn.Linear(config.hidden_size, bases * config.stream_dim, bias=False)
        self.down = nn.Linear(config.hidden_size, downs * 2 * config.rank, bias=False)
        self.up = nn.Parameter(torch.empty(num_heads, 2, config.stream_dim, config.rank))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Returns [B, T, H*2*K]."""
        heads, streams, head_dim, rank = self.up.shape
        base = self.base(x_BTD).unflatten(-1, (-1, 1, head_dim))  # B T (1 or H) 1 K
        narrow = self.down(x_BTD).unflatten(-1, (-1, streams, rank))  # B T (1 or H) S R
        update = torch.einsum("bthsr,hskr->bthsk", narrow.expand(-1, -1, heads, -1, -1), self.up)
        return (base + update).flatten(2)


def rotary_frequencies(config: SharedDiffConfig, pairs: Tensor) -> tuple[Tensor, float]:
    """Radians per token of the ``pairs`` 0, 2, 4, ... of K, in fp32, and what cos and sin are multiplied with."""
    head_dim, base = config.stream_dim, config.rope_base
    frequencies = 1.0 / base ** (pairs / head_dim)
    scaling = getattr(config, "rope_parameters", None) or {"rope_type": "default"}
    if scaling["rope_type"] == "default":
        return frequencies, 1.0
    factor = scaling["factor"]
    if scaling["rope_type"] == "linear":
        return frequencies / factor, 1.0
    length = scaling["original_max_position_embeddings"]
    fast, slow = (
        head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (scaling.get("beta_fast") or 32.0, scaling.get("beta_slow") or 1.0)
    )
    first, last = max(math.floor(fast), 0), min(math.ceil(slow), head_dim - 1)
    slowed = ((pairs / 2 - first) / (last - first or 0.001)).clamp(0, 1)
    amplitude = scaling.get("attention_factor") or 0.1 * math.log(factor) + 1
    return frequencies * (1 - slowed) + frequencies / factor * slowed, amplitude


def rotary_tables(position_ids: Tensor, config: SharedDiffConfig) -> tuple[Tensor, Tensor]:
    """cos and sin [B, T, 1, K] in fp32, the two halves of K equal (rotate-half convention)."""
    pairs = torch.arange(0, config.stream_dim, 2, dtype=torch.float32, device=position_ids.device)
    frequencies, amplitude = rotary_frequencies(config, pairs)
    angles = position_ids[..., None, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * amplitude, angles.sin() * amplitude


def rotate(x_BTNK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies the rotary position embedding in fp32."""
    wide = x_BTNK.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x_BTNK.dtype)


def difference(pairs: Tensor, weight: Tensor, dim: int) -> Tensor:
    """first - weight * second of the neighbours along ``dim``, in fp32; ``weight`` broadcasts over the result."""
    first, second = pairs.float().unflatten(dim, (-1, 2)).unbind(dim + 1)
    return first - weight * second


def eager_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Attention in plain products: the output [B, T, N, E] and the maps [B, N, T, U], in fp32; an additive mask."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = torch.matmul(query, key.transpose(-1, -2)).float() * kwargs["scaling"]
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    maps = scores.softmax(dim=-1)
    return torch.matmul(maps.to(value.dtype), value).transpose(1, 2), maps


def check_split(config: SharedDiffConfig, attention: Any) -> None:
    """Refuses to be split by a server over devices between which the heads do not divide, whose answers had no meaning.

    ``attention``: the layer's in vLLM, for its share of the query heads; None elsewhere.
    """
    if attention is None or attention.num_heads == config.num_attention_heads:
        return
    devices = config.num_attention_heads // attention.num_heads
    if config.attention == "shared_diff" and config.factored:
        raise ValueError(
            f"factored weights cannot be split over {devices} devices, their heads share what would be split; export "
            "them merged (--weights merged)"
        )
    if config.num_key_value_heads % devices:
        raise ValueError(
            f"{config.num_key_value_heads} key/value heads cannot be split over {devices} devices; the number of "
            "devices has to divide them"
        )


class DifferentialHeads(nn.Module):
    """What the kinds share: projections, the cache and one call of attention. A kind says what becomes of its outputs.

    Servers read ``forward`` as source and want exactly one call in it, of a function from ALL_ATTENTION_FUNCTIONS; and
    they put modules of their own in place of ours, so nothing here may depend on the class of a module.
    """

    def __init__(self, config: SharedDiffConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.stream_dim**-0.5
        self.is_causal = True
        heads, groups = config.num_attention_heads // 2, config.num_key_value_heads
        self.v_proj = nn.Linear(config.hidden_size, groups * config.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * config.head_dim, config.hidden_size, bias=False)
        if config.attention == "shared_diff" and config.factored:
            self.q_proj: nn.Module = SharedProjection(config, heads)
            self.k_proj: nn.Module = SharedProjection(config, groups)
        else:
            self.q_proj = nn.Linear(config.hidden_size, 2 * heads * config.stream_dim, bias=False)
            self.k_proj = nn.Linear(config.hidden_size, groups * config.head_dim, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Any = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention [B, T, D]; and if the implementation is `eager` the maps [B, H, T, U] that multiply the values."""
        check_split(self.config, getattr(self, "attn", None))  # where vLLM leaves its own
        implementation = self.config._attn_implementation
        attend: Callable[..., tuple[Tensor, Any]] = eager_attention_forward
        if implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[implementation]
        q, k = self.q_proj(x_BTD), self.k_proj(x_BTD)
        q, k = self.laid_out(*(rotate(y.unflatten(-1, (-1, self.config.stream_dim)), *rotary) for y in (q, k)))
        v = self.v_proj(x_BTD).unflatten(-1, (-1, self.config.head_dim))
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        out, maps = attend(self, q, k, v, mask, dropout=0.0, scaling=self.scaling, **kwargs)
        out_BTNE = out.reshape(*x_BTD.shape[:2], -1, self.config.head_dim)  # servers give it flat
        heads = self.finish(self.combine(x_BTD, out_BTNE, 2).to(v.dtype))
        return self.o_proj(heads.flatten(2)), self.combine(x_BTD, maps, 1) if implementation == "eager" else None

    def laid_out(self, q_BTNK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys as the attention call takes them: [B, T, N, E], [B, T, G, E]."""
        return q_BTNK, k_BTGK

    def combine(self, x_BTD: Tensor, both: Tensor, dim: int) -> Tensor:
        """What a kind makes of its query heads, along ``dim``: of their outputs (2) or of their maps (1)."""
        raise NotImplementedError

    def finish(self, out_BTHE: Tensor) -> Tensor:
        """The heads as the output projection takes them."""
        return out_BTHE


class DiffAttention(DifferentialHeads):
    """DIFF V1 and Shared DIFF: (A1 - lambda A2) V per head, head norm, (1 - lambda_init) (DIFF paper, section 2.1)."""

    def __init__(self, config: SharedDiffConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.lambda_init = config.lambda_inits[layer_idx]
        self.lambda_q1 = nn.Parameter(torch.empty(config.stream_dim))
        self.lambda_k1 = nn.Parameter(torch.empty(config.stream_dim))
        self.lambda_q2 = nn.Parameter(torch.empty(config.stream_dim))
        self.lambda_k2 = nn.Parameter(torch.empty(config.stream_dim))
        if config.head_norm:
            self.head_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def combination_weight(self) -> Tensor:
        """lambda, in fp32."""
        first = (self.lambda_q1.float() * self.lambda_k1.float()).sum().exp()
        second = (self.lambda_q2.float() * self.lambda_k2.float()).sum().exp()
        return first - second + self.lambda_init

    def laid_out(self, q_BTNK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        """Query heads [q1, 0] and [0, q2] over keys [k1, k2]."""
        K = q_BTNK.shape[-1]
        first, second = q_BTNK.unflatten(2, (-1, 2)).unbind(3)
        q_BTHSE = torch.stack((F.pad(first, (0, K)), F.pad(second, (K, 0))), dim=3)
        return q_BTHSE.flatten(2, 3), k_BTGK.unflatten(2, (-1, 2)).flatten(3)

    def combine(self, x_BTD: Tensor, both: Tensor, dim: int) -> Tensor:
        return difference(both, self.combination_weight(), dim)

    def finish(self, out_BTHE: Tensor) -> Tensor:
        return self.head_norm(out_BTHE) * (1 - self.lambda_init) if self.config.head_norm else out_BTHE


class DiffV2Attention(DifferentialHeads):
    """DIFF V2: a_{2i} - sigmoid(lambda_i(x)) a_{2i+1}; the two heads of a pair share a key/value head."""

    def __init__(self, config: SharedDiffConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.lambda_proj = nn.Linear(config.hidden_size, config.num_attention_heads // 2, bias=False)

    def combination_weight(self, x_BTD: Tensor) -> Tensor:
        """sigmoid(lambda) per token and head [B, T, H, 1], in fp32."""
        return self.lambda_proj(x_BTD).float().sigmoid().unsqueeze(-1)

    def combine(self, x_BTD: Tensor, both: Tensor, dim: int) -> Tensor:
        return difference(both, self.combination_weight(x_BTD).movedim(2, dim), dim)


ATTENTIONS = {"diff": DiffAttention, "shared_diff": DiffAttention, "diff_v2": DiffV2Attention}
"""Kind of attention, as config.json names it -> its layer."""


def build_attention(config: SharedDiffConfig, layer_idx: int) -> DifferentialHeads:
    """The attention layer of the kind that ``config`` names."""
    if config.attention not in ATTENTIONS:
        raise ValueError(f"attention: must be one of {', '.join(ATTENTIONS)}, is {config.attention!r}")
    return ATTENTIONS[config.attention](config, layer_idx)


class SharedDiffDecoderLayer(GradientCheckpointingLayer):
    """One block: Y = Attn(norm(X)) + X, X' = FFN(norm(Y)) + Y."""

    def __init__(self, config: SharedDiffConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = build_attention(config, layer_idx)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Any = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        attended, maps = self.self_attn(self.input_layernorm(x_BTD), rotary, mask, past_key_values, **kwargs)
        x_BTD = x_BTD + attended
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD)), maps


class SharedDiffPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about every model of this family."""

    config_class = SharedDiffConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SharedDiffDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, SharedProjection):
            nn.init.normal_(module.up, 0.0, std)
        elif isinstance(module, DiffAttention):
            for parameter in (module.lambda_q1, module.lambda_k1, module.lambda_q2, module.lambda_k2):
                nn.init.normal_(parameter, 0.0, 0.1)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)


class SharedDiffModel(SharedDiffPreTrainedModel):
    """Embedding, blocks and final norm."""

    def __init__(self, config: SharedDiffConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(SharedDiffDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if output_attentions and config._attn_implementation != "eager":
            raise ValueError("output_attentions needs attn_implementation='eager'")
        use_cache = config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training:
            use_cache = False
        x_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=config)
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        cache_position = torch.arange(x_BTD.shape[1], device=x_BTD.device) + seen
        if position_ids is None:
            position_ids = cache_position.unsqueeze(0)
        known = {
            "config": config,
            "inputs_embeds": x_BTD,
            "input_embeds": x_BTD,
            "attention_mask": attention_mask,
            "cache_position": cache_position,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
        }
        mask = create_causal_mask(**{name: value for name, value in known.items() if name in MASK_ARGUMENTS})
        rotary = rotary_tables(position_ids, config)
        kwargs.pop("cache_position", None)
        hidden_states: tuple[Tensor, ...] = ()
        attentions: tuple[Tensor, ...] = ()
        for layer in self.layers:
            if output_hidden_states:
                hidden_states += (x_BTD,)
            x_BTD, maps = layer(x_BTD, rotary, mask, past_key_values=past_key_values, **kwargs)
            if output_attentions:
                attentions += (maps,)
        x_BTD = self.norm(x_BTD)
        return BaseModelOutputWithPast(
            last_hidden_state=x_BTD,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(*hidden_states, x_BTD) if output_hidden_states else None,
            attentions=attentions if output_attentions else None,
        )


class SharedDiffForCausalLM(SharedDiffPreTrainedModel, GenerationMixin):
    """The language model: SharedDiffModel and the output head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: SharedDiffConfig) -> None:
        super().__init__(config)
        self.model = SharedDiffModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits [B, T, V], of the last ``logits_to_keep`` positions where that is not 0; the loss if ``labels``."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return result if wants_dict else result.to_tuple()
