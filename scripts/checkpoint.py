"""`python scripts/checkpoint.py list|verify|inspect|diff|to-torch|from-torch ...`: what is in a checkpoint, is it
whole, how do two differ; and the same weights and moments as torch's distributed checkpoint.

In: run folders or checkpoint folders. Out: tables on the console; status 1 if a checkpoint is damaged or two differ; a
folder that torch.distributed.checkpoint reads, or a run folder made of one.
"""

import math
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from torch import Tensor

from common.cli import run_command
from common.errors import InputError
from common.flags import FlagParser
from common.output import in_words
from common.private import check_trusted
from pretrain.checkpoint.layout import MANIFEST, checkpoints_of, list_steps
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.engines.gradients import square_sum
from pretrain.places import CONFIG_FILE


def main(arguments: list[str]) -> int:
    """Runs one of the commands."""
    parser = FlagParser(prog="python scripts/checkpoint.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, run, what in (
        ("list", list_checkpoints, "the checkpoints of a run, oldest first"),
        ("verify", verify, "check every byte of a checkpoint, or of all of a run"),
        ("inspect", inspect, "parameters, shapes and norms of a checkpoint"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("path", type=Path, help="run folder or checkpoint folder")
        command.set_defaults(run=lambda options, run=run: run(options.path))
    command = commands.add_parser("diff", help="how the parameters of two checkpoints differ")
    command.add_argument("one", type=Path)
    command.add_argument("other", type=Path)
    command.set_defaults(run=lambda options: diff(options.one, options.other))
    command = commands.add_parser("to-torch", help="write it as torch's distributed checkpoint, for other tools")
    command.add_argument("path", type=Path, help="run folder or checkpoint folder")
    command.add_argument("output", type=Path, help="folder to write; must not exist")
    command.set_defaults(run=lambda options: to_torch(options.path, options.output))
    command = commands.add_parser("from-torch", help="make a run folder of such a folder, to go on from")
    command.add_argument("path", type=Path, help="folder that to-torch wrote, or another tool from one")
    command.add_argument("output", type=Path, help="run folder to write; must not exist")
    command.set_defaults(run=lambda options: from_torch(options.path, options.output))
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status


def list_checkpoints(path: Path) -> int:
    """One line per checkpoint: step, tokens, size, topology, time."""
    print(f"{'checkpoint':<16}{'samples':>14}{'bytes':>18}  {'files':>5}  written              topology")
    status = 0
    for folder in _folders(path):
        try:
            manifest = CheckpointReader(folder).manifest
            seconds = (folder / MANIFEST).stat().st_mtime
        except (InputError, OSError) as error:
            status |= _failed(f"{folder.name:<16}", folder, error)
            continue
        written = datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
        samples = manifest.state.get("data", {}).get("consumed", 0)
        size = sum(manifest.files.values())
        print(f"{folder.name:<16}{samples:>14,}{size:>18,}  {len(manifest.files):>5}  {written}  {manifest.topology}")
    return status


def verify(path: Path) -> int:
    """Checks every byte; says which parameter of which file is damaged."""
    status = 0
    for folder in _folders(path):
        try:
            CheckpointReader(folder).verify()
            print(f"{folder}: whole")
        except (InputError, OSError) as error:
            status |= _failed(f"{folder}: ", folder, error)
    return status


def _failed(title: str, folder: Path, error: InputError | OSError) -> int:
    """Says why ``folder`` cannot be read; returns the status, which is 0 where its run has just removed it."""
    if not folder.exists():
        print(f"{title}gone meanwhile")
        return 0
    print(f"{title}DAMAGED: {in_words(error) if isinstance(error, OSError) else error}")
    return 1


def inspect(path: Path) -> int:
    """Every parameter with its shape, split and norms of value and moments."""
    reader = CheckpointReader(_one(path))
    print(f"{reader.folder}: step {reader.step}, written on {reader.manifest.topology}")
    print(f"{'parameter':<44}{'shape':<20}{'split':<8}{'rms':>12}  of its moments")
    total = 0
    for name in sorted(reader.names()):
        layout = reader.manifest.tensors[name]
        value = reader.read(name)
        total += value.numel()
        split = "-" if layout.shard_dim is None else f"{layout.shard_dim}/{layout.tensor_size}"
        moments = "".join(f"  {moment} {rms(reader.read(name, moment)):.3e}" for moment in reader.moments(name))
        print(f"{name:<44}{'x'.join(map(str, layout.shape)):<20}{split:<8}{rms(value):>12.3e}{moments}")
    print(f"{total:,} parameters")
    return 0


def rms(values: Tensor) -> float:
    """Root of the mean square; second moments are so small that their squares are 0 in fp32."""
    return math.sqrt(float(square_sum([values])) / max(1, values.numel()))


def diff(one: Path, other: Path) -> int:
    """Largest and relative difference of every parameter that differs."""
    first, second = CheckpointReader(_one(one)), CheckpointReader(_one(other))
    only = set(first.names()) ^ set(second.names())
    for name in sorted(only):
        print(f"{name:<44}only in {(first if name in first.names() else second).folder}")
    differing = len(only)
    for name in sorted(set(first.names()) & set(second.names())):
        a, b = first.read(name), second.read(name)
        if a.shape != b.shape:
            print(f"{name:<44}shape {tuple(a.shape)} / {tuple(b.shape)}")
        elif not a.equal(b):
            change = a - b
            relative = math.sqrt(float(square_sum([change]))) / max(math.sqrt(float(square_sum([a]))), 1e-30)
            print(f"{name:<44}largest difference {float(change.abs().max()):.3e}, relative {relative:.3e}")
        else:
            continue
        differing += 1
    print(f"{differing} parameters differ" if differing else "equal")
    return 1 if differing else 0


def to_torch(path: Path, output: Path) -> int:
    """Writes a checkpoint as torch's distributed checkpoint, optimizer state included."""
    from scripts.hub.torch_checkpoint import write_torch  # what only looks at checkpoints does without

    check_trusted(output, "output")
    reader = CheckpointReader(_one(path))
    print(f"{output}: {write_torch(reader, output)} tensors of step {reader.step} of {reader.folder}")
    return 0


def from_torch(path: Path, output: Path) -> int:
    """Makes a run folder of torch's distributed checkpoint."""
    from scripts.hub.torch_checkpoint import read_torch

    check_trusted(output, "output")
    reader = read_torch(path, output)
    print(f"{reader.folder}: step {reader.step}; go on with --config {output / CONFIG_FILE}")
    return 0


def _folders(path: Path) -> Iterator[Path]:
    if (path / MANIFEST).exists():
        yield path
        return
    folders = list_steps(checkpoints_of(path)) or list_steps(path)
    if not folders:
        raise InputError(f"{path}: neither a checkpoint nor a run folder with one")
    yield from folders


def _one(path: Path) -> Path:
    return list(_folders(path))[-1]


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
