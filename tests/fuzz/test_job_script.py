"""Hostile names, folders, settings and arguments in a Slurm job script, judged by bash and by sbatch's own rules.

Right is a script in which every value arrives as it was, at srun and at sbatch, or one line.
"""

import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from hypothesis import example, given
from hypothesis import strategies as st

from launch.slurm.container import Container
from launch.slurm.script import Job, render
from launch.slurm.site import Site
from tests.fuzz.rules import answer, fuzz
from tests.launch.sbatch_reader import read_directives

PIECES = [
    *("'", '"', "\\", "$", "`", ";", "|", "&", "<", ">", "(", ")", "{", "}", "[", "]", "*", "?", "~", "#", "!", "%"),
    *("=", ":", " ", "\t", "\n", "\r", "\0", "\x85", "\u2028", "\udc80", "é", "a", "B", "7", "-", "--", "/", "."),
    *("#SBATCH --nodes=9", "$(touch hacked)", "%j", "\n#SBATCH --wrap=id\n", "' ; touch hacked ; '", "EOF", "\\n"),
]
PRINTABLE = [piece for piece in PIECES if piece.isprintable()]
TEXT = st.sampled_from([PRINTABLE] * 9 + [PIECES]).flatmap(
    lambda pieces: st.lists(st.sampled_from(pieces), min_size=1, max_size=8).map("".join)
)
PLAIN_NAMES = st.sampled_from(["comment", "constraint", "reservation", "mail-user", "gres"])


RECORD = 'printf "%s\\0" "${0##*/}" "$#" "$@" >>"$SEEN"\n'
COMMANDS = {
    "srun": RECORD + 'while [ "${1::1}" = - ]; do shift; done; exec "$@"',
    "apptainer": RECORD + 'while [ "$1" != python ]; do shift; done; exec "$@"',
    "python": RECORD
    + 'case "$3" in begin) echo 1 ;; conclude) echo finished ;; *) printenv -0 SETTING >"$SEEN.s" ;; esac',
    "scontrol": "echo node1; echo node2",
    "sinfo": "true",
    "squeue": "true",
}


def run_whole(script: str) -> tuple[list[list[str]], str]:
    """Runs the job script in bash with Slurm's commands replaced: every command that it called, and $SETTING."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        (folder / "here").mkdir()
        for command, lines in COMMANDS.items():
            path = folder / "bin" / command
            path.write_text(f"#!/bin/bash\n{lines}\n")
            path.chmod(0o755)
        environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "SEEN": f"{folder}/seen", "SLURM_JOB_ID": "7"}
        environment |= {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
        (folder / "script").write_bytes(script.encode())
        ended = subprocess.run(
            ["bash", str(folder / "script")], capture_output=True, cwd=folder / "here", env=environment, check=True
        )
        assert ended.stdout + ended.stderr == b""
        assert not list((folder / "here").iterdir())
        fields = (folder / "seen").read_bytes().decode().split("\0")[:-1]
        calls = []
        while fields:
            count = int(fields[1])
            calls.append([fields[0], *fields[2 : 2 + count]])
            fields = fields[2 + count :]
        return calls, (folder / "seen.s").read_bytes().decode()[:-1]


@given(
    name=TEXT,
    folder=TEXT,
    argument=TEXT,
    value=TEXT,
    mount=TEXT,
    option=PLAIN_NAMES,
    runtime=st.sampled_from(["pyxis", "apptainer"]),
)
@example("a\\b", "it's 100%", "\n#SBATCH --nodes=9", "two words", "a", "comment", "pyxis")
@example("-n", "../..", "$(touch hacked)", "`touch hacked`", "a b", "comment", "apptainer")
@fuzz(quick=60, long=2500)
def test_every_value_arrives_as_it_was_or_is_refused_in_one_line(
    name: str, folder: str, argument: str, value: str, mount: str, option: str, runtime: Literal["pyxis", "apptainer"]
) -> None:
    run = Path(folder)

    def script() -> str:
        site = Site(
            partition=value,
            environment={"SETTING": value},
            options=[f"--{option}={value}"],
            container=Container(image=f"/images/{mount}", mounts=[f"/{mount}"], runtime=runtime),
        )
        return render(Job(name, 2, run, ["--name", name, argument], Path("/tmp")), site)

    text, refused = answer(script)
    if text is None:
        assert refused
        return
    calls, setting_seen = run_whole(text)
    assert setting_seen == value
    inside = (
        ["srun", f"--container-image=/images/{mount}", f"--container-mounts=/{mount}", "--container-workdir=/tmp"]
        if runtime == "pyxis"
        else ["apptainer", "exec", f"--bind=/{mount}", f"/images/{mount}", "python"]
    )
    assert [call[: len(inside)] for call in calls if call[0] == inside[0]] == [inside] * 3
    begin, train, conclude = ([*call[1:]] for call in calls if call[0] == "python")
    assert begin == ["-m", "launch", "begin", f"--run={run}", "--tries", "3", "--nodes=node1\nnode2"]
    torchrun = ["-m", "launch", "torchrun", "--processes", "1", f"--run={run}", "--", "launch.rank"]
    assert train == [*torchrun, "--name", name, argument]
    assert conclude[:4] == ["-m", "launch", "conclude", f"--run={run}"]
    directives = read_directives(text.encode())
    assert [entry.partition(b"=")[0] for entry in directives] == [
        *(b"--job-name", b"--chdir", b"--nodes", b"--ntasks-per-node", b"--partition", b"--signal", b"--open-mode"),
        *(b"--output", b"--export", b"--requeue", f"--{option}".encode()),
    ]
    said = dict(entry.partition(b"=")[::2] for entry in directives)
    assert said[b"--job-name"] == name.encode()
    assert said[b"--partition"] == value.encode()
    assert said[b"--output"].replace(b"%%", b"") == str(run / "logs/run.log").replace("%", "").encode()
    assert said[b"--output"].count(b"%") == 2 * str(run).count("%")
    option_seen = said[f"--{option}".encode()].decode()
    assert option_seen in {value, value.rstrip(), value.strip()} or shlex.split(value) == [option_seen]


@given(
    option=st.tuples(st.sampled_from(["--comment", "--comment=", "--mem ", "-C", "-x ", "--", "-", ""]), TEXT).map(
        "".join
    )
)
@fuzz(quick=300, long=2500)
def test_an_entry_of_the_options_is_one_option_or_refused(option: str) -> None:
    text, _ = answer(lambda: render(Job("x", 1, Path("/runs/x"), [], Path("/tmp")), Site(options=[option])))
    if text is not None:
        words = read_directives(text.encode())
        words = words[words.index(b"--requeue") + 1 :]
        assert len(words) == 1 or (len(words) == 2 and len(words[0]) == 2), words
