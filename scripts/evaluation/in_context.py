"""Many-shot in-context learning and its robustness to the demonstrations' order (Shared DIFF paper, figures 4 and 5).

In: labelled data sets, numbers of demonstrations. Out: accuracy over shots; accuracy over orders.
Always: labels are decoded under the constraint of the label set; all test examples of a draw see the same
demonstrations; intervals are over draws and test examples together, since answers that share either are not
independent.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.errors import InputError
from scripts.evaluation.constrained import build_trie, classify, depth_of
from scripts.evaluation.labelled import SEPARATOR, DataSet, Example, find_data_set, load_split
from scripts.evaluation.pictures import draw_curves
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig, InContextSettings
from scripts.evaluation.statistics import Estimate, crossed, distance_bootstrap, quantile_bootstrap
from scripts.evaluation.subject import Subject


def run(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Accuracy from one demonstration up to as many as fit."""
    chosen = settings.in_context
    metrics: dict[str, Estimate] = {}
    curves: dict[str, dict[float, Estimate]] = {}
    sets = {}
    subject.progress.total = len(chosen.sets) * sum(map(_work, chosen.shots))
    for name in chosen.sets:
        train, test, sets[name] = _load(name, chosen, settings.seed)
        data_set = find_data_set(name)
        room = _room(subject, data_set, chosen, train, test)
        curves[name] = {}
        for shots in chosen.shots:
            draws = [
                _draw_demonstrations(train, shots, random.Random(f"{settings.seed}/{name}/{draw}"))
                for draw in range(chosen.draws)
            ]
            contexts = [_context(data_set, demonstrations) for demonstrations in draws]
            if shots > len(train) or max(len(subject.encode(context)) for context in contexts) > room:
                break  # the curve ends where the demonstrations no longer fit
            subject.progress.title = f"in_context: {name}, {shots} demonstrations"
            right = [_right(subject, data_set, context, train, test) for context in contexts]
            curves[name][shots] = crossed(right, settings.seed)
            metrics[f"{name}_{shots}_shots"] = curves[name][shots]
            subject.progress.result = f"{curves[name][shots].value:.3f} of {name} with {shots}"
            subject.progress.add(_work(shots), 0)
        missing = [shots for shots in chosen.shots if shots not in curves[name]]
        subject.progress.total -= sum(map(_work, missing))
    return TaskResult(
        metrics,
        {"draws": chosen.draws, "sets": sets, "folder": chosen.folder, "longest": chosen.longest},
        draw=lambda figure: draw_curves(
            figure.subplots(), curves, "demonstrations", "accuracy", "many-shot in-context learning", log_x=True
        ),
    )


