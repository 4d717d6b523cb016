"""Where the data of an exported model lies on this machine: `FOLDER.places.json`, beside the folder and not in it.

In: the run's config. Out: the default data of the evaluator. Always: what is published has no place in it; a file that
was made for another export is not believed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.files import write_json
from common.urls import values_without_credentials
from pretrain.config import RunConfig
from scripts.hub.provenance import first_mixture

SUFFIX = ".places.json"


@dataclass(frozen=True)
class Places:
    """Folders of token shards, as the run's config names them; None: not known."""

    training: str | None = None
    validation: str | None = None


def write_places(folder: Path, checkpoint: str, config: RunConfig) -> None:
    """Writes the file for the export ``folder`` of the checkpoint with this digest."""
    training = first_mixture(config.data)[0].path if config.data.train else None
    places = values_without_credentials(asdict(Places(training, config.data.validation)))
    write_json(_file(folder), {"checkpoint": checkpoint, **places})


def read_places(folder: Path, facts: Mapping[str, Any] | None) -> Places:
    """The places of the export ``folder``, whose export.json says ``facts``."""
    try:
        values = json.loads(_file(folder).read_bytes())
    except (OSError, ValueError):
        return Places()
    if not isinstance(values, dict) or not facts or values.get("checkpoint") != facts.get("checkpoint"):
        return Places()
    training, validation = values.get("training"), values.get("validation")
    return Places(training if isinstance(training, str) else None, validation if isinstance(validation, str) else None)


def _file(folder: Path) -> Path:
    whole = folder.absolute()
    return whole.with_name(whole.name + SUFFIX)
