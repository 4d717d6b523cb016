"""The communication ledger: what a real step exchanges equals the formula, byte for byte, by ranks and operation."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.distributed as dist

from pretrain.config import OptimizerConfig, RunConfig
from pretrain.plan.communication import step_communication
from pretrain.plan.exchange import Totals, totals
from pretrain.plan.ledger import Ledger
from tests.model.helpers import READINGS
from tests.parallel.training import TINY, start_engine, variant
from tests.world import run_world

STEADY = 1
"""steps after which a step exchanges what every later one does"""


@dataclass(frozen=True)
class Step:
    """What one rank exchanges in a step."""

    bytes: Totals
    sums_in_layers: int
    """calls in which tensor-parallel ranks sum what each keeps a part of"""


def count_and_plan(configs: dict[str, RunConfig]) -> dict[str, tuple[Step, Step]]:
    """By case: what this rank exchanged in one steady step, and what the formula says."""
    from megatron.core import parallel_state

    result = {}
    for name, config in configs.items():
        engine, feed = start_engine(config)
        batches = list(feed.steps(0, STEADY + 1))
        for micro_batches in batches[:STEADY]:
            engine.train_step(micro_batches, 1e-3)
        with Ledger() as ledger:
            engine.train_step(batches[STEADY], 1e-3)
        exchanges = step_communication(config, engine.topology, "gloo")
        ranks = engine.topology.ranks("tensor")
        calls = [1 for one in ledger.entries if one.ranks == ranks and one.operation == "reduce_scatter"]
        planned = [one.calls for one in exchanges if one.group == "tensor" and one.operation == "reduce_scatter"]
        counted = Step(ledger.totals(), sum(calls) if len(ranks) > 1 else 0)
        result[name] = counted, Step(totals(exchanges), sum(planned))
        parallel_state.destroy_model_parallel()
    return result


def split(**parallel: object) -> RunConfig:
    return variant(parallel={"zero_stage": 1, **parallel}, batch={"micro_size": 2})


def bf16(config: RunConfig) -> RunConfig:
    return replace(config, train=replace(config.train, precision="bf16"))


def zero3(persistence: int, reuse: int, prefetch: int, live: int = 10**9) -> RunConfig:
    limits = {
        "stage3_param_persistence_threshold": persistence,
        "stage3_max_reuse_distance": reuse,
        "stage3_prefetch_bucket_size": prefetch,
        "stage3_max_live_parameters": live,
    }
    return replace(split(zero_stage=3), deepspeed={"zero_optimization": limits})


def with_model(config: RunConfig, **model: object) -> RunConfig:
    return replace(config, model=replace(config.model, **model))


def recomputing(config: RunConfig, mode: str) -> RunConfig:
    return replace(config, train=replace(config.train, activation_checkpointing=mode))


def kernel(config: RunConfig) -> RunConfig:
    """With a form of attention that keeps more than its inputs, unless it is recomputed."""
    return replace(config, train=replace(config.train, attention_form="sdpa"))


def heads(**parallel: object) -> RunConfig:
    return split(context=2, context_exchange="heads", **parallel)


ODD = {"hidden_size": 35, "ffn_hidden_size": 66, "vocab_size": 99, "rank": 5}  # nothing divides evenly
KINDS = {
    **{f"shared_diff {base} {down}": {"base": base, "down": down} for base, down in READINGS},
    **{kind: {"attention": kind} for kind in ("diff", "standard", "diff_v2")},
    "untied, no head norm": {"tie_embeddings": False, "head_norm": False},
}
MUON = OptimizerConfig(kind="muon")
DOCUMENTS = replace(TINY.data, document_attention=True)
WORLDS: dict[str, tuple[int, dict[str, RunConfig]]] = {
    "tp2": (
        2,
        {
            "shared_diff": split(tensor=2),
            "diff": with_model(split(tensor=2), attention="diff"),
            "zero0": split(tensor=2, zero_stage=0),
            "zero2, full recompute": recomputing(split(tensor=2, zero_stage=2), "full"),
            "bf16": bf16(split(tensor=2)),
            "muon": replace(split(tensor=2, zero_stage=0), optimizer=MUON),
        },
    ),
    "tp2-sp": (
        2,
        {
            **{name: with_model(split(tensor=2, sequence=True), **model) for name, model in KINDS.items()},
            "outputs in 3 pieces, full recompute": recomputing(split(tensor=2, sequence=True, row_pieces=3), "full"),
            "zero3": split(tensor=2, sequence=True, zero_stage=3),
            "zero3, full recompute": recomputing(split(tensor=2, sequence=True, zero_stage=3), "full"),
        },
    ),
    "cp2": (
        2,
        {
            "keys and values in pieces of 2, 1 and 1 heads": split(context=2, context_pieces=3),
            "standard, more pieces than heads": with_model(
                split(context=2, context_pieces=9, zero_stage=0), attention="standard", num_kv_heads=2
            ),
            "the product recomputed": recomputing(kernel(split(context=2, context_pieces=3)), "selective"),
            "blocks recomputed, diff": with_model(recomputing(split(context=2), "full"), attention="diff"),
            "zero3, documents": replace(split(context=2, zero_stage=3), data=DOCUMENTS),
            "muon": replace(split(context=2), optimizer=MUON),
            "heads": heads(),
            "heads, weights of each token": with_model(heads(), attention="diff_v2"),
            "heads, the product recomputed": with_model(
                recomputing(kernel(heads()), "selective"), attention="diff_v2", num_kv_heads=2
            ),
            "heads, bf16, blocks recomputed": bf16(recomputing(heads(), "full")),
        },
    ),
    "tp2-cp2": (
        4,
        {
            "sequence": split(tensor=2, context=2, sequence=True),
            "sequence, heads, blocks recomputed": recomputing(heads(tensor=2, sequence=True), "full"),
        },
    ),
    "cp2-pp2-dp2": (8, {"in pairs": split(context=2, pipeline=2, partition_ranks=2)}),
    "dp2": (
        2,
        {
            **{f"zero{stage}": with_model(split(zero_stage=stage), **ODD) for stage in range(4)},
            **{f"zero{stage} bf16": bf16(with_model(split(zero_stage=stage), **ODD)) for stage in (1, 2, 3)},
            "zero1 muon": replace(with_model(split(zero_stage=1), **ODD), optimizer=MUON),
            "zero2 bf16 muon": replace(bf16(with_model(split(zero_stage=2), **ODD)), optimizer=MUON),
            "zero2 bf16, gradients in bf16": bf16(split(zero_stage=2, gradient_exchange="bf16")),
        },
    ),
    "dp4": (
        4,
        {
            f"zero{stage} in pairs": with_model(split(zero_stage=stage, partition_ranks=2, bucket_megabytes=1), **ODD)
            for stage in (1, 2)
        },
    ),
    "dp2-zero3": (
        2,
        {
            "everything is kept": zero3(persistence=100, reuse=10**9, prefetch=5 * 10**7),
            "nothing is kept, untied, odd sizes": with_model(zero3(0, 0, 0), tie_embeddings=False, **ODD),
            "some is kept": zero3(persistence=100, reuse=20_000, prefetch=0),
            "prefetch up to a limit, diff": with_model(zero3(100, 3_000, 2_000, live=12_000), attention="diff"),
            "nothing is kept, full recompute": recomputing(zero3(0, 0, 0), "full"),
            "prefetch up to a limit, full recompute": recomputing(zero3(100, 3_000, 2_000, live=12_000), "full"),
        },
    ),
    "pp2": (
        2,
        {
            "untied": with_model(split(pipeline=2), tie_embeddings=False),
            "zero0": split(pipeline=2, zero_stage=0),
            "documents": replace(split(pipeline=2), data=DOCUMENTS),
        },
    ),
    "tp2-pp2-dp2": (
        8,
        {
            "bf16": bf16(split(tensor=2, pipeline=2)),
            "muon": replace(split(tensor=2, pipeline=2), optimizer=MUON),
            "sequence, documents": replace(split(tensor=2, pipeline=2, sequence=True), data=DOCUMENTS),
        },
    ),
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_real_step_exchanges_what_the_formula_says(world: str) -> None:
    size, configs = WORLDS[world]
    for rank, cases in enumerate(run_world(size, count_and_plan, configs)):
        for name, (counted, planned) in cases.items():
            assert counted == planned, f"{name}, rank {rank}"
            assert counted.bytes, f"{name}: a step of {size} processes exchanges something"


def exchange_everything() -> Totals:
    """One call of each operation, 8 bytes per rank and call."""
    dist.init_process_group("gloo")
    own, both = torch.zeros(2), torch.zeros(4)
    with Ledger() as ledger:
        dist.all_reduce(own)
        dist.all_gather([torch.zeros(2), torch.zeros(2)], own)
        dist.all_gather_into_tensor(both, own)
        dist.reduce_scatter_tensor(own, both)
        dist.broadcast(own, src=0)
        if dist.get_rank() == 0:
            dist.send(own, dst=1)
            dist.all_to_all_single(both, own, [1, 3], [1, 1])
        else:
            dist.recv(own, src=0)
            dist.all_to_all_single(own, both, [1, 1], [3, 1])
        dist.all_reduce(own, group=dist.new_group([dist.get_rank()], use_local_synchronization=True))
    return ledger.totals()


def count_the_unknown() -> None:
    dist.init_process_group("gloo")
    with Ledger():
        dist.barrier()


def test_every_operation_is_counted_with_its_whole_tensor_and_its_ranks() -> None:
    everyone = {
        ((0, 1), "all_reduce"): 8,
        ((0, 1), "all_gather"): 16 + 16,
        ((0, 1), "reduce_scatter"): 16,
        ((0, 1), "all_to_all"): 16,
        ((0, 1), "broadcast"): 8,
    }
    first, second = run_world(2, exchange_everything)
    assert first == {**everyone, ((0, 1), "send"): 8}
    assert second == {**everyone, ((1, 0), "receive"): 8}


def test_what_the_ledger_does_not_know_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the ledger does not know the operation c10d::barrier"):
        run_world(1, count_the_unknown)
