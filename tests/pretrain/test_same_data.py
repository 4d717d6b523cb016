"""What the ranks find on their file systems is compared before anything is trained on it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from data.config import DataConfig, SkipConfig, SourceConfig
from data.stream import TokenStream
from pretrain import same_data
from pretrain.config import RunConfig
from pretrain.run_data import open_data
from pretrain.same_data import View, as_on_main
from pretrain.topology import Topology
from tests.data.helpers import random_tokens, write_dataset

SECOND = Topology(rank=1, local_rank=0, sizes=(1, 1, 2, 1), sequence_parallel=False)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    train = write_dataset(tmp_path / "train", [random_tokens(701, 1)], vocab_size=1100)
    held_out = write_dataset(tmp_path / "held_out", [random_tokens(211, 2)], vocab_size=1100)
    data = DataConfig([SourceConfig(str(train))], str(held_out), sequence_length=23, skip=[SkipConfig(5, 7)])
    return RunConfig(data=data)


def on_rank_1(config: RunConfig, main: RunConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[RunConfig, TokenStream]:
    """Rank 1 has ``config`` and rank 0, on another node, ``main``."""

    def gather(views: list[Any], own: View) -> None:
        views[:] = [View("node1", main.data.skip, same_data._digests(*open_data(main))), replace(own, host="node2")]

    monkeypatch.setattr(same_data.dist, "all_gather_object", gather)
    return as_on_main(config, SECOND, *open_data(config))


def test_ranks_that_find_the_same_go_on(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    agreed, stream = on_rank_1(config, config, monkeypatch)
    assert agreed is config
    assert stream.skip.ranges == [(5, 7)]


def test_another_preparation_on_one_node_is_refused_by_name(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(write_dataset(tmp_path / "other", [random_tokens(701, 3)], vocab_size=1100))
    for what, changed in (
        ("data.train and data.stages", replace(config, data=replace(config.data, train=[SourceConfig(other)]))),
        ("data.validation", replace(config, data=replace(config.data, validation=other))),
        ("data.validation", replace(config, data=replace(config.data, validation=None))),
        ("the order of samples (seed, data.shuffle_window)", replace(config, seed=config.seed + 1)),
    ):
        said = re.escape(f"{what}: rank 1 on node2 found another than rank 0 on node1 (")
        with pytest.raises(InputError, match=f"^{said}[0-9a-f]{{12}} instead of [0-9a-f]{{12}}\\); give every node "):
            on_rank_1(changed, config, monkeypatch)


def test_the_rollbacks_that_rank_0_knows_of_count(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system shows a new rollbacks.json to some nodes later than to others."""
    told = replace(config, data=replace(config.data, skip=[SkipConfig(5, 7), SkipConfig(11, 12)]))
    agreed, stream = on_rank_1(config, told, monkeypatch)
    assert agreed == told
    assert stream.state(0) == open_data(told)[0].state(0)
