"""Hostile names of run folders in `evaluation.command`, judged by the shell that runs it.

Right is the name as it is, in the one place that the template names, whatever quotes stand around it; or one line.
"""

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from pretrain.evaluation_command import check_command, shell_code
from tests.fuzz.rules import answer, fuzz

PIECES = [
    *("'", '"', "\\", "$", "`", ";", "|", "&", "<", ">", "(", ")", "{", "}", "[", "]", "*", "?", "~", "#", "!", "%"),
    *("=", " ", "\t", "a\nb", "é", "a", "-", "..", "$(touch hacked)", "`touch hacked`", "; touch hacked;", "${IFS}"),
    *("{run}", "{step}", "{checkpoint}", "$PRETRAIN_STEP", "'; touch hacked; '", '"; touch hacked; "', "\\'"),
]
NAME = st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join)
SHOW = "printf '%s\\0'"
TEMPLATES = {
    "{show} {run}": ["RUN"],
    '{show} "{run}"': ["RUN"],
    "{show} '{run}'": ["RUN"],
    "{show} --run={run}/x {step}": ["--run=RUN/x", "7"],
    '{show} "it\'s {run}" \'a "{step}"\'': ["it's RUN", 'a "7"'],
    "{show} '{run}'\"{run}\"{run}": ["RUNRUNRUN"],
    '{show} "$(printf %s. "{run}")"': ["RUN."],
    '{show} "$(printf %s. {run})" {run}': ["RUN.", "RUN"],
    '{show} "`printf %s. {run}`"': ["RUN."],
    "({show} {run}) && {show} $((1 + 2)) {run}": ["RUN", "3", "RUN"],
    "# it's a comment\n{show} {run} # it's one, too": ["RUN"],
    "{show} a#it {run}": ["a#it", "RUN"],
    '{show} \\"{run}\\\' "\\"{run}"': ["\"RUN'", '"RUN'],
    "{show} \\{run} {run}": ["{run}", "RUN"],
    "{show} {run}{checkpoint}": ["RUNRUN/checkpoints/step_00000007"],
    '{show} "${PRETRAIN_RUN}" "$PRETRAIN_STEP"': ["RUN", "7"],
    'x=a; case $x in a) {show} "{run}" ;; esac': ["RUN"],
}
READ_AGAIN = [
    "sh -c 'echo {run}'",
    'bash -lc "cd {run}; ls"',
    "bash -c {run}/evaluate.sh",
    "sbatch --wrap='python evaluate.py {checkpoint}'",
    'sbatch --wrap "python evaluate.py {checkpoint}"',
    "python -c 'print(\"{run}\")'",
    "ssh other python evaluate.py {run}",
    "eval echo {run}",
    "trap 'rm {run}/x' EXIT; true",
    "echo evaluate {run} | sh",
    "echo evaluate {run} | /bin/bash -s && true",
    'printf "evaluate %s" "{run}" | bash',
]
NOT_AGAIN = [
    "tar c {run} | bash evaluate.sh",
    "ls {run} | tee list.sh",
    "echo {run} | sort",
    "fish.sh {run}",
    "sh {run}/e.sh",
]


@given(name=NAME, template=st.sampled_from(sorted(TEMPLATES)))
@fuzz(quick=400, long=2500)
def test_the_name_arrives_as_it_is_and_nothing_of_it_is_run(name: str, template: str) -> None:
    run = f"runs/{name}"
    command = template.replace("{show}", SHOW)
    check_command(command, Path(run))
    variables = {
        "PATH": "/usr/bin:/bin",
        "PRETRAIN_RUN": run,
        "PRETRAIN_CHECKPOINT": f"{run}/checkpoints/step_00000007",
        "PRETRAIN_STEP": "7",
    }
    with tempfile.TemporaryDirectory() as folder:
        shown = subprocess.run(
            ["/bin/sh", "-c", shell_code(command)], env=variables, cwd=folder, capture_output=True, check=True
        )
        assert not list(Path(folder).iterdir())
    assert shown.stderr == b""
    expected = [text.replace("RUN", run) for text in TEMPLATES[template]]
    assert shown.stdout.decode().split("\0")[:-1] == expected


@pytest.mark.parametrize("template", READ_AGAIN)
def test_a_name_that_a_second_shell_would_read_as_code_is_refused(template: str) -> None:
    check_command(template, Path("/shared/runs/first-1.5_b"))
    for name in ("a b", "x; touch hacked", "$(id)", "it's"):
        with pytest.raises(InputError, match="to a second shell or interpreter"):
            check_command(template, Path("/shared/runs") / name)


@pytest.mark.parametrize("template", NOT_AGAIN)
def test_a_name_that_is_read_as_text_is_taken(template: str) -> None:
    check_command(template, Path("/shared/runs/a b"))


@given(
    template=st.lists(st.sampled_from([*PIECES, "sh", " -c ", "<<E", "\0", "\udc80", "\n"]), max_size=9).map("".join)
)
@fuzz(quick=300, long=2500)
def test_any_template_is_shell_code_or_one_line(template: str) -> None:
    answer(lambda: check_command(template, Path("runs/a b")))
