"""The model under evaluation: loaded once, asked by every task through the same few questions.

In: a folder (or hub name) of any causal model that transformers loads. Out: losses, continuations, attention maps.
Always: a damaged folder or a prompt longer than the model allows is one clear error, before any number comes out; the
memory of a long sample or prompt grows with its length, not with its square.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import InputError
from data.progress import Progress
from scripts.evaluation.batches import batches_of, left_padded
from scripts.evaluation.chunks import behind_padding, in_chunks, within_documents
from scripts.evaluation.folder import check_folder
from scripts.evaluation.settings import CHUNK_TOKENS
from scripts.hub.loading import ATTENTION, first_line, load_folder_tokenizer, load_model, must_run_code


@dataclass
class Subject:
    """A loaded model and its tokenizer."""

    name: str
    model: Any
    tokenizer: Any
    max_length: int
    """tokens that it may be given: the positions it was made for, where nothing else was asked for"""
    batch_tokens: int
    """tokens of the samples or prompts of a batch, at most; a longer one is alone"""
    chunk_tokens: int = CHUNK_TOKENS
    """tokens of a sample or prompt in one forward pass, at most"""
    progress: Progress = field(default_factory=lambda: Progress("evaluation", 0))
    """hears of every token that goes through the model"""
    is_main: bool = True
    """whether this process tells and writes what was found"""
    keeps_cache: ClassVar[bool] = True
    """``read`` is offered; else only ``next_logits``, in a pass of its own"""

    def describe(self) -> dict[str, Any]:
        """What a results file says about the model."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            "name": self.name,
            "class": type(self.model).__name__,
            "parameters": parameters,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "max_length": self.max_length,
        }

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return torch.device(self.model.device)

    @property
    def fingerprint(self) -> str | None:
        """That of the tokenizer; None where this project did not make it."""
        path = Path(self.name) / "tokenizer_info.json"
        return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"]) if path.exists() else None

    @property
    def vocab_size(self) -> int:
        """Entries of the embedding."""
        return int(self.model.config.get_text_config().vocab_size)

    def encode(self, text: str) -> list[int]:
        """Token ids without any special token: a text that quotes the name of one is text, as in training."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and for each the characters of ``text`` that it covers.

        Raises:
            InputError: the tokenizer cannot tell.
        """
        if not self.tokenizer.is_fast:
            raise InputError(f"--model {self.name}: this task needs a fast tokenizer, which tells characters of tokens")
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

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

    def _losses(self, tokens_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
        inputs, labels = tokens_BT[:, :-1].to(self.device), tokens_BT[:, 1:].to(self.device)
        mask = positions = None
        if starts_BT is not None:
            starts = starts_BT.to(self.device)
            mask, positions = within_documents(starts), torch.arange(inputs.shape[1], device=self.device) - starts
        losses = []
        for begin, end, logits, _ in in_chunks(self.model, inputs, self.chunk_tokens, mask, positions):
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels[:, begin:end].flatten(), reduction="none")
            del logits
            losses.append(loss.view(len(labels), -1).cpu())
            self.progress.add(0, loss.numel())
        return torch.cat(losses, dim=1)

    @torch.no_grad()
    def continue_greedily(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        guesses: Sequence[Sequence[int]] | None = None,
    ) -> list[list[int]]:
        """The most likely continuation of each prompt, of exactly ``max_new_tokens`` tokens; left-padded batches.

        ``guesses`` do not change it; a model without a cache takes fewer passes where one is right.
        """
        for prompt in prompts:
            self.check_length(len(prompt) + max_new_tokens, "prompt and answer")
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: list[list[int]] = [[] for _ in prompts]
        lengths = [len(prompts[index]) + max_new_tokens for index in order]
        for batch in batches_of(lengths, self.batch_tokens):
            chosen = [order[position] for position in batch]
            inputs, padding = left_padded([prompts[index] for index in chosen], self.device)
            mask = torch.ones_like(inputs) if padding is None else padding  # else pad_token_id's would be masked
            long = inputs.shape[1] > self.chunk_tokens
            out = self.model.generate(
                inputs,
                attention_mask=mask,
                past_key_values=self.read(inputs[:, :-1], None if padding is None else mask[:, :-1]) if long else None,
                max_new_tokens=max_new_tokens,
                min_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=0,
            )
            self.progress.add(0, out.numel() - (inputs[:, :-1].numel() if long else 0))
            for index, row in zip(chosen, out[:, inputs.shape[1] :].tolist(), strict=True):
                answers[index] = row
        return answers

    @torch.no_grad()
    def read(self, ids_BT: Tensor, mask_BT: Tensor | None = None) -> Any:
        """The cache behind ``ids_BT``, of which ``mask_BT`` marks the tokens that are no padding with 1."""
        cache = None
        mask, positions = behind_padding(mask_BT)
        passes = in_chunks(self.model, ids_BT, self.chunk_tokens, mask, positions, keep_cache=True, logits_to_keep=1)
        for begin, end, _, cache_so_far in passes:
            cache = cache_so_far
            self.progress.add(0, len(ids_BT) * (end - begin))
        return cache

    def next_logits(self, ids: Sequence[int]) -> Tensor:
        """The logits [V] behind ``ids``, of a model that keeps no cache."""
        raise NotImplementedError

    @torch.no_grad()
    def attention_maps(self, ids: Sequence[int], queries: int) -> list[Tensor]:
        """The attention maps [H, queries, T] of every layer for the last ``queries`` of ``ids``.

        The tokens before go through the usual kernel into the cache, so no T x T map is made.
        """
        self.check_length(len(ids), "prompt")
        tokens = torch.tensor([ids], device=self.device)
        before = len(ids) - queries
        cache = self.read(tokens[:, :before]) if before else None
        self.model.set_attn_implementation("eager")
        try:
            maps = self.model(tokens[:, before:], past_key_values=cache, output_attentions=True).attentions
        finally:
            self.model.set_attn_implementation(ATTENTION)
        return [layer[0].float().cpu() for layer in maps]


