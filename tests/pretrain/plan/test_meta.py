"""Every shard of a model is built on the meta device and they make up the model, for each config that ships."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from common.cli import parse_config
from model.config import ModelConfig
from pretrain.config import ParallelConfig, RunConfig
from pretrain.plan.layers import elements_per_rank, stage_parameters
from pretrain.plan.meta import BuiltParameter, build_stages, shape_problems
from pretrain.topology import plan_topology, replica_size
from tests.model.helpers import READINGS

CONFIGS = sorted(Path("configs").glob("*.yaml"))
SMALL = ModelConfig(num_layers=4, hidden_size=48, ffn_hidden_size=64, num_heads=4, head_dim=8, rank=6, vocab_size=128)
KINDS = {
    **{kind: replace(SMALL, attention=kind) for kind in ("standard", "diff", "diff_v2")},
    **{f"shared_diff {base} {down}": replace(SMALL, base=base, down=down) for base, down in READINGS},
    "untied": replace(SMALL, tie_embeddings=False),
}


def planned_elements(config: RunConfig, world_size: int, stage: int) -> int:
    topology = plan_topology(config.parallel, world_size).at(pipeline=stage)
    parameters = stage_parameters(config, topology)
    return sum(elements_per_rank(info, topology.tensor_size) for info in parameters)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds_and_its_shards_make_up_the_model(path: Path) -> None:
    config = parse_config(RunConfig, ["--config", str(path)], "test")
    world_size = replica_size(config.parallel) * 2
    stages = build_stages(config, world_size)
    assert len(stages) == config.parallel.tensor * config.parallel.pipeline
    assert list(shape_problems(config, stages)) == []
    for built in stages:
        assert built.elements == planned_elements(config, world_size, built.stage)
        assert any(layer.startswith("blocks.") for layer in built.layers)
    assert not dist.is_initialized()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sequence", [False, True], ids=["", "sequence"])
def test_planned_parameters_are_those_that_are_built(kind: str, sequence: bool) -> None:
    config = RunConfig(model=KINDS[kind], parallel=ParallelConfig(tensor=2, pipeline=3, sequence=sequence))
    stages = build_stages(config, 6)
    assert list(shape_problems(config, stages)) == []
    for built in stages:
        planned = stage_parameters(config, plan_topology(config.parallel, 6, rank=2 * built.stage))
        assert planned == [parameter.info for parameter in built.parameters.values()]


def test_a_tied_embedding_is_on_the_first_and_on_the_last_stage() -> None:
    config = RunConfig(model=SMALL, parallel=ParallelConfig(pipeline=3))
    homes = [built.stage for built in build_stages(config, 3) if "embedding.weight" in built.parameters]
    assert homes == [0, 2]


def test_shards_that_do_not_make_up_the_model_are_named() -> None:
    config = RunConfig(model=SMALL, parallel=ParallelConfig(tensor=2, pipeline=2))
    stages = build_stages(config, 4)
    first, second, third = stages[0].parameters, stages[1].parameters, stages[2].parameters
    value = first["blocks.0.attention.value.weight"]
    first["blocks.0.attention.value.weight"] = BuiltParameter(value.info, (31, 48))
    first["blocks.1.attention.query_up"] = BuiltParameter(first["blocks.1.attention.query_up"].info, (4, 2, 8, 5))
    del first["blocks.0.ffn_norm.weight"], second["blocks.0.ffn_norm.weight"]
    third["blocks.0.ffn.up.weight"] = first["blocks.0.ffn.up.weight"]
    first["blocks.9.ffn.up.weight"] = first["blocks.0.ffn.up.weight"]
    assert list(shape_problems(config, stages)) == [
        "blocks.0.attention.value.weight on stage 0: shards [(31, 48), (32, 48)] do not make up (64, 48)",
        "blocks.0.ffn.up.weight is on stages [0, 1]",
        "blocks.0.ffn.up.weight on stage 1: shards [(32, 48)] do not make up (64, 48)",
        "blocks.0.ffn_norm.weight is on no stage",
        "blocks.1.attention.query_up on stage 0: shards [(4, 2, 8, 5), (4, 2, 8, 6)] do not make up (4, 2, 8, 6)",
        "blocks.9.ffn.up.weight is on a stage, but not in the model",
    ]
