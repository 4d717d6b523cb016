"""A site's setup: any shell, as long as it is whole by itself and no option of the job."""

import subprocess

import pytest

from common.errors import InputError
from launch.slurm.script import BODY_BEGINS, render
from launch.slurm.setup import check_setup
from launch.slurm.site import Site
from tests.launch.sbatch_reader import read_directives
from tests.launch.test_script import JOB


@pytest.mark.parametrize(
    "setup",
    [
        [],
        ["# only words"],
        ["module load cuda", "source .venv/bin/activate"],
        ["if [ -d /data ]; then", "  export DATA=/data", "fi"],
        ["cat <<'END' > /dev/null\nit's\nEND"],
        ["echo 'two\nlines'"],
        ["module load a \\", "  b"],
        ["export NAME=caf\u00e9"],
        ["# SBATCH is told below"],
    ],
)
def test_shell_that_is_whole_is_taken(setup: list[str]) -> None:
    check_setup(setup)


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (["module 'load"], "bash does not take it"),
        (["if true; then"], "bash does not take it"),
        (["{"], "bash does not take it"),
        (["cat <<END"], "here-document"),
        (["x=$(ls"], "bash does not take it"),
        (["#SBATCH --nodes=9"], "'#SBATCH --nodes=9' is no shell line; options of the job go to site.options"),
        (["# first\n#PBS -l nodes=9"], "'#PBS -l nodes=9' is no shell line"),
    ],
)
def test_what_would_take_the_script_in_or_rule_the_job_is_refused(setup: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        check_setup(setup)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_backslash_at_its_end_takes_no_line_of_the_script_in() -> None:
    text = render(JOB, Site(setup=["true \\"], environment={"SETTING": "kept"}))
    shown = text[: text.index(BODY_BEGINS)] + '\nprintf "%s|" "$SETTING" "$RUN"'
    assert subprocess.run(["bash"], input=shown, capture_output=True, text=True, check=True).stdout == "kept|runs/it's|"


def test_a_setup_of_comments_ends_no_option_early() -> None:
    plain, commented = render(JOB, Site()), render(JOB, Site(setup=["# words"]))
    assert read_directives(plain.encode()) == read_directives(commented.encode())
