"""An export goes to the hub as the list says, file by file, and the token that lets it in is told to nobody else."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.cli import run_command
from common.errors import InputError
from scripts.export import ExportConfig, main
from scripts.hub.push import push, what_is_sent

TOKEN = "hf_aTokenThatNobodyMaySee7"
OF_ANOTHER = "hf_aTokenOfSomebodyElse11"


class Hub(ThreadingHTTPServer):
    """A hub of one repository, on loopback, that keeps what it is sent; or refuses, and repeats the token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.authorizations: set[str | None] = set()
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.message = ""
        self.refuses = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub.asked.append(self.path)
        hub.authorizations.add(self.headers.get("Authorization"))
        if hub.refuses:
            self.answer(400, {"error": f"no write access with {self.headers['Authorization']}, {OF_ANOTHER}"})
        elif self.path == "/api/repos/create" and hub.created:
            self.answer(409, {"error": "is there already", "url": f"{hub.url}/me/small"})
        elif self.path == "/api/repos/create":
            hub.created = json.loads(body)
            self.answer(200, {"url": f"{hub.url}/me/small"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": [{"message": f"seen {TOKEN}"}]})
        elif self.path == "/api/models/me/small/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer(
                200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        elif self.path == "/api/models/me/small/commit/main":
            entries = [json.loads(line) for line in body.splitlines()]
            hub.message = entries[0]["value"]["summary"]
            hub.files = {
                entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
                for entry in entries
                if entry["key"] == "file"
            }
            self.answer(200, {"commitUrl": f"{hub.url}/me/small/commit/abc", "commitOid": "abc"})
        else:
            self.answer(404, {"error": "nothing here"})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only hub that there is; who asks it is logged in."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def command(run_of: Callable[[str], Path], export_of: Callable[..., Path]) -> list[str]:
    """Of an export that is there already."""
    return [f"--run={run_of('standard')}", f"--output={export_of('standard')}"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_arrives_as_it_is_in_one_commit(
    hub: Hub,
    command: list[str],
    export_of: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    assert run_command(main, [*command, "--push=me/small"]) == 0
    assert hub.files == contents(export_of("standard"))
    assert {"README.md", "config.json", "export.json"} <= hub.files.keys()
    assert hub.message == "standard, step 0"
    assert (hub.created["name"], hub.created["organization"]) == ("small", "me")
    assert hub.created["visibility"] == "private"
    assert hub.authorizations == {f"Bearer {TOKEN}"}
    printed = capsys.readouterr()
    assert f"sent {len(hub.files)} files: {hub.url}/me/small/commit/abc" in printed.out
    assert TOKEN not in printed.out + printed.err
    assert [warning for warning in recwarn if TOKEN in str(warning.message)] == []


def test_everybody_sees_a_repository_that_is_made_so_and_another_commit_goes_to_it(
    hub: Hub, command: list[str]
) -> None:
    for _ in range(2):
        hub.files = {}
        assert run_command(main, [*command, "--push=me/small", "--private=false"]) == 0
        assert "README.md" in hub.files
    assert hub.created["visibility"] == "public"


def test_a_dry_run_lists_the_same_files_and_asks_nobody(
    hub: Hub, command: list[str], export_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, [*command, "--push", "me/small", "--dry-run"]) == 0
    assert hub.asked == []
    lines = capsys.readouterr().out.splitlines()
    expected = contents(export_of("standard"))
    (heading,) = [number for number, line in enumerate(lines) if line.startswith("would be sent to me/small: ")]
    listed = dict(reversed(line.split()) for line in lines[heading + 1 :])
    assert listed == {name: f"{len(content):,}" for name, content in expected.items()}
    assert lines[heading].endswith(f": {len(expected)} files, {sum(map(len, expected.values())):,} bytes")


@pytest.mark.parametrize("token", [TOKEN, "ofAnotherForm13"])
def test_what_the_hub_refuses_is_one_line_without_the_tokens_that_it_repeats(
    token: str, hub: Hub, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refuses = True
    monkeypatch.setenv("HF_TOKEN", token)
    assert run_command(main, [*command, "--push=me/small"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: --push me/small: BadRequestError: ")
    assert "no write access with Bearer [hidden], [hidden]" in printed.err
    assert printed.err.count("\n") == 1
    assert token not in printed.out + printed.err


def test_who_is_not_logged_in_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match=r"^--push me/small: nobody is logged in; set HF_TOKEN"):
        push(what_is_sent(tmp_path), "me/small", "m", private=True)


def test_neither_hidden_files_nor_what_a_link_leads_to_are_sent(tmp_path: Path) -> None:
    for hidden in (".cache", "d/.e"):
        (tmp_path / hidden).mkdir(parents=True)
        (tmp_path / hidden / "x").write_text("x")
    (tmp_path / "b").write_text("longer")
    (tmp_path / "a").write_text("y")
    assert [(file.name, file.size) for file in what_is_sent(tmp_path)] == [("a", 1), ("b", 6)]
    (tmp_path / "c").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="c is a link; an export holds none"):
        what_is_sent(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dry_run": True}, "^--dry-run: lists what --push would send; add --push REPOSITORY"),
        ({"push": "a/b/c"}, "^--push 'a/b/c': is no repository's name; name one as in me/my-model"),
        ({"push": "../b"}, "no repository's name"),
        ({"push": f"me/x --token {TOKEN}"}, "no repository's name"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is_exported(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ExportConfig("run", "out", **settings)
