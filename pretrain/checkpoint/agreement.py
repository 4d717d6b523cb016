"""What the ranks must find alike although each looks for itself: file systems show them different folders for a while.

In: what one rank finds, or each of them. Out: one answer on every rank. Always: collective calls; what rank 0 cannot
find, every rank refuses with the same line, and no rank waits for one that is gone.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from common.errors import InputError
from pretrain.topology import Topology

Value = TypeVar("Value")


def told_by_main(topology: Topology, look: Callable[[], Value]) -> Value:
    """What ``look`` finds on rank 0, the only rank that looks.

    Raises:
        InputError: on every rank, where it was raised on rank 0. What else was raised there is raised there, and is an
            InputError on the others.
    """
    answer: list[Any] = [None, None]
    raised: Exception | None = None
    if topology.is_main:
        try:
            answer[0] = look()
        except Exception as error:
            raised, answer[1] = error, str(error) or type(error).__name__
    if topology.world_size > 1:
        dist.broadcast_object_list(answer, src=0)
    if raised is not None:
        raise raised
    if answer[1] is not None:
        raise InputError(answer[1])
    found: Value = answer[0]
    return found


def first_problem(topology: Topology, problem: str | None) -> str | None:
    """The problem of the lowest rank that has one."""
    problems: list[str | None] = [problem]
    if topology.world_size > 1:
        problems = [None] * topology.world_size
        dist.all_gather_object(problems, problem)
    return next((text for text in problems if text), None)
