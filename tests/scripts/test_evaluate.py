"""The evaluation command: the trainer's own loss, any model, clear errors."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.cli import run_command
from common.errors import InputError
from common.file_lock import only_holder
from data.ar_hits import FrequentBigrams, ar_hits
from data.batch import document_starts
from data.config import DataConfig
from data.stream import open_validation
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded, logical_parameters
from pretrain.checkpoint.reader import CheckpointReader
from scripts.evaluate import evaluate, main
from scripts.evaluation import ar_hit, harness
from scripts.evaluation.loaded import load_subject
from scripts.evaluation.outliers import Largest, probing
from scripts.evaluation.pictures import draw_curves
from scripts.evaluation.result import TaskResult, read_results, render, save_results
from scripts.evaluation.settings import ArHitSettings, EvaluateConfig, HeldOutSettings, OutlierSettings, SampleSettings
from scripts.evaluation.statistics import proportion
from scripts.evaluation.tasks import TASKS
from scripts.export import find_checkpoint

SAMPLES = 6


def trainer_losses(run: Path, corpus: Path) -> np.ndarray:
    """Losses [samples, T] of the first held-out samples, by the trainer's own model and stream."""
    reader = CheckpointReader(find_checkpoint(run, None))
    model = LanguageModel(build_layers(reader.config.model, Unsharded(), seed=0))
    validation = open_validation(DataConfig(validation=str(corpus / "validation"), sequence_length=96))
    assert validation is not None
    tokens = torch.from_numpy(validation.fetch(np.arange(SAMPLES)))
    with torch.no_grad():
        for name, parameter in logical_parameters(model).items():
            parameter.copy_(reader.read(name))
        logits = model(tokens[:, :-1]).transpose(0, 1)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(SAMPLES, -1).numpy()


