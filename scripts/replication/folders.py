"""Where a study works: nothing in these folders is a result, and all of it can be made again.

In: the study's work folder. Out: places. Always: runs lie by what defines them, so cells that begin alike share them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pretrain.checkpoint.layout import checkpoints_of
from scripts.replication.plans import Plan, Stage


@dataclass(frozen=True)
class Folders:
    """A study's places."""

    work: Path

    @property
    def corpora(self) -> Path:
        """Texts."""
        return self.work / "corpora"

    def text(self, stage: Stage) -> Path:
        """The text of a stage: a folder with train/ and validation/."""
        return Path(stage.prepared) if stage.prepared is not None else self.corpora / stage.corpus

    def run(self, stage: Stage) -> Path:
        """The run folder."""
        return self.work / "runs" / stage.key

    def config(self, stage: Stage) -> Path:
        """The config file of the run."""
        return self.work / "configs" / f"{stage.key}.yaml"

    def log(self, key: str) -> Path:
        """What commands printed: the run of a stage, or the evaluations of a plan, by its key."""
        return self.work / "logs" / f"{key}.log"

    def export(self, plan: Plan) -> Path:
        """The exported model of a cell."""
        return self.work / "exports" / plan.key

    def results(self, plan: Plan) -> Path:
        """The results file of its evaluations."""
        return self.work / "evaluations" / plan.key / "results.json"

    def tidy(self, plan: Plan, needed: set[str]) -> None:
        """Removes what takes room, of a cell that has a result: its export, and the checkpoints of runs that no other
        cell needs (``needed`` has their keys). Losses, logs and evaluations stay."""
        shutil.rmtree(self.export(plan), ignore_errors=True)
        for stage in plan.stages:
            if stage.key not in needed:
                shutil.rmtree(checkpoints_of(self.run(stage)), ignore_errors=True)
