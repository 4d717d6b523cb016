"""docs/telemetry.md tells every number that a kind of attention records, and no other."""

import re
from pathlib import Path

from model.config import ModelConfig
from model.kinds.registry import KINDS
from pretrain.telemetry.names import by_layer, known_numbers

TEXT = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()


def test_the_tables_name_what_the_kinds_record() -> None:
    recorded = set()
    for kind in KINDS:
        numbers = known_numbers(ModelConfig(attention=kind.name))
        recorded |= {re.sub("/.*", "/PART", name) for name in by_layer(dict.fromkeys(numbers, 0.0))}
    rows = re.findall(r"^\| (`.*?) \|", TEXT, flags=re.MULTILINE)
    told = [name for row in rows for name in re.findall(r"`([^`]*)`", row) if not name.endswith("*")]
    tables = [name for name in told if name in recorded or name.split(".")[0] in ("attention", "head")]
    assert set(tables) == recorded


def test_parts_that_the_page_names_are_parts() -> None:
    named = set(re.findall(r"`((?:gradient_norm|update_ratio)/[a-z][^`]*)`", TEXT))
    assert named
    assert named <= set(known_numbers(ModelConfig()))
