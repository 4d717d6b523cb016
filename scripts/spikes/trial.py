"""One small healthy run, what bad batches would have given in it, and what became of those that were applied.

In: the trial's number, from which all settings are drawn. Out: a trace of plain values for JSON.
Always: the rule is off in the run itself; equal numbers give equal traces.
"""

import copy
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from model.config import ModelConfig
from model.kinds.registry import kind_names
from model.layers import LanguageModel, build_layers
from model.loss import mean_loss
from model.parallel import Unsharded
from pretrain.resilience.spikes import SpikeGuard
from scripts.spikes.batches import LENGTH, POISONS, SCALES, VOCABULARY, Batch, Batches, Poison

PROBE_EVERY = 50
"""steps between two looks at what each bad batch would have given"""
AFTERWARDS = 30
"""steps for which a branch is followed"""
FASTER = 30.0
"""times the learning rate, for one step"""
CLIPPING = 1.0
LEAP = f"rate x{FASTER:g}"
HARM: tuple[Poison, ...] = ("noise", "shuffled labels", "one token", "gradient x100")
"""bad batches whose harm is measured, by applying each in a branch of its own"""


@dataclass(frozen=True)
class Settings:
    """What one trial differs in from the others."""

    number: int
    attention: str
    rate: float
    warmup: int
    batch: int
    repeating: float
    """share of sequences that teach to copy"""

    @classmethod
    def of(cls, number: int) -> "Settings":
        """Kinds of attention take turns; the rest is drawn."""
        dice = np.random.default_rng(number)
        kinds = kind_names()
        return cls(
            number=number,
            attention=kinds[number % len(kinds)],
            rate=float(dice.choice([3e-3, 5e-3, 8e-3])),
            warmup=int(dice.choice([20, 50, 100])),
            batch=int(dice.choice([12, 16, 24])),
            repeating=float(dice.choice([1.0, 0.75])),
        )


class Learner:
    """A small model with its optimizer."""

    def __init__(self, settings: Settings) -> None:
        """Fresh weights."""
        config = ModelConfig(
            attention=settings.attention,
            hidden_size=64,
            ffn_hidden_size=172,
            head_dim=16,
            rank=8,
            vocab_size=VOCABULARY,
        )
        self._settings = settings
        self._model = LanguageModel(build_layers(config, Unsharded(), seed=settings.number))
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
        )

    def gradient(self, batch: Batch, scale: float = 1.0) -> tuple[float, float]:
        """Loss and gradient norm; the gradient is there, ``scale`` times as large, and clipped."""
        tokens, labels = (torch.from_numpy(np.ascontiguousarray(part)) for part in batch)
        self._optimizer.zero_grad()
        loss = self._model(tokens, finish=mean_loss(labels))
        (scale * loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIPPING)
        return float(loss.detach()), float(norm)

    def update(self, step: int, faster: float = 1.0) -> None:
        """Applies the gradient that is there."""
        rate = self._settings.rate * min(1.0, (step + 1) / self._settings.warmup)
        self._optimizer.param_groups[0]["lr"] = faster * rate
        self._optimizer.step()

    @torch.no_grad()
    def hits(self, batch: Batch) -> float:
        """Share of the labels in the second half of the sequences that the model holds for the likeliest."""
        tokens, labels = (torch.from_numpy(np.ascontiguousarray(part)) for part in batch)
        right_TB = self._model(tokens).argmax(-1) == labels.t()
        return float(right_TB[LENGTH // 2 :].float().mean())

    def saved(self) -> Any:
        """Weights and moments, to come back to."""
        return copy.deepcopy((self._model.state_dict(), self._optimizer.state_dict()))

    def load(self, saved: Any) -> None:
        """The inverse of ``saved``."""
        weights, moments = copy.deepcopy(saved)
        self._model.load_state_dict(weights)
        self._optimizer.load_state_dict(moments)


def run_trial(number: int, steps: int) -> dict[str, Any]:
    """The trace: losses and norms of all steps, [step, poison, loss, norm] of the probes, and the branches."""
    settings = Settings.of(number)
    learner, batches = Learner(settings), Batches(settings.batch, settings.repeating, number)
    guard = SpikeGuard()
    trace: dict[str, Any] = {"settings": asdict(settings), "losses": [], "norms": [], "probes": [], "branches": {}}
    for step in range(steps):
        if step == 3 * steps // 4:
            trace["branches"] = follow_branches(learner, batches, guard, step)
        if step and step % PROBE_EVERY == 0:
            for poison in POISONS:
                seen = learner.gradient(batches.poisoned(step, poison), SCALES.get(poison, 1.0))
                trace["probes"].append([step, poison, *map(_rounded, seen)])
        loss, norm = learner.gradient(batches.healthy(step))
        learner.update(step)
        guard.took(step, loss, norm, applied=True)
        trace["losses"].append(_rounded(loss))
        trace["norms"].append(_rounded(norm))
    trace["copied"] = _rounded(learner.hits(batches.copied(steps)))
    return trace


def follow_branches(learner: Learner, batches: Batches, guard: SpikeGuard, step: int) -> dict[str, Any]:
    """By what was done in ``step``: mean losses of the first 5 and the last 10 of the steps after it, and for bad
    batches whether the rule that watched so far would have kept them.

    The learning rate's leap is followed twice: without the rule, and how the rule answers what comes of it.
    """
    saved = learner.saved()
    found: dict[str, Any] = {"skipped": _follow(learner, batches, step)}
    applied: dict[str, Batch] = {"healthy": batches.healthy(step)}
    applied.update((poison, batches.poisoned(step, poison)) for poison in HARM)
    for what, batch in applied.items():
        learner.load(saved)
        kept = guard.keeps(*learner.gradient(batch, SCALES.get(what, 1.0)))
        learner.update(step)
        found[what] = _follow(learner, batches, step) | {"kept": kept}
    learner.load(saved)
    learner.gradient(batches.healthy(step))
    learner.update(step, FASTER)
    too_fast = learner.saved()
    found[LEAP] = _follow(learner, batches, step) | {"kept": True}
    learner.load(too_fast)
    found[LEAP]["answer"] = _answer(learner, batches, copy.deepcopy(guard), step)
    learner.load(saved)
    return found


def _follow(learner: Learner, batches: Batches, step: int) -> dict[str, Any]:
    losses = []
    for later in range(step + 1, step + 1 + AFTERWARDS):
        losses.append(learner.gradient(batches.healthy(later))[0])
        learner.update(later)
    return {"soon": _rounded(statistics.fmean(losses[:5])), "later": _rounded(statistics.fmean(losses[-10:]))}


def _answer(learner: Learner, batches: Batches, guard: SpikeGuard, step: int) -> str:
    """What the rule makes of the steps after ``step``."""
    skips = 0
    for later in range(step + 1, step + 1 + AFTERWARDS):
        loss, norm = learner.gradient(batches.healthy(later))
        applied = guard.keeps(loss, norm)
        guard.took(later, loss, norm, applied)
        if guard.steps_to_roll_back():
            return "rolled back"
        skips += not applied
        if applied:
            learner.update(later)
    return "skipped some" if skips else "nothing"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
