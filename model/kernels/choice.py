"""The choice of kernels: made once, when a model is built.

In: a Case, and what the user asks for. Out: Kernels. Always: what was measured on such a device decides; elsewhere the
conservative form is taken, and it says so; what the user asks for is taken or refused, never replaced.
"""

from collections.abc import Mapping

from common.errors import InputError, named
from model.kernels.forms.base import Case, Form
from model.kernels.forms.registry import FORMS, form_named
from model.kernels.kept import Kernels
from model.kernels.rowwise.choice import choose_rowwise
from model.kernels.table import measured

CONSERVATIVE = ("flash2", "sdpa")
"""where nothing was measured: the first that can be used"""
AUTO = "auto"


def choose_kernels(case: Case, attention: str = AUTO, rowwise: Mapping[str, str] | None = None) -> Kernels:
    """The kernels for a model like ``case``.

    Args:
        attention: name of a form, or "auto".
        rowwise: of operations, the name of an implementation, or "auto".

    Raises:
        InputError: the form is unknown, or cannot serve the case.
    """
    note = None
    if attention != AUTO:
        with named("train.attention_form"):
            form = _wanted(case, attention)
    else:
        form, note = _best(case)
    chosen = choose_rowwise(case.machine, case.dtype, rowwise or {})
    return Kernels(form, chosen, notes=() if note is None else (note,))


def _wanted(case: Case, name: str) -> Form:
    form = form_named(name)
    reason = form.refusal(case)
    if reason is not None:
        usable = ", ".join(other.name for other in FORMS if other.refusal(case) is None)
        raise InputError(f"{name} {reason}; usable here: auto, {usable}")
    return form


def _best(case: Case) -> tuple[Form, str | None]:
    """The form, and what is to be said about it."""
    row = measured(case)
    if row is not None and form_named(row.form).refusal(case) is None:
        return form_named(row.form), None
    form = next(form for form in map(form_named, CONSERVATIVE) if form.refusal(case) is None)
    if row is not None:
        return form, f"attention form {row.form} is faster on {case.machine.name}: {form_named(row.form).refusal(case)}"
    return form, f"attention forms were not measured on {case.machine.name}: {form.name} is the conservative choice"
