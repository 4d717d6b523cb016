"""Worlds of processes for tests: N ranks over gloo, forked from one server that has imported everything.

In: the number of ranks and a function of module level. Out: what the function returned on every rank, by rank.
Always: torch and DeepSpeed are imported once per test session; a rank that fails or hangs ends the whole world. The
store through which ranks find each other lives in the test's process: no port is chosen twice, and a rank that is done
takes it from nobody.
"""

import functools
import gc
import multiprocessing
import multiprocessing.connection
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

from torch.distributed import TCPStore

PRELOADED = ["pretrain.run", "torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg"]


def run_world(size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 300.0) -> list[Any]:
    """Calls ``function(*arguments)`` on ``size`` ranks with torchrun's environment; returns the results by rank."""
    context = _context()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(
            target=_run_rank, args=(rank, size, store.port, pipes[rank][1], function, arguments), daemon=True
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    try:
        return _collect([receiver for receiver, _ in pipes], timeout)
    finally:
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()


def _collect(receivers: list[Connection], timeout: float) -> list[Any]:
    deadline = time.monotonic() + timeout
    results: dict[int, Any] = {}
    while len(results) < len(receivers):
        waiting = [r for rank, r in enumerate(receivers) if rank not in results]
        ready = multiprocessing.connection.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {[r for r in range(len(receivers)) if r not in results]} have not answered")
        for receiver in ready:
            rank = next(index for index, candidate in enumerate(receivers) if candidate is receiver)
            try:
                failure, value = pickle.loads(receiver.recv_bytes())
            except EOFError:
                raise RuntimeError(f"rank {rank} died") from None
            if failure is not None:
                raise RuntimeError(f"rank {rank}:\n{failure}")
            results[rank] = value
    return [results[rank] for rank in range(len(receivers))]


def _run_rank(
    rank: int, size: int, port: int, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
        GLOO_SOCKET_IFNAME="lo",
    )
    gc.freeze()  # else each collection would look through all that was imported, and so copy the server's memory
    import torch

    from pretrain.engines.connection import compile_nothing

    torch.set_num_threads(1)
    compile_nothing()
    try:
        answer = None, function(*arguments)
    except BaseException:
        answer = traceback.format_exc(), None
    # Plain pickle: torch's own way of sending tensors needs this process to live until they are read.
    sender.send_bytes(pickle.dumps(answer))
    sender.close()
    os._exit(0)  # process groups of a failed neighbour may hang at a normal exit


@functools.cache
def _context() -> ForkServerContext:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
