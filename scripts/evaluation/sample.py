"""A continuation of a prompt, to be read by a person.

In: a prompt, a temperature, a seed. Out: the text. Always: the same seed gives the same text.
"""

from typing import Any

import torch

from common.errors import InputError
from scripts.evaluation.loaded import LoadedSubject
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.subject import Subject

TOP_P = 0.95
"""the share of the likeliest tokens among which is drawn"""


def run(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Generates one sample."""
    chosen = settings.sample
    prompt = subject.encode(chosen.prompt) or [end for end in [subject.end_id] if end is not None]
    if not prompt:
        raise InputError(f"--sample.prompt: give one; the tokenizer of {subject.name} has no token to begin with")
    new_tokens = min(chosen.tokens, subject.max_length - len(prompt))
    subject.check_length(len(prompt) + 1, "--sample.prompt")
    asked = (prompt, new_tokens, chosen.temperature, settings.seed)
    ids = _generated(subject, *asked) if isinstance(subject, LoadedSubject) else _drawn(subject, *asked)
    text = subject.decode(ids)
    return TaskResult({}, {"prompt": chosen.prompt, "temperature": chosen.temperature, "tokens": new_tokens}, text=text)


def _generated(subject: LoadedSubject, prompt: list[int], new_tokens: int, temperature: float, seed: int) -> list[int]:
    """``prompt`` and what transformers makes of it."""
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": TOP_P}
    torch.manual_seed(seed)
    inputs = torch.tensor([prompt], device=subject.device)
    mask = torch.ones_like(inputs)  # without one, token 0 would be taken for padding
    out = subject.model.generate(inputs, attention_mask=mask, max_new_tokens=new_tokens, pad_token_id=0, **sampling)
    found: list[int] = out[0].tolist()
    return found


def _drawn(subject: Subject, prompt: list[int], new_tokens: int, temperature: float, seed: int) -> list[int]:
    """``prompt`` and its continuation, of what keeps no cache: a pass for each token, the same on every rank."""
    generator, ids = torch.Generator().manual_seed(seed), list(prompt)
    subject.progress.total = new_tokens
    while len(ids) < len(prompt) + new_tokens and (len(ids) == len(prompt) or ids[-1] != subject.end_id):
        logits = subject.next_logits(ids)
        if temperature > 0:
            shares, order = (logits / temperature).softmax(dim=0).sort(descending=True)
            shares[shares.cumsum(dim=0) - shares >= TOP_P] = 0.0
            ids.append(int(order[torch.multinomial(shares, 1, generator=generator)]))
        else:
            ids.append(int(logits.argmax()))
        subject.progress.add(1, 0)
    return ids
