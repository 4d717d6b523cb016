"""The list of layers: names, order, costs, the tied head, and what each parameter says about itself."""

import pytest
import torch

from model.config import ModelConfig
from model.documents import Documents
from model.layers import LanguageModel, build_layers
from model.layout import Layout
from model.loss import mean_loss
from model.parallel import Unsharded, info_of, logical_parameters
from model.payload import Payload
from tests.device_reads import DeviceReads
from tests.model.helpers import CPU, KINDS, TINY, build, tokens

COMMON = ("attention_norm.weight", "ffn_norm.weight", "ffn.gate.weight", "ffn.up.weight", "ffn.down.weight")
DIFFERENTIAL = ("value.weight", "output.weight", "lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2", "head_norm.weight")
SHARED = ("query_base.weight", "key_base.weight", "query_down", "key_down", "query_up", "key_up")
ATTENTION = {
    "standard": ("query.weight", "key.weight", "value.weight", "output.weight"),
    "diff": ("query.weight", "key.weight", *DIFFERENTIAL),
    "shared_diff": (*SHARED, *DIFFERENTIAL),
    "diff_v2": ("query.weight", "key.weight", "value.weight", "lambda_proj.weight", "output.weight"),
}


def layer_list(config: ModelConfig, **options):
    return build_layers(config, Unsharded(), seed=1, **options)


def test_the_list_reads_from_embedding_to_head():
    names = [layer.name for layer in layer_list(ModelConfig(num_layers=3))]
    assert names == ["embedding", "blocks.0", "blocks.1", "blocks.2", "final_norm", "head"]


def test_logical_names_do_not_depend_on_modules():
    for config in KINDS.values():
        expected = {"embedding.weight", "final_norm.weight"} | (set() if config.tie_embeddings else {"head.weight"})
        for layer in range(config.num_layers):
            expected |= {f"blocks.{layer}.{name}" for name in COMMON}
            expected |= {f"blocks.{layer}.attention.{name}" for name in ATTENTION[config.attention]}
        assert logical_parameters(build(config)).keys() == expected


def test_shapes_of_every_reading():
    D, H, K, R = 24, 3, 8, 4
    shapes = {
        (base, down): {
            name.removeprefix("blocks.0.attention."): info_of(p).full_shape
            for name, p in logical_parameters(
                build(ModelConfig(attention="shared_diff", base=base, down=down, **TINY))
            ).items()
        }
        for base in ("layer", "head")
        for down in ("layer", "head")
    }
    for (base, down), found in shapes.items():
        assert found["query_base.weight"] == found["key_base.weight"] == ((K if base == "layer" else H * K), D)
        assert found["query_down"] == found["key_down"] == ((2, R, D) if down == "layer" else (H, 2, R, D))
        assert found["query_up"] == found["key_up"] == (H, 2, K, R)
        assert found["value.weight"] == (H * 2 * K, D)
        assert found["head_norm.weight"] == (2 * K,)


def test_matrices_decay_and_vectors_do_not():
    for config in KINDS.values():
        vectors = {name for name, p in logical_parameters(build(config)).items() if not info_of(p).decay}
        assert vectors == {
            n for n in logical_parameters(build(config)) if "norm" in n or "lambda_q" in n or "lambda_k" in n
        }


def test_nothing_is_sharded_or_partial_in_one_process():
    for parameter in build(KINDS["shared_diff-layer-layer"]).parameters():
        assert info_of(parameter).shard_dim is None
        assert not info_of(parameter).partial_gradient
        assert not hasattr(parameter, "tensor_model_parallel")
        assert tuple(parameter.shape) == info_of(parameter).full_shape


def test_the_tied_head_uses_the_embedding_itself_and_its_copy_on_another_stage_has_its_values():
    layers = layer_list(ModelConfig(**TINY))
    embedding, head = layers[0], layers[-1]
    assert head.tied_to == "embedding"
    model = LanguageModel(layers)
    (weight,) = [p for p in model.parameters() if p.shape == (TINY["vocab_size"], TINY["hidden_size"])]
    x_TBD = torch.randn(5, 2, TINY["hidden_size"])
    layout = Layout.of(ModelConfig(**TINY), 5, None, x_TBD, CPU)
    copy = head.build()
    assert torch.equal(copy.weight, weight)
    assert torch.equal(head.forward(copy, Payload(x_TBD, layout)), x_TBD @ weight.T)
    assert torch.equal(head.forward(embedding.build(), Payload(x_TBD, layout)), x_TBD @ weight.T)


