"""Every kind of attention, by name.

In: a ModelConfig. Out: its Kind. Always: a name that is not here is an error, never a default.
"""

from dataclasses import replace

from common.errors import InputError, nearest
from model.config import ModelConfig
from model.kinds.base import Kind, Recipe
from model.kinds.diff import Diff
from model.kinds.diff_v2 import DiffV2
from model.kinds.shared_diff import SharedDiff
from model.kinds.standard import Standard

KINDS: tuple[Kind, ...] = (Standard(), Diff(), SharedDiff(), DiffV2())
"""in the order in which tables show them"""


def kind_of(config: ModelConfig) -> Kind:
    """The kind that ``config`` asks for.

    Raises:
        InputError: there is none of this name.
    """
    return kind_named(config.attention)


def kind_named(name: str) -> Kind:
    """The kind called ``name``.

    Raises:
        InputError: there is none.
    """
    found = next((kind for kind in KINDS if kind.name == name), None)
    if found is None:
        known = kind_names()
        raise InputError(f"model.attention: expected one of {', '.join(known)}, is {name!r}{nearest(name, known)}")
    return found


def kind_names() -> list[str]:
    """The names of all kinds."""
    return [kind.name for kind in KINDS]


def recipe_of(source: ModelConfig, target: ModelConfig, name: str) -> Recipe | None:
    """How parameter ``name`` of ``target`` is made of those of ``source``, all by logical name (``Kind.recipe``).

    None: it is the one of the same name, as it is stored.
    """
    prefix, attention, part = name.rpartition("attention.")
    recipe = kind_of(source).recipe(source, target, part) if attention else None
    if recipe is None:
        return None
    return replace(recipe, sources=tuple(f"{prefix}{attention}{part}" for part in recipe.sources))
