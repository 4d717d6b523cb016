"""A continuation of a prompt, to be read by a person.

In: a prompt, a temperature, a seed. Out: the text. Always: the same seed gives the same text.
"""

from typing import Any

import torch

from common.errors import InputError
from scripts.evaluation.loaded import LoadedSubject
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig


def run(subject: LoadedSubject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Generates one sample."""
    chosen = settings.sample
    prompt = subject.encode(chosen.prompt) or [end for end in [subject.end_id] if end is not None]
    if not prompt:
        raise InputError(f"--sample.prompt: give one; the tokenizer of {subject.name} has no token to begin with")
    new_tokens = min(chosen.tokens, subject.max_length - len(prompt))
    subject.check_length(len(prompt) + 1, "--sample.prompt")
    sampling = {"do_sample": False}
    if chosen.temperature > 0:
        sampling = {"do_sample": True, "temperature": chosen.temperature, "top_k": 0, "top_p": 0.95}  # type: ignore[dict-item]
    torch.manual_seed(settings.seed)
    inputs = torch.tensor([prompt], device=subject.device)
    mask = torch.ones_like(inputs)  # without one, token 0 would be taken for padding
    out = subject.model.generate(inputs, attention_mask=mask, max_new_tokens=new_tokens, pad_token_id=0, **sampling)
    text = subject.decode(out[0].tolist())
    return TaskResult({}, {"prompt": chosen.prompt, "temperature": chosen.temperature, "tokens": new_tokens}, text=text)
