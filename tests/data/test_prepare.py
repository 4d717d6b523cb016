"""Preparation: deterministic, restartable, without copies, and nothing lost without a count."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from common.errors import InputError
from data.config import CacheConfig
from data.prepare import PrepareConfig, prepare
from data.source import TokenSource, open_source
from data.tokenizer import TiktokenTokenizer, load_tokenizer
from tests.data.conftest import sentences
from tests.processes import workers_of


def settings(files: list[str], output: Path, **changes: object) -> PrepareConfig:
    values: dict[str, object] = {"vocab_size": 330, "validation": 0.1, "shard_bytes": 4096, "workers": 1}
    return PrepareConfig(files, str(output), **(values | changes))  # type: ignore[arg-type]


def opened(folder: Path) -> TokenSource:
    return open_source(str(folder), CacheConfig())


def documents(folder: Path) -> list[str]:
    """The texts of a split, in order."""
    source, tokenizer = opened(folder), load_tokenizer(folder)
    tokens = source.reader.read(0, source.manifest.tokens)
    ends = np.flatnonzero(tokens == tokenizer.eod_id)
    assert source.manifest.documents == len(ends)
    starts = [0, *(ends[:-1] + 1).tolist()]
    return [tokenizer.decode(tokens[start:end].tolist()) for start, end in zip(starts, ends.tolist(), strict=True)]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a prepared folder; the summary and manifests name the input, whose order may differ."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".json")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_every_document_is_there_once_and_comes_back(corpus_files: list[str], prepared: Path) -> None:
    rows = [json.loads(line)["text"] for file in corpus_files for line in Path(file).read_text().splitlines()]
    assert len(rows) == 240
    assert len(set(rows)) == 230
    train, validation = documents(prepared / "train"), documents(prepared / "validation")
    assert sorted(train + validation) == sorted(set(rows))
    assert 8 <= len(validation) <= 45
    assert train != [text for text in rows if text in set(train)]  # shuffled
    manifest = opened(prepared / "train").manifest
    assert manifest.text_bytes == sum(len(text.encode()) for text in train)
    assert len(manifest.shards) > 3
    assert manifest.dtype == "uint16"


def test_the_summary_counts_copies(corpus_files: list[str], prepared: Path) -> None:
    counts = json.loads((prepared / "summary.json").read_text())["counts"]
    assert counts == {"documents read": 240, "copies of another document": 10}


def test_the_unigram_entropy_is_that_of_the_tokens(prepared: Path) -> None:
    source = opened(prepared / "validation")
    counts = Counter(source.reader.read(0, source.manifest.tokens).tolist())
    shares = np.array(list(counts.values())) / source.manifest.tokens
    assert source.manifest.unigram_entropy == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-12)
    assert source.manifest.largest_id == max(counts)


def test_workers_and_the_order_of_files_change_nothing(corpus_files: list[str], prepared: Path, tmp_path: Path) -> None:
    shuffled = list(corpus_files)
    random.Random(1).shuffle(shuffled)
    prepare(settings(shuffled, tmp_path / "again", vocab_size=400, workers=2))
    assert contents(tmp_path / "again") == contents(prepared)


def test_another_seed_gives_another_order_but_holds_out_the_same(
    corpus_files: list[str], prepared: Path, tmp_path: Path
) -> None:
    prepare(settings(corpus_files, tmp_path / "seeded", vocab_size=400, seed=5))
    for split in ("train", "validation"):
        one, other = documents(prepared / split), documents(tmp_path / "seeded" / split)
        assert one != other
        assert sorted(one) == sorted(other)


def test_a_finished_folder_is_left_alone_and_never_overwritten(corpus_files: list[str], tmp_path: Path) -> None:
    first = prepare(settings(corpus_files[:1], tmp_path / "out"))
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    assert prepare(settings(corpus_files[:1], tmp_path / "out", workers=2)) == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == times
    with pytest.raises(InputError, match="holds shards of other input or settings"):
        prepare(settings(corpus_files[:2], tmp_path / "out"))


def test_kept_parts_are_used_again(corpus_files: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = tmp_path / "tokenizer"
    prepare(settings(corpus_files[:2], tmp_path / "out", keep_parts=True))
    load_tokenizer(tmp_path / "out" / "train").save(tokenizer)
    (tmp_path / "out" / "summary.json").unlink()
    (tmp_path / "out" / "train" / "00999.tokens").write_bytes(b"of an attempt with more shards")
    for place in ("summary.json", "train/00000.tokens", "validation/manifest.json", "work/0a1b.index"):
        (tmp_path / "out" / f"{place}.0123456789ab.partial").write_bytes(b"of an attempt that was killed")
    (tmp_path / "out" / "train" / "mine.partial").touch()
    capfd.readouterr()
    prepare(settings(corpus_files, tmp_path / "out", keep_parts=True, tokenizer=str(tokenizer)))
    assert "2 of 4 parts are there already" in capfd.readouterr().err
    prepare(settings(corpus_files, tmp_path / "fresh", tokenizer=str(tokenizer)))
    assert not (tmp_path / "out" / "train" / "00999.tokens").exists()
    assert [path.name for path in (tmp_path / "out").rglob("*.partial")] == ["mine.partial"]
    for split in ("train", "validation"):
        assert opened(tmp_path / "out" / split).id == opened(tmp_path / "fresh" / split).id


def test_killed_at_any_moment_a_rerun_completes_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With -9: the workers end by themselves, and the result is that of an undisturbed run."""
    files = []
    for number in range(6):
        file = tmp_path / f"{number}.jsonl"
        rows = (json.dumps({"text": sentences(1000 * number + row, 30)}) for row in range(150))
        file.write_text("\n".join(rows))
        files.append(str(file))
    command = [sys.executable, "-m", "data", "prepare", "--input", *files, "--vocab-size", "330"]
    command += ["--shard-bytes", "65536", "--workers", "2"]
    output = tmp_path / "killed"
    process = subprocess.Popen([*command, "--output", str(output)], stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    while not list(output.glob("work/[0-9a-f]*.json")) or len(workers) < 2:  # until a first part is finished
        workers = workers_of(process.pid)
        time.sleep(0.005)
        assert process.poll() is None, "finished before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    assert not (output / "summary.json").exists()
    prepare(settings(files, output, validation=0.02, shard_bytes=65536))
    assert "of 6 parts are there already" in capfd.readouterr().err
    undisturbed = tmp_path / "undisturbed"
    prepare(settings(files, undisturbed, validation=0.02, shard_bytes=65536))
    assert contents(output) == contents(undisturbed)
    assert not list(output.rglob("*.partial"))


def test_strange_documents_are_kept_or_counted(tmp_path: Path) -> None:
    texts = ["ordinary text. " * 50, " " * 1_200_000, "", "x" * 3_000_000, "naïve \ufffd", "\n" * 1000, "end"]
    rows = [json.dumps({"text": text}) for text in texts] + ["{broken", '{"no": "text"}']
    (tmp_path / "strange.jsonl").write_text("\n".join(rows))
    summary = prepare(settings([str(tmp_path / "strange.jsonl")], tmp_path / "out", validation=0.0, vocab_size=260))
    assert sorted(documents(tmp_path / "out" / "train")) == sorted(text for text in texts if text)
    assert summary["counts"] == {
        "documents read": 7,
        "empty": 1,
        "kept, but cut where the tokenizer would not have": 1,
        "kept, with bytes that are no UTF-8 (U+FFFD)": 1,
        "malformed JSON": 1,
        "no text in 'text'": 1,
        "copies of another document": 0,
    }


@pytest.mark.parametrize("kind", ["tokens", "index", "json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"runs": [{}], "counts": 5}'])
def test_a_part_that_is_not_whole_is_made_again(
    kind: str, content: bytes | None, corpus_files: list[str], prepared: Path, tmp_path: Path
) -> None:
    work = settings(corpus_files[:1], tmp_path / "out", keep_parts=True, tokenizer=str(prepared / "train"))
    first = prepare(work)
    (tmp_path / "out" / "summary.json").unlink()
    (part,) = (tmp_path / "out" / "work").glob(f"[0-9a-f]*.{kind}")
    if content is None:
        part.unlink()
    else:
        part.write_bytes(content)
    assert prepare(work) == first


def test_what_was_finished_and_is_no_longer_there_is_said(corpus_files: list[str], tmp_path: Path) -> None:
    work = settings(corpus_files[:1], tmp_path / "out")
    first = prepare(work)
    shutil.rmtree(tmp_path / "out" / "validation")
    with pytest.raises(InputError, match=r"out: was finished, but validation missing; remove .*summary\.json"):
        prepare(work)
    (tmp_path / "out" / "summary.json").write_text("[]")
    with pytest.raises(InputError, match=r"out: holds shards of other input or settings"):
        prepare(work)
    (tmp_path / "out" / "summary.json").unlink()
    assert prepare(work) == first


def test_input_without_text_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n{"other": 1}\n')
    with pytest.raises(InputError, match=r"no document with text; found: .*1 empty"):
        prepare(settings([str(tmp_path / "empty.jsonl")], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "b.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"b\.parquet: damaged"):
        prepare(settings([str(tmp_path / "b.parquet")], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": 1.0}, "--validation: must be at least 0 and below 1"),
        ({"workers": 0}, "--workers: must be at least 1"),
        ({"tokenizer": "nonsense"}, "--tokenizer nonsense: neither small-bpe"),
    ],
)
def test_bad_settings_are_refused_by_name(
    corpus_files: list[str], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepare(settings(corpus_files, tmp_path / "out", **changes))


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, corpus_files: list[str], prepared: Path) -> None:
    """The type follows the tokenizer's largest id, not the ids that happen to occur."""
    tokenizer = load_tokenizer(prepared / "train")
    assert isinstance(tokenizer, TiktokenTokenizer)
    large = TiktokenTokenizer("large", tokenizer.pattern, tokenizer.ranks, {"<|endoftext|>": 70_000}, 70_000)
    large.save(tmp_path / "large")
    prepare(settings(corpus_files[:1], tmp_path / "out", tokenizer=str(tmp_path / "large")))
    manifest = opened(tmp_path / "out" / "train").manifest
    assert (manifest.dtype, manifest.largest_id, manifest.vocab_size) == ("uint32", 70_000, 70_001)
    assert (tmp_path / "out/train" / manifest.shards[0].file).stat().st_size == 4 * manifest.shards[0].tokens
