"""Where a step's time goes: groups and shares from events that are known; a profile of a small run on the CPU."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch.autograd import DeviceType

from common.cli import run_command, to_yaml
from data.config import DataConfig
from model.config import ModelConfig
from pretrain.config import BatchConfig, RunConfig
from scripts.profile import main
from scripts.speed.shares import GROUPS, REST, STEP, WAITING, account, group_of, table
from tests.conftest import ROOT


@dataclass
class Range:
    start: float
    end: float

    def elapsed_us(self) -> float:
        return self.end - self.start


@dataclass
class Event:
    """What torch.profiler tells of one operation, or of one kernel: times in microseconds."""

    name: str
    time_range: Range
    self_cpu_time_total: float = 0.0
    self_device_time_total: float = 0.0
    cpu_parent: Any = None
    thread: int = 1
    device_type: DeviceType = field(default=DeviceType.CPU)
    is_user_annotation: bool = False


def ran(name: str, microseconds: float, **others: Any) -> Event:
    return Event(name, Range(0, microseconds), self_cpu_time_total=microseconds, **others)


def test_an_operation_belongs_to_the_group_of_who_calls_it() -> None:
    assert group_of(["aten::mm", "aten::linear", STEP]) == "products"
    assert group_of(["aten::bmm", "aten::_scaled_dot_product_attention_math"]) == "attention"
    assert group_of(["aten::mul", "_AddNormBackward"]) == group_of(["aten::rms_norm"]) == "norms"
    assert group_of(["aten::mm", "Optimizer.step#Muon.step"]) == "optimizer"
    assert group_of(["aten::mm", "_MeanLoss"]) == "products"
    assert group_of(["aten::exp_", "_MeanLoss"]) == "loss"
    assert group_of(["c10d::allreduce_", "_PackedLinearBackward"]) == "communication"
    assert group_of(["aten::cat", "_PackedLinear"]) == REST
    assert group_of(["aten::summ", "aten::linalg_vector_norm"]) == REST


def test_on_a_cpu_what_no_operation_fills_is_waiting() -> None:
    steps = [Event(STEP, Range(0, 600)), Event(STEP, Range(700, 1100))]
    loss = ran("_MeanLoss", 0)
    events = [*steps, loss, ran("aten::mm", 300), ran("aten::mm", 200), ran("aten::exp_", 100, cpu_parent=loss)]
    found = account([*events, ran("gloo:all_reduce", 5000, thread=2)], on_gpu=False)
    assert (found.steps, found.seconds, found.waiting) == (2, pytest.approx(1e-3), pytest.approx(4e-4))
    assert [(one.name, one.calls) for one in found.operations] == [("aten::mm", 2), ("aten::exp_", 1)]
    shares = found.shares()
    assert shares["products"] == pytest.approx(0.5) and shares["loss"] == pytest.approx(0.1)
    assert shares[WAITING] == pytest.approx(0.4) and sum(shares.values()) == pytest.approx(1)
    _, first, *_ = table(found, most=1)
    assert first.split() == ["0.25", "50.0%", "1", "products", "aten::mm"]


def test_on_a_gpu_kernels_count_and_waiting_is_when_none_runs() -> None:
    launched = [
        Event("aten::mm", Range(0, 9), self_cpu_time_total=900, self_device_time_total=300, thread=7),
        Event("nccl:all_reduce", Range(0, 9), self_device_time_total=200),
    ]
    kernels = [Range(100, 400), Range(300, 500)]  # one stream beside another
    annotation = Event("nccl:all_reduce", Range(0, 900), device_type=DeviceType.CUDA, is_user_annotation=True)
    on_device = [Event("kernel", when, device_type=DeviceType.CUDA) for when in kernels]
    found = account([Event(STEP, Range(0, 1000)), *launched, annotation, *on_device], on_gpu=True)
    assert found.waiting == pytest.approx(6e-4)
    assert found.shares()["products"] == pytest.approx(0.3)
    assert found.shares()["communication"] == pytest.approx(0.2)


def test_a_small_run_is_profiled_on_the_cpu(tmp_path: Path) -> None:
    sizes = ModelConfig(
        num_layers=1, hidden_size=16, ffn_hidden_size=24, num_heads=1, head_dim=8, rank=2, vocab_size=64
    )
    config = RunConfig(model=sizes, data=DataConfig(sequence_length=13), batch=BatchConfig(global_size=3, micro_size=1))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    flags = ["--config", tmp_path / "config.yaml", "--steps", "1", "--output", tmp_path / "found", "--name", "small"]
    done = subprocess.run(
        [sys.executable, "scripts/profile.py", *flags],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "found/profile.txt").read_text().splitlines()
    assert lines[0].startswith("small: ") and "aten::mm" in "".join(lines)
    shares = dict(reversed(line.split(maxsplit=1)) for line in lines[-8:])
    assert set(shares) == {*(group for group, _ in GROUPS), REST, WAITING}
    assert sum(float(share.rstrip("%")) for share in shares.values()) == pytest.approx(100, abs=1)
    with gzip.open(tmp_path / "found/trace.json.gz") as trace:
        assert any(event.get("name") == STEP for event in json.load(trace)["traceEvents"])


def test_the_standard_librarys_profile_is_found_behind_this_file() -> None:
    code = "import cProfile, profile; assert profile.__file__.endswith('scripts/profile.py'); cProfile.run('1')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", check=True, capture_output=True)


def test_a_wrong_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--steps", "0"]) == 2
    assert capsys.readouterr().err == "error: --steps: must be at least 1, is 0\n"
