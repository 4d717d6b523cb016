"""docs/architecture.md shows the rooms, their arrows and the libraries' places as the imports of the code have them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs/architecture.md").read_text()
ROOMS = ("common", "data", "model", "pretrain", "launch", "scripts")
PEERS = ROOT / "scripts/data_peers"
MODULES = {
    "megatron-core": "megatron",
    "flash-attn": "flash_attn",
    "lm-eval": "lm_eval",
    "liger-kernel": "liger_kernel",
    "huggingface-hub": "huggingface_hub",
}
LIBRARIES = re.findall(r"^\| ([a-z-]+(?:, [a-z-]+)*) \| (`.*) \|$", TEXT, flags=re.MULTILINE)


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


IMPORTS = [
    (path, module.split(".")[0])
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
    for module in imported(path)
]


def test_arrows_are_the_imports() -> None:
    found = {(path.relative_to(ROOT).parts[0], room) for path, room in IMPORTS if room in ROOMS}
    found = {(source, room) for source, room in found if source != room}
    assert {source for source, room in found if room == "common"} == set(ROOMS) - {"common"}
    drawn = re.findall(r"^    (\w+) --> (\w+)$", TEXT, flags=re.MULTILINE)
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) == {(source, room) for source, room in found if room != "common"}


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "common"])
def test_a_room_is_drawn_with_the_rooms_in_it(room: str) -> None:
    (label,) = re.findall(rf'^    {room}\["(.*)"\]$', TEXT, flags=re.MULTILINE)
    within = re.findall(r"<i>(.*)</i>", label)
    inner = sorted(path.parent.name for path in (ROOT / room).glob("*/__init__.py"))
    assert (within[0].split(", ") if within else []) == inner


@pytest.mark.parametrize(("names", "places"), LIBRARIES, ids=[names for names, _ in LIBRARIES])
def test_a_library_is_imported_where_the_table_says(names: str, places: str) -> None:
    modules = {MODULES.get(name, name) for name in names.split(", ")}
    paths = {path for path, module in IMPORTS if module in modules and PEERS not in path.parents}
    stated = [ROOT / place for place in re.findall(r"`([^`]+)`", places)]
    assert paths
    assert [str(path) for path in paths if not any(place in (path, *path.parents) for place in stated)] == []
    assert [str(place) for place in stated if not any(place in (path, *path.parents) for path in paths)] == []


def test_the_table_of_libraries_was_found() -> None:
    assert len(LIBRARIES) == 11
