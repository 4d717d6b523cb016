"""The samples of text that evaluations of a run have written into its folder.

In: the run folder. Out: texts by step. Always: only reads; a file that is no evaluation's, or does not say of which
step it is, is left out.
"""

from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_json
from pretrain.places import EVALUATIONS


def read_texts(run_folder: Path) -> dict[int, str]:
    """Step of the model -> what it wrote, in the order of steps."""
    found: dict[int, str] = {}
    for path in sorted((run_folder / EVALUATIONS).glob("*.json")):
        document: Any = None
        if path.is_file():
            try:
                document = read_json(path, "evaluation")
            except InputError:
                continue
        step = _inside(_inside(document, "model"), "step")
        tasks = _inside(document, "tasks")
        texts = [_inside(task, "text") for task in tasks.values()] if isinstance(tasks, dict) else []
        text = next((text for text in texts if isinstance(text, str)), None)
        if type(step) is int and text is not None:
            found[step] = text
    return dict(sorted(found.items()))


def _inside(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
