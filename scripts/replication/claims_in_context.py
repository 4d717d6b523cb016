"""The claims of the papers about retrieval, in-context learning and noise, as comparisons of cells.

In: a StudyConfig. Out: Claims, with a judge each. Always: as scripts/replication/claims.py says.
"""

from dataclasses import replace

from scripts.replication.comparisons import BESIDE, Claim, Condition, Printed, compared, comparison
from scripts.replication.config import StudyConfig
from scripts.replication.sections import PartSettings
from scripts.replication.tables import Group

NEEDLES = {
    (1, 1): (1.00, 1.00, 1.00),
    (2, 2): (0.85, 0.92, 0.95),
    (4, 2): (0.62, 0.84, 0.89),
    (6, 2): (0.55, 0.85, 0.87),
}
"""[needles, asked]: accuracy of the Transformer, DIFF, Shared DIFF (Shared DIFF, table 4)"""
ATTENTION = {
    "answer": {"0": (0.03, 0.27, 0.33), "0.5": (0.03, 0.31, 0.39), "1": (0.09, 0.40, 0.44)},
    "noise": {"0": (0.51, 0.01, 0.01), "0.5": (0.52, 0.02, 0.02), "1": (0.49, 0.01, 0.01)},
}
"""by depth, in the same order (table 5)"""


GUESSING = 1 / 6
"""of TREC's labels one is right"""


def _pairs(config: StudyConfig, part: PartSettings) -> list[tuple[str, str, int]]:
    """(subject, reference, place of the reference in a printed row)."""
    roles = config.roles
    return [
        (subject, reference, place)
        for subject in roles.subjects
        for place, reference in enumerate((roles.baseline, roles.predecessor))
        if {subject, reference} <= set(part.columns)
    ]


def retrieval_claims(config: StudyConfig) -> list[Claim]:
    """Tables 4 and 5: right answers by needles; attention to the answer and to noise."""
    part = config.part("retrieval")
    size, claims = part.sizes[-1], []
    how = (
        f"size {size}, after a curriculum whose stages with a loss to reach end there, or at their bound; evaluated at "
        "the length that was trained, with fewer prompts than in the papers"
    )
    for subject, reference, place in _pairs(config, part):
        groups = Group(subject, size, 0), Group(reference, size, 0)
        for (needles, asked), row in NEEDLES.items():
            if row[2] == row[place]:
                continue  # which claims nothing
            claims.append(
                comparison(
                    f"retrieval.needles_{needles}_{asked}.{subject}.{reference}",
                    f"{subject} finds more of {asked} asked among {needles} needles than {reference}",
                    how,
                    groups,
                    f"needles.needles_{needles}_asked_{asked}",
                    "higher",
                    Printed("Shared DIFF, table 4", row[2], row[place]),
                    Condition(f"needles.needles_{needles}_asked_{asked}", 1 / needles if needles > 1 else 0.0),
                )
            )
        for kind, better, more in (("answer", "higher", "more"), ("noise", "lower", "less")):
            for depth, row in ATTENTION[kind].items():
                if row[2] == row[place]:
                    continue
                claims.append(
                    comparison(
                        f"retrieval.{kind}_{depth}.{subject}.{reference}",
                        f"{subject} gives {more} attention to the {kind} at depth {float(depth):.0%} than {reference}",
                        how,
                        groups,
                        f"attention.{kind}_normalised.{depth}",
                        better,
                        Printed("Shared DIFF, table 5", row[2], row[place]),
                        Condition("needles.needles_1_asked_1", 0.0, of_both=True),
                    )
                )
    return claims


def in_context_claims(config: StudyConfig) -> list[Claim]:
    """Figures 4 and 5: accuracy with many demonstrations; spread over their orders."""
    part = config.part("in_context")
    size, claims = part.sizes[-1], []
    for subject, reference, place in _pairs(config, part):
        first, second = (Group(column, size, 0) for column in (subject, reference))
        claims.append(
            Claim(
                name=f"in_context.accuracy.{subject}.{reference}",
                part="in_context",
                sentence=f"{subject} classifies better than {reference} after many demonstrations ({part.measures})",
                source="Shared DIFF, figure 4 (3B, four data sets)" if place else BESIDE,
                papers="1.5 to 3.3 % more" if place else "",
                how="classes whose labels are fixed inside a prompt only; labels decoded under constraint",
                judge=compared(
                    first, second, part.measures, "higher", 0.015 if place else None, Condition(part.measures, GUESSING)
                ),
            )
        )
        for order, share in (("random", 34), ("alternating", 42)):
            claims.append(
                Claim(
                    name=f"in_context.{order}.{subject}.{reference}",
                    part="in_context",
                    sentence=f"{subject} depends less on the order ({order}) of its demonstrations than {reference}",
                    source="Shared DIFF, figure 5" if place else BESIDE,
                    papers=f"{share} % less spread" if place else "",
                    how="best minus worst accuracy over orders of the same demonstrations",
                    judge=compared(
                        first,
                        second,
                        f"in_context_orders.trec_{order}_best_minus_worst",
                        "lower",
                        None,
                        Condition(part.measures, GUESSING, of_both=True),
                    ),
                )
            )
    return claims


def noise_claims(config: StudyConfig) -> list[Claim]:
    """The DIFF paper's other claim: fewer outliers, so that attention logits can be kept in fewer bits."""
    part, roles = config.part("noise"), config.roles
    size, tokens = part.sizes[-1], part.tokens[-1] if part.tokens else 0
    figures = {
        "outliers.attention_logits_top_1_of_a_sample": "has smaller outliers among its attention logits",
        "outliers.hidden_states_top_1_of_a_sample": "has smaller outliers among its hidden states",
        "quantised.loss_rise_4_bits": "loses less with attention logits of 4 bits",
        "quantised.loss_rise_6_bits": "loses less with attention logits of 6 bits",
    }
    claims = [
        comparison(
            f"noise.{figure}.{column}",
            f"{column} {what} than {roles.baseline}",
            f"held-out samples, size {size}, the trained models of scaling",
            (Group(column, size, tokens), Group(roles.baseline, size, tokens)),
            figure,
            "lower",
        )
        for figure, what in figures.items()
        for column in part.columns
        if column != roles.baseline
    ]
    return [
        replace(claim, source="DIFF, abstract") if claim.name.endswith(f".{roles.predecessor}") else claim
        for claim in claims  # whose abstract says it in words, without a figure
    ]
