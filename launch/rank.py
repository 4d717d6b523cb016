"""One rank of a job: the node checks, then the training. `-m launch.rank` takes what `-m pretrain` takes."""

import os
import sys

from common.cli import run_command
from launch.node_checks import check_nodes
from pretrain.__main__ import main

if __name__ == "__main__":
    quiet = os.environ.get("RANK", "0") != "0"
    sys.exit(run_command(lambda arguments: main(arguments, check_nodes), sys.argv[1:], quiet, training=True))
