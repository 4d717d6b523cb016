"""Checkpoints in a remote folder: anything that fsspec writes (s3://, gs://, hdfs://, file://).

In: a folder's URL and a run's id. Out: the same layout as on the local disk: `step_N/rank_R.bin`,
`step_N/manifest.json`, `latest`, and `run_id.json`, which says whose they are. Always: a remote checkpoint exists from
the moment its manifest does, and the manifest comes after every other file; what is fetched is checked against the
manifest before it takes its name; nothing is written to or removed from another run's folder.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

from common.errors import InputError, named
from common.files import TEMPORARY_SUFFIX, flush_folder
from common.remote_files import check_kind, open_remote
from common.urls import without_credentials
from pretrain.checkpoint.layout import MANIFEST, POINTER, is_step_name, step_folder
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.run_id import ID_FILE

COPY_BYTES = 16 << 20


class RemoteCheckpoints:
    """The checkpoints folder at ``url``; without a ``run_id`` to look into only."""

    def __init__(self, url: str, run_id: str = "") -> None:
        self.url, self._address, self._run_id = without_credentials(url).rstrip("/"), url.rstrip("/"), run_id
        with named("checkpoint.remote"):
            check_kind(self._address)

    @functools.cached_property
    def _store(self) -> tuple[Any, str]:
        """The file system, and the folder's path in it. Not opened before it is used: some stores are asked for that,
        and one that cannot be reached must not cost the run."""
        return open_remote(self._address)

    @property
    def _files(self) -> Any:
        return self._store[0]

    @property
    def _root(self) -> str:
        return self._store[1]

    def put(self, file: Path, step_name: str) -> None:
        """Uploads one rank's file of a checkpoint that has no manifest yet."""
        self._files.makedirs(f"{self._root}/{step_name}", exist_ok=True)
        with file.open("rb") as source, self._files.open(f"{self._root}/{step_name}/{file.name}", "wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    def commit(self, folder: Path) -> None:
        """Uploads the manifest, which makes the checkpoint exist, then the pointer to it.

        Raises:
            InputError: the folder is another run's by now.
        """
        self._check_owner()
        self.put(folder / MANIFEST, folder.name)
        self._files.pipe_file(f"{self._root}/{POINTER}", f"{folder.name}\n".encode())

    def remove(self, step: int) -> None:
        """Removes a checkpoint, its manifest first. Raises InputError as ``commit`` does."""
        self._check_owner()
        name = step_folder(Path(), step).name
        for path in (f"{self._root}/{name}/{MANIFEST}", f"{self._root}/{name}"):
            if self._files.exists(path):
                self._files.rm(path, recursive=True)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that exist, ascending. Raises InputError where nobody can tell."""
        try:
            # Not `exists`, which some stores answer with no when they cannot be asked.
            names = [Path(entry).name for entry in self._files.ls(self._root, detail=False)]
            whole = [name for name in names if is_step_name(name) and self._exists(name)]
        except FileNotFoundError:
            return []
        except Exception as error:  # every kind of store has errors of its own
            raise InputError(
                f"checkpoint.remote: {self.url} cannot be looked into, and may hold this run: {error}"
            ) from None
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
        except Exception as error:  # every kind of store has errors of its own
            raise InputError(f"checkpoint.remote: {self.url}/{final.name} cannot be used: {error}") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def owner(self) -> dict[str, str] | None:
        """What `run_id.json` says of the run whose checkpoints these are: its id and its folder; None: nothing.

        Raises:
            InputError: it says something else, or nobody can tell.
        """
        try:
            content = json.loads(self._files.cat_file(f"{self._root}/{ID_FILE}"))
        except FileNotFoundError:
            return None
        except Exception as error:  # every kind of store has errors of its own
            raise InputError(f"checkpoint.remote: {self.url}/{ID_FILE} cannot be read: {error}") from None
        if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in ("id", "folder")):
            raise InputError(f"checkpoint.remote: {self.url}/{ID_FILE} holds no run id")
        return {"id": content["id"], "folder": content["folder"]}

    def claim(self, run_folder: Path) -> None:
        """Says that the folder is this run's from now on."""
        content = {"id": self._run_id, "folder": str(run_folder.resolve())}
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(f"{self._root}/{ID_FILE}", json.dumps(content).encode())

    def _check_owner(self) -> None:
        owner = self.owner()
        if owner is None or owner["id"] != self._run_id:
            whose = f"belongs to the run in {owner['folder']}" if owner else f"has lost its {ID_FILE}"
            raise InputError(f"checkpoint.remote: {self.url} {whose}")

    def _get(self, remote: Any, path: Path) -> None:
        with self._files.open(remote, "rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    def _exists(self, name: str) -> bool:
        return bool(self._files.exists(f"{self._root}/{name}/{MANIFEST}"))
