"""What is installed from a wheel does what the tree does, from any other folder; what is imported is declared.

In:     setup.py and the rooms of the tree.
Out:    nothing.
Always: one wheel is built for all tests, from a copy of the tree, without a network; the interpreters that use it do
not see the tree.
"""

import ast
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement

from launch.slurm.installation import interpreter, packages_folder
from launch.slurm.site import Site
from tests.launch.test_batch_script import FINISH
from tests.old.runs import KEPT, MADE

TREE = Path(__file__).parents[1]
ROOMS = ("common", "data", "model", "pretrain", "launch", "scripts")
IMPORTED_AS = {"flash-attn": "flash_attn", "lm-eval": "lm_eval", "pyyaml": "yaml", "megatron-core": "megatron"}
"""packages whose module has another name, beside those whose hyphen is an underscore"""
USED_BY_OTHERS = {
    "accelerate": "lm-eval loads models with it",
    "pytablewriter": "lm-eval prints its table with it",
    "s3fs": "fsspec opens s3:// with it",
    "tensorboard": "torch.utils.tensorboard writes with it",
    "flask": "moto's server is made of it",
    "flask-cors": "moto's server is made of it",
}
NOT_ON_PYPI = {
    "apex": "NVIDIA's, built from source; the package of that name is another project",
    "flash_attn_interface": "flash-attn 3, built from source",
}
BIN = {
    "sinfo": "printf 'main* 3\\n'",
    "sbatch": "case $1 in --parsable) echo 17 ;; esac",
    "squeue": "echo RUNNING",
    "scontrol": "case $1 in show) echo node1 ;; requeue) exit 1 ;; esac",
    # The rank's part: where does the interpreter of the step find the packages?
    "srun": 'while [ "$2" != -m ]; do shift; done; "$1" -c "import launch.rank as m; print(m.__file__)" >"$HOME/rank"; '
    f'A="$RUN/attempts/0001"; {FINISH}',
}


