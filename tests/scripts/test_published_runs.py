"""The planner beside runs that others have measured: the table of docs/parallelism.md, and how far off it is."""

import re
from statistics import mean

from scripts.published_runs import planned_tokens_per_second, published, report
from tests.conftest import ROOT


def test_the_docs_show_what_the_script_says() -> None:
    text = (ROOT / "docs/parallelism.md").read_text()
    assert "\n".join(report()) in text


def test_errors_are_small_and_lean_to_no_side() -> None:
    errors = [planned_tokens_per_second(run) / run.tokens_per_second - 1 for run in published()]
    assert mean(abs(error) for error in errors) < 0.10
    assert abs(mean(errors)) < 0.05
    assert max(abs(error) for error in errors) < 0.25


def test_the_sizes_are_those_that_were_measured() -> None:
    from model.counts import parameter_counts

    billions = {"760M": 0.760, "1B": 1.316, "3B": 2.652, "7B": 6.659, "13B": 12.854, "30B": 29.975, "70B": 64.862}
    for run in published():
        if size := re.match(r"MPT (\w+),", run.name):
            assert abs(sum(parameter_counts(run.config.model).values()) / 1e9 / billions[size[1]] - 1) < 0.01, run.name
