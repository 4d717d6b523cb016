"""Values of every kind, put anywhere into a JSON document."""

from typing import Any

from hypothesis import strategies as st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changes(draw: Any) -> list[tuple[list[float], Any]]:
    """Some values anywhere in a JSON document, each at a place that is drawn as the share of the way at every level."""
    places = st.lists(st.floats(0, 0.999), min_size=1, max_size=4)
    change: list[tuple[list[float], Any]] = draw(st.lists(st.tuples(places, VALUES), min_size=1, max_size=3))
    return change


def changed(document: Any, place: list[float], value: Any) -> Any:
    """``document`` with ``value`` at a place that is drawn as the share of the way at every level; () takes it out."""
    if not place or not isinstance(document, dict | list) or not document:
        return value
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = keys[int(place[0] * len(keys))]
    copy: Any = document.copy()
    copy[key] = changed(document[key], place[1:], value)
    if copy[key] == ():
        del copy[key]
    return copy
