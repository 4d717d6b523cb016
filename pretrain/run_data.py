"""The token streams of a run, opened and found to fit its model.

In: a RunConfig. Out: its training and held-out streams, or an InputError that names the setting. Always: no process
group, no model; the same answer in the launcher and in every rank.
"""

from data.checks import check_held_out, check_vocabulary
from data.stream import TokenStream, Validation, open_stream, open_validation
from pretrain.config import RunConfig


def open_data(config: RunConfig, *, check_files: bool = True) -> tuple[TokenStream, Validation | None]:
    """Opens the training data, and the held-out data if there is some; ``check_files`` as in data/stream.py.

    Raises:
        InputError: missing or damaged shards, tokens that the model has no embedding for, or a tokenizer that changes
            between the two.
    """
    stream = open_stream(config.data, config.seed, check_files=check_files)
    validation = open_validation(config.data, check_files=check_files)
    for what, source in (("data.train", stream), ("data.validation", validation)):
        if source is not None:
            check_vocabulary(config.model.vocab_size, source.vocab_size, what)
    if validation is not None:
        check_held_out(config.data, stream.tokenizer, validation.tokenizer)
    return stream, validation
