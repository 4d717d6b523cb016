"""The table of peers: every kind and every back end has its line, and the best back end is what counts."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from common.cli import run_command
from model.kinds.registry import kind_names
from scripts.bench_peers import PRECISIONS, SHAPE, Contender, accounts, build, lay_side_by_side, main, step, table
from scripts.speed.arithmetic import multiply_adds


def test_kinds_and_peers_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--lengths", "17", "--tokens", "34", "--layers", "1"]
    assert run_command(main, [*sizes, "--rounds", "1", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    tables = [part.splitlines() for part in printed.strip().split("\n\n")]
    assert [lines[0] for lines in tables] == [f"{name}, 2 x 17 tokens, 1 threads" for name in PRECISIONS]
    for lines in tables:
        rows = [line.split() for line in lines[2:]]
        parameters = {" ".join(row[:-4]): int(row[-4].replace(",", "")) for row in rows}
        assert [*parameters] == [*kind_names(), "Llama eager", "Llama sdpa", "DiffLlama eager", "DiffLlama sdpa"]
        assert parameters["standard"] == parameters["Llama eager"]
        assert parameters["diff"] - parameters["DiffLlama eager"] == 2 * 64  # theirs has a head norm without weights
        for column, peer in ((-2, "Llama"), (-1, "DiffLlama")):
            assert max(float(row[column]) for row in rows if row[0] == peer) == 1


def test_an_account_counts_what_a_step_multiplies_and_where_its_time_goes() -> None:
    """Llama's by the formula: three products for each weight, seven for each pair of tokens that see each other."""
    config = replace(SHAPE, num_layers=1)
    contenders = [one for one in build(config, 17) if one.name in ("standard", "Llama sdpa", "shared_diff")]
    tokens_BT = torch.randint(SHAPE.vocab_size, (3, 18))
    head, *rows = (line.split() for line in accounts(contenders, tokens_BT, "fp32"))
    assert " ".join(head) == "10^9 mult. ms attention norms products loss the rest waiting"
    weights = 4 * 512 * 512 + 3 * 512 * 1376 + 8192 * 512
    expected = 3 * 3 * 17 * weights + 3 * 8 * (17 * 18 // 2) * 7 * 64
    llama = next(one for one in contenders if one.name == "Llama sdpa")
    assert multiply_adds(partial(step, llama, tokens_BT, "fp32")) == expected
    counts = {" ".join(row[:-8]): float(row[-8]) for row in rows}
    assert counts["Llama sdpa"] == counts["standard"] == round(expected / 1e9, 3) != counts["shared_diff"]
    for row in rows:
        milliseconds, *parts = (float(cell) for cell in row[-7:])
        assert sum(parts) == pytest.approx(milliseconds, abs=0.5)


def test_speed_is_a_multiple_of_the_fastest_back_end() -> None:
    seconds = {"ours": 0.5, "Llama": 2.0, "Llama again": 1.0, "DiffLlama": 3.0}
    peers = {"ours": None, "Llama again": "Llama"}
    contenders = [
        Contender(name, peers.get(name, name), nn.Linear(3, 5), lambda tokens: tokens, [1e9, time, 0.0])
        for name, time in seconds.items()
    ]
    assert [line.split()[-3:] for line in table(contenders)[1:]] == [
        ["500.0", "2.00", "6.00"],
        ["2000.0", "0.50", "1.50"],
        ["1000.0", "1.00", "3.00"],
        ["3000.0", "0.33", "1.00"],
    ]


def test_weights_follow_one_another_and_are_the_same() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2, bias=False))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    lay_side_by_side(model, torch.bfloat16)
    after = list(model.parameters())
    assert [parameter.data_ptr() - after[0].data_ptr() for parameter in after] == [0, 2 * 15, 2 * 20]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.bfloat16(), new)
