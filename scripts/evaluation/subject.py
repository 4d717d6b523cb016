"""The model under evaluation: asked by every task through the same few questions, whatever runs it.

In: tokens, prompts, texts. Out: losses, continuations, token ids. Always: a sample or prompt longer than the model
allows is one clear error, before any number comes out; the memory of a long one grows with its length, not with its
square.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from data.progress import Progress

Ids = Sequence[int]
"""tokens of one text"""


class Subject(ABC):
    """A model and its tokenizer.

    Args:
        name: what `--model` says.
        max_length: tokens that it may be given: those it was made for, where nothing else was asked for.
        batch_tokens: tokens of the samples or prompts of a batch, at most; a longer one is alone.
    """

    is_main: bool = True
    """whether this process tells and writes what was found"""

    def __init__(self, name: str, max_length: int, batch_tokens: int) -> None:
        self.name = name
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self.progress = Progress("evaluation", 0)
        """hears of every token that goes through the model"""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a results file says about the model."""

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """That of the tokenizer; None where this project did not make it."""

    @property
    @abstractmethod
    def end_id(self) -> int | None:
        """The token that ends a document; None: the tokenizer has none."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Entries of the embedding."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids without any special token: a text that quotes the name of one is text, as in training."""

    @abstractmethod
    def decode(self, ids: Ids) -> str:
        """The text of ``ids``."""

    def check_length(self, length: int, what: str) -> None:
        """Raises InputError where ``length`` tokens are more than the model's positions."""
        if length > self.max_length:
            raise InputError(f"{what}: needs {length} tokens, more than the {self.max_length} that {self.name} allows")

    @torch.no_grad()
    def token_losses(self, tokens_BT: Tensor, document_starts_BT: Tensor | None = None) -> Tensor:
        """-log p of tokens 1 .. T-1 given those before, [B, T-1] in fp32 on the CPU.

        ``document_starts_BT`` [B, T-1] keeps attention and positions inside documents, as in training.

        Raises:
            InputError: a loss is not finite: the weights are, but no longer those of a trained model.
        """
        self.check_length(tokens_BT.shape[1] - 1, "sample")
        rows = max(1, self.batch_tokens // tokens_BT.shape[1])
        batches = tokens_BT.split(rows)
        starts = [None] * len(batches) if document_starts_BT is None else document_starts_BT.split(rows)
        found = torch.cat([self._losses(*batch) for batch in zip(batches, starts, strict=True)])
        if not found.isfinite().all():
            raise InputError(f"--model {self.name}: computes losses that are not finite; its weights are damaged")
        return found

    @abstractmethod
    def _losses(self, tokens_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
        """``token_losses`` of a batch."""

    @torch.no_grad()
    def continue_greedily(
        self, prompts: Sequence[Ids], max_new_tokens: int, guesses: Sequence[Ids] | None = None
    ) -> list[list[int]]:
        """The most likely continuation of each prompt, of exactly ``max_new_tokens`` tokens.

        ``guesses`` do not change it; a model without a cache takes fewer passes where one is right.
        """
        for prompt in prompts:
            self.check_length(len(prompt) + max_new_tokens, "prompt and answer")
        return self._continuations(prompts, max_new_tokens, guesses or [[] for _ in prompts])

    @abstractmethod
    def _continuations(self, prompts: Sequence[Ids], length: int, guesses: Sequence[Ids]) -> list[list[int]]:
        """``continue_greedily`` where there is room; a guess for each prompt."""

    def next_logits(self, ids: Ids) -> Tensor:
        """The logits [V] behind ``ids``, in a pass of its own: asked of what keeps no cache."""
        raise NotImplementedError
