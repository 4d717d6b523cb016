"""When ZeRO-3 gathers a weight: DeepSpeed's rule, followed step by step over one micro-batch.

In: a ModelConfig, the size of each parameter on this rank and DeepSpeed's limits. Out: how much is gathered, and how
much is there at the same time. Always: the rule of deepspeed.runtime.zero.partitioned_param_coordinator once it knows
the order of use: before a module runs, forward or backward, its weights are gathered, and some that come next
(prefetch); after it, they are let go unless they are used again soon (reuse distance) or the prefetch has counted on
their being there. Weights up to the persistence threshold stay.

A weight is thus gathered for each micro-batch once, where everything fits, up to twice, or three times with full
recomputation.
"""

import functools
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from model.block import Block
from model.config import ModelConfig
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded, info_of


@dataclass(frozen=True)
class Zero3Limits:
    """DeepSpeed's settings, in elements."""

    persistence: int
    """parameters up to this size stay gathered"""
    reuse_distance: int
    """a weight stays gathered when fewer elements than these are used before its next use"""
    live: int
    """nothing is prefetched while this many elements are gathered"""
    prefetch: int
    """elements that are gathered ahead of the module that runs"""


@dataclass(frozen=True)
class Zero3Traffic:
    """What is gathered for one micro-batch, in elements with DeepSpeed's padding."""

    gathered: int
    """sum of all gathers"""
    largest_live: int
    """most elements that are gathered at the same time, without those that always are"""


@dataclass(frozen=True)
class Visit:
    """A module begins or ends, forward or backward."""

    module: int
    begins: bool
    weights: tuple[str, ...]
    """its own weights, not its children's"""


def micro_batch_traffic(
    model: ModelConfig, sizes: dict[str, int], limits: Zero3Limits, copies: int, recomputes_blocks: bool
) -> Zero3Traffic:
    """Follows the rule over forward and backward pass; known once, for a plan asks again for each of its figures.

    Args:
        sizes: elements of each parameter on this rank by logical name, in the order of the layers.
        copies: ranks over which each parameter is split; it is padded to a multiple of them.
        recomputes_blocks: full activation checkpointing.
    """
    return _traffic(model, tuple(sizes.items()), limits, copies, recomputes_blocks)


@functools.lru_cache(maxsize=32)
def _traffic(
    model: ModelConfig,
    named: tuple[tuple[str, int], ...],
    limits: Zero3Limits,
    copies: int,
    recomputes_blocks: bool,
) -> Zero3Traffic:
    sizes = dict(named)
    visits = module_visits(model, recomputes_blocks)
    coordinator = _Coordinator([visit for visit in visits if visit.begins], sizes, limits)
    for visit in visits:
        if visit.begins:
            coordinator.fetch(visit)
        else:
            coordinator.release(visit)
    gathered = sum(count * -(-sizes[name] // copies) * copies for name, count in coordinator.gathers.items())
    return Zero3Traffic(gathered, coordinator.largest_live)


@functools.lru_cache(maxsize=8)
def module_visits(model: ModelConfig, recomputes_blocks: bool) -> tuple[Visit, ...]:
    """The modules in the order in which a forward and a backward pass enter and leave them.

    Autograd runs what was recorded last first, so the backward pass is the forward pass in reverse. Modules that read
    tokens get no gradient and are never left. Known once per model: a pass takes seconds, and a plan asks again for
    each of its figures.
    """
    language_model = LanguageModel(build_layers(model, Unsharded(packs=False), seed=0, device="meta"))
    forward: list[Visit] = []
    blocks: set[int] = set()
    without_gradient: set[int] = set()
    for number, module in enumerate(language_model.modules()):
        own = tuple(info_of(parameter).name for parameter in module.parameters(recurse=False))
        if module is language_model and model.tie_embeddings:
            own = ("embedding.weight",)  # the engine registers it there: the head reads it outside its own module
        if isinstance(module, Block):
            blocks.add(number)
        module.register_forward_pre_hook(_noting(forward, Visit(number, True, own), without_gradient))
        module.register_forward_hook(_noting(forward, Visit(number, False, own)))
    language_model(torch.zeros(1, 2, dtype=torch.int64, device="meta"))
    backward = [replace(visit, begins=not visit.begins) for visit in reversed(forward)]
    if recomputes_blocks:
        backward = _with_recomputation(backward, blocks)
    return (*forward, *(visit for visit in backward if visit.begins or visit.module not in without_gradient))


def _with_recomputation(backward: list[Visit], blocks: set[int]) -> list[Visit]:
    """Puts each block's second forward pass where its backward pass needs the first saved tensor.

    That is in the block's last module, once the modules around it have begun; the second pass stops there, too.
    """
    visits: list[Visit] = []
    start = 0
    while start < len(backward):
        first = backward[start]
        stop = start + 1
        if first.module in blocks:
            stop = next(place for place in range(stop, len(backward)) if backward[place].module == first.module) + 1
            inner = backward[start + 1 : stop - 1]
            opened = next(place for place, visit in enumerate(inner) if not visit.begins)
            again = [replace(visit, begins=not visit.begins) for visit in reversed(inner[opened:])]
            visits += [first, *inner[:opened], *again, *inner[opened:], backward[stop - 1]]
        else:
            visits.append(first)
        start = stop
    return visits


def _noting(visits: list[Visit], visit: Visit, without_gradient: set[int] | None = None) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], *output: Any) -> None:
        visits.append(visit)
        if without_gradient is not None and not _takes_gradient(inputs):
            without_gradient.add(visit.module)

    return hook


