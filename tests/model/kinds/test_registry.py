"""A kind declares everything about itself, nobody else knows its name, and what is not declared is an error."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import InputError
from model.config import ModelConfig
from model.init import distribution_of, initialise
from model.kinds.base import Kind
from model.kinds.registry import KINDS, kind_named, kind_names, kind_of
from model.kinds.standard import Standard
from model.parallel import Unsharded, logical_parameters
from scripts.hub.configuration_shared_diff import JOINED_STREAMS
from scripts.hub.layout import CACHE_WIDTH, hub_name, parameter_shapes
from tests.model.helpers import KINDS as MODELS
from tests.model.helpers import build

ROOT = Path(__file__).parents[3]
ROOMS_THAT_NAME_KINDS = ("model/kinds/", "scripts/hub/", "tests/")


def kind_literals(path: Path) -> list[str]:
    """Strings of ``path`` that are the name of a kind, docstrings and comments left out."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    if path == ROOT / "scripts/checkpoint.py":
        prose |= {id(node) for node in ast.walk(tree) if isinstance(node, ast.Constant)}  # `diff A B` compares two
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in kind_names() and id(node) not in prose
    ]


def test_no_other_room_names_a_kind() -> None:
    rooms = [path for path in ROOT.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"]
    files = [file for room in rooms for file in ([room] if room.is_file() else room.rglob("*.py"))]
    product = [file for file in files if not str(file.relative_to(ROOT)).startswith(ROOMS_THAT_NAME_KINDS)]
    assert len(product) > 200
    assert [literal for file in product for literal in kind_literals(file)] == []
    assert len(kind_literals(ROOT / "model/kinds/standard.py")) == 2  # the search finds what there is


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("head_norm", [True, False])
def test_a_kind_declares_the_initial_value_of_every_parameter_and_of_no_other(config, head_norm) -> None:
    config = replace(config, head_norm=head_norm)
    prefix = "blocks.0.attention."
    built = {name.removeprefix(prefix) for name in parameter_shapes(config) if name.startswith(prefix)}
    assert kind_of(config).initial(config).keys() == built


@pytest.mark.parametrize("name", ["blocks.1.attention.gate.weight", "blocks.0.ffn.bias", "router.weight"])
def test_a_parameter_that_nobody_declares_gets_no_value(name: str) -> None:
    with pytest.raises(LookupError, match="no initial distribution is declared"):
        distribution_of(name, MODELS["diff"])


def test_nor_is_a_layer_initialised_that_has_one() -> None:
    layer = nn.Module()
    layer.gate = Unsharded().column_linear(3, 5)
    with pytest.raises(LookupError, match=r"blocks\.0\.attention\.gate\.weight"):
        initialise(layer, "blocks.0.attention.", MODELS["standard"], Unsharded(), seed=1)


@pytest.mark.parametrize("missing", sorted(Kind.__abstractmethods__))
def test_a_kind_that_leaves_a_method_out_cannot_be_made(missing: str) -> None:
    incomplete = type("Incomplete", (Standard,), {missing: getattr(Kind, missing)})
    with pytest.raises(TypeError, match=missing):
        incomplete()


@pytest.mark.parametrize("missing", ["name", "settings", "readings", "converts_into", "maps", "widens"])
def test_nor_one_that_leaves_an_attribute_out(missing: str) -> None:
    methods = {name: getattr(Standard, name) for name in Kind.__abstractmethods__}
    attributes = {name: getattr(Standard, name) for name in Kind.__annotations__ if name != missing}
    with pytest.raises(TypeError, match=f"Incomplete does not declare {missing}"):
        type("Incomplete", (Kind,), methods | attributes)()


def test_an_unknown_kind_is_an_error_wherever_a_model_is_asked_about() -> None:
    unknown = ModelConfig(attention="differential")
    for ask in (kind_of, build, parameter_shapes):
        with pytest.raises(InputError, match=r"model\.attention: expected one of standard, diff, shared_diff, diff_v2"):
            ask(unknown)


def test_names_are_unique_and_conversions_lead_to_kinds() -> None:
    assert len(set(kind_names())) == len(KINDS)
    for kind in KINDS:
        assert kind_named(kind.name) is kind
        assert kind.converts_into <= set(kind_names()) - {kind.name}
        assert kind.settings <= set(ModelConfig.__dataclass_fields__)
        assert kind.widens.keys() <= kind.settings


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_every_kind_has_names_for_transformers(config) -> None:
    assert config.attention in CACHE_WIDTH
    names = [hub_name(name) for name in parameter_shapes(config)]
    assert len(set(names)) == len(names)


def test_the_code_that_travels_knows_the_same_widths_of_a_cache() -> None:
    assert {kind: width for kind, width in CACHE_WIDTH.items() if kind in JOINED_STREAMS} == JOINED_STREAMS


def test_grouping_makes_keys_values_and_their_factors_smaller_and_nothing_else() -> None:
    sizes = {"hidden_size": 24, "num_heads": 6, "head_dim": 8, "rank": 5}
    smaller = {
        "standard": {"key.weight", "value.weight"},
        "diff": {"key.weight", "value.weight"},
        "shared_diff": {"key_base.weight", "key_down", "key_up", "value.weight"},
        "diff_v2": {"key.weight", "value.weight"},
    }
    for kind in KINDS:
        whole = ModelConfig(attention=kind.name, base="head", down="head", **sizes)
        grouped = replace(whole, num_kv_heads=kind.key_value_heads(whole) // 3)
        shapes, fewer = (logical_parameters(build(config, device="meta")) for config in (whole, grouped))
        found = {name.removeprefix("blocks.0.attention.") for name in shapes if shapes[name].shape != fewer[name].shape}
        assert {name for name in found if not name.startswith("blocks.")} == smaller[kind.name]
        for name in found & shapes.keys():
            assert shapes[name].shape[0] == 3 * fewer[name].shape[0]


def test_constant_lambda_is_the_built_layers() -> None:
    for name, config in MODELS.items():
        model = build(config, dtype=torch.float32)
        parameters = logical_parameters(model)
        told = kind_of(config).constant_lambda(
            config, 1, lambda part, held=parameters: held[f"blocks.1.attention.{part}"].detach()
        )
        layer = model.layers["blocks_1"].attention
        assert (told is None) == (not hasattr(layer, "lambda_full")), name
        if told is not None:
            assert told == pytest.approx(float(layer.lambda_full()))
