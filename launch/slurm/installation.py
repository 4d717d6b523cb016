"""Which interpreter and which packages a job runs: those that submit it, wherever they are installed.

In: the site, and this process. Out: the interpreter's command, and a folder for PYTHONPATH where one is needed.
Always: a job in a container runs the image's own, or the packages of the working folder; `site.setup` chooses the
interpreter by the PATH that it leaves.
"""

import site as site_packages
import sys
import sysconfig
from pathlib import Path

from launch.slurm.site import Site


def interpreter(site: Site) -> str:
    """The command that starts Python in the job: this interpreter, unless the site prepares another."""
    return "python" if site.setup or site.container is not None else sys.executable


def packages_folder(site: Site, working_folder: Path) -> Path | None:
    """The folder that the job must be told of to import these packages; None: its interpreter finds them.

    It does where they are installed for it, and where they lie in the job's working folder.
    """
    folder = Path(__file__).parents[2]
    found = {*site_packages.getsitepackages(), site_packages.getusersitepackages(), sysconfig.get_path("purelib")}
    is_found = folder in {working_folder, *map(Path, found)}
    return None if is_found or site.container is not None else folder
