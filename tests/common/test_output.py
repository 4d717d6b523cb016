"""A full disk, a closed pipe or a closed stream under the output: the work goes on, and the end says what was lost."""

import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from common.cli import run_command
from common.errors import InputError
from common.files import write_atomically

FULL = Path("/dev/full")
PROGRAM = """
    import sys
    from common.cli import run_command

    def main(arguments):
        for number in range(20_000):
            print("line", number, flush=number % 100 == 0)
        with open(arguments[0], "w") as file:
            file.write("done")

    sys.exit(run_command(main, sys.argv[1:], training="training" in sys.argv))
"""


def shell(command: str, tmp_path: Path, body: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    """`command` in bash, with PROG for the program and its one argument."""
    (tmp_path / "program.py").write_text(textwrap.dedent(body))
    program = f"{sys.executable} {tmp_path / 'program.py'} {tmp_path / 'result'}"
    return subprocess.run(
        ["bash", "-c", command.replace("PROG", program)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("PROG > /dev/full", 2, "warning: standard output: No space left on device"),
        ("PROG training > /dev/full", 0, "warning: standard output: No space left on device"),
        ("PROG | head -1; exit ${PIPESTATUS[0]}", 141, ""),
        ("PROG training | head -1; exit ${PIPESTATUS[0]}", 0, "warning: standard output: Broken pipe"),
        ("PROG >&-", 0, ""),
        ("PROG > /dev/full 2>&1", 2, ""),
        ("PROG >&- 2>&-", 0, ""),
        ("PROG 2> /dev/full", 0, ""),
    ],
)
def test_the_work_is_done_whatever_becomes_of_its_output(command: str, status: int, said: str, tmp_path: Path) -> None:
    done = shell(command, tmp_path)
    assert (tmp_path / "result").read_text() == "done"
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == (1 if said else 0), done.stderr


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    body = """
        import os, sys
        from common.cli import run_command

        def main(arguments):
            with open(arguments[0], "w") as file:
                os.system("echo from another program")
                file.write("done")

        sys.exit(run_command(main, sys.argv[1:]))
    """
    assert shell("PROG <&- >&- 2>&-", tmp_path, body).returncode == 0
    assert (tmp_path / "result").read_text() == "done"


def test_a_narrow_encoding_writes_escapes(tmp_path: Path) -> None:
    body = """
        import sys
        from common.cli import run_command

        sys.exit(run_command(lambda arguments: print("2 \\u00d7 3 \\udc80"), sys.argv[1:]))
    """
    done = shell("PYTHONIOENCODING=ascii PROG", tmp_path, body)
    assert (done.returncode, done.stdout) == (0, "2 \\xd7 3 \\udc80\n")


def test_the_streams_are_what_they_were_afterwards() -> None:
    before = sys.stdout, sys.stderr
    assert run_command(lambda arguments: 7, []) == 7
    assert (sys.stdout, sys.stderr) == before


def test_ctrl_c_is_one_line_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: list[str]) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    try:
        assert run_command(main, []) == 130
        assert capsys.readouterr().err == "interrupted; what was finished is kept\n"
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(KeyboardInterrupt):
        run_command(main, ["--debug"])
    signal.signal(signal.SIGINT, before)


def test_an_error_of_the_machine_is_one_line_that_names_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    target = tmp_path / "x.json"

    def main(arguments: list[str]) -> None:
        write_atomically(target, "x")

    assert run_command(main, []) == 2
    assert capsys.readouterr().err == f"error: {target}: No space left on device\n"
    assert list(tmp_path.iterdir()) == [], "nothing half-written"
    with pytest.raises(OSError):
        run_command(main, [], training=True)


def test_a_message_does_not_fill_pages(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: list[str]) -> None:
        raise InputError("x" * 100_000)

    assert run_command(main, []) == 2
    assert len(capsys.readouterr().err) < 1500


def test_help_that_cannot_be_printed_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(arguments: list[str]) -> None:
        print("usage")
        raise SystemExit(0)

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(FULL.open("wb", buffering=0), write_through=True))
    assert run_command(main, []) == 2
