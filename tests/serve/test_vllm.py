"""Exports under vLLM's server, by its stock backend for models of transformers: what it answers is what they compute.

In:     exports of small models; the `vllm` command that the variable VLLM names (`make test-serve`).
Out:    nothing.
Always: greedy tokens and log-probabilities, of the prompt and of the answer, are those of transformers in this
process, in fp32: each request alone and all of them in one batch; prompts go in by chunks; the second time their
beginnings come out of the cache; on one device or split over two.
"""

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from common.errors import InputError
from data.config import DataConfig, SourceConfig
from model.config import ModelConfig
from pretrain.config import RunConfig
from scripts.export import ExportConfig, export
from scripts.hub.checkpoint_file import write_checkpoint
from scripts.hub.layout import parameter_shapes
from scripts.hub.loading import load_folder_tokenizer, load_model
from scripts.serving.server import Server, serving
from tests.scripts.conftest import noisy_value

pytestmark = pytest.mark.serve

SIZES = ModelConfig(
    num_layers=2, hidden_size=96, ffn_hidden_size=176, num_heads=3, head_dim=32, rank=10, vocab_size=307
)
MODELS = {
    "standard": (dataclasses.replace(SIZES, attention="standard", num_kv_heads=2), "factored"),
    "diff": (dataclasses.replace(SIZES, attention="diff", num_heads=4, tie_embeddings=False), "factored"),
    "diff_v2": (dataclasses.replace(SIZES, attention="diff_v2", num_heads=6, num_kv_heads=2), "factored"),
    "factored": (dataclasses.replace(SIZES, attention="shared_diff"), "factored"),
    "merged": (dataclasses.replace(SIZES, attention="shared_diff", base="head", num_heads=6, num_kv_heads=2), "merged"),
    "no head norm": (dataclasses.replace(SIZES, attention="diff", head_norm=False, lambda_init=0.5), "factored"),
}
CASES = [*((name, 1) for name in MODELS), *((name, 2) for name in ("standard", "diff", "diff_v2", "merged"))]
"""models, and the devices over which they are split by tensor parallelism"""
LONGEST, NEW, CHUNK, BLOCK = 160, 8, 48, 32
TOLERANCE = 1e-3
OPTIONS = ["--dtype=float32", f"--max-model-len={LONGEST}", "--max-num-seqs=20", "--enforce-eager"]
OPTIONS += ["--enable-prefix-caching", f"--block-size={BLOCK}", "--enable-chunked-prefill"]
OPTIONS += [f"--max-num-batched-tokens={CHUNK}"]


def prompts() -> list[list[int]]:
    """Twenty, of 1 to 130 tokens; every second one begins as the longest does."""
    dice = Random(3)
    longest = dice.choices(range(300), k=130)
    lengths = [1, 2, 31, 32, 33, 130, *(dice.randint(3, 129) for _ in range(14))]
    return [
        longest[:length] if number % 2 else dice.choices(range(300), k=length) for number, length in enumerate(lengths)
    ]


def folder_of(name: str, place: Path, corpus: Path) -> Path:
    """The export of one of MODELS."""
    model, weights = MODELS[name]
    data = DataConfig(train=[SourceConfig(str(corpus / "train"))], sequence_length=LONGEST)
    config, shapes = RunConfig(name="served", model=model, data=data), parameter_shapes(model)
    run, output = place / "run", place / "export"
    write_checkpoint(run / "checkpoints", config, shapes, lambda name: noisy_value(name, shapes[name], model), {})
    export(ExportConfig(str(run), str(output), weights=weights))  # type: ignore[arg-type]
    return output


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} on {case[1]}")
def case(request: pytest.FixtureRequest) -> tuple[str, int]:
    return request.param


