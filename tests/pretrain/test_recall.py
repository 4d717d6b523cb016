"""The AR-hit split beside training: the same numbers on every topology, and those of the definition."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from data.ar_hits import ar_hits, count_frequent
from data.config import SourceConfig
from model.layers import LanguageModel, build_layers
from model.loss import cross_entropy_TB
from model.parallel import Unsharded
from pretrain.config import EvaluationConfig, RunConfig
from pretrain.evaluate import HeldOut
from pretrain.recall import RecallMarks
from tests.parallel.training import SyntheticTokens, start_engine, variant
from tests.world import run_world

TOPOLOGIES: dict[str, tuple[int, dict[str, object], int]] = {
    "single": (1, {"zero_stage": 0}, 8),
    "dp2-zero3": (2, {"zero_stage": 3}, 4),
    "tp2-pp2": (4, {"tensor": 2, "pipeline": 2, "zero_stage": 1}, 4),
    "context2-dp2": (4, {"context": 2, "zero_stage": 1}, 2),
    "tp2-sp-dp2": (4, {"tensor": 2, "sequence": True, "zero_stage": 1}, 2),
}
SAMPLES = 16
COUNTED = 500


class Stream(SyntheticTokens):
    """Training and held-out tokens in one: the second half of a sample repeats the first."""

    num_samples = SAMPLES
    bytes_per_token = 3.0

    @property
    def first_mixture(self) -> list[tuple["TrainingText", float]]:
        return [(TrainingText(), 1.0), (TrainingText(), 3.0)]

    def fetch(self, sample_numbers: np.ndarray) -> np.ndarray:
        tokens = super().fetch(sample_numbers)
        half = tokens.shape[1] // 2
        tokens[:, half : 2 * half] = tokens[:, :half]
        return tokens


@dataclass
class TrainingText:
    """A source: the held-out samples one after the other, three times as long as what is counted."""

    tokens: int = 3 * COUNTED

    @property
    def manifest(self) -> "TrainingText":
        return self

    @property
    def reader(self) -> "TrainingText":
        return self

    def read(self, start: int, count: int) -> np.ndarray:
        return Stream(96, 16).fetch(np.arange(100)).reshape(-1)[start : start + count]


def config_of(name: str) -> RunConfig:
    _, parallel, micro = TOPOLOGIES[name]
    config = variant(parallel=parallel, batch={"micro_size": micro})
    data = replace(config.data, train=[SourceConfig("train")])
    return replace(config, evaluation=EvaluationConfig(batches=0, ar_hit_tokens=COUNTED), data=data)


def measure(config: RunConfig) -> dict[str, float]:
    engine, _ = start_engine(config)
    stream = Stream(config.model.vocab_size, config.data.sequence_length)
    marks = RecallMarks(stream, config, engine.topology)  # type: ignore[arg-type]
    held_out = HeldOut(stream, config, engine.topology, marks)  # type: ignore[arg-type]
    first = held_out.evaluate(engine, 0)
    assert held_out.evaluate(engine, 0) == pytest.approx(first)
    return first


def by_definition(config: RunConfig) -> dict[str, float]:
    stream = Stream(config.model.vocab_size, config.data.sequence_length)
    tokens = stream.fetch(np.arange(SAMPLES))
    texts = [TrainingText().read(0, COUNTED * quarters // 4)[None] for quarters in (1, 3)]
    frequent = count_frequent(texts, config.model.vocab_size)
    assert frequent.counted == COUNTED - 2
    hits = torch.from_numpy(ar_hits(tokens, frequent))
    assert len(frequent.keys) > 0
    model = LanguageModel(build_layers(config.model, Unsharded(), seed=config.seed))
    whole = torch.from_numpy(tokens)
    with torch.no_grad():
        loss = model(whole[:, :-1], finish=cross_entropy_TB(whole[:, 1:])).t()
    return {
        "validation_loss": float(loss.mean()),
        "validation_ar_hit_loss": float(loss[hits].mean()),
        "validation_others_loss": float(loss[~hits].mean()),
        "validation_ar_hit_share": float(hits.float().mean()),
    }


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_split_is_that_of_the_definition_on_every_topology(name: str) -> None:
    expected = by_definition(config_of(name))
    assert 0.01 < expected["validation_ar_hit_share"] < 0.9
    for found in run_world(TOPOLOGIES[name][0], measure, config_of(name)):
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-5)
        assert found["validation_perplexity"] == pytest.approx(math.exp(expected["validation_loss"]), rel=1e-4)


def test_without_it_there_is_only_the_whole_loss() -> None:
    config = config_of("single")
    found = run_world(1, measure_plain, config)[0]
    assert not any("ar_hit" in key or "others" in key for key in found)


def measure_plain(config: RunConfig) -> dict[str, float]:
    engine, _ = start_engine(config)
    stream = Stream(config.model.vocab_size, config.data.sequence_length)
    return HeldOut(stream, config, engine.topology).evaluate(engine, 0)  # type: ignore[arg-type]
