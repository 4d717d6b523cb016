"""`torchrun --nproc-per-node N -m pretrain --config configs/X.yaml [--section.key value ...]`"""

import gc
import os
import sys
from typing import TYPE_CHECKING

from common.cli import parse_config, run_command
from pretrain.config import RunConfig
from pretrain.engines.accelerator import choose_accelerator
from pretrain.resilience.attempts import Outcome
from pretrain.resilience.signals import StopSignal, die_with_launcher
from pretrain.start_up import StartUp

if TYPE_CHECKING:
    from pretrain.run import NodeCheck


def main(arguments: list[str], check_nodes: "NodeCheck | None" = None) -> int:
    """Parses the config and trains; a stop that was asked for ends with status 0 and is on record in the run folder."""
    die_with_launcher()
    stop = StopSignal().install()
    config = parse_config(RunConfig, arguments, "python -m pretrain", "Pretrains a Shared DIFF Transformer.")
    choose_accelerator()
    with StartUp(quiet=os.environ.get("RANK", "0") != "0") as start_up:
        from pretrain.run import pretrain  # torch and DeepSpeed are slow to import: --help does without

        gc.freeze()  # what was imported stays: looking through it takes 0.3 s now and then, and 1.5 s at the end
        return 1 if pretrain(config, stop, check_nodes, start_up) is Outcome.GAVE_UP else 0


if __name__ == "__main__":
    # Every rank finds the same mistake; rank 0 says it.
    sys.exit(run_command(main, sys.argv[1:], quiet=os.environ.get("RANK", "0") != "0", training=True))
