"""The modelling code that travels with an exported folder, loaded as a stranger loads it."""

import ast
import copy
import inspect
import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pretrain.checkpoint.reader import CheckpointReader
from scripts.hub.check import FP32_TOLERANCE, HALF_TOLERANCE
from scripts.hub.configuration_shared_diff import SharedDiffConfig
from scripts.hub.modeling_shared_diff import ATTENTIONS, SharedDiffForCausalLM, rotary_tables
from scripts.import_hf import ImportConfig, import_folder
from tests.scripts.conftest import KINDS, SHARED

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


@pytest.mark.parametrize("kind", OWN)
def test_the_configuration_tells_what_the_cache_holds(kind: str, export_of: Callable[..., Path]) -> None:
    model = load(export_of(kind))
    heads, width = model.config.num_key_value_heads, model.config.head_dim
    for layer in model(TOKENS, use_cache=True).past_key_values.layers:
        assert layer.keys.shape == layer.values.shape == (3, heads, 24, width)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_forward_has_one_call_of_one_attention_function(kind: str) -> None:
    """What vLLM's backend for models of transformers reads in the source of `forward`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(ATTENTIONS[kind].forward)))
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and of_the_table(node.value)]
    (name,) = [target.id for node in taken for target in node.targets if isinstance(target, ast.Name)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    (call,) = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == name]
    assert {word.arg: ast.unparse(word.value) for word in call.keywords}["scaling"] == "self.scaling"


def of_the_table(node: ast.expr) -> bool:
    """Whether the expression is an entry of ALL_ATTENTION_FUNCTIONS."""
    return isinstance(node, ast.Subscript) and ast.unparse(node.value) == "ALL_ATTENTION_FUNCTIONS"


@pytest.mark.parametrize("kind", OWN)
def test_a_server_may_bring_its_own_attention_and_its_own_norms(kind: str, export_of: Callable[..., Path]) -> None:
    """Attention as servers do it: heads by the configuration, one sequence, the output flat; and foreign norms."""
    model = load(export_of(kind))
    config = model.config
    expected = model(TOKENS[:1], use_cache=False).logits
    calls = []

    def serve(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
        calls.append(module.layer_idx)
        assert q.shape == (1, config.num_attention_heads, 24, config.head_dim)
        assert k.shape == v.shape == (1, config.num_key_value_heads, 24, config.head_dim)
        assert mask is None and options["instances"] == "theirs"
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=options["scaling"], enable_gqa=True)
        return out.transpose(1, 2).reshape(24, -1), None

    ALL_ATTENTION_FUNCTIONS.register("server", serve)
    try:
        config._attn_implementation = "server"
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child).__name__ == "RMSNorm":
                    norm = nn.RMSNorm(child.weight.shape, eps=child.eps)
                    norm.load_state_dict(child.state_dict())
                    setattr(parent, name, norm)
        found = model(TOKENS[:1], use_cache=False, instances="theirs").logits
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["server"]
    torch.testing.assert_close(found, expected, atol=FP32_TOLERANCE, rtol=0)
    assert calls == list(range(config.num_hidden_layers))


@pytest.mark.parametrize(
    ("kind", "weights", "devices", "wrong"),
    [
        ("shared_diff-layer-layer", "factored", 1, None),
        ("shared_diff-layer-layer", "factored", 2, "factored weights cannot be split over 2 devices.*--weights merged"),
        ("shared_diff-head-head-grouped", "merged", 4, "2 key/value heads cannot be split over 4 devices"),
        ("diff_v2-grouped", "factored", 4, "2 key/value heads cannot be split over 4 devices"),
    ],
)
def test_a_server_that_would_split_what_does_not_divide_is_refused_before_anything_is_computed(
    kind: str, weights: str, devices: int, wrong: str | None, export_of: Callable[..., Path]
) -> None:
    model = load(export_of(kind, weights))
    attention = model.model.layers[0].self_attn
    attention.attn = SimpleNamespace(num_heads=model.config.num_attention_heads // devices)
    if devices > 1:
        attention.q_proj = None
    with pytest.raises(ValueError, match=wrong) if wrong else nullcontext():
        model(TOKENS)


@pytest.mark.parametrize("kind", ["diff-grouped", "diff_v2-grouped", "shared_diff-head-head-grouped"])
def test_two_ranks_by_the_plan_for_tensor_parallelism_add_up_to_the_layer(
    kind: str, export_of: Callable[..., Path]
) -> None:
    model = load(export_of(kind, "merged"))
    layer = model.model.layers[1]
    x_BTD = torch.randn(2, 11, model.config.hidden_size, generator=torch.Generator().manual_seed(6))
    rotary = rotary_tables(torch.arange(11)[None], model.config)
    styles = {name.removeprefix("layers.*."): style for name, style in model.model.tp_plan.items() if "layers" in name}
    assert styles.keys() == {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    assert set(styles.values()) == {"colwise", "rowwise"}
    attended, fed = 0, 0
    for rank in range(2):
        part = copy.deepcopy(layer)
        for name, style in styles.items():
            linear = part.get_submodule(name)
            linear.weight = nn.Parameter(linear.weight.chunk(2, dim=0 if style == "colwise" else 1)[rank])
        attended, fed = attended + part.self_attn(x_BTD, rotary)[0], fed + part.mlp(x_BTD)
    torch.testing.assert_close(attended, layer.self_attn(x_BTD, rotary)[0])
    torch.testing.assert_close(fed, layer.mlp(x_BTD))


@pytest.mark.parametrize("kind", SHARED)
def test_factored_weights_have_no_such_plan(kind: str, export_of: Callable[..., Path]) -> None:
    assert not load(export_of(kind)).supports_tp_plan
    assert load(export_of(kind, "merged")).supports_tp_plan


@pytest.mark.parametrize("kind", OWN)
def test_a_folder_whose_keys_were_counted_stream_by_stream_is_the_same_model(
    kind: str, export_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(export_of(kind), tmp_path / "before"))
    values = json.loads((folder / "config.json").read_text())
    joined = values["head_dim"] // values["stream_dim"]
    assert joined == (1 if kind.startswith("diff_v2") else 2)
    own = {"head_dim": values.pop("stream_dim"), "num_key_value_heads": joined * values["num_key_value_heads"]}
    (folder / "config.json").write_text(json.dumps(values | own))
    model, today = load(folder), load(export_of(kind))
    assert torch.equal(model(TOKENS).logits, today(TOKENS).logits)
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["stream_dim"] == today.config.stream_dim
    reader = CheckpointReader(import_folder(ImportConfig(str(folder), str(tmp_path / "run"))))
    assert reader.config.model == KINDS[kind]


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


@pytest.mark.parametrize("kind", ["diff_v2-grouped", "shared_diff-head-head-grouped"])
def test_pages_of_a_cache_that_requests_share_change_no_token(kind: str, export_of: Callable[..., Path]) -> None:
    """transformers allocates them by num_key_value_heads and head_dim of the configuration."""
    model, prompts = load(export_of(kind)), [TOKENS[:1, :length] for length in (5, 24, 11)]
    expected = [greedy(model, prompt)[0, prompt.shape[1] :].tolist() for prompt in prompts]
    config = GenerationConfig(max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=-1)
    pages = ContinuousBatchingConfig(page_size=8, num_blocks=20, max_batch_tokens=32)
    found = model.generate_batch(
        [prompt[0].tolist() for prompt in prompts], generation_config=config, continuous_batching_config=pages
    )
    assert sorted(answer.generated_tokens for answer in found.values()) == sorted(expected)


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
