"""Every rank reads the data's manifests and the run's rollbacks by itself; here all of them find the same.

In: what each rank has opened, once the ranks are connected. Out: data in one order on all of them. Always: one
exchange; samples to leave out are those that rank 0 knows of, and any other difference is refused, on every rank with
the same line: a node may hold another preparation, or a network file system may still show it an older one.
"""

import dataclasses
import socket
from dataclasses import dataclass

import torch.distributed as dist

from common.errors import InputError
from common.files import sha256_of_json
from data.config import SkipConfig
from data.stream import TokenStream, Validation, open_stream
from pretrain.config import RunConfig
from pretrain.topology import Topology


@dataclass(frozen=True)
class View:
    """What one rank has found."""

    host: str
    skip: list[SkipConfig]
    digests: dict[str, str]
    """of each thing that decides which samples come when, by its name"""


def as_on_main(
    config: RunConfig, topology: Topology, stream: TokenStream, validation: Validation | None
) -> tuple[RunConfig, TokenStream]:
    """``config`` and ``stream`` with the skip list of rank 0; a collective call.

    Raises:
        InputError: some rank has found other data, or orders it otherwise.
    """
    views = [View(socket.gethostname(), config.data.skip, _digests(stream, validation))] * topology.world_size
    if topology.world_size > 1:
        dist.all_gather_object(views, views[topology.rank])
    main = views[0]
    for rank, view in enumerate(views):
        for what, digest in view.digests.items():
            if digest != main.digests[what]:
                raise InputError(
                    f"{what}: rank {rank} on {view.host} found another than rank 0 on {main.host} ({digest} instead of "
                    f"{main.digests[what]}); give every node the same files, or wait until its file system shows them"
                )
    if config.data.skip == main.skip:
        return config, stream
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, skip=main.skip))
    return config, open_stream(config.data, config.seed, check_files=False)


def _digests(stream: TokenStream, validation: Validation | None) -> dict[str, str]:
    order = stream.state(0)
    del order["skip"]
    found = {
        "data.train and data.stages": order.pop("stages"),
        "data.validation": validation and validation.source.id,
        "the order of samples (seed, data.shuffle_window)": order,
    }
    return {what: sha256_of_json(value)[:12] for what, value in found.items()}
