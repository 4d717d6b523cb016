"""The command line: dataclasses become flags, and every mistake is one line that names what would be right."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.cli import config_from_values, parse_config, run_command, to_yaml
from common.errors import InputError


@dataclass(frozen=True)
class Source:
    path: str
    """where"""
    weight: float = 1.0
    """how much"""


@dataclass(frozen=True)
class Section:
    layers: int = 2
    """how many"""
    sources: list[Source] = field(default_factory=list)
    """from where"""


@dataclass(frozen=True)
class Config:
    name: str = "run"
    """the name"""
    end_token: str = ""
    """the token at the end"""
    section: Section = field(default_factory=Section)


def parse(*arguments: str) -> Config:
    return parse_config(Config, arguments, "test")


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: mine\nsection: {layers: 3, sources: [{path: a, weight: 2}]}\n")
    assert parse("--config", str(path)) == Config("mine", section=Section(3, [Source("a", 2.0)]))
    assert parse("--config", str(path), "--section.layers=5").section.layers == 5
    assert parse() == Config()


def test_a_file_takes_back_nothing_that_was_said_before_it(tmp_path: Path) -> None:
    """The file of the later place wins: a kind chosen before it would be another one, in silence."""
    file = tmp_path / "c.yaml"
    file.write_text("section: {layers: 5}\n")
    with pytest.raises(InputError) as refused:
        parse("--section.layers", "7", "--config", str(file))
    assert str(refused.value) == (
        f"--config {file}: says section.layers, too, and stands after --section.layers; name the file first"
    )
    file.write_text("end_token: b\nsection: {layers: 5}\n")
    with pytest.raises(InputError, match="stands after --end-token; name the file first"):
        parse("--end-token=a", "--config", str(file))
    assert parse("--name=x", "--config", str(file)).section.layers == 5  # nothing that the file says
    assert parse("--config", str(file), "--section.layers=7").section.layers == 7


def test_a_setting_outside_of_sections_has_an_option_with_hyphens_and_is_told_by_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert parse("--end-token", "x") == parse("--end_token=x") == parse("--end-token=x")
    for spelling in ("--end-token=a\0b", "--end_token=a\0b"):
        with pytest.raises(InputError, match=r"^--end-token: 'end_token' contains a NUL"):
            parse(spelling)
    with pytest.raises(InputError, match=r"^--end-tokn: unknown key 'end_tokn'; did you mean 'end_token'"):
        parse("--end-tokn", "x")
    with pytest.raises(SystemExit):
        parse("--help")
    assert "[--end-token END_TOKEN]" in capsys.readouterr().out


def test_a_resolved_config_reads_back_to_an_equal_one(tmp_path: Path) -> None:
    config = Config("x", section=Section(7, [Source("a"), Source("b", 0.5)]))
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config))
    assert parse("--config", str(path)) == config
    saved = {"name": "x", "section": {"layers": 7, "sources": [{"path": "a"}]}}
    assert config_from_values(Config, saved, "here").section.layers == 7
    assert saved["section"] == {"layers": 7, "sources": [{"path": "a"}]}, "what was saved is left as it is"


@pytest.mark.parametrize("name", ["123e456", "1e5", "+7E-3", "1_0e2", "12", "0x1F", "1:30", ".5", "no", "~", "e5"])
def test_a_text_that_looks_like_something_else_reads_back_as_text(name: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(Config(name)))
    assert parse("--config", str(path)) == Config(name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--section.layrs=3"], "unknown key 'section.layrs'; did you mean 'section.layers'?"),
        (["--nme", "x"], "unknown key 'nme'; did you mean 'name'?"),
        (["--section.layers=many"], "--section.layers: 'section.layers' must be a whole number, is the text 'many'"),
        (["--config", "missing.yaml"], "--config missing.yaml: no such file"),
        (["--config", "."], "--config .: is a folder; a file is expected"),
        (["--section.layers=null"], "'section.layers' is empty (null); say a whole number, or leave the key out"),
        (["--section.layers=true"], "must be a whole number, is true"),
        (["--section.layers=010"], "'section.layers' is 010, which YAML reads as an octal number"),
        (["--section.layers", "9" * 5000], "'section.layers' has 5000 digits"),
        (["--section.layers", "9" * 50], "'section.layers' is a number of 50 digits"),
        (["--section={layers: 1, layers: 2}"], "'section.layers' is written twice, in line 1"),
        (["--section", "[1]"], "'section' must be a mapping of settings, is a list"),
        (["--section.sources=[{path: a, weight: .inf}]"], "'section.sources[0].weight' must be a finite number"),
        (["--section.sources+={pth: a}"], "unknown key 'section.sources[0].pth'"),
        (["--section.sources=[{class_path: os.system}]"], "unknown key 'section.sources[0].class_path'"),
        (["--name", "a\0b"], "'name' contains a NUL character"),
        (["--name", "\udc80"], "'name' is not valid UTF-8"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        parse(*arguments)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("section: {lairs: 3}", "unknown key 'section.lairs'; did you mean 'section.layers'?"),
        (
            "section: {sources: [{pth: a}]}",
            "unknown key 'section.sources[0].pth'; did you mean 'section.sources[0].path'?",
        ),
        ("- a\n- b", "expected a mapping of settings, found list"),
        ("a: [", "not readable as YAML"),
        ("", "expected a mapping of settings, found NoneType"),
        ("section: {layers: 1}\nname: x\nsection: {sources: []}", "'section' is written twice, in lines 1 and 3"),
        ("section:\n  layers: 1\n  layers: 1", "'section.layers' is written twice, in lines 2 and 3"),
        ("section: {sources: [{path: a, path: b}]}", "'section.sources[0].path' is written twice, in line 1"),
        ("section: null", "'section' is empty (null); say a mapping of settings"),
        ("section: {layers: null}", "'section.layers' is empty (null)"),
        ("section: {layers: }", "'section.layers' is empty (null)"),
        ("section: {layers: 2.0}", "'section.layers' must be a whole number, is 2.0"),
        ("section: {layers: '2'}", "'section.layers' must be a whole number, is the text '2'"),
        ("section: {sources: {path: a}}", "'section.sources' must be a list, is a mapping"),
        ("section: {sources: [a]}", "'section.sources[0]' must be a mapping of settings (path, weight), is the text"),
        ("section: [1]", "'section' must be a mapping of settings, is a list"),
        ("name: 3", "'name' must be a text, is 3"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        parse("--config", str(path))
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_bad_input_ends_with_status_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: list[str]) -> None:
        raise InputError("model.rank: must be\nat least 1")

    assert run_command(main, []) == 2
    assert capsys.readouterr().err == "error: model.rank: must be at least 1\n"
    assert run_command(main, [], quiet=True) == 2
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError):
        run_command(main, ["--debug"])


def test_nothing_that_is_made_can_be_written_by_everyone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run_command(lambda arguments: (tmp_path / "made").mkdir(), [])
        assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o775
        os.umask(0o077)
        run_command(lambda arguments: (tmp_path / "closed").mkdir(), [])
        assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o700
    finally:
        os.umask(before)
