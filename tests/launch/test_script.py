"""The rendered batch script: readable, quoted, without secrets, and the same body as the plain one."""

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputError
from launch.slurm.container import Container
from launch.slurm.script import BODY_BEGINS, TEMPLATE, Job, render
from launch.slurm.site import SET_BY_THE_SCRIPT, Site, load_site
from launch.slurm.submit import split_site_overrides

JOB = Job(
    name="big model",
    nodes=16,
    run_folder=Path("runs/it's"),
    arguments=["--config", "configs/x.yaml", "--data.skip=[{first: 1, last: 2}]"],
    project=Path("/home/me/project"),
)


def test_what_was_asked_for_stands_in_the_script() -> None:
    site = Site(
        partition="main",
        account="lab",
        qos="long",
        time_limit="7-00:00:00",
        gpus_per_node=8,
        cpus_per_task=64,
        interface="ib0",
        setup=["module load cuda", "source .venv/bin/activate"],
        environment={"NCCL_DEBUG": "WARN"},
        pass_environment=["WANDB_API_KEY"],
        signal_seconds=600,
        options=["--exclusive"],
    )
    lines = render(JOB, site).splitlines()
    for expected in [
        "#SBATCH --job-name='big model'",
        "#SBATCH --chdir=/home/me/project",
        "#SBATCH --nodes=16",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --partition=main",
        "#SBATCH --account=lab",
        "#SBATCH --qos=long",
        "#SBATCH --time=7-00:00:00",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=64",
        "#SBATCH --signal=B:USR1@600",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --exclusive",
        "#SBATCH --export=HOME,USER,PATH,LANG,WANDB_API_KEY",
        "export NCCL_SOCKET_IFNAME=ib0",
        "export GLOO_SOCKET_IFNAME=ib0",
        "export NCCL_DEBUG=WARN",
        "module load cuda",
        "PROCESSES=8",
        "CORES=64",
        "TRIES=3",
    ]:
        assert expected in lines
    assert [line.startswith("#") or not line for line in lines[: lines.index("module load cuda")]].count(False) == 0


def test_a_job_gets_the_interpreter_and_the_packages_that_it_is_given() -> None:
    lines = render(replace(JOB, python="/my venv/bin/python", code=Path("/it's here")), Site()).splitlines()
    assert "PYTHON=('/my venv/bin/python')" in lines
    assert """export PYTHONPATH='/it'"'"'s here'${PYTHONPATH:+:$PYTHONPATH}""" in lines
    assert not any("PYTHONPATH" in line for line in render(JOB, Site()).splitlines())


def test_what_a_site_does_not_say_is_left_to_slurm() -> None:
    text = render(JOB, Site())
    for option in ("partition", "account", "qos", "time", "gpus-per-node", "cpus-per-task"):
        assert f"#SBATCH --{option}=" not in text
    assert "PROCESSES=1\n" in text


