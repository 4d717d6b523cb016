"""The claims of the papers about losses and about copying, as comparisons of cells.

In: a StudyConfig. Out: Claims, with a judge each. Always: the papers' figures are those printed in them (Shared DIFF
Transformer, section 3; DIFF Transformer, abstract), and a claim that they put no figure to has none here; a comparison
is made at the largest size and the largest number of tokens of its part, unless it says which.
"""

from collections.abc import Callable

from scripts.replication.cells import PLAIN
from scripts.replication.claims_in_context import in_context_claims, noise_claims, retrieval_claims
from scripts.replication.comparisons import BESIDE, LOSS, Claim, Printed, comparison, saving
from scripts.replication.config import StudyConfig
from scripts.replication.tables import STEPS, Group

SAVED = {("parameters", "baseline"): 40, ("parameters", "predecessor"): 24, ("tokens", "baseline"): 30,
         ("tokens", "predecessor"): 11}  # fmt: skip
"""per cent, Shared DIFF Transformer, section 3.2"""
HIT = "validation_ar_hit_loss"


def claims_of(config: StudyConfig) -> list[Claim]:
    """All claims about the parts that the study has."""
    makers: dict[str, Callable[[StudyConfig], list[Claim]]] = {
        "scaling": scaling_claims,
        "ablations": ablation_claims,
        "copying": copying_claims,
        "retrieval": retrieval_claims,
        "in_context": in_context_claims,
        "noise": noise_claims,
    }
    return [claim for part in config.parts if part.name in makers for claim in makers[part.name](config)]


def scaling_claims(config: StudyConfig) -> list[Claim]:
    """Figure 2: fewer parameters, fewer tokens for the same loss."""
    part, roles = config.part("scaling"), config.roles
    size, tokens = part.sizes[-1], part.tokens[-1]
    how = {
        "parameters": f"power laws over {len(part.sizes)} sizes (parameters without the embedding) at {tokens:,} "
        "tokens, each seed by itself, read at the largest size of the reference",
        "tokens": f"power laws over {len(part.tokens)} numbers of tokens at size {size}, each a run with a schedule of "
        "its own, each seed by itself, read at the largest number",
    }
    claims = []
    for subject in [*roles.subjects, *roles.others]:
        for axis in ("parameters", "tokens"):
            for role, reference in (("baseline", roles.baseline), ("predecessor", roles.predecessor)):
                papers = SAVED[axis, role] if subject in roles.subjects else None
                claims.append(
                    Claim(
                        name=f"scaling.{axis}.{subject}.{reference}",
                        part="scaling",
                        sentence=f"{subject} reaches the loss of {reference} with fewer {axis}",
                        source="Shared DIFF, figure 2" if papers else BESIDE,
                        papers=f"{papers} % fewer" if papers else "",
                        how=how[axis],
                        judge=saving(subject, reference, axis, part, papers / 100 if papers else None),
                    )
                )
    return claims


TABLE_6 = "Shared DIFF, table 6"
ABLATED = {
    # variant, by role: loss of the default, and with the variant
    ("no_head_norm", "predecessor"): (3.062, 3.122),
    ("lambda_0.8", "predecessor"): (3.062, 3.065),
    ("lambda_0.5", "predecessor"): (3.062, 3.066),
    ("no_head_norm", "subject"): (3.057, 3.110),
    ("lambda_0.8", "subject"): (3.057, 3.060),
    ("lambda_0.5", "subject"): (3.057, 3.059),
}


def ablation_claims(config: StudyConfig) -> list[Claim]:
    """Table 6: what the head norm and the default of lambda are worth; Shared DIFF beside DIFF; AR-hits."""
    part, roles = config.part("ablations"), config.roles
    size, tokens = part.sizes[-1], part.tokens[-1]
    how = f"held-out loss at size {size}, {tokens:,} tokens, the rates of scaling's sweep"

    def group(column: str, variant: str = PLAIN) -> Group:
        return Group(column, size, tokens, variant)

    subject = roles.subjects[0]
    claims = []
    for variant in part.variants:
        for column in config.variant(variant).columns:
            found = ABLATED.get((variant, "subject" if column in roles.subjects else "predecessor"))
            claims.append(
                comparison(
                    f"ablations.{variant}.{column}",
                    f"{column} as it is learns more than with {variant}",
                    how,
                    (group(column), group(column, variant)),
                    LOSS,
                    "lower",
                    Printed(TABLE_6, *found, digits=3) if found else None,
                )
            )
    for figure, papers in ((LOSS, (3.057, 3.062)), (HIT, (0.876, 0.880))):
        claims.append(
            comparison(
                f"ablations.{figure}.{subject}.{roles.predecessor}",
                f"{subject} has a lower {figure.replace('_', ' ')} than {roles.predecessor}",
                how,
                (group(subject), group(roles.predecessor)),
                figure,
                "lower",
                Printed(TABLE_6, *papers, digits=3),
            )
        )
    return claims


def copying_claims(config: StudyConfig) -> list[Claim]:
    """Not a claim of the papers, but what may stand behind theirs about retrieval: who learns to copy sooner."""
    part, roles = config.part("copying"), config.roles
    how = (
        f"steps to a held-out loss of {part.targets[0]:g} on digits that repeat, evaluated every few steps at a "
        "constant rate, the best of the column's own sweep; a seed that did not get there counts as the bound"
    )
    pairs = [
        (column, reference)
        for column in [*roles.subjects, *roles.others, roles.predecessor]
        for reference in dict.fromkeys((roles.baseline, roles.predecessor))
        if column != reference and {column, reference} <= set(part.columns)
    ]
    return [
        comparison(
            f"copying.{size}.{column}.{reference}",
            f"{column} learns to copy in fewer steps than {reference} (size {size})",
            how,
            (Group(column, size, 0), Group(reference, size, 0)),
            f"{STEPS}{part.targets[0]:g}",
            "lower",
        )
        for size in part.sizes
        for column, reference in pairs
    ]
