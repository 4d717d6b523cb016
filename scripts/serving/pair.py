"""Folders of untrained models that a server can serve, to be timed and not to be read.

In: a ModelConfig. Out: an export's files without a run behind them. Always: weights are the kind's initial ones, merged
where the kind can merge; the tokenizer has one token for each byte.
"""

from pathlib import Path

from data.tokenizer import TiktokenTokenizer
from model.config import ModelConfig
from model.init import initial_value
from scripts.hub.config_files import write_config
from scripts.hub.fast_tokenizer import write_tokenizer
from scripts.hub.layout import dtype_named, hub_tensors, parameter_shapes
from scripts.hub.weights import write_weights

END = 256
SHARD_BYTES = 10**9
WORDS = r"\w+|\W"


def write_untrained(folder: Path, config: ModelConfig, max_length: int, dtype: str) -> int:
    """Writes the folder; returns the number of its parameters."""
    folder.mkdir(parents=True)
    shapes, tensors = parameter_shapes(config), hub_tensors(config, factored=False)
    bytes_alone = TiktokenTokenizer(
        "bytes", WORDS, {bytes([byte]): byte for byte in range(END)}, {"<|endoftext|>": END}, END
    )
    pad_id = write_tokenizer(folder, bytes_alone, max_length, config.vocab_size)
    write_config(folder, config, max_length, dtype, False, END, pad_id)
    write_weights(
        folder,
        tensors,
        lambda name: initial_value(name, shapes[name], config, seed=1),
        dtype_named(dtype),
        SHARD_BYTES,
    )
    return sum(tensor.numel for tensor in tensors)