@dataclass(frozen=True)
class Installed:
    """A wheel in a folder of its own."""

    wheel: Path
    folder: Path

    def python(self, *arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs an interpreter that sees the installed packages and the libraries, but no tree that is being edited."""
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": f"{self.folder}:{sysconfig.get_path('purelib')}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("installed")
    for room in ROOMS:
        copytree(TREE / room, tree / room, ignore=ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        copy(TREE / name, tree)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", tree / "dist", tree], check=True)
    (wheel,) = (tree / "dist").iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder, wheel], check=True)
    return Installed(wheel, folder)


def test_a_wheel_holds_every_file_of_the_rooms(installed: Installed) -> None:
    """All code, the marker of types of each room, and what the code reads beside itself."""
    expected = {
        str(path.relative_to(TREE))
        for room in ROOMS
        for path in (TREE / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(installed.wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {"launch/slurm/pretrain.sbatch", "launch/slurm/site.yaml", *(f"{room}/py.typed" for room in ROOMS)} <= held


def test_it_submits_a_slurm_job_whose_ranks_find_it(installed: Installed, tmp_path: Path) -> None:
    """From a folder that holds a config and nothing else; the job runs in the little that sbatch lets into it."""
    commands, here, run = tmp_path / "bin", tmp_path / "here", tmp_path / "run"
    commands.mkdir()
    here.mkdir()
    for name, lines in BIN.items():
        (commands / name).write_text(f"#!/bin/bash\n{lines}\n")
        (commands / name).chmod(0o755)
    copy(TREE / "configs/debug_cpu.yaml", here / "mine.yaml")
    path = f"{commands}:/usr/bin:/bin"
    submit = ["-m", "launch", "slurm", "--nodes=1", "--config=mine.yaml", f"--run-dir={run}", "--tries=1"]
    said = installed.python(*submit, "--site.processes_per_node=2", "--site.cpus_per_task=2", cwd=here, PATH=path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("job 17: ")

    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node1", "SLURM_NNODES": "1", "RUN": str(run)}
    passed = {"HOME": str(tmp_path), "USER": "me", "PATH": path, "LANG": "C.UTF-8"}
    ended = subprocess.run(
        ["bash", run / "job.sbatch"], cwd=here, env=passed | job, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (
        0,
        f"[launch] attempt 1 of {run}: job 17 on node1\n[launch] all done: finished\n",
    )
    assert (tmp_path / "rank").read_text().strip() == str(installed.folder / "launch/rank.py")


def test_it_exports_and_brings_the_modelling_code_along(installed: Installed, tmp_path: Path) -> None:
    source, output = MADE / "shared_diff", tmp_path / "export"
    arguments = [f"--run={source / 'run'}", f"--output={output}", f"--tokenizer={MADE / 'corpus/train'}"]
    said = installed.python("-m", "scripts.export", *arguments, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert f"exported step {KEPT}" in said.stdout
    for name in ("modeling_shared_diff.py", "configuration_shared_diff.py"):
        assert (output / name).read_bytes() == (TREE / "scripts/hub" / name).read_bytes()


def test_a_site_that_is_missing_is_told_where_to_find_an_example(installed: Installed, tmp_path: Path) -> None:
    copy(TREE / "configs/debug_cpu.yaml", tmp_path)
    said = installed.python("-m", "launch", "slurm", "--nodes=1", "--config=debug_cpu.yaml", cwd=tmp_path)
    assert said.returncode == 2
    assert f"copy {installed.folder}/launch/slurm/site.yaml, or set" in said.stderr


def test_the_job_runs_the_interpreter_that_submits_it_unless_the_site_prepares_one() -> None:
    assert interpreter(Site()) == sys.executable
    assert interpreter(Site(setup=["source .venv/bin/activate"])) == "python"


def test_the_job_is_told_of_the_packages_only_where_it_would_not_find_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert packages_folder(Site(), tmp_path) == TREE
    assert packages_folder(Site(), TREE) is None
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(TREE))
    assert packages_folder(Site(), tmp_path) is None


def test_every_library_that_is_imported_is_declared_and_every_declared_one_is_imported() -> None:
    """The rooms import what an installation brings; `scripts`, and what is optional on GPUs, an extra as well."""
    needed = declared()
    always = needed.pop("")
    imported = {room: set(third_party_imports(TREE / room)) for room in ROOMS}
    for room, names in imported.items():
        allowed = (
            always | needed["gpu"] | set(NOT_ON_PYPI) | (needed["eval"] | needed["lab"] if room == "scripts" else set())
        )
        assert names <= allowed, room
    anywhere = set().union(*imported.values())
    used = anywhere | {module_of(name) for name in USED_BY_OTHERS}
    assert always | needed["gpu"] | needed["eval"] | needed["s3"] | needed["lab"] <= used
    assert not anywhere & {module_of(name) for name in USED_BY_OTHERS}


def test_the_tests_import_what_an_installation_for_developers_brings() -> None:
    needed = declared()
    assert set(third_party_imports(TREE / "tests")) <= needed[""] | needed["eval"] | needed["lab"] | needed["dev"]


def declared() -> dict[str, set[str]]:
    """The modules that setup.py asks for, by extra; "": always."""
    told = subprocess.run(
        [sys.executable, "-c", PRINT_REQUIREMENTS], cwd=TREE, check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, set[str]] = {}
    for line in told.splitlines():
        extra, _, requirement = line.partition("\t")
        found.setdefault(extra, set()).add(module_of(Requirement(requirement).name))
    return found


PRINT_REQUIREMENTS = """
import runpy, setuptools
def show(install_requires, extras_require, **_):
    for extra, names in {"": install_requires, **extras_require}.items():
        for name in names:
            print(extra, name, sep="\\t")
setuptools.setup = show
runpy.run_path("setup.py")
"""


def module_of(package: str) -> str:
    """What ``package`` is imported as."""
    return IMPORTED_AS.get(package, package.replace("-", "_"))


def third_party_imports(folder: Path) -> Iterator[str]:
    """Top-level modules that files below ``folder`` import, and that are neither Python's nor rooms."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            tops = {name.partition(".")[0] for name in names}
            yield from tops - {*sys.stdlib_module_names, *ROOMS, "tests"}
