"""Where metrics go: the console, metrics.jsonl, loss.png and Weights & Biases. Rank 0 only.

In: the dicts of pretrain/metrics.py and of evaluations. Out: one line, object, point each.
Always: metrics.jsonl holds at most one line per step and kind; nothing here can stop a run, not even a full disk.
"""

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from common.files import atomic_file, finite
from common.urls import values_without_credentials, without_credentials
from pretrain.config import RunConfig
from pretrain.records import StepFile

LOSS_FILE = "metrics.jsonl"
PLOT_FILE = "loss.png"


class Sink(ABC):
    """Takes metrics."""

    @abstractmethod
    def write(self, metrics: Mapping[str, Any]) -> None:
        """One training step or evaluation."""

    @abstractmethod
    def close(self) -> None:
        """The run ends."""


class MetricsFile(StepFile, Sink):
    """metrics.jsonl."""


class Console(Sink):
    """One line per logged step."""

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps

    def write(self, metrics: Mapping[str, Any]) -> None:
        step = f"step {metrics['step']:>{len(str(self._total_steps))}}/{self._total_steps}"
        if "validation_loss" in metrics:
            bits = metrics["validation_bits_per_byte"]
            print(
                f"{step}  validation loss {metrics['validation_loss']:.4f}  "
                + (f"{bits:.4f} bits/byte  " if bits is not None else "")
                + f"perplexity {metrics['validation_perplexity']:.1f}",
                flush=True,
            )
            return
        left = (self._total_steps - metrics["step"]) * metrics["step_seconds"]
        utilization = metrics["model_flops_utilization"]
        print(
            f"{step}  loss {metrics['loss']:.4f}  grad norm {metrics['grad_norm']:.3f}  "
            f"lr {metrics['learning_rate']:.2e}  {metrics['tokens_per_second']:,.0f} tokens/s  "
            + (f"MFU {utilization:.1%}  " if utilization else "")
            + f"left {timedelta(seconds=round(left))}"
            + ("" if metrics["applied"] else "  SKIPPED"),
            flush=True,
        )

    def close(self) -> None:
        """Nothing to do."""


class LossPlot(Sink):
    """loss.png: training and validation loss over tokens, drawn at evaluations and at the end.

    It keeps what it draws: lines with telemetry are long, and reading them all again would hold up a long run.
    """

    def __init__(self, before: Iterable[Mapping[str, Any]], picture: Path, title: str) -> None:
        """``before``: the lines of earlier starts."""
        self._lines = [_drawn(line) for line in before]
        self._lines_drawn = -1
        self._picture = picture
        self._title = title

    def write(self, metrics: Mapping[str, Any]) -> None:
        self._lines.append(_drawn(metrics))
        if "validation_loss" in metrics:
            self.close()

    def close(self) -> None:
        if self._lines_drawn == len(self._lines):
            return
        try:
            draw_losses(self._lines, self._picture, self._title)
            self._lines_drawn = len(self._lines)
        except OSError as error:
            print(f"WARNING: {self._picture}: not drawn: {error}", flush=True)


def _drawn(line: Mapping[str, Any]) -> dict[str, Any]:
    """What ``draw_losses`` draws of a line."""
    return finite({key: line[key] for key in ("step", "tokens", "loss", "validation_loss") if key in line})


class WeightsAndBiases(Sink):
    """One run there; offline unless the user is logged in. What fails there turns this sink off, not the run."""

    def __init__(self, run: Any) -> None:
        self._run: Any | None = run

    @classmethod
    def start(cls, config: RunConfig, settings: Mapping[str, Any], run_id: str) -> "WeightsAndBiases | None":
        """Starts or continues the page of run ``run_id``; None, with one line of reason, where that is not possible."""
        try:
            import wandb

            online = bool(wandb.login(prompt=False))
            with _shown_arguments():
                run = wandb.init(
                    project=config.metrics.wandb_project,
                    name=config.name,
                    id=run_id,
                    resume="allow" if online else None,
                    dir=str(config.run_folder),
                    config=values_without_credentials(dict(settings)),
                    mode="online" if online else "offline",
                    settings=wandb.Settings(silent=True, console="off"),
                )
        except Exception as error:
            print(f"Weights & Biases is off: {without_credentials(str(error))}", flush=True)
            return None
        return cls(run)

    def write(self, metrics: Mapping[str, Any]) -> None:
        flat = {name: value for name, value in flattened(metrics) if name != "step"}
        self._attempt(lambda run: run.log(flat, step=metrics["step"]))

    def close(self) -> None:
        self._attempt(lambda run: run.finish())

    def _attempt(self, call: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            print(f"Weights & Biases is off from here: {without_credentials(str(error))}", flush=True)
            self._run = None


def flattened(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each number under a name of its own: those of blocks end with the block's number, as in "telemetry/x/03"."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from flattened({f"{layer:02d}": number for layer, number in enumerate(value)}, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


@contextlib.contextmanager
def _shown_arguments() -> Iterator[None]:
    """Within it the command line, which wandb keeps and publishes, has no passwords of URLs."""
    arguments = sys.argv
    sys.argv = values_without_credentials(arguments)
    try:
        yield
    finally:
        sys.argv = arguments


def draw_losses(lines: Sequence[Mapping[str, Any]], picture: Path, title: str) -> None:
    """Draws training and validation loss over tokens into a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    training = [line for line in lines if line.get("loss") is not None and line.get("tokens") is not None]
    tokens_at = {line["step"]: line["tokens"] for line in training}
    validation = [line for line in lines if line.get("validation_loss") is not None and line["step"] in tokens_at]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["tokens"] for line in training], [line["loss"] for line in training], label="training", lw=1.2)
    axes.plot(
        [tokens_at[line["step"]] for line in validation],
        [line["validation_loss"] for line in validation],
        "o-",
        label="validation",
        ms=4,
    )
    axes.set(xlabel="tokens", ylabel="loss (nats per token)", title=title)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_file(picture) as file:
        figure.savefig(file, format="png", dpi=110)
