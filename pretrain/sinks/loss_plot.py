"""loss.png: training and validation loss over tokens.

In: metrics, and the lines of earlier starts. Out: the picture, as it was at the last evaluation or at the end. Always:
a picture that cannot be drawn is a warning.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.drawn import literally
from common.files import atomic_file, finite
from common.typed import shortened
from pretrain.places import PLOT_FILE
from pretrain.sinks.base import Sink


class LossPlot(Sink):
    """loss.png: training and validation loss over tokens, drawn at evaluations and at the end.

    It keeps what it draws: lines with telemetry are long, and reading them all again would hold up a long run.
    """

    title = PLOT_FILE

    def __init__(self, before: Iterable[Mapping[str, Any]], picture: Path, heading: str) -> None:
        """``before``: the lines of earlier starts."""
        self._lines = [_drawn(line) for line in before]
        self._lines_drawn = -1
        self._picture = picture
        self._heading = heading

    def write(self, metrics: Mapping[str, Any]) -> None:
        self._lines.append(_drawn(metrics))
        if "validation_loss" in metrics:
            self.close()

    def close(self) -> None:
        if self._lines_drawn == len(self._lines):
            return
        try:
            draw_losses(self._lines, self._picture, self._heading)
            self._lines_drawn = len(self._lines)
        except Exception as error:
            said = shortened(" ".join(str(error).split()) or repr(error))
            print(f"WARNING: {self._picture}: not drawn: {said}", flush=True)


def _drawn(line: Mapping[str, Any]) -> dict[str, Any]:
    """What ``draw_losses`` draws of a line."""
    return finite({key: line[key] for key in ("step", "tokens", "loss", "validation_loss") if key in line})


def draw_losses(lines: Sequence[Mapping[str, Any]], picture: Path, heading: str) -> None:
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
    axes.set(xlabel="tokens", ylabel="loss (nats per token)", title=literally(heading))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_file(picture) as file:
        figure.savefig(file, format="png", dpi=110)
