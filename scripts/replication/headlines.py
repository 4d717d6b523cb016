"""What came out, in one table: a line for each part of a study that has a headline, a column for each kind.

In: a StudyConfig, rows by part. Out: lines of Markdown for another page, as the README. Always: the figure of a part is
the one that its comparisons are about, at its largest size and most tokens, with its interval over seeds; a part that
was not run says so; how far the kinds differ in parameters stands above, how many claims came out how below, whatever
it is.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.marked import write_between_marks
from scripts.replication.cells import cells_of
from scripts.replication.claims import claims_of
from scripts.replication.comparisons import told
from scripts.replication.config import StudyConfig
from scripts.replication.document import Table, markdown
from scripts.replication.plans import plan_of
from scripts.replication.rows import Row
from scripts.replication.sections import PartSettings
from scripts.replication.tables import Group, estimate, of_group
from scripts.replication.verdicts import Verdict

DIGITS = 4


def write_headlines(config: StudyConfig, rows: Mapping[str, Sequence[Row]]) -> None:
    """Puts the table where `summary` says, if it says so."""
    if config.summary is not None:
        write_between_marks(Path(config.summary), f"study {config.name}", headlines(config, rows))


def headlines(config: StudyConfig, rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """The lines."""
    columns = [column.name for column in config.columns]
    parts = [part for part in config.parts if part.headline]
    lines = [[part.headline, *(_figure(part, rows[part.name], name) for name in columns)] for part in parts]
    table = Table(["", *columns], [_parameters(config, parts[0], columns), *lines] if parts else [])
    counts = Counter(claim.judge(rows[claim.part]).verdict for claim in claims_of(config))
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    page = os.path.relpath(config.page, Path(config.summary or config.page).parent)
    claims = f"Of {counts.total()} claims: {verdicts}. Each with the papers' figure and ours: [{page}]({page})."
    return [*markdown([table]).splitlines(), "", claims]


def _parameters(config: StudyConfig, part: PartSettings, columns: Sequence[str]) -> list[str]:
    """How large the models are that the first headline compares: kinds of one size are nearly equal, not quite."""
    size = part.sizes[-1]
    plans = {cell.column: plan_of(config, cell.at(1e-3)) for cell in cells_of(config, part) if cell.size == size}
    counts = [f"{plans[name].parameters - plans[name].embedding:,}" if name in plans else "" for name in columns]
    return [f"parameters of size {size}, without its embedding", *counts]


def _figure(part: PartSettings, rows: Sequence[Row], column: str) -> str:
    if column not in part.columns:
        return ""
    group = Group(column, part.sizes[-1], part.tokens[-1] if part.tokens else 0)
    found = estimate(of_group(rows, group), part.measures)
    return "not run yet" if found is None else told(found, DIGITS)
