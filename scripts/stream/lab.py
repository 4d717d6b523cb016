"""Runs of two nodes that read their tokens from a local disk or from a far store, and what they cost.

In: network namespaces (scripts/scale/links.py), of which the last holds the store; a folder. Out: one Run for each
start. Always: every run is the real command, `python -m pretrain`, with the same settings but for where the tokens lie
and when it is saved; each node has a cache of its own; a killed node is killed with SIGKILL, and both start again.
"""

import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import to_yaml
from data.batch import BatchConfig
from data.config import CacheConfig, DataConfig, SourceConfig
from model.config import ModelConfig
from pretrain.config import CheckpointConfig, MetricsConfig, ParallelConfig, RunConfig, ScheduleConfig, TrainConfig
from pretrain.optimizers.config import OptimizerConfig
from pretrain.step_lines import read_steps
from scripts.data_peers import ours
from scripts.scale.links import Links
from scripts.stream.store import CREDENTIALS, PORT

ROOT = Path(__file__).resolve().parents[2]
NODES = 2
STORE = NODES
"""the store's namespace"""
MASTER_PORT = 29400
LENGTH = 256
"""tokens of a sample, four bytes each"""
BATCH = 64
PAGE, BLOCK = 2048, 128 * 1024
"""a 64th of a block, where it is a 128th at the usual sizes: rounding to pages costs twice as much here"""
WINDOW_BLOCKS = 16
WINDOW = WINDOW_BLOCKS * BLOCK // (4 * LENGTH)
"""samples: 32 steps"""
CACHE = 5e6
"""bytes of each node's: two of its halves of a window, twice over"""
VOCABULARY = 512
WARM_UP = 10
"""steps that are not compared"""
SAVE_EVERY = 20
LONGEST_RUN = 1800.0
POLL = 0.1
MODEL = ModelConfig(
    num_layers=2, hidden_size=96, ffn_hidden_size=256, num_heads=3, head_dim=16, rank=8, vocab_size=VOCABULARY
)


@dataclass(frozen=True)
class Run:
    """What one run cost."""

    name: str
    seconds: tuple[float, ...]
    """of each step after the warm-up"""
    waited: float
    """for data, all steps after the warm-up together"""
    losses: tuple[float, ...]
    used: int
    """bytes of the tokens that were trained on, each once"""
    fetched: int
    """bytes that the store sent in bodies"""
    spoiled: int
    """of them in spoiled answers"""
    sent: int
    """bytes that left the store, as the kernel counts them"""
    faults: dict[str, int]
    cache_peak: int
    """bytes, of the fuller cache"""
    farthest: str
    """how far rank 0 read ahead at most, by its log"""

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


