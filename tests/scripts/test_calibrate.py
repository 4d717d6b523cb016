"""`make calibrate`: what it measures is what the work it times is, and the planner takes the file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pretrain.plan.calibration import Calibration, read_calibration, write_calibration
from scripts import calibrate
from scripts.calibrate import Sizes, measure, table
from scripts.plan import main as plan
from tests.world import run_world

SIZES = Sizes(tokens=37, width=24, ffn_width=40, length=13, head_dim=8, sent=4096, rounds=3)
CPU = torch.device("cpu")


def test_a_rate_is_what_was_done_in_a_second_of_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that says a quarter of a second for everything."""
    monkeypatch.setattr(calibrate, "median_seconds", lambda contenders, rounds, device: dict.fromkeys(contenders, 0.25))
    found = measure(CPU, SIZES)
    products = 2 * 37 * (24 * 24 + 24 * 40 + 40 * 24)
    assert found.bf16_products == found.fp32_products == 4 * products
    batch, heads = 37 // 13, 24 // 8
    whole_maps = 2 * 2 * batch * heads * 13 * 13 * 8  # QK^T and AV, forward
    assert found.attention == pytest.approx(4 * 3.5 * whole_maps / 2)
    assert found.memory_bandwidth == 4 * 2 * 37 * 40 * 4
    assert (found.link, found.network) == (None, None)


def on_ranks(local: int) -> tuple[Calibration, list[bool]]:
    """Nodes of ``local`` ranks; also whether each attention product was causal."""
    causal, product = [], calibrate.F.scaled_dot_product_attention

    def noted(*tensors: torch.Tensor, is_causal: bool) -> torch.Tensor:
        causal.append(is_causal)
        return product(*tensors, is_causal=is_causal)

    calibrate.F.scaled_dot_product_attention = noted
    os.environ["LOCAL_WORLD_SIZE"] = str(local)

    def clock(contenders: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
        for run in contenders.values():
            run()
        return dict.fromkeys(contenders, 0.1 * (1 + dist.get_rank()))

    calibrate.median_seconds = clock
    dist.init_process_group("gloo")
    try:
        return measure(CPU, SIZES), causal
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("ranks", "local"), [(2, 1), (3, 3), (4, 2)])
def test_several_ranks_measure_their_links_and_agree_on_the_slowest(ranks: int, local: int) -> None:
    (first, causal), *others = run_world(ranks, on_ranks, local)
    assert [found for found, _ in others] == [first] * (ranks - 1)
    assert causal == [True]
    seconds = 0.1 * ranks  # of the slowest

    def rate(members: int) -> float:
        return 4096 * 2 * (members - 1) / members / seconds  # a ring's: what a rank sends

    assert first.link == (pytest.approx(rate(local)) if local > 1 else None)
    assert first.network == (pytest.approx(rate(ranks) / local) if ranks > local else None)  # a node's link is shared
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert first.memory == pytest.approx(whole / local)


def test_only_the_first_process_writes_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "ON_CPU", SIZES)
    for rank, told in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        assert calibrate.main(["--output", str(tmp_path / "rates.json")]) == 0
        assert (tmp_path / "rates.json").exists() == bool(capsys.readouterr().out) == told


def test_the_table_and_the_plan_have_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measure(CPU, SIZES)
    assert f"{found.fp32_products / 1e12:,.4g}" in table(found)[2]
    write_calibration(tmp_path / "cpu.json", found)
    assert read_calibration(tmp_path / "cpu.json") == found
    arguments = ["--config", "configs/debug_cpu.yaml", "--device", str(tmp_path / "cpu.json")]
    assert plan([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["device"], figures["assumptions"]["efficiency"]) == ("CPU", 1.0)
    assert plan([*arguments, "--efficiency", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["assumptions"]["efficiency"] == 0.5
