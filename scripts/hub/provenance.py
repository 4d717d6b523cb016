"""What an exported folder tells about where it comes from: export.json for programs, README.md for people.

In: the checkpoint's config, the run's metrics and the data manifests. Out: the two files.
Always: every number in the card was measured or is a setting; what is not known is left out. Both are made to be
published: only what is listed here goes in, and nothing of the machine does: no place, address, command, user or host.
"""

import contextlib
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_json, write_atomically, write_json
from common.ranges import LONGEST_SEQUENCE
from common.typed import shown
from common.urls import without_credentials
from data.config import DataConfig, SourceConfig
from data.length_classes import with_classes
from data.manifest import MANIFEST_FILE, Manifest, parse_manifest
from model.config import ModelConfig
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from pretrain.optimizers.config import OptimizerConfig
from pretrain.sinks import LOSS_FILE
from pretrain.step_lines import read_steps

PROVENANCE = "export.json"
FORMAT = 3
"""1 had the run's whole config, with commands and places; 2 counted each stream's keys as heads of their own"""

TOLD = {
    "model": tuple(field.name for field in fields(ModelConfig)),
    "data": ("sequence_length", "document_attention"),
    "batch": ("global_size",),
    "optimizer": tuple(field.name for field in fields(OptimizerConfig)),
    "schedule": ("kind", "warmup_steps", "decay_steps", "final_ratio"),
    "train": ("steps", "precision"),
}
"""the settings that are told: numbers and words of ours, never a text of the user's"""
SOFTWARE = ("shared-diff-pretrain", "torch", "transformers", "safetensors", "tokenizers")
MEASURED = (
    *("step", "validation_loss", "validation_bits_per_byte", "validation_perplexity", "validation_samples"),
    *("validation_ar_hit_share", "validation_ar_hit_loss", "validation_others_loss"),
)
LONGEST_NAME = 80


