"""One program of the lab on links of several rates: step times, and bytes beside what was planned.

In: a Program, the seconds of its arithmetic, and shares of them that its exchange shall take. Out: one Row for each
rate. Always: one set of processes takes the steps of all rates, unlimited links first, so that start and warm-up count
for none; the first step on new links is not counted.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pretrain.devices import Device
from scripts.scale.links import Links
from scripts.scale.programs import Program, rated_as

RACING_STEPS = 200
WARM_UP = 3
"""steps after which nothing is compiled, allocated or recorded any more"""
ROUNDS = 3
"""in which the rates take turns"""
PORT = 29400
"""of the first node; nobody else is on its network"""
CALIBRATIONS = 25
"""at most, until the planned step on unlimited links is the measured one"""
CALIBRATED = 1e-4
"""of a step"""
UNLIMITED = 1e30
"""bytes/s"""


@dataclass(frozen=True)
class Row:
    """One program on links of one rate."""

    program: str
    share: float
    """what the planned exchange would take at this rate, of the arithmetic; 0: unlimited links"""
    rate: float | None
    """bytes/s that a node can send"""
    seconds: float
    """of a step, median, on the slowest node"""
    ratio: float
    """to the same program's step on unlimited links"""
    planned_seconds: float | None
    """by the planner, whose device computes as fast as this program on unlimited links; what those carry is measured"""
    sent: float
    """bytes of a step that the kernel counted, of the node that sent most"""
    ledger_sent: float
    """by the ledger, on ring algorithms"""
    gloo_sent: float
    """by the ledger, as gloo sends it: it makes a reduce-scatter of an all-reduce, which is twice the bytes"""
    planned_sent: float
    """by the planner, on ring algorithms"""
    loss: float
    """after the last step; equal with and without overlap"""
    over_plain: float | None = None
    """of one process: the engine's step over the plain loop's beside it"""


@dataclass(frozen=True)
class Race:
    """A run with and without random delays."""

    program: str
    steps: int
    equal: bool
    """every loss on every rank, bit for bit"""
    delayed: int
    """exchanges of a rank that were delayed"""


