"""How an exported folder is used: the part of its card that has commands.

In: what export.json tells. Out: lines of Markdown. Always: every command is one that tests run on such a folder.
"""

from collections.abc import Mapping
from typing import Any

from scripts.hub.config_files import lora_targets


def usage(facts: Mapping[str, Any]) -> list[str]:
    """Loading, serving and tuning, in this order."""
    attention, factored = facts["config"]["model"]["attention"], facts["weights"] == "factored"
    own = attention != "standard"
    remote = ", trust_remote_code=True" if own else ""
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("DIR"{remote})',
        f'model = AutoModelForCausalLM.from_pretrained("DIR"{remote})',
        'inputs = tokenizer("Once upon a time", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))",
        "```",
        "",
        'With `attn_implementation="sdpa"` (the default) a prompt needs no T x T memory; left-padded batches of long',
        "prompts do not either with `generate(..., prefill_chunk_size=1024)`. Tried with transformers 4.57 to 5.23.",
        "",
        *_serving(own, factored),
        *_tuning(lora_targets(attention, factored), facts["pad_id"] == facts["eod_id"]),
    ]


def _serving(own: bool, factored: bool) -> list[str]:
    lines = ["## Serving", "", "```bash", f"vllm serve DIR{' --trust-remote-code' if own else ''}", "```", ""]
    if own and factored:
        lines += [
            "These weights are factored, and run on one device. Merged ones (`--weights merged`) are faster, and give",
            "the same logits.",
            "",
        ]
    return lines


def _tuning(targets: list[str], pads_with_end: bool) -> list[str]:
    lines = [
        "## Fine-tuning",
        "",
        "transformers' `Trainer` and PEFT take the model as it is, with gradient checkpointing, too. For LoRA:",
        "",
        "```python",
        f'LoraConfig(task_type="CAUSAL_LM", target_modules={targets})'.replace("'", '"'),
        "```",
        "",
    ]
    if pads_with_end:
        lines += [
            "The vocabulary has no token left for padding, so the end token pads. Set the labels of padding to -100 by",
            "the attention mask: a collator that does so by the token takes the loss off the ends, too.",
            "",
        ]
    return lines
