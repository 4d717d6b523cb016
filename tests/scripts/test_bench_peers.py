"""The table of peers: every kind and every back end has its line, and the best back end is what counts."""

import pytest
import torch
from torch import nn

from common.cli import run_command
from model.kinds.registry import kind_names
from scripts.bench_peers import PRECISIONS, Contender, lay_side_by_side, main, table


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
