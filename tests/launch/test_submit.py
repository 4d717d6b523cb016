"""`python -m launch slurm`: submits, says how to follow, and refuses in one line before anything is queued."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.cli import run_command
from data.config import DataConfig, SourceConfig, StageConfig
from launch.__main__ import main
from launch.slurm.submit import paths_inside
from pretrain.config import CheckpointConfig, RunConfig

CONFIG = ["--config=configs/debug_cpu.yaml"]
SITE = ["--site.processes_per_node=1", "--site.cpus_per_task=2"]
SINFO = r"printf 'main* 3\nbig 40\n'"
SBATCH = """
echo "$@" >>"$RECORD/sbatch"
case "$1" in
  --test-only) [ ! -e "$RECORD/refuse" ] || { cat "$RECORD/refuse" >&2; exit 1; } ;;
  *) env >"$RECORD/environment"; cat "$RECORD/said" 2>/dev/null || echo '17;cluster' ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sinfo and sbatch that leave a record."""
    for name, lines in {"sinfo": SINFO, "sbatch": SBATCH}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{lines}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("RECORD", str(tmp_path))
    return tmp_path


def launch(folder: Path, *arguments: str, site: Sequence[str] = SITE) -> int:
    return run_command(main, ["slurm", *CONFIG, *site, f"--run-dir={folder / 'run'}", *arguments])


def test_a_job_is_submitted_after_slurm_has_judged_it(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(slurm, "--nodes=2") == 0
    script = slurm / "run/job.sbatch"
    assert (slurm / "sbatch").read_text().splitlines() == [f"--test-only {script}", f"--parsable {script}"]
    assert (slurm / "run/logs").is_dir()
    out = capsys.readouterr().out
    assert out.startswith("job 17: debug_cpu on 2 nodes x 1 processes")
    for hint in ("squeue --job 17", f"tail -F {slurm}/run/logs/run.log", f"python -m launch status {slurm}/run"):
        assert hint in out


def test_what_it_says_to_type_is_quoted(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(slurm / "$(id) it's", "--nodes=2") == 0
    typed = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert ["tail", "-F", f"{slurm}/$(id) it's/run/logs/run.log"] in typed
    assert ["python", "-m", "launch", "status", f"{slurm}/$(id) it's/run"] in typed


def test_a_dry_run_prints_the_script_and_touches_nothing(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(slurm, "--nodes=2", "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.startswith("#!/bin/bash\n")
    assert f"RUN={slurm / 'run'}\n" in out
    assert not (slurm / "sbatch").exists()
    assert not (slurm / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--nodes=2", "--site.partition=bigg"],
            "partition 'bigg' does not exist; did you mean 'big'?; there are main, big",
        ),
        (["--nodes=2", "--site.partition=big,man"], "partition 'man' does not exist; did you mean 'main'?"),
        (["--nodes=50", "--site.partition=main,big"], "--nodes: is 50, but partition main,big has 40 nodes"),
        (["--nodes=4"], "--nodes: is 4, but partition main has 3 nodes"),
        (["--nodes=0"], "--nodes: must be at least 1, is 0"),
        (["--nodes=2", "--tries=0"], "--tries: must be at least 1"),
        (["--nodes=2", "--model.rnk=3"], "unknown key 'model.rnk'; did you mean 'model.rank'?"),
        (["--nodes=3"], "batch.global_size: must be a multiple of"),
        (["--nodes=2", "--site=missing.yaml"], "missing.yaml: no such file"),
        (["--nodes=2", "--site.partiton=main"], "unknown key 'partiton'"),
        (["--nodes=2", "--site.time_limit=1:00:00:00"], "site.time_limit: takes MINUTES,"),
        (["--nodes=2", "--site.time_limit=5"], "it would be requeued without having trained"),
        (["--nodes=2", "--site.setup=[module 'load]"], "site.setup: bash does not take it"),
        (["--nodes=2", "--site.options=[--array=1-2]"], "would all train in one run folder"),
        (["--nodes=2", "--name=a\n#SBATCH --wrap=id"], "has the character"),
    ],
)
def test_what_cannot_run_is_one_line(
    slurm: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert launch(slurm, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (slurm / "sbatch").exists()


def besides_the_missing_site_file(error: str) -> list[str]:
    """The lines of standard error, which name that file once."""
    missing = "WARNING: there is no site.yaml here"
    assert error.count(missing) == 1
    return [line for line in error.splitlines() if not line.startswith(missing)]


def test_what_slurm_refuses_is_told_in_slurms_words(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (slurm / "refuse").write_text("sbatch: error: Invalid account\nallocation failure\n")
    assert launch(slurm, "--nodes=2") == 2
    said = besides_the_missing_site_file(capsys.readouterr().err)
    assert said == ["error: sbatch --test-only: sbatch: error: Invalid account allocation failure"]
    assert "--parsable" not in (slurm / "sbatch").read_text()


def test_a_job_that_has_no_number_is_none(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (slurm / "said").write_text("welcome to the cluster\n18;north\n")
    assert launch(slurm, "--nodes=2") == 0
    assert capsys.readouterr().out.startswith("job 18: ")
    (slurm / "said").write_text("Usage: sbatch ...\n")
    assert launch(slurm, "--nodes=2") == 2
    assert "sbatch: named no job; it said: " in capsys.readouterr().err


def test_without_slurm_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch(tmp_path, "--nodes=2") == 2
    assert "there is no sbatch on this machine" in capsys.readouterr().err


def test_no_site_is_not_one_process_without_a_word(
    slurm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.slurm.submit.SITE_FILE", slurm / "site.yaml")
    for arguments in (["--nodes=2"], ["--nodes=2", "--dry-run"], ["--nodes=2", "--site.gpus_per_node=0"]):
        assert launch(slurm, *arguments, site=[]) == 2
        error = capsys.readouterr().err
        assert "site.yaml here, and nothing else says how many processes a node has" in error
        assert error.count("\n") == 1
    (slurm / "site.yaml").write_text("partition: main\n")
    assert launch(slurm, "--nodes=2", site=[]) == 2
    assert "site.yaml: says nothing of processes; set gpus_per_node or" in capsys.readouterr().err
    assert launch(slurm, "--nodes=1", "--site.gpus_per_node=1") == 0
    assert "there is no " not in capsys.readouterr().err
    (slurm / "site.yaml").unlink()
    for arguments in (["--nodes=1"], ["--nodes=1", "--dry-run"]):
        assert launch(slurm, *arguments) == 0
        assert "site.yaml here: what --site.* does not say is Slurm's default; copy " in capsys.readouterr().err
    (slurm / "site.yaml").write_text("processes_per_node: 2\ncpus_per_task: 2\n")
    assert launch(slurm, "--nodes=1", site=[]) == 0
    out = capsys.readouterr().out
    assert "1 nodes x 2 processes" in out
    assert f"  site: {slurm}/site.yaml\n" in out


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (["--site.processes_per_node=2"], "cpus_per_task is not set: Slurm may give all 2 processes of a node 1 core"),
        (
            ["--site.processes_per_node=2", "--site.cpus_per_task=1"],
            "1 for the 2 processes of a node, which will share",
        ),
        (["--site.processes_per_node=2", "--site.cpus_per_task=2"], ""),
        (["--site.processes_per_node=2", "--site.options=[--exclusive]"], ""),
    ],
)
def test_ranks_that_will_share_cores_are_named(
    slurm: Path, capsys: pytest.CaptureFixture[str], site: list[str], said: str
) -> None:
    assert launch(slurm, "--nodes=1", site=site) == 0
    lines = besides_the_missing_site_file(capsys.readouterr().err)
    assert said in "".join(lines)
    assert len(lines) == bool(said)


def test_a_job_submitted_within_another_one_is_not_ruled_by_it(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = ["SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_CPU_BIND", "_SLURM_SPANK_OPTION_pyxis_container_image"]
    overrides = ["SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_EXPORT", "SBATCH_ARRAY_INX", "SBATCH_GRES"]
    overrides += ["SBATCH_CONSTRAINT", "SBATCH_MEM_PER_NODE"]
    kept = ["SLURM_CONF", "SBATCH_ACCOUNT"]
    for name in [*leaks, *overrides, *kept]:
        monkeypatch.setenv(name, "1")
    options = ["--site.partition=main", "--site.time_limit=60", "--site.options=[--gres=gpu:8, -C a100, --mem=5G]"]
    assert launch(slurm, "--nodes=2", *options) == 0
    seen = {line.partition("=")[0] for line in (slurm / "environment").read_text().splitlines()}
    assert not seen & {*leaks, *overrides}
    assert seen >= set(kept)


def test_a_container_that_does_not_see_the_run_is_refused(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (slurm / "image.sqsh").touch()
    site = f"--site.container={{image: {slurm}/image.sqsh, mounts: [{Path.cwd()}%s]}}"
    assert launch(slurm, "--nodes=2", site % "") == 2
    assert f"site.container.mounts: run_dir {slurm}/run is not seen" in capsys.readouterr().err
    assert launch(slurm, "--nodes=2", site % f", {slurm}", "--data.validation=/nowhere/validation") == 2
    assert "site.container.mounts: data.validation /nowhere/validation is not seen" in capsys.readouterr().err
    assert not (slurm / "sbatch").exists()
    assert launch(slurm, "--nodes=2", site % f", {slurm}") == 0


def test_every_path_of_a_run_is_known_to_the_check_of_mounts() -> None:
    source = SourceConfig("s3://far/away")
    stage = StageConfig(from_tokens=10, train=[SourceConfig("/stage")])
    config = RunConfig(
        run_dir="/run",
        data=DataConfig(train=[SourceConfig("here"), source], validation="file:///held/out", stages=[stage]),
        checkpoint=CheckpointConfig(remote="file:///copies", branch_from="/old/run"),
    )
    assert [str(path) for _, path in paths_inside(config)] == ["here", "/stage", "/held/out", "/old/run", "/copies"]
    assert ("checkpoint.remote", Path("/copies")) in paths_inside(config)


def test_a_password_does_not_stand_in_the_script(
    slurm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = "--checkpoint.remote=https://{}@store.example/x"
    assert launch(slurm, "--nodes=2", remote.format("me:secret")) == 2
    error = capsys.readouterr().err
    assert "--checkpoint.remote=https://store.example/x: has a password or a query" in error and "secret" not in error
    assert "write ${ACCESS_STORE_EXAMPLE} in its place" in error
    assert launch(slurm, "--nodes=2", remote.format("${ACCESS}")) == 2
    assert "site.pass_environment: lacks ACCESS, which URLs of the config name" in capsys.readouterr().err
    assert not (slurm / "sbatch").exists() and not (slurm / "run").exists()
    monkeypatch.setenv("ACCESS", "me:secret")
    assert launch(slurm, "--nodes=2", remote.format("${ACCESS}"), "--site.pass_environment=[ACCESS]") == 0
    script = (slurm / "run" / "job.sbatch").read_text()
    assert f"'{remote.format('${ACCESS}')}'" in script and "secret" not in script
    assert "#SBATCH --export=HOME,USER,PATH,LANG,ACCESS\n" in script
