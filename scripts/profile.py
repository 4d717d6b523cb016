"""`python scripts/profile.py --config configs/X.yaml [--section.key value ...]`: where a training step's time goes.

In: the training's own arguments; under torchrun as many processes as the config's topology needs. Out: of rank 0 the
costliest operations, the share of each group (attention, products, norms, loss, optimizer, communication, waiting), and
in --output a trace for chrome://tracing or ui.perfetto.dev. Always: tokens are drawn at random, no corpus is read; a
CPU does, too.
"""

import importlib.machinery
import importlib.util
import sys
import sysconfig
from pathlib import Path
from typing import Any

from common.cli import parse_config, run_command
from common.flags import FlagParser
from common.ranges import check_range

PROGRAM = "python scripts/profile.py"


def main(arguments: list[str]) -> int:
    """Prints the tables and writes them beside the trace."""
    parser = FlagParser(
        prog=PROGRAM,
        usage="%(prog)s --config FILE [--steps N] [--output DIR] [--section.key value ...]",
        description=f"{__doc__}\nAll other arguments are those of `python -m pretrain`; its --help lists them.",
    )
    parser.add_argument("--steps", type=int, default=3, help="profiled steps, after two that are not (default: 3)")
    parser.add_argument("--most", type=int, default=25, help="operations in the table (default: 25)")
    parser.add_argument("--output", help="folder for trace.json.gz and profile.txt (default: runs/NAME/profile)")
    flags, training = parser.parse_known_args(arguments)
    check_range(flags, "--", "steps", "most", low=1)
    from pretrain.config import RunConfig  # torch is slow to import: --help does without

    config = parse_config(RunConfig, training, PROGRAM)
    from pretrain.engines.accelerator import choose_accelerator

    choose_accelerator()
    from pretrain.checks import check_run
    from pretrain.engines.connection import connect, disconnect
    from pretrain.topology import topology_from_environment
    from scripts.speed.profiling import profiled
    from scripts.speed.shares import table
    from scripts.speed.stepping import random_run

    topology = topology_from_environment(config.parallel)
    check_run(config, topology)
    output = Path(flags.output) if flags.output else config.run_folder / "profile"
    if topology.is_main:
        output.mkdir(parents=True, exist_ok=True)
    connect(topology)
    run = random_run(config, topology)
    found = profiled(run, flags.steps, output / "trace.json.gz" if topology.is_main else None)
    if topology.is_main:
        lines = [f"{config.name}: {run.engine.describe()}", "", *table(found, flags.most)]
        (output / "profile.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join([*lines, "", f"trace: {output / 'trace.json.gz'}"]), flush=True)
    disconnect()
    return 0


def __getattr__(name: str) -> Any:
    """A name of the standard library's `profile`.

    Python puts a script's folder before the standard library, so that cProfile, which torch imports, finds this file
    where it looks for that one.
    """
    spec = importlib.machinery.PathFinder.find_spec("profile", [sysconfig.get_path("stdlib")])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
