"""A start that takes long says what it is busy with; one that does not says nothing."""

import time

import pytest

from pretrain.start_up import StartUp


def test_a_slow_start_says_what_it_does_until_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    with StartUp(seconds=0.05) as start_up:
        time.sleep(0.12)
        start_up.doing("building the model")
        time.sleep(0.12)
        start_up.over()
        start_up.over()
        time.sleep(0.12)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "starting: loading libraries, for 0 s so far"
    assert "starting: building the model, for 0 s so far" in lines
    assert [line for line in lines if "done" in line] == lines[-1:] == ["starting: done, 0 s after the start"]


@pytest.mark.parametrize("quiet", [True, False])
def test_a_quick_start_and_ranks_beside_the_first_say_nothing(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with StartUp(quiet, seconds=0.05 if quiet else 60.0) as start_up:
        start_up.doing("building the model")
        time.sleep(0.12)
        start_up.over()
    assert capsys.readouterr().out == ""


def test_a_start_that_fails_falls_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), StartUp(seconds=0.05):
        raise ValueError
    time.sleep(0.12)
    assert capsys.readouterr().out == ""
