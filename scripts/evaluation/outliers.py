"""Activation outliers (DIFF paper, Table 5): the largest attention logits and hidden states against the median.

In: held-out samples. Out: top-1, 2, 3, 10, 100 and the median of |q k^T| / sqrt(K) over causal pairs, and of the
layers' outputs. Always: logits are seen where every kernel gets them, through transformers' own attention interface,
so any model that uses it can be measured; one sample's T x T logits of one layer are in memory at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from scripts.evaluation.calls import attending, causal_logits
from scripts.evaluation.held_out import open_samples
from scripts.evaluation.loaded import LoadedSubject
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.statistics import mean

RANKS = (1, 2, 3, 10, 100)
PROBE = "outlier_probe"
MEDIAN_SAMPLES = 20_000


@dataclass
class Largest:
    """The largest absolute values of many tensors, and a random part of all of them for the median."""

    generator: torch.Generator
    top: Tensor = field(default_factory=lambda: torch.zeros(0))
    sampled: list[Tensor] = field(default_factory=list)

    def add(self, values: Tensor) -> None:
        """Takes the values of one tensor."""
        flat = values.detach().abs().float().flatten().cpu()
        best = flat.topk(min(RANKS[-1], flat.numel())).values
        self.top = torch.cat([self.top, best]).topk(min(RANKS[-1], self.top.numel() + best.numel())).values
        self.sampled.append(flat[torch.randint(flat.numel(), (MEDIAN_SAMPLES,), generator=self.generator)])

    def summary(self) -> dict[str, float]:
        """Name -> value."""
        ranks = {f"top_{rank}": float(self.top[rank - 1]) for rank in RANKS if rank <= self.top.numel()}
        return ranks | {"median": float(torch.cat(self.sampled).median())}


def run(subject: LoadedSubject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Measures both kinds of activations."""
    held_out = open_samples(subject, settings, provenance)
    count = min(settings.outliers.samples, held_out.count)
    generator = torch.Generator().manual_seed(settings.seed)
    logits, states = Largest(generator), Largest(generator)
    per_sample: dict[str, list[float]] = {"attention_logits": [], "hidden_states": []}
    subject.progress.total = count
    for number in range(count):
        tokens = torch.from_numpy(held_out.samples.fetch(np.array([number]))[:, :-1]).to(subject.device)
        own_logits, own_states = Largest(generator), Largest(generator)
        with torch.no_grad(), probing(subject, [logits, own_logits]):
            out = subject.model(tokens, use_cache=False, output_hidden_states=True)
        for state in out.hidden_states[1:]:
            states.add(state)
            own_states.add(state)
        if not own_logits.sampled:
            raise InputError(f"--model {subject.name}: does not use transformers' attention interface; no logits seen")
        per_sample["attention_logits"].append(float(own_logits.top[0]))
        per_sample["hidden_states"].append(float(own_states.top[0]))
        subject.progress.result = f"largest logit {float(logits.top[0]):.1f}, hidden state {float(states.top[0]):.1f}"
        subject.progress.add(1, tokens.numel())
    metrics = {f"{kind}_top_1_of_a_sample": mean(values) for kind, values in per_sample.items()}
    table = {"attention_logits": logits.summary(), "hidden_states": states.summary()}
    return TaskResult(
        metrics,
        {"data": held_out.data, "samples": count, "sequence_length": held_out.sequence_length},
        table,
        draw=lambda figure: _draw(figure, table),
    )


@contextmanager
def probing(subject: LoadedSubject, sinks: list[Largest]) -> Iterator[None]:
    """While this lasts, every attention call of the model shows its logits to ``sinks``; a layer once per pass."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    seen: set[int] = set()

    def probe(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        if id(module) not in seen:  # a differential layer calls twice with the same queries and keys
            seen.add(id(module))
            for logits, causal in causal_logits(query, key, kwargs.get("scaling")):
                for sink in sinks:
                    sink.add(logits[:, causal])
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)

    with attending(subject, PROBE, probe):
        yield


def _draw(figure: Any, table: dict[str, dict[str, float]]) -> None:
    for axes, (kind, row) in zip(figure.subplots(1, 2), table.items(), strict=True):
        axes.bar(list(row), list(row.values()))
        axes.set(title=kind.replace("_", " "), ylabel="absolute value", yscale="log")
        axes.tick_params(axis="x", rotation=45)
