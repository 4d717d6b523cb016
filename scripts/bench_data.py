"""The data path side by side with its peers, on the same tokens, in one run: `python scripts/bench_data.py`.

In: nothing; random tokens and the standard library's text are made here. Out: a table: time to the first batch,
time to resume, tokens per second, memory, and preparation in tokens per second on one core. Always: each
figure comes from a process of its own; imports are not counted; a peer that is not installed is named.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import run_command
from common.flags import FlagParser
from common.ranges import check_range

ROOT = Path(__file__).resolve().parents[1]

SEQUENCE_LENGTH = 2048
VOCABULARY = 50_000
DOCUMENT_TOKENS = 800
MOSAIC_SETUP = "`make bench` gives it an environment of its own, which --mosaic-python names"


@dataclass(frozen=True)
class System:
    """One loader: how its program is started, and where its copy of the tokens lies."""

    name: str
    command: list[str]
    folder: str


def main(arguments: list[str]) -> None:
    """Makes the tokens, lets every system read them, prints the table."""
    parser = FlagParser(prog="python scripts/bench_data.py", description=__doc__)
    parser.add_argument("--tokens", type=int, default=128_000_000, help="tokens of the single source and of the blend")
    parser.add_argument("--sources", type=int, default=8, help="sources of the blend")
    parser.add_argument("--tries", type=int, default=3, help="repetitions; the best counts")
    parser.add_argument(
        "--mosaic-python",
        default=sys.executable,
        help="interpreter that has mosaicml-streaming",
    )
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "tokens", "sources", "tries", low=1)
    warnings.simplefilter("ignore", UserWarning)  # megatron-core warns that apex is not installed
    systems = _systems(flags.mosaic_python)
    with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
        work = Path(folder)
        print(
            f"{flags.tokens:,} tokens, {SEQUENCE_LENGTH} per sample, one process, batches of 8 samples, "
            f"best of {flags.tries}"
        )
        for sources in (1, flags.sources):
            print(f"\n{sources} source(s)")
            _write_tokens(work, systems, flags.tokens, sources)
            _compare_loaders(work, systems, flags.tokens, sources, flags.tries)
            shutil.rmtree(work / str(sources))
        _compare_preparation(work, flags.tries)
        _measure_trillion(work)


def _systems(mosaic_python: str) -> list[System]:
    systems = [
        System("ours", [sys.executable, "-m", "scripts.data_peers.ours"], "ours"),
        System("megatron-core", [sys.executable, "-m", "scripts.data_peers.megatron"], "megatron"),
    ]
    script = str(ROOT / "scripts" / "data_peers" / "mosaic.py")
    if subprocess.run([mosaic_python, script, "--help"], capture_output=True).returncode == 0:
        systems.append(System("mosaicml-streaming", [mosaic_python, script], "mosaic"))
    else:
        print(f"mosaicml-streaming is not installed for {mosaic_python}, so it is left out: {MOSAIC_SETUP}")
    return systems


def _write_tokens(work: Path, systems: list[System], tokens: int, sources: int) -> None:
    """The same random tokens in every system's own format."""
    from scripts.data_peers import megatron, ours

    random = np.random.default_rng(sources)
    for number in range(sources):
        count = tokens // sources
        values = random.integers(1, VOCABULARY, count).astype(np.uint16)
        ends = np.unique(np.append(random.integers(1, count, count // DOCUMENT_TOKENS), count))
        values[ends - 1] = ours.EOD
        folder = work / str(sources)
        ours.write(folder / "ours" / str(number), values, ends)
        megatron.write(folder / "megatron" / str(number), values, ends)
        for system in systems:
            if system.folder == "mosaic":
                raw = folder / "raw"
                values.tofile(raw)
                target = str(folder / "mosaic" / str(number))
                subprocess.run([*system.command, "--write", str(raw), target, str(SEQUENCE_LENGTH)], check=True)
                raw.unlink()


def _compare_loaders(work: Path, systems: list[System], tokens: int, sources: int, tries: int) -> None:
    middle = tokens // SEQUENCE_LENGTH // 2 // 8 * 8
    print(f"{'':<20}{'very first start':>18}{'start':>12}{f'resume at {middle:,}':>20}{'tokens/s':>14}{'memory':>12}")
    for system in systems:
        folders = [str(work / str(sources) / system.folder / str(number)) for number in range(sources)]
        first = _run(system, folders, 0)  # builds what the system keeps on disk
        starts = [_run(system, folders, 0) for _ in range(tries)]
        resumes = [_run(system, folders, middle) for _ in range(tries)]
        start, resume = (min(one["first_batch"] for one in runs) for runs in (starts, resumes))
        rate = max(one["rate"] for one in starts + resumes)
        memory = min(one["memory"] for one in starts + resumes)
        print(
            f"{system.name:<20}{1e3 * first['first_batch']:>15.1f} ms{1e3 * start:>9.1f} ms{1e3 * resume:>17.1f} ms"
            f"{rate / 1e6:>13.1f}M{memory / 1e6:>9.1f} MB",
            flush=True,
        )


def _run(system: System, folders: list[str], first_sample: int) -> dict[str, float]:
    flags = ["--folders", *folders, "--sequence-length", str(SEQUENCE_LENGTH), "--first-sample", str(first_sample)]
    done = subprocess.run([*system.command, *flags], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{system.name} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _compare_preparation(work: Path, tries: int) -> None:
    """The standard library's text, tokenized by one process with the small BPE trained on it."""
    from data.corpus import Reading, find_units, read_documents
    from data.small_bpe import train_small_bpe
    from scripts.data_peers.preparation import megatron_style, ours

    units = find_units(["stdlib"], Counter())
    texts = [text for unit in units for text in read_documents(unit, Reading(), Counter()) if text]
    tokenizer = train_small_bpe(texts, 8192)
    tokenizer.save(work / "tokenizer")
    source = work / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    tokens = sum(len(tokenizer.encode_document(text)[0]) + 1 for text in texts)
    print(f"\npreparation of {tokens:,} tokens ({source.stat().st_size / 1e6:.0f} MB of JSON lines) on one core")
    ways: dict[str, Callable[[Path, Path, Path], float]] = {"ours": ours, "megatron's own style": megatron_style}
    for name, way in ways.items():
        seconds = []
        for number in range(tries):
            output = work / f"{name} {number}"
            seconds.append(way(work / "tokenizer", source, output))
            shutil.rmtree(output)
        print(f"{name:<24}{tokens / min(seconds) / 1e6:>8.2f}M tokens/s", flush=True)


def _measure_trillion(work: Path) -> None:
    """What a corpus of the largest size costs at the start; its tokens are zeros that take no space."""
    from scripts.data_peers.trillion import write_trillion

    columns = ("very first start", "memory", "start", "resume, worst", "2,048 samples mapped")
    print(f"\nours, with a trillion tokens\n{'':<14}" + "".join(f"{column:>22}" for column in columns))
    for sources in (1, 100):
        folders = write_trillion(work / f"trillion {sources}", sources)
        command = [sys.executable, "-m", "scripts.data_peers.trillion", *folders]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
        assert found["tokens"] > 1e12
        cells = [f"{found['very_first']:.1f} ms", f"{found['memory'] / 1e6:.1f} MB"]
        cells += [f"{found[name]:.1f} ms" for name in ("start", "resume", "map")]
        print(f"{f'{sources} source(s)':<14}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