def load_subject(
    name: str,
    device: str,
    dtype: Literal["auto", "float32", "bfloat16", "float16"],
    batch_tokens: int,
    trust_remote_code: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
    max_length: int | None = None,
) -> Subject:
    """Loads a model and its tokenizer; code that they bring along runs only with ``trust_remote_code``.

    Raises:
        InputError: no such model, a damaged or half-written folder, no usable tokenizer, code that nobody allowed.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(name)
    runs_code = trust_remote_code
    if folder.is_dir():
        runs_code = must_run_code(folder, check_folder(folder), trust_remote_code)
    elif folder.is_absolute() or len(folder.parts) > 2:
        raise InputError(f"--model {name}: no such folder")
    try:
        tokenizer = load_folder_tokenizer(name, trust_remote_code)
        model = load_model(name, runs_code, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
        config = model.config.get_text_config()
        vocab_size = int(config.vocab_size)
        largest = max(tokenizer.get_vocab().values())
        positions = int(getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length)
    except InputError:
        raise
    except Exception as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise InputError(
                f"--model {name}: brings code that its model or tokenizer needs; read it, then allow it with "
                "--trust-remote-code true"
            ) from None
        raise InputError(f"--model {name}: cannot be loaded: {first_line(error)}") from error
    spoiled = next((name for name, value in model.named_parameters() if not bool(value.isfinite().all())), None)
    if spoiled is not None:
        raise InputError(f"--model {name}: {spoiled} has weights that are NaN or infinite")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()
    if largest >= vocab_size:
        raise InputError(
            f"--model {name}: its tokenizer has ids up to {largest}, its embedding only {vocab_size} entries; "
            "the tokenizer belongs to another model"
        )
    return Subject(name, model, tokenizer, max_length or positions, batch_tokens, chunk_tokens)
