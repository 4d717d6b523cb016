"""YAML without surprises: what the format would drop, guess or blow up is refused with its line, and quickly."""

import os
from pathlib import Path

import pytest

from common.errors import InputError
from common.strict_yaml import LARGEST_FILE, load_yaml, read_yaml
from tests.fuzz.rules import answer


def test_plain_values_are_what_they_look_like() -> None:
    text = "a: 1\nb: [1e-3, .5, -2.5e3, 0x10, true, null, text]\nday: 2026-01-01\nquoted: '010'\n'on': {x: 0}\n"
    assert load_yaml(text, "here") == {
        "a": 1,
        "b": [1e-3, 0.5, -2500.0, 16, True, None, "text"],
        "day": "2026-01-01",
        "quoted": "010",
        "on": {"x": 0},
    }
    assert load_yaml("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}", "here")["more"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {x: 1}\nb: 2\na: {y: 1}", "here: 'a' is written twice, in lines 1 and 3; write it once"),
        ("a:\n  b:\n    - c: 1\n      c: 1", "here: 'a.b[0].c' is written twice, in lines 3 and 4"),
        ("a: 1\n'a': 2", "'a' is written twice, in lines 1 and 2"),
        ("a: 1\n1: 2", "line 2: the key '1' is no word"),
        ("on: 1", "line 1: the key 'on' is no word; put it in quotes"),
        ("? [a]\n: 1", "line 1: the key a list or a mapping is no word"),
        ("a: 010", "line 1: 'a' is 010, which YAML reads as an octal number"),
        ("a: 1:30", "line 1: 'a' is 1:30, which YAML reads as an octal number or one of base 60"),
        ("a: " + "9" * 5000, "line 1: 'a' has 5000 digits"),
        ("a: !!python/object/apply:os.system [true]", "line 1: the tag 'tag:yaml.org,2002:python/object/apply"),
        ("a: !!binary aGk=", "the tag 'tag:yaml.org,2002:binary' means nothing here"),
        ("a: !own 3", "the tag '!own' means nothing here"),
        ("a: 1\n---\na: 2", "YAML: expected a single document in the stream, but found another document in line 2"),
        ("a: &x 1\nb: &x 2", "found duplicate anchor 'x'; first occurrence, second occurrence in line 2"),
        ("a: &x [*x]", "line 1: 'a[0]' contains itself"),
        ("a: *x", "not readable as YAML: found undefined alias 'x' in line 1"),
        ("a: *" + "x" * 5000, "not readable as YAML: found undefined alias 'xxx"),
        ("a: [&" + "x" * 5000 + " 1, &" + "x" * 5000 + " 2]", "not readable as YAML: found duplicate anchor 'xxx"),
        ("a: !" + "x" * 5000 + "!y 1", "not readable as YAML: while parsing a node, found undefined tag handle '!xxx"),
        ("a: \x01", "not readable as YAML"),
        ("[" * 5000, "not readable as YAML"),
        ("{a: " * 300 + "1" + "}" * 300, "nested deeper than 50 levels"),
        ("a: !!int x", "not readable as YAML"),
        ("a: !!int", "not readable as YAML: a value does not fit its tag"),
        ("a: !!bool x", "not readable as YAML: a value does not fit its tag"),
    ],
)
def test_what_the_format_would_guess_is_refused_with_its_line(text: str, said: str) -> None:
    assert said in (answer(lambda: load_yaml(text, "here"))[1] or "")


def test_aliases_cannot_be_written_out_without_end() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    said = answer(lambda: load_yaml("\n".join(lines), "here"), seconds=5)[1]
    assert said == "here: stands for more than 100000 values with its aliases written out"


def test_what_is_no_file_of_text_is_refused_unopened(tmp_path: Path) -> None:
    def said(name: str) -> str:
        return answer(lambda: read_yaml(tmp_path / name, name), seconds=5)[1] or ""

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    (tmp_path / "largest").write_text("a: " + "x" * (LARGEST_FILE - 3))
    (tmp_path / "loop").symlink_to("loop")
    assert said("pipe") == "pipe: is a pipe or a device; a file is expected"
    assert said("..") == "..: is a folder; a file is expected"
    assert said("binary") == "binary: not readable as YAML: no UTF-8 text"
    assert said("huge").startswith("huge: 1099511627776 bytes; a file of settings has at most")
    assert said("missing") == "missing: no such file"
    assert said("loop").startswith("loop: cannot be read")
    assert said("x" * 300).startswith("x" * 300 + ": cannot be read")
    assert said("") == ": is a folder; a file is expected"
    assert "embedded null byte" in said("a\0b")
    assert answer(lambda: read_yaml(tmp_path / "largest", "largest"), seconds=10)[1] is None


def test_a_device_is_not_read() -> None:
    with pytest.raises(InputError, match="a pipe or a device"):
        read_yaml(Path("/dev/zero"), "/dev/zero")
