"""The modelling code that travels with an exported folder, loaded as a stranger loads it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from scripts.hub.check import FP32_TOLERANCE, HALF_TOLERANCE
from scripts.hub.configuration_shared_diff import SharedDiffConfig
from scripts.hub.modeling_shared_diff import SharedDiffForCausalLM
from tests.scripts.conftest import KINDS

OWN = [kind for kind in KINDS if not kind.startswith("standard")]
TOKENS = torch.randint(300, (3, 24), generator=torch.Generator().manual_seed(3))


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()


def greedy(model: Any, tokens: Tensor, **options: Any) -> Tensor:
    return model.generate(tokens, max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=-1, **options)


@pytest.mark.parametrize("kind", OWN)
def test_eager_and_sdpa_give_the_same_logits_and_gradients(kind: str, export_of: Callable[..., Path]) -> None:
    results = {}
    for implementation in ("eager", "sdpa"):
        model = load(export_of(kind), attn_implementation=implementation)
        out = model(TOKENS, labels=TOKENS)
        out.loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results[implementation] = out.logits, gradients
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())
    torch.testing.assert_close(results["eager"][0], results["sdpa"][0], atol=FP32_TOLERANCE, rtol=0)
    for name, gradient in results["eager"][1].items():
        torch.testing.assert_close(gradient, results["sdpa"][1][name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("kind", "heads", "groups"),
    [("diff-grouped", 6, 2), ("shared_diff-grouped", 3, 1), ("shared_diff-head-head-grouped", 6, 2)],
)
def test_grouped_heads_make_the_cache_smaller_by_the_size_of_a_group(
    kind: str, heads: int, groups: int, export_of: Callable[..., Path]
) -> None:
    cache = load(export_of(kind))(TOKENS, use_cache=True).past_key_values
    held = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    two_per_head = 2 * 2 * heads * TOKENS.numel() * KINDS[kind].head_dim * KINDS[kind].num_layers  # keys and values
    assert sum(tensor.numel() for tensor in held) == two_per_head * groups // heads


@pytest.mark.parametrize(
    "kind", ["diff", "diff_v2-grouped", "shared_diff-layer-layer", "shared_diff-head-head-grouped"]
)
def test_a_cache_a_static_cache_chunks_and_left_padding_change_no_token(
    kind: str, export_of: Callable[..., Path]
) -> None:
    model = load(export_of(kind))
    plain = greedy(model, TOKENS, use_cache=False)
    assert torch.equal(greedy(model, TOKENS, use_cache=True), plain)
    assert torch.equal(greedy(model, TOKENS, cache_implementation="static"), plain)
    padded = torch.cat([torch.zeros(3, 5, dtype=torch.long), TOKENS], dim=1)
    mask = (torch.arange(padded.shape[1]) >= 5).long().expand(3, -1)
    for options in ({}, {"prefill_chunk_size": 7}):
        assert torch.equal(greedy(model, padded, attention_mask=mask, **options)[:, 5:], plain)
    wrong = greedy(model, padded, attention_mask=torch.ones_like(mask))[:, 5:]
    assert not torch.equal(wrong, plain), "the mask makes no difference here, so this test would not see it ignored"


def test_rows_of_different_lengths_in_one_batch_equal_rows_alone(export_of: Callable[..., Path]) -> None:
    model = load(export_of("shared_diff-layer-layer"))
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        mask = (torch.arange(24) >= torch.tensor([[0], [9], [17]])).long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        together = model(TOKENS, attention_mask=mask, position_ids=positions).logits
        for row, start in enumerate((0, 9, 17)):
            alone = model(TOKENS[row : row + 1, start:]).logits
            torch.testing.assert_close(together[row : row + 1, start:], alone, atol=FP32_TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["diff", "diff_v2-grouped"])
def test_attention_maps_are_the_differential_maps(kind: str, export_of: Callable[..., Path]) -> None:
    model = load(export_of(kind), attn_implementation="eager")
    out = model(TOKENS, output_attentions=True, output_hidden_states=True)
    heads = model.config.num_attention_heads // 2
    assert out.attentions[0].shape == (3, heads, 24, 24)
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1
    assert out.attentions[0].triu(1).abs().max() == 0
    rows = out.attentions[0].sum(-1)
    attention = model.model.layers[0].self_attn
    if kind == "diff":  # a row of A1 - lambda A2 sums to 1 - lambda
        torch.testing.assert_close(rows, (1 - attention.combination_weight()).expand_as(rows))
    else:
        normed = model.model.layers[0].input_layernorm(out.hidden_states[0])
        torch.testing.assert_close(rows, 1 - attention.combination_weight(normed)[..., 0].transpose(1, 2))
    with pytest.raises(ValueError, match="eager"):
        load(export_of(kind))(TOKENS, output_attentions=True)


def test_device_map_compile_bf16_and_gradient_checkpointing(export_of: Callable[..., Path]) -> None:
    folder = export_of("shared_diff-layer-layer")
    model = load(folder, device_map="auto")
    expected = model(TOKENS).logits
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(TOKENS).logits, expected, atol=FP32_TOLERANCE, rtol=0)
    half = load(folder, dtype=torch.bfloat16)(TOKENS).logits
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().mean() < HALF_TOLERANCE * expected.std()
    model.train().gradient_checkpointing_enable()
    model(TOKENS, labels=TOKENS).loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_disable()
    model(TOKENS, labels=TOKENS).loss.backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_saving_and_loading_again_keeps_weights_and_code(export_of: Callable[..., Path], tmp_path: Path) -> None:
    model = load(export_of("shared_diff-head-layer"))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(load(tmp_path)(TOKENS).logits, model(TOKENS).logits, atol=0, rtol=0)


def test_a_long_prompt_needs_no_quadratic_memory(export_of: Callable[..., Path]) -> None:
    """12,000 tokens: one fp32 T x T matrix would take 576 MB; measured in a process of its own."""
    script = f"""
import resource, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(export_of("diff"))!r}, trust_remote_code=True).eval()
with torch.no_grad():
    model(torch.ones(1, 64, dtype=torch.long), logits_to_keep=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model(torch.ones(1, 12000, dtype=torch.long), logits_to_keep=1, use_cache=False)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(out.stdout.split()[-1]) < 250, "megabytes"


def test_a_kind_that_the_code_does_not_know_is_refused_by_name() -> None:
    config = SharedDiffConfig(attention="standard")  # a Llama, which needs no code of ours
    with pytest.raises(ValueError, match="attention: must be one of diff, shared_diff, diff_v2, is 'standard'"):
        SharedDiffForCausalLM(config)
