"""An optimizer declares everything about itself, nobody else knows its name, and what is not declared is an error."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded, info_of
from pretrain.checks import check_run
from pretrain.config import ParallelConfig, RunConfig
from pretrain.optimizers.adamw import AdamW
from pretrain.optimizers.base import OptimizerKind, Place, Surroundings, create_state, set_applied_steps
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.gate import Gate
from pretrain.optimizers.registry import OPTIMIZERS, check_optimizer, optimizer_kind, optimizer_named
from pretrain.topology import plan_topology
from tests.model.helpers import KINDS as MODELS

ROOT = Path(__file__).parents[3]
BY_NAME = {kind.name: kind for kind in OPTIMIZERS}
MADE_BY_THE_PROJECT = ("pretrain/optimizers/", "tests/")


def parameters_of(model) -> list[torch.nn.Parameter]:
    return list(LanguageModel(build_layers(model, Unsharded(), seed=1)).parameters())


def test_no_other_room_names_an_optimizer() -> None:
    rooms = [path for path in ROOT.iterdir() if (path / "__init__.py").exists()]
    files = {str(file.relative_to(ROOT)): file for room in rooms for file in room.rglob("*.py")}
    product = {name: file for name, file in files.items() if not name.startswith(MADE_BY_THE_PROJECT)}
    assert len(product) > 200
    found = {
        name: node.value
        for name, file in product.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value in BY_NAME
    }
    assert found == {}


@pytest.mark.parametrize("missing", sorted(OptimizerKind.__abstractmethods__))
def test_an_optimizer_that_leaves_a_method_out_cannot_be_made(missing: str) -> None:
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (AdamW,), {missing: getattr(OptimizerKind, missing)})()


@pytest.mark.parametrize("missing", ["name", "title", "settings", "groups", "zero_stages", "offloads"])
def test_nor_one_that_leaves_an_attribute_out(missing: str) -> None:
    methods = {name: getattr(AdamW, name) for name in OptimizerKind.__abstractmethods__}
    attributes = {name: getattr(AdamW, name) for name in OptimizerKind.__annotations__ if name != missing}
    with pytest.raises(TypeError, match=f"Incomplete does not declare {missing}"):
        type("Incomplete", (OptimizerKind,), methods | attributes)()


def test_an_unknown_optimizer_is_an_error_where_a_run_is_defined() -> None:
    with pytest.raises(InputError, match=r"optimizer\.kind: expected one of adamw.*, is 'adamv'; did you mean 'adamw'"):
        RunConfig(optimizer=OptimizerConfig(kind="adamv"))


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=BY_NAME)
def test_settings_of_other_optimizers_are_refused_and_ones_own_are_read(kind: OptimizerKind) -> None:
    common = {"kind", "learning_rate", "weight_decay", "gradient_clipping"}
    of_some = set().union(*(other.settings for other in OPTIMIZERS))
    assert common | of_some == {setting.name for setting in fields(OptimizerConfig)}
    for name in of_some:
        changed = OptimizerConfig(kind=kind.name, **{name: 0.5})
        if name in kind.settings:
            check_optimizer(changed)
        else:
            with pytest.raises(
                InputError, match=rf"optimizer\.{name}: only .* reads it, not {kind.name}; leave it out"
            ):
                check_optimizer(changed)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("kind", OPTIMIZERS, ids=BY_NAME)
def test_every_parameter_is_in_one_group_and_every_group_has_some_in_every_model(kind: OptimizerKind, model) -> None:
    assert optimizer_named(kind.name) is optimizer_kind(OptimizerConfig(kind=kind.name)) is kind
    parameters = parameters_of(model)
    members = kind.members(parameters)
    assert sorted(id(member) for group in members for member in group) == sorted(map(id, parameters))
    # a block alone has some of each, too: so every stage of a pipeline has
    block = [parameter for parameter in parameters if info_of(parameter).name.startswith("blocks.1.")]
    assert all(kind.members(block))


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=BY_NAME)
def test_what_it_declares_is_what_its_steps_create(kind: OptimizerKind) -> None:
    """The names, shapes, types and first values of its state: made beforehand, or by the first step, it is the same."""
    model = next(iter(MODELS.values()))
    values = {}
    for beforehand in (True, False):
        parameters = parameters_of(model)
        gate = Gate(lambda: True)
        optimizer = kind.build(OptimizerConfig(kind=kind.name), parameters, alone(gate, parameters))
        assert len(optimizer.param_groups) == len(kind.groups)
        if beforehand:
            for parameter in parameters:
                create_state(optimizer, kind.group_of(info_of(parameter)), parameter)
            set_applied_steps(optimizer, 0)
        torch.manual_seed(3)
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        for parameter in parameters:
            group = kind.group_of(info_of(parameter))
            state = optimizer.state[parameter]
            assert state.keys() == {moment.name for moment in group.moments} | (
                {"step"} if group.counts_steps else set()
            )
            held = [state[moment.name] for moment in group.moments]
            assert all(value.shape == parameter.shape and value.dtype == torch.float32 for value in held)
            assert group.bytes_per_element * parameter.numel() == sum(value.nbytes for value in held)
        values[beforehand] = [parameter.detach() for parameter in parameters]
    assert all(torch.equal(one, other) for one, other in zip(*values.values(), strict=True))


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=BY_NAME)
@pytest.mark.parametrize("applied", [0, 2])
def test_a_closed_gate_leaves_weights_and_state_as_they_were(kind: OptimizerKind, applied: int) -> None:
    parameters = parameters_of(next(iter(MODELS.values())))
    opens = [True] * applied + [False]
    gate = Gate(lambda: opens.pop(0))
    optimizer = kind.build(OptimizerConfig(kind=kind.name), parameters, alone(gate, parameters))
    for _ in range(applied):
        step_with(optimizer, gate, parameters, 0.5)
    assert bool(optimizer.state) == bool(applied)
    before = held(optimizer, parameters)
    step_with(optimizer, gate, parameters, float("nan"))
    assert not gate.was_open
    after = held(optimizer, parameters)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[place], after[place]) for place in before)


def step_with(optimizer: torch.optim.Optimizer, gate: Gate, parameters: list[torch.nn.Parameter], slope: float) -> None:
    gate.begin_step()
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, slope)
    optimizer.step()


def held(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> dict[tuple[str, str], torch.Tensor]:
    """Copies of all weights and of all state, by parameter and key."""
    return {
        (info_of(parameter).name, key): value.detach().clone()
        for parameter in parameters
        for key, value in {"weight": parameter, **optimizer.state.get(parameter, {})}.items()
    }


def test_a_gate_decides_once_for_each_step() -> None:
    answers = iter([True, False, True])
    gate = Gate(lambda: next(answers))
    seen = []
    for _ in range(3):
        gate.begin_step()
        assert not gate.was_open
        seen.append([gate.is_open(), gate.is_open(), gate.was_open])
    assert seen == [[True] * 3, [False] * 3, [True] * 3]


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=BY_NAME)
def test_a_zero_stage_with_which_it_is_wrong_is_refused(kind: OptimizerKind) -> None:
    for stage in range(4):
        config = RunConfig(optimizer=OptimizerConfig(kind=kind.name), parallel=ParallelConfig(zero_stage=stage))
        if stage in kind.zero_stages:
            check_run(config, plan_topology(config.parallel, 1))
        else:
            with pytest.raises(InputError, match=rf"zero_stage: optimizer\.kind {kind.name} works with .*, not"):
                check_run(config, plan_topology(config.parallel, 1))


def alone(gate: Gate, parameters: list[torch.nn.Parameter]) -> Surroundings:
    """One process that holds everything."""
    return Surroundings(gate, lambda: [Place(p, p, 0, 0, p.numel()) for p in parameters], None, None)
