"""What `python scripts/evaluate.py` takes: the model, the tasks, and each task's own settings.

In: the command line. Out: a checked, frozen EvaluateConfig. Always: the defaults of the papers' tasks are the papers'
protocols.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.errors import InputError
from common.ranges import (
    LONGEST_SEQUENCE,
    MOST_PROCESSES,
    MOST_STEPS,
    MOST_TOKENS,
    check_any,
    check_filled,
    check_place,
    check_range,
)
from data.ar_hits import FREQUENT_SHARE

CHUNK_TOKENS = 1024
"""the default of ``chunk_tokens``: at 64K tokens its mask takes 64 MB, 256 MB more where a kernel wants it in fp32"""


@dataclass(frozen=True)
class HeldOutSettings:
    """Loss on held-out text (tasks held_out, ar_hit, positions)."""

    samples: int | None = None
    """samples to measure; 0: all (default: as many as the trainer measured, else all)"""
    sequence_length: int | None = None
    """tokens of a sample (default: the trained length, else the model's, at most 2048)"""

    def __post_init__(self) -> None:
        check_range(self, "held_out.", "samples", low=0, high=MOST_STEPS)
        check_range(self, "held_out.", "sequence_length", low=2, high=LONGEST_SEQUENCE)


@dataclass(frozen=True)
class SampleSettings:
    """A generated text (task sample)."""

    prompt: str = "import os\n\ndef "
    """what is continued"""
    tokens: int = 64
    """new tokens"""
    temperature: float = 0.8
    """0: the most likely continuation, which small models fill with repetitions"""

    def __post_init__(self) -> None:
        check_range(self, "sample.", "tokens", low=1, high=LONGEST_SEQUENCE)
        check_range(self, "sample.", "temperature", low=0, high=1000)


@dataclass(frozen=True)
class ArHitSettings:
    """The AR-hit split of the held-out loss (task ar_hit)."""

    training: str | None = None
    """text or token shards to count bigrams in (default: the run's first training folder, else the held-out text)"""
    training_tokens: int = 10_000_000
    """tokens of it to count"""
    frequent_share: float = FREQUENT_SHARE
    """a bigram that makes up a larger share of them is no AR-hit"""

    def __post_init__(self) -> None:
        check_range(self, "ar_hit.", "training_tokens", low=1, high=MOST_TOKENS)
        check_range(self, "ar_hit.", "frequent_share", low=0, high=1)


@dataclass(frozen=True)
class InContextSettings:
    """Many-shot in-context learning (tasks in_context, in_context_orders)."""

    sets: list[str] = field(default_factory=lambda: ["trec", "trec_fine", "banking77", "clinic150"])
    """data sets"""
    folder: str | None = None
    """folder with SET_train.jsonl and SET_test.jsonl, each line {"text": ..., "label": ...} (default: the hub)"""
    shots: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
    """numbers of demonstrations; a curve ends where they no longer fit"""
    longest: int = 65536
    """tokens of a prompt, at most"""
    test_examples: int = 250
    """test examples of each data set"""
    draws: int = 10
    """times that demonstrations are drawn"""
    order_shots: int = 64
    """demonstrations whose order is changed"""
    orders: int = 10
    """orders of each kind"""

    def __post_init__(self) -> None:
        check_any(self, "in_context.", "sets", "shots")
        check_range(self, "in_context.", "test_examples", "draws", "order_shots", "orders", low=1, high=MOST_STEPS)
        check_range(self, "in_context.", "shots", low=0, high=MOST_STEPS)
        check_range(self, "in_context.", "longest", low=2, high=LONGEST_SEQUENCE)


@dataclass(frozen=True)
class HarnessSettings:
    """lm-evaluation-harness (tasks paper_zero_shot and harness:NAME)."""

    include: str | None = None
    """folder with task files (YAML) of your own"""
    few_shot: int | None = None
    """demonstrations (default: as the task says; the papers' tasks have none)"""
    limit: int | None = None
    """examples per task, to try a task out"""
    batch_size: int = 8
    """sequences of one forward pass"""

    def __post_init__(self) -> None:
        check_range(self, "harness.", "few_shot", low=0, high=MOST_STEPS)
        check_range(self, "harness.", "limit", "batch_size", low=1, high=MOST_STEPS)


@dataclass(frozen=True)
class OutlierSettings:
    """Activation outliers (task outliers)."""

    samples: int = 16
    """held-out samples"""

    def __post_init__(self) -> None:
        check_range(self, "outliers.", "samples", low=1, high=MOST_STEPS)


@dataclass(frozen=True)
class QuantisedSettings:
    """Attention logits of few bits (task quantised)."""

    samples: int = 16
    """held-out samples"""
    bits: list[int] = field(default_factory=lambda: [16, 8, 6, 4])
    """of a logit, its sign included"""

    def __post_init__(self) -> None:
        check_any(self, "quantised.", "bits")
        check_range(self, "quantised.", "samples", low=1, high=MOST_STEPS)
        check_range(self, "quantised.", "bits", low=2, high=24)


@dataclass(frozen=True)
class AttentionSettings:
    """Attention to the answer and to noise (task attention)."""

    length: int = 4096
    """tokens of a prompt"""
    needles: int = 1
    """needles in it, the first of which is asked for"""
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    """places of the asked needle"""
    samples: int = 50
    """prompts per depth"""
    haystack: str | None = None
    """text file to hide the needles in (default: sentences of a small grammar)"""

    def __post_init__(self) -> None:
        check_any(self, "attention.", "depths")
        check_range(self, "attention.", "length", low=2, high=LONGEST_SEQUENCE)
        check_range(self, "attention.", "needles", "samples", low=1, high=MOST_STEPS)
        check_range(self, "attention.", "depths", low=0, high=1)


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
        check_any(self, "needles.", "lengths", "depths", "pairs")
        check_range(self, "needles.", "lengths", low=2, high=LONGEST_SEQUENCE)
        check_range(self, "needles.", "depths", low=0, high=1)
        check_range(self, "needles.", "samples", low=1, high=MOST_STEPS)
        check_range(self, "needles.", "pairs", high=MOST_STEPS)
        for pair in self.pairs:
            if len(pair) != 2 or not 1 <= pair[1] <= pair[0]:
                raise InputError(f"needles.pairs: expected [N, R] with 1 <= R <= N, found {pair}")


@dataclass(frozen=True)
class RunSettings:
    """A run's own checkpoint, where `model` is a run folder: by the trainer's layers, on all processes of torchrun."""

    step: int | None = None
    """step of the checkpoint (default: the newest)"""
    tensor: int = 1
    """processes among which the weights are split (tensor parallelism); the others split the tokens of a sample"""
    tokenizer: str | None = None
    """folder with the tokenizer of the training data (default: the run's first source)"""

    def __post_init__(self) -> None:
        check_filled(self, "run.", "tokenizer")
        check_range(self, "run.", "step", low=0, high=MOST_STEPS)
        check_range(self, "run.", "tensor", low=1, high=MOST_PROCESSES)


def _long_needles() -> NeedleSettings:
    """The papers' long form: one of eight needles at 8K to 64K tokens."""
    return NeedleSettings(lengths=[8192, 16384, 32768, 65536], pairs=[[8, 1]])


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation: a model and a list of tasks."""

    model: str
    """folder (or hub name) of a causal model that transformers loads; or a run folder, whose checkpoint the trainer's
    layers evaluate, under torchrun on many processes, for a model or samples that fit no single device"""
    tasks: str
    """comma-separated names, each told by --help; harness:NAME is any task of lm-evaluation-harness"""
    data: str | None = None
    """held-out data: a folder of token shards, or text of any kind that `python -m data prepare` reads (default: the
    training run's validation)"""
    text_field: str = "text"
    """column or JSON key that holds the document, where `data` is text in rows"""
    output: str | None = None
    """JSON file for the results; pictures go beside it (default: results are printed only)"""
    seed: int = 1234
    """seed of everything that is drawn"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ... (auto: the first GPU if there is one)"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """arithmetic (auto: as the weights are stored)"""
    trust_remote_code: bool = False
    """run the Python code that the model's folder brings along (exports of this project need no such trust)"""
    batch_tokens: int = 8192
    """tokens of the samples or prompts that are taken together, at most; a longer one is taken alone"""
    chunk_tokens: int = CHUNK_TOKENS
    """tokens of a sample or prompt in one forward pass, at most: a longer one goes through in chunks over a cache, in
    memory that grows with its length, not with its square"""
    max_length: int | None = None
    """tokens that a sample or prompt may have (default: the model's positions); more, to see how it does beyond them"""
    run: RunSettings = field(default_factory=RunSettings)
    held_out: HeldOutSettings = field(default_factory=HeldOutSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)
    ar_hit: ArHitSettings = field(default_factory=ArHitSettings)
    in_context: InContextSettings = field(default_factory=InContextSettings)
    harness: HarnessSettings = field(default_factory=HarnessSettings)
    outliers: OutlierSettings = field(default_factory=OutlierSettings)
    quantised: QuantisedSettings = field(default_factory=QuantisedSettings)
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    needles: NeedleSettings = field(default_factory=NeedleSettings)
    needles_long: NeedleSettings = field(default_factory=_long_needles)

    def __post_init__(self) -> None:
        check_range(self, "--", "batch_tokens", "chunk_tokens", low=1, high=MOST_TOKENS)
        check_range(self, "--", "max_length", low=2, high=LONGEST_SEQUENCE)
        check_range(self, "--", "seed", low=0, high=2**32 - 1)
        check_filled(self, "--", "data", "text_field", "output")
        check_place(self, "--", "output")
