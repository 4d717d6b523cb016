"""The servers' helper and the table of kinds under them, with a stand-in for vLLM's command."""

import sys
from collections.abc import Callable
from email.message import Message
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import pytest
import torch

from common.cli import run_command
from common.errors import InputError
from model.kinds.registry import kind_names
from scripts.bench_serve import Row, main, table
from scripts.hub.loading import load_model
from scripts.serving import server
from scripts.serving.pair import write_untrained
from scripts.serving.server import serving
from tests.scripts.conftest import KINDS

STAND_IN = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

word, folder, *options = sys.argv[1:]
assert word == "serve" and os.path.isdir(folder) and "PYTHONPATH" not in os.environ
assert os.environ["HF_HUB_OFFLINE"] == "1"
told = dict(zip(options[::2], options[1::2]))
METRICS = 'hits_total{{a="1"}} 3.0\\nhits_total{{a="2"}} 4\\nhits_total_more 9\\n'


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        answers = {{"/health": "", "/metrics": METRICS, "/v1/models": json.dumps({{"data": [{{"id": "model"}}]}})}}
        self.answer(200, answers[self.path])

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["max_tokens"] > 100:
            return self.answer(400, "too long")
        usage = {{"completion_tokens": asked["max_tokens"], "pid": os.getpid()}}
        self.answer(200, json.dumps({{"choices": [{{"text": asked["prompt"]}}], "usage": usage}}))

    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


ThreadingHTTPServer((told["--host"], int(told["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[[str], Path]:
    """A command of these words."""

    def write(text: str) -> Path:
        path = tmp_path / "vllm"
        path.write_text(text.format(python=sys.executable))
        path.chmod(0o755)
        return path

    return write


def test_a_server_answers_within_the_block_and_is_gone_behind_it(
    command: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    with serving(command(STAND_IN), tmp_path, tmp_path / "log", ["--dtype", "float32"]) as running:
        assert running.address.startswith("http://127.0.0.1:")
        assert running.models() == ["model"]
        assert running.metric("hits_total") == 7 and running.metric("none") == 0
        choice = running.complete((3, 1, 2), 5, ignore_eos=True)
        assert choice["text"] == [3, 1, 2] and choice["usage"]["completion_tokens"] == 5
        with pytest.raises(InputError, match="v1/completions: 400: too long"):
            running.complete("a", 101)
    assert not running.is_ready()
    assert not Path(f"/proc/{choice['usage']['pid']}").exists()


def test_a_server_that_ends_or_is_not_there_is_named(
    command: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = "#!{python}\nprint('ValueError: of the model')\nprint('bye')\nraise SystemExit(3)\n"
    with pytest.raises(InputError, match="log: the server ended with status 3: ValueError: of the model"):
        serving(command(ends), tmp_path, tmp_path / "log").__enter__()
    monkeypatch.setattr(server, "LONGEST_START", 0.2)
    with pytest.raises(InputError, match=r"did not answer within 0\.2 s: it said nothing"):
        serving(command("#!{python}\nimport time\ntime.sleep(30)\n"), tmp_path, tmp_path / "log").__enter__()
    with pytest.raises(InputError, match="none: no such command; `make test-serve`"):
        serving(tmp_path / "none", tmp_path, tmp_path / "log").__enter__()


@pytest.mark.parametrize("kind", ["standard", "shared_diff-head-layer", "diff_v2-grouped"])
def test_an_untrained_model_is_a_whole_export(kind: str, tmp_path: Path) -> None:
    parameters = write_untrained(tmp_path / "model", KINDS[kind], 64, "bfloat16")
    model = load_model(tmp_path / "model", trust_remote_code=False)
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == parameters
    assert model.config.max_position_embeddings == 64


def test_every_kind_has_a_line(command: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--layers=1", "--requests=3", "--prompt-tokens=7", "--new-tokens=5", "--rounds=1"]
    assert run_command(main, [f"--vllm={command(STAND_IN)}", *sizes]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == kind_names()
    assert "x standard" in heading
    cached = {row.split()[0]: int(row.split()[2].replace(",", "")) for row in rows}
    assert cached["standard"] == cached["shared_diff"] == 2 * cached["diff_v2"] == 4 * 4 * 64


def test_the_first_kind_is_the_measure() -> None:
    rows = [Row("one", 5, 8, 40.0), Row("other", 7, 8, 30.0)]
    assert [line.split()[-2:] for line in table(rows)[1:]] == [["40.0", "1.00"], ["30.0", "0.75"]]


def test_a_server_that_says_it_is_not_ready_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Early:
        def open(self, request: Request, timeout: float) -> None:
            raise HTTPError(request.full_url, 503, "Service Unavailable", Message(), BytesIO(b"loading"))

    monkeypatch.setattr(server, "DIRECT", Early())
    assert not server.Server("http://127.0.0.1:1", "model").is_ready()
