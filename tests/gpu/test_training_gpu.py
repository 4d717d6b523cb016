"""The whole path on one GPU: train, stop, resume, export; prints the figures that LOG.md records."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.step_lines import read_steps
from tests.conftest import ROOT

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, timeout=900)


def test_a_run_trains_resumes_bit_for_bit_and_exports(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    command("-m", "data", "prepare", "--input", "stdlib", "--output", str(corpus))

    def train(run_dir: Path, steps: int) -> None:
        command(
            *("-m", "launch", "local", "--nproc", "1", "--config", "configs/debug_gpu.yaml"),
            *("--run-dir", str(run_dir), "--train.steps", str(steps), "--schedule.kind", "wsd"),
            *("--data.train", f"[{{path: {corpus}/train, weight: 1.0}}]", "--data.validation", f"{corpus}/validation"),
            *("--checkpoint.every", "20", "--metrics.every", "1", "--metrics.wandb", "false"),
        )

    train(tmp_path / "whole", 60)
    train(tmp_path / "stopped", 40)
    train(tmp_path / "stopped", 60)
    whole, stopped = (
        [line for line in read_steps(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("whole", "stopped")
    )
    assert [line["loss"] for line in stopped] == [line["loss"] for line in whole]
    assert whole[-1]["loss"] < whole[0]["loss"] - 2
    last = whole[-20:]
    rates = sorted(line["tokens_per_second"] for line in last)
    print(
        f"\n{torch.cuda.get_device_name()}: {rates[len(rates) // 2]:,.0f} tokens/s, "
        f"MFU {last[-1]['model_flops_utilization']:.1%}, peak {last[-1]['peak_memory_bytes'] / 2**30:.1f} GiB"
    )
    command("scripts/export.py", "--run", str(tmp_path / "stopped"), "--output", str(tmp_path / "export"))
