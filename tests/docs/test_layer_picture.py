"""docs/layer.svg shows a layer's forward exchanges as they are, and is a picture that stands alone."""

from xml.etree import ElementTree

from model.communication import layer_communication
from model.config import ModelConfig
from model.split import Split
from tests.conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"
PICTURE = ElementTree.parse(ROOT / "docs/layer.svg").getroot()
TWO_RANKS = Split(tensor_size=2, sequence_parallel=False, micro_size=3, sequence_length=5, element_bytes=4)


def test_the_bars_between_the_ranks_are_the_exchanges_of_a_layer() -> None:
    drawn = [(bar.get("data-operation"), bar.get("data-purpose")) for bar in PICTURE.iter(f"{SVG}g")]
    forward = layer_communication(ModelConfig(), TWO_RANKS)["block"].forward
    assert [bar for bar in drawn if bar != (None, None)] == [(one.operation, one.purpose) for one in forward]


def test_it_asks_for_no_other_file_and_says_what_it_shows() -> None:
    assert PICTURE.find(f"{SVG}title") is not None and PICTURE.find(f"{SVG}desc") is not None
    ids = {element.get("id") for element in PICTURE.iter()}
    for use in PICTURE.iter(f"{SVG}use"):
        target = use.get("href")
        assert target is not None and target.removeprefix("#") in ids
    assert not list(PICTURE.iter(f"{SVG}image"))


def test_it_has_colours_for_light_and_for_dark_pages() -> None:
    style = PICTURE.find(f"{SVG}style")
    assert style is not None and style.text is not None
    light, dark = style.text.split("@media (prefers-color-scheme: dark)")
    coloured = [line.split("{")[0].strip() for line in light.splitlines() if "#" in line.split("url")[0]]
    assert coloured and all(name in dark for name in coloured)
