"""Writes checkpoints that are whole or absent, in the background, by all ranks at once.

In: the local fragments of every rank and the trainer's state. Out: `checkpoints/step_00000100/` and `latest`.

How a save goes: every rank copies its fragments to host memory (training waits for this only), then in the background
writes `rank_R.bin` into a temporary folder, flushes it, reads it back against the checksums and leaves an index beside
it. Rank 0 waits for all indexes, writes `manifest.json`, renames the folder and replaces `latest`.

Always: a folder named `step_N` is whole; at most one save is under way; a failed save leaves the older ones untouched.
"""

import contextlib
import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from common.files import TEMPORARY_SUFFIX, flush_file, flush_folder, write_atomically
from common.urls import without_credentials
from pretrain.checkpoint.layout import (
    POINTER,
    Fragment,
    Manifest,
    TensorLayout,
    checksum,
    rank_file,
    step_folder,
    write_manifest,
)
from pretrain.checkpoint.notes import FAILED, NOTE, collect_notes, leave_note, wait_for_commit
from pretrain.checkpoint.remote import RemoteCheckpoints
from pretrain.checkpoint.retention import Retention, remove_leftovers, retire
from pretrain.checkpoint.staging import staged_file
from pretrain.checkpoint.state import LocalFragment
from pretrain.checkpoint.upload import Uploads
from pretrain.config import RunConfig
from pretrain.evaluation_job import EvaluationJob
from pretrain.topology import Topology


@dataclass(frozen=True)
class CheckpointFacts:
    """What rank 0 writes beside the parameters."""

    step: int
    config: dict[str, Any]
    state: dict[str, Any]
    topology: str


@dataclass(frozen=True)
class WriterSettings:
    """How and where a run saves."""

    retention: Retention
    asynchronous: bool = True
    staging: Path | None = None
    """node-local folder for the first copy of every file"""
    remote: RemoteCheckpoints | None = None
    timeout_seconds: float = 3600.0
    """how long rank 0 waits for the other ranks' files"""
    patience_seconds: float = 900.0
    """how long a save waits for the remote copy of the one before, whose store may not answer"""
    job: EvaluationJob | None = None
    """started for every checkpoint that is whole"""


def writer_settings(
    config: RunConfig, run_id: str, staging: Path | None = None, tokens_at: Callable[[int], int] | None = None
) -> WriterSettings:
    """What a run's config says about saving.

    Args:
        run_id: whose remote folder it is (``join_remote``).
        staging: this run's own part of `checkpoint.staging` (``open_staging``).
        tokens_at: tells the tokens of the first so many steps.
    """
    settings, hang_seconds = config.checkpoint, config.resilience.hang_seconds
    return WriterSettings(
        retention=Retention(settings.keep, settings.keep_every, settings.keep_tokens, tokens_at),
        asynchronous=settings.asynchronous,
        staging=staging,
        remote=RemoteCheckpoints(settings.remote, run_id) if settings.remote else None,
        # The watchdog must not take a store that does not answer for a hang.
        patience_seconds=hang_seconds / 2 if hang_seconds > 0 else WriterSettings.patience_seconds,
        job=EvaluationJob(config.evaluation.command, config.run_folder) if config.evaluation.command else None,
    )


@dataclass(frozen=True)
class _Snapshot:
    """A rank's part, copied to host memory."""

    fragments: list[tuple[LocalFragment, np.ndarray]]
    facts: CheckpointFacts
    temporary: Path


