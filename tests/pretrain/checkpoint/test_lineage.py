"""Where weights come from: starts and ancestors, through resumes, branches and imports."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.errors import InputError
from pretrain.checkpoint.lineage import Ancestor, Begun, Lineage, Software, descended, read_lineage
from pretrain.checkpoint.reader import CheckpointReader

OLD, NEW = Software(0, "a1", {"torch": "2.7"}), Software(7, "a1", {"torch": "2.8"})
FIRST = Ancestor("first", step=9, tokens=1_000, run="0f", data=["d"], software=[OLD])


def checkpoint(step: int, **state: Any) -> CheckpointReader:
    manifest = SimpleNamespace(state=state)
    return cast(
        CheckpointReader,
        SimpleNamespace(folder=Path("c"), step=step, config=SimpleNamespace(name="second"), manifest=manifest),
    )


def test_a_start_on_the_same_software_adds_no_entry_and_another_one_does() -> None:
    command, hosts = ["python", "-m", "pretrain"], ["node2", "node1", "node2"]
    once = Lineage().started("0f", OLD, command, hosts)
    again = once.started("0f", Software(3, OLD.commit, OLD.versions), command, hosts)
    assert again.software == once.software == [OLD]
    changed = again.started("0f", NEW, ["other"], ["node3"])
    assert changed.software == [OLD, NEW]
    assert (once.begun, changed.begun) == (Begun(command, ["node1", "node2"]), Begun(["other"], ["node3"]))
    assert changed.run == "0f"


def test_it_is_the_same_after_json() -> None:
    lineage = Lineage(parents=[FIRST]).started("1e", NEW, ["c"], ["h"])
    assert read_lineage({"lineage": asdict(lineage)}, "m") == lineage
    assert read_lineage({}, "m") == Lineage()


def test_tokens_add_up_over_ancestors_and_one_that_is_not_known_makes_all_unknown() -> None:
    second = Ancestor("second", tokens=200)
    assert Lineage().tokens_ever(5) == 5
    assert Lineage(parents=[FIRST, second]).tokens_ever(30) == 1_230
    assert Lineage(parents=[FIRST, Ancestor("llama")]).tokens_ever(30) is None


def test_a_branch_has_its_origin_as_the_last_parent() -> None:
    theirs = Lineage("1e", [FIRST], [NEW])
    stages = [{"datasets": ["x", "y"]}, {"datasets": ["y", "z"]}]
    origin = checkpoint(12, trainer={"tokens": 77}, data={"stages": stages}, lineage=asdict(theirs))
    found = descended(origin)
    assert found == Lineage(parents=[FIRST, Ancestor("second", 12, 77, "1e", ["x", "y", "z"], [NEW])])
    assert found.tokens_ever(3) == 1_080


def test_of_a_checkpoint_of_before_what_it_tells_is_known() -> None:
    assert descended(checkpoint(12, trainer={"tokens": 77})).parents == [Ancestor("second", 12, 77)]


def test_imported_weights_that_nobody_trained_are_no_ancestor_and_hand_theirs_on() -> None:
    imported = checkpoint(0, imported_from="folder", lineage=asdict(Lineage(parents=[FIRST])))
    assert descended(imported) == Lineage(parents=[FIRST])


@pytest.mark.parametrize(
    ("lineage", "said"),
    [
        ([], "'lineage' holds settings"),
        ({"parent": []}, "unknown key 'lineage.parent'; did you mean 'lineage.parents'?"),
        ({"parents": [{"step": 3}]}, "lineage.parents: 'name' is missing"),
        ({"parents": [{"name": "a", "tokens": -1}]}, "'tokens' is below 0"),
        ({"parents": [{"name": "a", "software": [{"step": 1}]}]}, "'commit' is missing"),
        ({"software": [{"step": 1, "commit": None, "versions": {"torch": 2}}]}, "must be a text, is 2"),
        ({"begun": {"command": ["a"]}}, "lineage.begun: 'hosts' is missing"),
    ],
)
def test_what_is_no_lineage_is_refused_by_name(lineage: Any, said: str) -> None:
    with pytest.raises(InputError, match=r"^manifest: ") as error:
        read_lineage({"lineage": lineage}, "manifest")
    assert said in str(error.value)
