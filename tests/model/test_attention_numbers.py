"""Every number that a layer records, against whole T x T maps in fp64 that are built from the equations alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from model.documents import Documents
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded, logical_parameters
from model.recorder import Recorded, Recorder, finished
from tests.model import reference
from tests.model.helpers import KINDS, spread, tokens

B, T = 2, 11
ROWS = [0, 1, 3, 4, 5, 7, 8, 10]  # (i + 1) * 11 // 8 - 1


def starts_BT() -> Tensor:
    starts = torch.zeros(B, T, dtype=torch.int32)
    starts[0, 4:], starts[1, 9:] = 4, 9
    return starts


def value(entry: Recorded) -> float:
    total, weight = entry.parts.tolist() if entry.reduce != "max" else (float(entry.parts), 1.0)
    return finished(entry.reduce, total, weight)


@dataclass
class Seen:
    """What the reference computed in one layer: per call of its map, in the order head by head and stream by stream."""

    weights: dict[str, Tensor]
    x_BTD: Tensor
    queries: list[Tensor]
    keys: list[Tensor]
    maps: list[Tensor]


def watch(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[Seen]:
    """Lets the reference tell what it sees."""
    layers: list[Seen] = []
    attend, kind_of = reference.attention_map, dict(reference.ATTENTION)

    def attention_map(config: Any, q: Tensor, k: Tensor, starts: Tensor) -> Tensor:
        layers[-1].queries.append(q)
        layers[-1].keys.append(k)
        layers[-1].maps.append(attend(config, q, k, starts))
        return layers[-1].maps[-1]

    def layer_of_kind(config: Any, layer: int, w: dict[str, Tensor], x: Tensor, starts: Tensor) -> Tensor:
        layers.append(Seen(w, x, [], [], []))
        return kind_of[kind](config, layer, w, x, starts)

    monkeypatch.setattr(reference, "attention_map", attention_map)
    monkeypatch.setitem(reference.ATTENTION, kind, layer_of_kind)
    return layers


def rows_of(maps: list[Tensor]) -> Iterator[tuple[list[float], int]]:
    """(weights of one sampled row, the first token that it sees)."""
    for whole in maps:
        for b in range(B):
            for row in ROWS:
                yield whole[b, row].tolist(), int(starts_BT()[b, row])


def entropy(maps: list[Tensor]) -> float:
    found = []
    for weights, _ in rows_of(maps):
        total = sum(map(abs, weights))
        found.append(-sum(abs(w) / total * math.log(abs(w) / total) for w in weights if w != 0))
    return sum(found) / len(found)


def first_token(maps: list[Tensor]) -> float:
    found = [abs(weights[first]) / sum(map(abs, weights)) for weights, first in rows_of(maps)]
    return sum(found) / len(found)


def mean_cosine(first: list[Tensor], second: list[Tensor]) -> float:
    found = [
        float(a[b, row] @ c[b, row] / (a[b, row].norm() * c[b, row].norm()))
        for a, c in zip(first, second, strict=True)
        for b in range(B)
        for row in ROWS
    ]
    return sum(found) / len(found)


def largest_logit(seen: Seen, theta: float) -> float:
    """Rotated as a pair of real numbers at a time."""

    def rotated(x_K: Tensor, position: int) -> list[float]:
        half, turned = x_K.shape[0] // 2, [0.0] * x_K.shape[0]
        for i in range(half):
            angle = position * theta ** (-i / half)
            a, b = float(x_K[i]), float(x_K[half + i])
            turned[i] = a * math.cos(angle) - b * math.sin(angle)
            turned[half + i] = a * math.sin(angle) + b * math.cos(angle)
        return turned

    largest = -math.inf
    for q, k in zip(seen.queries, seen.keys, strict=True):
        for b in range(B):
            for row in ROWS:
                first = int(starts_BT()[b, row])
                query = rotated(q[b, row], row - first)
                for token in range(first, row + 1):
                    score = sum(x * y for x, y in zip(query, rotated(k[b, token], token - first), strict=True))
                    largest = max(largest, score / math.sqrt(len(query)))
    return largest


def expected_of(name: str, layer: int, seen: Seen) -> dict[str, float]:
    config = KINDS[name]
    w = seen.weights
    numbers = {"largest_logit": largest_logit(seen, config.rope_theta)}
    if config.attention == "standard":
        return {**numbers, "entropy": entropy(seen.maps), "first_token": first_token(seen.maps)}
    first, second = seen.maps[0::2], seen.maps[1::2]
    if config.attention == "diff_v2":
        weight_BTH = 1 / (1 + torch.exp(-(seen.x_BTD @ w["lambda_proj.weight"].T)))
        lambdas = [weight_BTH[..., h, None] for h in range(config.num_heads)]
        numbers["lambda"] = float(weight_BTH.mean())
    else:
        plain = math.exp(w["lambda_q1"] @ w["lambda_k1"]) - math.exp(w["lambda_q2"] @ w["lambda_k2"])
        numbers["lambda"] = plain + 0.8 - 0.6 * math.exp(-0.3 * layer)
        lambdas = [torch.tensor(numbers["lambda"], dtype=torch.float64)] * config.num_heads
        numbers["key_cosine"] = mean_cosine(seen.keys[0::2], seen.keys[1::2])
        numbers["head_norm_mean"] = float(w["head_norm.weight"].mean())
        numbers["head_norm_max"] = float(w["head_norm.weight"].max())
    differences = [a - lam * b for a, b, lam in zip(first, second, lambdas, strict=True)]
    for which, maps in (("1", first), ("2", second), ("difference", differences)):
        numbers[f"entropy_{which}"] = entropy(maps)
        numbers[f"first_token_{which}"] = first_token(maps)
    numbers["map_cosine"] = mean_cosine(first, second)
    numbers["query_cosine"] = mean_cosine(seen.queries[0::2], seen.queries[1::2])
    if config.attention == "shared_diff":
        for which in ("query", "key"):
            squares = []
            heads = w[f"{which}_up"].shape[0]
            for h in range(heads):
                for s in (0, 1):
                    down = w[f"{which}_down"] if config.down == "layer" else w[f"{which}_down"][h]
                    squares.append(float((w[f"{which}_up"][h, s] @ down[s]).square().sum()))
            base = float(w[f"{which}_base.weight"].square().sum())
            bases = 1 if config.base == "layer" else heads
            numbers[f"{which}_update"] = math.sqrt((sum(squares) / len(squares)) / (base / bases))
    return numbers


@pytest.mark.parametrize("name", KINDS)
def test_layers_record_what_the_equations_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = KINDS[name]
    recorder = Recorder()
    model = LanguageModel(build_layers(config, Unsharded(), recorder, seed=1, dtype=torch.float64))
    spread(model)
    tokens_BT = tokens(config, B, T)
    recorder.open()
    logits_TBV = model((tokens_BT, Documents.of(starts_BT())))
    found = {place: value(entry) for place, entry in recorder.close().items()}

    layers = watch(monkeypatch, config.attention)
    weights = {name: parameter.detach() for name, parameter in logical_parameters(model).items()}
    reference.reference_logits(config, weights, tokens_BT, starts_BT())
    expected = {"head.largest_logit": float(logits_TBV.max())}
    for layer, seen in enumerate(layers):
        for number, what in expected_of(name, layer, seen).items():
            expected[f"blocks.{layer}.attention.{number}"] = what
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_recomputation_records_once_and_the_same(recompute: Any) -> None:
    config, recorder = KINDS["shared_diff-layer-head"], Recorder()
    model = LanguageModel(
        build_layers(config, Unsharded(), recorder, seed=1, dtype=torch.float64, activation_checkpointing=recompute)
    )
    plain = Recorder()
    whole = LanguageModel(build_layers(config, Unsharded(), plain, seed=1, dtype=torch.float64))
    for one, layers in ((recorder, model), (plain, whole)):
        one.open()
        layers(tokens(config, B, T)).sum().backward()
    found, expected = recorder.close(), plain.close()
    assert found.keys() == expected.keys()
    for name, entry in found.items():
        assert torch.equal(entry.parts, expected[name].parts), name
    gradients = [p.grad for p in model.parameters()]
    assert all(torch.equal(found, p.grad) for found, p in zip(gradients, whole.parameters(), strict=True))


def test_a_closed_recorder_costs_a_layer_no_operation() -> None:
    config = KINDS["diff"]

    class Operations(torch.utils._python_dispatch.TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            Operations.count += 1
            return function(*arguments, **(keywords or {}))

    counts = []
    for recorder in (None, Recorder()):
        model = LanguageModel(build_layers(config, Unsharded(), recorder, seed=1))
        Operations.count = 0
        with Operations():
            model(tokens(config, B, T)).sum().backward()
        counts.append(Operations.count)
    recorder.open()
    Operations.count = 0
    with Operations():
        model(tokens(config, B, T)).sum().backward()
    assert counts[0] == counts[1] < Operations.count
