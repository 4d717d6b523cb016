"""What the tokens of a run must agree on with each other and with the model, whoever looks.

In: facts of manifests, and settings. Out: nothing, or an InputError that names the setting. Always: pure; the launcher,
the ranks and `python -m data plan` refuse the same in the same words.
"""

from typing import Any

from common.errors import InputError
from data.config import DataConfig


def check_vocabulary(vocab_size: int, needed: int, what: str) -> None:
    """Refuses tokens that the model has no embedding for; ``what`` says whose they are.

    Raises:
        InputError: ``needed`` is more than ``vocab_size``.
    """
    if needed > vocab_size:
        raise InputError(f"model.vocab_size: is {vocab_size}, but the tokens of {what} need at least {needed}")


def check_held_out(config: DataConfig, training: dict[str, Any], held_out: dict[str, Any]) -> None:
    """Refuses held-out tokens that another tokenizer made; both tokenizers as manifests describe them.

    Raises:
        InputError: their fingerprints differ.
    """
    if training["fingerprint"] != held_out["fingerprint"]:
        raise InputError(
            f"data.validation: {config.validation} was tokenized by another tokenizer than data.train; "
            "prepare both with the same one"
        )
