"""vLLM's server for one model folder, on this machine's loopback.

In: the `vllm` command of some environment, a folder, options of `vllm serve`. Out: a Server, which answers completions
as OpenAI's API does. Always: nothing but a loopback address listens; nothing is sent elsewhere; the server ends with
the block, and its own words stand in a file that errors name.
"""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError

HOST = "127.0.0.1"
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""no use is reported, and no model is looked for elsewhere"""
CACHE_GIB = "1"
"""of keys and values, where nobody says more; it is allocated at the start"""
LONGEST_START = 1200.0
"""seconds"""
LONGEST_ANSWER = 300.0
ENDING = 20.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    address: str
    model: str
    """what requests call the model"""

    def complete(self, prompt: str | Sequence[int], new_tokens: int, **options: Any) -> dict[str, Any]:
        """One greedy completion of a text or of token ids; ``options`` go into the request.

        Returns:
            The choice, with `usage` of the answer.
        """
        tokens = prompt if isinstance(prompt, str) else list(prompt)
        request = {"model": self.model, "prompt": tokens, "max_tokens": new_tokens, "temperature": 0, **options}
        answer = self._ask("/v1/completions", request)
        return {**answer["choices"][0], "usage": answer["usage"]}

    def models(self) -> list[str]:
        """The names that it answers to."""
        return [model["id"] for model in self._ask("/v1/models")["data"]]

    def metric(self, name: str) -> float:
        """The sum of the counters called ``name`` in its metrics; 0 where there is none."""
        lines = [line for line in self._get("/metrics").splitlines() if line.partition("{")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def is_ready(self) -> bool:
        """Whether it answers already."""
        try:
            self._get("/health")
        except (OSError, InputError):  # nobody listens yet, or it says that it is not ready
            return False
        return True

    def _ask(self, path: str, body: Any = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._get(path, body))
        return answer

    def _get(self, path: str, body: Any = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with DIRECT.open(request, timeout=LONGEST_ANSWER) as answer:
                text: str = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise InputError(f"{self.address}{path}: {error.code}: {error.read().decode()[:400]}") from None
        return text


@contextmanager
def serving(command: Path, folder: Path, log: Path, options: Sequence[str] = ()) -> Iterator[Server]:
    """``vllm serve folder`` with ``options``, from when it answers.

    Raises:
        InputError: no such command, or the server ended or did not answer in time; names ``log``.
    """
    if not command.is_file():
        raise InputError(f"{command}: no such command; `make test-serve` makes an environment that has it")
    port = _free_port()
    words = [str(command), "serve", str(folder), "--host", HOST, "--port", str(port), "--served-model-name", "model"]
    own = {"PATH": f"{command.parent}:{os.environ.get('PATH', os.defpath)}", **QUIET}
    environment = {"VLLM_CPU_KVCACHE_SPACE": CACHE_GIB, **os.environ, **own}
    environment.pop("PYTHONPATH", None)  # its environment has other versions
    server = Server(f"http://{HOST}:{port}", "model")
    with log.open("w") as output:
        process = subprocess.Popen(
            [*words, *options], stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            _wait(server, process, log)
            yield server
        finally:
            _end(process)


def _wait(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    latest = time.monotonic() + LONGEST_START
    while not server.is_ready():
        if process.poll() is not None:
            raise InputError(f"{log}: the server ended with status {process.returncode}: {_last_words(log)}")
        if time.monotonic() > latest:
            raise InputError(f"{log}: the server did not answer within {LONGEST_START:g} s: {_last_words(log)}")
        time.sleep(0.5)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server and all that it started, which are one group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started may be slower than the server itself
    process.wait()


def _last_words(log: Path) -> str:
    """The last line with an error in it, or the last one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it said nothing"])[-1][:400]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