def test_untied_models_have_a_head_of_their_own():
    layers = layer_list(ModelConfig(tie_embeddings=False, **TINY))
    assert layers[-1].tied_to is None
    parameters = logical_parameters(LanguageModel(layers))
    assert not torch.equal(parameters["head.weight"], parameters["embedding.weight"])


def test_cost_is_relative_to_a_block():
    config = ModelConfig(
        attention="standard", num_heads=2, head_dim=8, hidden_size=32, ffn_hidden_size=64, vocab_size=640
    )
    costs = {layer.name: layer.cost for layer in layer_list(config, sequence_length=16)}
    block = 2 * (4 * 32 * 32 + 3 * 32 * 64) + 8 * 16 * 2 * 8
    assert costs == {
        "embedding": 0.0,
        "blocks.0": 1.0,
        "blocks.1": 1.0,
        "final_norm": 0.0,
        "head": 2 * 640 * 32 / block,
    }


def test_bf16_stays_near_fp64():
    for config in KINDS.values():
        exact, rounded = build(config), build(config, dtype=torch.bfloat16)
        logits_TBV = rounded(tokens(config))
        assert logits_TBV.dtype == torch.bfloat16
        expected_TBV = exact(tokens(config))
        assert (logits_TBV - expected_TBV).std() < 0.02 * expected_TBV.std()


def test_recomputation_gives_the_same_bits():
    for config in KINDS.values():
        results = {}
        for recompute in ("none", "selective", "full"):
            model = build(config, dtype=torch.float32, activation_checkpointing=recompute)
            logits_TBV = model(tokens(config))
            logits_TBV.square().mean().backward()
            results[recompute] = [logits_TBV, *(p.grad for p in model.parameters())]
        for recompute in ("selective", "full"):
            pairs = zip(results[recompute], results["none"], strict=True)
            assert all(torch.equal(found, expected) for found, expected in pairs)


def test_recomputation_keeps_less():
    """What the forward pass saves for the backward pass shrinks: none > selective > full."""
    config = ModelConfig(attention="shared_diff", num_layers=2, hidden_size=32, num_heads=4, head_dim=32, vocab_size=32)
    saved = {}
    for recompute in ("none", "selective", "full"):
        model = build(config, dtype=torch.float32, activation_checkpointing=recompute)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        sizes: dict[int, int] = {}

        def count(x, own=own, sizes=sizes):
            if x.untyped_storage().data_ptr() not in own:
                sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            logits_TBV = model(tokens(config, length=64))
        saved[recompute] = sum(sizes.values())
        del logits_TBV
    assert saved["full"] < saved["selective"] < saved["none"]


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_block_is_one_graph_without_side_effects(config):
    """What torch.compile needs: no Python that it cannot follow between the two ends of a block."""
    torch.compiler.reset()
    block = build(config, dtype=torch.float32).layers["blocks_0"]
    x_TBD = torch.randn(12, 2, config.hidden_size)
    for documents in (None, Documents.of(torch.zeros(2, 12, dtype=torch.int32))):
        payload = Payload(x_TBD, Layout.of(config, 12, documents, x_TBD, CPU))
        compiled = torch.compile(block, fullgraph=True, backend="eager")(payload)
        torch.testing.assert_close(compiled.x_TBD, block(payload).x_TBD)
        assert compiled.layout is payload.layout


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_nothing_in_a_step_waits_for_the_device(config):
    model = build(config, dtype=torch.float32)
    tokens_BT = tokens(config)
    documents = Documents.of(torch.zeros_like(tokens_BT, dtype=torch.int32))
    with DeviceReads() as reads:
        for payload in (tokens_BT, (tokens_BT, documents)):
            model(payload, finish=mean_loss(tokens_BT)).backward()
    assert not reads.seen