def test_the_script_is_bash_that_keeps_every_argument_whole() -> None:
    text = render(JOB, Site())
    settings = text[: text.index(BODY_BEGINS)]
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    shown = subprocess.run(
        ["bash", "-c", settings + '\nprintf "%s|" "$RUN" "${ARGUMENTS[@]}"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split("|")[:-1] == ["runs/it's", *JOB.arguments]


def test_a_percent_sign_in_the_run_folder_stays_in_the_name_of_the_log() -> None:
    lines = render(replace(JOB, run_folder=Path("/runs/lr 5%j")), Site()).splitlines()
    assert "#SBATCH --output='/runs/lr 5%%j/logs/run.log'" in lines
    assert "RUN='/runs/lr 5%j'" in lines


@pytest.mark.parametrize(
    ("job", "site", "said"),
    [
        (replace(JOB, name="a\n#SBATCH --wrap=id"), Site(), "name: has the character '\\n'"),
        (replace(JOB, run_folder=Path("/runs/a\nb")), Site(), "run_dir: has the character '\\n'"),
        (replace(JOB, run_folder=Path("/runs/a\\b")), Site(), "run_dir: has a backslash"),
        (replace(JOB, arguments=["--name", "a\0b"]), Site(), "the arguments: has the character '\\x00'"),
        (JOB, Site(account="lab\rx"), "site.account: has the character '\\r'"),
        (JOB, Site(account="x" * 9000), "site.account: has 9000 bytes"),
    ],
)
def test_what_no_script_can_hold_is_one_line(job: Job, site: Site, said: str) -> None:
    with pytest.raises(InputError) as error:
        render(job, site)
    assert said in str(error.value)


def test_a_setup_that_ends_shells_at_failures_does_not_end_the_job(tmp_path: Path) -> None:
    text = render(JOB, Site(setup=["set -euo pipefail"]))
    body = text[: text.index("# Signals:")] + "\nfalse | true; false; echo $unknown went on"
    assert subprocess.run(["bash"], input=body, text=True, capture_output=True, check=True).stdout == "went on\n"


def test_no_variable_of_the_script_can_be_set_by_the_site() -> None:
    names = re.findall(r"^ *(?:export )?([A-Z_]+)=", TEMPLATE.read_text(), re.MULTILINE)
    assert set(names) - {"NCCL_SOCKET_IFNAME"} == set(SET_BY_THE_SCRIPT)


def test_secrets_are_passed_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    assert "very-secret" not in render(JOB, Site(pass_environment=["WANDB_API_KEY"]))


def test_the_plain_script_has_the_same_body() -> None:
    plain, rendered = TEMPLATE.read_text(), render(JOB, Site())
    assert rendered.endswith(plain[plain.index(BODY_BEGINS) :])
    assert subprocess.run(["bash", "-n", str(TEMPLATE)], check=False).returncode == 0


def test_the_plain_script_sets_what_the_body_and_the_rendered_one_use() -> None:
    def names(text: str) -> set[str]:
        lines = text[: text.index(BODY_BEGINS)].splitlines()
        return {line.partition("=")[0] for line in lines if line.partition("=")[0].isupper()}

    assert names(TEMPLATE.read_text()) == names(render(JOB, Site()))


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (
            "pyxis",
            [
                "SRUN=(srun --container-image=/i.sqsh --container-mounts=/data --container-workdir=/home/me/project)",
                "PYTHON=(python)",
            ],
        ),
        ("apptainer", ["SRUN=(srun)", "PYTHON=(apptainer exec --nv --bind=/data /i.sqsh python)", "HELPER=()"]),
    ],
)
def test_ranks_run_in_the_container(runtime: str, expected: list[str]) -> None:
    container = Container("/i.sqsh", runtime=runtime, mounts=["/data"])  # type: ignore[arg-type]
    lines = render(JOB, Site(gpus_per_node=8, container=container)).splitlines()
    assert set(expected) <= set(lines)


@pytest.mark.parametrize(("name", "interface"), [("site", "ib0"), ("site_infiniband", "ib0"), ("site_efa", None)])
def test_an_example_site_file_loads_and_makes_a_script(name: str, interface: str | None) -> None:
    site = load_site(f"launch/slurm/{name}.yaml", [])
    assert (site.processes, site.interface, site.container) == (8, interface, None)
    lines = render(JOB, site).splitlines()
    assert ("export GLOO_SOCKET_IFNAME=ib0" in lines) == (interface is not None)
    assert all(f"export {key}={shlex.quote(value)}" in lines for key, value in site.environment.items())


def test_overrides_of_the_site_are_told_from_those_of_the_run(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("partition: main\ntime_limit: '10:00'\n")
    arguments = ["--config", "x.yaml", "--site.partition", "big", "--train.steps=5", "--site.interface=eth0"]
    site, rest = split_site_overrides(arguments)
    assert rest == ["--config", "x.yaml", "--train.steps=5"]
    assert load_site(str(file), site) == replace(Site(), partition="big", interface="eth0", time_limit="10:00")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("partiton: main", "unknown key 'partiton'; did you mean 'partition'?"),
        ("gpus_per_node: many", "gpus_per_node"),
        ("pass_environment: ['A=B']", "'A=B' is no name of an environment variable"),
        ("options: [exclusive]", "not 'exclusive'"),
        ("pass_environment: [all]", "pass_environment: takes variables by name; sbatch takes 'all' for a word"),
        ("environment: {RUN: x}", "environment: 'RUN' is set by the job script, bash or Slurm"),
        ("environment: {SLURM_CPU_BIND: none}", "environment: 'SLURM_CPU_BIND' is set by"),
        ("signal_seconds: 0", "signal_seconds: must be at least 1"),
    ],
)
def test_a_wrong_site_file_is_one_line(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(content)
    with pytest.raises(InputError) as error:
        load_site(str(file), [])
    assert said in str(error.value)
