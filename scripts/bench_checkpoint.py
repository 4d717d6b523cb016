"""`torchrun --nproc-per-node 2 scripts/bench_checkpoint.py [--folder DIR]`: checkpoints against DeepSpeed's own.

In: two data-parallel processes under ZeRO-1, a Shared DIFF model of about 22M parameters, a folder on the disk to be
measured. Out: one table: how long training stands still per save, bytes per parameter, save and load bandwidth
against `dd` on the same disk and against DeepSpeed's save_checkpoint and ds_to_universal.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from common.cli import run_command
from common.flags import FlagParser
from data.batch import BatchConfig
from model.config import ModelConfig
from model.counts import parameter_counts
from pretrain.config import ParallelConfig, RunConfig
from pretrain.engines.accelerator import choose_accelerator

STEPS = 6


def main(arguments: list[str]) -> int:
    """Prints the table on rank 0."""
    parser = FlagParser(prog="scripts/bench_checkpoint.py", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build"), help="on the disk to measure")
    folder: Path = parser.parse_args(arguments).folder / "bench_checkpoint"  # of its own: it is emptied
    choose_accelerator()
    from pretrain.engines.connection import connect, disconnect
    from pretrain.topology import topology_from_environment

    torch.set_num_threads(1)
    model = ModelConfig(hidden_size=512, ffn_hidden_size=1408, num_heads=4, head_dim=64, rank=64, num_layers=6)
    config = RunConfig(model=model, parallel=ParallelConfig(zero_stage=1), batch=BatchConfig(2, 1))
    topology = topology_from_environment(config.parallel)
    connect(topology)
    if topology.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dist.barrier()
    rows = _measure(config, folder)
    if topology.is_main:
        print("\n".join(f"{name:<58}{value}" for name, value in rows))
        shutil.rmtree(folder)
    disconnect()
    return 0


def _measure(config: RunConfig, folder: Path) -> list[tuple[str, str]]:
    from pretrain.build import build_model
    from pretrain.checkpoint.layout import step_folder
    from pretrain.checkpoint.reader import CheckpointReader
    from pretrain.checkpoint.resume import load
    from pretrain.checkpoint.retention import Retention
    from pretrain.checkpoint.state import local_fragments
    from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter, WriterSettings
    from pretrain.engines.build import build_engine
    from pretrain.engines.micro_batch import MicroBatch
    from pretrain.topology import topology_from_environment

    topology = topology_from_environment(config.parallel)
    layers = build_model(config, topology)
    engine = build_engine(config, topology, layers, judge=lambda loss, norm: True)
    tokens = torch.randint(0, config.model.vocab_size, (1, 257), generator=torch.Generator().manual_seed(1))
    batch = MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    def steps() -> None:
        for _ in range(STEPS):
            engine.train_step([batch], 1e-4)

    steps()
    plain = _seconds(steps)
    background = CheckpointWriter(folder / "background", topology, WriterSettings(Retention(1, 0, 0)))
    waiting = CheckpointWriter(folder / "waiting", topology, WriterSettings(Retention(1, 0, 0), asynchronous=False))

    def save(writer: CheckpointWriter) -> None:
        writer.save(list(local_fragments(engine)), CheckpointFacts(1, {}, {}, topology.describe()))

    save(background)  # the first one allocates its buffer
    background.wait()
    stall = _seconds(lambda: save(background))
    with_save = _seconds(steps)
    background.wait()
    whole = _seconds(lambda: save(waiting))
    reader = CheckpointReader(step_folder(folder / "waiting", 1))
    size = sum(reader.manifest.files.values())

    def verify_and_load() -> None:
        fresh = CheckpointReader(reader.folder)
        fresh.verify(topology.rank, topology.world_size)
        load(engine, fresh, applied_steps=1)

    loading = _seconds(verify_and_load)
    theirs = _seconds(lambda: _quietly(lambda: engine.deepspeed.save_checkpoint(str(folder / "theirs"), tag="t")))
    their_size = sum(path.stat().st_size for path in (folder / "theirs").rglob("*") if path.is_file())
    universal = _seconds(lambda: _to_universal(folder) if topology.is_main else None)
    disk = _seconds(lambda: _dd(folder, size) if topology.is_main else None)
    parameters = sum(parameter_counts(config.model).values())
    mega = size / 1e6
    return [
        ("parameters", f"{parameters:,}"),
        ("bytes per parameter, ours / DeepSpeed's", f"{size / parameters:.2f} / {their_size / parameters:.2f}"),
        ("stall per asynchronous save, as a share of one step", f"{stall / (plain / STEPS):.2f}"),
        (f"{STEPS} steps while saving, as a ratio to without", f"{with_save / plain:.2f}"),
        ("dd of as many bytes with fsync, MB/s", f"{mega / disk:,.0f}"),
        ("save with read-back and fsync, MB/s (ratio to dd)", f"{mega / whole:,.0f} ({disk / whole:.2f})"),
        ("verify and load, MB/s", f"{mega / loading:,.0f}"),
        ("DeepSpeed save_checkpoint, as a ratio to our save", f"{theirs / whole:.2f}"),
        ("DeepSpeed save + ds_to_universal, as a ratio to our save", f"{(theirs + universal) / whole:.2f}"),
    ]


def _seconds(action: Callable[[], object]) -> float:
    """Of ``action``, until the last rank has ended it."""
    dist.barrier()
    start = time.perf_counter()
    action()
    dist.barrier()
    return time.perf_counter() - start


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        action()


def _to_universal(folder: Path) -> None:
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    paths = ["--input_folder", str(folder / "theirs" / "t"), "--output_folder", str(folder / "universal")]
    environment = {key: value for key, value in os.environ.items() if key not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}}
    subprocess.run([*command, *paths], check=True, capture_output=True, env=environment)


def _dd(folder: Path, size: int) -> None:
    blocks = [f"of={folder / 'dd'}", "bs=1M", f"count={size >> 20}", "conv=fsync"]
    subprocess.run(["dd", "if=/dev/zero", *blocks], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
