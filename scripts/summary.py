"""`python scripts/summary.py --run DIR [--export DIR]`: what a run has reached and where everything lies.

In: a run folder, and the folder of its export. Out: a few lines on the console.
"""

import sys
from pathlib import Path

from common.cli import parse_config, run_command
from common.errors import InputError
from common.flags import FlagParser
from data.stream import open_validation
from pretrain.checkpoint.layout import checkpoints_of, list_steps
from pretrain.config import RunConfig
from pretrain.places import CONFIG_FILE, LOSS_FILE, PLOT_FILE
from pretrain.step_lines import read_steps


def main(arguments: list[str]) -> int:
    """Prints the summary."""
    parser = FlagParser(prog="python scripts/summary.py", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--export", type=Path, help="folder of the exported model")
    options = parser.parse_args(arguments)
    print("\n".join(summary(options.run, options.export)))
    return 0


def summary(run: Path, export: Path | None) -> list[str]:
    """The lines of the summary.

    Raises:
        InputError: no run there, or none that was evaluated yet.
    """
    if not (run / CONFIG_FILE).exists():
        raise InputError(f"--run {run}: no run there ({CONFIG_FILE} is missing)")
    config = parse_config(RunConfig, ["--config", str(run / CONFIG_FILE)], "python scripts/summary.py")
    evaluations = [line for line in read_steps(run / LOSS_FILE) if line.get("validation_loss") is not None]
    if not evaluations:
        raise InputError(f"--run {run}: metrics.jsonl holds no evaluation yet")
    last = evaluations[-1]
    bits = last.get("validation_bits_per_byte")
    validation = open_validation(config.data)
    lines = [
        "",
        f"{config.name}: {config.model.attention}, step {last['step']} of {config.train.steps}",
        f"  validation loss   {last['validation_loss']:.4f} nats per token "
        + ("" if bits is None else f"({bits:.3f} bits per byte)"),
    ]
    if validation is not None:
        entropy = validation.unigram_entropy()
        lines.append(f"  unigram entropy   {entropy:.4f} nats per token of the same text: the loss without any context")
    checkpoints = list_steps(checkpoints_of(run))
    lines += [
        f"  loss curve        {run / PLOT_FILE}",
        f"  metrics           {run / LOSS_FILE}",
        f"  checkpoint        {checkpoints[-1] if checkpoints else 'none yet'}",
    ]
    return [*lines, f"  exported model    {export}"] if export is not None else lines


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
