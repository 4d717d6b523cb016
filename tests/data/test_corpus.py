"""Reading raw text: every kind of input, and what is not a document is counted."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from data.corpus import GROUP_BYTES, Reading, find_units, read_documents
from data.walk import Walk
from tests.data.reading import read_all


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "odd [names] *"
    (folder / "inner").mkdir(parents=True)
    rows = [json.dumps({"text": "one\u2028line"}), '{"text": "cut', '{"text": null}', '{"other": 1}', "[1, 2]", ""]
    rows += ['{"text": 5}', '{"text": "\\ud800 half"}', '{"text": ""}', json.dumps({"text": "é"})]
    (folder / "a.jsonl").write_text("\n".join(rows))
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "packed"}) + "\n")
    pq.write_table(pa.table({"text": ["row 1", None, "row 2"], "n": [1, 2, 3]}), folder / "c.parquet")
    (folder / "d.txt").write_bytes(b"latin \xe9 and \xff")
    (folder / "inner" / "e.md").write_text("# Title\n\nbody\n")
    return folder


def test_every_document_is_read_or_counted(folder: Path) -> None:
    texts, problems = read_all(str(folder))
    assert sorted(texts) == sorted(
        ["", "# Title\n\nbody\n", "latin � and �", "one\u2028line", "packed", "row 1", "row 2", "� half", "é"]
    )
    assert problems == {
        "malformed JSON": 1,
        "no text in 'text'": 5,
        "kept, with bytes that are no UTF-8 (U+FFFD)": 2,
    }


def test_files_folders_and_patterns_find_the_same_files(folder: Path) -> None:
    by_file = read_all(*(str(file) for file in folder.rglob("*") if file.is_file()))
    assert read_all(str(folder)) == by_file
    plain = folder.rename(folder.with_name("plain"))
    assert read_all(str(plain / "**" / "*.md"))[0] == ["# Title\n\nbody\n"]


def test_one_line_of_fifty_megabytes(tmp_path: Path) -> None:
    text = "words and more words " * 2_500_000
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "short"}) + "\n" + json.dumps({"text": text}))
    assert read_all(str(tmp_path / "long.jsonl"))[0] == ["short", text]


def test_another_field_can_be_named(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"content": "mine"}')
    assert read_all(str(folder / "a.jsonl"), field="content")[0] == ["mine"]
    with pytest.raises(InputError, match="--text-field content: no such column; there are text, n"):
        read_all(str(folder / "c.parquet"), field="content")


def test_units_do_not_depend_on_the_order_of_the_input(folder: Path) -> None:
    files = [str(file) for file in folder.rglob("*") if file.is_file()]
    orders = (files, files[::-1], [*files, str(folder)])
    assert len({tuple(find_units(order, Counter())) for order in orders}) == 1


def test_the_standard_library_is_text_on_every_machine() -> None:
    units = find_units(["stdlib"], Counter())
    files = [file for unit in units for file in unit.files]
    assert any(file.endswith("json/__init__.py") for file in files)
    assert not any("site-packages" in file for file in files)
    assert sum(unit.size for unit in units) > 5_000_000
    assert all(unit.size < 2 * GROUP_BYTES for unit in units)
    problems: Counter[str] = Counter()
    assert any("import" in text for text in read_documents(units[0], Reading(), problems))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for name, message in (
        (str(tmp_path / "none.jsonl"), "no such file or folder"),
        ("none.jsonl", "no such file or folder"),
        (str(tmp_path), "no text files there"),
    ):
        with pytest.raises(InputError, match=message):
            find_units([name], Counter())


@pytest.mark.parametrize("name", ["a.txt", "b.jsonl"])
def test_a_file_that_goes_after_it_was_found_is_said_and_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept.txt").write_text("words")
    found = [*Walk(Counter()).files_of(str(tmp_path)), str(tmp_path / name)]  # type: ignore[misc]
    monkeypatch.setattr(Walk, "files_of", lambda walk, entry: found)
    with pytest.raises(InputError, match=rf"^{tmp_path / name}: was found, and has gone since; "):
        find_units([str(tmp_path)], Counter())


def test_a_hub_name_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split into as many units as the dataset has files; the hub itself is not asked in a test."""
    import datasets

    rows = datasets.Dataset.from_dict({"text": [f"document {number}" for number in range(20)]})
    asked = []

    def load_dataset(name: str, configuration: str | None, *, split: str, streaming: bool) -> object:
        asked.append((name, configuration, split, streaming))
        return rows.to_iterable_dataset(num_shards=4)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    units = find_units(["owner/name:config:validation"], Counter())
    assert len(units) == 4
    texts = [text for unit in units for text in read_documents(unit, Reading(), Counter())]
    assert sorted(texts) == sorted(rows["text"])
    assert set(asked) == {("owner/name", "config", "validation", True)}
