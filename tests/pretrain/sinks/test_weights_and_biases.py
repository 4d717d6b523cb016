"""Weights & Biases, the package itself, without a network: a run trains, and what it told waits to be sent.

Each case is a process of its own, because the package reads the environment once.
"""

import contextlib
import io
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import MetricsConfig, RunConfig, TrainConfig
from pretrain.run_id import keep_run_id, read_run_id
from pretrain.sinks.weights_and_biases import open_weights_and_biases
from tests.pretrain.sinks.lines import TRAINING, VALIDATION
from tests.pretrain.test_run import config_for, said_by_training
from tests.world import run_world

KEY = "0123456789" * 4
CHOSEN = MetricsConfig(wandb_entity="a-team", wandb_group="a-group", wandb_tags=["small", "first try"])


@dataclass(frozen=True)
class Told:
    """What became of the sink of one start."""

    printed: str
    title: str | None
    seconds: float


def start(folder: Path, environment: dict[str, str]) -> Told:
    """Opens the sink of a run in ``folder``, and tells it a step and an evaluation."""
    os.environ.update(environment)
    sys.argv = ["pretrain"]
    config = RunConfig(name="same", run_dir=str(folder), metrics=CHOSEN)
    folder.mkdir(exist_ok=True)
    printed, began = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(printed):
        sink = open_weights_and_biases(config, {"seed": 7}, keep_run_id(folder))
        if sink is not None:
            sink.write(TRAINING)
            sink.write(VALIDATION)
            sink.close()
    return Told(printed.getvalue(), None if sink is None else sink.title, time.monotonic() - began)


def started(folder: Path, home: Path, **environment: str) -> Told:
    """``start`` in a process of its own, whose user has nothing at home."""
    (told,) = run_world(1, start, folder, {"HOME": str(home), "WANDB_HTTP_TIMEOUT": "1", **environment})
    return told


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address at which nobody listens, and nobody else will meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes every call and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def content(folder: Path) -> bytes:
    """All that waits in the folder to be sent."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")))


def test_two_runs_of_one_name_have_two_ids_and_one_that_goes_on_keeps_its_own(tmp_path: Path, refusing: str) -> None:
    reached = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": refusing}
    first = started(tmp_path / "a", tmp_path, **reached)
    other = started(tmp_path / "b", tmp_path, **reached)
    started(tmp_path / "a", tmp_path, **reached)
    assert first.printed == other.printed == ""
    assert first.title is not None and first.title.startswith("Weights & Biases, offline (Failed to authenticate with")
    assert first.title.endswith(f"; later: wandb sync {tmp_path}/a/wandb/offline-run-*)")
    assert KEY not in first.title
    found = {name: [path.name for path in (tmp_path / name).glob("wandb/offline-run-*")] for name in "ab"}
    ids = {name: read_run_id(tmp_path / name)[0] for name in "ab"}
    assert ids["a"] != ids["b"]
    assert [len(folders) for folders in found.values()] == [2, 1]
    assert all(folder.endswith(f"-{ids[name]}") for name, folders in found.items() for folder in folders)


def test_what_waits_has_the_names_and_the_labels(tmp_path: Path, refusing: str) -> None:
    started(tmp_path / "a", tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=refusing)
    kept = content(tmp_path / "a")
    for word in ("train/loss", "validation/perplexity", "a-team", "a-group", "small", "first try", "shared-diff"):
        assert word.encode() in kept, word
    assert KEY.encode() not in kept


def test_a_server_that_never_answers_is_not_waited_for_long(tmp_path: Path, silent: str) -> None:
    reached = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": silent}
    told = started(tmp_path / "a", tmp_path, **reached)
    assert told.title is not None and "offline" in told.title
    assert told.seconds < 20
    assert b"train/loss" in content(tmp_path / "a")


@pytest.mark.parametrize(
    ("environment", "title", "printed"),
    [
        ({}, "offline (not logged in; later: ", ""),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "offline (WANDB_MODE says so; later: ", ""),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": KEY}, None, "Weights & Biases is off: WANDB_MODE is disabled\n"),
        ({"WANDB_API_KEY": "short"}, "offline (WANDB_API_KEY invalid: API key must have 40+ ", ""),
    ],
    ids=["no key", "offline", "disabled", "a key that is none"],
)
def test_who_may_not_or_will_not_log_in_is_offline_or_off(
    environment: dict[str, str], title: str | None, printed: str, tmp_path: Path, refusing: str
) -> None:
    told = started(tmp_path / "a", tmp_path, WANDB_BASE_URL=refusing, **environment)
    assert told.printed == printed
    assert (title or "") in (told.title or "") and (told.title is None) == (title is None)
    assert bool(content(tmp_path / "a")) == (title is not None)


def train(config: RunConfig, environment: dict[str, str]) -> str:
    """One rank; returns what it printed."""
    os.environ.update(environment)
    sys.argv = ["pretrain"]
    return said_by_training(config)


def test_a_run_with_a_key_and_no_network_trains(corpus: Path, tmp_path: Path, refusing: str) -> None:
    config = config_for(corpus, tmp_path / "run", train=TrainConfig(steps=2))
    config = replace(config, metrics=MetricsConfig(every=1))
    reached = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": refusing, "WANDB_HTTP_TIMEOUT": "1"}
    (said,) = run_world(1, train, config, {"HOME": str(tmp_path), **reached})
    assert "metrics: console, metrics.jsonl, Weights & Biases, offline (Failed to authenticate" in said
    assert f"later: wandb sync {tmp_path}/run/wandb/offline-run-*), loss.png" in said
    assert "finished" in said
    assert b"validation/loss" in content(tmp_path / "run")


class LoggedIn:
    """In place of the package, where it would be online: no test has a server."""

    Settings = dict

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.refuses = False

    def setup(self, settings: Any) -> Any:
        return self

    @property
    def settings(self) -> Any:
        return self

    mode = "online"
    url = "https://page/of/run"

    def login(self, prompt: bool, verify: bool) -> bool:
        return True

    def init(self, **arguments: Any) -> Any:
        self.begun.append(arguments | {"arguments": sys.argv})
        if self.refuses and arguments["mode"] == "online":
            raise RuntimeError("project not found")
        return self


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> LoggedIn:
    package = LoggedIn()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def test_who_is_logged_in_goes_on_in_the_run_s_page_which_sees_no_password(
    logged_in: LoggedIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["pretrain", "--data.validation=https://me:secret@host/x", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    values = {"data": {"train": [{"path": "https://host/x?sig=secret"}]}}
    sink = open_weights_and_biases(RunConfig(run_dir=str(tmp_path)), values, "id")
    assert sink is not None and sink.title == "Weights & Biases at https://page/of/run"
    (begun,) = logged_in.begun
    assert (begun["id"], begun["resume"], begun["mode"]) == ("id", "allow", "online")
    assert begun["config"] == {"data": {"train": [{"path": "https://host/x"}]}}
    assert begun["arguments"] == ["pretrain", "--data.validation=https://host/x", "--seed", "1"]
    assert sys.argv is arguments


def test_a_server_that_takes_the_key_and_not_the_run_leaves_it_offline(logged_in: LoggedIn, tmp_path: Path) -> None:
    logged_in.refuses = True
    sink = open_weights_and_biases(RunConfig(run_dir=str(tmp_path)), {}, "id")
    assert sink is not None and "offline (project not found; later: " in sink.title
    assert [(begun["mode"], begun["resume"]) for begun in logged_in.begun] == [("online", "allow"), ("offline", None)]
