"""How the parameters of one rank are cut into buckets, the units in which gradients leave and weights return.

In: ParameterInfo of each parameter in the order of the forward pass, with its elements on this rank. Out: buckets, in
the order in which the forward pass first needs one. Always: pure arithmetic, the same on all ranks that exchange with
each other, and the planner's, too. All parameters of a bucket belong to one group of the optimizer.

Each bucket is a parameter group of DeepSpeed's, whose flat buffer it cuts into one partition for each rank: so every
rank receives its part of every bucket, and no rank waits for the whole backward pass to get its own. Replicated
parameters whose gradients are summed over the tensor-parallel group, too, share buckets with one another only. The
table of tokens and the head are buckets of their own: they are large, and with tied embeddings ready last and needed
first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.parallel import ParameterInfo
from pretrain.optimizers.base import Group, OptimizerKind

BYTES_PER_ELEMENT = 4
"""of the sums of gradients: fp32"""
LEAST_BYTES = 1 << 20
LEAST_BYTES_PER_RANK = 1 << 19
"""less for each of many ranks, and a ring spends more time on its hops than on the bytes"""
SHARE = 32
"""of the whole model in a bucket: what is left when the backward pass ends is about one bucket"""


@dataclass(frozen=True)
class Bucket:
    """Parameters that are exchanged together."""

    group: Group
    """the optimizer's group of all of them"""
    members: tuple[int, ...]
    """their places in the order of the forward pass"""
    elements: int
    """on this rank, without padding"""
    partial: bool
    """whether each gradient is a summand of the sum over the tensor-parallel group"""


def bucket_elements(megabytes: int | None, elements: int, ranks: int) -> int:
    """Elements at which a bucket is full.

    Args:
        megabytes: of fp32 gradients, as `parallel.bucket_megabytes` has it; None: chosen here.
        elements: of the whole model on one rank. ranks: that exchange.
    """
    if megabytes is not None:
        return megabytes * 2**20 // BYTES_PER_ELEMENT
    share = BYTES_PER_ELEMENT * elements // SHARE
    return max(share, LEAST_BYTES, LEAST_BYTES_PER_RANK * ranks) // BYTES_PER_ELEMENT


def cut_into_buckets(
    infos: Sequence[ParameterInfo], elements: Sequence[int], kind: OptimizerKind, full: int
) -> list[Bucket]:
    """The buckets of all parameters.

    Args:
        infos, elements: of each parameter, in the order of the forward pass.
        kind: the optimizer, whose groups a bucket does not mix.
        full: elements at which a bucket is closed.
    """
    open_members: dict[tuple[Group, bool], list[int]] = {}
    filled: dict[tuple[Group, bool], int] = {}
    closed: list[list[int]] = []
    for index, info in enumerate(infos):
        group = kind.group_of(info)
        if _is_vocabulary(info):
            closed.append([index])
            continue
        key = (group, info.partial_gradient)
        open_members.setdefault(key, []).append(index)
        filled[key] = filled.get(key, 0) + elements[index]
        if group.divisible and filled[key] >= full:
            closed.append(open_members.pop(key))
            filled[key] = 0
    closed += open_members.values()
    return [_bucket(members, infos, elements, kind) for members in sorted(closed)]


def _bucket(
    members: Sequence[int], infos: Sequence[ParameterInfo], elements: Sequence[int], kind: OptimizerKind
) -> Bucket:
    first = infos[members[0]]
    return Bucket(
        kind.group_of(first), tuple(members), sum(elements[index] for index in members), first.partial_gradient
    )


def _is_vocabulary(info: ParameterInfo) -> bool:
    """Of the embedding or the head: a matrix, but none of a block."""
    return info.decay and not info.matrix
