"""Walls around libraries: who may import DeepSpeed, and where private names of others may stand."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("common", "data", "launch", "model", "pretrain", "scripts")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
COMPAT = {
    "data/tiktoken_compat.py",
    "model/megatron_compat.py",
    "model/torch_compat.py",
    "pretrain/engines/compat.py",
    "pretrain/torch_compat.py",
    "scripts/hub/modeling_shared_diff.py",  # transformers reads and offers these names for models of others
}
OF_PYTHON = {"os._exit", "sys._current_frames"}
"""documented, in spite of their names"""


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules that a file imports, wherever in it, and names that it imports from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


def private_names(tree: ast.AST) -> Iterator[str]:
    """Attributes with an underscore of anything but self, cls and super(), and private parts of imported modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()") and f"{owner}.{node.attr}" not in OF_PYTHON:
                yield f"{owner}.{node.attr}"
    for name in imports(tree):
        if any(part.startswith("_") and not part.startswith("__") for part in name.split(".")):
            yield name


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_only_the_engines_import_deepspeed() -> None:
    found = {
        place(path)
        for path in FILES
        for name in imports(ast.parse(path.read_text()))
        if name.split(".")[0] == "deepspeed"
    }
    assert found
    assert [path for path in sorted(found) if not path.startswith("pretrain/engines/")] == []


@pytest.mark.parametrize("path", FILES, ids=place)
def test_private_names_of_others_stand_in_one_file_for_each_library(path: Path) -> None:
    own = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
        or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }  # a class may look into others of its own file
    strange = [name for name in private_names(ast.parse(path.read_text())) if name.rpartition(".")[2] not in own]
    assert place(path) in COMPAT or strange == []
