"""Checkpoints that another program or a hand has changed: other content under a digest that is right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.files import sha256_of_json
from pretrain.checkpoint.layout import MANIFEST


def edit_manifest(checkpoint: Path, change: Callable[[Any], Any]) -> None:
    """Puts what ``change`` makes of the manifest's body in its place, and makes the digest right again."""
    body = change(json.loads((checkpoint / MANIFEST).read_text())["body"])
    (checkpoint / MANIFEST).write_text(json.dumps({"digest": sha256_of_json(body), "body": body}))
