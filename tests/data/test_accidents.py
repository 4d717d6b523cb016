"""Accidents of the machine and the network while a corpus is prepared: one line that names the place, a status, and
nothing that would be taken for a whole preparation."""

import functools
import gzip
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.cli import run_command
from data.__main__ import main
from tests.conftest import ROOT
from tests.data.conftest import sentences
from tests.data.reading import read_all
from tests.disk import small_disk
from tests.processes import workers_of

TEXTS = [f"document {number}" for number in range(3)]


def prepare(*flags: str | Path) -> int:
    flags = ("--vocab-size", "270", "--workers", "1", *flags)
    return run_command(main, ["prepare", *(str(flag) for flag in flags)])


def only_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of the command; the lines of its progress stand before it."""
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Half a megabyte of text in six files."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for file in range(6):
        rows = (json.dumps({"text": sentences(1000 * file + row, 40)}) for row in range(30))
        (folder / f"{file}.jsonl").write_text("\n".join(rows))
    return folder


def test_a_full_disk_is_one_line_and_a_rerun_goes_on(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "160k") as disk:
        output = disk.folder / "out"
        assert prepare("--input", texts, "--output", output) == 2
        line = only_error(capsys)
        assert line.startswith(f"error: {output}/work/")
        assert line.endswith(": No space left on device")
        assert not list(output.rglob("*.partial"))
        assert not (output / "summary.json").exists()
        disk.remount("size=8m")
        assert prepare("--input", texts, "--output", output) == 0
        assert "parts are there already" in capsys.readouterr().err
        disk.remount("ro")
        assert prepare("--input", texts, "--output", disk.folder / "other") == 2
        assert only_error(capsys) == f"error: {disk.folder / 'other'}: Read-only file system"


def test_a_file_where_the_output_should_be_is_named(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("mine")
    assert prepare("--input", texts, "--output", tmp_path / "taken") == 2
    assert str(tmp_path / "taken") in only_error(capsys)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_damaged_file_ends_or_is_left_out_and_what_was_finished_is_kept(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prepared: Path
) -> None:
    whole = gzip.compress(b'{"text": "of a cut file"}\n' * 1000)
    (texts / "9.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    flags = ("--input", texts, "--output", tmp_path / "out", "--tokenizer", prepared / "train", "--keep-parts", "true")
    assert prepare(*flags) == 2
    assert only_error(capsys).startswith(f"error: {texts / '9.jsonl.gz'}: damaged")
    assert prepare(*flags, "--on-damage", "skip") == 0
    said = capsys.readouterr()
    assert "6 of 7 parts are there already" in said.err
    assert f"1 damaged, skipped: {texts / '9.jsonl.gz'}" in said.out
    (tmp_path / "out" / "summary.json").unlink()
    assert prepare(*flags) == 2  # a part that was skipped is not taken for a whole one
    assert "9.jsonl.gz: damaged" in only_error(capsys)


def test_an_empty_held_out_part_is_said(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("--input", texts / "0.jsonl", "--output", tmp_path / "out", "--validation", "1e-9") == 0
    assert "validation is empty: no document was held out" in capsys.readouterr().out
    (tmp_path / "one.txt").write_text("the only document")
    assert prepare("--input", tmp_path / "one.txt", "--output", tmp_path / "other", "--validation", "0.9999") == 2
    assert "all documents fell into validation" in only_error(capsys)


@pytest.mark.parametrize("wait_for", ["work/tokenizer_info.json", "work/[0-9a-f]*.json"])
def test_ctrl_c_is_one_line_and_leaves_no_process_behind(wait_for: str, tmp_path: Path, prepared: Path) -> None:
    """Pressed while the workers start, and while they work; a terminal sends it to all processes."""
    (tmp_path / "texts").mkdir()
    for file in range(40):
        (tmp_path / "texts" / f"{file}.jsonl").write_text(json.dumps({"text": f"{file} words and more " * 50_000}))
    command = [sys.executable, "-m", "data", "prepare", "--input", str(tmp_path / "texts"), "--workers", "2"]
    command += ["--output", str(tmp_path / "out"), "--tokenizer", str(prepared / "train")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    workers: list[psutil.Process] = []
    while not list((tmp_path / "out").glob(wait_for)) or len(workers) < 2:
        workers = workers_of(process.pid)
        time.sleep(0.005)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines() == ["interrupted; what was finished is kept"]
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_no_home_is_needed(texts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data", "prepare", "--input", str(texts), "--output", str(tmp_path / "out")]
    settings = os.environ | {"HOME": "/proc/nowhere"}
    for name in ("XDG_CACHE_HOME", "HF_HOME"):
        settings.pop(name, None)
    done = subprocess.run(
        [*command, "--vocab-size", "270", "--workers", "1"], env=settings, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class Store(http.server.SimpleHTTPRequestHandler):
    """A web server that cannot seek; what is called ``lost`` breaks off, ``busy`` is refused."""

    def do_GET(self) -> None:
        if "busy" in self.path:
            self.send_error(503)
        elif "lost" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b'{"text": "a"}\n' * 100)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "store").mkdir()
    handler = functools.partial(Store, directory=str(tmp_path / "store"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_behind_urls_are_read_as_those_of_folders(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "a.csv").write_text("text\n" + "\n".join(TEXTS))
    pq.write_table(pa.table({"text": TEXTS}), folder / "a.parquet")
    for file in folder.iterdir():
        assert read_all(f"{store}/{file.name}?version=1") == (TEXTS, {}), file


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("file", ["missing.jsonl", "busy.jsonl", "lost.jsonl", "lost.jsonl.gz", "missing.parquet"])
def test_a_store_that_does_not_answer_is_one_line_and_never_skipped(
    file: str, skip: bool, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--on-damage", "skip"] if skip else []
    with_password = store.replace("http://", "http://user:secret@")
    assert prepare("--input", f"{with_password}/{file}?token=secret", "--output", tmp_path / "out", *flags) == 2
    line = only_error(capsys)
    assert f"{store}/{file}: " in line
    assert "secret" not in line


def test_no_store_at_all_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("http://127.0.0.1:9/a.jsonl", "nonsense://a/b.jsonl", "http://[::1/a.jsonl", "http:///a.txt"):
        assert prepare("--input", url, "--output", tmp_path / "out") == 2
        assert "cannot be read" in only_error(capsys)
