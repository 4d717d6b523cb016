"""What a start makes of `checkpoint.remote`: whose folder it is, and what comes from there.

In: a run folder, its lock held, and the remote folder. Out: the run's id, and its newest remote checkpoint in a run
folder that lost its own. Always: a run never goes on from, writes to or removes another run's checkpoints, whatever
their names are; rank 0 alone looks, and the others wait for what it finds.
"""

from pathlib import Path

from common.errors import InputError
from common.files import write_json
from pretrain.checkpoint.agreement import told_by_main
from pretrain.checkpoint.layout import checkpoints_of, list_steps
from pretrain.checkpoint.remote import RemoteCheckpoints
from pretrain.config import RunConfig
from pretrain.run_id import ID_FILE, keep_run_id
from pretrain.topology import Topology


def join_remote(config: RunConfig, topology: Topology) -> str:
    """The run's id; a run folder without any checkpoint has the newest whole one of its remote folder afterwards.

    A run folder that has one goes on from that: it may have been rolled back on purpose. A collective call.

    Raises:
        InputError: on every rank: the remote folder cannot be looked into, is another run's, or holds checkpoints and
            none is whole; the id cannot be kept.
    """
    return told_by_main(topology, lambda: _join(config))


def _join(config: RunConfig) -> str:
    url, run_folder = config.checkpoint.remote, config.run_folder
    if url is None:
        return keep_run_id(run_folder)
    has_own = bool(list_steps(checkpoints_of(run_folder)))
    try:
        remote = RemoteCheckpoints(url)
        steps, owner = remote.steps(), remote.owner()
    except InputError as error:
        if not has_own:
            raise
        print(f"WARNING: {error}; what is saved in {run_folder} has no copy there", flush=True)
        return keep_run_id(run_folder)
    if owner is not None and owner["folder"] == str(run_folder.resolve()) and not (run_folder / ID_FILE).exists():
        write_json(run_folder / ID_FILE, owner)  # this folder was that run's before it was lost
    run_id = keep_run_id(run_folder)
    if owner is None or owner["id"] != run_id:
        _check_free(remote, owner, steps, run_folder, has_own=has_own)
        RemoteCheckpoints(url, run_id).claim(run_folder)
    if steps and not has_own:
        _fetch_newest(remote, steps, checkpoints_of(run_folder))
    return run_id


def _check_free(
    remote: RemoteCheckpoints, owner: dict[str, str] | None, steps: list[int], run_folder: Path, *, has_own: bool
) -> None:
    """Raises InputError where the checkpoints that lie there are not known to be this run's."""
    if not steps or (owner is None and has_own):
        return
    whose = f"those of the run in {owner['folder']}" if owner else f"whose they are is not said (no {ID_FILE})"
    way = (
        f"copy its {ID_FILE} into {run_folder}, if that run ended there"
        if owner
        else f"copy a checkpoint into {run_folder / 'checkpoints'}"
    )
    raise InputError(
        f"checkpoint.remote: {remote.url} holds checkpoints up to step {steps[-1]}: {whose}; name another folder for "
        f"this run, or, to go on with that one in {run_folder}, {way}"
    )


def _fetch_newest(remote: RemoteCheckpoints, steps: list[int], checkpoints: Path) -> None:
    for step in reversed(steps):
        try:
            remote.fetch(step, checkpoints)
        except InputError as error:
            print(f"warning: {error}; passing over it", flush=True)
            continue
        print(f"fetched the checkpoint of step {step} from {remote.url}", flush=True)
        return
    raise InputError(
        f"checkpoint.remote: {remote.url}: none of its {len(steps)} checkpoints can be used; name another folder to "
        "begin at step 0"
    )