class Store:
    """The server on its own node."""

    def __init__(self, links: Links, corpus: Path, log: Path) -> None:
        with log.open("ab") as errors:
            command = [sys.executable, "-m", "scripts.stream.store", str(corpus)]
            self._process = links.start(STORE, command, {"PYTHONPATH": str(ROOT)}, errors)
        self._log = log
        self.url = str(self._answer()["url"])

    def ask(self, order: str) -> dict[str, Any]:
        """Follows an order; returns the tally."""
        assert self._process.stdin is not None
        print(order, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the store ended; {self._log} tells why")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Lab:
    """Runs with the same settings, one after the other."""

    def __init__(self, links: Links, folder: Path, steps: int) -> None:
        self._links, self._folder, self._steps = links, folder, steps
        self._log = folder / "processes.log"
        self.corpus = folder / "corpus"
        if not self.corpus.exists():
            write_corpus(self.corpus, steps)
        self.store = Store(links, self.corpus, self._log)

    def run(self, name: str, path: str, kill_at: int | None = None) -> Run:
        """Trains on the tokens at ``path``; ``kill_at``: one node dies as soon as this step is done."""
        folder = self._folder / name
        config = run_config(folder, path, self._steps, SAVE_EVERY if kill_at else self._steps)
        folder.mkdir(parents=True)
        (folder / "lab.yaml").write_text(to_yaml(config), encoding="utf-8")
        before, sent = self.store.ask("tally"), self._links.sent()[STORE]
        caches = [folder / f"cache_{node}" for node in range(NODES)]
        with watching(caches) as peak:
            if kill_at is not None:
                self._start_and_kill(folder, config, caches, kill_at)
            for process in self._start(folder, caches):
                process.communicate(timeout=LONGEST_RUN)
                if process.returncode:
                    raise RuntimeError(f"{name}: a node ended with status {process.returncode}; {self._log} tells why")
        after, all_sent = self.store.ask("tally"), self._links.sent()[STORE]
        lines = [line for line in read_steps(config.run_folder / "metrics.jsonl") if "loss" in line]
        counted = [line for line in lines if line["step"] > WARM_UP]
        return Run(
            name=name,
            seconds=tuple(line["step_seconds"] for line in counted),
            waited=sum(line["data_seconds"] for line in counted),
            losses=tuple(line["loss"] for line in lines),
            used=self._steps * BATCH * LENGTH * 4,
            fetched=after["bytes"] - before["bytes"],
            spoiled=after["spoiled_bytes"] - before["spoiled_bytes"],
            sent=all_sent - sent,
            faults={key: count - before["faults"].get(key, 0) for key, count in after["faults"].items()},
            cache_peak=max(peak),
            farthest=_last_told(config.run_folder / "logs" / "rank_0.log"),
        )

    def _start(self, folder: Path, caches: Sequence[Path]) -> list[subprocess.Popen[str]]:
        processes = []
        with self._log.open("ab") as errors:
            for node, cache in enumerate(caches):
                environment = {
                    "RANK": str(node),
                    "LOCAL_RANK": "0",
                    "WORLD_SIZE": str(NODES),
                    "LOCAL_WORLD_SIZE": "1",
                    "MASTER_ADDR": self._links.address(0),
                    "MASTER_PORT": str(MASTER_PORT),
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": str(ROOT),
                    "PYTHONWARNINGS": "ignore",
                    "XDG_CACHE_HOME": str(cache),
                    "AWS_ENDPOINT_URL": f"http://{self._links.address(STORE)}:{PORT}",
                    **CREDENTIALS,
                }
                command = [sys.executable, "-m", "pretrain", "--config", str(folder / "lab.yaml")]
                processes.append(self._links.start(node, command, environment, errors))
        return processes

    def _start_and_kill(self, folder: Path, config: RunConfig, caches: Sequence[Path], step: int) -> None:
        processes = self._start(folder, caches)
        deadline = time.monotonic() + LONGEST_RUN
        while max([line["step"] for line in read_steps(config.run_folder / "metrics.jsonl")], default=0) < step:
            if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                raise RuntimeError(f"{folder.name}: ended before step {step}; {self._log} tells why")
            time.sleep(POLL)
        processes[-1].send_signal(signal.SIGKILL)
        try:
            processes[0].communicate(timeout=60)  # it misses its partner
        except subprocess.TimeoutExpired:
            processes[0].kill()
        for process in processes:
            process.wait()


def write_corpus(folder: Path, steps: int) -> None:
    """Random walks through the vocabulary, so that there is something to learn: one epoch."""
    random = np.random.default_rng(0)
    tokens = steps * BATCH * LENGTH + 1
    values = (np.cumsum(random.integers(1, 4, tokens)) % (VOCABULARY - 1) + 1).astype(np.uint32)
    ends = np.arange(800, tokens + 1, 800)
    values[ends - 1] = ours.EOD
    ours.write(folder, values, ends, PAGE, VOCABULARY)


def run_config(folder: Path, path: str, steps: int, save_every: int) -> RunConfig:
    """The run's settings."""
    cache = CacheConfig(gigabytes=CACHE / 1e9, block_bytes=BLOCK)
    data = DataConfig([SourceConfig(path)], None, LENGTH, shuffle_window=WINDOW, shuffle_by_block=True, cache=cache)
    return RunConfig(
        name="run",
        run_dir=str(folder),
        model=MODEL,
        data=data,
        parallel=ParallelConfig(zero_stage=1),
        batch=BatchConfig(global_size=BATCH, micro_size=BATCH // NODES),
        optimizer=replace(OptimizerConfig(), learning_rate=1e-3),
        schedule=ScheduleConfig(warmup_steps=10),
        train=TrainConfig(steps=steps),
        checkpoint=CheckpointConfig(every=save_every),
        metrics=MetricsConfig(every=1),
    )


@contextmanager
def watching(folders: Sequence[Path]) -> Iterator[list[int]]:
    """The most bytes that were in each folder, looked at all the time."""
    peak, ended = [0 for _ in folders], threading.Event()

    def look() -> None:
        while not ended.wait(POLL / 2):
            for place, folder in enumerate(folders):
                peak[place] = max(peak[place], bytes_in(folder))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder of which others remove some."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return size


def _last_told(log: Path) -> str:
    """The last thing that the reader's log says about how far it reads ahead: the farthest."""
    told = [line for line in log.read_text(encoding="utf-8").splitlines() if "data.lookahead" in line]
    return told[-1].partition("data.lookahead: ")[2] if told else ""
