"""The files that a newcomer, a citation manager, GitHub and pre-commit read are what those expect, and agree.

In:     CITATION.cff, CHANGELOG.md, setup.py, .pre-commit-config.yaml, the Makefile, .github/.
Out:    nothing.
Always: the rules are those of the formats (Citation File Format 1.2.0, Keep a Changelog 1.1.0, GitHub's issue forms),
        written down here as far as the files use them.
"""

import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
FORMS = [path for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]

CITED = {"cff-version", "message", "title", "type", "version", "date-released", "license", "authors", "keywords"}
REFERENCE_TYPES = {"article", "conference-paper", "software"}
PERSON = {"family-names", "given-names"}
CHANGES = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
FORM_PARTS = {
    "markdown": {"value"},
    "textarea": {"label", "description", "placeholder", "render"},
    "dropdown": {"label", "options"},
    "checkboxes": {"label", "options"},
}


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def version_of_setup() -> str:
    found = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text())
    assert found
    return found[1]


def test_the_citation_is_valid_and_names_the_papers() -> None:
    citation = read("CITATION.cff")
    assert citation.keys() == CITED | {"references"}
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == version_of_setup()
    date.fromisoformat(citation["date-released"])
    for work in (citation, *citation["references"]):
        assert work["title"] and work["authors"]
        assert all(author.keys() in (PERSON, {"name"}) for author in work["authors"])
    assert {work["type"] for work in citation["references"]} <= REFERENCE_TYPES
    urls = {work["url"] for work in citation["references"]}
    assert urls == {"https://arxiv.org/abs/2501.17900", "https://arxiv.org/abs/2410.05258"}


def test_the_changelog_begins_with_what_is_unreleased_and_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    first, *released = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert first == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in released]
    assert all(versions), released
    dates = [date.fromisoformat(version[2]) for version in versions if version]
    assert dates == sorted(dates, reverse=True)
    assert versions[0] and versions[0][1] == version_of_setup()
    assert dates[0].isoformat() == read("CITATION.cff")["date-released"]
    for section in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", section, flags=re.MULTILINE)
        assert kinds and kinds == [kind for kind in CHANGES if kind in kinds]


def test_commits_are_checked_as_make_check_does() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system" and hook["pass_filenames"] is False
    make = ["make", "--dry-run", "--no-print-directory", "--assume-old=.venv/installed", "check"]
    done = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True)
    assert [hook["entry"] for hook in repository["hooks"]] == done.stdout.splitlines()


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_takes(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert content.keys() == {"name", "description", "labels", "body"}
    asked = [part for part in content["body"] if part["type"] != "markdown"]
    ids = [part["id"] for part in asked]
    assert asked and len(set(ids)) == len(ids)
    assert len({part["attributes"]["label"] for part in asked}) == len(ids)
    for part in content["body"]:
        assert part["attributes"].keys() <= FORM_PARTS[part["type"]]
        options = part["attributes"].get("options", [])
        labels = [option if part["type"] == "dropdown" else option["label"] for option in options]
        assert len(set(labels)) == len(labels)
        assert all(isinstance(label, str) for label in labels)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    """Within the tree: to a file, and where they name a heading, to one that is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    """But for those that a recipe makes."""
    text = document.read_text()
    rooms = "common|configs|data|docs|launch|model|pretrain|scripts|tests"
    named = set(re.findall(rf"`((?:{rooms})/[\w./-]*)`", text)) - set(
        re.findall(r"^`(\S+)`, new:$", text, re.MULTILINE)
    )
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_index_of_the_guides_lists_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w.-]+\.md)\)", index))


def anchors_of(document: Path) -> set[str]:
    """Names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
