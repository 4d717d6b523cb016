"""What a run that goes on keeps of its past, and what its owner may change.

In: the config that a checkpoint was trained with, the one of this start, and the step between them. Out: the config
to go on with, and what changed, in words. Always: the samples of the steps already taken stay what they were, whatever
the batch size is now; what would make another model or another text of the same weights is refused by name.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from common.errors import InputError
from common.urls import values_without_credentials
from data.batch import BatchConfig
from data.config import RampConfig
from pretrain.config import RunConfig
from pretrain.schedule import learning_rate


def check_same_model(old: RunConfig, new: RunConfig, where: str) -> None:
    """Refuses to go on from the checkpoint ``where`` with another model, or with another reading of its text.

    Raises:
        InputError: names the first setting that differs.
    """
    _check_same(old.model, new.model, "model", where)
    _check_same(old.data.document_attention, new.data.document_attention, "data.document_attention", where)


def check_same_optimizer(old: RunConfig, new: RunConfig, where: str) -> None:
    """Refuses to go on from the checkpoint ``where`` with another optimizer, which has other moments.

    Raises:
        InputError: says which it was.
    """
    _check_same(old.optimizer.kind, new.optimizer.kind, "optimizer.kind", where)


def _check_same(theirs: Any, ours: Any, name: str, where: str) -> None:
    """Refuses a setting, or the first of a section of them, that differs."""
    if dataclasses.is_dataclass(ours):
        for key, value in vars(ours).items():
            _check_same(getattr(theirs, key), value, f"{name}.{key}", where)
    elif theirs != ours:
        raise InputError(
            f"{name}: is {ours}, but {where} was trained with {theirs}; restore the setting, or start "
            "another run (--name or --run-dir), from these weights with --checkpoint.branch_from"
        )


def with_past(old: RunConfig, new: RunConfig, step: int) -> RunConfig:
    """``new`` from ``step`` on, with the batch sizes of ``old`` before it, as its ``batch.ramp``."""
    stretches = [
        *old.batch.schedule.stretches(0, step),
        *new.batch.schedule.stretches(step, max(step, _ramp_steps(new.batch))),
    ]
    merged = [
        RampConfig(sum(entry.steps for entry in group), size)
        for size, group in itertools.groupby(stretches, key=lambda entry: entry.global_size)
    ]
    if merged and merged[-1].global_size == new.batch.global_size:
        merged.pop()
    return dataclasses.replace(new, batch=dataclasses.replace(new.batch, ramp=merged))


def describe_changes(old: RunConfig, new: RunConfig, step: int) -> list[str]:
    """What is another setting from ``step`` on, and what that does to the learning rate; a line each."""
    before, after = dict(_settings(old, step)), dict(_settings(new, step))
    changed = [
        f"{key} {_short(before.get(key))} -> {_short(after.get(key))}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    lines = [f"changed since step {step}: {'; '.join(changed)}"] if changed else []
    return lines + list(_rate_change(old, new, step))


def _rate_change(old: RunConfig, new: RunConfig, step: int) -> Iterator[str]:
    planned, now = _rate(old, step), _rate(new, step)
    if step >= new.train.steps or planned == now:
        return
    last = _rate(old, step - 1) if step else 0.0
    if step >= old.train.steps:
        would = f"its {old.schedule.kind} schedule had ended"
    else:
        would = f"step {step + 1} would have had {planned:.3g}"
    yield (
        f"learning rate: step {step} had {last:.3g} and {would}; step {step + 1} now has {now:.3g}, the "
        f"{new.schedule.kind} schedule of a run of {new.train.steps} steps"
    )


def _rate(config: RunConfig, step: int) -> float:
    return learning_rate(config.schedule, config.optimizer.learning_rate, config.train.steps, step)


def _settings(config: RunConfig, step: int) -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name; of the ramp only what lies at or after ``step``."""
    batch = config.batch
    ahead = batch.schedule.stretches(step, max(step, _ramp_steps(batch)))
    if ahead and ahead[-1].global_size == batch.global_size:
        ahead.pop()
    comparable = dataclasses.replace(config, batch=dataclasses.replace(batch, ramp=ahead))
    for section, values in values_without_credentials(dataclasses.asdict(comparable)).items():
        if isinstance(values, dict) and section != "deepspeed":
            yield from ((f"{section}.{key}", value) for key, value in values.items())
        else:
            yield section, values


def _ramp_steps(batch: BatchConfig) -> int:
    return sum(entry.steps for entry in batch.ramp)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
