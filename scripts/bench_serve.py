"""Kinds of attention under vLLM: `python scripts/bench_serve.py`.

In: the `vllm` command, a shape, requests. Out: a table: what each kind's server gives in tokens per second, and as a
multiple of the matched plain model's. Always: all requests of a round are there at once, have prompts of their own and
answers of one length; each kind's server runs alone, merged where the kind can merge; the best round counts, after one
that does not. Untrained weights cost what trained ones do.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from common.cli import run_command
from common.flags import FlagParser
from common.ranges import check_range
from model.config import ModelConfig
from model.kinds.registry import kind_names, kind_of
from scripts.hub.layout import cache_width
from scripts.serving.pair import write_untrained
from scripts.serving.server import Server, serving

SHAPE = ModelConfig(
    num_layers=6, hidden_size=512, ffn_hidden_size=1376, num_heads=4, head_dim=64, rank=64, vocab_size=8192
)


@dataclass(frozen=True)
class Row:
    """What was measured of a kind."""

    kind: str
    parameters: int
    cached: int
    """numbers in the cache for a token"""
    tokens_per_second: float


@dataclass(frozen=True)
class Load:
    """What is asked of every server."""

    requests: int
    prompt_tokens: int
    new_tokens: int
    rounds: int


def main(arguments: list[str]) -> int:
    """Prints the table."""
    parser = FlagParser(prog="python scripts/bench_serve.py", description=__doc__)
    parser.add_argument("--vllm", default=".venv-serve/bin/vllm", help="command; `make test-serve` makes this one")
    parser.add_argument("--kinds", nargs="+", default=kind_names(), choices=kind_names(), help="the first is 1.00")
    parser.add_argument("--layers", type=int, default=SHAPE.num_layers, help="blocks")
    parser.add_argument("--requests", type=int, default=16, help="requests at once")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="length of each prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="weights and arithmetic")
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "layers", "requests", "prompt_tokens", "new_tokens", "rounds", low=1)
    load = Load(flags.requests, flags.prompt_tokens, flags.new_tokens, flags.rounds)
    rows = []
    with TemporaryDirectory() as folder:
        for kind in flags.kinds:
            config = replace(SHAPE, attention=kind, num_layers=flags.layers)
            rows.append(measured(Path(flags.vllm), Path(folder), config, load, flags.dtype))
    for line in table(rows):
        print(line)
    return 0


def measured(command: Path, place: Path, config: ModelConfig, load: Load, dtype: str) -> Row:
    """Serves an untrained model and lets it answer."""
    folder, longest = place / config.attention, load.prompt_tokens + load.new_tokens
    parameters = write_untrained(folder, config, longest, dtype)
    options = ["--dtype", dtype, "--max-model-len", str(longest), "--max-num-seqs", str(load.requests)]
    with serving(command, folder, place / f"{config.attention}.log", [*options, "--trust-remote-code"]) as server:
        seconds = [answered(server, load, seed) for seed in range(1 + load.rounds)]
    heads = kind_of(config).key_value_heads(config)
    cached = 2 * config.num_layers * heads * cache_width(config.attention) * config.head_dim
    return Row(config.attention, parameters, cached, load.requests * load.new_tokens / min(seconds[1:]))


def answered(server: Server, load: Load, seed: int) -> float:
    """Seconds until all requests of one round are answered."""
    dice = Random(seed)
    prompts = [dice.choices(range(256), k=load.prompt_tokens) for _ in range(load.requests)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(load.requests) as pool:
        answers = list(pool.map(lambda prompt: server.complete(prompt, load.new_tokens, ignore_eos=True), prompts))
    seconds = time.perf_counter() - begin
    assert all(answer["usage"]["completion_tokens"] == load.new_tokens for answer in answers)
    return seconds


def table(rows: Sequence[Row]) -> list[str]:
    """One line per kind."""
    first = rows[0]
    heading = f"{'':<14}{'parameters':>14}{'cached numbers a token':>26}{'tokens/s':>12}{'x ' + first.kind:>14}"
    return [heading] + [
        f"{row.kind:<14}{row.parameters:>14,}{row.cached:>26,}{row.tokens_per_second:>12,.1f}"
        f"{row.tokens_per_second / first.tokens_per_second:>14.2f}"
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
