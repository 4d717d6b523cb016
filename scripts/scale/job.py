"""`python -m scripts.scale.job PROGRAM`: one rank of one program of the lab.

In: a Program as JSON; torchrun's variables; on standard input one order a line. Out: on standard output one line of
JSON for each order. Always: it ends when nobody speaks to it any more.

    steps 5     takes 5 steps -> {"seconds": {contender: seconds of each}, "loss": of the last one}
    ledger      takes one step and counts what it sends -> {"sent": bytes, "sent_by_gloo": bytes}
    rate        sends, and nothing else -> {"rate": bytes per second that leave each node}
    races 200   takes as many steps twice, once under random delays -> {"equal": bool, "delayed": calls, "loss": ...}
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TextIO

import torch

from pretrain.engines.accelerator import choose_accelerator
from pretrain.plan.exchange import Exchange, Totals
from scripts.scale.programs import Program

LONGEST_DELAY = 0.01
"""seconds before each exchange"""
LEARNING_RATE = 1e-3
PROBE_BYTES = 4 << 20
PROBES = 16
PROBE_ROUNDS = 3

Step = Callable[[], float]
"""takes one step and returns its loss on this rank"""


def main(arguments: list[str]) -> int:
    """Follows orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    program = Program(**json.loads(arguments[0]))
    choose_accelerator()
    torch.set_num_threads(1)
    from pretrain.engines.connection import connect
    from pretrain.topology import topology_from_environment

    connect(topology_from_environment(program.config.parallel))
    contenders = {} if program.kind == "races" else _contenders(program)
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        order, *numbers = line.split()
        if order == "steps":
            _answer(answers, _take(contenders, int(numbers[0])))
        elif order == "ledger":
            _answer(answers, _count(contenders))
        elif order == "rate":
            _answer(answers, {"rate": _rate()})
        else:
            _answer(answers, _race(program, int(numbers[0])))
    os._exit(0)  # the partners may be gone already


