"""mosaicml-streaming's StreamingDataset over local MDS shards.

It pins other versions of numpy and transformers than this project, so it usually lives in an environment of its own;
this file therefore imports nothing of the project, and is run as a script.
"""

import importlib
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np


def replace_torchvision() -> None:
    """Lets streaming's image datasets, which are not used here, be defined where torchvision does not fit torch."""
    try:
        importlib.import_module("torchvision")
        return
    except Exception:
        names = {"": "none", ".datasets": "VisionDataset", ".transforms": "none", ".transforms.functional": "to_tensor"}
    for name, content in names.items():
        module = sys.modules["torchvision" + name] = types.ModuleType("torchvision" + name)
        module.__spec__ = ModuleSpec("torchvision" + name, None)
        setattr(module, content, type(content, (), {}))


sys.path.insert(0, str(Path(__file__).parent))
replace_torchvision()
measure_module: Any = importlib.import_module("measure")
streaming: Any = importlib.import_module("streaming")
BATCH: int = measure_module.BATCH


def write(folder: Path, tokens: np.ndarray, sequence_length: int) -> None:
    """The tokens as samples of ``sequence_length``, which is how MDS keeps text for pretraining."""
    samples = tokens[: len(tokens) // sequence_length * sequence_length].reshape(-1, sequence_length)
    with streaming.MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{sequence_length}"}) as writer:
        for sample in samples:
            writer.write({"tokens": sample})


def open_loader(folders: list[Path], sequence_length: int, first_sample: int) -> Any:
    """Samples in the dataset's order from ``first_sample`` on, by its own way to resume."""
    streaming.base.util.clean_stale_shared_memory()
    streams = [streaming.Stream(local=str(folder), proportion=1 / len(folders)) for folder in folders]
    dataset = streaming.StreamingDataset(streams=streams, shuffle=True, shuffle_seed=1, batch_size=BATCH)
    if first_sample:
        dataset.load_state_dict(dataset.state_dict(0, True) | {"epoch": 0, "sample_in_epoch": first_sample})
    samples: Iterator[dict[str, np.ndarray]] = iter(dataset)
    return lambda: np.stack([next(samples)["tokens"] for _ in range(BATCH)])


if __name__ == "__main__":
    if "--write" in sys.argv:
        source, folder, length = sys.argv[2:5]
        write(Path(folder), np.fromfile(source, np.uint16), int(length))
    else:
        measure_module.measure(open_loader)
