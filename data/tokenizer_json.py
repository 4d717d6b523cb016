"""What a Hugging Face tokenizer.json carries beside the tokenizer, taken out: state that changes what a call means.

In: the text of a tokenizer.json, or a folder or hub name with one. Out: the same tokenizer without truncation, padding,
tokens that a post-processor adds, and random dropout of merges; and the name of its end token. Always: vocabulary,
merges, normalizer and pre-tokenizer stay as they are: they are the tokenizer.
"""

import json
from pathlib import Path
from typing import Any

from common.errors import InputError

FILE = "tokenizer.json"
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json")
OTHER_FORMATS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def parse(content: str, name: str) -> dict[str, Any]:
    """The JSON object that ``content`` is.

    Raises:
        InputError: no JSON, or no object.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not a Hugging Face tokenizer.json: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{name}: not a Hugging Face tokenizer.json: holds a {type(document).__name__}, no object")
    return document


def neutral(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` so that a call gives the ids of the whole text, the same ones every time, and nothing else."""
    result = document | {"truncation": None, "padding": None}
    post_processor = document.get("post_processor")
    if not (isinstance(post_processor, dict) and post_processor.get("type") == "ByteLevel"):  # that one adds no token
        result["post_processor"] = None
    model = document.get("model")
    if isinstance(model, dict) and model.get("dropout") is not None:
        result["model"] = model | {"dropout": None}
    return result


def find_file(folder: Path) -> Path:
    """The tokenizer.json of a model's or tokenizer's folder.

    Raises:
        InputError: there is none; where the folder has the older formats, it says how to make one of them.
    """
    path = folder / FILE
    if path.is_file():
        return path
    other = next((name for name in OTHER_FORMATS if (folder / name).exists()), None)
    hint = (
        f"; of its {other}, transformers makes one: AutoTokenizer.from_pretrained('{folder}').save_pretrained('DIR')"
        if other
        else ""
    )
    raise InputError(f"--tokenizer {folder}: holds no {FILE}{hint}")


def end_token(folder: Path) -> str | None:
    """The end token that the configuration beside a tokenizer.json names; None where it names none."""
    for name in CONFIG_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: not readable: {error}") from None
        token = values.get("eos_token") if isinstance(values, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token:
            return token
    return None


def hub_folder(name: str) -> Path:
    """The folder of the hub's copy of ``name`` (as in "org/model") on this machine, fetched where it is not there yet.

    Raises:
        InputError: neither cached nor to be fetched; it says which files to put where.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = Path(hf_hub_download(name, FILE))
        for config in CONFIG_FILES:
            try:
                hf_hub_download(name, config)
            except EntryNotFoundError:
                continue
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--tokenizer {name}: neither a file or folder here, nor cached, nor to be fetched ({reason}); put its "
            f"{FILE} and {CONFIG_FILES[0]} into a folder and name that folder"
        ) from None
    return path.parent
