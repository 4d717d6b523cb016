"""What ranks see inside an image: whatever a run needs and would not find there is refused before it is queued."""

from pathlib import Path

import pytest

from common.errors import InputError
from launch.slurm.container import Container, check_container


class Host:
    """A machine with a project, a home and a run folder, of which a container mounts some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("project", "home", "run", "corpus", "elsewhere"):
            (folder / name).mkdir()
        (folder / "image.sqsh").touch()

    def refused(self, *mounts: str, runtime: str = "pyxis", image: str = "", run: str = "run", data: str = "") -> str:
        """What the check says; mounts are below the folder, each with a place inside, if any."""
        entries = [f"{self.folder}/{mount}" for mount in mounts]
        container = Container(image or f"{self.folder}/image.sqsh", runtime, entries)  # type: ignore[arg-type]
        try:
            check_container(
                container,
                self.folder / "project",
                self.folder / "home",
                self.folder / run,
                [("data.train", Path(data))] if data else [],
            )
        except InputError as error:
            return str(error).replace(str(self.folder), "")
        return ""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr("launch.slurm.container.TEMPORARY", Path("/nowhere"))
    return Host(tmp_path)


@pytest.mark.parametrize("mounts", [["project", "run"], [""], ["project", "run:{}/run:ro"]])
def test_what_is_mounted_where_it_lies_is_seen(host: Host, mounts: list[str]) -> None:
    assert host.refused(*(mount.format(host.folder) for mount in mounts)) == ""


@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        (["project"], "run_dir /run is not seen"),
        (["project", "run:/mnt"], "run_dir /run is not seen"),
        (["project", "ru"], "there is no /ru on this machine"),
        (["run"], "the project /project is not seen"),
    ],
)
def test_what_is_not_is_refused(host: Host, mounts: list[str], said: str) -> None:
    assert said in host.refused(*mounts)


def test_apptainer_mounts_home_and_project_by_itself(host: Host) -> None:
    assert "run_dir /run is not seen" in host.refused(runtime="apptainer")
    assert host.refused(runtime="apptainer", run="home/run") == ""
    assert host.refused(runtime="apptainer", run="project/runs/x") == ""


def test_a_link_that_leads_out_of_what_is_mounted_is_followed(host: Host) -> None:
    (host.folder / "run/out").symlink_to(host.folder / "elsewhere")
    (host.folder / "linked").symlink_to(host.folder / "elsewhere")
    assert "run_dir /elsewhere is not seen" in host.refused("project", "run", run="run/out")
    assert host.refused("project", "run", "elsewhere", run="run/out") == ""
    assert host.refused("project", "linked", run="linked/x") == "", (
        "a mounted link is mounted as the folder it leads to"
    )
    assert "run_dir /elsewhere/x is not seen" in host.refused("project", "run", run="run/../elsewhere/x")


def test_data_may_lie_anywhere_inside(host: Host) -> None:
    mounts = ["project", "run", "corpus:/data"]
    assert host.refused(*mounts, data="/data/train") == ""
    assert "data.train /data/../train is not seen" in host.refused(*mounts, data="/data/../train")
    assert "data.train /corpus is not seen" in host.refused(*mounts, data=f"{host.folder}/corpus")


@pytest.mark.parametrize(
    ("runtime", "image", "missing"),
    [
        ("pyxis", "/no/image", True),
        ("pyxis", "./no.sqsh", True),
        ("pyxis", "nvcr.io#nvidia/pytorch:25.01-py3", False),
        ("apptainer", "images/no.sif", True),
        ("apptainer", "docker://ubuntu:22.04", False),
    ],
)
def test_an_image_that_is_a_file_must_be_there(host: Host, runtime: str, image: str, missing: bool) -> None:
    said = host.refused("project", "run", runtime=runtime, image=image)
    assert said == (f"site.container.image: there is no {image}" if missing else "")
