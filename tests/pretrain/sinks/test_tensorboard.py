"""TensorBoard's own reader finds every number; without the package a line says so."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.places import TENSORBOARD
from pretrain.sinks.tensorboard import open_tensorboard
from tests.pretrain.sinks.lines import TRAINING, VALIDATION


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> steps and values, as TensorBoard shows them."""
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {name: [(event.step, event.value) for event in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def test_numbers_are_there_and_a_start_takes_back_what_it_does_again(tmp_path: Path) -> None:
    inside = {"telemetry": {"attention.lambda": [0.25, 0.5]}}
    for start, steps, loss in ((0, (7, 14, 21), 2.5), (14, (21, 28), 1.25)):
        sink = open_tensorboard(tmp_path, start)
        assert sink is not None and sink.title == f"TensorBoard in {tmp_path / TENSORBOARD}"
        for step in steps:
            sink.write({**TRAINING, **inside, "step": step, "loss": loss})
        sink.write({**VALIDATION, "step": steps[-1]})
        sink.close()
    found = scalars(tmp_path / TENSORBOARD)
    assert found["train/loss"] == [(7, 2.5), (14, 2.5), (21, 1.25), (28, 1.25)]
    assert found["telemetry/attention.lambda/01"] == [(step, 0.5) for step in (7, 14, 21, 28)]
    assert [step for step, _ in found["validation/loss"]] == [28]


def test_without_the_package_there_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert open_tensorboard(tmp_path, 0) is None
    assert capsys.readouterr().out == (
        "TensorBoard is off: the package is not there; pip install tensorboard, or set metrics.tensorboard to false\n"
    )
    assert list(tmp_path.iterdir()) == []
