"""What the spike rule, and the one before it, would have made of the traces of healthy runs.

In: traces (trial.py). Out: figures by rule, and what bad batches did that were applied. Always: a rule that refuses a
step does not learn from it, though the run took it.
"""

import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pretrain.resilience.spikes import SpikeGuard
from scripts.spikes.batches import POISONS
from scripts.spikes.trial import LEAP

LEARNED = 0.5
"""share of hits from which a run counts as one that learned to copy"""


class NormAlone(SpikeGuard):
    """The rule as it was: a gradient norm that lies out is a reason by itself, the first time of several in a row."""

    def __init__(self) -> None:
        """With the window and the bounds that the training uses by default."""
        super().__init__()
        self._norm_lay_out = False

    def reason_to_skip(self, loss: float, grad_norm: float) -> str | None:
        """Why a step with these values would not have reached the weights; None: it would."""
        reason = super().reason_to_skip(loss, grad_norm)
        if reason is None and self._lies_out(grad_norm) and not self._norm_lay_out:
            return "gradient norm"
        return reason

    def took(self, step: int, loss: float, grad_norm: float, applied: bool) -> None:
        """Remembers a step after the decision about it."""
        self._norm_lay_out = self._lies_out(grad_norm)
        super().took(step, loss, grad_norm, applied)

    def _lies_out(self, grad_norm: float) -> bool:
        return self._can_judge() and self._norm_deviation(grad_norm)[0] > self._deviations


RULES: dict[str, type[SpikeGuard]] = {"norm alone": NormAlone, "today's": SpikeGuard}


def figures(traces: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the tables show."""
    rules: dict[str, Any] = {}
    for name, rule in RULES.items():
        skipped = [healthy_skips(trace, rule()) for trace in traces]
        caught = [answer for trace in traces for answer in probes_caught(trace, rule())]
        rules[name] = {
            "healthy_steps_skipped": sum(map(len, skipped)),
            "runs_with_skips": sum(map(bool, skipped)),
            "rolled_back": sum(rolls_back(trace, rule()) for trace in traces),
            "caught": {
                poison: [sum(was for what, was in caught if what == poison), sum(what == poison for what, _ in caught)]
                for poison in POISONS
            },
        }
    return {
        "runs": len(traces),
        "learned_to_copy": sum(trace["copied"] >= LEARNED for trace in traces),
        "healthy_steps": sum(len(trace["losses"]) for trace in traces),
        "rules": rules,
        "harm": harm(traces),
        "answers_to_a_leap": dict(Counter(trace["branches"][LEAP]["answer"] for trace in traces)),
    }


def healthy_skips(trace: dict[str, Any], guard: SpikeGuard) -> list[int]:
    """The steps that the rule would have refused."""
    return [step for step, kept in _replayed(trace, guard) if not kept]


def rolls_back(trace: dict[str, Any], guard: SpikeGuard) -> bool:
    """Whether so many at once that the run would have gone back."""
    return any(guard.steps_to_roll_back() for _ in _replayed(trace, guard))


def probes_caught(trace: dict[str, Any], guard: SpikeGuard) -> Iterator[tuple[str, bool]]:
    """For each bad batch: what is wrong with it, and whether the rule would have refused it."""
    probes: dict[int, list[Any]] = {}
    for step, *probe in trace["probes"]:
        probes.setdefault(step, []).append(probe)
    for step, _ in _replayed(trace, guard):
        for poison, loss, norm in probes.get(step + 1, ()):
            yield poison, not guard.keeps(loss, norm)


def harm(traces: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By what was applied, and whether today's rule would have kept it: how much higher the next 5 losses, and those of
    20 to 30 steps on, are than had it been skipped; median and largest."""
    rises: dict[str, list[tuple[float, float]]] = {}
    for trace in traces:
        unharmed = trace["branches"]["skipped"]
        for what, branch in trace["branches"].items():
            if what != "skipped":
                verdict = f"{what}, {'kept' if branch['kept'] else 'refused'}"
                rises.setdefault(verdict, []).append(
                    (branch["soon"] - unharmed["soon"], branch["later"] - unharmed["later"])
                )
    found = {}
    for verdict, pairs in rises.items():
        soon, later = zip(*pairs, strict=True)
        found[verdict] = {
            "count": len(pairs),
            "soon": statistics.median(soon),
            "soon_largest": max(soon),
            "later": statistics.median(later),
            "later_largest": max(later),
        }
    return found


def table(found: dict[str, Any]) -> Iterator[str]:
    """The figures for people."""
    yield (
        f"{found['runs']} healthy runs, {found['learned_to_copy']} of which learned to copy, "
        f"{found['healthy_steps']} steps"
    )
    yield f"{'':<24}" + "".join(f"{name:>16}" for name in found["rules"])
    for label, key in (("healthy steps skipped", "healthy_steps_skipped"), ("in runs", "runs_with_skips")):
        yield f"{label:<24}" + "".join(f"{rule[key]:>16}" for rule in found["rules"].values())
    for poison in POISONS:
        shares = (rule["caught"][poison] for rule in found["rules"].values())
        yield f"{poison + ' caught':<24}" + "".join(f"{f'{caught} of {count}':>16}" for caught, count in shares)
    yield "\na bad step that is applied: loss above that after a skip, next 5 steps and 20 to 30 on, median (largest)"
    for what, rise in sorted(found["harm"].items()):
        yield (
            f"{what:<26}{rise['count']:>5}{rise['soon']:>9.3f} ({rise['soon_largest']:.3f})"
            f"{rise['later']:>12.3f} ({rise['later_largest']:.3f})"
        )
    answers = ", ".join(f"{answer} {count}" for answer, count in sorted(found["answers_to_a_leap"].items()))
    yield f"the rule's answer to {LEAP}: {answers}"


def _replayed(trace: dict[str, Any], guard: SpikeGuard) -> Iterator[tuple[int, bool]]:
    """(step, whether the rule keeps it) after each step."""
    for step, (loss, norm) in enumerate(zip(trace["losses"], trace["norms"], strict=True)):
        kept = guard.keeps(loss, norm)
        guard.took(step, loss, norm, applied=kept)
        yield step, kept
