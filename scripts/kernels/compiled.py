"""Compiles every configuration of the fused operator for sm_90, in processes of their own.

In: configurations, and where Triton is installed; no GPU. Out: rows. Always: a process compiles the configurations of
one pair of filled widths and ends; what Triton's cache has is not compiled again (it goes by the code's content).
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from model.kernels.fused.tiles import padded
from scripts.kernels.configurations import Configuration, costs_of, launch
from scripts.kernels.cost import Cost
from scripts.kernels.machine_code import inspect
from scripts.kernels.products import repetition
from scripts.kernels.rows import Row
from scripts.kernels.stand_in import Launch, StandIn


def rows_of(configurations: Sequence[Configuration]) -> list[Row]:
    """Compiles them here. The process uses Triton for nothing else."""
    stand_in = StandIn()
    rows: list[Row] = []
    for configuration in configurations:
        launch(configuration)
        rows += _rows(configuration, stand_in.take())
    return rows


def all_rows(
    configurations: Sequence[Configuration], processes: int, progress: Callable[[int, int], None]
) -> list[Row]:
    """Of all, in the order of ``configurations``; ``progress`` hears how many of how many are done."""
    groups = list(_by_widths(configurations))
    os.environ.pop("TRITON_INTERPRET", None)  # its kernels have no machine code; the processes inherit this
    context = multiprocessing.get_context("spawn")
    done = 0
    with ProcessPoolExecutor(processes, context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(rows_of, group) for group in groups]
        for future in as_completed(futures):
            done += len(groups[futures.index(future)])
            future.result()
            progress(done, len(configurations))
    rows = [row for future in futures for row in future.result()]
    return sorted(rows, key=lambda row: (row.widths[0], -row.key_streams))


def _by_widths(configurations: Sequence[Configuration]) -> Iterator[list[Configuration]]:
    """Those whose widths are filled up to the same ones share their kernels."""
    groups: dict[tuple[int, int, int, str], list[Configuration]] = {}
    for each in configurations:
        group = padded(each.K), padded(each.E), each.key_streams, each.dtype
        groups.setdefault(group, []).append(each)
    yield from groups.values()


def _rows(configuration: Configuration, launches: Sequence[Launch]) -> Iterator[Row]:
    for kernel in dict.fromkeys(launched.name for launched in launches):
        parts = [launched for launched in launches if launched.name == kernel]
        costs = costs_of(configuration, kernel)
        for number, (launched, cost) in enumerate(zip(parts, costs, strict=True), start=1):
            name = kernel if len(parts) == 1 else f"{kernel} {number}/{len(parts)}"
            yield _row(name, configuration, launched, cost)


def _row(name: str, configuration: Configuration, launched: Launch, cost: Cost) -> Row:
    code = inspect(launched.machine_code)
    return Row(
        name=name,
        direction=configuration.direction,
        widths=(configuration.K, configuration.E),
        key_streams=configuration.key_streams,
        documents=configuration.documents,
        dtype=configuration.dtype,
        threads=launched.threads,
        registers=code.registers,
        spills=code.spills,
        shared_bytes=launched.shared_bytes,
        hgmma=code.hgmma,
        hmma=code.hmma,
        repetition=repetition(launched.listing),
        operations=cost.multiply_adds,
        exponentials=cost.exponentials,
        bytes=cost.all_bytes,
    )
