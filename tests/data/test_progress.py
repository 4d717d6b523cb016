"""Progress: how far, how fast, how long still."""

import re

import pytest

from data import progress as module
from data.progress import Progress, clock


def test_a_line_says_share_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    progress = Progress("tokenizing", total=1000)
    progress.add(100, 1_000_000)
    assert capsys.readouterr().err == ""  # too early
    now = 120.0
    progress.add(100, 3_000_000)
    assert capsys.readouterr().err == "tokenizing: 4,000,000 tokens, 0.20M tokens/s, 20%, 0:01:20 left\n"
    progress.add(100, 1)
    now = 200.0
    progress.finish()
    assert re.fullmatch(r"tokenizing: 4,000,001 tokens, 0\.04M tokens/s, took 0:01:40\n", capsys.readouterr().err)


def test_durations_read_as_hours_minutes_seconds() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 360_000)] == ["0:00:00", "0:01:00", "0:59:59", "100:00:00"]


def test_slow_work_is_told_in_whole_tokens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    progress = Progress("needles: 8,192 tokens", 0)
    now = 120.0
    progress.add(0, 8192)
    assert capsys.readouterr().err == "needles: 8,192 tokens: 8,192 tokens, 410 tokens/s\n"
    progress.clear()  # a log keeps its lines
    assert capsys.readouterr().err == ""
