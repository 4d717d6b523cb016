"""`torchrun --nproc-per-node N -m pretrain --config configs/X.yaml [--section.key value ...]`"""

import os
import sys

from common.cli import parse_config, run_command
from pretrain.accelerator import choose_accelerator
from pretrain.config import RunConfig


def main(arguments: list[str]) -> int:
    """Parses the config and trains."""
    config = parse_config(RunConfig, arguments, "python -m pretrain", "Pretrains a Shared DIFF Transformer.")
    choose_accelerator()
    from pretrain.run import pretrain  # torch and DeepSpeed are slow to import: --help does without

    pretrain(config)
    return 0


if __name__ == "__main__":
    # Every rank finds the same mistake; rank 0 says it.
    sys.exit(run_command(main, sys.argv[1:], quiet=os.environ.get("RANK", "0") != "0"))
