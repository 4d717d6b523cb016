"""The ledger's formula equals what two processes exchange: every kind, reading and mode, layer by layer."""

import itertools
from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from model.communication import layer_communication, partial_gradient_elements
from model.config import ModelConfig
from model.layers import build_layers
from model.loss import mean_loss
from model.parallel import info_of
from model.payload import Payload
from model.split import Collective, Split, entering
from pretrain.plan.ledger import Entry, Ledger
from tests.model.helpers import tokens
from tests.parallel.test_layers import KINDS, tensor_parallel
from tests.world import run_world

B, T = 2, 16


def as_pairs(collectives: Sequence[Collective | Entry]) -> list[tuple[str, int]]:
    """Operation and size of every call."""
    return sorted((one.operation, size) for one in collectives for size in sizes_of_calls(one))


def sizes_of_calls(one: Collective | Entry) -> list[int]:
    pieces, rows = getattr(one, "pieces", 1), T // 2
    edges = [rows * number // pieces for number in range(pieces + 1)]
    return [one.whole_bytes * (end - first) // rows for first, end in itertools.pairwise(edges)]


def detached(payload: Payload) -> Payload:
    return Payload(payload.x_TBD.detach().requires_grad_(), payload.layout)


def count_and_compare() -> list[str]:
    """The cases in which formula and count differ on this rank."""
    wrong = []
    modes = itertools.product(KINDS.items(), (False, True), ("none", "selective", "full"))
    for (kind, config), sequence_parallel, recompute in modes:
        sharding = tensor_parallel(sequence_parallel)
        split = Split(dist.get_world_size(), sequence_parallel, B, T, 4, recompute, row_pieces=3)
        expected = layer_communication(config, split)
        layers = build_layers(config, sharding, seed=1, activation_checkpointing=recompute)
        built = {layer.name: layer.build() for layer in layers if layer.tied_to is None}

        payload = tokens(config, B, T)
        for layer in layers:
            kind_of_layer = "block" if layer.name.startswith("blocks") else layer.name
            module = built[layer.tied_to or layer.name]
            leaf = payload if isinstance(payload, Tensor) else detached(payload)
            with Ledger() as forward:
                out = layer.forward(module, leaf)
            with Ledger() as backward:
                (out if isinstance(out, Tensor) else out.x_TBD).sum().backward()
            formula = (
                entering(split, config.hidden_size, "", 0) if layer.name == "head" else expected.get(kind_of_layer)
            )
            pairs = [as_pairs(formula.forward), as_pairs(formula.backward)] if formula else [[], []]
            if [as_pairs(forward.entries), as_pairs(backward.entries)] != pairs:
                wrong.append(f"{kind}, sequence {sequence_parallel}, {recompute}, {layer.name}")
            payload = out

        *_, head = layers
        with Ledger() as counter:
            head.forward(built[head.tied_to or head.name], leaf, finish=mean_loss(tokens(config, B, T))).backward()
        of_both = [c for name in ("head", "loss") for c in (*expected[name].forward, *expected[name].backward)]
        if as_pairs(counter.entries) != as_pairs(of_both):
            wrong.append(f"{kind}, loss")

        partial = [p for module in built.values() for p in module.parameters() if info_of(p).partial_gradient]
        if sum(p.numel() for p in partial) != sum(partial_gradient_elements(config, sequence_parallel).values()):
            wrong.append(f"{kind}, sequence {sequence_parallel}, partial gradients")
    return wrong


def test_the_formula_counts_what_two_processes_exchange() -> None:
    assert run_world(2, count_and_compare) == [[], []]


def test_one_process_exchanges_nothing() -> None:
    ledger = layer_communication(ModelConfig(), Split(1, False, B, T, 4))
    assert all(not layer.forward and not layer.backward for layer in ledger.values())


def test_ring_traffic_of_each_operation() -> None:
    assert Collective("all_reduce", "", 800).wire_bytes(4) == 1200
    assert Collective("all_gather", "", 800).wire_bytes(4) == Collective("reduce_scatter", "", 800).wire_bytes(4) == 600
