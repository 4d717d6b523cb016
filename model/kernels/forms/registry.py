"""Every form of attention, by name.

In: a name. Out: a Form. Always: an unknown name is an error, never a default.
"""

from common.errors import InputError, nearest
from model.kernels.forms.arrangements import Grouped, Halves, Wide
from model.kernels.forms.base import Form
from model.kernels.forms.explicit import Explicit
from model.kernels.forms.flash2 import Flash2
from model.kernels.forms.flash3 import Flash3
from model.kernels.forms.flash4 import Flash4
from model.kernels.forms.flex import Flex
from model.kernels.forms.fused import Fused
from model.kernels.forms.sdpa import Sdpa

FORMS: tuple[Form, ...] = (
    Fused(),
    Grouped(Flash2()),
    Halves(Flash2()),
    Grouped(Flash3()),
    Halves(Flash3()),
    Wide(Flash3()),
    Grouped(Flash4()),
    Wide(Flex()),
    Explicit(),
    Grouped(Sdpa()),
)


def form_named(name: str) -> Form:
    """The form called ``name``.

    Raises:
        InputError: there is none.
    """
    found = next((form for form in FORMS if form.name == name), None)
    if found is None:
        known = form_names()
        raise InputError(f"expected auto or one of {', '.join(known)}, is {name!r}{nearest(name, known)}")
    return found


def form_names() -> list[str]:
    """The names of all forms."""
    return [form.name for form in FORMS]
