"""What all fuzzers share: the parser of a class of settings is built once, as that takes most of an example's time."""

import functools

import pytest

import common.cli

KEPT_PARSER = functools.lru_cache(common.cli.config_parser)


@pytest.fixture(autouse=True)
def _parsers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.cli, "config_parser", KEPT_PARSER)
