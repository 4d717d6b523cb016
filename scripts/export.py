"""A checkpoint as a Hugging Face folder, and that folder on the hub.

In: a run folder, a step, an output folder; a repository's name. Out: weights, configuration, code, tokenizer, card, all
or nothing; the same as one commit of the repository. Always: the folder appears only after its logits were compared
with the trainer's model; no more than one parameter and one shard of weights is in memory.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.cli import parse_config, run_command
from common.errors import InputError, named
from common.files import sha256_of_json
from common.options import hyphenated
from common.private import check_trusted
from common.ranges import MOST_STEPS, check_filled, check_license, check_place, check_range
from scripts.hub.push import as_lines, check_repository, push, what_is_sent

if TYPE_CHECKING:  # --help does without torch and tiktoken
    from data.tokenizer import Tokenizer
    from pretrain.checkpoint.reader import CheckpointReader
    from pretrain.config import RunConfig

SHARD_UNIT = 10**6


@dataclass(frozen=True)
class ExportConfig:
    """What is exported, and how it is stored."""

    run: str
    """run folder, as in runs/NAME"""
    output: str
    """folder to write; an earlier export there is replaced, anything else is left alone"""
    step: int | None = None
    """step of the checkpoint (default: the newest)"""
    weights: Literal["factored", "merged"] = "factored"
    """shared_diff only: keep base, down and up apart as they were trained, or merge them into plain matrices"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """type of the stored weights"""
    shard_megabytes: int = 1000
    """largest size of one file of weights"""
    tokenizer: str | None = None
    """folder with the tokenizer of the training data (default: the first training folder of the run)"""
    license: str | None = None
    """licence of the weights in the hub's words, as in apache-2.0; the card tells it, or that none is stated"""
    push: str | None = None
    """repository of the Hugging Face hub to send the folder to, as in me/my-model; the token is that of HF_TOKEN or of
    `hf auth login`"""
    private: bool = True
    """a repository that is made for it is seen by its owner only"""
    dry_run: bool = False
    """list what would be sent, and send nothing"""

    def __post_init__(self) -> None:
        check_range(self, "--", "shard_megabytes", low=1, high=10**9)
        check_range(self, "--", "step", low=0, high=MOST_STEPS)
        check_filled(self, "--", "run", "output", "tokenizer")
        check_place(self, "--", "output")
        check_license(self, "--")
        if self.push is not None:
            check_repository(self.push, "--push")
        elif self.dry_run:
            raise InputError("--dry-run: lists what --push would send; add --push REPOSITORY")


def export(settings: ExportConfig) -> None:
    """Writes the folder.

    Raises:
        InputError: no such checkpoint, no tokenizer, an output that is not ours to replace, or logits that differ.
    """
    from model.kinds.registry import kind_of
    from pretrain.checkpoint.reader import CheckpointReader
    from scripts.hub.check import compare_logits
    from scripts.hub.config_files import write_config
    from scripts.hub.fast_tokenizer import write_tokenizer
    from scripts.hub.layout import dtype_named, hub_tensors
    from scripts.hub.places import write_places
    from scripts.hub.provenance import FORMAT, describe_export, write_provenance
    from scripts.hub.weights import write_weights
    from scripts.hub.whole_folder import whole_folder

    output = Path(settings.output)
    check_trusted(output, "--output")
    reader = CheckpointReader(find_checkpoint(Path(settings.run), settings.step))
    config = reader.config
    tokenizer = find_tokenizer(config, settings.tokenizer, "--tokenizer")
    factored, can_merge = settings.weights == "factored", bool(kind_of(config.model).converts_into)
    kept: dict[str, Any] = {
        "format": FORMAT,
        "weights": settings.weights if can_merge else "as trained",
        "dtype": settings.dtype,
        "license": settings.license,
        "checkpoint": digest_of(reader),
        "tokenizer": tokenizer.fingerprint,
    }
    if is_same_export(output, kept):
        write_places(output, kept["checkpoint"], config)
        print(f"{output} already holds this export of step {reader.step}")
        return
    dtype = dtype_named(settings.dtype)
    tensors = hub_tensors(config.model, factored)
    parameters = sum(tensor.numel for tensor in tensors)
    max_length = config.data.longest_sample
    with whole_folder(output) as temporary:
        pad_id = write_tokenizer(temporary, tokenizer, max_length, config.model.vocab_size)
        write_config(temporary, config.model, max_length, settings.dtype, factored, tokenizer.eod_id, pad_id)
        with named(f"--run {settings.run}: step {reader.step}"):
            write_weights(temporary, tensors, reader.read, dtype, settings.shard_megabytes * SHARD_UNIT, progress=print)
        difference = compare_logits(temporary, config.model, reader.read, max_length, parameters * dtype.itemsize)
        print(
            f"logits against the trainer's model: largest difference {difference.largest:.2e}, "
            f"mean {difference.relative:.2e} standard deviations"
        )
        difference.check(dtype, settings.run)
        facts = kept | {
            "parameters": parameters,
            "logits_difference": difference.largest,
            "eod_id": tokenizer.eod_id,
            "pad_id": pad_id,
        }
        write_provenance(temporary, describe_export(Path(settings.run), reader, facts))
    write_places(output, kept["checkpoint"], config)
    print(f"exported step {reader.step} of {settings.run} to {output}: {parameters:,} parameters, {settings.dtype}")


