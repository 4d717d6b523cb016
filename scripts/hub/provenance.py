"""What an exported folder tells about where it comes from: export.json for programs, README.md for people.

In: the checkpoint's config and lineage, the run's metrics and the data manifests. Out: the two files.
Always: every number in the card was measured or is a setting; what is not known is left out. Both are made to be
published: only what is listed here goes in, and nothing of the machine does: no place, address, command, user or host.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_json, write_atomically, write_json
from common.ranges import LONGEST_SEQUENCE
from common.software import PROGRAM, versions
from common.typed import shown
from common.urls import without_credentials
from data.config import DataConfig, SourceConfig
from data.length_classes import with_classes
from data.manifest import MANIFEST_FILE, Manifest, parse_manifest
from model.config import ModelConfig
from pretrain.checkpoint.lineage import Ancestor, Software, lineage_of, read_lineage
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from pretrain.optimizers.config import OptimizerConfig
from pretrain.places import LOSS_FILE
from pretrain.step_lines import read_steps
from scripts.hub.card import model_card

PROVENANCE = "export.json"
FORMAT = 5
"""1 had the run's whole config, with commands and places; 2 counted each stream's keys as heads of their own; 3 had no
word of what trained the weights, of the runs before theirs, and of licences; 4 had shared bases and down-projections as
bare parameters, and padded with the end token"""

TOLD = {
    "model": tuple(field.name for field in fields(ModelConfig)),
    "data": ("sequence_length", "document_attention"),
    "batch": ("global_size",),
    "optimizer": tuple(field.name for field in fields(OptimizerConfig)),
    "schedule": ("kind", "warmup_steps", "decay_steps", "final_ratio"),
    "train": ("steps", "precision"),
}
"""the settings that are told: numbers and words of ours, never a text of the user's"""
SOFTWARE = (PROGRAM, "torch", "transformers", "safetensors", "tokenizers")
MEASURED = (
    *("step", "validation_loss", "validation_bits_per_byte", "validation_perplexity", "validation_samples"),
    *("validation_ar_hit_share", "validation_ar_hit_loss", "validation_others_loss"),
)
LONGEST_NAME = 80


def describe_export(run: Path, reader: CheckpointReader, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that export.json holds; ``settings`` are the export's own."""
    config, step = reader.config, reader.step
    tokens = reader.manifest.state.get("trainer", {}).get("tokens", 0)
    tokens = tokens if isinstance(tokens, int) else 0
    lineage = lineage_of(reader)
    return {
        "format": FORMAT,
        "run": plain_name(str(run.absolute())),
        "step": step,
        "tokens": tokens,
        "tokens_ever": lineage.tokens_ever(tokens),
        "parents": [_told_ancestor(parent) for parent in lineage.parents],
        "trained_by": [_told_software(software) for software in lineage.software],
        "config": _told_settings(config),
        "training_data": [
            _describe_data(source.path, source.weight) | {"license": source.license}
            for source in first_mixture(config.data)
        ],
        "validation_data": _describe_data(config.data.validation) if config.data.validation else None,
        "validation": _last_validation(run, step),
        "software": versions(SOFTWARE),
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


def _told_ancestor(parent: Ancestor) -> dict[str, Any]:
    """Of a run before this one what may be told: no name but a plain word, and no id of who trained it."""
    return {
        "name": plain_name(parent.name),
        "step": parent.step,
        "tokens": parent.tokens,
        "data": [plain_name(name) for name in parent.data],
        "software": [_told_software(software) for software in parent.software],
    }


def _told_software(software: Software) -> dict[str, Any]:
    return {
        "step": software.step,
        "commit": plain_name(software.commit) if software.commit else None,
        "versions": {plain_name(name): plain_name(version) for name, version in software.versions.items()},
    }


def ancestors_of(folder: Path) -> list[Ancestor]:
    """The runs behind the weights of ``folder``, an export or a folder of others; the last one's are the weights.

    Raises:
        InputError: an export.json that tells them in another way than exports do.
    """
    facts = read_provenance(folder)
    if facts is None:
        return [Ancestor(plain_name(str(folder.absolute())))]
    sources, parents = (facts.get(name, []) for name in ("training_data", "parents"))
    if not isinstance(sources, list) or not isinstance(parents, list):
        raise InputError(f"{folder / PROVENANCE}: 'training_data' and 'parents' must be lists")
    last = {
        "name": facts.get("run"),
        "step": facts.get("step"),
        "tokens": facts.get("tokens"),
        "data": [source["id"] for source in sources if isinstance(source, Mapping) and "id" in source],
        "software": facts.get("trained_by", []),
    }
    return read_lineage({"lineage": {"parents": [*parents, last]}}, str(folder / PROVENANCE)).parents


def _last_validation(run: Path, step: int) -> dict[str, Any] | None:
    """The numbers of the last evaluation up to ``step``; None where nothing was evaluated."""
    known = [line for line in read_steps(run / LOSS_FILE) if line.get("validation_loss") is not None]
    last = next((line for line in reversed(known) if line["step"] <= step), None)
    return last and {key: last.get(key) for key in MEASURED}
