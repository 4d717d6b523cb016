"""The same code on the same libraries on every node.

In: the packages that this process would import. Out: one Finding; any difference is an error that names the nodes.
"""

import contextlib
import hashlib
import importlib.metadata
import platform
from pathlib import Path

import torch

from launch.checks.finding import Finding, Level, by_value
from launch.checks.ranks import Ranks

LIBRARIES = ("torch", "deepspeed", "megatron-core", "numpy", "flash-attn", "apex")
ROOMS = ("common", "data", "model", "pretrain", "launch")


def check_software(ranks: Ranks) -> Finding:
    """Compares versions and the hash of the code between the nodes."""
    answers = ranks.ask_nodes(software())
    differing = [
        f"{name} is {by_value([(node, answer[name]) for node, answer in answers.items()])}"
        for name in next(iter(answers.values()))
        if len({answer[name] for answer in answers.values()}) > 1
    ]
    if differing:
        return Finding("software", f"the nodes differ: {'; '.join(differing)}", Level.ERROR)
    known = next(iter(answers.values()))
    versions = ", ".join(f"{name} {version}" for name, version in known.items() if version != "none")
    return Finding("software", f"equal on {len(answers)} node{'s' if len(answers) > 1 else ''}: {versions}")


def software() -> dict[str, str]:
    """Versions of what computes, and the hash of the project's code, as this process would import them."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "none"
    versions["cuda"] = torch.version.cuda or "none" if torch.cuda.is_available() else "none"
    return {**versions, "code": code_hash(Path(__file__).parents[2])[:12]}


def code_hash(project: Path) -> str:
    """A digest of all Python files of the project's packages, by name and content, but for hidden ones."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((project / room).rglob("*.py")):
            name = path.relative_to(project)
            if any(part.startswith(".") for part in name.parts) or not path.is_file():
                continue  # an editor's, such as Emacs' lock, a link to nothing
            with contextlib.suppress(FileNotFoundError):  # it has just gone
                digest.update(str(name).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