class CheckpointWriter:
    """Saves the training state of one run; every rank holds one and calls it at the same steps."""

    def __init__(self, checkpoints: Path, topology: Topology, settings: WriterSettings) -> None:
        self._checkpoints = checkpoints
        self._topology = topology
        self._settings = settings
        self._uploads: Uploads | None = None
        if settings.remote is not None:
            self._uploads = Uploads(settings.remote, topology.rank, topology.world_size, settings.patience_seconds)
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._temporary: Path | None = None
        self._buffer: np.ndarray | None = None

    def save(self, fragments: Sequence[LocalFragment], facts: CheckpointFacts) -> str | None:
        """Starts a save and returns why the save before failed, or None; the answer is equal on all ranks.

        Waits for the save before. Synchronous writers return this save's own outcome.
        """
        failure = self.wait()
        temporary = self._temporary = self._checkpoints / self._temporary_name(facts.step)
        if self._topology.is_main:
            with contextlib.suppress(OSError):
                remove_leftovers(self._checkpoints)
            with contextlib.suppress(OSError):  # a rank that cannot write says so in the background
                temporary.mkdir(parents=True, exist_ok=True)
        _barrier(self._topology)
        snapshot = _Snapshot(self._copy(fragments), facts, temporary)
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=False)
        self._thread.start()
        return failure if self._settings.asynchronous else self.wait()

    def wait(self) -> str | None:
        """Waits for the save under way; returns why it failed on any rank, or None."""
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        if self._uploads is not None:
            self._uploads.wait()
        failures: list[str | None] = [None] * self._topology.world_size
        if self._topology.world_size > 1:
            dist.all_gather_object(failures, self._failure)
        else:
            failures = [self._failure]
        self._failure = None
        told = [failure for failure in failures if failure]
        if told and self._topology.is_main and self._temporary is not None:  # no rank writes there any more
            shutil.rmtree(self._temporary, ignore_errors=True)
        return told[-1] if told else None  # rank 0 only repeats that another rank failed

    def _temporary_name(self, step: int) -> str:
        """Equal on all ranks and never used before, so that leftovers of a killed save cannot mix in."""
        token = [f"{time.time_ns():x}"]
        if self._topology.world_size > 1:
            dist.broadcast_object_list(token, src=0)
        return f"{step_folder(self._checkpoints, step).name}.{token[0]}{TEMPORARY_SUFFIX}"

    def _copy(self, fragments: Sequence[LocalFragment]) -> list[tuple[LocalFragment, np.ndarray]]:
        """Copies what this rank writes into one host buffer, which later saves use again."""
        written = [fragment for fragment in fragments if fragment.written.stop > fragment.written.start]
        total = sum(fragment.written.stop - fragment.written.start for fragment in written)
        if self._buffer is None or self._buffer.size != total:
            self._buffer = np.empty(total, dtype=np.float32)
        target = torch.from_numpy(self._buffer)
        copies, offset = [], 0
        for fragment in written:
            numel = fragment.written.stop - fragment.written.start
            target[offset : offset + numel].copy_(fragment.values[fragment.written], non_blocking=True)
            copies.append((fragment, self._buffer[offset : offset + numel]))
            offset += numel
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copies

    def _write(self, snapshot: _Snapshot) -> None:
        """The background thread; what fails here is told by the next ``wait``."""
        rank, step = self._topology.rank, snapshot.facts.step
        try:
            index = self._write_file(snapshot.temporary / rank_file(rank), snapshot)
            leave_note(snapshot.temporary, rank, index)
            if self._topology.is_main:
                self._commit(snapshot)
        except Exception as error:
            self._failure = f"checkpoint of step {step} failed on rank {rank}: {without_credentials(str(error))}"
            with contextlib.suppress(OSError):  # room for other files; an empty one often fits where content does not
                (snapshot.temporary / rank_file(rank)).unlink(missing_ok=True)
                (snapshot.temporary / rank_file(rank, FAILED)).touch()
            return
        try:
            self._follow(snapshot)
        except Exception as error:  # the checkpoint is whole, whatever becomes of the rest
            print(f"WARNING: after the save of step {step}: {without_credentials(str(error))}", flush=True)

    def _write_file(self, file: Path, snapshot: _Snapshot) -> dict[str, Any]:
        """Writes this rank's part, by way of the staging folder where one is set."""
        staging = self._settings.staging
        if staging is None:
            index = _write_fragments(file, snapshot.fragments)
        else:
            with staged_file(staging, file.name) as first:
                index = _write_fragments(first, snapshot.fragments)
                shutil.copyfile(first, file)
                flush_file(file)
                _read_back(file, [Fragment(*fragment) for fragment in index["fragments"]])
        return index

    def _commit(self, snapshot: _Snapshot) -> None:
        deadline = time.monotonic() + self._settings.timeout_seconds
        indexes = collect_notes(
            snapshot.temporary,
            self._topology.world_size,
            "have written their part",
            given_up=lambda: time.monotonic() > deadline,
        )
        tensors: dict[str, TensorLayout] = {}
        fragments: list[Fragment] = []
        files: dict[str, int] = {}
        for index in indexes:
            files[index["file"]] = index["bytes"]
            for name, layout in index["tensors"].items():
                tensors[name] = TensorLayout(tuple(layout["shape"]), layout["shard_dim"], layout["tensor_size"])
            fragments += [Fragment(*fragment) for fragment in index["fragments"]]
        facts = snapshot.facts
        write_manifest(
            snapshot.temporary,
            Manifest(facts.step, facts.config, facts.state, facts.topology, tensors, tuple(fragments), files),
        )
        for leftover in snapshot.temporary.glob(f"rank_*.{NOTE}"):
            leftover.unlink()
        final = step_folder(self._checkpoints, facts.step)
        replaced = final.with_name(f"{snapshot.temporary.name}.replaced{TEMPORARY_SUFFIX}")
        if final.exists():  # a damaged one that a resume passed over
            final.rename(replaced)
        flush_folder(snapshot.temporary)
        snapshot.temporary.rename(final)
        flush_folder(self._checkpoints)
        write_atomically(self._checkpoints / POINTER, final.name + "\n")
        shutil.rmtree(replaced, ignore_errors=True)

    def _follow(self, snapshot: _Snapshot) -> None:
        """After a checkpoint: the user's own evaluation begins, older checkpoints go, and the remote copy begins."""
        final, expired = step_folder(self._checkpoints, snapshot.facts.step), []
        if self._topology.is_main:
            if self._settings.job is not None:
                self._settings.job.start(final, snapshot.facts.step)
            expired = retire(self._checkpoints, self._settings.retention)
        if self._uploads is not None and wait_for_commit(snapshot.temporary, self._settings.timeout_seconds):
            notes = snapshot.temporary.with_name(f"{snapshot.temporary.name}.uploads{TEMPORARY_SUFFIX}")
            self._uploads.begin(final, notes, expired)


