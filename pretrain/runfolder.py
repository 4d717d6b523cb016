"""The run folder: resolved config, per-rank logs, the record of each start.

In: a RunConfig and a Topology. Out: files under runs/NAME.
"""

import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.cli import to_yaml
from common.errors import InputError
from common.files import open_itself, write_atomically, write_json
from common.private import check_trusted
from common.software import commit, versions
from common.urls import references_in_values, values_with_references, values_without_credentials, without_credentials
from pretrain.checkpoint.lineage import Lineage, Software
from pretrain.config import RunConfig
from pretrain.places import CHECKPOINTS, CONFIG_FILE, LOGS, TENSORBOARD, WANDB
from pretrain.topology import Topology


def check_own_folder(config: RunConfig) -> None:
    """Refuses a run folder in which another user could have planted what this start would write through.

    So are the folders to which checkpoints are copied and in which they are staged, where this machine has them.

    Raises:
        InputError: names it, and whose it is.
    """
    for part in ("", LOGS, "attempts", CHECKPOINTS, "starts", WANDB, TENSORBOARD):
        check_trusted(config.run_folder / part, "run_dir", with_content=True)
    if config.checkpoint.staging is not None:
        check_trusted(Path(config.checkpoint.staging), "checkpoint.staging")
    remote = (config.checkpoint.remote or "").removeprefix("file://")
    if remote and "://" not in remote:
        check_trusted(Path(remote), "checkpoint.remote", with_content=True)


def open_logs(run_folder: Path, topology: Topology, engine_log: logging.Logger) -> None:
    """Sends every library's log records to logs/rank_R.log; errors of rank 0 go to the console, too.

    ``engine_log`` is the engines' library's, which would print by itself.
    """
    folder = run_folder / LOGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = open_itself(folder / f"rank_{topology.rank}.log", "a")
    except OSError as error:
        raise InputError(f"run_dir: {run_folder} cannot be written: {error}") from None
    handler = logging.StreamHandler(log)
    handler.setFormatter(_Shown("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for console in list(engine_log.handlers):
        engine_log.removeHandler(console)
    engine_log.propagate = True
    if topology.is_main:
        console_handler = logging.StreamHandler(sys.stderr)
        console_handler.setLevel(logging.ERROR)
        console_handler.setFormatter(_Shown())
        root.addHandler(console_handler)


class _Shown(logging.Formatter):
    """Records, tracebacks of libraries included, without the passwords of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))


def save_config(config: RunConfig) -> None:
    """Writes the resolved config; says where it names variables of the environment that the user did not name."""
    path = config.run_folder / CONFIG_FILE
    text = to_yaml(config)
    write_atomically(path, text)
    values = dataclasses.asdict(config)
    named = references_in_values(values)
    new = [name for name in references_in_values(values_with_references(values)) if name not in named]
    if new:
        print(
            f"{path}: passwords and queries of URLs are not kept; to start from this file, set {', '.join(new)} in the "
            "environment",
            flush=True,
        )


def record_start(
    config: RunConfig, step: int, lineage: Lineage, run_id: str, hosts: Sequence[str], facts: Mapping[str, Any]
) -> Lineage:
    """Keeps what this start is, for ever; returns ``lineage`` with it, for the checkpoints to come.

    `starts/0003.yaml` has its settings, which ``--config`` reads; `starts/0003.json` the command, this program's
    commit, the versions it runs on, the hosts of all ranks, and ``facts``.
    """
    folder = config.run_folder / "starts"
    number = max((int(path.stem) for path in folder.glob("*.yaml") if path.stem.isdecimal()), default=0) + 1
    began = datetime.now(UTC).isoformat(timespec="seconds")
    command = values_without_credentials(sys.orig_argv)
    software = Software(step, commit(), versions())
    record = {"began": began, "command": command, "hosts": list(hosts), **dataclasses.asdict(software), **facts}
    write_json(folder / f"{number:04d}.json", record)
    head = f"# {began}, from step {step}: {json.dumps(command)}\n"
    write_atomically(folder / f"{number:04d}.yaml", head + to_yaml(config))
    return lineage.started(run_id, software, command, hosts)


def announce(topology: Topology, text: str) -> None:
    """Prints ``text`` once, on rank 0."""
    if topology.is_main:
        print(text, flush=True)
