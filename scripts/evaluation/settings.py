"""What `python scripts/evaluate.py` takes: the model, the tasks, and each task's own settings.

In: the command line. Out: a checked, frozen EvaluateConfig. Always: the defaults of the papers' tasks are the papers'
protocols.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.errors import InputError


@dataclass(frozen=True)
class HeldOutSettings:
    """Loss on held-out text (tasks held_out, ar_hit, positions)."""

    samples: int | None = None
    """samples to measure; 0: all (default: as many as the trainer measured, else all)"""
    sequence_length: int | None = None
    """tokens of a sample (default: the trained length, else the model's, at most 2048)"""


@dataclass(frozen=True)
class SampleSettings:
    """A generated text (task sample)."""

    prompt: str = "import os\n\ndef "
    """what is continued"""
    tokens: int = 64
    """new tokens"""
    temperature: float = 0.0
    """0: the most likely continuation"""


@dataclass(frozen=True)
class NeedleSettings:
    """Multi-needle retrieval (tasks needles, needles_long)."""

    lengths: list[int] = field(default_factory=lambda: [4096])
    """tokens of a prompt with its answers"""
    pairs: list[list[int]] = field(default_factory=lambda: [[1, 1], [2, 2], [4, 2], [6, 2]])
    """[N needles, R of them asked], ..."""
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    """places of the first asked needle, 0 (start) to 1 (end of the context)"""
    samples: int = 50
    """prompts per length and depth"""
    haystack: str | None = None
    """text file to hide the needles in (default: sentences of a small grammar)"""

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if len(pair) != 2 or not 1 <= pair[1] <= pair[0]:
                raise InputError(f"needles.pairs: expected [N, R] with 1 <= R <= N, found {pair}")
        if self.samples < 1 or not self.lengths or not self.depths or not self.pairs:
            raise InputError("needles: lengths, depths, pairs and samples must not be empty")


def _long_needles() -> NeedleSettings:
    """The papers' long form: one of eight needles at 8K to 64K tokens."""
    return NeedleSettings(lengths=[8192, 16384, 32768, 65536], pairs=[[8, 1]])


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation: a model and a list of tasks."""

    model: str
    """folder (or hub name) of a causal model that transformers loads"""
    tasks: str
    """comma-separated names; an unknown one gives the list"""
    data: str | None = None
    """held-out data: a folder of token shards, a .txt or a .jsonl file (default: the training run's validation)"""
    output: str | None = None
    """JSON file for the results; pictures go beside it (default: results are printed only)"""
    seed: int = 1234
    """seed of everything that is drawn"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ... (auto: the first GPU if there is one)"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """arithmetic (auto: as the weights are stored)"""
    batch_tokens: int = 8192
    """tokens of one forward pass, at most"""
    held_out: HeldOutSettings = field(default_factory=HeldOutSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)
    needles: NeedleSettings = field(default_factory=NeedleSettings)
    needles_long: NeedleSettings = field(default_factory=_long_needles)

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise InputError(f"--batch_tokens: must be at least 1, is {self.batch_tokens}")
