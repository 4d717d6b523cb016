"""What an exported folder tells about where it comes from: export.json for programs, README.md for people.

In: the checkpoint's config, the run's metrics and the data manifests. Out: the two files.
Always: every number in the card was measured or is a setting; what is not known is left out.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import read_json, write_atomically, write_json
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.sinks import LOSS_FILE, read_metrics

PROVENANCE = "export.json"
FORMAT = 1


def describe_export(run: Path, reader: CheckpointReader, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that export.json holds; ``settings`` are the export's own."""
    config, step = reader.config, reader.step
    return {
        "format": FORMAT,
        "run": run.name,
        "step": step,
        "tokens": reader.manifest.state.get("trainer", {}).get("tokens", 0),
        "config": dataclasses.asdict(config),
        "training_data": [_describe_data(Path(source.path), source.weight) for source in config.data.train],
        "validation": _last_validation(run, step),
        **settings,
    }


def write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes export.json and the model card."""
    write_json(folder / PROVENANCE, facts)
    write_atomically(folder / "README.md", model_card(facts))


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What export.json of ``folder`` says; None where the folder is not one of ours."""
    path = folder / PROVENANCE
    return dict(read_json(path, "export description")) if path.exists() else None


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
        "sequence length": config["data"]["sequence_length"],
        "parameters in this folder": f"{facts['parameters']:,}",
        "weights": f"{facts['weights']}, {facts['dtype']}",
    }
    training = {
        "steps": f"{facts['step']:,}",
        "tokens": f"{facts['tokens']:,}",
        "batch": f"{config['batch']['global_size']:,} sequences",
        "learning rate": f"{config['optimizer']['learning_rate']:g}, {config['schedule']['kind']}",
        "weight decay": config["optimizer"]["weight_decay"],
        "precision": config["train"]["precision"],
        "seed": config["seed"],
    }
    data = [
        f"| {source['path']} | {source['weight']:g} | {_count(source, 'tokens')} | {_count(source, 'documents')} "
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
        "| folder | weight | tokens | documents | tokenizer |",
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


def _evaluation(facts: Mapping[str, Any]) -> list[str]:
    rows = {"largest difference of logits from the trainer's model": f"{facts['logits_difference']:.2e}"}
    validation = facts["validation"]
    if validation is not None:
        rows |= {
            "held-out loss (nats per token)": f"{validation['validation_loss']:.4f}",
            "held-out bits per byte": f"{validation['validation_bits_per_byte']:.4f}",
            "held-out perplexity": f"{validation['validation_perplexity']:.2f}",
            "measured at step": validation["step"],
        }
    return _table("Evaluation", rows)


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    return [f"## {title}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]


def _count(source: Mapping[str, Any], key: str) -> str:
    return f"{source[key]:,}" if key in source else ""


def _describe_data(folder: Path, weight: float) -> dict[str, Any]:
    """What a training folder's manifest tells, where the folder is still there."""
    facts: dict[str, Any] = {"path": str(folder), "weight": weight}
    if not (folder / "manifest.json").exists():
        return facts
    manifest = read_json(folder / "manifest.json", "corpus manifest")
    return facts | {
        "tokens": manifest["tokens"],
        "documents": manifest["documents"],
        "tokenizer": manifest["tokenizer"]["name"],
    }


def _last_validation(run: Path, step: int) -> dict[str, Any] | None:
    lines = [line for line in read_metrics(run / LOSS_FILE) if "validation_loss" in line and line["step"] <= step]
    return lines[-1] if lines else None
