"""The choice of the device is the first thing that a rank does, and the last chance to name torch's folders."""

import os
from pathlib import Path

import pytest

from common.library_caches import INDUCTOR
from pretrain.engines.accelerator import choose_accelerator


def test_a_rank_keeps_compiled_code_where_no_other_user_can_put_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (INDUCTOR, "DS_ACCELERATOR"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choose_accelerator()
    assert os.environ[INDUCTOR] == str(tmp_path / "shared-diff/inductor")
    assert os.environ["DS_ACCELERATOR"] in ("cpu", "cuda")
