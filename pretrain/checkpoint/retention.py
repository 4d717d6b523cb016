"""Which checkpoints stay: the newest, every M-th step for ever, and the first one past every so many tokens.

In: the steps that there are. Out: the steps that may go. Always: the newest is never among them.
"""

import contextlib
import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import TEMPORARY_SUFFIX
from pretrain.checkpoint.layout import list_steps, step_of
from pretrain.records import forgiving


@dataclass(frozen=True)
class Retention:
    """The `checkpoint.keep*` settings of a run."""

    keep: int
    """newest checkpoints that stay; 0: all"""
    keep_every: int
    """steps whose multiples stay for ever; 0: none"""
    keep_tokens: int
    """the first checkpoint at or past every multiple of this many tokens stays for ever; 0: none"""
    tokens_at: Callable[[int], int] | None = None
    """tokens of the first so many steps; needed by ``keep_tokens`` only"""

    def expired(self, steps: Sequence[int]) -> list[int]:
        """Those of ``steps`` (ascending) that no rule keeps."""
        if self.keep < 1:
            return []
        milestones = {step for before, step in itertools.pairwise([0, *steps]) if self._passes(before, step)}
        return [step for step in steps[: -self.keep] if step not in milestones and not self._is_multiple(step)]

    def _is_multiple(self, step: int) -> bool:
        return self.keep_every > 0 and step % self.keep_every == 0

    def _passes(self, before: int, step: int) -> bool:
        if self.keep_tokens < 1 or self.tokens_at is None:
            return False
        return self.tokens_at(step) // self.keep_tokens > self.tokens_at(before) // self.keep_tokens


def retire(checkpoints: Path, retention: Retention) -> list[int]:
    """Removes what has expired; returns the steps. What cannot be removed is a warning.

    Only rank 0 calls it.
    """
    folders = {step_of(folder): folder for folder in list_steps(checkpoints)}
    expired = retention.expired(list(folders))
    for step in expired:
        with forgiving("it has expired, and stays"):
            remove_checkpoint(folders[step])
    return expired


def remove_checkpoint(folder: Path) -> None:
    """Removes one, first its name and then its content. One that is no longer there is as good."""
    doomed = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    with contextlib.suppress(FileNotFoundError):  # a person was quicker
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(checkpoints: Path) -> None:
    """Removes what killed saves left. Only rank 0 calls it, while no save is under way."""
    for leftover in checkpoints.glob(f"*{TEMPORARY_SUFFIX}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with forgiving("it is left over, and stays"):
                leftover.unlink(missing_ok=True)
