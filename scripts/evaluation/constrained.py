"""Decoding that can only say one of the given labels.

In: a shared context, queries behind it, labels. Out: a label per query. Always: at each step the most likely token
among those that continue a still valid label is taken; the context goes through the model once for all queries.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from scripts.evaluation.batches import left_padded
from scripts.evaluation.loaded import LoadedSubject
from scripts.evaluation.subject import Subject

Trie = dict[int, Any]
END = -1  # key of a finished label inside the trie


def build_trie(subject: Subject, labels: Sequence[str]) -> Trie:
    """The labels' tokens as nested mappings; every label ends with the tokens of a line break.

    The line break decides between a label and a longer one that begins with it.
    """
    root: Trie = {}
    for label in labels:
        node = root
        for token in subject.encode(f" {label}\n"):
            node = node.setdefault(token, {})
        node[END] = label
    return root


@torch.no_grad()
def classify(subject: Subject, context: str, queries: Sequence[str], trie: Trie) -> list[str]:
    """The label of each query; ``context`` is the demonstrations' text, read once."""
    prefix = subject.encode(context)
    encoded = [subject.encode(query) for query in queries]
    longest = max(map(len, encoded)) + depth_of(trie)
    subject.check_length(len(prefix) + longest, "in_context: demonstrations and a query")
    if not isinstance(subject, LoadedSubject):
        return [_decide(subject, prefix + query, trie) for query in encoded]
    cache: Any = subject.read(torch.tensor([prefix], device=subject.device)) if prefix else None
    rows = max(1, subject.batch_tokens // (len(prefix) + longest))
    labels: list[str] = []
    for first in range(0, len(encoded), rows):
        if rows == 1 and _can_be_cut(cache):  # a copy of a long context's cache would double the memory
            labels += _classify_batch(subject, len(prefix), cache, encoded[first : first + 1], trie)
            cache.crop(len(prefix) - cache.get_seq_length())
        else:
            labels += _classify_batch(subject, len(prefix), deepcopy(cache), encoded[first : first + rows], trie)
    return labels


def depth_of(trie: Trie) -> int:
    """Tokens of the longest label, its line break included."""
    return max((1 + depth_of(child) for token, child in trie.items() if token != END), default=0)


def _decide(subject: Subject, ids: list[int], trie: Trie) -> str:
    """The label behind ``ids``, in a pass for each token at which labels part."""
    node = trie
    while END not in node:
        token = _best(subject.next_logits(ids), node) if len(node) > 1 else next(iter(node))
        ids, node = [*ids, token], node[token]
    return str(node[END])


def _can_be_cut(cache: Any) -> bool:
    """Whether what came behind a context can be taken off its cache: not where a layer forgets what left its window."""
    return bool(getattr(cache, "is_croppable", False)) and not any(cache.is_sliding)


def _classify_batch(
    subject: LoadedSubject, prefix_length: int, cache: Any, queries: Sequence[list[int]], trie: Trie
) -> list[str]:
    if cache is not None and len(queries) > 1:
        cache.batch_repeat_interleave(len(queries))
    ids, mask = left_padded(queries, subject.device)
    own = torch.ones_like(ids) if mask is None else mask
    mask = torch.cat([own.new_ones(len(queries), prefix_length), own], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, prefix_length:]
    nodes: list[Trie] = [trie for _ in queries]
    labels: list[str | None] = [None for _ in queries]
    while True:
        out = subject.model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache = out.past_key_values
        subject.progress.add(0, ids.numel())
        tokens = []
        for row, node in enumerate(nodes):
            token = _best(out.logits[row, -1], node)
            tokens.append(token)
            nodes[row] = node.get(token, node)
            if labels[row] is None and END in nodes[row]:
                labels[row] = nodes[row][END]
        if all(label is not None for label in labels):
            return [label for label in labels if label is not None]
        ids = torch.tensor(tokens, device=subject.device)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(queries), 1)], dim=1)
        positions = positions[:, -1:] + 1


def _best(logits: torch.Tensor, node: Trie) -> int:
    """The most likely of the tokens that go on; any token where the label is complete."""
    allowed = [token for token in node if token != END]
    return allowed[int(logits[allowed].argmax())] if allowed else 0
