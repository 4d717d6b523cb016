"""How long an exchange takes: bytes over the slowest link, and the latency that its ranks add."""

from dataclasses import replace

import pytest

from pretrain.devices import DEVICES
from pretrain.plan.cluster import Cluster
from pretrain.plan.exchange import Exchange

CLUSTER = Cluster(DEVICES["H100"], gpus_per_node=8)
GLOO = replace(CLUSTER, backend="gloo")
LARGE = 1 << 34


def exchange(ranks: int, size: int, operation: str = "all_gather", calls: int = 1) -> Exchange:
    return Exchange("data", tuple(range(ranks)), operation, "", size, calls=calls)  # type: ignore[arg-type]


def test_many_bytes_take_the_links_rate() -> None:
    assert CLUSTER.seconds(exchange(8, LARGE)) == pytest.approx(LARGE * 7 / 8 / 450e9, rel=0.01)
    assert CLUSTER.seconds(exchange(24, LARGE)) == pytest.approx(LARGE * 23 / 24 / 400e9, rel=0.01)
    assert CLUSTER.seconds(exchange(24, LARGE, "all_reduce")) == pytest.approx(LARGE * 46 / 24 / 400e9, rel=0.01)


def test_between_nodes_each_rank_of_a_ring_adds_a_network_card_and_an_all_to_all_has_one_for_each_rank() -> None:
    def bandwidth(ranks: range, operation: str = "reduce_scatter") -> float:
        return CLUSTER.bandwidth(Exchange("data", tuple(ranks), operation, "", LARGE))  # type: ignore[arg-type]

    assert bandwidth(range(0, 32, 8)) == 50e9
    assert bandwidth(range(0, 32, 2)) == 4 * 50e9
    assert bandwidth(range(32)) == 8 * 50e9
    assert bandwidth(range(8)) == 450e9
    assert bandwidth(range(32), "all_to_all") == bandwidth(range(0, 32, 8), "all_to_all") == 50e9


def test_a_few_bytes_take_a_step_for_every_rank_of_a_ring() -> None:
    assert CLUSTER.seconds(exchange(8, 8)) == pytest.approx((6.6 + 7 * 0.6) * 1e-6, rel=0.01)
    assert CLUSTER.seconds(exchange(64, 8)) == pytest.approx((6.6 + 56 * 0.6 + 7 * 2.7) * 1e-6, rel=0.01)
    assert CLUSTER.seconds(exchange(2, 8, "send")) == pytest.approx((6.6 + 0.6) * 1e-6, rel=0.01)


def test_an_all_reduce_of_many_ranks_takes_a_tree() -> None:
    assert CLUSTER.seconds(exchange(512, 16, "all_reduce")) == pytest.approx((6.8 + 14 * 0.6 + 12 * 5) * 1e-6, rel=0.01)
    assert CLUSTER.seconds(exchange(512, 16, "all_reduce")) < CLUSTER.seconds(exchange(512, 16)) / 3


def test_calls_follow_one_another() -> None:
    assert CLUSTER.seconds(exchange(8, 700, calls=7)) == pytest.approx(7 * CLUSTER.seconds(exchange(8, 100)))


def test_neighbours_of_two_nodes_use_the_links_between_them() -> None:
    assert CLUSTER.link((6, 7)) == "node"
    assert CLUSTER.link((7, 8)) == "network"
    assert CLUSTER.bandwidth(Exchange("next stage", (7, 8), "send", "", 8)) == 50e9


def test_gloo_takes_bytes_and_its_own_ways() -> None:
    whole = 9_000_000
    once = 2 / 3 * whole / 450e9
    assert GLOO.seconds(exchange(3, whole)) == GLOO.late(exchange(3, whole)) == pytest.approx(once)
    assert GLOO.seconds(exchange(3, whole, "reduce_scatter")) == pytest.approx(2 * once)
    assert GLOO.late(exchange(3, whole, "all_reduce")) == CLUSTER.late(exchange(3, whole)) == 0
    assert GLOO.late(exchange(3, whole, calls=5)) == pytest.approx(once / 5)
