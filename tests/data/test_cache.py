"""The block cache: bounded, whole or absent, fetched once, usable on a full disk."""

import errno
import fcntl
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from common.errors import InputError
from data import cache as cache_module
from data.cache import BLOCKS_PER_SHELF, BlockCache
from tests.disk import small_disk
from tests.other_user import as_stranger, shared_place

BLOCK = 1000


def content(number: int) -> bytes:
    return number.to_bytes(4, "little") * (BLOCK // 4)


def read(cache: BlockCache, number: int, fetched: list[int]) -> bytes:
    def fetch() -> bytes:
        fetched.append(number)
        return content(number)

    return cache.read(f"set/shard/{number}", BLOCK, 100, 50, fetch)


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_block_is_fetched_once(tmp_path: Path) -> None:
    cache, fetched = BlockCache(tmp_path, 100 * BLOCK, BLOCK), list[int]()
    for _ in range(3):
        for number in range(10):
            assert read(cache, number, fetched) == content(number)[100:150]
    assert fetched == list(range(10))
    assert read(BlockCache(tmp_path, 100 * BLOCK, BLOCK), 5, fetched) == content(5)[100:150]  # another process
    assert len(fetched) == 10


@pytest.mark.parametrize("capacity", [2, 7, 100, 4 * BLOCKS_PER_SHELF + 3])
def test_the_bound_in_bytes_is_kept_at_every_moment(tmp_path: Path, capacity: int) -> None:
    cache, fetched = BlockCache(tmp_path, capacity * BLOCK, BLOCK), list[int]()
    for number in range(3 * capacity):
        read(cache, number, fetched)
        assert sum(path.stat().st_size for path in kept(tmp_path)) <= capacity * BLOCK
    assert len(kept(tmp_path)) > capacity // 2


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache, fetched = BlockCache(tmp_path, 3 * BLOCK, BLOCK), list[int]()
    for number in (0, 1, 2, 0, 3):
        read(cache, number, fetched)
    fetched.clear()
    for number in (0, 2, 3):
        read(cache, number, fetched)
    assert fetched == []
    read(cache, 1, fetched)
    assert fetched == [1]


def test_a_block_of_the_wrong_size_is_fetched_again(tmp_path: Path) -> None:
    cache, fetched = BlockCache(tmp_path, 100 * BLOCK, BLOCK), list[int]()
    read(cache, 1, fetched)
    (path,) = kept(tmp_path)
    path.write_bytes(content(1)[:500])
    assert read(cache, 1, fetched) == content(1)[100:150]
    assert fetched == [1, 1]


def test_rubbish_of_a_killed_process_goes_with_the_next_block(tmp_path: Path) -> None:
    cache, fetched = BlockCache(tmp_path, 10 * BLOCK, BLOCK), list[int]()
    read(cache, 1, fetched)
    (path,) = kept(tmp_path)
    path.with_name("unfinished.partial").write_bytes(bytes(9 * BLOCK))
    read(cache, 2, fetched)
    assert len(kept(tmp_path)) == 2
    assert read(cache, 1, fetched) == content(1)[100:150]


def test_many_threads_fetch_a_block_once(tmp_path: Path) -> None:
    cache, fetched = BlockCache(tmp_path, 100 * BLOCK, BLOCK), list[int]()
    threads = [threading.Thread(target=read, args=(cache, number % 4, fetched)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == [0, 1, 2, 3]


def test_blocks_of_one_shelf_are_fetched_side_by_side(tmp_path: Path) -> None:
    """Each fetch ends when all have begun: with one lock for all they would wait for each other in vain."""
    cache, together = BlockCache(tmp_path, 10 * BLOCK, BLOCK), threading.Barrier(4)

    def bring(number: int) -> None:
        def fetch() -> bytes:
            together.wait(timeout=10)
            return content(number)

        assert cache.read(f"set/shard/{number}", BLOCK, 0, BLOCK, fetch) == content(number)

    threads = [threading.Thread(target=bring, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.glob("*/*"))) == 1  # one shelf
    assert len(kept(tmp_path)) == 4


def test_a_block_that_is_on_its_way_is_fetched_once_though_others_are_written_meanwhile(tmp_path: Path) -> None:
    cache, fetched = BlockCache(tmp_path, 10 * BLOCK, BLOCK), list[int]()
    begun, comes = threading.Event(), threading.Event()

    def fetch() -> bytes:
        fetched.append(1)
        begun.set()
        assert comes.wait(timeout=10)
        return content(1)

    first = threading.Thread(target=cache.read, args=("set/shard/1", BLOCK, 0, 10, fetch))
    first.start()
    assert begun.wait(timeout=10)
    read(cache, 2, fetched)
    second = threading.Thread(target=read, args=(cache, 1, fetched))
    second.start()
    second.join(0.1)
    comes.set()
    first.join()
    second.join()
    assert fetched == [1, 2]
    assert len(kept(tmp_path)) == 2


def test_a_block_that_never_fits_is_passed_on_and_not_kept(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 3 * BLOCK, BLOCK)
    read(cache, 1, [])
    assert cache.read("large", 4 * BLOCK, 10, 5, lambda: bytes(range(250)) * 16) == bytes(range(10, 15))
    assert len(kept(tmp_path)) == 1


def test_a_failed_fetch_leaves_nothing_locked_and_nothing_kept(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10 * BLOCK, BLOCK)

    def fail() -> bytes:
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        cache.read("a", BLOCK, 0, 10, fail)
    assert kept(tmp_path) == []
    for shelf in tmp_path.glob("*/*"):
        descriptor = os.open(shelf, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_costs_blocks_first_and_is_then_done_without(
    kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As if the disk held two blocks, though the bound allows ten; then none at all."""
    write, room = cache_module._Shelf.write, 2

    def write_to_small_disk(shelf: cache_module._Shelf, name: str, block: bytes) -> None:
        if len(kept(tmp_path)) >= room:
            raise OSError(kind, os.strerror(kind))
        write(shelf, name, block)

    monkeypatch.setattr(cache_module._Shelf, "write", write_to_small_disk)
    cache, fetched = BlockCache(tmp_path, 10 * BLOCK, BLOCK), list[int]()
    for number in range(7):
        assert read(cache, number, fetched) == content(number)[100:150]
    assert kept(tmp_path) and caplog.messages == []
    room = 0
    for number in (8, 8, 9):
        assert read(cache, number, fetched) == content(number)[100:150]
    assert fetched == [*range(7), 8, 8, 9]
    (said,) = caplog.messages
    assert re.match(rf"data\.cache\.folder: cannot keep a block in .*{os.strerror(kind)} .*; going on without", said)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("method", ["claimed", "read", "remove", "keep"])
def test_whatever_the_disk_refuses_a_block_comes_and_is_fetched_once_for_each_reader(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(shelf: cache_module._Shelf, *arguments: object) -> NoReturn:
        raise cache_module._Unusable(tmp_path, OSError(errno.EIO, os.strerror(errno.EIO)))

    monkeypatch.setattr(cache_module._Shelf, method, refuse)
    cache, fetched = BlockCache(tmp_path, 10 * BLOCK, BLOCK), list[int]()
    assert read(cache, 1, fetched) == content(1)[100:150]
    assert fetched == [1]
    cache.holds("set/shard/1", BLOCK)
    cache.drop("set/shard/1")
    assert len(caplog.messages) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "16k") as disk:
        yield disk.folder / "cache"


def test_a_real_full_disk(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, fetched = BlockCache(disk, 100 * BLOCK, BLOCK), list[int]()
    for number in range(20):
        assert read(cache, number, fetched) == content(number)[100:150]
    for path in kept(disk):
        path.unlink()
    with (disk.parent / "other").open("wb", buffering=0) as other, pytest.raises(OSError, match="No space left"):
        while True:
            other.write(bytes(4096))
    assert read(cache, 21, fetched) == content(21)[100:150]
    assert "No space left on device (0 bytes free there)" in caplog.text


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache\.folder: .*/file is no folder; name another one"):
        read(BlockCache(tmp_path / "file", 10 * BLOCK, BLOCK), 1, [])


def test_a_strangers_folder_full_of_links_costs_the_first_user_nothing(tmp_path: Path) -> None:
    """The names of a cache can be guessed; links under them lead to files of the victim."""
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("thesis.partial", "letter"):
        (victim / name).write_text("precious")
    read(BlockCache(tmp_path / "model", 10 * BLOCK, BLOCK), 1, [])
    (block,) = kept(tmp_path / "model")
    inside = block.relative_to(tmp_path / "model")

    with shared_place() as place:

        def plant() -> None:
            shelf = place / "cache" / inside.parent
            shelf.mkdir(parents=True)
            (place / "linked").symlink_to(victim)
            for name in ("thesis.partial", "letter"):
                (shelf / name).symlink_to(victim / name)
            (place / "second" / inside.parent.parent).mkdir(parents=True)
            (place / "second" / inside.parent).symlink_to(victim)

        as_stranger(plant)
        for folder in ("cache", "linked", "second"):
            cache = BlockCache(place / folder, 10 * BLOCK, BLOCK)
            for act in (lambda cache=cache: read(cache, 1, []), lambda cache=cache: cache.drop("set/shard/1")):
                with pytest.raises(InputError, match=r"^data\.cache\.folder: .*(belongs to|is a link)"):
                    act()
    assert sorted(path.name for path in victim.iterdir()) == ["letter", "thesis.partial"]
    assert {path.read_text() for path in victim.iterdir()} == {"precious"}


def test_links_left_from_a_time_when_others_could_write_lead_nowhere(tmp_path: Path) -> None:
    folder, victim = tmp_path / "cache", tmp_path / "victim"
    victim.write_bytes(bytes(BLOCK))
    cache, fetched = BlockCache(folder, 3 * BLOCK, BLOCK), list[int]()
    read(cache, 1, fetched)
    (block,) = kept(folder)
    for name in (block.name, block.name + ".partial", "other", "thing.partial"):
        (block.parent / name).unlink(missing_ok=True)
        (block.parent / name).symlink_to(victim)
    for number in (1, 2, 3, 4, 5):
        assert read(cache, number, fetched) == content(number)[100:150]
    assert victim.read_bytes() == bytes(BLOCK)
    assert not [path for path in block.parent.iterdir() if path.is_symlink()]


def test_pipes_and_folders_in_place_of_blocks_make_no_one_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = BlockCache(tmp_path / "cache", 3 * BLOCK, BLOCK)
    read(cache, 1, [])
    (block,) = kept(tmp_path / "cache")
    block.unlink()
    os.mkfifo(block)
    assert read(cache, 1, []) == content(1)[100:150]
    block.unlink()
    block.mkdir()
    assert read(cache, 1, []) == content(1)[100:150]
    assert "data.cache.folder: cannot keep a block in " in caplog.text


def test_a_cache_that_is_cleared_away_meanwhile_is_made_again(tmp_path: Path) -> None:
    cache, fetched = BlockCache(tmp_path / "cache", 10 * BLOCK, BLOCK), list[int]()
    read(cache, 1, fetched)
    shutil.rmtree(tmp_path / "cache")
    assert read(cache, 1, fetched) == content(1)[100:150]
    assert len(kept(tmp_path / "cache")) == 1


def test_a_cache_that_is_cleared_away_while_a_block_comes_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, fetched = BlockCache(tmp_path / "cache", 10 * BLOCK, BLOCK), list[int]()

    def fetch() -> bytes:
        shutil.rmtree(tmp_path / "cache")
        return content(1)

    assert cache.read("set/shard/1", BLOCK, 100, 50, fetch) == content(1)[100:150]
    assert caplog.messages == []
    assert read(cache, 1, fetched) == content(1)[100:150]
    assert len(kept(tmp_path / "cache")) == 1


def test_without_a_folder_it_lies_in_the_users_own_cache_and_only_when_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = BlockCache(None, 10 * BLOCK, BLOCK)
    assert list(tmp_path.iterdir()) == []
    read(cache, 1, [])
    assert len(kept(tmp_path / "shared-diff/tokens")) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    unusable = BlockCache(None, 10 * BLOCK, BLOCK)
    with pytest.raises(InputError, match=r"^data\.cache\.folder: /proc/nothing/shared-diff/tokens cannot be made"):
        read(unusable, 1, [])
