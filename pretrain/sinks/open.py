"""The sinks of a run, as its config names them.

In: the config, where the run starts, its id. Out: sinks, on rank 0. Always: those of other programs come last but for
the picture, and one that cannot be had is left out.
"""

from collections.abc import Mapping
from typing import Any

from pretrain.config import RunConfig
from pretrain.places import LOSS_FILE, PLOT_FILE
from pretrain.sinks.base import Sink
from pretrain.sinks.console import Console
from pretrain.sinks.loss_plot import LossPlot
from pretrain.sinks.metrics_file import MetricsFile
from pretrain.sinks.tensorboard import open_tensorboard
from pretrain.sinks.weights_and_biases import open_weights_and_biases
from pretrain.step_lines import read_steps
from pretrain.topology import Topology


def open_sinks(config: RunConfig, values: Mapping[str, Any], topology: Topology, start: int, run_id: str) -> list[Sink]:
    """The sinks of rank 0; other ranks have none."""
    if not topology.is_main:
        return []
    metrics, picture = config.run_folder / LOSS_FILE, config.run_folder / PLOT_FILE
    sinks: list[Sink | None] = [Console(config.train.steps), MetricsFile(metrics, start)]
    if config.metrics.wandb:
        sinks.append(open_weights_and_biases(config, values, run_id))
    if config.metrics.tensorboard:
        sinks.append(open_tensorboard(config.run_folder, start))
    sinks.append(LossPlot(read_steps(metrics), picture, f"{config.name} ({config.model.attention})"))
    return [sink for sink in sinks if sink is not None]
