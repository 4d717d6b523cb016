"""The names of what lies in a run folder, for all who read or write there.

In: nothing. Out: names, relative to the run folder.
"""

from pathlib import Path

CONFIG_FILE = "config.yaml"
"""the run's resolved config"""
CHECKPOINTS = "checkpoints"
LOGS = "logs"
LOG_FILE = Path(LOGS) / "run.log"
"""what all attempts of all jobs have printed"""
