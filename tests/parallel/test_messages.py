"""Messages between stages that nobody waits for: what was sent is held until it has been received, and no longer."""

import gc
import weakref
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tests.parallel.training import start_engine, variant
from tests.world import run_world

MICRO_BATCHES, STEPS = 3, 3


def messages_held() -> list[tuple[int, int]]:
    """For each step: messages that it sends, and how many of the steps before are held when it ends."""
    parallel = {"pipeline": 2, "pipeline_schedule": "zero_bubble", "zero_stage": 1}
    engine, feed = start_engine(variant(parallel=parallel, batch={"global_size": MICRO_BATCHES, "micro_size": 1}))
    sent: list[list[weakref.ref[Tensor]]] = []
    send = dist.isend

    def noted(tensor: Tensor, *arguments: Any, **keywords: Any) -> Any:
        sent[-1].append(weakref.ref(tensor))
        return send(tensor, *arguments, **keywords)

    dist.isend = noted
    found = []
    for batches in feed.steps(0, STEPS):
        sent.append([])
        engine.train_step(batches, 1e-3)
        gc.collect()
        found.append((len(sent[-1]), sum(message() is not None for step in sent[:-1] for message in step)))
    return found


def test_what_was_sent_is_let_go_of_when_the_next_step_begins() -> None:
    """gloo calls no message complete that nobody has waited for."""
    assert run_world(2, messages_held) == [[(MICRO_BATCHES, 0)] * STEPS] * 2
