"""Hostile names, folders, settings and arguments in a Slurm job script, judged by bash and by sbatch's own rules.

Right is a script in which every value arrives as it was, at srun and at sbatch, or one line.
"""

import subprocess
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from launch.slurm.container import Container
from launch.slurm.script import BODY_BEGINS, Job, render
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


def run_with_fake_srun(script: str, folder: Path) -> list[bytes]:
    """What srun gets: the script's settings, then its own call of srun."""
    settings, _, body = script.partition(BODY_BEGINS)
    call = body[body.index('  "${SRUN[@]}"') : body.index(" &\n")]
    command = settings + "\nsrun() { printf '%s\\0' \"$@\"; }\n" + call + '\nprintf "%s\\0" "$RUN" "$SETTING"\n'
    shown = subprocess.run(["bash"], input=command.encode(), capture_output=True, check=True, cwd=folder)
    assert shown.stderr == b""
    return shown.stdout.split(b"\0")[:-1]


@given(name=TEXT, folder=TEXT, argument=TEXT, value=TEXT, mount=TEXT, option=PLAIN_NAMES)
@example(
    name="a\\b", folder="it's 100%", argument="\n#SBATCH --nodes=9", value="two words", mount="a", option="comment"
)
@fuzz(quick=300, long=2500)
def test_every_value_arrives_as_it_was_or_is_refused_in_one_line(
    name: str, folder: str, argument: str, value: str, mount: str, option: str
) -> None:
    here = Path("/tmp")
    run = Path("/runs") / folder

    def script() -> str:
        site = Site(
            partition=value,
            environment={"SETTING": value},
            options=[f"--{option}={value}"],
            container=Container(image=f"/images/{mount}", mounts=[f"/{mount}"]),
        )
        return render(Job(name, 2, run, ["--name", name, argument], here), site)

    text, refused = answer(script)
    if text is None:
        assert refused
        return
    assert subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True, check=False).returncode == 0
    srun, [run_seen, setting_seen] = (lambda seen: (seen[:-2], seen[-2:]))(run_with_fake_srun(text, here))
    assert run_seen == str(run).encode()
    assert setting_seen == value.encode()
    assert srun[:2] == [f"--container-image=/images/{mount}".encode(), f"--container-mounts=/{mount}".encode()]
    assert srun[-3:] == [b"--name", name.encode(), argument.encode()]
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
    assert said[f"--{option}".encode()] in {value.encode(), value.strip().encode(), value[1:-1].encode()}


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
