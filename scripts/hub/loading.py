"""A Hugging Face folder as a model and a tokenizer of transformers, without running what came with it.

In: a folder or a hub name. Out: what transformers builds of it. Always: code that a folder brings along runs only where
the caller says so; modelling code of ours is taken from this installation; weights are safetensors, never pickles; the
kind of attention is said here, not by the folder, whose word for it could fetch a kernel.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.library_caches import keep_compiled_code_private
from common.typed import shortened
from scripts.hub.config_files import CODE_FILES
from scripts.hub.weights import open_weights

OWN_TYPE = "shared_diff"
ATTENTION = "sdpa"
ADAPTER = "adapter_config.json"
EARLIER_CODE = frozenset(
    {
        "3c45876c62119874e935ec0464a5cee207a225aa36d29a3e51b1f7ee241e5a05",
        "ffb88a39e9f188f89b547bccab82875305fbcd7226f50ae3e95bf16e3c3d4c17",
        "5b7868d83a12cae6642796873c339d61afc3ec0a95bc0633f53b369499ad2c76",
        "d929ed13ce51b45921d11ef693e76a34d742923afea7c4f1dab17882a9666aa9",
        "c0f908f042e58be611ae3259a019548325ba9b19f898e4f6aa806af8d36d6936",
        "4f865a71c7b579f06d116bc05c479eed802e1bbe47ddb2ac196657296afe24cc",
        "6c9dd0427627400eeacaa70632d44fc97e0267277a5273735db8c774e36d7eca",
        "0f4fddba245319785e4016f2f47db7f415a2c2416c276480c6e8a8ad7c0b899f",
        "185d97706f5bbc9575cfa29077989eac35befd061cb7ed1a312ad710f3ac7753",
        "93b76ff7bf3ba335d96672021db4a1c64da2da69b1890447c146ec717c548f4b",
        "dea45cd233edeab6a32d45cd46d50cdedb392d4b9b67eca84c8157f75d4905dc",
    }
)
"""SHA-256 of the code that earlier versions put into their exports, which today's code computes as well"""


def load_model(name: str | Path, trust_remote_code: bool, **options: Any) -> Any:
    """The causal model of ``name``; ``options`` go to transformers' ``from_pretrained``.

    Without ``trust_remote_code`` a differential model is built by this installation's own code, and any other by
    transformers' code alone.

    Raises:
        InputError: the folder lacks tensors.
    """
    keep_compiled_code_private()
    from transformers import AutoModelForCausalLM

    safe = {"attn_implementation": ATTENTION, "use_safetensors": True, "output_loading_info": True} | options
    if not trust_remote_code and _model_type(Path(name)) == OWN_TYPE:
        model, told = _load_own(Path(name), safe)
    else:
        model, told = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=trust_remote_code, **safe)
    missing = sorted(map(str, told["missing_keys"]))
    if missing:  # which transformers fills with random numbers
        raise InputError(f"{name}: lacks {len(missing)} tensors of its model, such as {missing[0]}")
    return model


def _load_own(folder: Path, options: dict[str, Any]) -> Any:
    """A differential model by this installation's code, and what transformers tells of its loading."""
    from scripts.hub.modeling_shared_diff import SharedDiffForCausalLM

    weights = open_weights(folder)
    if not weights.names_before:
        return SharedDiffForCausalLM.from_pretrained(folder, **options)
    config = SharedDiffForCausalLM.config_class.from_pretrained(folder)
    tensors = {name: weights.read(name) for name in weights.file_of}
    return SharedDiffForCausalLM.from_pretrained(None, config=config, state_dict=tensors, **options)


def load_folder_tokenizer(name: str | Path, trust_remote_code: bool) -> Any:
    """The tokenizer of ``name``."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)


def must_run_code(folder: Path, config: Mapping[str, Any], trust_remote_code: bool) -> bool:
    """Whether the folder's own code has to run to load it, which ``trust_remote_code`` allows.

    What an export brings along is this installation's code or an earlier version's, byte for byte; this installation's
    is used instead. Code beside a model that transformers itself knows is left alone, and a line says so.

    Raises:
        InputError: the model cannot be loaded without code that nobody allowed.
    """
    named = code_files(folder, config)
    if not named:
        return False
    if config.get("model_type") == OWN_TYPE:
        differing = next((name for name in CODE_FILES if not _is_ours(folder / name)), None)
        if differing is None:
            return False
        what = f"{folder / differing}: is not the code of this version"
    elif trust_remote_code:
        return True
    else:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            print(say_unused(folder, config))
            return False
        what = f"{folder / 'config.json'}: names code to run ({', '.join(named)})"
    if not trust_remote_code:
        raise InputError(f"{what}; read it, then allow it with --trust-remote-code true")
    return True


def say_unused(folder: Path, config: Mapping[str, Any]) -> str:
    """One line about code that is not run."""
    named = ", ".join(code_files(folder, config))
    return f"{folder / 'config.json'}: names code ({named}), which is not run; {config.get('model_type')} is computed"


def code_files(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """What config.json's ``auto_map`` names: files of the folder, or of another repository.

    Raises:
        InputError: an ``auto_map`` of another form.
    """
    targets = config.get("auto_map") or {}
    values = list(targets.values()) if isinstance(targets, dict) else [targets]
    if not isinstance(targets, dict) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{folder / 'config.json'}: auto_map: expected names of classes, as transformers writes it")
    return sorted({f"{value.rsplit('.', 1)[0]}.py" for value in values})


def check_files(folder: Path) -> None:
    """Refuses a folder in which something is neither a file nor a folder: a pipe would be waited for without end."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: is neither a file nor a folder")


def check_no_adapter(folder: Path) -> None:
    """Refuses an adapter's folder, for which transformers would load another model, wherever that lies."""
    if (folder / ADAPTER).exists():
        raise InputError(f"{folder / ADAPTER}: makes this the adapter of another model; merge the two and save that")


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turns whatever a library says about a stranger's files into one line that begins with ``what``.

    Raises:
        InputError: with the first line of the library's.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What an error says, shortened to a line."""
    lines = str(error).strip().splitlines()
    return shortened(lines[0]) if lines else type(error).__name__


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    code = path.read_bytes()
    return code == (Path(__file__).parent / path.name).read_bytes() or hashlib.sha256(code).hexdigest() in EARLIER_CODE


def _model_type(folder: Path) -> Any:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return None  # a hub name; or damaged, which transformers says
    return config.get("model_type") if isinstance(config, dict) else None