def _takes_gradient(value: Any) -> bool:
    """Whether a tensor in what a module takes, a payload for one, needs a gradient."""
    if isinstance(value, tuple):
        return any(map(_takes_gradient, value))
    return isinstance(value, torch.Tensor) and value.requires_grad


class _Coordinator:
    """The state of DeepSpeed's coordinator that decides on gathers."""

    def __init__(self, uses: Sequence[Visit], sizes: dict[str, int], limits: Zero3Limits) -> None:
        order = {name: place for place, name in enumerate(sizes)}
        self._uses = [tuple(sorted(use.weights, key=order.__getitem__)) for use in uses]
        self._sizes = sizes
        self._numel = [sum(sizes[name] for name in names) for names in self._uses]
        self._limits = limits
        self._persistent = {name for name, size in sizes.items() if size <= limits.persistence}
        self._there = set(self._persistent)
        self._used_by: dict[str, set[int]] = {name: set() for name in sizes}
        self._queue = deque((name, step) for step, names in enumerate(self._uses) for name in names)
        self._reached: dict[str, int] = {}  # the last use that fetch or prefetch has looked at
        self._step = 0
        self._live = 0
        self.gathers: Counter[str] = Counter()
        self.largest_live = 0

    def fetch(self, visit: Visit) -> None:
        """Before a module runs."""
        names = self._uses[self._step]
        self._gather(names)
        for name in names:
            self._used_by[name].add(visit.module)
        self._skip_own_uses(names)
        self._prefetch()
        self._step += 1

    def release(self, visit: Visit) -> None:
        """After a module has run."""
        for name in visit.weights:
            self._used_by[name].discard(visit.module)
        idle = {name for name in visit.weights if self._may_go(name)}
        for name in idle - self._used_soon(idle):
            self._there.remove(name)
            self._live -= self._sizes[name]

    def _may_go(self, name: str) -> bool:
        expected = self._reached.get(name, -1) > self._step
        return name in self._there and not (name in self._persistent or expected or self._used_by[name])

    def _gather(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._there:
                self._there.add(name)
                self.gathers[name] += 1
                self._live += self._sizes[name]
        self.largest_live = max(self.largest_live, self._live)

    def _skip_own_uses(self, names: Sequence[str]) -> None:
        """Takes this module's uses off the queue, unless a prefetch has done so."""
        waiting = {name for name in names if self._reached.get(name, -1) < self._step}
        seen: set[str] = set()
        while self._queue and len(seen) < len(waiting):
            name, self._reached[name] = self._queue.popleft()
            seen.add(name)

    def _prefetch(self) -> None:
        if not self._limits.prefetch:
            return
        budget = min(self._limits.live - self._live, self._limits.prefetch)
        chosen: dict[str, None] = {}
        reached = 0
        while self._queue and reached < budget:
            name, step = self._queue.popleft()
            self._reached[name] = max(self._reached.get(name, -1), step)
            if name not in self._there and name not in chosen:
                chosen[name] = None
                reached += self._sizes[name]
        self._gather(list(chosen))

    def _used_soon(self, names: set[str]) -> set[str]:
        """Those of ``names`` that the next modules use within the reuse distance."""
        soon: set[str] = set()
        distance, step = 0, self._step
        while len(soon) < len(names) and distance < self._limits.reuse_distance and step < len(self._uses):
            soon.update(name for name in self._uses[step] if name in names)
            distance += self._numel[step]
            step += 1
        return soon
