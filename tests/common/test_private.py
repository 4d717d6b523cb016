"""Private folders: what another user plants is refused in one line, and nothing of the first user's is touched."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import InputError
from common.private import check_trusted, open_inside, open_private, user_cache_folder
from tests.other_user import STRANGER, THIRD, as_stranger, shared_place

SETTING = "data.cache.folder"


@pytest.fixture(params=[0o1777, 0o777], ids=["sticky", "not sticky"])
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    with shared_place(request.param) as place:
        yield place


def opened(path: Path) -> None:
    os.close(open_private(path, SETTING))


def test_a_private_folder_is_made_closed_to_others_all_the_way(place: Path) -> None:
    opened(place / "a/b/c")
    for made in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((place / made).stat().st_mode) == 0o700
    opened(place / "a/b/c")


def plant_folder(place: Path) -> None:
    (place / "cache").mkdir(mode=0o777)


def plant_folder_above(place: Path) -> None:
    (place / "cache").mkdir(mode=0o777)
    (place / "cache").chmod(0o777)


def plant_link(place: Path) -> None:
    (place / "cache").symlink_to(place / "victim")


@pytest.mark.parametrize(
    ("plant", "asked", "told"),
    [
        (plant_folder, "cache", "cache belongs to"),
        (plant_folder_above, "cache/mine", "cache belongs to"),
        (plant_link, "cache", "cache is a link"),
        (plant_link, "cache/mine", "cache belongs to"),
        (plant_link, "x/../cache/mine", "cache belongs to"),
    ],
)
def test_what_a_stranger_plants_is_refused_in_one_line(
    place: Path, plant: Callable[[Path], None], asked: str, told: str
) -> None:
    (place / "victim").mkdir(mode=0o700)
    (place / "x").mkdir(mode=0o700)
    as_stranger(lambda: plant(place))
    with pytest.raises(InputError, match=f"^{SETTING}: .*{told}") as refusal:
        opened(place / asked)
    assert "\n" not in str(refusal.value)
    assert list((place / "victim").iterdir()) == []
    assert (place / "cache").lstat().st_uid == STRANGER


def test_a_folder_that_is_open_to_others_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    for mode in (0o755, 0o770, 0o1777, 0o701):
        folder.chmod(mode)
        with pytest.raises(InputError, match=rf"open to other users \(mode {mode:04o}\).*chmod 700"):
            opened(folder)
    folder.chmod(0o700)
    opened(folder)


def test_own_links_on_the_way_are_followed_and_circles_end(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to("disk")
    (tmp_path / "absolute").symlink_to(tmp_path / "cache")
    opened(tmp_path / "absolute/tokens")
    assert (tmp_path / "disk/tokens").is_dir()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match="its links lead in a circle"):
        opened(tmp_path / "circle/tokens")


def test_a_folder_inside_is_no_link_and_not_a_strangers(tmp_path: Path) -> None:
    outer = open_private(tmp_path / "outer", SETTING)
    (tmp_path / "outer/link").symlink_to(tmp_path)
    (tmp_path / "outer/open").mkdir()
    (tmp_path / "outer/open").chmod(0o777)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        open_inside(outer, "link", tmp_path / "outer/link", SETTING)
    with pytest.raises(InputError, match="open to other users"):
        open_inside(outer, "open", tmp_path / "outer/open", SETTING)
    os.close(open_inside(outer, "new", tmp_path / "outer/new", SETTING))
    os.close(outer)
    assert stat.S_IMODE((tmp_path / "outer/new").stat().st_mode) == 0o700


def test_descriptors_do_not_pile_up(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("open")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("open", "link", "link/a/b", "good", "missing/../open"):
        try:
            opened(tmp_path / name)
        except InputError:
            continue
    check_trusted(tmp_path / "nowhere/at/all", "run_dir")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/does/not/count")
    assert user_cache_folder(SETTING) == tmp_path / ".cache/shared-diff"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert user_cache_folder(SETTING) == tmp_path / "elsewhere/shared-diff"


def test_a_missing_home_is_one_line_that_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "not/absolute")
    with pytest.raises(InputError, match=f"^{SETTING}: this user has no home folder"):
        user_cache_folder(SETTING)
    with pytest.raises(InputError, match=f"^{SETTING}: /proc/nobody/cache cannot be made or opened: /proc: "):
        opened(Path("/proc/nobody/cache"))


def test_a_place_to_write_is_refused_only_where_a_stranger_could_have_planted_it(place: Path) -> None:
    as_stranger(lambda: plant_folder_above(place))
    (place / "mine").mkdir()
    (place / "mine").chmod(0o755)
    check_trusted(place / "mine/runs/a", "run_dir")
    check_trusted(place / "not there yet", "run_dir")
    with pytest.raises(InputError, match=r"^run_dir: .*/cache belongs to"):
        check_trusted(place / "cache/runs/a", "run_dir")


def test_a_colleagues_folder_is_a_place_for_the_group_that_it_was_opened_to(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_stranger(lambda: plant_folder_above(place))
    team, everybody = 4242, 4243
    monkeypatch.setattr(os, "getgroups", lambda: [team, everybody])
    monkeypatch.setattr(os, "getegid", lambda: everybody)
    for group, mode, accepted in (
        (team, 0o2775, True),
        (team, 0o755, False),
        (team, 0o777, False),
        (everybody, 0o775, False),
        (7, 0o775, False),
    ):
        os.chown(place / "cache", -1, group)
        (place / "cache").chmod(mode)
        if accepted:
            check_trusted(place / "cache/runs/a", "run_dir")
        else:
            with pytest.raises(InputError, match="cache belongs to"):
                check_trusted(place / "cache/runs/a", "run_dir")
        with pytest.raises(InputError, match="cache belongs to"):
            opened(place / "cache/mine")


def test_who_this_user_is_the_file_system_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that squashes root, a mount that names one user: what this process makes is another number's."""
    as_stranger(lambda: plant_folder_above(place))
    fstat = os.fstat

    def squashed(file: int) -> os.stat_result:
        status = fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return status
        return os.stat_result((*status[:4], STRANGER, *status[5:]))

    monkeypatch.setattr(os, "fstat", squashed)
    check_trusted(place / "cache/runs/a", "run_dir")
    assert [entry.name for entry in place.iterdir()] == ["cache"]
    with pytest.raises(InputError, match="cache belongs to"):
        opened(place / "cache/mine")


