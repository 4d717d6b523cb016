"""The project's own commands, each as a process.

In: arguments behind `python`. Out: what the command prints, on the screen or in a log. Always: a command that failed
ends what asked for it, with one line; one that is logged is forked from a server that has imported what training and
evaluation need, which saves ten seconds each, and dies with whoever asked for it: a killed study leaves no training.
"""

import contextlib
import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from common.errors import InputError
from pretrain.engines.accelerator import choose_accelerator

PRELOADED = ["pretrain.run", "scripts.hub.modeling_shared_diff"]
LOOK_EVERY = 0.3
"""seconds between two looks at a logged command"""
PATIENCE = 60.0
"""seconds in which a command that is asked to end has to"""


class CommandError(InputError):
    """A command ended with another status than 0."""


def run_command_line(arguments: Sequence[str]) -> None:
    """Runs ``python ARGUMENTS`` and shows what it prints.

    Raises:
        CommandError: it ended with another status than 0.
    """
    print(f"$ python {' '.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, *arguments]).returncode
    if status:
        raise CommandError(f"python {' '.join(arguments[:3])} ...: ended with status {status}")


def run_logged(
    arguments: Sequence[str],
    log: Path,
    name: str,
    threads: int | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Runs ``python ARGUMENTS``, a module or a script, with what it prints at the end of the file ``log``.

    Args:
        name: what messages call the command.
        threads: processor threads that it may use (default: as it chooses).
        enough: asked now and then; once it says so, the command is asked to end, and its status means nothing.

    Raises:
        CommandError: it ended with another status than 0; the message has its last line.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = _server().Process(target=_run, args=(list(arguments), str(log), threads))
    process.start()
    try:
        status = _watched(process, enough)
    finally:
        process.kill()  # nothing, where it has ended
        process.join()
    if status:
        raise CommandError(f"{name}: {_last_line(log)}")


def _watched(process: ForkServerProcess, enough: Callable[[], bool]) -> int:
    """The exit status; 0 where it was asked to end."""
    while process.exitcode is None:
        process.join(LOOK_EVERY)
        if process.exitcode is None and enough():
            process.terminate()
            process.join(PATIENCE)
            return 0
    return process.exitcode


@functools.cache
def _server() -> ForkServerContext:
    choose_accelerator()
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of imports, which would stand between the study's lines
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(arguments: list[str], log: str, threads: int | None) -> None:
    """In the process: becomes the command."""
    threading.Thread(target=_end_with_who_asked, daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(file, f"$ python {' '.join(arguments)}\n".encode())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _end_with_who_asked() -> None:
    """The kernel's signal for a parent's death would not do: the parent is the server, which outlives whoever asked."""
    asker = multiprocessing.parent_process()
    assert asker is not None
    asker.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'no message'} ({log})"
