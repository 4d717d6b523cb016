"""A plain model becomes a differential one: the same logits at first, and then two maps that part."""

from dataclasses import replace

import pytest
import torch

from common.errors import InputError
from model.config import ModelConfig
from model.kinds.growth import GROWN, Growth, grown_config
from model.layers import LanguageModel
from model.parallel import logical_parameters
from scripts.hub.layout import parameter_shapes
from tests.model.helpers import build, outputs_and_gradients, probe, spread, tokens

PLAIN = ModelConfig(
    attention="standard",
    num_layers=3,
    hidden_size=30,
    ffn_hidden_size=44,
    num_heads=3,
    head_dim=10,
    vocab_size=37,
    norm_eps=1e-6,
    rope_theta=700.0,
)
SOURCES = {"own keys": PLAIN, "shared keys": replace(PLAIN, num_kv_heads=2, tie_embeddings=False)}
TARGETS = [(kind, down) for kind in GROWN for down in (("layer", "head") if kind == "shared_diff" else ("layer",))]


def grow(source: LanguageModel, config: ModelConfig, kind: str, down: str) -> tuple[ModelConfig, LanguageModel]:
    target = grown_config(config, kind, rank=5, down=down)  # type: ignore[arg-type]
    old, model = logical_parameters(source), build(target)
    growth = Growth(target, parameter_shapes(target), lambda name: old[name].detach().float(), seed=3)
    with torch.no_grad():
        for name, parameter in logical_parameters(model).items():
            parameter.copy_(growth.value(name))
    return target, model


@pytest.fixture(params=SOURCES.values(), ids=SOURCES)
def source(request: pytest.FixtureRequest) -> tuple[ModelConfig, LanguageModel]:
    model = build(request.param)
    spread(model)
    return request.param, model


@pytest.mark.parametrize(("kind", "down"), TARGETS)
def test_the_first_logits_are_the_plain_models(kind: str, down: str, source: tuple[ModelConfig, LanguageModel]) -> None:
    config, plain = source
    target, grown = grow(plain, config, kind, down)
    assert target.num_heads == 6 and target.num_kv_heads == config.num_kv_heads
    found, expected = (model(tokens(config)).detach() for model in (grown, plain))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "down"), TARGETS)
def test_every_parameter_learns_and_the_maps_part(kind: str, down: str) -> None:
    plain = build(PLAIN)
    spread(plain)
    _, grown = grow(plain, PLAIN, kind, down)
    parameters = logical_parameters(grown)
    for _ in range(2):
        (-probe(grown(tokens(PLAIN)).transpose(0, 1)) * 1e-4).backward()
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.sub_(parameter.grad)
                parameter.grad = None
    _, gradients = outputs_and_gradients(grown, tokens(PLAIN))
    assert [name for name, gradient in gradients.items() if not gradient.abs().sum() > 0] == []
    name, dim = ("query_up", 1) if kind == "shared_diff" else ("query.weight", 0)
    query = parameters[f"blocks.1.attention.{name}"].detach()
    first, second = query.unbind(1) if dim else query.unflatten(0, (-1, 2, PLAIN.head_dim)).unbind(1)
    assert not torch.equal(first, second)


def test_lambda_begins_where_the_kind_wants_it(source: tuple[ModelConfig, LanguageModel]) -> None:
    config, plain = source
    target, grown = grow(plain, config, "diff", "layer")
    of = {name.rpartition(".")[2]: value for name, value in logical_parameters(grown).items() if "blocks.2" in name}
    first, second = (of[f"lambda_q{n}"] @ of[f"lambda_k{n}"] for n in (1, 2))
    assert float(first.exp() - second.exp()) == pytest.approx(0, abs=1e-6)
    assert target.lambda_init_of(2) > 0.4
    assert not torch.equal(of["lambda_q1"], of["lambda_q2"])


def test_what_cannot_grow_is_named() -> None:
    with pytest.raises(InputError, match=r"expected one of diff, shared_diff, diff_v2, is 'dif'; did you mean 'diff'"):
        grown_config(PLAIN, "dif", 5, "layer")
    with pytest.raises(InputError, match="only standard can become diff, the model is diff_v2"):
        grown_config(replace(PLAIN, attention="diff_v2"), "diff", 5, "layer")
