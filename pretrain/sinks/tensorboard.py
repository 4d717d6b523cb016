"""TensorBoard: event files in the run folder, which `tensorboard --logdir` shows.

In: metrics. Out: one file of events for each start. Always: the package `tensorboard`, an extra, is only needed where
the config asks for this sink; without it a line says so, and the run goes on.
"""

from pathlib import Path
from typing import Any

from common.typed import shortened
from pretrain.places import TENSORBOARD
from pretrain.sinks.base import Dashboard

FLUSH_SECONDS = 10
"""after which events are on the disk at the latest"""


class TensorBoard(Dashboard[Any]):
    """The event files of one run."""

    name = "TensorBoard"

    def __init__(self, writer: Any, folder: Path) -> None:
        super().__init__(writer)
        self._folder = folder

    @property
    def title(self) -> str:
        return f"{self.name} in {self._folder}"

    def _send(self, target: Any, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            target.add_scalar(name, number, step)

    def _finish(self, target: Any) -> None:
        target.close()


def open_tensorboard(run_folder: Path, start: int) -> TensorBoard | None:
    """Begins a file of events; those that an earlier start wrote after step ``start`` are no longer shown."""
    folder = run_folder / TENSORBOARD
    try:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder), purge_step=start + 1, flush_secs=FLUSH_SECONDS)
    except ImportError:
        print(
            f"{TensorBoard.name} is off: the package is not there; pip install tensorboard, or set "
            "metrics.tensorboard to false",
            flush=True,
        )
        return None
    except Exception as error:
        print(f"{TensorBoard.name} is off: {folder}: {shortened(str(error))}", flush=True)
        return None
    return TensorBoard(writer, folder)
