"""Numbers from inside the model are drawn under whatever names they come, and what is missing stays empty."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from scripts.evaluation.result import render
from scripts.reporting.telemetry import MOST_STEPS, draw_inside

TELEMETRY = {
    10: {"attention.lambda": [0.25, 0.5, 0.75], "head.largest_logit": 9.5, "gradient_norm/ffn.up": 0.5},
    20: {"attention.lambda": [0.5, None, 0.125], "head.largest_logit": None, "new": [1.0, 2.0, 3.0]},
    30: {"gradient_norm/ffn.up": 0.25, "gradient_norm/embedding": 3.0, "attention.lambda": 7.0},
}


def drawn(telemetry: dict[int, dict[str, object]]) -> Figure:
    figure = Figure(layout="constrained")
    draw_inside(figure, telemetry)
    return figure


def test_every_name_has_its_panel_and_every_number_its_place() -> None:
    panels = {axes.get_title(): axes for axes in drawn(TELEMETRY).axes if axes.get_title()}
    assert list(panels) == ["attention.lambda", "new", "head.largest_logit", "gradient_norm"]
    heat = np.ma.filled(panels["attention.lambda"].images[0].get_array().astype(float), math.nan)
    expected = [[0.25, 0.5, math.nan], [0.5, math.nan, math.nan], [0.75, 0.125, math.nan]]
    np.testing.assert_array_equal(heat, expected)
    assert [text.get_text() for text in panels["new"].get_xticklabels()] == ["10", "20", "30"]
    (largest,) = panels["head.largest_logit"].lines
    np.testing.assert_array_equal(largest.get_data()[1], [9.5, math.nan, math.nan])
    up, embedding = panels["gradient_norm"].lines
    assert (up.get_label(), embedding.get_label()) == ("ffn.up", "embedding")
    np.testing.assert_array_equal(up.get_data(), [[10, 20, 30], [0.5, math.nan, 0.25]])


@pytest.mark.parametrize("name", ["$x_{$", "a$b", "_hidden", "", "/", "x/$\\frac{$", "<script>", "\u4e2d"])
def test_a_strange_name_is_a_name(name: str) -> None:
    values = {name: 1.0, f"{name}/x": 2.0, f"{name}s": [1.0, 2.0]}
    assert render(lambda figure: draw_inside(figure, {1: values, 2: values})).startswith(b"\x89PNG")


@pytest.mark.parametrize("value", [None, [], [None], 1e300, [10**18]])
def test_a_strange_value_is_no_crash(value: object) -> None:
    assert render(lambda figure: draw_inside(figure, {1: {"x": value, "y": 1.0}})).startswith(b"\x89PNG")


def test_of_a_long_run_evenly_spaced_steps_are_drawn() -> None:
    long = {step: {"x": [float(step)]} for step in range(0, 50 * MOST_STEPS, 10)}
    (heat,) = [axes for axes in drawn(long).axes if axes.get_title() == "x"]
    columns = heat.images[0].get_array()[0]
    assert MOST_STEPS / 2 < len(columns) <= MOST_STEPS
    assert len(set(np.diff(columns))) == 1
