"""A checkpoint as torch's distributed checkpoint (torch.distributed.checkpoint), for other tools, and back.

In: an opened checkpoint; or a folder that was written here, or by another tool from one. Out: a folder with `.metadata`
and one file for each tensor, whole tensors in fp32, and `run.json` for what is no tensor; or a run folder with one
checkpoint. Always: no more than one parameter or moment is in memory; both ways every bit stays.

Keys, for a parameter with the logical name N: `model.N`, `optimizer.state.N.M` for each of its moments M, and
`optimizer.state.N.step`, the updates that the moments come from, as torch's own optimizers keep it.
"""

import dataclasses
import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from common.cli import config_from_values, to_yaml
from common.errors import InputError, named
from common.files import read_json, write_atomically, write_json
from common.typed import check_complete, check_section
from pretrain.checkpoint.layout import WEIGHT, checkpoints_of
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from pretrain.optimizers.registry import optimizer_kind
from pretrain.places import CONFIG_FILE
from scripts.hub.checkpoint_file import write_checkpoint
from scripts.hub.layout import parameter_shapes
from scripts.hub.whole_folder import whole_folder

RUN_FILE = "run.json"
MODEL, STATE, STEP = "model.", "optimizer.state.", "step"
ALLOWED = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata"),
        *("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", "float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool", "strided"),
    "pathlib": ("PosixPath", "Path"),
    "pathlib._local": ("PosixPath", "Path"),
    "collections": ("OrderedDict",),
}
"""what `.metadata`, a pickle, may name: nothing that does anything"""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What `run.json` holds: a checkpoint's manifest without its tensors."""

    step: int
    topology: str
    config: dict[str, Any]
    state: dict[str, Any]


def write_torch(reader: CheckpointReader, output: Path) -> int:
    """Writes the checkpoint of ``reader`` to ``output``; returns how many tensors that are.

    Raises:
        InputError: something is there already, or the checkpoint is damaged.
    """
    if output.exists() or output.is_symlink():
        raise InputError(f"{output}: is there already; choose another folder")
    keys = dict(_keys(reader))
    meta = {
        key: torch.empty(() if kind == STEP else reader.manifest.tensors[name].shape, device="meta")
        for key, (name, kind) in keys.items()
    }
    manifest = reader.manifest
    with whole_folder(output) as temporary, _in_one_process():
        # One file for each tensor: of a file that holds several torch keeps all in memory until it is written.
        storage = FileSystemWriter(temporary, single_file_per_rank=False)
        save(meta, storage_writer=storage, planner=_Streamed(reader, keys), no_dist=True)
        facts = RunFacts(manifest.step, manifest.topology, manifest.config, manifest.state)
        write_json(temporary / RUN_FILE, dataclasses.asdict(facts))
    return len(keys)


def _keys(reader: CheckpointReader) -> Iterator[tuple[str, tuple[str, str]]]:
    """Every key, and the parameter and kind that it stands for."""
    for name in reader.names():
        yield f"{MODEL}{name}", (name, WEIGHT)
        for kind in (*reader.moments(name), STEP):
            yield f"{STATE}{name}.{kind}", (name, kind)


class _Streamed(DefaultSavePlanner):
    """Reads each tensor when its file is written."""

    def __init__(self, reader: CheckpointReader, keys: dict[str, tuple[str, str]]) -> None:
        super().__init__()
        self._reader = reader
        self._keys = keys

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The tensor of a key."""
        name, kind = self._keys[index.fqn]
        return torch.tensor(float(self._reader.applied_steps)) if kind == STEP else self._reader.read(name, kind)


@contextmanager
def _in_one_process() -> Iterator[None]:
    """Torch does not warn that there is one, and raises what went wrong as it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except CheckpointException as error:  # no Exception, and made of many lines
            cause, _ = next(iter(error.failures.values()))
            raise cause from None


