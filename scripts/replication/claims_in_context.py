"""The claims of the papers about retrieval, in-context learning and noise, as comparisons of cells.

In: a StudyConfig. Out: Claims, with a judge each. Always: as scripts/replication/claims.py says.
"""

from scripts.replication.comparisons import Claim, compared
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
        f"size {size}, after a curriculum whose stages end when their loss is reached; evaluated as in the papers, at "
    )
    how += "the length that was trained"
    for subject, reference, place in _pairs(config, part):
        first, second = (Group(column, size, 0) for column in (subject, reference))
        for (needles, asked), printed in NEEDLES.items():
            if printed[2] == printed[place]:
                continue  # which claims nothing
            claims.append(
                Claim(
                    name=f"retrieval.needles_{needles}_{asked}.{subject}.{reference}",
                    part="retrieval",
                    sentence=f"{subject} finds more of {asked} asked among {needles} needles than {reference}",
                    source="Shared DIFF, table 4",
                    papers=f"{printed[2]:.2f} and {printed[place]:.2f}",
                    how=how,
                    judge=compared(
                        first, second, f"needles.needles_{needles}_asked_{asked}", "higher", printed[2] - printed[place]
                    ),
                )
            )
        for kind, better in (("answer", "higher"), ("noise", "lower")):
            for depth, printed in ATTENTION[kind].items():
                if printed[2] == printed[place]:
                    continue
                claims.append(
                    Claim(
                        name=f"retrieval.{kind}_{depth}.{subject}.{reference}",
                        part="retrieval",
                        sentence=f"{subject} gives {'more' if better == 'higher' else 'less'} attention to the {kind} "
                        f"at depth {float(depth):.0%} than {reference}",
                        source="Shared DIFF, table 5",
                        papers=f"{printed[2]:.2f} and {printed[place]:.2f}",
                        how=how,
                        judge=compared(
                            first,
                            second,
                            f"attention.{kind}_normalised.{depth}",
                            better,
                            abs(printed[2] - printed[place]),
                        ),
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
                source="Shared DIFF, figure 4 (3B, four data sets)" if place else "beside the papers",
                papers="1.5 to 3.3 % more" if place else "",
                how="classes whose labels are fixed inside a prompt only; labels decoded under constraint",
                judge=compared(first, second, part.measures, "higher", 0.02 if place else None),
            )
        )
        for order, share in (("random", 34), ("alternating", 42)):
            claims.append(
                Claim(
                    name=f"in_context.{order}.{subject}.{reference}",
                    part="in_context",
                    sentence=f"{subject} depends less on the order ({order}) of its demonstrations than {reference}",
                    source="Shared DIFF, figure 5" if place else "beside the papers",
                    papers=f"{share} % less spread" if place else "",
                    how="best minus worst accuracy over orders of the same demonstrations",
                    judge=compared(first, second, f"in_context_orders.trec_{order}_best_minus_worst", "lower", None),
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
    return [
        Claim(
            name=f"noise.{figure}.{column}",
            part="noise",
            sentence=f"{column} {what} than {roles.baseline}",
            source="DIFF, abstract" if column == roles.predecessor else "beside the papers",
            papers="",
            how=f"held-out samples, size {size}, the trained models of scaling",
            judge=compared(Group(column, size, tokens), Group(roles.baseline, size, tokens), figure, "lower", None),
        )
        for figure, what in figures.items()
        for column in part.columns
        if column != roles.baseline
    ]
