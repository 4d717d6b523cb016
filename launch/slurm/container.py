"""The image that ranks run in, and what of the host is seen inside.

In: a site's container section. Out: a checked, frozen Container, or what a run needs and cannot see in it.
Always: a run folder that is not seen is refused: what is written to it would be lost with the container.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path
from typing import Literal

from common.errors import InputError

TEMPORARY = Path("/tmp")


@dataclass(frozen=True)
class Container:
    """The image that ranks run in."""

    image: str
    """path or URL of the image"""
    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """srun's pyxis plugin, or apptainer"""
    mounts: list[str] = field(default_factory=list)
    """folders of the host to see inside, as in /data or /data:/mnt"""

    def __post_init__(self) -> None:
        if not self.image.strip() or self.image.startswith("-"):
            raise InputError(f"site.container.image: must be the path or URL of an image, is {self.image!r}")
        for mount in self.mounts:
            parts = mount.split(":")
            if "," in mount or len(parts) > 3 or not all(part.startswith("/") for part in parts[:2]):
                raise InputError(
                    f"site.container.mounts: must be /FOLDER, /FOLDER:/INSIDE or /FOLDER:/INSIDE:FLAGS, each an entry "
                    f"of the list and without a comma, is {mount!r}"
                )

    @property
    def image_is_a_file(self) -> bool:
        """Whether ``image`` is a path, as the runtime reads it, and no address of a registry."""
        return "://" not in self.image if self.runtime == "apptainer" else self.image.startswith(("/", "."))

    @property
    def places(self) -> list[tuple[Path, Path]]:
        """Every mount's folder of the host, and where it is inside."""
        parts = [mount.split(":") for mount in self.mounts]
        return [(Path(outside), Path((*inside, outside)[0])) for outside, *inside in parts]


def check_container(
    container: Container,
    project: Path,
    home: Path,
    run_folder: Path,
    inside: Sequence[tuple[str, Path]] = (),
) -> None:
    """Looks at the image and the mounts from this machine, whose file systems the nodes are taken to share.

    ``inside``: settings, and other paths that the ranks open. Project and run folder must lie inside where they lie
    outside, for the job script is outside. Apptainer mounts the home, the project and /tmp by itself.

    Raises:
        InputError: what is not there, or not seen.
    """
    if container.image_is_a_file and not Path(container.image).exists():
        raise InputError(f"site.container.image: there is no {container.image}")
    for outside, _ in container.places:
        if not outside.exists():
            raise InputError(f"site.container.mounts: there is no {outside} on this machine")
    own = [home, project, TEMPORARY] if container.runtime == "apptainer" else []
    same = [*own, *(outside for outside, place in container.places if outside == place)]
    moved = [place for outside, place in container.places if outside != place]
    elsewhere = [entry for entry in inside if not any(_within(entry[1], folder) for folder in moved)]
    for setting, path in [("the project", project), ("run_dir", run_folder), *elsewhere]:
        for needed in _needed(path.absolute(), same):
            if not any(needed.is_relative_to(folder) for folder in same):
                raise InputError(
                    f"site.container.mounts: {setting} {needed} is not seen in the container; add it, or a folder "
                    "above it, as an entry without another place inside"
                )


def _within(path: Path, folder: Path) -> bool:
    return Path(normpath(path.absolute())).is_relative_to(folder)


def _needed(path: Path, mounted: Sequence[Path]) -> list[Path]:
    """``path``, and where links below a mounted folder lead it to."""
    real = path.resolve()
    if any(path.is_relative_to(folder) and real.is_relative_to(folder.resolve()) for folder in mounted):
        return [path]
    return list(dict.fromkeys((path, real)))