@pytest.fixture(scope="module")
def folder(case: tuple[str, int], tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return folder_of(case[0], tmp_path_factory.mktemp("served"), corpus)


@contextmanager
def serving_on(devices: int, folder: Path) -> Iterator[Server]:
    """The folder's server on this many devices, each of which is a core."""
    options = [*OPTIONS, f"--tensor-parallel-size={devices}"]
    options += ["--trust-remote-code"] if list(folder.glob("*.py")) else []
    with pytest.MonkeyPatch.context() as environment:
        if devices > 1:  # else vLLM wants a memory node for each
            environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "|".join(map(str, range(devices))))
        with serving(Path(os.environ["VLLM"]), folder, folder.parent / "server.log", options) as running:
            yield running


@pytest.fixture(scope="module")
def server(case: tuple[str, int], folder: Path) -> Iterator[Server]:
    with serving_on(case[1], folder) as running:
        yield running


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[tuple[list[int], list[float]]]:
    """For each prompt: the greedy tokens, and log-probabilities of all tokens but the first."""
    model = load_model(folder, trust_remote_code=True).eval()
    found = []
    with torch.no_grad():
        for prompt in prompts():
            tokens = torch.tensor([prompt])
            shown = {"attention_mask": torch.ones_like(tokens), "eos_token_id": -1, "pad_token_id": 0}  # a 0 is a token
            whole = model.generate(tokens, max_new_tokens=NEW, do_sample=False, **shown)
            log_probabilities = model(whole).logits[0, :-1].log_softmax(-1).gather(1, whole[0, 1:, None])[:, 0]
            found.append((whole[0, len(prompt) :].tolist(), log_probabilities.tolist()))
    return found


def ask(server: Server, prompt: list[int], **options: Any) -> dict[str, Any]:
    return server.complete(prompt, NEW, ignore_eos=True, logprobs=1, return_tokens_as_token_ids=True, **options)


def check(choice: dict[str, Any], prompt: list[int], expected: tuple[list[int], list[float]]) -> None:
    """Compares an answer with transformers', and the prompt's log-probabilities, if they were asked for."""
    tokens = [int(token.removeprefix("token_id:")) for token in choice["logprobs"]["tokens"]]
    assert tokens == expected[0]
    found = choice["logprobs"]["token_logprobs"]
    assert found == pytest.approx(expected[1][-NEW:], abs=TOLERANCE)
    if choice.get("prompt_logprobs"):
        told = [
            entry[str(token)]["logprob"]
            for entry, token in zip(choice["prompt_logprobs"], prompt, strict=True)
            if entry
        ]
        assert told == pytest.approx(expected[1][:-NEW], abs=TOLERANCE)


def test_each_prompt_alone(server: Server, expected: list[tuple[list[int], list[float]]]) -> None:
    for prompt, answer in zip(prompts(), expected, strict=True):
        choice = ask(server, prompt, prompt_logprobs=0)
        assert len(choice["prompt_logprobs"]) == len(prompt)
        check(choice, prompt, answer)


def test_all_in_one_batch_with_beginnings_from_the_cache(
    server: Server, expected: list[tuple[list[int], list[float]]]
) -> None:
    for _ in range(2):  # the second time the cache has all of them
        with ThreadPoolExecutor(len(expected)) as pool:
            choices = list(pool.map(lambda prompt: ask(server, prompt), prompts()))
        for choice, prompt, answer in zip(choices, prompts(), expected, strict=True):
            check(choice, prompt, answer)
    in_blocks = sum((len(prompt) - 1) // BLOCK * BLOCK for prompt in prompts())
    assert server.metric("vllm:prefix_cache_hits_total") >= in_blocks > 500


def test_a_request_with_a_text_is_answered_with_one(server: Server, folder: Path) -> None:
    assert server.models() == ["model"]
    choice = server.complete("def alpha return", 5)
    assert choice["usage"]["prompt_tokens"] == len(load_folder_tokenizer(folder, True)("def alpha return").input_ids)
    assert isinstance(choice["text"], str) and choice["finish_reason"] in ("length", "stop")


def test_factored_weights_are_not_split_and_say_so(tmp_path: Path, corpus: Path) -> None:
    folder = folder_of("factored", tmp_path, corpus)
    with pytest.raises(InputError), serving_on(2, folder) as running:
        running.complete("def", 1)
    assert "factored weights cannot be split over 2 devices" in (tmp_path / "server.log").read_text()
