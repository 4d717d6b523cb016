"""The image that ranks run in, and what of the host is seen inside.

In: a site's container section. Out: a checked, frozen Container, and whether a folder of the host is seen in it.
Always: a run folder that is not seen is refused: what is written to it would be lost with the container.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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

    def sees(self, folder: Path) -> bool:
        """Whether ``folder`` is mounted where it lies on the host."""
        for mount in self.mounts:
            outside, inside = (Path(part) for part in (*mount.split(":"), mount.split(":")[0])[:2])
            if outside == inside and folder.is_relative_to(outside):
                return True
        return False


def check_container(container: Container, needed: Sequence[tuple[str, Path]], home: Path, project: Path) -> None:
    """Looks at the image and the mounts from this machine, whose file systems the nodes are taken to share.

    ``needed``: settings, and the folders that must be seen inside. Apptainer mounts the home, the project and /tmp
    by itself.

    Raises:
        InputError: what is not there, or not seen.
    """
    if not re.match(r"[a-z]+[a-z+.-]*:|[^/.]", container.image) and not Path(container.image).exists():
        raise InputError(f"site.container.image: there is no {container.image}")
    for mount in container.mounts:
        if not Path(mount.partition(":")[0]).exists():
            raise InputError(f"site.container.mounts: there is no {mount.partition(':')[0]} on this machine")
    own = [home, project, TEMPORARY] if container.runtime == "apptainer" else []
    for setting, folder in needed:
        for path in dict.fromkeys((folder.absolute(), folder.resolve())):  # a link may lead out of what is mounted
            if not container.sees(path) and not any(path.is_relative_to(place) for place in own):
                raise InputError(
                    f"site.container.mounts: {setting} {path} is not seen in the container; add it, or a folder above "
                    "it, as an entry without another place inside"
                )