class TorchCheckpoint:
    """A folder of torch's, opened for reading; its tensors are read one by one."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError for a folder that is none, or holds another model than its `run.json` says."""
        self.folder = folder
        values = read_json(folder / RUN_FILE, f"{RUN_FILE}, which `scripts/checkpoint.py to-torch` writes beside it")
        check_section(RunFacts, values, str(folder / RUN_FILE))
        check_complete(RunFacts, values, str(folder / RUN_FILE))
        self.facts = RunFacts(**values)
        self.config = config_from_values(RunConfig, self.facts.config, str(folder / RUN_FILE))
        self._tensors = _read_metadata(folder / ".metadata")
        self.shapes = parameter_shapes(self.config.model)
        self._check()

    def moments(self, name: str) -> list[str]:
        """The names of the moments of a parameter."""
        prefix = f"{STATE}{name}."
        kinds = (key.removeprefix(prefix) for key in self._tensors if key.startswith(prefix))
        return [kind for kind in kinds if "." not in kind and kind != STEP]

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """One whole parameter, or moment, in fp32, of its full shape."""
        key = _key(name, kind)
        target = torch.empty(self._tensors[key].size)
        try:
            with _in_one_process():
                load({key: target}, storage_reader=FileSystemReader(self.folder), no_dist=True)
        except Exception as error:  # whatever a damaged file runs into
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{self.folder}: {key} cannot be read: {reason[:300]}") from None
        return target

    def _check(self) -> None:
        rules = {tuple(sorted(rule)) for rule in optimizer_kind(self.config.optimizer).moments()}
        for name, shape in self.shapes.items():
            kinds = self.moments(name)
            if tuple(sorted(kinds)) not in rules:
                told, expected = ", ".join(kinds) or "missing", " or ".join(sorted(map(", ".join, rules)))
                raise InputError(
                    f"{self.folder}: the moments of {name} are {told}; {self.config.optimizer.kind} has {expected}"
                )
            for key in (_key(name, kind) for kind in (WEIGHT, *kinds)):
                found = self._tensors.get(key)
                if found is None or tuple(found.size) != shape:
                    told = "is missing" if found is None else f"has the shape {tuple(found.size)}"
                    raise InputError(f"{self.folder}: {key} {told}; the model of {RUN_FILE} has {shape}")


def _key(name: str, kind: str) -> str:
    return f"{MODEL}{name}" if kind == WEIGHT else f"{STATE}{name}.{kind}"


class _OnlyTables(pickle.Unpickler):
    """Refuses what names anything but the parts of torch's table of contents."""

    def find_class(self, module: str, name: str) -> Any:
        """As pickle asks for it."""
        if name not in ALLOWED.get(module, ()):
            raise InputError(f"names {module}.{name}, which no checkpoint needs; it is not opened")
        return super().find_class(module, name)


def _read_metadata(path: Path) -> dict[str, TensorStorageMetadata]:
    """The tensors by key.

    Raises:
        InputError: no such file, or a pickle that does more than tell them.
    """
    try:
        with path.open("rb") as file, named(str(path)):
            content = _OnlyTables(file).load()
        table = content.state_dict_metadata
        return {str(key): entry for key, entry in table.items() if isinstance(entry, TensorStorageMetadata)}
    except InputError:
        raise
    except Exception as error:  # whatever a damaged pickle runs into
        raise InputError(f"{path}: not a readable table of a torch checkpoint: {type(error).__name__}") from None


def read_torch(folder: Path, run: Path) -> CheckpointReader:
    """Makes the run folder ``run`` of a folder of torch's; returns its checkpoint, every byte checked.

    Raises:
        InputError: a folder that cannot be read, or a run folder that is there already.
    """
    if run.exists() or run.is_symlink():
        raise InputError(f"{run}: is there already; choose another run folder")
    source = TorchCheckpoint(folder)
    config = dataclasses.replace(source.config, run_dir=str(run))
    facts = source.facts
    try:
        run.mkdir(parents=True)
    except FileExistsError:  # another one was quicker
        raise InputError(f"{run}: is there already; choose another run folder") from None
    try:
        checkpoint = write_checkpoint(
            checkpoints_of(run), config, source.shapes, source.read, facts.state, facts.step, facts.topology, source
        )
        reader = CheckpointReader(checkpoint)
        reader.verify()
        write_atomically(run / CONFIG_FILE, to_yaml(config))
    except BaseException:
        shutil.rmtree(run, ignore_errors=True)
        raise
    return reader
