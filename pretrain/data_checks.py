"""Do the token shards fit the model? Asked before anything is built.

In: a RunConfig and the opened streams. Out: nothing, or an InputError that names the setting.
"""

from common.errors import InputError
from data.stream import TokenStream, Validation
from pretrain.config import RunConfig


def check_data(config: RunConfig, stream: TokenStream, validation: Validation | None) -> None:
    """Refuses shards whose tokens the model has no embedding for, and a tokenizer that changes between them."""
    for what, source in (("data.train", stream), ("data.validation", validation)):
        if source is not None and source.vocab_size > config.model.vocab_size:
            raise InputError(
                f"model.vocab_size: is {config.model.vocab_size}, but the tokens of {what} need at least "
                f"{source.vocab_size}"
            )
    if validation is not None and validation.tokenizer["fingerprint"] != stream.tokenizer["fingerprint"]:
        raise InputError(
            f"data.validation: {config.data.validation} was tokenized by another tokenizer than data.train; "
            "prepare both with the same one"
        )
