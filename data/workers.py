"""Processes that do heavy work task by task, with progress.

In: a module-level function and the arguments of each task. Out: the results in the order of the tasks. Always:
a worker ends when its parent does, however that ends; a worker that is killed is reported, not waited for.

Each worker has a pipe to its parent, which the kernel closes when the parent ends. Tasks, results and amounts of work
done pass through it; the parent adds the amounts up for its progress line.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from common.errors import InputError
from data.progress import Progress

Report = Callable[[int, int], None]
"""Called by a task with (bytes, tokens) done since its last call."""


class Workers:
    """``count`` processes, started with the first tasks; one worker means this process."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._processes:
            connection.close()  # an idle worker ends by itself
        for process in self._processes.values():
            process.join(1.0)
            process.terminate()
            process.join()

    def run(
        self,
        title: str,
        total_bytes: int,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        names: Sequence[str] = (),
    ) -> list[Any]:
        """``function(*task, report)`` for every task; ``names`` say what each is about, for errors."""
        progress = Progress(title, total_bytes)
        if self._count == 1 or len(tasks) <= 1:
            results = [function(*task, progress.add) for task in tasks]
        else:
            results = self._run_in_processes(progress, function, tasks, names)
        progress.finish()
        return results

    def _run_in_processes(
        self, progress: Progress, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], names: Sequence[str]
    ) -> list[Any]:
        while len(self._processes) < min(self._count, len(tasks)):
            self._start()
        results: dict[int, Any] = {}
        waiting = iter(enumerate(tasks))
        working: dict[Connection, int] = {}
        idle = list(self._processes)
        while len(results) < len(tasks):
            for connection in idle:
                if (task := next(waiting, None)) is not None:
                    working[connection] = task[0]
                    connection.send((function, task[1]))
            idle = []
            for ready in wait(list(working)):
                assert isinstance(ready, Connection)
                kind, content = _receive(ready, names[working[ready]] if names else progress.title)
                if kind == "done":
                    progress.add(*content)
                elif kind == "result":
                    results[working.pop(ready)] = content
                    idle.append(ready)
                else:
                    raise content
        return [results[place] for place in range(len(tasks))]

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        # Ctrl-C goes to every process of the terminal; ours tells the workers to end. With the first worker Python
        # starts a process of its own, and unblocks the signal while it does so: it must be there before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._processes[ours] = process


def _receive(connection: Connection, what: str) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = connection.recv()
    except (EOFError, OSError):
        raise InputError(
            f"{what}: a worker process was killed over it, for lack of memory perhaps: call again, with fewer "
            "--workers; what is finished is kept"
        ) from None
    return message


def _serve(connection: Connection) -> None:
    """A worker's life: tasks in, reports and results out, until the pipe is closed."""
    try:
        while True:
            function, arguments = connection.recv()
            connection.send(_answer(function, arguments, lambda *amounts: connection.send(("done", amounts))))
    except (EOFError, OSError):
        return


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...], report: Report) -> tuple[str, Any]:
    try:
        return "result", function(*arguments, report)
    except InputError as error:
        return "error", error
    except OSError as error:
        return "error", InputError(f"{error.filename or 'a worker'}: {error.strerror or error}")
    except MemoryError:
        return "error", InputError("a worker process has no memory left: call again, with fewer --workers")
    except Exception:
        return "error", RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
