"""`standard` and `diff` against the implementations in transformers with the same weights: logits and gradients."""

import pytest
import torch
from transformers import DiffLlamaConfig, DiffLlamaForCausalLM, LlamaConfig, LlamaForCausalLM

from model.config import ModelConfig
from model.parallel import logical_parameters
from tests.model.helpers import assert_close, build, outputs_and_gradients, probe, spread, tokens

SIZES = {"num_layers": 3, "hidden_size": 48, "ffn_hidden_size": 80, "num_heads": 3, "head_dim": 16, "vocab_size": 64}
FP32 = 2e-5
PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


def theirs(config_class, config: ModelConfig):
    return config_class(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=2 * config.num_heads,
        num_key_value_heads=2 * config.num_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_embeddings,
        attn_implementation="eager",
    )


def their_name(name: str) -> str:
    """Our logical name -> the name of the same weight in transformers."""
    name = name.replace("blocks.", "model.layers.").replace("ffn_norm", "post_attention_layernorm")
    name = name.replace("attention_norm", "input_layernorm").replace("ffn.", "mlp.")
    for part in ("gate", "up", "down"):
        name = name.replace(f"mlp.{part}.", f"mlp.{part}_proj.")
    for ours, other in PROJECTIONS.items():
        name = name.replace(f"attention.{ours}.", f"self_attn.{other}.")
    name = name.replace("attention.lambda", "self_attn.lambda").replace("final_norm", "model.norm")
    return name.replace("embedding.", "model.embed_tokens.").replace("head.weight", "lm_head.weight")


def same_layout(name: str, x: torch.Tensor) -> torch.Tensor:
    return x


def diffllama_layout(name: str, x: torch.Tensor) -> torch.Tensor:
    """DiffLlama keeps all first streams before all second ones, and both halves of the values likewise."""
    if any(f"attention.{part}.weight" in name for part in ("query", "key", "value")):
        return x.unflatten(0, (SIZES["num_heads"], 2, SIZES["head_dim"])).transpose(0, 1).flatten(0, 2)
    return x


@pytest.mark.parametrize(
    ("attention", "config_class", "model_class", "layout"),
    [
        ("standard", LlamaConfig, LlamaForCausalLM, same_layout),
        ("diff", DiffLlamaConfig, DiffLlamaForCausalLM, diffllama_layout),
    ],
    ids=["standard-Llama", "diff-DiffLlama"],
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_same_weights_same_logits_and_gradients(attention, config_class, model_class, layout, tied):
    config = ModelConfig(attention=attention, tie_embeddings=tied, rope_theta=3000.0, **SIZES)
    model = build(config, dtype=torch.float32)
    spread(model)
    parameters = logical_parameters(model)
    compared = [name for name in parameters if "head_norm" not in name]  # DiffLlama's has no scale
    with torch.no_grad():
        for name in parameters.keys() - set(compared):
            parameters[name].fill_(1.0)

    other = model_class(theirs(config_class, config))
    their_parameters = dict(other.named_parameters())
    assert {their_name(name) for name in compared} == their_parameters.keys()
    with torch.no_grad():
        for name in compared:
            their_parameters[their_name(name)].copy_(layout(name, parameters[name]))

    tokens_BT = tokens(config, length=20)
    logits_BTV, gradients = outputs_and_gradients(model, tokens_BT)
    expected_BTV = other(input_ids=tokens_BT, use_cache=False).logits
    probe(expected_BTV).backward()

    assert_close(logits_BTV, expected_BTV, FP32, "logits")
    for name in compared:
        assert_close(layout(name, gradients[name]), their_parameters[their_name(name)].grad, 2e-4, f"gradient: {name}")
