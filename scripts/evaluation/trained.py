"""A run's checkpoint under evaluation, by the trainer's own layers on as many processes as there are.

In: a run folder, a step; under torchrun the ranks. Out: a Subject that answers an exported model's questions, and what
an export would say of itself. Always: every rank asks the same in the same order and gets the same answers; model and
sample need to fit on all ranks together only. There is no cache: a token of an answer that was not guessed is a pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from data.tokenizer import Tokenizer
from model.counts import parameter_counts
from pretrain.checkpoint.agreement import told_by_main
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from pretrain.engines.connection import connect, disconnect
from pretrain.scoring import Scorer, scoring_config
from pretrain.topology import Topology, topology_from_environment
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.subject import Ids, Subject
from scripts.export import digest_of, find_checkpoint, find_tokenizer
from scripts.hub.provenance import describe_export

TASKS = (
    *("held_out", "sample", "positions", "ar_hit", "needles", "needles_long"),
    *("in_context", "in_context_orders"),
)
"""those that ask for losses, answers, labels and texts only"""


@contextmanager
def opened_run(settings: EvaluateConfig) -> Iterator[tuple[Subject, EvaluateConfig, dict[str, Any]]]:
    """The model of a run folder, the settings with the run's own data, and what an export would say of it.

    Raises:
        InputError: no such checkpoint, a split that the model does not allow, a task that needs an exported model.
    """
    unfit = [name for name in (task.strip() for task in settings.tasks.split(",")) if name and name not in TASKS]
    if unfit:
        raise InputError(
            f"--tasks {unfit[0]}: needs an exported model (scripts/export.py); a run folder itself answers "
            f"{', '.join(TASKS)}"
        )
    folder = Path(settings.model)
    reader = CheckpointReader(find_checkpoint(folder, settings.run.step, ("--model", "--run.step")))
    config = scoring_config(reader.config, settings.run.tensor)
    topology = topology_from_environment(config.parallel)
    tokenizer = find_tokenizer(config, settings.run.tokenizer, "--run.tokenizer")
    connect(topology)
    try:
        reader = reader_of_main(topology, reader)
        config = scoring_config(reader.config, settings.run.tensor)
        facts = describe_export(folder, reader, {"checkpoint": digest_of(reader), "tokenizer": tokenizer.fingerprint})
        subject = TrainedSubject(settings, Scorer(config, topology, reader), tokenizer, config, topology)
        counting = replace(settings.ar_hit, training=settings.ar_hit.training or config.data.train[0].path)
        yield subject, replace(settings, data=settings.data or config.data.validation, ar_hit=counting), facts
    finally:
        disconnect()


def reader_of_main(topology: Topology, reader: CheckpointReader) -> CheckpointReader:
    """The checkpoint that rank 0 has found: a save may have ended after it looked, and before this rank did."""
    chosen = told_by_main(topology, lambda: reader.folder)
    return reader if chosen == reader.folder else CheckpointReader(chosen)


class TrainedSubject(Subject):
    """A Scorer and the tokenizer of its training data."""

    def __init__(
        self, settings: EvaluateConfig, scorer: Scorer, tokenizer: Tokenizer, config: RunConfig, topology: Topology
    ) -> None:
        super().__init__(settings.model, settings.max_length or config.data.longest_sample, settings.batch_tokens)
        self.is_main = topology.is_main
        self._scorer, self._tokenizer, self._config, self._topology = scorer, tokenizer, config, topology

    def describe(self) -> dict[str, Any]:
        """What a results file says about the model."""
        return {
            "name": self.name,
            "class": "the trainer's layers",
            "parameters": sum(parameter_counts(self._config.model).values()),
            "dtype": str(self._config.train.dtype).removeprefix("torch."),
            "max_length": self.max_length,
            "topology": self._topology.describe(),
        }

    @property
    def fingerprint(self) -> str:
        """That of the tokenizer."""
        return self._tokenizer.fingerprint

    @property
    def end_id(self) -> int:
        """The token between documents."""
        return self._tokenizer.eod_id

    @property
    def vocab_size(self) -> int:
        """Entries of the embedding."""
        return self._config.model.vocab_size

    def encode(self, text: str) -> list[int]:
        """Token ids; names of special tokens are text."""
        return self._tokenizer.encode(text)

    def decode(self, ids: Ids) -> str:
        """The text of ``ids``."""
        return self._tokenizer.decode(list(ids))

    def _continuations(self, prompts: Sequence[Ids], length: int, guesses: Sequence[Ids]) -> list[list[int]]:
        """What was guessed is checked in one pass, as far as it is right."""
        return [self._answer(list(prompt), length, guess) for prompt, guess in zip(prompts, guesses, strict=True)]

    def next_logits(self, ids: Ids) -> Tensor:
        """The logits [V] behind ``ids``."""
        return self._logits(ids, 1)[-1]

    def _answer(self, prompt: list[int], length: int, guess: Ids) -> list[int]:
        said: list[int] = []
        while len(said) < length:
            right_so_far = list(guess[: len(said)]) == said
            ahead = list(guess[len(said) : length - 1]) if right_so_far else []
            logits = self._logits([*prompt, *said, *ahead], 1 + len(ahead))
            logits[:, self._tokenizer.eod_id] = -torch.inf  # an answer has its length
            best = logits.argmax(dim=1).tolist()
            right = next((place for place, token in enumerate(ahead) if best[place] != token), len(ahead))
            said += best[: right + 1]
        return said

    def _logits(self, ids: Ids, last: int) -> Tensor:
        """Behind each of the ``last`` of ``ids``."""
        self.progress.add(0, len(ids))
        return self._scorer.logits(ids, range(len(ids) - last, len(ids)))

    def _losses(self, tokens_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
        losses = self._scorer.losses(tokens_BT, starts_BT)
        self.progress.add(0, losses.numel())
        return losses
