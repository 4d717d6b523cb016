"""Trains small models to find needles, from nothing, and compares the kinds of attention; extends them to long samples.

In: configs/retrieval_cpu.yaml, kinds, seeds; configs/retrieval_long_cpu.yaml. Out: for each kind and seed a run, an
export, an evaluation with its heat map; for all of them one table with seeds, and a picture; the same at more tokens.
Always: the whole chain is the project's own (data prepare, launch, export, evaluate); what is finished is not made
again, so the same command goes on after an interruption.
"""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import parse_config, run_command
from common.errors import InputError
from common.ranges import (
    LARGEST_SEED,
    MOST_STEPS,
    MOST_TOKENS,
    MOST_WORKERS,
    check_any,
    check_filled,
    check_place,
    check_range,
)
from model.kinds.default import DEFAULT_KIND
from scripts.retrieval.commands import run_command_line
from scripts.retrieval.extension import ExtensionSettings, Measured, extend_one


@dataclass(frozen=True)
class RetrievalConfig:
    """What is trained and measured."""

    training: str = "configs/retrieval_cpu.yaml"
    """training config; its stages name the corpora, as scripts/retrieval/documents.py does"""
    corpora: str = "corpora/retrieval"
    """folder of the training text; made where it is missing"""
    output: str = "runs/retrieval"
    """folder for runs, exports, evaluations and the table"""
    kinds: list[str] = field(default_factory=lambda: [DEFAULT_KIND])
    """kinds of attention to train, as in [standard, diff, shared_diff]"""
    seeds: list[int] = field(default_factory=lambda: [1])
    """seeds to train each kind with"""
    processes: int = 2
    """training processes"""
    tokens_per_stage: int = 5_000_000
    """tokens of training text for each length"""
    pairs: list[list[int]] = field(default_factory=lambda: [[1, 1], [2, 2], [4, 2]])
    """[N needles, R of them asked] that are measured"""
    samples: int = 50
    """prompts per depth"""
    settings: list[str] = field(default_factory=list)
    """further training settings, as in ["--train.steps=100"]"""
    extension: ExtensionSettings = field(default_factory=ExtensionSettings)

    def __post_init__(self) -> None:
        check_filled(self, "--", "training", "corpora", "output")
        check_place(self, "--", "corpora", "output")
        check_any(self, "--", "kinds", "seeds", "pairs")
        check_range(self, "--", "seeds", low=0, high=LARGEST_SEED)
        check_range(self, "--", "processes", low=1, high=MOST_WORKERS)
        check_range(self, "--", "tokens_per_stage", low=1, high=MOST_TOKENS)
        check_range(self, "--", "pairs", "samples", low=1, high=MOST_STEPS)


def train_retrieval(settings: RetrievalConfig) -> None:
    """Trains, exports, evaluates, compares; then the same at longer samples, if that is asked for."""
    from scripts.retrieval.comparison import compare
    from scripts.retrieval.lengths import compare_lengths

    started = time.monotonic()
    output = Path(settings.output)
    training = output / "training.yaml"
    length = max(build_corpora(settings, settings.training, training))
    trials = [(kind, seed, output / f"{kind}_{seed}") for kind in settings.kinds for seed in settings.seeds]
    results: dict[str, list[Path]] = {}
    for kind, seed, folder in trials:
        results.setdefault(kind, []).append(train_one(settings, training, folder, kind, seed, length))
    print("\n".join(["", *compare(results, output / "needles")]))
    print(f"\n{output / 'needles'}.md, .json, .png; {time.monotonic() - started:.0f} s in all")
    if settings.extension.training is None:
        return
    longer = output / "extension.yaml"
    lengths = sorted({length, *build_corpora(settings, settings.extension.training, longer)})
    extended: dict[str, list[Measured]] = {}
    for kind, seed, folder in trials:
        own = [f"--model.attention={kind}", f"--seed={seed}"]
        measured = extend_one(settings.extension, longer, folder, settings.processes, own, seed, lengths)
        extended.setdefault(kind, []).append(measured)
    print("\n".join(["", *compare_lengths(extended, output / "lengths")]))
    print(f"\n{output / 'lengths'}.md, .json, .png; {time.monotonic() - started:.0f} s in all")


def build_corpora(settings: RetrievalConfig, training: str, copy: Path) -> list[int]:
    """Makes the text of every stage of the config ``training``; returns the lengths of their documents.

    ``copy`` is where the config is written with ``settings.corpora`` in place of its own folder.
    """
    from scripts.retrieval.corpus import build_corpus
    from scripts.retrieval.documents import CURRICULUM
    from scripts.retrieval.placing import corpus_names, placed

    names = corpus_names(placed(training, Path(settings.corpora), copy))
    for name in names:
        if name not in CURRICULUM:
            raise InputError(f"{training}: no text for '{name}' is known, only for {', '.join(CURRICULUM)}")
        count = max(1, settings.tokens_per_stage // CURRICULUM[name].length)
        build_corpus(Path(settings.corpora), name, CURRICULUM[name], count, seed=0, workers=os.cpu_count() or 1)
    return [CURRICULUM[name].length for name in names]


def train_one(settings: RetrievalConfig, training: Path, folder: Path, kind: str, seed: int, length: int) -> Path:
    """One kind and seed: the path of its results."""
    run, exported, results = folder / "run", folder / "export", folder / "needles.json"
    if not results.exists():
        own = [f"--model.attention={kind}", f"--seed={seed}", f"--name={folder.name}", f"--run-dir={run}"]
        trained = ["--config", str(training), *own, *settings.settings]
        run_command_line(["-m", "launch", "local", "--nproc", str(settings.processes), *trained])
        run_command_line(["scripts/export.py", "--run", str(run), "--output", str(exported)])
        needles = [f"--needles.lengths=[{length}]", f"--needles.pairs={settings.pairs}"]
        needles += [f"--needles.samples={settings.samples}", f"--seed={seed}"]
        evaluation = ["--model", str(exported), "--tasks", "needles", "--output", str(results)]
        run_command_line(["scripts/evaluate.py", *evaluation, *needles])
    return results


def main(arguments: list[str]) -> None:
    """Entry point."""
    train_retrieval(parse_config(RetrievalConfig, arguments, "python scripts/train_retrieval.py", __doc__ or ""))


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
