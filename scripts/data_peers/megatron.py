"""megatron-core's GPTDataset and, for several folders, BlendedDataset, as its training loop builds them.

Its order is made for the number of samples that the run will take, here all of one epoch, and kept in files.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from scripts.data_peers.measure import BATCH, NextBatch, measure

NAME = "tokens"
EOD = 0


def write(folder: Path, tokens: np.ndarray, document_ends: np.ndarray) -> None:
    """The tokens as Megatron's .bin and .idx; ``document_ends`` are the places behind each document."""
    folder.mkdir(parents=True)
    builder = IndexedDatasetBuilder(str(folder / f"{NAME}.bin"), dtype=tokens.dtype.type)
    start = 0
    for end in document_ends.tolist():
        builder.add_document(tokens[start:end].astype(np.int64), [end - start])
        start = end
    builder.finalize(str(folder / f"{NAME}.idx"))


def open_loader(folders: list[Path], sequence_length: int, first_sample: int) -> NextBatch:
    """Samples in the dataset's order from ``first_sample`` on; index files are made where they are missing."""
    samples = sum((folder / f"{NAME}.bin").stat().st_size // 2 for folder in folders) // sequence_length
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=sequence_length,
        blend=([str(folder / NAME) for folder in folders], [1.0] * len(folders) if len(folders) > 1 else None),
        split="1,0,0",
        path_to_cache=str(folders[0].parent / f"cache_{len(folders)}"),
        tokenizer=_Tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    wanted = int(0.99 * samples)  # a blend asks a source for a little more than its share
    dataset: Any = BlendedMegatronDatasetBuilder(GPTDataset, (wanted, 0, 0), lambda: True, config).build()[0]
    position = first_sample

    def next_batch() -> np.ndarray:
        nonlocal position
        position += BATCH
        return np.stack([dataset[number]["tokens"].numpy() for number in range(position - BATCH, position)])

    return next_batch


class _Tokenizer(SimpleNamespace):
    """What GPTDataset asks of a tokenizer."""

    eod = EOD
    pad = EOD
    vocab_size = 50_000
    unique_identifiers = {"class": "none"}


if __name__ == "__main__":
    # A blend is built under torch.distributed only; one process is enough.
    with tempfile.TemporaryDirectory() as meeting:
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}/store", rank=0, world_size=1)
        measure(open_loader)
