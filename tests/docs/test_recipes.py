"""docs/recipes.md: every recipe is accepted, fits, and has the figures that the planner gives."""

import re
import shlex

import pytest

from launch.preflight import main as preflight
from pretrain.checks import check_run
from pretrain.devices import DEFAULT_DEVICE, DEVICES
from pretrain.plan.cluster import Cluster
from pretrain.plan.memory import most_loaded
from pretrain.plan.plan import USABLE
from pretrain.plan.search import Candidate
from pretrain.plan.time import step_time
from pretrain.topology import plan_topology
from scripts.recipes import PAGE, SIZES, config_of, row
from tests.conftest import ROOT

SECTIONS = re.findall(r"^## configs/shared_diff_(\S+)\.yaml\n(.*?)(?=^## |\Z)", PAGE.read_text(), flags=re.M | re.S)
ROWS = [(size, line) for size, text in SECTIONS for line in re.findall(r"^\| \d.*$", text, flags=re.M)]
CLUSTER = Cluster(DEVICES[DEFAULT_DEVICE])


def read(size: str, line: str) -> Candidate:
    devices = int(line.split("|")[1])
    config = config_of(size, shlex.split(re.findall(r"`(.*)`", line)[0]))
    topology = plan_topology(config.parallel, devices)
    check_run(config, topology)
    return Candidate(config, topology, most_loaded(config, topology), step_time(config, topology, CLUSTER))


def test_every_size_has_recipes_for_one_node_eight_and_sixty_four() -> None:
    assert [size for size, _ in SECTIONS] == list(SIZES)
    assert [line.split("|")[1].strip() for _, line in ROWS] == ["8", "64", "512"] * len(SIZES)


@pytest.mark.parametrize(("size", "line"), ROWS, ids=lambda part: part.split(" | ")[0].strip("| "))
def test_a_recipe_fits_and_has_the_planners_figures(size: str, line: str) -> None:
    candidate = read(size, line)
    assert row(candidate) == line
    assert candidate.memory.total <= USABLE * CLUSTER.device.memory


def test_preflight_accepts_the_largest() -> None:
    size, line = ROWS[-1]
    settings = shlex.split(re.findall(r"`(.*)`", line)[0])
    config = ROOT / f"configs/shared_diff_{size}.yaml"
    assert preflight(["--config", str(config), "--world-size", "512", *settings]) == 0
