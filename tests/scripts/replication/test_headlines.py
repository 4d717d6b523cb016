"""The table of headlines on another page: nothing typed by hand, nothing left out for how it came out."""

import dataclasses
import re
import shutil
from pathlib import Path

from common.cli import parse_config
from scripts.evaluation.statistics import mean
from scripts.replication.claims import claims_of
from scripts.replication.config import StudyConfig
from scripts.replication.grid import Grid
from scripts.replication.headlines import headlines
from scripts.replication.page import write_page
from scripts.replication.plans import Plan
from scripts.replication.rows import Results
from tests.conftest import ROOT
from tests.scripts.replication.grids import made_up, study, with_part

VALUES = {"plain": 3.25, "older": 2.5, "ours": 2.75}


def loss(plan: Plan) -> float:
    """By the column, with something for the seed, and more where the model or the text is smaller."""
    return VALUES[plan.cell.column] + 0.01 * plan.cell.seed + (plan.cell.size != "s3") + (plan.most_tokens < 1200)


def config_of(folder: Path) -> StudyConfig:
    page = folder / "README.md"
    page.write_text("hand\n<!-- study made_up: begin -->\n<!-- study made_up: end -->\nwritten\n")
    named = with_part(study(folder), "scaling", headline="held-out loss")
    return dataclasses.replace(named, summary=str(page), page=str(folder / "docs/study.md"))


def test_a_part_that_was_not_run_says_so_and_one_without_a_headline_has_no_line(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    lines = headlines(config, {"scaling": [], "ablations": []})
    assert lines[0] == "|  | plain | older | ours |"
    assert lines[2] == "| parameters of size s3, without its embedding | 16,600 | 16,744 | 16,552 |"
    assert lines[3] == "| held-out loss | not run yet | not run yet | not run yet |"
    assert lines[4] == ""
    count = len(claims_of(config))
    assert lines[5:] == [
        f"Of {count} claims: {count} not run yet. "
        "Each with the papers' figure and ours: [docs/study.md](docs/study.md)."
    ]


def test_the_figure_is_that_of_the_largest_size_and_the_most_tokens_over_its_seeds(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "docs").mkdir()
    results = Results(Path(config.results))
    for _ in range(2):  # tries, then what waits for them
        for entry in Grid(config, results, ("scaling",)).entries():
            if not entry.waits and entry.row is None:
                results.add(made_up(entry.plan, loss))
    write_page(config, Grid(config, results))
    page = Path(str(config.summary)).read_text()
    assert page.startswith("hand\n<!--") and page.endswith("-->\nwritten\n")
    line = next(line for line in page.splitlines() if "held-out loss" in line)
    for column, value in VALUES.items():
        seeds = mean([value + 0.01 * seed for seed in (1, 2, 3)])
        assert f"{seeds.value:.4g} [{seeds.low:.4g}, {seeds.high:.4g}] (n=3)" in line, column
    assert "seen here" in page and "the opposite" in page


def test_the_desk_study_has_the_page_and_the_headlines_that_its_results_make(tmp_path: Path) -> None:
    """Of the files in the repository, so that none of them is older than the results, or written by hand."""
    desk = parse_config(StudyConfig, ["--config", str(ROOT / "studies/desk.yaml")], "test")
    readme = Path(shutil.copy(ROOT / "README.md", tmp_path))
    (tmp_path / "docs").mkdir()
    config = dataclasses.replace(desk, page=str(tmp_path / desk.page), summary=str(readme))
    page = write_page(config, Grid(config, Results(ROOT / desk.results)))
    assert page.read_text() == (ROOT / desk.page).read_text()
    assert readme.read_text() == (ROOT / "README.md").read_text()
    for name in re.findall(r"!\[.*\]\((.*)\)", page.read_text()):
        assert (ROOT / desk.page).with_name(name).is_file()
