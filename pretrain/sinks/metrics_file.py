"""metrics.jsonl: one line for each logged step and each evaluation.

In: metrics. Out: lines of the file. Always: at most one line per step and kind; a full disk delays lines.
"""

from pretrain.places import LOSS_FILE
from pretrain.records import StepFile
from pretrain.sinks.base import Sink


class MetricsFile(StepFile, Sink):
    """The file."""

    title = LOSS_FILE
