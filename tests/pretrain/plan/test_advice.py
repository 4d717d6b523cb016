"""Advice: what a plan's page ends with is found among the split's neighbours, by the search that all others use."""

from dataclasses import replace

import pytest

from data.config import DataConfig
from model.config import ModelConfig
from pretrain.config import BatchConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.devices import DEVICES
from pretrain.plan.advice import WORTH, advice_lines, advise
from pretrain.plan.cluster import Cluster
from pretrain.plan.plan import USABLE, Plan, make_plan
from pretrain.plan.search import as_flags, nearby, search

CLUSTER = Cluster(DEVICES["H100"])
WASTEFUL = RunConfig(
    model=ModelConfig(num_layers=6, hidden_size=1536, ffn_hidden_size=4096, num_heads=6, head_dim=128, rank=96),
    data=DataConfig(sequence_length=1024),
    parallel=ParallelConfig(tensor=2, sequence=True),
    batch=BatchConfig(global_size=96, micro_size=2),
    train=TrainConfig(steps=700, precision="bf16", activation_checkpointing="full"),
)


def planned(config: RunConfig = WASTEFUL, cluster: Cluster = CLUSTER) -> Plan:
    return make_plan(config, 6, cluster)


def with_settings(config: RunConfig, changes: dict[str, str]) -> RunConfig:
    """``config`` as the flags of ``changes`` would make it."""
    for key, text in changes.items():
        section, _, name = key.partition(".")
        old = getattr(getattr(config, section), name)
        value = text == "true" if isinstance(old, bool) else int(text) if isinstance(old, int) else text
        changed = replace(getattr(config, section), **{name: value})
        config = replace(config, **{section: changed})  # type: ignore[arg-type]
    return config


def test_what_it_says_to_change_is_what_a_plan_with_these_settings_says() -> None:
    before = planned()
    advice = advise(before)
    assert advice is not None and advice.changes
    after = planned(with_settings(WASTEFUL, advice.changes))
    assert after.config == advice.candidate.config
    assert (after.seconds, after.memory.total) == (advice.candidate.time.total, advice.candidate.memory.total)
    assert after.seconds < (1 - WORTH) * before.seconds
    assert advise(after) is None or advise(after).candidate.time.total < after.seconds  # type: ignore[union-attr]


def test_it_is_the_smallest_of_the_best_changes() -> None:
    advice = advise(planned())
    assert advice is not None
    found = search(WASTEFUL, 6, CLUSTER, nearby(WASTEFUL, CLUSTER.gpus_per_node))
    good = [candidate for candidate in found if candidate.time.total <= (1 + WORTH) * found[0].time.total]
    assert len(good) > 1
    assert len(advice.changes) == min(len(candidate.changes(WASTEFUL)) for candidate in good)


def test_of_equally_small_changes_it_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = 0.31  # at which more than one neighbour is as good, by as few settings
    monkeypatch.setattr("pretrain.plan.advice.WORTH", wide)
    advice = advise(planned())
    assert advice is not None
    found = search(WASTEFUL, 6, CLUSTER, nearby(WASTEFUL, CLUSTER.gpus_per_node))
    good = [candidate for candidate in found if candidate.time.total <= (1 + wide) * found[0].time.total]
    times = [one.time.total for one in good if len(one.changes(WASTEFUL)) == len(advice.changes)]
    assert len(set(times)) > 1
    assert advice.candidate.time.total == min(times)


def test_it_keeps_tensor_parallel_ranks_within_a_node() -> None:
    """Of what only four of them could hold, a node of two is told nothing."""
    config = replace(WASTEFUL, model=replace(WASTEFUL.model, num_heads=12, head_dim=64))
    least: dict[int, int] = {}
    for candidate in search(config, 12, CLUSTER, nearby(config, 8)):
        size = candidate.topology.tensor_size
        least[size] = min(least.get(size, 2**60), candidate.memory.total)
    assert least[4] < min(least[1], least[2])
    device = replace(CLUSTER.device, memory=(least[4] + least[2]) / 2 / USABLE)
    for gpus_per_node, is_told in ((4, True), (2, False)):
        node = replace(CLUSTER, device=device, gpus_per_node=gpus_per_node)
        assert (advise(make_plan(config, 12, node)) is not None) == is_told


def test_the_line_has_both_times_and_device_hours() -> None:
    before = planned()
    advice = advise(before)
    assert advice is not None
    first, second, *_ = advice_lines(before, advice)
    assert first == f"what to change: {as_flags(advice.changes)}"
    assert f"device-hours instead of {before.device_hours:,.0f}, " in second
    assert before.device_hours == pytest.approx(6 * 700 * before.seconds / 3600)
    assert advice.as_json()["device_hours"] == pytest.approx(6 * 700 * advice.candidate.time.total / 3600)


def test_where_nothing_is_worth_it_nothing_is_to_be_changed() -> None:
    config = search(WASTEFUL, 6, CLUSTER)[0].config
    assert advise(planned(config)) is None
    (first, *_) = advice_lines(planned(config), None)
    assert first == "what to change: nothing; no neighbour of this split saves 1% of the time"


def test_what_does_not_fit_is_told_what_does_however_long_it_takes() -> None:
    large = replace(WASTEFUL, batch=BatchConfig(global_size=96, micro_size=32))
    small = replace(CLUSTER, device=replace(CLUSTER.device, memory=planned(large).memory.total))
    before = planned(large, small)
    advice = advise(before)
    assert not before.fits and advice is not None
    assert planned(advice.candidate.config, small).fits
    assert " instead of " not in advice_lines(before, advice)[1]
    tiny = replace(CLUSTER, device=replace(CLUSTER.device, memory=2**20))
    assert advise(planned(large, tiny)) is None
    assert "nothing near this split fits" in advice_lines(planned(large, tiny), None)[0]


def test_neighbours_keep_the_model_and_go_one_step() -> None:
    reach = nearby(WASTEFUL, CLUSTER.gpus_per_node)
    assert set(reach.splits) == {(2, 1), (1, 1), (4, 1), (2, 2)}
    assert reach.micro_sizes == (1, 2, 4, 8)
    assert reach.contexts == ((1, "gather"),)
    assert nearby(WASTEFUL, 2).splits == ((2, 1), (1, 1), (2, 2))


def test_a_setting_that_is_gone_is_taken_back() -> None:
    config = replace(WASTEFUL, parallel=ParallelConfig(partition_ranks=3))
    found = search(config, 6, CLUSTER, nearby(config, 8))
    changes = [candidate.changes(config) for candidate in found]
    assert any(change.get("parallel.partition_ranks") == "null" for change in changes)
    assert {} in changes


def test_the_page_says_what_is_assumed() -> None:
    text = "\n".join(advice_lines(planned(), None))
    assert "peaks, memory and links of H100: its maker's data sheet" in text
    assert "60% in products, 30% in attention" in text
    assert max(map(len, text.splitlines())) <= 130
