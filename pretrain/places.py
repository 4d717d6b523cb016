"""The names of what lies in a run folder, for all who read or write there.

In: nothing. Out: names, relative to the run folder.
"""

from pathlib import Path

CONFIG_FILE = "config.yaml"
"""the run's resolved config"""
LOSS_FILE = "metrics.jsonl"
"""a line for each logged step and each evaluation"""
PLOT_FILE = "loss.png"
CHECKPOINTS = "checkpoints"
EVALUATIONS = "evaluations"
"""what `scripts/evaluate.py --output` wrote of the run's checkpoints, if that is where it was told to"""
LOGS = "logs"
LOG_FILE = Path(LOGS) / "run.log"
"""what all attempts of all jobs have printed"""
WANDB = "wandb"
TENSORBOARD = "tensorboard"
