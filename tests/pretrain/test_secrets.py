"""A run whose data lie behind a password: no file of the run folder and no line of its output has it."""

import contextlib
import dataclasses
import io
import os
import sys
from pathlib import Path

import pytest

from common.cli import run_command, to_yaml
from data.config import CacheConfig
from pretrain.__main__ import main
from pretrain.config import CheckpointConfig, EvaluationConfig, MetricsConfig, TrainConfig
from tests.common.web_server import serving
from tests.pretrain.test_run import config_for
from tests.world import run_world

SECRET = "s3cr3t"


def command(arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """One rank of `python -m pretrain`; returns its status and all that it printed."""
    printed = io.StringIO()
    sys.argv = ["pretrain", *arguments]
    os.environ.update(environment)
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = run_command(main, arguments, training=True)
    return status, printed.getvalue()


def run(arguments: list[str], **environment: str) -> tuple[int, str]:
    (answer,) = run_world(1, command, arguments, {"WANDB_MODE": "offline", **environment})
    return answer


@pytest.fixture
def settings(corpus: Path, tmp_path: Path) -> Path:
    """A config file of a short run in ``tmp_path``/run, without a word about data."""
    config = config_for(
        corpus,
        tmp_path / "run",
        train=TrainConfig(steps=2),
        checkpoint=CheckpointConfig(every=1),
        evaluation=EvaluationConfig(every=0, batches=1, ar_hits=False),
        metrics=MetricsConfig(wandb=True, every=1),
    )
    cache = CacheConfig(str(tmp_path / "cache"), 0.05, attempts=2, backoff=0.01, timeout=5.0, block_bytes=1 << 14)
    (tmp_path / "c.yaml").write_text(
        to_yaml(dataclasses.replace(config, data=dataclasses.replace(config.data, cache=cache)))
    )
    return tmp_path / "c.yaml"


def assert_hidden(folder: Path, printed: str) -> None:
    assert SECRET not in printed
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_password_is_used_and_kept_nowhere(corpus: Path, settings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with serving(corpus, password=f"me:{SECRET}") as server:
        url = server.url.replace("://", f"://me:{SECRET}@")
        flags = [
            f"--data.train=[{{path: '{url}/train?sig={SECRET}'}}]",
            f"--data.validation={url}/validation",
            f"--evaluation.command=true https://me:{SECRET}@hooks/{{step}}",
        ]
        status, printed = run([f"--config={settings}", *flags])
        assert status == 0, printed
        assert_hidden(folder, printed)
        assert {"config.yaml", "0001.yaml", "rank_0.log"} <= {path.name for path in folder.rglob("*")}
        assert list(folder.glob("wandb/offline-*/*.wandb")), "what W&B would publish was looked at, too"
        assert "set ACCESS_127_0_0_1, QUERY_127_0_0_1, ACCESS_HOOKS in the environment" in printed

        again = [f"--config={folder / 'config.yaml'}", "--train.steps=3"]
        status, printed = run(again)
        assert status == 2 and "ACCESS_127_0_0_1 is not set in the environment" in printed
        secrets = {"ACCESS_127_0_0_1": f"me:{SECRET}", "QUERY_127_0_0_1": f"sig={SECRET}"}
        status, printed = run(again, **secrets)
        assert status == 0 and "resuming at step 2 of 3" in printed, printed
        assert_hidden(folder, printed)


def test_a_store_that_refuses_is_named_without_the_password(settings: Path, tmp_path: Path) -> None:
    with serving(tmp_path, password=f"me:{SECRET}") as server:
        url = server.url.replace("://", f"://me:wrong{SECRET}@")
        status, printed = run([f"--config={settings}", f"--data.validation={url}/validation?sig={SECRET}"])
        assert status == 2 and f"{server.url}/validation" in printed
        assert_hidden(tmp_path / "run", printed)
        status, printed = run([f"--config={settings}", f"--checkpoint.remote=nosuch://me:{SECRET}@store/x"])
        assert status == 2 and "nosuch://store/x" in printed
        assert_hidden(tmp_path / "run", printed)
