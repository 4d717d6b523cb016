"""`python scripts/compare.py RUN_A RUN_B [--tolerance T]`: are two runs' losses equal, and from which step not?

In: two run folders. Out: a few lines, a picture of both losses and their difference, and the exit status: 0 where all
common steps agree, 1 where not. Always: equal means bit for bit unless a tolerance is given; steps that only one run
has logged are counted and not judged; a loss that is no number differs from everything.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.cli import run_command
from common.drawn import literally
from common.errors import InputError
from common.files import atomic_file
from common.flags import FlagParser
from common.private import check_trusted
from common.ranges import check_place, check_range
from pretrain.places import LOSS_FILE
from pretrain.step_lines import read_steps


@dataclass(frozen=True)
class Series:
    """The losses of one run that were logged under one key."""

    name: str
    losses: dict[int, float]
    """step -> loss in nats per token; NaN where it was no number"""


@dataclass(frozen=True)
class Comparison:
    """Two series, side by side."""

    key: str
    first: Series
    second: Series
    tolerance: float

    @property
    def common(self) -> list[int]:
        """Steps that both have, in order."""
        return sorted(self.first.losses.keys() & self.second.losses.keys())

    def difference(self, step: int) -> float:
        """How far apart the two are at a common step; infinite where one is no number."""
        apart = abs(self.first.losses[step] - self.second.losses[step])
        return math.inf if math.isnan(apart) else apart

    def first_difference(self) -> int | None:
        """The first common step at which they differ by more than the tolerance."""
        return next((step for step in self.common if self.difference(step) > self.tolerance), None)

    def describe(self) -> list[str]:
        """What a person wants to read."""
        steps = self.common
        alone = [
            f"{len(series.losses) - len(steps)} more in {series.name}"
            for series in (self.first, self.second)
            if len(series.losses) > len(steps)
        ]
        counted = f"{self.key}: {len(steps)} common steps, {steps[0]} to {steps[-1]}"
        equal = "bit for bit" if self.tolerance == 0 else f"within {self.tolerance:g}"
        lines = ["; ".join([counted, *alone])]
        step = self.first_difference()
        if step is None:
            return [*lines, f"  equal {equal}"]
        largest = max(steps, key=self.difference)
        return [
            *lines,
            f"  differ from step {step} on: {self.first.losses[step]!r} and {self.second.losses[step]!r}",
            f"  largest difference {self.difference(largest):.3g} at step {largest}",
            f"  last common step {steps[-1]}: {self.first.losses[steps[-1]]:.4f} and "
            f"{self.second.losses[steps[-1]]:.4f}",
        ]


def main(arguments: list[str]) -> int:
    """Compares, draws, and tells by its exit status."""
    parser = FlagParser(prog="python scripts/compare.py", description=__doc__)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="run folder, as in runs/NAME")
    parser.add_argument(
        "--tolerance", type=float, default=0.0, help="nats that still count as equal (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("compare.png"), help="picture (default: %(default)s)")
    options = parser.parse_args(arguments)
    check_range(options, "--", "tolerance", low=0)
    check_place(options, "--", "output")
    check_trusted(options.output.absolute().parent, "--output")
    comparisons = compare(options.runs[0], options.runs[1], options.tolerance)
    print("\n".join(line for comparison in comparisons for line in comparison.describe()))
    draw(comparisons, options.output)
    print(f"picture: {options.output}")
    return int(any(comparison.first_difference() is not None for comparison in comparisons))


def compare(first: Path, second: Path, tolerance: float) -> list[Comparison]:
    """The training losses of two runs, and the validation losses where both have some.

    Raises:
        InputError: a folder without metrics, or two runs without a common step.
    """
    comparisons = []
    for key in ("loss", "validation_loss"):
        comparison = Comparison(key, _series(first, key), _series(second, key), tolerance)
        if comparison.common:
            comparisons.append(comparison)
    if not comparisons:
        raise InputError(f"{first} and {second} have logged no step in common")
    return comparisons


def draw(comparisons: Sequence[Comparison], picture: Path) -> None:
    """Both losses above, their difference below, over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for comparison, marks in zip(comparisons, ("-", "o--"), strict=False):
        for series in (comparison.first, comparison.second):
            steps = sorted(series.losses)
            values = [series.losses[step] for step in steps]
            above.plot(steps, values, marks, ms=4, lw=1.2, label=f"{literally(series.name)}: {comparison.key}")
        steps = comparison.common
        below.plot(steps, [comparison.difference(step) for step in steps], marks, ms=4, label=comparison.key)
    title = f"{comparisons[0].first.name} and {comparisons[0].second.name}"
    above.set(ylabel="loss (nats per token)", title=literally(title))
    below.set(xlabel="step", ylabel="difference")
    below.set_yscale("symlog", linthresh=1e-7)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_file(picture) as file:
        figure.savefig(file, format="png", dpi=110)


def _series(run: Path, key: str) -> Series:
    path = run / LOSS_FILE
    if not path.exists():
        raise InputError(f"{run}: no run there ({LOSS_FILE} is missing)")
    values = {line["step"]: line[key] for line in read_steps(path) if key in line}
    return Series(run.name, {step: math.nan if value is None else value for step, value in values.items()})


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