def test_a_folder_that_everyone_may_write_to_holds_nothing_of_a_stranger(place: Path) -> None:
    check_trusted(place, "run_dir", with_content=True)
    (place / "metrics.jsonl").write_text("")
    check_trusted(place, "run_dir", with_content=True)
    as_stranger(lambda: (place / "loss.png").symlink_to("/etc/passwd"))
    check_trusted(place, "run_dir")
    with pytest.raises(InputError, match=r"^run_dir: .*/loss.png belongs to .*chmod o-w"):
        check_trusted(place, "run_dir", with_content=True)


def test_the_first_user_need_not_be_root(place: Path) -> None:
    as_stranger(lambda: plant_folder_above(place))
    (place / "roots").mkdir(mode=0o711)  # nobody else may list it
    (place / "roots/theirs").mkdir()
    os.chown(place / "roots/theirs", THIRD, THIRD)

    def first_user() -> None:
        for mine in ("mine/a", "roots/theirs/a"):
            opened(place / mine)
            check_trusted(place / mine, "run_dir", with_content=True)
        for path in ("cache", "cache/a"):
            with pytest.raises(InputError, match="cache belongs to"):
                opened(place / path)
            with pytest.raises(InputError, match="cache belongs to"):
                check_trusted(place / path, "run_dir")
        with pytest.raises(InputError, match=r"cannot be made or opened: .*: Permission denied"):
            opened(place / "roots/a")

    as_stranger(first_user, THIRD)
    assert list((place / "cache").iterdir()) == []
