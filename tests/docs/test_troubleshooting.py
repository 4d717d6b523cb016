"""What docs/troubleshooting.md says that programs print, programs print."""

import re

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs/troubleshooting.md").read_text()
SYMPTOMS = [line.split("|")[1].strip() for line in TEXT.splitlines() if line.startswith("| ")]
PRINTED = [code for symptom in SYMPTOMS for code in re.findall(r"`([^`]+)`", symptom)]
SOURCES = "\n".join(path.read_text() for room in ("common", "data", "model", "pretrain", "launch", "scripts")
                    for path in (ROOT / room).rglob("*.py"))  # fmt: skip
NOT_PRINTED = {"make setup", "cpus_per_task"}


@pytest.mark.parametrize("words", sorted(set(PRINTED) - NOT_PRINTED))
def test_words_of_a_program_stand_in_one(words: str) -> None:
    assert all(part.strip() in SOURCES for part in words.split("..."))


def test_every_row_has_a_cause_and_a_remedy() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| symptom")]
    assert len(rows) > 20
    assert all(len(re.split(r"(?<!\\)\|", row)) == 5 for row in rows)