@pytest.mark.parametrize("kind", ["standard", "shared_diff-layer-layer"])
def test_held_out_loss_is_the_trainers(
    kind: str, run_of: Callable[[str], Path], export_of: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    expected = trainer_losses(run_of(kind), corpus)
    settings = EvaluateConfig(
        str(export_of(kind)),
        "held_out,positions,ar_hit",
        output=str(tmp_path / "r.json"),
        batch_tokens=200,
        held_out=HeldOutSettings(samples=SAMPLES),
        ar_hit=ArHitSettings(training_tokens=20_000, frequent_share=0.01),
    )
    found = evaluate(settings)
    metrics = found["held_out"].metrics
    assert metrics["loss"].value == pytest.approx(expected.mean(), abs=1e-5)
    assert metrics["loss"].count == SAMPLES
    validation = open_validation(DataConfig(validation=str(corpus / "validation"), sequence_length=96))
    assert validation is not None
    bits = expected.mean() / math.log(2) / validation.bytes_per_token
    assert metrics["bits_per_byte"].value == pytest.approx(bits, rel=1e-5)
    assert metrics["perplexity"].value == pytest.approx(math.exp(expected.mean()), rel=1e-4)
    curve = found["positions"].metrics
    assert curve["loss_of_first_32"].value == pytest.approx(expected[:, :32].mean(), abs=1e-5)
    assert curve["loss_of_first_96"].value == pytest.approx(expected.mean(), abs=1e-5)
    split = {name: estimate.value for name, estimate in found["ar_hit"].metrics.items()}
    assert 0 < split["share_of_hits"] < 1
    whole = split["share_of_hits"] * split["ar_hit_loss"] + (1 - split["share_of_hits"]) * split["others_loss"]
    assert whole == pytest.approx(expected.mean(), abs=1e-5)
    document = json.loads((tmp_path / "r.json").read_text())
    assert set(document["tasks"]) == {"held_out", "positions", "ar_hit"}
    for task in ("positions", "ar_hit"):
        assert (tmp_path / document["tasks"][task]["picture"]).stat().st_size > 1000


def test_ar_hit_losses_are_means_over_the_mask(export_of: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("alpha beta gamma delta " * 200)
    counting = ArHitSettings(training=str(text), frequent_share=1.0)
    settings = EvaluateConfig(str(export_of("diff")), "ar_hit", data=str(text), ar_hit=counting)
    share = evaluate(settings)["ar_hit"].metrics["share_of_hits"].value
    subject = load_subject(settings.model, "cpu", "auto", 8192)
    ids = np.array([subject.encode("alpha beta gamma delta " * 200)])[:, :97]
    first = ar_hits(ids, FrequentBigrams(320, np.empty(0, np.int64), 0)).mean()
    assert share == pytest.approx(first, abs=0.05)  # nothing is frequent, so nearly all but the first round are hits


def test_attention_inside_documents_is_kept_inside_them(export_of: Callable[..., Path], corpus: Path) -> None:
    """token_losses with document starts, against each document alone."""
    subject = load_subject(str(export_of("shared_diff-layer-layer")), "cpu", "auto", 8192)
    tokens = np.array([[5, 6, 7, 299, 9, 10, 11, 12, 299, 13, 14, 15]])
    starts = torch.from_numpy(document_starts(tokens[:, :-1], 299))
    together = subject.token_losses(torch.from_numpy(tokens), starts)[0]
    for first, last in ((0, 4), (4, 9), (9, 11)):
        alone = subject.token_losses(torch.from_numpy(tokens[:, first : last + 1]))[0]
        torch.testing.assert_close(together[first:last], alone, atol=1e-5, rtol=0)


def test_outliers_are_the_largest_logits_and_states(export_of: Callable[..., Path], corpus: Path) -> None:
    """Ten times the queries of the only layer that is looked at: ten times its largest logit."""
    subject = load_subject(str(export_of("diff")), "cpu", "auto", 8192)
    tokens = torch.arange(40)[None]
    tops = []
    for factor in (1, 10):
        generator = torch.Generator().manual_seed(0)
        sink = Largest(generator)
        with torch.no_grad(), probing(subject, [sink]):
            subject.model.model.layers[0].self_attn.q_proj.weight *= factor
            layers = subject.model.model.layers
            subject.model.model.layers = layers[:1]
            subject.model(tokens, use_cache=False)
            subject.model.model.layers = layers
        tops.append(sink.summary())
    for name in ("top_1", "top_3", "top_100", "median"):
        assert tops[1][name] == pytest.approx(10 * tops[0][name], rel=1e-4)
    settings = EvaluateConfig(str(export_of("diff")), "outliers", outliers=OutlierSettings(samples=2))
    details = evaluate(settings)["outliers"].details
    assert details["attention_logits"]["top_1"] >= details["attention_logits"]["top_2"] > 0
    assert details["hidden_states"]["top_1"] > details["hidden_states"]["median"] > 0


def test_a_stock_llama_goes_through_the_same_command(stock_llama: Path, corpus: Path, tmp_path: Path) -> None:
    settings = EvaluateConfig(
        str(stock_llama),
        "held_out,outliers,sample",
        data=str(corpus / "validation"),
        held_out=HeldOutSettings(samples=4, sequence_length=64),
        outliers=OutlierSettings(samples=1),
        sample=SampleSettings(prompt="the thing", tokens=5),
    )
    found = evaluate(settings)
    assert found["held_out"].settings["trainer_tokens"] is False
    assert found["held_out"].metrics["loss"].count == 4
    assert found["sample"].text is not None and found["sample"].text.startswith("the thing")
    text = tmp_path / "text.txt"
    text.write_text("alpha beta gamma " * 300)
    by_text = evaluate(EvaluateConfig(str(stock_llama), "held_out", data=str(text)))["held_out"]
    assert by_text.metrics["bits_per_byte"].value > 0


def test_names_of_special_tokens_in_a_text_are_text(stock_llama: Path) -> None:
    """As in the training of this project, and as the same text is prepared."""
    subject = load_subject(str(stock_llama), "cpu", "auto", 8192)
    subject.tokenizer.split_special_tokens = False  # as other projects save theirs
    end = subject.tokenizer.eos_token
    assert subject.tokenizer.encode(end, add_special_tokens=False) == [subject.tokenizer.eos_token_id]
    text = f"a {end} quoted {end}"
    ids = subject.encode(text)
    assert subject.tokenizer.eos_token_id not in ids
    assert subject.decode(ids) == text
    assert subject.encode_with_offsets(text)[0] == ids


def test_text_made_of_shards_is_the_text_that_went_in(stock_llama: Path, corpus: Path) -> None:
    """Peers see the held-out text itself: their tokens, decoded, are documents of the corpus."""
    from scripts.evaluation.texts import open_held_out

    subject = load_subject(str(stock_llama), "cpu", "auto", 8192)
    samples = open_held_out(str(corpus / "validation"), subject, 64, most_samples=8)
    text = subject.decode(samples.fetch(np.array([0]))[0].tolist())
    known = {json.loads(line)["text"] for line in (corpus.parent / "texts.jsonl").read_text().splitlines()}
    assert text.split("<|endoftext|>")[0] in {document[: len(text.split("<|endoftext|>")[0])] for document in known}


def test_a_seed_gives_the_same_sample_again(export_of: Callable[..., Path]) -> None:
    def sample(seed: int) -> str | None:
        chosen = SampleSettings(prompt="alpha", tokens=12, temperature=1.0)
        return evaluate(EvaluateConfig(str(export_of("diff")), "sample", seed=seed, sample=chosen))["sample"].text

    assert sample(1) == sample(1) != sample(2)


def test_results_of_other_tasks_stay_in_the_file(export_of: Callable[..., Path], tmp_path: Path) -> None:
    output = str(tmp_path / "r.json")
    for task in ("sample", "positions"):
        evaluate(EvaluateConfig(str(export_of("diff")), task, output=output, held_out=HeldOutSettings(samples=1)))
    assert set(json.loads(Path(output).read_text())["tasks"]) == {"sample", "positions"}


def test_results_of_another_model_are_not_mixed_in(export_of: Callable[..., Path], tmp_path: Path) -> None:
    """A path is no identity: the export there may be of another step."""
    output, model = tmp_path / "r.json", tmp_path / "model"
    shutil.copytree(export_of("diff"), model)
    evaluate(EvaluateConfig(str(model), "sample", output=str(output)))
    shutil.rmtree(model)
    shutil.copytree(export_of("standard"), model)
    before = output.read_bytes()
    with pytest.raises(InputError, match=rf"^--output {output}: holds results of another model \(checkpoint "):
        evaluate(EvaluateConfig(str(model), "sample", output=str(output)))
    assert output.read_bytes() == before
    evaluate(EvaluateConfig(str(export_of("diff")), "sample", output=str(output)))  # the same one, elsewhere


def test_evaluations_that_end_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    """One ends while the other draws; one waits while the other writes; another model's is refused at the end, too."""
    output, model = tmp_path / "deep/r.json", {"checkpoint": "c0ffee"}

    def draw(figure: Any) -> None:
        save_results(output, model, {"a": TaskResult({}, {})}, seed=7)
        figure.subplots()

    assert save_results(output, model, {"b:x": TaskResult({}, {}, draw=draw)}, seed=7) == [tmp_path / "deep/r_b_x.png"]
    other = Thread(target=save_results, args=(output, model, {"c": TaskResult({}, {})}, 7))
    with only_holder(tmp_path / "deep/r.json.lock", "held"):
        other.start()
        other.join(0.2)
        assert set(read_results(output)) == {"a", "b:x"}
    other.join()
    assert set(read_results(output)) == {"a", "b:x", "c"}
    with pytest.raises(InputError, match="holds results of another model"):
        save_results(output, {"checkpoint": "dead"}, {"d": TaskResult({}, {})}, seed=7)
    assert {path.name for path in output.parent.iterdir()} == {"r.json", "r_b_x.png"}


def test_names_that_look_like_formulas_are_drawn() -> None:
    """Between two dollars matplotlib reads one."""
    name, found = "$x_{$", proportion(3, 7)
    metrics = dict.fromkeys(("ar_hit_loss", "others_loss", "loss", "share_of_hits"), found)
    assert render(lambda figure: ar_hit._draw(figure, name, metrics))
    assert render(lambda figure: harness._draw(figure, {name: found}))
    curves = {name: {1.0: found}, "other": {1.0: found}}
    assert render(lambda figure: draw_curves(figure.subplots(), curves, "x", "y", "title"))


@pytest.fixture
def damaged(export_of: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(export_of("diff"), tmp_path / "model"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "half a shard": (lambda f: truncate(next(f.glob("*.safetensors"))), r"safetensors: damaged or half-written"),
    "no shard": (lambda f: next(f.glob("*.safetensors")).unlink(), r"is missing, though the index names it"),
    "no weights": (lambda f: [p.unlink() for p in f.glob("model*.s*")], r"holds neither model.safetensors.index.json"),
    "half an index": (lambda f: truncate(f / "model.safetensors.index.json"), r"not a readable index of weights"),
    "no config": (lambda f: (f / "config.json").unlink(), r"no config.json in it"),
    "half a config": (lambda f: truncate(f / "config.json"), r"config.json: damaged"),
    "no code": (lambda f: (f / "modeling_shared_diff.py").unlink(), r"modeling_shared_diff.py: is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"holds no tokenizer"),
    "half a tokenizer": (lambda f: truncate(f / "tokenizer.json"), r"tokenizer.json: damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_named(damage: str, damaged: Path) -> None:
    spoil, message = DAMAGE[damage]
    spoil(damaged)
    with pytest.raises(InputError, match=message):
        load_subject(str(damaged), "cpu", "auto", 1024)


def test_another_models_tokenizer_is_refused(damaged: Path, stock_llama: Path, export_of: Callable[..., Path]) -> None:
    shutil.copy(stock_llama / "tokenizer.json", damaged / "tokenizer.json")
    with pytest.raises(InputError, match=r"tokenizer.json: is not the one that the model was trained with"):
        load_subject(str(damaged), "cpu", "auto", 1024)
    for name in ("tokenizer.json", "tokenizer_info.json", "tokenizer.tiktoken"):
        shutil.copy(export_of("diff") / name, damaged / name)
    facts = json.loads((damaged / "export.json").read_text())
    (damaged / "export.json").write_text(json.dumps(facts | {"tokenizer": "another"}))
    with pytest.raises(InputError, match="tokenizer is not the one that the model was trained with"):
        load_subject(str(damaged), "cpu", "auto", 1024)


def test_a_strangers_tokenizer_that_is_too_large_is_refused(stock_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stock_llama, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zzz"] = 306
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="the tokenizer belongs to another model"):
        load_subject(str(folder), "cpu", "auto", 1024)


def test_help_names_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    words = " ".join(capsys.readouterr().out.replace("\n", " ").split())
    assert all(f"{task}: {measures}" in words for task, (_, measures) in TASKS.items())


def test_bad_requests_are_one_line_and_status_2(
    export_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"--model={export_of('diff')}"
    requests = {
        "needles: a length of the settings: needs 4096 tokens, more than the 96": [model, "--tasks=needles"],
        "unknown task 'neddles'; did you mean 'needles'": [model, "--tasks=neddles"],
        "no such folder": [f"--model={tmp_path / 'none'}", "--tasks=sample"],
        "no text files there; what is read: jsonl": [model, "--tasks=held_out", f"--data={tmp_path}"],
        "unknown key 'needles.length'; did you mean 'needles.lengths'": [
            model,
            "--tasks=needles",
            "--needles.length=5",
        ],
        "expected [N, R] with 1 <= R <= N": [model, "--tasks=needles", "--needles.pairs=[[1,2]]"],
        "attention.depths: is empty; name at least one": [model, "--tasks=attention", "--attention.depths=[]"],
        "needles.pairs: is empty": [model, "--tasks=needles", "--needles.pairs=[]"],
        "in_context.sets: is empty": [model, "--tasks=in_context", "--in_context.sets=[]"],
        "in_context.shots: is empty": [model, "--tasks=in_context", "--in_context.shots=[]"],
        "quantised.bits: is empty": [model, "--tasks=quantised", "--quantised.bits=[]"],
        "--harness.include none: no such folder": [model, "--tasks=harness:x", "--harness.include=none"],
    }
    for message, arguments in requests.items():
        assert run_command(main, arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_weights_that_compute_nothing_finite_are_named(export_of: Callable[..., Path]) -> None:
    subject = load_subject(str(export_of("shared_diff-layer-layer")), "cpu", "auto", 256)
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.copy_(torch.linspace(-3e38, 3e38, 48).expand(320, 48))
    with pytest.raises(InputError, match=r"--model .*: computes losses that are not finite"):
        subject.token_losses(torch.arange(20).view(2, 10))
