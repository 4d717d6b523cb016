"""Checkpoints in a remote folder: anything that fsspec writes (s3://, gs://, hdfs://, file://).

In: a folder's URL. Out: the same layout as on the local disk: `step_N/rank_R.bin`, `step_N/manifest.json`, `latest`.
Always: a remote checkpoint exists from the moment its manifest does, and the manifest comes after every other file;
what is fetched is checked against the manifest before it takes its name.
"""

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from common.errors import InputError, named
from common.files import TEMPORARY_SUFFIX, flush_folder
from common.remote_files import open_remote
from common.urls import without_credentials
from pretrain.checkpoint.layout import MANIFEST, POINTER, is_step_name, list_steps, step_folder
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from pretrain.topology import Topology

COPY_BYTES = 16 << 20


class RemoteCheckpoints:
    """The checkpoints folder of a run at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = without_credentials(url).rstrip("/")
        with named("checkpoint.remote"):
            self._files, self._root = open_remote(url.rstrip("/"))

    def put(self, file: Path, step_name: str) -> None:
        """Uploads one rank's file of a checkpoint that has no manifest yet."""
        self._files.makedirs(f"{self._root}/{step_name}", exist_ok=True)
        with file.open("rb") as source, self._files.open(f"{self._root}/{step_name}/{file.name}", "wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    def commit(self, folder: Path) -> None:
        """Uploads the manifest, which makes the checkpoint exist, then the pointer to it."""
        self.put(folder / MANIFEST, folder.name)
        self._files.pipe_file(f"{self._root}/{POINTER}", f"{folder.name}\n".encode())

    def remove(self, step: int) -> None:
        """Removes a checkpoint, its manifest first."""
        name = step_folder(Path(), step).name
        for path in (f"{self._root}/{name}/{MANIFEST}", f"{self._root}/{name}"):
            if self._files.exists(path):
                self._files.rm(path, recursive=True)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that exist, ascending."""
        if not self._files.exists(self._root):
            return []
        names = [Path(entry).name for entry in self._files.ls(self._root, detail=False)]
        whole = [name for name in names if is_step_name(name) and self._exists(name)]
        return sorted(int(name.removeprefix("step_")) for name in whole)

    def fetch(self, step: int, checkpoints: Path) -> Path:
        """Downloads a checkpoint into the local folder ``checkpoints``.

        Raises:
            InputError: what came does not match its manifest; nothing is left behind.
        """
        final = step_folder(checkpoints, step)
        temporary = final.with_name(f"{final.name}.fetched{TEMPORARY_SUFFIX}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for entry in self._files.ls(f"{self._root}/{final.name}", detail=False):
                self._get(entry, temporary / Path(entry).name)
            CheckpointReader(temporary).verify()
            flush_folder(temporary)
            temporary.rename(final)
        except (InputError, OSError) as error:
            raise InputError(f"checkpoint.remote: {self.url}/{final.name} cannot be used: {error}") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def _get(self, remote: Any, path: Path) -> None:
        with self._files.open(remote, "rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    def _exists(self, name: str) -> bool:
        return bool(self._files.exists(f"{self._root}/{name}/{MANIFEST}"))


def fetch_first(config: RunConfig, topology: Topology) -> None:
    """Gives a run folder without any checkpoint the newest remote one that is whole.

    A run folder that has one goes on from that: it may have been rolled back on purpose.
    """
    checkpoints = config.run_folder / "checkpoints"
    if config.checkpoint.remote is None or list_steps(checkpoints):
        return
    if topology.is_main:
        _fetch_newest(RemoteCheckpoints(config.checkpoint.remote), checkpoints)
    dist.barrier()


def _fetch_newest(remote: RemoteCheckpoints, checkpoints: Path) -> None:
    for step in reversed(remote.steps()):
        try:
            remote.fetch(step, checkpoints)
        except InputError as error:
            print(f"warning: {error}; passing over it", flush=True)
            continue
        print(f"fetched the checkpoint of step {step} from {remote.url}", flush=True)
        return
