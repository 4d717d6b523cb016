"""The page of made-up results: every claim with a verdict, and nothing invented."""

import re
from pathlib import Path

from scripts.replication.claims import claims_of
from scripts.replication.comparisons import NOT_RUN
from scripts.replication.estimates import Estimator
from scripts.replication.folders import Folders
from scripts.replication.grid import Grid
from scripts.replication.listing import listed, traced
from scripts.replication.page import write_page
from scripts.replication.plans import Plan
from scripts.replication.rows import Results
from scripts.replication.tables import whole_laws
from tests.scripts.replication.grids import made_up, study, with_part

NEEDS = {"plain": 1.0, "older": 0.8, "ours": 0.55}
"""parameters and tokens for the same loss, relative to the plain kind's"""


def loss(plan: Plan) -> float:
    """A law in parameters and tokens, a little off for each seed."""
    need = NEEDS[plan.cell.column] * (1 + 0.01 * (plan.cell.seed * len(plan.cell.column) % 7))
    worse = 4.0 if plan.cell.variant != "-" else 0.0
    return 20 * ((plan.parameters - plan.embedding) / need) ** -0.1 * (plan.most_tokens / need) ** -0.05 + worse


def filled(folder: Path, parts: tuple[str, ...] = ("scaling", "ablations")) -> Grid:
    config = study(folder)
    results = Results(Path(config.results))
    for _ in range(2):  # tries, then what waits for them
        for entry in Grid(config, results, parts).entries():
            if not entry.waits and entry.row is None:
                results.add(made_up(entry.plan, loss))
    return Grid(config, results)


def claim_rows(page: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    return {row[1].strip("`"): row for row in rows if len(row) == 6}


def test_what_has_no_rows_is_not_run_yet(tmp_path: Path) -> None:
    config = study(tmp_path)
    path = write_page(config, Grid(config, Results(Path(config.results))))
    rows = claim_rows(path.read_text())
    assert {row[4] for name, row in rows.items() if name != "name" and "---" not in name} == {""}
    assert {row[5] for name, row in rows.items() if name != "name" and "---" not in name} == {"not run yet"}
    assert path.read_text().count("Not run yet.") == 2
    assert not list(tmp_path.glob("*.png"))


def test_every_claim_has_our_figure_with_its_interval_and_a_verdict(tmp_path: Path) -> None:
    grid = filled(tmp_path)
    config = study(tmp_path)
    path = write_page(config, grid)
    page = path.read_text()
    rows = claim_rows(page)
    assert {claim.name for claim in claims_of(config)} <= rows.keys()
    saved = rows["scaling.tokens.ours.plain"]
    assert saved[3] == "30 % fewer" and saved[5] == "seen here"
    share, low, high = map(float, re.findall(r"[\d.]+", saved[4])[:3])
    assert low < share < high
    assert rows["ablations.no_head_norm.ours"][5] == "seen here"
    (exponents,) = [line for line in page.splitlines() if line.startswith("| tokens | 0.05")]  # that of the made-up law
    assert exponents.count("0.05 [0.05, 0.05] (n=3)") == 3
    assert rows["ablations.validation_ar_hit_loss.ours.older"][5] == "not run yet"  # a figure that no row has
    for name in re.findall(r"!\[.*\]\((.*)\)", page):
        assert path.with_name(name).read_bytes().startswith(b"\x89PNG")
    html = path.with_suffix(".html").read_text()
    assert html.count("<table>") == len(re.findall(r"^\| ---", page, flags=re.MULTILINE))
    assert "data:image/png;base64," in html
    before = page
    write_page(config, grid)
    assert path.read_text() == before


def test_tokens_for_the_same_loss_are_read_off_the_law(tmp_path: Path) -> None:
    """Both axes of the made-up law scale with the need: (1 / 0.55)^-0.15 in loss, so tokens make up for both."""
    grid = filled(tmp_path)
    claim = next(claim for claim in claims_of(study(tmp_path)) if claim.name == "scaling.tokens.ours.plain")
    ours = claim.judge(grid.rows("scaling")).ours
    same_loss = 0.55 ** (0.15 / 0.05)
    assert abs(float(ours.split()[0]) - 100 * (1 - same_loss)) < 10


def test_a_law_is_that_of_seeds_of_which_all_points_have_run(tmp_path: Path) -> None:
    """Three sizes stand for seeds 1 and 3, two for seed 2, whose law would be another one."""
    grid, config = filled(tmp_path), study(tmp_path)
    rows = [row for row in grid.rows("scaling") if (row["seed"], row["size"]) != (2, "s3")]
    laws = whole_laws(rows, "ours", "parameters", "validation_loss", config.part("scaling"))
    assert {seed: len(found) for seed, found in laws.items()} == {1: 3, 3: 3}
    claim = next(claim for claim in claims_of(config) if claim.name == "scaling.parameters.ours.plain")
    assert claim.judge(rows).ours.endswith("% fewer (n=2)")
    unfinished = [row for row in rows if row["size"] != "s2"]
    assert claim.judge(unfinished) == NOT_RUN


def test_parts_of_other_grids_are_not_on_the_page(tmp_path: Path) -> None:
    filled(tmp_path)
    config = with_part(study(tmp_path), "ablations", seeds=[5])
    grid = Grid(config, Results(Path(config.results)))
    assert {row["seed"] for row in grid.rows("ablations")} == {5}
    assert len(Results(Path(config.results)).rows("ablations")) == 10


def test_the_list_tells_what_stands_and_what_will_take_how_long(tmp_path: Path) -> None:
    config = study(tmp_path)
    grid = filled(tmp_path, ("scaling",))
    lines = list(listed(grid, Estimator(config), jobs=2))
    assert sum(": stands, validation_loss " in line for line in lines) == 90
    assert sum(": to do, about " in line for line in lines) == 10
    assert lines[-2].startswith("all: 10 cells, about ") and lines[-1] == "100 cells in all"


def test_a_claim_is_traced_to_its_cells_and_these_to_commands(tmp_path: Path) -> None:
    grid, config = filled(tmp_path), study(tmp_path)
    lines = list(traced("ablations.no_head_norm.ours", config, grid, Folders(Path(config.work))))
    assert sum(line.startswith("ablations/") for line in lines) == 10
    (cell,) = [line for line in lines if line.startswith("ablations/ours/s2/480/no_head_norm/5: stands")]
    key = cell.split("digest ")[1].rstrip(")")
    assert any(entry.plan.key == key for entry in grid.entries())
    assert sum("-m pretrain --config" in line for line in lines) == 10
