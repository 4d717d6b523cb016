"""Texts of the user's in pictures.

In: a name or another text. Out: one that matplotlib draws letter for letter. Always: between two dollars matplotlib
reads a formula, and one that it cannot read is an error.
"""


def literally(text: str) -> str:
    """``text`` for a title, a label or a legend: matplotlib draws an escaped dollar as a dollar."""
    return text.replace("$", r"\$")
