"""`python scripts/report.py RUN [RUN ...] [--output report.html]`: runs side by side on one page.

In: run folders; results of `scripts/evaluate.py --output RUN/evaluations/NAME.json` are found there.
Out: one HTML file with its pictures inside: losses, AR-hits, evaluations, lambda per layer, differing settings.
"""

import sys
from pathlib import Path

from common.cli import run_command
from common.files import write_atomically
from common.flags import FlagParser
from common.private import check_trusted
from common.ranges import check_place


def main(arguments: list[str]) -> None:
    """Writes the page."""
    parser = FlagParser(prog="python scripts/report.py", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, as in runs/NAME")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="HTML file (default: %(default)s)")
    options = parser.parse_args(arguments)
    check_place(options, "--", "output")
    check_trusted(options.output.absolute().parent, "--output")

    from scripts.reporting.page import report_page
    from scripts.reporting.runs import read_run

    write_atomically(options.output, report_page([read_run(run) for run in options.runs]))
    print(f"report: {options.output}")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