class Job:
    """The processes of one program, one on each node; they follow orders together."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]], log: Path) -> None:
        self._processes = processes
        self._log = log

    def ask(self, order: str) -> list[dict[str, Any]]:
        """Each rank's answer.

        Raises:
            RuntimeError: a rank ended instead.
        """
        for process in self._processes:
            assert process.stdin is not None
            print(order, file=process.stdin, flush=True)
        return self.answers()

    def answers(self) -> list[dict[str, Any]]:
        """What each rank says next."""
        found = []
        for rank, process in enumerate(self._processes):
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"rank {rank} ended; {self._log} tells why")
            found.append(json.loads(line))
        return found


@contextmanager
def running(program: Program, links: Links, log: Path) -> Iterator[Job]:
    """The program's processes, ready for orders."""
    links.limit(None)
    environment = {
        "WORLD_SIZE": str(program.nodes),
        "MASTER_ADDR": links.address(0),
        "MASTER_PORT": str(PORT),
        "LOCAL_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "scripts.scale.job", json.dumps(asdict(program))]
    with log.open("ab") as errors:
        processes = [
            links.start(node, command, {**environment, "RANK": str(node)}, errors) for node in range(program.nodes)
        ]
        try:
            job = Job(processes, log)
            job.answers()
            yield job
        finally:
            links.stop()


def measure(
    program: Program, links: Links, log: Path, arithmetic: float | None, shares: Sequence[float], steps: int
) -> Iterator[Row]:
    """Steps on unlimited links and where the exchange would take ``shares`` of ``arithmetic``, seconds.

    All rates take turns, ``ROUNDS`` times there and back, since a machine is slower at one time than at another.
    """
    planned, rated = planned_bytes(program), planned_bytes(rated_as(program))
    exchanges = program.kind in ("engine", "ddp")
    per_round = -(-steps // ROUNDS)
    contender = program.kind if program.kind in ("plain", "ddp") else "engine"
    found = {share: _Measured() for share in (0.0, *(shares if exchanges and arithmetic else ()))}
    rates = {share: rated / (share * arithmetic) if share and arithmetic else None for share in found}
    with running(program, links, log) as job:
        job.ask(f"steps {WARM_UP}")
        ledger = job.ask("ledger") if exchanges else [{"sent": 0.0, "sent_by_gloo": 0.0}]
        fastest = min(answer["rate"] for answer in job.ask("rate")) if exchanges else UNLIMITED
        for number in range(ROUNDS):
            for share, measured in list(found.items())[:: -1 if number % 2 else 1]:
                links.limit(rates[share])
                before = links.sent()
                measured.answers.append(job.ask(f"steps {1 + per_round}"))
                sent = max(after - first for first, after in zip(before, links.sent(), strict=True))
                measured.sent.append(sent / (1 + per_round))
    free = found[0.0].seconds(contender)
    for share, measured in found.items():
        seconds = measured.seconds(contender)
        engine = program.kind == "engine"
        yield Row(
            program=program.name,
            share=share,
            rate=rates[share],
            seconds=seconds,
            ratio=seconds / free,
            planned_seconds=planned_seconds(program, free, rates[share], fastest) if engine else None,
            sent=statistics.median(measured.sent) if exchanges else 0.0,
            ledger_sent=max(answer["sent"] for answer in ledger),
            gloo_sent=max(answer["sent_by_gloo"] for answer in ledger),
            planned_sent=planned,
            loss=measured.answers[-1][0]["loss"],
            over_plain=seconds / measured.seconds("plain") if program.kind == "alone" else None,
        )


@dataclass
class _Measured:
    """At one rate, round by round."""

    answers: list[list[dict[str, Any]]] = field(default_factory=list)
    """of each rank"""
    sent: list[float] = field(default_factory=list)
    """bytes in a step, of the node that sends most"""

    def seconds(self, contender: str) -> float:
        """The median step of the slowest rank, without the first of each round."""
        ranks = zip(*self.answers, strict=True)
        return max(
            statistics.median(time for answer in rounds for time in answer["seconds"][contender][1:])
            for rounds in ranks
        )


def race(program: Program, links: Links, log: Path, steps: int = RACING_STEPS) -> Race:
    """The program's losses with and without random delays before each exchange, on unlimited links."""
    with running(program, links, log) as job:
        answers = job.ask(f"races {steps}")
    return Race(program.name, steps, all(a["equal"] for a in answers), min(answer["delayed"] for answer in answers))


def planned_bytes(program: Program) -> float:
    """What the node that sends most sends in a step; of torch's DDP, one all-reduce of fp32 gradients."""
    from pretrain.plan.communication import step_communication
    from pretrain.plan.exchange import Exchange
    from pretrain.plan.layers import elements_per_rank, stage_parameters
    from pretrain.topology import plan_topology

    if program.kind == "ddp":
        topology = plan_topology(program.config.parallel, program.nodes)
        elements = sum(elements_per_rank(info, 1) for info in stage_parameters(program.config, topology))
        return Exchange("data", (0, 1), "all_reduce", "gradients", 4 * elements).wire_bytes
    if program.kind != "engine":
        return 0.0
    return max(
        sum(
            exchange.wire_bytes
            for exchange in step_communication(
                program.config, plan_topology(program.config.parallel, program.nodes, rank)
            )
            if exchange.operation != "receive"
        )
        for rank in range(program.nodes)
    )


def planned_seconds(program: Program, free: float, rate: float | None, fastest: float = UNLIMITED) -> float:
    """The planner's step on links of ``rate`` bytes/s, for a device whose step on unlimited links takes ``free``.

    Args:
        fastest: bytes/s that unlimited links carry; a step on them waits for it, too.
    """
    flops = _planned_step(program, 1.0, UNLIMITED)
    compute = free
    for _ in range(CALIBRATIONS):
        missing = free - _planned_step(program, flops / compute, fastest)
        if abs(missing) < CALIBRATED * free:
            break
        compute += missing
    return _planned_step(program, flops / compute, min(rate or UNLIMITED, fastest))


def _planned_step(program: Program, speed: float, rate: float) -> float:
    """On devices of ``speed`` FLOP/s, with links of ``rate`` bytes/s."""
    from pretrain.plan.cluster import Cluster
    from pretrain.plan.time import step_time
    from pretrain.topology import plan_topology

    device = Device(speed, speed, UNLIMITED, UNLIMITED, link=rate, network=rate)
    cluster = Cluster(device, "this machine", 1, efficiency=1.0, attention_efficiency=1.0, backend="gloo")
    return step_time(program.config, plan_topology(program.config.parallel, program.nodes), cluster).total
