"""Nodes on one machine, each with a network of its own, joined by links of a set rate.

In: a number of nodes, rates in bytes per second. Out: processes on the nodes, and the bytes that the kernel counted.
Needs root and iproute2. Always: everything lives in network namespaces named after this process; leaving the `with`
block ends the processes that were started in it and removes the namespaces, also after Ctrl-C.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from common.errors import InputError

PREFIX = "pretrain-links"
SUBNET = "10.78.0"
SWITCH = "switch"
LEAST_BURST = 128 * 1024
"""bytes that may leave at once; the kernel's packets within a machine have up to 64 KiB"""
BURST_SECONDS = 0.0005
"""of the rate: the timers of some kernels are no finer"""
QUIET_SECONDS = 0.3
"""a link on which nothing passes for so long is taken to be idle"""
QUIET_BYTES = 2000
"""of it, what keeps connections alive"""


def check_machine() -> None:
    """Raises InputError where there is no root, or no iproute2."""
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        raise InputError(f"slow links are made with {' and '.join(missing)}, not found here; install iproute2")
    if os.geteuid() != 0:
        raise InputError(f"slow links are made in network namespaces, by root only; this is user {os.geteuid()}")


class Links:
    """Nodes 0 .. n - 1, at 10.78.0.1 and so on, and a switch between them."""

    def __init__(self, nodes: int) -> None:
        prefix = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(3)}"
        self._names = [f"{prefix}-{number}" for number in range(nodes)]
        self._switch = f"{prefix}-{SWITCH}"
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        check_machine()
        _remove_leftovers()
        try:
            self._connect()
        except subprocess.CalledProcessError as error:
            self._remove()
            raise InputError(f"this machine refuses `{' '.join(error.cmd)}`: {error.stderr.strip()}") from None
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @staticmethod
    def address(node: int) -> str:
        """Where other nodes reach ``node``."""
        return f"{SUBNET}.{node + 1}"

    def limit(self, rate: float | None, nodes: Sequence[int] | None = None) -> None:
        """Every node, or each of ``nodes``, sends at most ``rate`` bytes per second from here on; None: as fast as the
        machine can."""
        for name in self._names if nodes is None else [self._names[node] for node in nodes]:
            with contextlib.suppress(subprocess.CalledProcessError):  # there was no limit
                _run("tc", "-n", name, "qdisc", "delete", "dev", "eth0", "root")
            if rate is not None:
                burst = max(LEAST_BURST, int(rate * BURST_SECONDS))
                shape = ["tbf", "rate", f"{int(8 * rate)}bit", "burst", f"{burst}b", "latency", "400ms"]
                _run("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", *shape)

    def start(
        self, node: int, command: Sequence[str], environment: Mapping[str, str], errors: IO[bytes]
    ) -> subprocess.Popen[str]:
        """Starts ``command`` on ``node``, with pipes to and from it; its standard error goes to a file."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._names[node], *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "eth0", **environment},
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
        self._started.append(process)
        return process

    def sent(self) -> list[int]:
        """Bytes that each node has sent so far, once its link is idle."""
        before = self._counters()
        while True:
            time.sleep(QUIET_SECONDS)
            now = self._counters()
            if all(new - old <= QUIET_BYTES for old, new in zip(before, now, strict=True)):
                return now
            before = now

    def stop(self) -> None:
        """Ends the processes that were started here, and waits for them."""
        for process in self._started:
            with contextlib.suppress(OSError):
                process.kill()
        for process in self._started:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._started.clear()

    def _counters(self) -> list[int]:
        counter = "/sys/class/net/eth0/statistics/tx_bytes"
        return [int(_run("ip", "netns", "exec", name, "cat", counter)) for name in self._names]

    def _connect(self) -> None:
        for name in [self._switch, *self._names]:
            _run("ip", "netns", "add", name)
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        for number, name in enumerate(self._names):
            other_end = ["peer", "name", "eth0", "netns", name]
            _run("ip", "-n", self._switch, "link", "add", f"to-{number}", "type", "veth", *other_end)
            _run("ip", "-n", self._switch, "link", "set", f"to-{number}", "master", "bridge", "up")
            _run("ip", "-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _run("ip", "-n", name, "link", "set", device, "up")

    def _remove(self) -> None:
        self.stop()
        for name in _namespaces():
            if name in (self._switch, *self._names):
                _run("ip", "netns", "delete", name)


def _remove_leftovers() -> None:
    """Removes the networks of a process that was killed; its jobs ended when nobody spoke to them any more."""
    for name in _namespaces():
        owner = name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if name.startswith(f"{PREFIX}-") and not Path(f"/proc/{owner}").exists():
            _run("ip", "netns", "delete", name)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line]


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