def run_orders(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """The same demonstrations in many orders: (a) random, (b) alternating by class."""
    chosen = settings.in_context
    metrics: dict[str, Estimate] = {}
    details: dict[str, Any] = {}
    sets = {}
    subject.progress.total = len(chosen.sets) * 2
    for name in chosen.sets:
        train, test, sets[name] = _load(name, chosen, settings.seed)
        data_set = find_data_set(name)
        room = _room(subject, data_set, chosen, train, test)
        demonstrations = _draw_demonstrations(
            train, chosen.order_shots, random.Random(f"{settings.seed}/{name}/orders")
        )
        for kind, arrange in (("random", _shuffled), ("alternating", _alternating)):
            orders = [arrange(demonstrations, random.Random(f"{settings.seed}/{n}")) for n in range(chosen.orders)]
            contexts = [_context(data_set, order) for order in orders]
            longest = max(len(subject.encode(context)) for context in contexts)
            if longest > room:
                raise InputError(
                    f"in_context.order_shots: {chosen.order_shots} demonstrations of {name} take {longest} tokens, "
                    f"only {room} fit"
                )
            subject.progress.title = f"in_context_orders: {name}, {kind} orders"
            right = np.array([_right(subject, data_set, context, train, test) for context in contexts])
            metrics |= {f"{name}_{kind}_{key}": estimate for key, estimate in _spread(right, settings.seed).items()}
            details[f"{name}_{kind}"] = {"accuracies": right.mean(axis=1).tolist()}
            subject.progress.result = f"{right.mean():.3f} of {name} in {kind} orders"
            subject.progress.add(1, 0)
    return TaskResult(
        metrics,
        {"orders": chosen.orders, "demonstrations": chosen.order_shots, "sets": sets, "folder": chosen.folder},
        details,
        draw=lambda figure: _draw_orders(figure, details),
    )


def _work(shots: int) -> int:
    """What a point of the curve costs, about: texts that are read for each query."""
    return shots + 1


def _load(name: str, chosen: InContextSettings, seed: int) -> tuple[list[Example], list[Example], dict[str, int]]:
    train, test = load_split(name, "train", chosen.folder), load_split(name, "test", chosen.folder)
    labels = {example.label for example in train}
    test = [example for example in test if example.label in labels]
    if not test:
        raise InputError(f"{name}: no test example has a label of the training examples")
    random.Random(f"{seed}/{name}/test").shuffle(test)
    test = test[: chosen.test_examples]
    return train, test, {"classes": len(labels), "train": len(train), "test": len(test)}


def _room(
    subject: Subject, data_set: DataSet, chosen: InContextSettings, train: Sequence[Example], test: Sequence[Example]
) -> int:
    """Tokens that are left for demonstrations."""
    trie = build_trie(subject, sorted({example.label for example in train}))
    queries = max(len(subject.encode(data_set.query(example.text))) for example in test)
    return min(chosen.longest, subject.max_length) - queries - depth_of(trie)


def _draw_demonstrations(train: Sequence[Example], count: int, draw: random.Random) -> list[Example]:
    """``count`` examples, the classes in turn in a random order, so that they are as balanced as can be."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        by_label[example.label].append(example)
    for examples in by_label.values():
        draw.shuffle(examples)
    chosen: list[Example] = []
    while len(chosen) < min(count, len(train)):
        labels = [label for label, examples in by_label.items() if examples]
        draw.shuffle(labels)
        chosen += [by_label[label].pop() for label in labels]
    chosen = chosen[:count]
    draw.shuffle(chosen)
    return chosen


def _context(data_set: DataSet, demonstrations: Sequence[Example]) -> str:
    return "".join(data_set.demonstration(example) + SEPARATOR for example in demonstrations)


def _right(
    subject: Subject, data_set: DataSet, context: str, train: Sequence[Example], test: Sequence[Example]
) -> list[bool]:
    trie = build_trie(subject, sorted({example.label for example in train}))
    said = classify(subject, context, [data_set.query(example.text) for example in test], trie)
    return [label == example.label for label, example in zip(said, test, strict=True)]


def _shuffled(demonstrations: Sequence[Example], draw: random.Random) -> list[Example]:
    return draw.sample(demonstrations, len(demonstrations))


def _alternating(demonstrations: Sequence[Example], draw: random.Random) -> list[Example]:
    """The classes in turn, in a random order of the classes and inside them."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in _shuffled(demonstrations, draw):
        by_label[example.label].append(example)
    turns = max(map(len, by_label.values()))
    return [examples[turn] for turn in range(turns) for examples in by_label.values() if turn < len(examples)]


def _spread(right: np.ndarray, seed: int) -> dict[str, Estimate]:
    """Mean, best minus worst, and variance over orders; bootstrapped over the test examples, which orders share."""
    draws = np.random.default_rng(seed).integers(right.shape[1], size=(1000, right.shape[1]))
    accuracy = right.mean(axis=1)
    resampled, count = right[:, draws].mean(axis=2), right.shape[1]  # orders x resamples
    errors = resampled - accuracy[:, None]
    deviation = distance_bootstrap(errors.std(axis=0), float(accuracy.std()), count)
    return {
        "mean": quantile_bootstrap(resampled.mean(axis=0).tolist(), float(accuracy.mean()), count),
        "best_minus_worst": distance_bootstrap(np.ptp(errors, axis=0), float(np.ptp(accuracy)), count),
        "variance": deviation.map(lambda root: root**2),
    }


def _draw_orders(figure: Any, details: dict[str, Any]) -> None:
    axes = figure.subplots()
    axes.boxplot([row["accuracies"] for row in details.values()], tick_labels=list(details), whis=(0, 100))
    axes.set(ylabel="accuracy", title="the same demonstrations in different orders")
    axes.tick_params(axis="x", rotation=20)
    axes.grid(alpha=0.3)