def send(settings: ExportConfig) -> None:
    """Sends the exported folder to the hub, or lists what that would send.

    Raises:
        InputError: nobody is logged in, or the hub refuses.
    """
    assert settings.push is not None
    files = what_is_sent(Path(settings.output))
    if settings.dry_run:
        print("\n".join(as_lines(files, settings.push)))
        return
    from scripts.hub.provenance import read_provenance

    facts = read_provenance(Path(settings.output)) or {}
    message = f"{facts.get('run')}, step {facts.get('step')}"
    print(f"sent {len(files)} files: {push(files, settings.push, message, settings.private)}")


def find_tokenizer(config: "RunConfig", folder: str | None, flag: str) -> "Tokenizer":
    """The tokenizer in ``folder``, which ``flag`` names, or in the run's first source.

    Raises:
        InputError: there is none, or it has more ids than the model.
    """
    from data.tokenizer import load_tokenizer

    place = folder or config.data.train[0].path
    tokenizer = load_tokenizer(Path(place))
    if tokenizer.vocab_size > config.model.vocab_size:
        raise InputError(
            f"{place}: the tokenizer has {tokenizer.vocab_size} ids, the model only {config.model.vocab_size}; name "
            f"the one of the training data: {flag} DIR"
        )
    return tokenizer


def digest_of(reader: "CheckpointReader") -> str:
    """What tells a checkpoint from every other, in export.json and in the results of evaluations."""
    return sha256_of_json([str(reader.manifest.files), reader.manifest.state, reader.step])


def find_checkpoint(run: Path, step: int | None, flags: tuple[str, str] = ("--run", "--step")) -> Path:
    """The checkpoint folder of ``step``, or the newest; ``flags`` are what names both."""
    from pretrain.checkpoint.layout import checkpoints_of, list_steps, step_of

    folders = {step_of(folder): folder for folder in list_steps(checkpoints_of(run))}
    if not folders:
        raise InputError(f"{flags[0]} {run}: holds no checkpoints; expected {checkpoints_of(run)}/step_*")
    if step is not None and step not in folders:
        raise InputError(f"{flags[1]} {step}: {run} has no such checkpoint, only {', '.join(map(str, folders))}")
    return folders[max(folders) if step is None else step]


def is_same_export(output: Path, kept: Mapping[str, Any]) -> bool:
    """Whether ``output`` holds just this export already.

    Raises:
        InputError: something is there that no export made.
    """
    from scripts.hub.provenance import read_provenance

    if not output.exists() and not output.is_symlink():
        return False
    found = read_provenance(output) if output.is_dir() else None
    if found is None:
        raise InputError(f"--output {output}: is there already and was not made by an export; choose another folder")
    is_same = all(found.get(key) == value for key, value in kept.items())
    if output.is_symlink() and not is_same:
        raise InputError(f"--output {output}: is a link; name the folder that it leads to, or remove the link")
    return is_same


def main(arguments: list[str]) -> None:
    """Entry point; ``--dry-run`` alone means that it is true."""
    valued = ["--dry-run=true" if argument == "--dry-run" else argument for argument in hyphenated(arguments)]
    settings = parse_config(ExportConfig, valued, "python scripts/export.py", __doc__ or "")
    export(settings)
    if settings.push is not None:
        send(settings)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
