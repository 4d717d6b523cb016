"""Which optimizer learns more in a run? Learning rates for each, then seeds: `python scripts/compare_optimizers.py`.

In: a config, the rates, the number of seeds, and `--section.key value` overrides for every run. Out: ordinary run
folders FOLDER/KIND-RATE-SEED, FOLDER/figures.json, and a table in Markdown of held-out losses after the last step.
Always: all optimizers get the same rates, the same seeds and the same data; a run that is finished is not made again,
so the command can be stopped and goes on. The first seed of the best rate is the one it was chosen by, and the table
says so.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import run_command
from common.errors import InputError
from common.files import write_atomically
from common.flags import FlagParser
from common.options import option
from common.ranges import check_place, check_range
from pretrain.optimizers.registry import OPTIMIZERS
from pretrain.places import LOSS_FILE
from pretrain.step_lines import read_steps
from scripts.retrieval.commands import run_logged

FIRST_SEED = 1234


@dataclass(frozen=True)
class Trial:
    """One run."""

    kind: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Its folder's."""
        return f"{self.kind}-{self.rate:g}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    trial: Trial
    steps: int
    validation_loss: float
    """nats per token, after the last step"""
    step_seconds: float
    """the median"""


def main(arguments: list[str]) -> int:
    """Trains what is missing and prints the table."""
    parser = FlagParser(prog="python scripts/compare_optimizers.py", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/debug_cpu.yaml"), help="the run to repeat")
    parser.add_argument("--output", type=Path, default=Path("runs/optimizers"), help="folder of the runs")
    parser.add_argument("--rates", default="1e-3,2e-3,4e-3,8e-3,1.6e-2", help="peak learning rates")
    parser.add_argument("--seeds", type=int, default=3, help="at the best rate of each")
    flags, overrides = parser.parse_known_args(arguments)
    check_range(flags, "--", "seeds", low=1, high=100)
    check_place(flags, "--", "output")
    rates = read_rates(flags.rates)

    def run(trial: Trial) -> Result:
        return run_trial(trial, flags.config, flags.output, overrides)

    kinds = [kind.name for kind in OPTIMIZERS]
    swept = [run(Trial(kind, rate, FIRST_SEED)) for rate in rates for kind in kinds]
    best = {kind: best_of(kind, swept) for kind in kinds}
    repeated = [
        run(Trial(kind, best[kind].trial.rate, FIRST_SEED + more)) for more in range(1, flags.seeds) for kind in kinds
    ]
    results = [*swept, *repeated]
    write_atomically(flags.output / "figures.json", json.dumps([as_json(result) for result in results], indent=1))
    for line in table(results):
        print(line)
    return 0


def read_rates(text: str) -> list[float]:
    """Numbers with commas between them.

    Raises:
        InputError: something else.
    """
    try:
        rates = [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--rates: {text!r} are not numbers with commas between them, as in 1e-3,2e-3") from None
    if len(set(rates)) < len(rates) or not all(0 < rate <= 10 for rate in rates):
        raise InputError(f"--rates: {text!r} must be different numbers above 0 and up to 10")
    return rates


def run_trial(trial: Trial, config: Path, output: Path, overrides: Sequence[str]) -> Result:
    """Trains one run as a process of its own, or reads it where it is finished."""
    folder = output / trial.name
    settings = {
        "optimizer.kind": trial.kind,
        "optimizer.learning_rate": f"{trial.rate:g}",
        "seed": str(trial.seed),
        "run_dir": str(folder),
    }
    command = ["-m", "pretrain", "--config", str(config), *overrides]
    command += [word for key, value in settings.items() for word in (option(key), value)]
    run_logged(command, output / f"{trial.name}.log", trial.name)
    result = read_result(trial, folder)
    print(f"{trial.name}: held-out loss {result.validation_loss:.4f} after {result.steps} steps", flush=True)
    return result


def read_result(trial: Trial, folder: Path) -> Result:
    """The last evaluation of a run.

    Raises:
        InputError: it has none.
    """
    lines = read_steps(folder / LOSS_FILE)
    evaluations = [line for line in lines if line.get("validation_loss") is not None]
    seconds = [line["step_seconds"] for line in lines if line.get("step_seconds")]
    if not evaluations or not seconds:
        raise InputError(f"{folder / LOSS_FILE}: holds no evaluation; set data.validation in the config")
    last = evaluations[-1]
    return Result(trial, last["step"], last["validation_loss"], statistics.median(seconds))


def best_of(kind: str, results: Sequence[Result]) -> Result:
    """The run of ``kind`` with the lowest held-out loss."""
    return min((result for result in results if result.trial.kind == kind), key=lambda result: result.validation_loss)


def as_json(result: Result) -> dict[str, Any]:
    """For figures.json."""
    return {**vars(result.trial), **{key: value for key, value in vars(result).items() if key != "trial"}}


def table(results: Sequence[Result]) -> list[str]:
    """Held-out losses by rate, the seeds of the best rate, and the seconds of a step."""
    kinds = list(dict.fromkeys(result.trial.kind for result in results))
    first = {(r.trial.kind, r.trial.rate): r for r in results if r.trial.seed == FIRST_SEED}
    rows = [["peak learning rate", *kinds]]
    best = {kind: best_of(kind, list(first.values())).trial.rate for kind in kinds}
    for rate in dict.fromkeys(rate for _, rate in first):
        losses = {kind: f"{first[kind, rate].validation_loss:.3f}" for kind in kinds}
        rows.append([f"{rate:g}", *(f"**{loss}**" if rate == best[kind] else loss for kind, loss in losses.items())])
    seeds = {
        kind: [r.validation_loss for r in results if r.trial.kind == kind and r.trial.rate == best[kind]]
        for kind in kinds
    }
    count = len(next(iter(seeds.values())))
    rows.append([f"best rate, {count} seeds: mean", *(f"{statistics.mean(seeds[kind]):.3f}" for kind in kinds)])
    rows.append(["lowest to highest", *(f"{min(seeds[kind]):.3f} to {max(seeds[kind]):.3f}" for kind in kinds)])
    if count > 1:
        rows.append(
            ["mean of the seeds that chose nothing", *(f"{statistics.mean(seeds[kind][1:]):.3f}" for kind in kinds)]
        )
    steps = {kind: [r.step_seconds for r in results if r.trial.kind == kind] for kind in kinds}
    rows.append(["seconds of a step (median)", *(f"{statistics.median(steps[kind]):.2f}" for kind in kinds)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