def _answer(answers: TextIO, value: dict[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)


def _take(contenders: dict[str, Step], count: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    loss = 0.0
    for _ in range(count):
        for name, step in contenders.items():
            start = time.perf_counter()
            loss = step()
            seconds[name].append(time.perf_counter() - start)
    return {"seconds": seconds, "loss": loss}


def _count(contenders: dict[str, Step]) -> dict[str, Any]:
    from pretrain.plan.ledger import Ledger

    with Ledger() as ledger:
        for step in contenders.values():
            step()
    counted = ledger.totals()
    return {"sent": sent_bytes(counted), "sent_by_gloo": sent_bytes(counted, by_gloo=True)}


def _rate() -> float:
    """Of many exchanges asked for at once, as the engine's are; the best of a few, for other work disturbs."""
    import torch.distributed as dist

    ranks = dist.get_world_size()
    sent = [torch.zeros(PROBE_BYTES // 4 // ranks * ranks) for _ in range(PROBES)]
    arrived = [torch.empty_like(one) for one in sent]
    seconds = []
    for _ in range(PROBE_ROUNDS):
        dist.barrier()
        start = time.perf_counter()
        works = [dist.all_to_all_single(there, here, async_op=True) for there, here in zip(arrived, sent, strict=True)]
        for work in works:
            work.wait()
        seconds.append(time.perf_counter() - start)
    return PROBES * 4 * sent[0].numel() * (ranks - 1) / ranks / min(seconds)


def sent_bytes(counted: Totals, by_gloo: bool = False) -> float:
    """Bytes that this rank sends with ring algorithms, of what a ledger counted; pieces of all-to-alls are alike.

    ``by_gloo``: it makes a reduce-scatter of an all-reduce.
    """
    sent = 0.0
    for (ranks, operation), size in counted.items():
        if by_gloo and operation == "reduce_scatter":
            operation = "all_reduce"
        if operation == "all_to_all":
            sent += size * (len(ranks) - 1) / len(ranks)
        elif operation != "receive":
            sent += Exchange("data", ranks, operation, "", size).wire_bytes
    return sent


def _race(program: Program, steps: int) -> dict[str, Any]:
    import torch.distributed as dist

    from scripts.scale.delays import Delays

    losses: list[list[float]] = []
    delays = Delays(seed=dist.get_rank(), longest=LONGEST_DELAY)
    for delayed in (False, True):
        step = _engine(program)
        with delays if delayed else nullcontext():
            losses.append([step() for _ in range(steps)])
    return {"equal": losses[0] == losses[1], "delayed": delays.count, "loss": losses[1][-1]}


def _contenders(program: Program) -> dict[str, Step]:
    match program.kind:
        case "plain":
            return {"plain": _plain(program)}
        case "ddp":
            return {"ddp": _plain(program, exchanging=True)}
        case "alone":
            return {"engine": _engine(program), "plain": _plain(program)}
        case _:
            return {"engine": _engine(program)}


def _batches(program: Program) -> Sequence[Any]:
    """One step's micro-batches of this rank, the same in every step."""
    from model.context.base import spans_of
    from pretrain.engines.micro_batch import MicroBatch
    from pretrain.topology import topology_from_environment

    config = program.config
    topology = topology_from_environment(config.parallel)
    spans = spans_of(config.data.sequence_length, topology.context_size, topology.context_rank)
    generator = torch.Generator().manual_seed(topology.data_rank)
    shape = config.batch.micro_size, config.data.sequence_length + 1
    found = []
    for _ in range(program.micro_batches):
        tokens = torch.randint(0, config.model.vocab_size, shape, generator=generator)
        found.append(MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).cut(spans))
    return found


def _engine(program: Program) -> Step:
    from pretrain.build import build_model
    from pretrain.engines.build import build_engine
    from pretrain.topology import topology_from_environment

    topology = topology_from_environment(program.config.parallel)
    layers = build_model(program.config, topology)
    engine = build_engine(program.config, topology, layers, judge=lambda loss, norm: True)
    batches = _batches(program)
    return lambda: engine.train_step(batches, LEARNING_RATE).loss


def _plain(program: Program, exchanging: bool = False) -> Step:
    """The same model and optimizer in a loop as one writes it by hand; ``exchanging`` under torch's own DDP."""
    from torch.nn.parallel import DistributedDataParallel

    from model.layers import LanguageModel
    from model.loss import mean_loss
    from model.parallel import info_of
    from pretrain.build import build_model
    from pretrain.topology import topology_from_environment
    from scripts.scale.programs import BUCKET_MEGABYTES

    config = program.config
    layers = build_model(config, topology_from_environment(config.parallel))
    model = LanguageModel(list(layers))
    run = DistributedDataParallel(model, bucket_cap_mb=BUCKET_MEGABYTES) if exchanging else model
    weights = list(model.parameters())
    masters: list[torch.Tensor] = list(weights)
    if program.precision == "bf16":  # fp32 weights and sums, as the engine keeps them
        masters = [weight.detach().float().requires_grad_() for weight in weights]
    decays = [config.optimizer.weight_decay * info_of(weight).decay for weight in weights]
    groups = [{"params": [master], "weight_decay": decay} for master, decay in zip(masters, decays, strict=True)]
    betas = config.optimizer.beta1, config.optimizer.beta2
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=betas, eps=config.optimizer.eps, fused=True)
    batches = _batches(program)

    def step() -> float:
        total = 0.0
        for number, batch in enumerate(batches, start=1):
            waits = exchanging and number < len(batches)
            with run.no_sync() if waits else nullcontext():  # type: ignore[operator]
                loss = run(batch.payload(), finish=mean_loss(batch.labels_BT)) / len(batches)
                loss.backward()
            total += float(loss.detach())
            if program.precision == "bf16":
                _add_gradients(weights, masters)
        torch.nn.utils.clip_grad_norm_(masters, config.optimizer.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        if program.precision == "bf16":
            with torch.no_grad():
                for weight, master in zip(weights, masters, strict=True):
                    weight.copy_(master)
        return total

    return step


def _add_gradients(weights: Sequence[torch.Tensor], masters: Sequence[torch.Tensor]) -> None:
    """Adds bf16 gradients to fp32 sums and drops them."""
    for weight, master in zip(weights, masters, strict=True):
        assert weight.grad is not None
        if master.grad is None:
            master.grad = torch.zeros_like(master)
        master.grad += weight.grad
        weight.grad = None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
