"""One program of the lab on links of several rates: step times, and bytes beside what was planned.

In: a Program, the seconds of its arithmetic, and shares of them that its exchange shall take. Out: one Row for each
rate. Always: one set of processes takes the steps of all rates, unlimited links first, so that start and warm-up count
for none; the first step on new links is not counted.
"""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pretrain.devices import Device
from scripts.scale.links import Links
from scripts.scale.programs import Program, rated_as

RACING_STEPS = 200
WARM_UP = 3
"""steps after which nothing is compiled, allocated or recorded any more"""
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
    """Steps on unlimited links, then where the exchange would take ``shares`` of ``arithmetic``, seconds."""
    planned, rated = planned_bytes(program), planned_bytes(rated_as(program))
    exchanges = program.kind in ("engine", "ddp")
    with running(program, links, log) as job:
        job.ask(f"steps {WARM_UP}")
        ledger = max(answer["sent"] for answer in job.ask("ledger")) if exchanges else 0.0
        fastest = min(answer["rate"] for answer in job.ask("rate")) if exchanges else UNLIMITED
        free = math.nan
        for share in (0.0, *(shares if exchanges and arithmetic else ())):
            rate = rated / (share * arithmetic) if share and arithmetic else None
            links.limit(rate)
            before = links.sent()
            answers = job.ask(f"steps {1 + steps}")
            after = links.sent()
            sent = max(b - a for a, b in zip(before, after, strict=True)) / (1 + steps)
            contender = program.kind if program.kind in ("plain", "ddp") else "engine"
            seconds = _slowest(answers, contender)
            free = seconds if share == 0 else free
            yield Row(
                program=program.name,
                share=share,
                rate=rate,
                seconds=seconds,
                ratio=seconds / free,
                planned_seconds=planned_seconds(program, free, rate, fastest) if program.kind == "engine" else None,
                sent=sent if exchanges else 0.0,
                ledger_sent=ledger,
                planned_sent=planned,
                loss=answers[0]["loss"],
                over_plain=seconds / _slowest(answers, "plain") if program.kind == "alone" else None,
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


def _slowest(answers: Sequence[dict[str, Any]], contender: str) -> float:
    """The median step of the slowest rank, without the first."""
    return max(statistics.median(answer["seconds"][contender][1:]) for answer in answers)
