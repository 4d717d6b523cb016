"""The walk: what is read, what is passed over and counted, and that no link, folder or kill changes it."""

import json
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest

from common.errors import InputError
from data.corpus import find_units
from data.prepare import PrepareConfig, prepare
from tests.data.reading import read_all

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_everything_that_is_passed_over_is_counted_by_its_reason(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "read")
    write(tmp_path / "inner" / "Makefile", "read, too")
    write(tmp_path / "photo.png", PNG)
    write(tmp_path / "weights.bin", b"\0\1\2")
    write(tmp_path / "notes", "of no known kind")
    write(tmp_path / ".hidden.txt", "hidden")
    write(tmp_path / ".git" / "a.txt", "hidden")
    write(tmp_path / "picture.txt", PNG)
    write(tmp_path / "noise.md", bytes(range(128, 256)) * 8)
    write(tmp_path / "wide.txt", "text".encode("utf-16"))
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "none.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    texts, counts = read_all(tmp_path)
    assert sorted(texts) == ["read", "read, too"]
    assert counts == {
        "files of other kinds (.png)": 1,
        "files of other kinds (.bin)": 1,
        "files of other kinds (no suffix)": 1,
        "hidden files and folders": 2,
        "files that are not UTF-8 text, though their names say so": 3,
        "links to nothing": 1,
        "neither files nor folders": 1,
    }


def test_suffixes_without_end_are_counted_together(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "read")
    for name in ("a.tar.gz", "b.warc.gz", "c.zip", f"d.{'f' * 40}"):
        write(tmp_path / name, PNG)
    counts = read_all(tmp_path)[1]
    assert counts == {f"files of other kinds ({kind})": 1 for kind in (".tar.gz", ".warc.gz", ".zip", "others")}
    for number in range(200):
        write(tmp_path / f"model.{number}", PNG)
    counts = read_all(tmp_path)[1]
    assert len(counts) < 50
    assert sum(counts.values()) == 204


def test_a_link_to_a_device_leads_to_something(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "read")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    assert read_all(tmp_path) == (["read"], {"neither files nor folders": 1})


def test_names_that_name_nothing_are_refused(tmp_path: Path) -> None:
    for name, message in (("", "an empty name"), ("x" * 5000, "File name too long"), (f"{tmp_path}/no", "no such")):
        with pytest.raises(InputError, match=message) as caught:
            read_all(name)
        assert len(str(caught.value)) < 400


def test_links_are_followed_and_what_they_lead_to_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.txt", "one")
    write(tmp_path / "blobs" / "5f3a", '{"text": "two"}\n')  # a cache keeps files under names without a suffix
    corpus = tmp_path / "corpus"
    write(corpus / "b.txt", "three")
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    (corpus / "two.jsonl").symlink_to(tmp_path / "blobs" / "5f3a")
    (corpus / "again.txt").symlink_to(corpus / "b.txt")
    (corpus / "linked_twice").symlink_to(tmp_path / "elsewhere")
    (corpus / "circle").symlink_to(corpus)
    texts, counts = read_all(corpus)
    assert sorted(texts) == ["one", "three", "two"]
    assert counts == {"other names of a file or folder that is read": 3}
    assert sorted(read_all(corpus, corpus / "b.txt", tmp_path / "elsewhere")[0]) == sorted(texts)


def test_a_single_file_of_no_known_kind_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("photo.png", "notes", "a.docx", "model.safetensors.gz"):
        write(tmp_path / name, PNG)
        with pytest.raises(InputError, match=rf"{name}: not a kind of file that is read; those are jsonl"):
            read_all(tmp_path / name)
    with pytest.raises(InputError, match=r"no text files there; passed over: 1 files of other kinds \(\.docx\)"):
        read_all(str(tmp_path / "*.docx"))


def saved(folder: Path, texts: list[str]) -> None:
    datasets.Dataset.from_dict({"n": list(range(len(texts))), "text": texts}).save_to_disk(str(folder))


def test_a_folder_of_save_to_disk_has_the_documents_that_were_saved(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(200)]
    saved(tmp_path / "saved", texts)
    assert read_all(tmp_path / "saved") == (texts, {"files beside the data in folders of save_to_disk": 2})
    (tmp_path / "saved" / "cache-123.arrow").write_bytes(b"of a map() that datasets kept beside it")
    assert read_all(tmp_path / "saved") == (texts, {"files beside the data in folders of save_to_disk": 3})


def test_all_splits_of_a_saved_dataset_dict_are_read(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(3)]}) for name in ("a", "b")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    texts, counts = read_all(tmp_path / "saved")
    assert sorted(texts) == ["a 0", "a 1", "a 2", "b 0", "b 1", "b 2"]
    assert counts == {"files beside the data in folders of save_to_disk": 5}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([{"filename": "../outside.arrow"}], "is not an Arrow file of this folder"),
        ([{"filename": "data-00001-of-00001.arrow"}], "is missing, though state.json names it"),
        ([5], "_data_files: expected a list of file names"),
        (7, "_data_files: expected a list of file names"),
    ],
)
def test_a_saved_folder_that_is_not_whole_is_refused(tmp_path: Path, files: object, message: str) -> None:
    saved(tmp_path / "saved", ["one"])
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": files}))
    with pytest.raises(InputError, match=message):
        read_all(tmp_path / "saved")


def test_what_a_preparation_writes_is_never_its_input(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for number in range(30):
        write(corpus / f"{number}.txt", f"document {number} of some words " * 20)
    settings = PrepareConfig([str(corpus)], str(corpus / "out"), vocab_size=260, workers=1, validation=0.2)
    first = prepare(settings)
    assert first["counts"]["documents read"] == 30
    (corpus / "out" / "summary.json").unlink()  # killed at its very end
    again = prepare(settings)
    assert again["counts"] == first["counts"] | {"the folder that the shards go to": 1}
    other = PrepareConfig([str(corpus)], str(tmp_path / "other"), vocab_size=260, workers=1, validation=0.2)
    assert prepare(other)["counts"]["documents read"] == 30  # nor is it another's


def test_an_output_that_holds_the_input_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text")
    for output in (tmp_path, tmp_path / "."):
        with pytest.raises(InputError, match="lies in --output"):
            find_units([str(tmp_path)], Counter(), output)
    assert find_units([str(tmp_path)], Counter(), tmp_path / "out")


def test_folders_that_a_pattern_matches_are_walked(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.txt", "a")
    write(tmp_path / "b.txt", "b")
    assert sorted(read_all(str(tmp_path / "*"))[0]) == ["a", "b"]
