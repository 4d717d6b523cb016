"""Text to tokens on one core: this project's `prepare` against the way Megatron's own preprocessing works.

In: a folder with a saved tokenizer, a JSONL file, a folder for the result. Out: seconds. Always: the same tokenizer
and the same text, one process, imports not counted.
"""

import json
import time
from pathlib import Path

import tiktoken
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from data.prepare import PrepareConfig, prepare
from data.tokenizer import TiktokenTokenizer, load_tokenizer


def ours(tokenizer: Path, text: Path, output: Path) -> float:
    """With all that `prepare` does: checksums, removal of copies, shuffle, held-out part."""
    import datasets  # noqa: F401  (its import is not what is measured)

    begin = time.perf_counter()
    prepare(PrepareConfig([str(text)], str(output), tokenizer=str(tokenizer), workers=1))
    return time.perf_counter() - begin


def megatron_style(tokenizer: Path, text: Path, output: Path) -> float:
    """Line by line: JSON, ids of the text as a list, end of document, IndexedDatasetBuilder. Nothing else is done."""
    loaded = load_tokenizer(tokenizer)
    assert isinstance(loaded, TiktokenTokenizer)
    encoding = tiktoken.Encoding(
        "bench", pat_str=loaded.pattern, mergeable_ranks=loaded.ranks, special_tokens=loaded.special_tokens
    )
    output.mkdir(parents=True)
    begin = time.perf_counter()
    builder = IndexedDatasetBuilder(str(output / "tokens.bin"))
    with text.open(encoding="utf-8") as lines:
        for line in lines:
            ids = encoding.encode_ordinary(json.loads(line)["text"])
            ids.append(loaded.eod_id)
            builder.add_document(torch.IntTensor(ids), [len(ids)])
    builder.finalize(str(output / "tokens.idx"))
    return time.perf_counter() - begin
