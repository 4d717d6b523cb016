"""`make test-slurm`: one cluster for all tests here. Without `-m slurm`, or without root or Slurm, nothing runs."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing_binaries
from tests.slurm.runs import Site


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("markexpr"):  # then the mark decides
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="make test-slurm runs it"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes: two for the run and a spare one."""
    if os.geteuid() != 0 or missing_binaries():
        pytest.exit(f"the Slurm tests need root and {', '.join(missing_binaries()) or 'nothing else'}", returncode=2)
    folder = Path(tempfile.mkdtemp(prefix="lab", dir="/tmp"))  # short: it holds a socket
    cluster = Cluster(folder, nodes=3)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def site(cluster: Cluster) -> Site:
    return Site(cluster)


@pytest.fixture(autouse=True)
def healed(cluster: Cluster) -> Iterator[None]:
    """Every test finds all nodes idle, and leaves no job."""
    cluster.heal()
    yield
    cluster.slurm("scancel", "--user=root")
    cluster.slurm("scancel", "--user=nobody")
    cluster.wait_for(lambda: not cluster.slurm("squeue", "--noheader"), "the queue to be empty", seconds=60)
