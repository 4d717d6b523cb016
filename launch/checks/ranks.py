"""The connected ranks, by node: what every check on the nodes starts from.

In: a connected Topology. Out: who shares a node with whom, and a way to ask every rank the same thing.
"""

import socket
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from pretrain.topology import Topology, device_of

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Ranks:
    """All ranks and their nodes, as this rank sees them."""

    topology: Topology
    hosts: tuple[str, ...]
    """the node of every rank"""

    @property
    def rank(self) -> int:
        """This rank."""
        return self.topology.rank

    @property
    def device(self) -> torch.device:
        """This rank's device."""
        return device_of(self.topology)

    @property
    def nodes(self) -> dict[str, list[int]]:
        """The ranks of every node, in order of rank."""
        nodes: dict[str, list[int]] = {}
        for rank, host in enumerate(self.hosts):
            nodes.setdefault(host, []).append(rank)
        return nodes

    @property
    def speaks_for_node(self) -> bool:
        """Whether this is the first rank of its node."""
        return self.nodes[self.hosts[self.rank]][0] == self.rank

    def ask(self, answer: Answer) -> list[Answer]:
        """Every rank's ``answer``, by rank; a collective call."""
        answers = [answer] * len(self.hosts)
        if len(self.hosts) > 1:
            dist.all_gather_object(answers, answer)
        return answers

    def ask_nodes(self, answer: Answer) -> dict[str, Answer]:
        """The answer of every node's first rank; a collective call."""
        answers = self.ask(answer)
        return {host: answers[ranks[0]] for host, ranks in self.nodes.items()}


def gather_ranks(topology: Topology) -> Ranks:
    """A collective call."""
    alone = Ranks(topology, (socket.gethostname(),) * topology.world_size)
    return Ranks(topology, tuple(alone.ask(socket.gethostname())))
