"""Reading a corpus in a test."""

from collections import Counter
from pathlib import Path

from data.corpus import OnDamage, Reading, find_units, read_documents


def read_all(
    *inputs: str | Path, field: str = "text", on_damage: OnDamage = "refuse"
) -> tuple[list[str], Counter[str]]:
    """The documents behind ``inputs``, and all that was counted."""
    counts: Counter[str] = Counter()
    units = find_units([str(entry) for entry in inputs], counts)
    return [text for unit in units for text in read_documents(unit, Reading(field, on_damage), counts)], counts
