"""Every optimizer, by name.

In: an OptimizerConfig. Out: its OptimizerKind. Always: a name that is not here is an error, never a default; so is a
setting that the named one does not read.
"""

from dataclasses import fields

from common.errors import InputError, nearest
from pretrain.optimizers.adamw import AdamW
from pretrain.optimizers.base import OptimizerKind
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.muon import Muon

OPTIMIZERS: tuple[OptimizerKind, ...] = (AdamW(), Muon())


def optimizer_kind(config: OptimizerConfig) -> OptimizerKind:
    """The optimizer that ``config`` asks for.

    Raises:
        InputError: there is none of this name.
    """
    return optimizer_named(config.kind)


def optimizer_named(name: str) -> OptimizerKind:
    """The optimizer called ``name``.

    Raises:
        InputError: there is none.
    """
    found = next((kind for kind in OPTIMIZERS if kind.name == name), None)
    if found is None:
        known = [kind.name for kind in OPTIMIZERS]
        raise InputError(f"optimizer.kind: expected one of {', '.join(known)}, is {name!r}{nearest(name, known)}")
    return found


def check_optimizer(config: OptimizerConfig) -> None:
    """Raises InputError unless there is the optimizer that ``config`` names, and it reads every setting that is set."""
    chosen = optimizer_kind(config)
    for setting in fields(config):
        readers = [kind.name for kind in OPTIMIZERS if setting.name in kind.settings]
        changed = getattr(config, setting.name) != setting.default
        if readers and chosen.name not in readers and changed:
            raise InputError(
                f"optimizer.{setting.name}: only {' and '.join(readers)} reads it, not {chosen.name}; leave it out, or "
                "choose another optimizer.kind"
            )


def never_negative() -> frozenset[str]:
    """Names of the state, of any optimizer, that cannot be below 0."""
    groups = [group for kind in OPTIMIZERS for group in kind.groups]
    return frozenset(moment.name for group in groups for moment in group.moments if moment.never_negative)
