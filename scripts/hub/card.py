"""The model card of an exported folder: what export.json says, for people.

In: the facts that scripts/hub/provenance.py has put together. Out: the text of README.md. Always: every number was
measured or is a setting; what is not known, or not stated, is said to be so.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from common.software import PROGRAM
from scripts.hub.usage import usage

NOT_STATED = "not stated"


def model_card(facts: Mapping[str, Any]) -> str:
    """The README.md of the folder."""
    model, config = facts["config"]["model"], facts["config"]
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
        **dict(_history(facts)),
        "batch": f"{config['batch']['global_size']:,} sequences",
        "optimizer": config["optimizer"]["kind"],
        "learning rate": f"{config['optimizer']['learning_rate']:g}, {config['schedule']['kind']}",
        "weight decay": config["optimizer"]["weight_decay"],
        "precision": config["train"]["precision"],
        "seed": config["seed"],
    }
    data = [
        f"| {source['name']} | {source['weight']:g} | {_count(source, 'tokens')} | {_count(source, 'documents')} "
        f"| {source.get('tokenizer', '')} | {source.get('license') or NOT_STATED} |"
        for source in facts["training_data"]
    ]
    lines = [
        "---",
        *([f"license: {facts['license']}"] if facts["license"] else []),
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"tags: [causal-lm, {model['attention'].replace('_', '-')}, differential-attention]",
        "---",
        "",
        f"# {facts['run']}, step {facts['step']}",
        "",
        "A pretrained language model: it continues text and was not tuned to follow instructions.",
        "",
        *usage(facts),
        *_table("Model", settings),
        *_table("Training", training),
        "## Training data",
        "",
        "| name | weight | tokens | documents | tokenizer | licence |",
        "|---|---|---|---|---|---|",
        *data,
        "",
        f"Licence of the weights: {facts['license'] or NOT_STATED}.",
        "",
        *_evaluation(facts),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _history(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What came before this run, and what trained the weights, as rows; the origin of branches first."""
    if facts["parents"]:
        ever = facts["tokens_ever"]
        yield "begun from", ", then ".join(map(_ancestor_in_words, facts["parents"]))
        yield "tokens ever trained on", "not known" if ever is None else f"{ever:,}"
    for software in facts["trained_by"]:
        of = software["versions"]
        told = [f"{name} {of[name]}" for name in of if name != PROGRAM]
        commit = [f"commit {software['commit']}"] if software["commit"] else []
        program = f"{PROGRAM} {of.get(PROGRAM, '')}".strip()
        yield f"trained by, from step {software['step']:,}", ", ".join([program, *commit, *told])


def _ancestor_in_words(parent: Mapping[str, Any]) -> str:
    step = "" if parent["step"] is None else f", step {parent['step']:,}"
    tokens = "tokens not known" if parent["tokens"] is None else f"{parent['tokens']:,} tokens"
    return f"{parent['name']}{step} ({tokens})"


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
