"""A plan puts the formulas together: sizes of all kinds, the most loaded rank, two kinds side by side, and advice."""

import time
from dataclasses import replace

import pytest

from common.errors import InputError
from data.config import DataConfig, StageConfig
from model.config import ModelConfig
from model.counts import parameter_counts
from model.kinds.registry import KINDS, kind_names
from pretrain.config import BatchConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.devices import DEVICES
from pretrain.plan.plan import Plan, make_plan, with_kind
from pretrain.plan.report import ROWS, report
from pretrain.plan.time import Cluster

CLUSTER = Cluster(DEVICES["H100"])
CONFIG = RunConfig(
    model=ModelConfig(num_layers=8, hidden_size=512, ffn_hidden_size=1024, num_heads=4, head_dim=64, rank=32),
    data=DataConfig(sequence_length=512),
    parallel=ParallelConfig(tensor=2, pipeline=2, sequence=True),
    batch=BatchConfig(global_size=64, micro_size=4),
    train=TrainConfig(precision="bf16"),
)


def plan(config: RunConfig = CONFIG, world_size: int = 16) -> Plan:
    return make_plan(config, world_size, CLUSTER)


def test_all_kinds_and_readings_stand_side_by_side_and_the_configs_own_is_marked() -> None:
    found = plan()
    assert [size.name for size in found.sizes] == [
        "standard",
        "diff",
        "diff_v2",
        "shared_diff, base layer, down layer",
        "shared_diff, base layer, down head",
        "shared_diff, base head, down layer",
        "shared_diff, base head, down head",
    ]
    assert found.chosen.name == "shared_diff, base layer, down layer"
    assert found.chosen.total == sum(parameter_counts(CONFIG.model).values())
    other = replace(CONFIG, model=replace(CONFIG.model, attention="diff_v2", num_kv_heads=2))
    assert plan(other).chosen.total == sum(parameter_counts(other.model).values())


def test_the_rows_of_the_report_hold_every_parameter_once() -> None:
    listed = [part for parts in ROWS.values() for part in parts]
    for size in plan().sizes:
        assert len(listed) == len(set(listed))
        assert set(size.parameters) <= set(listed)


def test_every_kind_is_compared_whatever_the_config_asks_for() -> None:
    for kind in kind_names():
        found = plan(replace(CONFIG, model=replace(CONFIG.model, attention=kind)))
        assert list(found.communication) == list(found.times) == kind_names()


def test_but_those_that_the_topology_cannot_split() -> None:
    odd = replace(CONFIG.model, attention="diff", head_dim=66)  # the one base of a layer is split over it
    found = plan(replace(CONFIG, model=odd, parallel=replace(CONFIG.parallel, tensor=4)))
    assert list(found.times) == ["standard", "diff", "diff_v2"]


def test_the_others_are_grouped_as_the_config_is_as_far_as_their_heads_divide() -> None:
    standard = ModelConfig(attention="standard", num_heads=6, num_kv_heads=4)  # three query heads to each
    groups = {kind.name: with_kind(standard, kind).num_kv_heads for kind in KINDS}
    assert groups == {"standard": 4, "diff": 2, "shared_diff": 2, "diff_v2": 2}
    shared = ModelConfig(num_heads=6, num_kv_heads=2)
    assert {kind.name: with_kind(shared, kind).num_kv_heads for kind in KINDS} == groups
    alone = replace(standard, num_kv_heads=1)  # twelve query heads to one: a pair cannot be cut
    assert {kind.name: with_kind(alone, kind).num_kv_heads for kind in KINDS} == {
        "standard": 1,
        **dict.fromkeys(("diff", "shared_diff", "diff_v2")),
    }


def test_kinds_are_set_side_by_side_in_communication() -> None:
    found = plan().communication
    by_purpose = {kind: {e.purpose: e.whole_bytes for e in exchanges} for kind, exchanges in found.items()}
    assert "shared bases" in by_purpose["shared_diff"]
    assert "shared bases" not in by_purpose["diff"]
    assert by_purpose["shared_diff"]["attention input"] == by_purpose["diff"]["attention input"]
    replicated = "gradients of replicated parameters"
    assert by_purpose["shared_diff"][replicated] > by_purpose["diff"][replicated]
    assert by_purpose["shared_diff"]["gradients"] < by_purpose["diff"]["gradients"]


def test_activation_checkpointing_trades_memory() -> None:
    by_mode = {mode: held.total for mode, held in plan().memory_by_mode.items()}
    assert by_mode["none"] > by_mode["selective"] > by_mode["full"]
    assert by_mode["none"] == plan().memory.total


def test_a_good_plan_needs_no_advice() -> None:
    assert plan().fits
    assert plan().notes() == []


def test_what_does_not_fit_is_said() -> None:
    large = replace(CONFIG, batch=BatchConfig(global_size=32768, micro_size=2048))
    assert not plan(large).fits
    assert plan(large).notes()[0].startswith("does not fit into 92% of H100's memory: raise parallel.tensor")


@pytest.mark.parametrize(
    ("changes", "world_size", "note"),
    [
        ({"batch": BatchConfig(global_size=16, micro_size=4)}, 16, "1 micro-batches cannot fill 2 stages"),
        ({"parallel": ParallelConfig(tensor=4)}, 16, "tensor-parallel groups of 4 span nodes of 2"),
        (
            {"data": DataConfig(sequence_length=512, stages=[StageConfig(from_tokens=10, sequence_length=4096)])},
            16,
            "data.stages go up to 4096 tokens: plan those with --data.sequence_length 4096",
        ),
    ],
)
def test_advice(changes: dict[str, object], world_size: int, note: str) -> None:
    found = make_plan(replace(CONFIG, **changes), world_size, replace(CLUSTER, gpus_per_node=2))  # type: ignore[arg-type]
    assert any(line.startswith(note) for line in found.notes())


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.num_heads: 4 cannot be split over parallel\.tensor 8"):
        plan(replace(CONFIG, parallel=ParallelConfig(tensor=8)))


def test_the_report_begins_with_the_answers() -> None:
    found = plan()
    lines = report(found)
    assert lines[0].startswith("run: shared_diff, base layer, down layer, ")
    assert lines[1].strip().startswith("on      16 x H100: tensor 2 x pipeline 2 x data 4 with sequence parallelism")
    assert f"of 79 GiB on the most loaded device, rank {found.memory.rank}" in "\n".join(lines[:5])
    assert max(len(line) for line in lines) <= 130


def test_one_process_exchanges_nothing_and_says_so() -> None:
    alone = report(plan(replace(CONFIG, parallel=ParallelConfig()), 1))
    assert alone[-1] == "one process: nothing to communicate"


@pytest.mark.parametrize(("layers", "parallel"), [(1024, ParallelConfig()), (256, ParallelConfig(pipeline=32))])
def test_a_plan_of_many_layers_takes_no_time(layers: int, parallel: ParallelConfig) -> None:
    config = RunConfig(model=replace(CONFIG.model, num_layers=layers), parallel=parallel)
    began = time.process_time()
    found = plan(config, parallel.pipeline)
    assert time.process_time() - began < 4
    assert found.chosen.total == sum(parameter_counts(config.model).values())
