"""The page of a study, from the rows that stand.

In: a StudyConfig, a Grid. Out: the page in Markdown with its pictures beside it, and the same in HTML. Always: what has
no rows says so; nothing is left out for what came out; equal rows give an equal page.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.files import write_atomically
from scripts.replication.cells import PLAIN, cells_of
from scripts.replication.claims import claims_of
from scripts.replication.comparisons import LOSS, Claim, told
from scripts.replication.config import StudyConfig
from scripts.replication.document import Block, Heading, Paragraph, Picture, Table, markdown, page
from scripts.replication.fits import exponent
from scripts.replication.grid import Grid
from scripts.replication.headlines import write_headlines
from scripts.replication.pictures import pictures_of
from scripts.replication.rows import Row, of_cells
from scripts.replication.sections import PartSettings
from scripts.replication.tables import Group, estimate, of_group, whole_laws
from scripts.replication.verdicts import Verdict

RULE = (
    "Intervals are 95 % by Student's t over seeds. A verdict is `seen here` or `the opposite` only where the intervals "
    "of both sides do not overlap (of a saving: where its interval leaves out 0); `not seen` says that an effect as "
    "large as the papers' is ruled out; everything else is `not decidable at this size`."
)


def write_page(config: StudyConfig, grid: Grid) -> Path:
    """Writes the page, and the headlines where they go; returns the page's path."""
    path = Path(config.page)
    rows = {part.name: grid.rows(part.name) for part in config.parts}
    pictures = {part.name: pictures_of(config, part, rows[part.name]) for part in config.parts}
    blocks = list(_blocks(config, grid, rows, pictures))
    all_pictures = {name: content for own in pictures.values() for name, content in own.items()}
    for name, content in all_pictures.items():
        write_atomically(path.with_name(name), content)
    write_atomically(path, markdown(blocks))
    write_atomically(path.with_suffix(".html"), page(blocks, all_pictures))
    write_headlines(config, rows)
    return path


def _blocks(
    config: StudyConfig, grid: Grid, rows: dict[str, list[Row]], pictures: dict[str, dict[str, bytes]]
) -> Iterator[Block]:
    yield Heading(1, f"The papers' claims, asked of small models: the study `{config.name}`")
    claims = claims_of(config)
    found = {claim.name: claim.judge(rows[claim.part]) for claim in claims}
    counts = Counter(finding.verdict for finding in found.values())
    yield Paragraph(
        "Made by `python scripts/study.py`. "
        + ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
        + f". {RULE} `--trace NAME` prints the cells, runs and commands behind a claim or a cell."
    )
    yield Table(
        ["claim", "name", "source", "papers", "here", "verdict"],
        [
            [claim.sentence, f"`{claim.name}`", claim.source, claim.papers, finding.ours, finding.verdict.value]
            for claim in claims
            for finding in [found[claim.name]]
        ],
    )
    for part in config.parts:
        yield from _part(config, part, grid, rows[part.name], claims)
        for name in pictures[part.name]:
            yield Picture(name, f"{part.name}: {name.removesuffix('.png').rpartition('_')[2]}")


def _part(
    config: StudyConfig, part: PartSettings, grid: Grid, rows: Sequence[Row], claims: Sequence[Claim]
) -> Iterator[Block]:
    yield Heading(2, part.name)
    yield Paragraph(part.about)
    for how in dict.fromkeys(claim.how for claim in claims if claim.part == part.name):
        yield Paragraph(f"How: {how}.")
    if not of_cells(rows, is_try=False):
        yield Paragraph("Not run yet.")
        return
    rates = {column: grid.rate(part, column) for column in part.columns}
    whose = f"the sweep of {part.rates_from}" if part.rates_from else "its own sweep, the same tries for each"
    told_rates = ", ".join(f"{column} {'-' if rate is None else f'{rate:g}'}" for column, rate in rates.items())
    yield Paragraph(f"Peak learning rates, by {whose}: {told_rates}.{_edges(config, part, rates)}")
    yield _sizes(part, rows)
    if len(part.sizes) > 1 and len(part.tokens) > 1:
        yield _exponents(part, rows)
    for figure in part.shows or [part.measures]:
        yield Heading(3, figure)
        yield _table(config, part, rows, figure)


def _edges(config: StudyConfig, part: PartSettings, rates: dict[str, float | None]) -> str:
    """A rate at the end of what was tried might have been better beyond it."""
    sweep = config.part(part.rates_from).sweep if part.rates_from else part.sweep
    assert sweep is not None
    if len(sweep.rates) < 2:
        return ""
    ends = (min(sweep.rates), max(sweep.rates))
    at_end = [column for column, rate in rates.items() if rate in ends]
    return f" At an end of the tries: {', '.join(at_end)}." if at_end else ""


def _sizes(part: PartSettings, rows: Sequence[Row]) -> Table:
    counts: dict[tuple[str, str, str], tuple[int, int]] = {}
    for row in of_cells(rows, is_try=False):
        counts[row["size"], row["variant"], row["column"]] = row["parameters"], row["embedding"]
    places = list(dict.fromkeys((size, variant) for size, variant, _ in counts))

    def cell(size: str, variant: str, column: str) -> str:
        found = counts.get((size, variant, column))
        return "" if found is None else f"{found[0]:,} ({found[0] - found[1]:,})"

    return Table(
        ["parameters (without embedding)", *part.columns],
        [
            [size if variant == PLAIN else f"{size}, {variant}", *(cell(size, variant, name) for name in part.columns)]
            for size, variant in places
        ],
    )


def _exponents(part: PartSettings, rows: Sequence[Row]) -> Table:
    """How fast the loss falls with parameters, at the most tokens, and with tokens, at the largest size."""
    lines = []
    for axis in ("parameters", "tokens"):
        seeds = [whole_laws(rows, column, axis, LOSS, part) for column in part.columns]
        lines.append([axis, *(told(exponent(own)) if own else "" for own in seeds)])
    return Table(["exponent of the loss over", *part.columns], lines)


def _table(config: StudyConfig, part: PartSettings, rows: Sequence[Row], figure: str) -> Table:
    places = list(dict.fromkeys((cell.size, cell.tokens, cell.variant) for cell in cells_of(config, part)))
    lines = []
    for size, tokens, variant in places:
        names = [size, *([f"{tokens:,}"] if part.tokens else []), *([variant] if part.variants else [])]
        found = [estimate(of_group(rows, Group(column, size, tokens, variant)), figure) for column in part.columns]
        lines.append([*names, *("" if value is None else told(value) for value in found)])
    head = ["size", *(["tokens"] if part.tokens else []), *(["variant"] if part.variants else []), *part.columns]
    return Table(head, lines)