def describe_export(run: Path, reader: CheckpointReader, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that export.json holds; ``settings`` are the export's own."""
    config, step = reader.config, reader.step
    tokens = reader.manifest.state.get("trainer", {}).get("tokens", 0)
    return {
        "format": FORMAT,
        "run": plain_name(str(run.absolute())),
        "step": step,
        "tokens": tokens if isinstance(tokens, int) else 0,
        "config": _told_settings(config),
        "training_data": [_describe_data(source.path, source.weight) for source in first_mixture(config.data)],
        "validation_data": _describe_data(config.data.validation) if config.data.validation else None,
        "validation": _last_validation(run, step),
        "software": _versions(),
        **settings,
    }


def write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes export.json and the model card."""
    write_json(folder / PROVENANCE, facts)
    write_atomically(folder / "README.md", model_card(facts))


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What export.json of ``folder`` says; None where the folder is not one of ours."""
    path = folder / PROVENANCE
    if not path.exists():
        return None
    facts = read_json(path, "export description")
    problem = _problem_of(facts)
    if problem:
        raise InputError(f"{path}: not a readable export description: {problem}")
    return dict(facts)


def _problem_of(facts: Any) -> str | None:
    """What is wrong with an export.json for who evaluates the model or replaces the export; None: nothing."""
    if not isinstance(facts, dict):
        return f"holds {shown(facts)}"
    for key in ("checkpoint", "tokenizer"):
        if not isinstance(facts.get(key), str):
            return f"'{key}' is {shown(facts.get(key))}"
    config = facts.get("config")
    data = config.get("data") if isinstance(config, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("document_attention"), bool):
        return "'config.data.document_attention' is missing"
    length = data.get("sequence_length")
    if not isinstance(length, int) or not 2 <= length <= LONGEST_SEQUENCE:
        return f"'config.data.sequence_length' is {shown(length)}"
    measured, held_out = facts.get("validation"), facts.get("validation_data")
    samples = measured.get("validation_samples") if isinstance(measured, dict) else None
    if not isinstance(measured, dict | None) or not (samples is None or (isinstance(samples, int) and samples >= 0)):
        return "'validation' is not an evaluation"
    if not isinstance(held_out, dict | None):
        return f"'validation_data' is {shown(held_out)}"
    return None


def model_card(facts: Mapping[str, Any]) -> str:
    """The README.md of the folder."""
    model, config = facts["config"]["model"], facts["config"]
    remote = "" if model["attention"] == "standard" else ", trust_remote_code=True"
    settings = {
        "attention": _attention(model),
        "layers": model["num_layers"],
        "hidden size": model["hidden_size"],
        "FFN size": model["ffn_hidden_size"],
        "differential heads": model["num_heads"],
        "head dim": model["head_dim"],
        "vocabulary": model["vocab_size"],
        "tied embeddings": model["tie_embeddings"],
        "RoPE base": model["rope_theta"],
        **_scaling(model.get("rope_scaling") or {}),
        "sequence length": config["data"]["sequence_length"],
        "parameters in this folder": f"{facts['parameters']:,}",
        "weights": f"{facts['weights']}, {facts['dtype']}",
    }
    training = {
        "steps": f"{facts['step']:,}",
        "tokens": f"{facts['tokens']:,}",
        "batch": f"{config['batch']['global_size']:,} sequences",
        "optimizer": config["optimizer"]["kind"],
        "learning rate": f"{config['optimizer']['learning_rate']:g}, {config['schedule']['kind']}",
        "weight decay": config["optimizer"]["weight_decay"],
        "precision": config["train"]["precision"],
        "seed": config["seed"],
    }
    data = [
        f"| {source['name']} | {source['weight']:g} | {_count(source, 'tokens')} | {_count(source, 'documents')} "
        f"| {source.get('tokenizer', '')} |"
        for source in facts["training_data"]
    ]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"tags: [causal-lm, {model['attention'].replace('_', '-')}, differential-attention]",
        "---",
        "",
        f"# {facts['run']}, step {facts['step']}",
        "",
        "A pretrained language model: it continues text and was not tuned to follow instructions.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("DIR"{remote})',
        f'model = AutoModelForCausalLM.from_pretrained("DIR"{remote})',
        'inputs = tokenizer("Once upon a time", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))",
        "```",
        "",
        'With `attn_implementation="sdpa"` (the default) a prompt needs no T x T memory; left-padded batches of long',
        "prompts do not either with `generate(..., prefill_chunk_size=1024)`. Tried with transformers 4.57 to 5.23.",
        "",
        *_table("Model", settings),
        *_table("Training", training),
        "## Training data",
        "",
        "| name | weight | tokens | documents | tokenizer |",
        "|---|---|---|---|---|",
        *data,
        "",
        *_evaluation(facts),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _attention(model: Mapping[str, Any]) -> str:
    if model["attention"] == "shared_diff":
        return f"shared_diff (base per {model['base']}, down per {model['down']}, rank {model['rank']})"
    return str(model["attention"])


def _scaling(scaling: Mapping[str, Any]) -> dict[str, str]:
    """How rotary positions reach beyond a length trained at before; nothing where they do not."""
    if scaling.get("kind", "none") == "none":
        return {}
    from_length = f" from {scaling['original_length']} tokens" if scaling["original_length"] else ""
    return {"RoPE scaling": f"{scaling['kind']}, {scaling['factor']:g} times{from_length}"}


def _evaluation(facts: Mapping[str, Any]) -> list[str]:
    rows = {"largest difference of logits from the trainer's model": f"{facts['logits_difference']:.2e}"}
    validation = facts["validation"]
    if validation is not None:
        rows |= {
            "held-out loss (nats per token)": _number(validation["validation_loss"], 4),
            "held-out bits per byte": _number(validation["validation_bits_per_byte"], 4),
            "held-out perplexity": _number(validation["validation_perplexity"], 2),
            "measured at step": validation["step"],
        }
    return _table("Evaluation", rows)


def _number(value: float | None, digits: int) -> str:
    return "not known" if value is None else f"{value:.{digits}f}"


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    return [f"## {title}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]


def _count(source: Mapping[str, Any], key: str) -> str:
    return f"{source[key]:,}" if key in source else ""


def plain_name(place: str) -> str:
    """The last part of a path or URL as a word that breaks no table, link or line; "unnamed" where there is none."""
    path = without_credentials(place)
    path = path.partition("://")[2].partition("/")[2] if "://" in path else path
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    words = re.sub(r"[^\w.+-]+", "_", parts[-1] if parts else "", flags=re.ASCII).strip("_")
    return words[:LONGEST_NAME] or "unnamed"


def _told_settings(config: RunConfig) -> dict[str, Any]:
    sections = {name: asdict(getattr(config, name)) for name in TOLD}
    told = {name: {key: section[key] for key in TOLD[name]} for name, section in sections.items()}
    return told | {"seed": config.seed}


def first_mixture(data: DataConfig) -> list[SourceConfig]:
    """The first mixture; of what is sorted by length every class, where that is still there."""
    if any("://" in source.path for source in data.train):
        return data.train
    try:
        return with_classes(data).train
    except InputError:
        return data.train


def _describe_data(place: str, weight: float | None = None) -> dict[str, Any]:
    """What a folder's manifest tells, where the folder is still there."""
    facts: dict[str, Any] = {"name": plain_name(place)} | ({} if weight is None else {"weight": weight})
    manifest = _manifest_of(place)
    if manifest is None:
        return facts
    return facts | {
        "id": manifest.dataset_id(),
        "tokens": manifest.tokens,
        "documents": manifest.documents,
        "tokenizer": plain_name(manifest.tokenizer.get("name", "")),
    }


def _manifest_of(place: str) -> Manifest | None:
    path = Path(place.removeprefix("file://")) / MANIFEST_FILE
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except (OSError, InputError):  # far away, moved or damaged: its facts are not known
        return None


def _last_validation(run: Path, step: int) -> dict[str, Any] | None:
    """The numbers of the last evaluation up to ``step``; None where nothing was evaluated."""
    known = [line for line in read_steps(run / LOSS_FILE) if line.get("validation_loss") is not None]
    last = next((line for line in reversed(known) if line["step"] <= step), None)
    return last and {key: last.get(key) for key in MEASURED}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in SOFTWARE:
        with contextlib.suppress(metadata.PackageNotFoundError):  # run from its folder, uninstalled
            versions[name] = metadata.version(name)
    return versions


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
