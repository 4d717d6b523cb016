"""What a model's folder must hold before anything is loaded from it.

In: a folder. Out: its configuration. Always: what is missing or torn is named here, before a library reports it in its
own words.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from scripts.hub.fast_tokenizer import check_tokenizer
from scripts.hub.foreign import open_foreign
from scripts.hub.loading import check_files, check_no_adapter, code_files, first_line
from scripts.hub.provenance import read_provenance
from scripts.hub.weights import open_weights


def check_folder(folder: Path) -> Mapping[str, Any]:
    """Refuses a folder from which no model can be loaded; returns its configuration.

    Raises:
        InputError: names the file.
    """
    check_files(folder)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--model {folder}: no config.json in it; is it a Hugging Face model folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: damaged: holds no settings, but {config!r:.60}")
    check_no_adapter(folder)
    for name in code_files(folder, config):
        if "--" not in name and not (folder / name).is_file():
            raise InputError(f"{folder / name}: is missing, though config.json names it")
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise InputError(f"--model {folder}: holds no tokenizer; save the model's own beside it")
    provenance = read_provenance(folder)
    if provenance is None:
        open_weights(folder)
    else:
        open_foreign(folder)
        check_tokenizer(folder, provenance["tokenizer"])
    return config
