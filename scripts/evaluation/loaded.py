"""A model of a folder or of the hub under evaluation, loaded once by transformers.

In: a folder (or hub name) of any causal model that transformers loads. Out: a Subject, which offers its cache and its
attention maps, too. Always: a damaged folder is one clear error; long samples and prompts go through the model in
chunks.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import InputError
from scripts.evaluation.batches import batches_of, left_padded
from scripts.evaluation.chunks import behind_padding, in_chunks, within_documents
from scripts.evaluation.folder import check_folder
from scripts.evaluation.settings import CHUNK_TOKENS
from scripts.evaluation.subject import Ids, Subject
from scripts.hub.loading import ATTENTION, first_line, load_folder_tokenizer, load_model, must_run_code


class LoadedSubject(Subject):
    """transformers' model and tokenizer.

    Args:
        chunk_tokens: tokens of a sample or prompt in one forward pass, at most.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        max_length: int,
        batch_tokens: int,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        super().__init__(name, max_length, batch_tokens)
        self.model = model
        self.tokenizer = tokenizer
        self.chunk_tokens = chunk_tokens

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
    def end_id(self) -> int | None:
        """The tokenizer's end-of-text token."""
        end: int | None = self.tokenizer.eos_token_id
        return end

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

    def decode(self, ids: Ids) -> str:
        """The text of ``ids``."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

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

    def _continuations(self, prompts: Sequence[Ids], length: int, guesses: Sequence[Ids]) -> list[list[int]]:
        """In left-padded batches."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: list[list[int]] = [[] for _ in prompts]
        lengths = [len(prompts[index]) + length for index in order]
        for batch in batches_of(lengths, self.batch_tokens):
            chosen = [order[position] for position in batch]
            inputs, padding = left_padded([prompts[index] for index in chosen], self.device)
            mask = torch.ones_like(inputs) if padding is None else padding  # else pad_token_id's would be masked
            long = inputs.shape[1] > self.chunk_tokens
            out = self.model.generate(
                inputs,
                attention_mask=mask,
                past_key_values=self.read(inputs[:, :-1], None if padding is None else mask[:, :-1]) if long else None,
                max_new_tokens=length,
                min_new_tokens=length,
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

    @torch.no_grad()
    def attention_maps(self, ids: Ids, queries: int) -> list[Tensor]:
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
) -> LoadedSubject:
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
    return LoadedSubject(name, model, tokenizer, max_length or positions, batch_tokens, chunk_tokens)
