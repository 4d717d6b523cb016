"""A Hugging Face folder as a checkpoint that training can branch from.

In: an exported folder, or a plain Llama folder. Out: a run folder with one checkpoint, of step 0.
Always: the checkpoint appears only after its logits were compared with the folder's, also where a plain model becomes a
differential one (--attention); weights are read one by one.
"""

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.cli import parse_config, run_command, to_yaml
from common.errors import InputError, named
from common.files import write_atomically
from common.private import check_trusted
from common.ranges import check_filled, check_place, check_range


@dataclass(frozen=True)
class ImportConfig:
    """What is imported, and where to."""

    model: str
    """Hugging Face folder: an export, or a Llama or Mistral without biases, rotary scaling linear or yarn"""
    output: str
    """run folder to write; must not exist"""
    attention: str | None = None
    """differential kind that a plain model becomes, with its logits at first: docs/exports.md (default: as it is)"""
    rank: int = 64
    """rank of the updates of shared_diff, which begin with zeros"""
    down: Literal["layer", "head"] = "layer"
    """owner of the updates' down-projections of shared_diff"""

    def __post_init__(self) -> None:
        check_filled(self, "--", "model", "output", "attention")
        check_range(self, "--", "rank", low=1, high=2**16)
        check_place(self, "--", "output")


def import_folder(settings: ImportConfig) -> Path:
    """Writes the run folder; returns the checkpoint's folder.

    Raises:
        InputError: a folder that cannot be read or computed, an output that exists, or logits that differ.
    """
    import torch

    from data.config import DataConfig
    from model.kinds.growth import Growth, grown_config
    from pretrain.checkpoint.layout import checkpoints_of
    from pretrain.checkpoint.lineage import Lineage
    from pretrain.checkpoint.reader import CheckpointReader
    from pretrain.config import RunConfig
    from pretrain.places import CONFIG_FILE
    from scripts.hub.check import compare_logits
    from scripts.hub.checkpoint_file import write_checkpoint
    from scripts.hub.foreign import open_foreign
    from scripts.hub.layout import parameter_shapes
    from scripts.hub.provenance import ancestors_of

    output, folder = Path(settings.output), Path(settings.model)
    check_trusted(output, "--output")
    if output.exists() or output.is_symlink():
        raise InputError(f"--output {output}: is there already; choose another run folder")
    foreign = open_foreign(folder)
    lineage = Lineage(parents=ancestors_of(folder))
    base = RunConfig(data=DataConfig(sequence_length=foreign.max_length))
    config = dataclasses.replace(base, name=output.name, run_dir=str(output), model=foreign.config)
    read = foreign.read
    if settings.attention is not None:
        with named("--attention"):
            model = grown_config(foreign.config, settings.attention, settings.rank, settings.down)
        config = dataclasses.replace(config, model=model)
        read = Growth(model, parameter_shapes(model), foreign.read, config.seed).value
    shapes = parameter_shapes(config.model)
    try:
        output.mkdir(parents=True)
    except FileExistsError:  # another import was quicker
        raise InputError(f"--output {output}: is there already; choose another run folder") from None
    try:
        state = {"imported_from": str(folder), "lineage": dataclasses.asdict(lineage)}
        checkpoint = write_checkpoint(checkpoints_of(output), config, shapes, read, state)
        reader = CheckpointReader(checkpoint)
        weight_bytes = sum(torch.Size(shape).numel() * 4 for shape in shapes.values())
        difference = compare_logits(folder, config.model, reader.read, foreign.max_length, weight_bytes, torch.float32)
        print(f"logits against the folder's model: largest difference {difference.largest:.2e}")
        difference.check(torch.float32, settings.model)
        write_atomically(output / CONFIG_FILE, to_yaml(config))
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    return checkpoint


def main(arguments: list[str]) -> None:
    """Entry point."""
    checkpoint = import_folder(parse_config(ImportConfig, arguments, "python scripts/import_hf.py", __doc__ or ""))
    print(f"{checkpoint}: to branch from; prepare its data with the folder's own tokenizer")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
