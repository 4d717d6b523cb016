"""YAML as a person means it: what the format would drop, guess or blow up in silence is an error with its line.

In: a text, or a file of bounded size. Out: plain values: mappings with words as keys, lists, texts, numbers,
booleans, None. Always: one line says what is wrong and where; nothing is executed, and no input takes long to refuse.
"""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from common.errors import InputError
from common.typed import shortened

LARGEST_FILE = 1 << 20
"""bytes; a file of settings has some thousand"""
MOST_VALUES = 100_000
"""after every alias is written out"""
DEEPEST = 50
LONGEST_NUMBER = 100
"""digits; far beyond every setting, far below where reading them takes long"""

_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_MERGE = "tag:yaml.org,2002:merge"
_STRING = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# YAML 1.1 reads 010 as 8 and 1:30 as 90.
_GUESSED_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9_]+(:[0-9_]+)+(\.[0-9_]*)?)")


class _Loader(yaml.SafeLoader):
    """Plain values only: a date stays the text that it is, and 1e-3 is a number."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path, what: str) -> Any:
    """The content of the YAML file ``path``; ``what`` names it in errors, as in "--config run.yaml".

    Raises:
        InputError: missing, not a regular file, too large, not text, not YAML, or a case of ``load_yaml``.
    """
    try:
        status = path.stat()  # before it is opened: opening a pipe waits for ever
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise InputError(f"{what}: is {kind}; a file is expected")
        if status.st_size > LARGEST_FILE:
            raise InputError(f"{what}: {status.st_size} bytes; a file of settings has at most {LARGEST_FILE}")
        text = path.read_text(encoding="utf-8")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{what}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{what}: not readable as YAML: no UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return load_yaml(text, what)


def load_yaml(text: str, what: str, key: str = "") -> Any:
    """The value of ``text``; ``what`` names it in errors, ``key`` is the setting that it belongs to, if to one.

    Raises:
        InputError: a key written twice in one mapping (both lines are named), a key that is no word, a number whose
            reading surprises, a tag, more than one document, aliases without end or beyond ``MOST_VALUES``.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        for number, _ in enumerate(_check(node, what, key, ())):
            if number > MOST_VALUES:
                raise InputError(f"{what}: stands for more than {MOST_VALUES} values with its aliases written out")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        # Both may quote a name of any length.
        problem = ", ".join(shortened(part) for part in (error.context, error.problem) if part)
        raise InputError(f"{what}: not readable as YAML: {problem}{where}") from None
    except RecursionError:
        raise InputError(f"{what}: not readable as YAML: nested deeper than {DEEPEST} levels") from None
    except InputError:
        raise
    except LookupError:  # `!!int` without a number, `!!bool x`
        raise InputError(f"{what}: not readable as YAML: a value does not fit its tag") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{what}: not readable as YAML: {shortened(str(error))}") from None


def _check(node: yaml.Node, what: str, key: str, above: tuple[yaml.Node, ...]) -> Iterator[None]:
    """Yields once per value, aliases written out; ``key`` is the path of names that leads to ``node``."""
    yield
    where = f"{what}: line {node.start_mark.line + 1}"
    if any(node is parent for parent in above):
        raise InputError(f"{where}: '{key}' contains itself")
    if len(above) > DEEPEST:
        raise InputError(f"{what}: not readable as YAML: nested deeper than {DEEPEST} levels")
    if node.tag not in _PLAIN_TAGS:
        raise InputError(f"{where}: the tag '{shortened(node.tag)}' means nothing here; write a plain value")
    if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS:
        if len(node.value) > LONGEST_NUMBER:
            raise InputError(f"{where}: '{key}' has {len(node.value)} digits; no setting is so large")
        if _GUESSED_NUMBER.fullmatch(node.value):
            raise InputError(
                f"{where}: '{key}' is {node.value}, which YAML reads as an octal number or one of base 60; write a "
                "decimal number, or quotes around a text"
            )
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _check(item, what, f"{key}[{number}]", (*above, node))
    elif isinstance(node, yaml.MappingNode):
        yield from _check_mapping(node, what, key, above)


def _check_mapping(node: yaml.MappingNode, what: str, key: str, above: tuple[yaml.Node, ...]) -> Iterator[None]:
    lines: dict[str, int] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode) or name.tag not in (_STRING, _MERGE):
            shown = f"'{shortened(name.value)}'" if isinstance(name, yaml.ScalarNode) else "a list or a mapping"
            raise InputError(f"{what}: line {line}: the key {shown} is no word; put it in quotes if it is meant as one")
        path = f"{key}.{name.value}" if key else str(name.value)
        if name.value in lines:
            lines_of_both = f"lines {lines[name.value]} and {line}" if lines[name.value] != line else f"line {line}"
            raise InputError(f"{what}: '{shortened(path)}' is written twice, in {lines_of_both}; write it once")
        lines[name.value] = line
        yield from _check(value, what, shortened(path), (*above, node))
