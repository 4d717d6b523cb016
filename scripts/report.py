"""`python scripts/report.py RUN [RUN ...] [--output report.html | --serve]`: runs side by side on one page.

In: run folders; results of `scripts/evaluate.py --output RUN/evaluations/NAME.json` are found there.
Out: one HTML file with all that it shows inside: where the runs stand, their curves over tokens, samples of text,
evaluations, starts, lambda per layer, differing settings; or, with --serve, that page in a browser while runs go on.
"""

import sys
from pathlib import Path

from common.cli import run_command
from common.files import write_atomically
from common.flags import FlagParser
from common.private import check_trusted
from common.ranges import check_place, check_range


def main(arguments: list[str]) -> None:
    """Writes the page, or serves it."""
    parser = FlagParser(prog="python scripts/report.py", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, as in runs/NAME")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="HTML file (default: %(default)s)")
    parser.add_argument("--serve", action="store_true", help="write no file; show the page while the runs go on")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port to serve at; 0: any (default: %(default)s)")
    options = parser.parse_args(arguments)
    check_place(options, "--", "output")
    check_range(options, "--", "port", low=0, high=65535)
    if options.serve:
        _serve(options.runs, options.host, options.port)
        return
    check_trusted(options.output.absolute().parent, "--output")

    from scripts.reporting.page import report_page
    from scripts.reporting.runs import read_run

    write_atomically(options.output, report_page([read_run(run) for run in options.runs]))
    print(f"report: {options.output}")


def _serve(runs: list[Path], host: str, port: int) -> None:
    """Until somebody ends it."""
    from scripts.reporting.page import report_page
    from scripts.reporting.runs import read_run
    from scripts.reporting.serve import EVERY, LivePage, open_server

    page = LivePage(runs, lambda: report_page([read_run(run) for run in runs], EVERY))
    page.content()  # what cannot be read is said here, not in the browser
    with open_server(page, host, port) as server:
        print(f"report: http://{host}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("report: no longer served", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
