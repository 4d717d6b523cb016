"""The report as a person sees it: in a real browser, on a desk and on a phone, from a file and from the server.

SCREENSHOTS=FOLDER keeps the pictures, to be looked at.
"""

import json
import math
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import run_command, to_yaml
from model.config import ModelConfig
from pretrain.config import RunConfig
from pretrain.resilience.attempts import Outcome, next_attempt
from scripts.report import main
from scripts.reporting import serve
from scripts.reporting.page import report_page
from scripts.reporting.runs import read_run
from scripts.reporting.serve import LivePage, open_server
from tests.browser import Page, browsing, find_browser

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; make test-browser installs it")
DESKTOP, PHONE = (1280, 900), (390, 844)
LONG = "a_long_name_without_any_place_at_which_a_browser_would_break_it_into_lines"


def lines_of(steps: int, seed: int) -> Iterator[dict[str, object]]:
    draw = random.Random(seed)
    for step in range(10, steps + 1, 10):
        loss = 3 + 6 * math.exp(-step / 400) + draw.gauss(0, 0.05)
        inside = {"telemetry": {"attention.lambda": [0.2 + step / 1e4, 0.5]}} if step % 100 == 0 else {}
        yield {
            **{"step": step, "tokens": step * 4096, "loss": loss, "mean_loss": loss - 0.01, "grad_norm": draw.random()},
            **{"learning_rate": 3e-4 * math.cos(step / steps), "tokens_per_second": 9000 + draw.gauss(0, 99)},
            **{"step_seconds": 0.45, "peak_memory_bytes": 3 << 30, "reserved_memory_bytes": 4 << 30},
            **{"model_flops_utilization": 0.4, "data_seconds": 0.001, **inside},
        }
        if step % 200 == 0:
            yield {"step": step, "validation_loss": loss + 0.1, "validation_ar_hit_loss": loss / 3}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs that have much to tell, one of them with a long name."""
    folders = []
    for seed, name in enumerate(("shared_diff", LONG)):
        folder = tmp_path / name
        config = replace(RunConfig(name=name, seed=seed), model=ModelConfig(num_layers=2), run_dir=str(folder))
        attempt = next_attempt(folder)
        attempt.start(0)
        attempt.end(Outcome.CRASHED, f"rank 2 was killed by SIGKILL; see {folder}/logs", 700 + seed)
        (folder / "config.yaml").write_text(to_yaml(config))
        lines = lines_of(900 + 90 * seed, seed)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "evaluations").mkdir()
        text = f"def {LONG * 3}():\n    return 1\n"
        document = {"model": {"step": 800}, "tasks": {"sample": {"metrics": {}, "text": text}}}
        (folder / "evaluations/800.json").write_text(json.dumps(document))
        folders.append(folder)
    return folders


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Page]:
    assert BROWSER is not None
    with browsing(BROWSER, tmp_path / "profile") as page:
        yield page


def check(tab: Page, size: tuple[int, int], name: str, tmp_path: Path) -> None:
    """Nothing went wrong, nothing is wider than the window, and there is a picture of it."""
    kept = Path(os.environ.get("SCREENSHOTS", tmp_path))
    tab.screenshot(kept / f"{name}_{size[0]}.png")
    assert (kept / f"{name}_{size[0]}.png").stat().st_size > 20_000
    assert tab.errors == []
    assert tab.value("document.documentElement.scrollWidth") <= tab.value("innerWidth") == size[0]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_report_from_a_file(size: tuple[int, int], runs: list[Path], tab: Page, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    assert run_command(main, [*map(str, runs), "--output", str(report)]) == 0
    tab.open(report.as_uri(), *size)
    check(tab, size, "file", tmp_path)
    assert tab.asked == [report.as_uri()], "it needs no other file, and no network"
    charts = tab.value("document.querySelectorAll('.plot svg').length")
    assert charts == 8  # loss, AR-hits, rate, norm, speed, waiting, MFU, memory
    tab.value("document.querySelectorAll('details').forEach((part) => { part.open = true })")
    check(tab, size, "file_open", tmp_path)


def test_the_values_under_the_pointer(runs: list[Path], tab: Page, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    run_command(main, [*map(str, runs), "--output", str(report)])
    tab.open(report.as_uri(), *PHONE)
    tab.value("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    box = json.loads(tab.value("JSON.stringify(document.querySelector('.plot svg').getBoundingClientRect())"))
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["left"] + box["width"] - 10, y=box["top"] + 50)
    said = tab.value("document.querySelector('.reading').textContent")
    newest = read_run(runs[1]).training[-1]
    assert said.startswith(f"{newest['tokens'] / 1e6:.3f}M tokens:")
    assert f"{LONG}, training {newest['mean_loss']:.5g}" in said and "shared_diff, held out" in said
    assert tab.errors == []


def test_a_served_report_follows_the_run(
    runs: list[Path], tab: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "EVERY", 0)  # looks at the files at every question
    page = LivePage(runs, lambda: report_page([read_run(run) for run in runs], every=1))
    with open_server(page, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        tab.open(url, *PHONE)
        tab.value("document.getElementById('settings-1').open = true")
        with (runs[0] / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 910, "tokens": 910 * 4096, "loss": 1.0625}) + "\n")
        shown = "document.querySelector('main').textContent.includes('1.0625')"
        tab.value(
            "new Promise((done, failed) => { let left = 150; const look = () => "
            f"{shown} ? done() : left-- ? setTimeout(look, 100) : failed('it did not follow'); look() }})"
        )
        assert tab.value("document.getElementById('settings-1').open") is True
        check(tab, PHONE, "served", tmp_path)
        assert set(tab.asked) == {url}
        server.shutdown()
        thread.join()
    said = "document.getElementById('note').textContent.startsWith('No answer')"
    tab.value(f"new Promise((done) => {{ const look = () => {said} ? done() : setTimeout(look, 100); look() }})")
