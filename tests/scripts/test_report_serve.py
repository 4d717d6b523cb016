"""The report on a server of this machine: made anew when a file changes, told to nobody but this machine."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.cli import run_command, to_yaml
from common.errors import InputError
from pretrain.config import RunConfig
from scripts.report import main
from scripts.reporting import serve
from scripts.reporting.page import report_page
from scripts.reporting.runs import read_run
from scripts.reporting.serve import LivePage, open_server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(to_yaml(RunConfig(name="live")))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "tokens": 100, "loss": 5.125}) + "\n")
    return tmp_path


@pytest.fixture
def port(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server of that run, which looks at its files at every question."""
    monkeypatch.setattr(serve, "EVERY", 0)
    with open_server(LivePage([run], lambda: report_page([read_run(run)], 10)), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(port: int, path: str = "/", **headers: str) -> tuple[int, str, str | None]:
    """Status, content and tag."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.getheader("ETag")


def test_a_page_is_sent_again_only_when_it_has_changed(port: int, run: Path) -> None:
    status, page, tag = ask(port)
    assert status == 200 and "5.1250" in page and tag
    assert ask(port, **{"If-None-Match": tag}) == (304, "", tag)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "tokens": 200, "loss": 4.375}) + "\n")
    status, page, newer = ask(port, **{"If-None-Match": tag})
    assert status == 200 and "4.3750" in page and newer != tag


def test_what_cannot_be_read_just_now_is_said_and_comes_again(port: int, run: Path) -> None:
    good = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("{\n" + good)
    status, said, _ = ask(port)
    assert status == 503 and said.startswith(f"{run}/metrics.jsonl: line 1 is damaged: ")
    (run / "metrics.jsonl").write_text(good)
    assert ask(port)[0] == 200


def test_there_is_nothing_else_and_nothing_for_other_sites(port: int) -> None:
    assert ask(port, "/metrics.jsonl")[0] == 404
    assert ask(port, "/../../etc/passwd")[0] == 404
    assert ask(port, Host="evil.example:80")[0] == 403
    assert ask(port, Host=f"localhost:{port}")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/", body="x")
    assert connection.getresponse().status == 501


def test_a_page_is_made_once_for_many_who_ask_at_once() -> None:
    made = []

    def make() -> str:
        made.append(1)
        time.sleep(0.1)
        return "page"

    page = LivePage([], make)
    threads = [threading.Thread(target=page.content) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_port_that_is_taken_and_a_run_that_is_none_are_one_line(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=f"^--port {port}: nothing can be served at 127.0.0.1: "):
        open_server(LivePage([], lambda: ""), "127.0.0.1", port)
    assert run_command(main, [str(tmp_path / "nowhere"), "--serve", "--port", "0"]) == 2
    assert "no run there" in capsys.readouterr().err
