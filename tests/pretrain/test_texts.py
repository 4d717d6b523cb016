"""Samples of text are found by their step; what is no evaluation is passed over."""

import json
from pathlib import Path

from pretrain.texts import read_texts


def test_texts_by_step_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "evaluations"
    folder.mkdir()
    assert read_texts(tmp_path) == {}
    for step in (100, 20):
        tasks = {"held_out": {"metrics": {}}, "sample": {"text": f"def at_{step}"}}
        (folder / f"{step}.json").write_text(json.dumps({"model": {"step": step}, "tasks": tasks}))
    strange = [
        *("", "[]", "{}", '{"model": 3, "tasks": 3}', '{"tasks": {"sample": {"text": "x"}}}'),
        '{"model": {"step": "7"}, "tasks": {"sample": {"text": "x"}}}',
        '{"model": {"step": 7}, "tasks": {"sample": {"text": 3}, "x": null}}',
    ]
    for number, content in enumerate(strange):
        (folder / f"strange_{number}.json").write_text(content)
    (folder / "folder.json").mkdir()
    assert list(read_texts(tmp_path).items()) == [(20, "def at_20"), (100, "def at_100")]
