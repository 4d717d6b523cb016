"""The console tells a step in one line, and leaves out what is not known."""

import time
from collections.abc import Iterator

import pytest

from pretrain.devices import GIB
from pretrain.sinks.console import Console
from tests.pretrain.sinks.lines import TRAINING, VALIDATION

REST = "grad norm 1.000  lr 1.00e-03  100 tokens/s  left 0:03:00"


@pytest.fixture(autouse=True)
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place with another time than Greenwich's."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_step_and_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(total_steps=100)
    console.write(TRAINING)
    console.write({**TRAINING, "applied": False, "mean_loss": None})
    console.write({**VALIDATION, "validation_bits_per_byte": None})
    console.write(VALIDATION)
    assert capsys.readouterr().out.splitlines() == [
        f"11-28 06:37:44  step  10/100  loss 2.5000  mean 2.7500  {REST}",
        f"11-28 06:37:44  step  10/100  loss 2.5000  {REST}  SKIPPED",
        "11-28 06:37:45  step  10/100  validation loss 2.4000  perplexity 11.0",
        "11-28 06:37:45  step  10/100  validation loss 2.4000  1.0000 bits/byte  perplexity 11.0",
    ]


def test_what_a_gpu_tells(capsys: pytest.CaptureFixture[str]) -> None:
    gpu = {"peak_memory_bytes": 7 * GIB // 2, "reserved_memory_bytes": 5 * GIB, "model_flops_utilization": 0.4321}
    Console(total_steps=100).write({**TRAINING, "mean_loss": 2.5, **gpu})
    out = capsys.readouterr().out
    assert "100 tokens/s  memory 3.5, reserved 5.0 GiB  MFU 43.2%  left" in out
    assert "mean" not in out, "it is the step's own"
