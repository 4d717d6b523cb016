"""The host never waits for the device while a step's work is handed out: what is read, it reads at the end."""

from collections import Counter
from dataclasses import replace

import torch

from model.kinds.registry import kind_names
from model.recorder import Recorder
from pretrain.config import RunConfig
from tests.device_reads import DeviceReads
from tests.parallel.training import TINY, start_engine, variant
from tests.world import run_world

OURS = 2
"""reads per step by the engine's own code, after the last backward pass: loss and gradient norm"""
ONE_READ = ("ZeRO 1", "ZeRO 1, bf16", "ZeRO 2", "tensor", "pipeline", "context", "context, heads")
"""where both travel together and are read at once, and nobody else reads"""
DEEPSPEED = {
    "deepspeed/runtime/utils.py:is_invalid_grad_norm",
    "deepspeed/runtime/utils.py:clip_tensors_by_global_norm",
    "deepspeed/runtime/zero/stage_1_and_2.py:has_overflow",
}
"""where DeepSpeed's own step reads, after the last backward pass as well"""


def split(precision: str = "fp32", **parallel: object) -> RunConfig:
    config = variant(parallel=parallel, batch={"micro_size": 2})
    return replace(config, train=replace(config.train, precision=precision))


def with_documents(config: RunConfig) -> RunConfig:
    return replace(config, data=replace(config.data, document_attention=True))


def reads_of_a_step(configs: dict[str, RunConfig]) -> dict[str, Counter[tuple[str, str]]]:
    """What this rank read in one steady, recorded step, by case."""
    from megatron.core import parallel_state

    found = {}
    for name, config in configs.items():
        recorder = Recorder()
        engine, feed = start_engine(config, recorder)
        *before, last = feed.steps(0, 3)
        for micro_batches in before:
            engine.train_step(micro_batches, 1e-3)
        recorder.open()
        with DeviceReads() as reads:
            engine.train_step(last, 1e-3)
        assert recorder.close()
        found[name] = reads.seen
        parallel_state.destroy_model_parallel()
    return found


def test_a_step_reads_loss_and_gradient_norm_and_nothing_else() -> None:
    configs = {
        **{kind: replace(split(zero_stage=0), model=replace(TINY.model, attention=kind)) for kind in kind_names()},
        "ZeRO 1": split(zero_stage=1),
        "ZeRO 1, bf16": split("bf16", zero_stage=1),
        "ZeRO 2": split("bf16", zero_stage=2),
        "ZeRO 3": split(zero_stage=3),
        "tensor": split("bf16", zero_stage=1, tensor=2),
        "sequence": split(zero_stage=0, tensor=2, sequence=True),
        "pipeline": split("bf16", zero_stage=1, pipeline=2),
        "context": split("bf16", zero_stage=1, context=2),
        "context, heads": split("bf16", zero_stage=1, context=2, context_exchange="heads"),
    }
    for reads_by_case in run_world(2, reads_of_a_step, {name: with_documents(c) for name, c in configs.items()}):
        for name, reads in reads_by_case.items():
            own = {read: count for read, count in reads.items() if read[0] not in DEEPSPEED}
            assert all(place.startswith("pretrain/engines/") for place, _ in own), f"{name}: {own}"
            if name in ONE_READ:
                assert reads == {("pretrain/engines/exchange.py:loss_and_norm", "tolist"): 1}, f"{name}: {reads}"
            assert 0 < sum(own.values()) <= OURS, f"{name}: {own}"


def test_reads_are_found_and_told_where_they_are() -> None:
    x = torch.tensor([1.0, 0.0])
    with DeviceReads() as reads:
        float(x[0])
        bool(x[1])
        x.tolist()
        x.nonzero()
        x[x > 0]
        x[x > 0] = 2.0  # a masked fill
        x.sum().item()
    here = "tests/parallel/test_device_reads.py:test_reads_are_found_and_told_where_they_are"
    assert reads.seen == {
        (here, "_local_scalar_dense"): 3,
        (here, "tolist"): 1,
        (here, "nonzero"): 1,
        (here, "index"): 1,
    }