def _write_fragments(path: Path, fragments: Sequence[tuple[LocalFragment, np.ndarray]]) -> dict[str, Any]:
    """Writes one rank's file and reads it back; returns its index."""
    records, tensors, offset = [], {}, 0
    with path.open("xb") as file:  # the folder is new: whatever has this name was put there by another
        for fragment, values in fragments:
            start = fragment.start + fragment.written.start
            digest = checksum(values)
            record = Fragment(
                fragment.name, fragment.kind, fragment.tensor_rank, start, values.size, path.name, offset, digest
            )
            file.write(values.view(np.uint8).data)
            records.append(record)
            tensors[fragment.name] = dataclasses.asdict(fragment.layout)
            offset += record.bytes
        file.flush()
        os.fsync(file.fileno())
    _read_back(path, records)
    return {
        "file": path.name,
        "bytes": offset,
        "tensors": tensors,
        "fragments": [list(dataclasses.astuple(record)) for record in records],
    }


def _read_back(path: Path, records: Sequence[Fragment]) -> None:
    with path.open("rb") as file:
        for record in records:
            if checksum(file.read(record.bytes)) != record.checksum:
                raise OSError(f"{path}: what was written for {record.name} does not read back")


def _barrier(topology: Topology) -> None:
    if topology.world_size > 1:
        dist.barrier()
