"""Slow nodes are named: those that need longer for their own work, time after time."""

import time

import torch
from torch import nn

from pretrain.resilience.stragglers import PATIENCE, StragglerReport, WorkTimer, slow_nodes

HOSTS = ["node1", "node1", "node2", "node2", "node3", "node3"]


def test_a_node_is_compared_with_the_others_of_its_pipeline_stage() -> None:
    one_stage = [0] * 6
    assert slow_nodes(HOSTS, one_stage, [1.0, 1.0, 1.0, 1.1, 1.0, 0.9]) == {}
    assert slow_nodes(HOSTS, one_stage, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]) == {"node2": 2.0}
    assert slow_nodes(HOSTS, one_stage, [1.0, 1.0, 1.0, 5.0, 1.0, 1.0]) == {"node2": 3.0}, "one slow rank of two"
    three_stages = [0, 0, 1, 1, 2, 2]
    assert slow_nodes(HOSTS, three_stages, [1.0, 1.0, 9.0, 9.0, 1.0, 1.0]) == {}, "stages have work of their own"


def test_a_node_is_named_once_when_it_stays_slow() -> None:
    report = StragglerReport(HOSTS, [0] * 6)
    slow, normal = [1.0, 1.0, 2.0, 2.0, 1.0, 1.0], [1.0] * 6
    told = [report.judge(seconds) for seconds in [slow] * (PATIENCE - 1) + [normal] + [slow] * (PATIENCE + 1)]
    assert [len(lines) for lines in told] == [0] * (2 * PATIENCE - 1) + [1, 0]
    assert "node2 takes 2.0 times as long as the other nodes" in told[-2][0]


def test_own_work_is_the_wait_for_data_and_the_forward_pass_in_training_without_its_waits() -> None:
    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.03)
            return x

    module = Slow()
    waited = [0.02, 0.0]
    timer = WorkTimer(module, waits=lambda: waited.pop(0))

    def batches():  # type: ignore[no-untyped-def]
        for _ in range(2):
            time.sleep(0.02)
            yield torch.ones(1)

    for batch in timer.batches(batches()):
        module(batch)
        module.eval()
        module(batch)
        module.train()
    assert 0.04 <= timer.take() < 5  # without what two steps waited for others
    assert timer.take() == 0.0
