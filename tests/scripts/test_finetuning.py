"""Exports in the tools that tune models: transformers' Trainer and PEFT's LoRA take every kind as it is."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from scripts.hub.check import FP32_TOLERANCE

FOLDERS = {
    "standard": ("standard", "factored"),
    "diff": ("diff", "factored"),
    "diff_v2": ("diff_v2-grouped", "factored"),
    "layer, layer": ("shared_diff-layer-layer", "factored"),
    "head, head": ("shared_diff-head-head-grouped", "factored"),
    "merged": ("shared_diff-layer-head", "merged"),
}
TEXTS = ["the thing 12 the thing 12", "return self", "alpha beta alpha beta alpha beta alpha", "in", "def value"]
STEPS = 20
TOKENS = torch.randint(300, (3, 24), generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=FOLDERS.values(), ids=FOLDERS)
def folder(request: pytest.FixtureRequest, export_of: Callable[..., Path]) -> Path:
    return export_of(*request.param)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def tuned(model: Any, folder: Path, rate: float, place: Path) -> list[float]:
    """Trains on the texts, each with its end, as many tools do it; returns the losses."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    samples = [{"input_ids": [*tokenizer(text).input_ids, tokenizer.eos_token_id]} for text in TEXTS]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    labels = collator(samples)["labels"]
    assert (labels == tokenizer.eos_token_id).sum() == len(TEXTS), "padding takes the loss off the ends"
    assert (labels == -100).any()
    arguments = TrainingArguments(
        output_dir=str(place),
        max_steps=STEPS,
        per_device_train_batch_size=len(TEXTS),
        learning_rate=rate,
        lr_scheduler_type="constant",
        gradient_checkpointing=True,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=samples)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(TOKENS).logits
    return found


def test_all_weights_are_tuned_saved_and_loaded_again(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = tuned(model, folder, 3e-3, tmp_path / "trainer")
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.5
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []
    model.save_pretrained(tmp_path / "tuned")
    torch.testing.assert_close(logits(load(tmp_path / "tuned")), logits(model), atol=FP32_TOLERANCE, rtol=0)


def adapted(folder: Path, targets: list[str] | str) -> Any:
    """The model with adapters that begin with zeros."""
    torch.manual_seed(2)
    return get_peft_model(load(folder), LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=targets))


def test_adapters_are_tuned_saved_and_loaded_again(folder: Path, tmp_path: Path) -> None:
    model = adapted(folder, card_targets(folder))
    losses = tuned(model, folder, 3e-2, tmp_path / "trainer")
    assert losses[-1] < losses[0] - 0.3
    model.save_pretrained(tmp_path / "adapter")
    found = logits(model)
    assert (found - logits(load(folder))).abs().max() > 0.1
    again = PeftModel.from_pretrained(load(folder), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), found, atol=FP32_TOLERANCE, rtol=0)
    torch.testing.assert_close(logits(again.merge_and_unload()), found, atol=FP32_TOLERANCE, rtol=0)


def test_all_linear_finds_what_the_card_names_and_queries_and_keys_are_among_it(folder: Path) -> None:
    targets = card_targets(folder)
    for chosen in (targets, "all-linear"):
        parameters = [name for name, _ in adapted(folder, chosen).named_parameters()]
        modules = [name.partition(".lora_A.")[0] for name in parameters if ".lora_A." in name]
        assert {".".join(name.split(".")[6:]) for name in modules} == set(targets)  # behind layers.0.self_attn
        assert len(modules) == 2 * len(targets)
    assert {end[0] for end in targets if end.startswith(("q_proj", "k_proj"))} == {"q", "k"}


def test_a_name_that_is_no_linear_module_is_refused(export_of: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="SharedProjection"):
        adapted(export_of("shared_diff-layer-layer"), ["q_proj"])


def card_targets(folder: Path) -> list[str]:
    """What the card tells PEFT to adapt; config.json of a differential model tells the same."""
    (told,) = re.findall(r"target_modules=(\[.*?\])", (folder / "README.md").read_text())
    targets: list[str] = json.loads(told)
    config = json.loads((folder / "config.json").read_text())
    assert config.get("lora_target_modules", targets) == targets
    assert ("lora_target_modules" in config) == (config["model_type"] == "shared_diff")
    return targets


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_loss(side: str, export_of: Callable[..., Path]) -> None:
    folder = export_of("shared_diff-layer-layer")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True, padding_side=side)
    model = load(folder).eval()
    batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)([tokenizer(text) for text in TEXTS])
    assert batch["attention_mask"][:, -1].all() == (side == "left")
    starts = batch["attention_mask"].argmax(dim=1)
    batch["labels"][torch.arange(len(TEXTS)), starts] = -100  # a first token would be predicted from padding
    with torch.no_grad():
        together = model(**batch).loss
        alone, counts = [], []
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text).input_ids])
            alone.append(model(ids, labels=ids).loss * (ids.shape[1] - 1))
            counts.append(ids.shape[1] - 1)
    torch.testing.assert_close(together, sum(alone) / sum(counts), atol=FP32_TOLERANCE, rtol=0)
