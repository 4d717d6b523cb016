"""Whoever installs the rooms gets their types.

In:     setup.py and the rooms of the tree.
Out:    nothing.
Always: each room has the marker of PEP 561 (its subpackages are covered by it), and a build copies it.
"""

import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).parents[1]
ROOMS = ("common", "data", "model", "pretrain", "launch", "scripts")


def test_a_build_carries_the_marker_of_every_room(tmp_path: Path) -> None:
    build = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build_py", "-d", str(tmp_path / "lib")]
    subprocess.run(build, cwd=TREE, check=True, capture_output=True)
    assert {path.parent.name for path in (tmp_path / "lib").glob("*/py.typed")} == set(ROOMS)
