"""A model that finds needles in short samples goes on at longer ones, and is measured at all lengths before and after.

In: a trained kind and seed (scripts/train_retrieval.py), the config of the stage. Out: its run, its export, the results
of both models. Always: a step that is finished is not made again; both models answer the same prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.ranges import MOST_STEPS, check_filled, check_range
from scripts.retrieval.commands import run_command_line


@dataclass(frozen=True)
class ExtensionSettings:
    """The same models at longer samples."""

    training: str | None = None
    """training config, as in configs/retrieval_long_cpu.yaml: each model goes on with it (default: none does)"""
    samples: int = 20
    """prompts per length and depth"""
    settings: list[str] = field(default_factory=list)
    """further settings of this training, as in ["--model.rope_theta=640000"]"""

    def __post_init__(self) -> None:
        check_filled(self, "extension.", "training")
        check_range(self, "extension.", "samples", low=1, high=MOST_STEPS)


@dataclass(frozen=True)
class Measured:
    """Results files of one kind and seed."""

    before: Path
    after: Path


def extend_one(
    settings: ExtensionSettings,
    training: Path,
    folder: Path,
    processes: int,
    own: Sequence[str],
    seed: int,
    lengths: Sequence[int],
) -> Measured:
    """Trains and exports the longer model of ``folder``, evaluates it and the one that it comes from.

    Args:
        training: config of the longer training.
        folder: where train_retrieval left run/ and export/ of the kind and seed.
        processes: that train it.
        own: the training settings that say the kind and the seed.
        lengths: tokens of the prompts.
    """
    run, exported = folder / "long_run", folder / "long_export"
    measured = Measured(folder / "lengths_before.json", folder / "lengths_after.json")
    if not measured.after.exists():
        places = [f"--name={folder.name}_long", f"--run-dir={run}", f"--checkpoint.branch_from={folder / 'run'}"]
        trained = ["--config", str(training), *own, *places, *settings.settings]
        run_command_line(["-m", "launch", "local", "--nproc", str(processes), *trained])
        run_command_line(["scripts/export.py", "--run", str(run), "--output", str(exported)])
        _evaluate(exported, measured.after, settings.samples, seed, lengths)
    if not measured.before.exists():
        _evaluate(folder / "export", measured.before, settings.samples, seed, lengths)
    return measured


def _evaluate(model: Path, results: Path, samples: int, seed: int, lengths: Sequence[int]) -> None:
    needles = [f"--needles.lengths={list(lengths)}", "--needles.pairs=[[1,1]]", f"--needles.samples={samples}"]
    evaluation = ["--model", str(model), "--tasks", "needles", "--output", str(results)]
    run_command_line(["scripts/evaluate.py", *evaluation, f"--seed={seed}", f"--max-length={max(lengths)}", *needles])
