"""Weights & Biases: a page for each run; offline where it cannot be reached or does not know the user.

In: metrics, the run's settings and its id. Out: points there, or in the run folder, from where `wandb sync` sends them.
Always: a run with another id has another page, whatever its name; a start waits at most about a minute for the network
(and is told so), an end `FINISH_SECONDS`; no password of a URL is kept or sent.
"""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from common.typed import shortened
from common.urls import values_without_credentials
from pretrain.config import RunConfig
from pretrain.places import WANDB
from pretrain.sinks.base import Dashboard

CONNECT_SECONDS = 30.0
"""for the first word of a server that has taken the key"""
FINISH_SECONDS = 120.0
"""for what has not been sent yet when the run ends"""
OFFLINE = ("offline", "dryrun")


class WeightsAndBiases(Dashboard[Any]):
    """One run there."""

    name = "Weights & Biases"

    def __init__(self, run: Any, title: str, sync: str) -> None:
        """``sync``: the command that sends what is only here."""
        super().__init__(run)
        self._title, self._sync = title, sync

    @property
    def title(self) -> str:
        return self._title

    def _send(self, target: Any, numbers: dict[str, float], step: int) -> None:
        target.log(numbers, step=step)

    def _finish(self, target: Any) -> None:
        try:
            target.finish()
        except TimeoutError:
            print(f"{self.name}: not all of it was sent in {FINISH_SECONDS:.0f} s; later: {self._sync}", flush=True)


def open_weights_and_biases(config: RunConfig, settings: Mapping[str, Any], run_id: str) -> WeightsAndBiases | None:
    """Starts or continues the page of run ``run_id``; None, with one line of reason, where there will be none."""
    try:
        import wandb

        with _shown_arguments():
            quiet = wandb.Settings(silent=True)
            mode = wandb.setup(quiet).settings.mode  # of the environment, or of the user's own settings for it
            begin = partial(_begin, wandb, config, settings, run_id)
            if mode in OFFLINE:
                return _offline(begin, config, "WANDB_MODE says so")
            if mode != "disabled":
                return _online(wandb, begin, config)
        print(f"{WeightsAndBiases.name} is off: WANDB_MODE is disabled", flush=True)
    except Exception as error:
        print(f"{WeightsAndBiases.name} is off: {shortened(str(error))}", flush=True)
    return None


def _online(wandb: Any, begin: Callable[[str], Any], config: RunConfig) -> WeightsAndBiases:
    """Offline where that is not possible."""
    reason = "not logged in"
    try:
        if wandb.login(prompt=False, verify=True):
            run = begin("online")
            return WeightsAndBiases(run, f"{WeightsAndBiases.name} at {run.url}", _sync_command(config, "run"))
    except Exception as error:
        reason = shortened(" ".join(str(error).split()))
    return _offline(begin, config, reason)


def _offline(begin: Callable[[str], Any], config: RunConfig, reason: str) -> WeightsAndBiases:
    sync = _sync_command(config, "offline-run")
    title = f"{WeightsAndBiases.name}, offline ({reason}; later: {sync})"
    return WeightsAndBiases(begin("offline"), title, sync)


def _sync_command(config: RunConfig, prefix: str) -> str:
    return f"wandb sync {shlex.quote(str(config.run_folder / WANDB))}/{prefix}-*"


def _begin(wandb: Any, config: RunConfig, settings: Mapping[str, Any], run_id: str, mode: str) -> Any:
    chosen = config.metrics
    return wandb.init(
        project=chosen.wandb_project,
        entity=chosen.wandb_entity,
        group=chosen.wandb_group,
        tags=chosen.wandb_tags or None,
        name=config.name,
        id=run_id,
        resume="allow" if mode == "online" else None,
        dir=str(config.run_folder),
        config=values_without_credentials(dict(settings)),
        mode=mode,
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=CONNECT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        ),
    )


@contextlib.contextmanager
def _shown_arguments() -> Iterator[None]:
    """Within it the command line, which wandb keeps and publishes, has no passwords of URLs."""
    arguments = sys.argv
    sys.argv = values_without_credentials(arguments)
    try:
        yield
    finally:
        sys.argv = arguments
