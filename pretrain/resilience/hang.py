"""Who waits for whom: what a stuck rank can say of itself, and what the reports of all ranks say together.

In: the Python stacks and process groups of a rank; then the reports of all ranks. Out: one JSON report per rank; one
line for the log.
Always: no collective call, no lock, nothing that could hang itself.
"""

import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from types import FrameType, ModuleType
from typing import Any

from pretrain.torch_compat import collectives_started, named_groups

PATIENCE_SECONDS = 3.0
"""seconds: a rank that reports after so much more silence than another was stopped, and continued only when the job was
ended"""
COLLECTIVES = "torch.distributed.distributed_c10d"


def hang_report(rank: int, step: int, silence: float) -> dict[str, Any]:
    """Where this rank is, for `rank_R.hang.json`, ``silence`` seconds after it has finished ``step``.

    ``collective``: the call that it waits in, its group's ranks and partner, or None; ``place``: the innermost line of
    the main thread outside of libraries; ``groups``: every process group's ranks, and how many collectives this rank
    has started in it.
    """
    frames = sys._current_frames()
    main = frames.pop(threading.main_thread().ident or 0, None)
    own = frames.pop(threading.get_ident(), None)
    stacks = [frame for frame in (main, *frames.values()) if frame is not None and frame is not own]
    collectives = [call for frame in stacks if (call := _collective(frame)) is not None]
    return {
        "rank": rank,
        "host": socket.gethostname(),
        "step": step,
        "time": time.time(),
        "silence": silence,
        "collective": collectives[0] if collectives else None,
        "place": _place(main),
        "groups": _groups(),
    }


def explain_hang(reports: Sequence[dict[str, Any]], start: dict[str, Any]) -> str:
    """The ranks that wait, in what, and the ranks that keep them waiting, in one line.

    Args:
        reports: what ``hang_report`` gave on the ranks that could still answer; late ones count as no answer.
        start: the attempt's `start.json`; its ``hosts`` name the node of every rank.
    """
    hosts = dict(enumerate(start.get("hosts", [])))
    silences = [report.get("silence", 0.0) for report in reports]  # each by its own clock: those of nodes differ
    longest = min(silences, default=0.0) + PATIENCE_SECONDS
    reports = [report for report, silence in zip(reports, silences, strict=True) if silence <= longest]
    silent = sorted(set(hosts) - {report["rank"] for report in reports})
    step = max((report["step"] for report in reports), default=start.get("step", 0))
    waits: dict[str, list[int]] = {}
    for report in reports:
        if report["collective"] is not None:
            waits.setdefault(_describe(report["collective"]), []).append(report["rank"])
    parts = [f"{name_ranks(ranks)} waited in {what}" for what, ranks in waits.items()]
    if silent:
        parts.append(f"{name_ranks(silent, hosts)} did not answer in time: stopped, or cut off")
    late = _late_ranks(reports)
    parts += [
        f"{name_ranks([report['rank']], hosts)} had not come that far: it was at {report['place']}"
        for report in reports
        if report["rank"] in late or (not late and report["collective"] is None)
    ]
    return f"no progress after step {step}: " + "; ".join(parts or ["no rank could say where it was"])


def name_ranks(ranks: Sequence[int], hosts: dict[int, str] | None = None) -> str:
    """As in "ranks 0-3 and 6 on node1, node2"."""
    ranges: list[list[int]] = []
    for rank in sorted(ranks):
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    named = " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
    nodes = ", ".join(dict.fromkeys(hosts[rank] for rank in ranks if rank in hosts)) if hosts else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {named}" + (f" on {nodes}" if nodes else "")


def _late_ranks(reports: Sequence[dict[str, Any]]) -> set[int]:
    """Ranks that have started fewer collectives in some group than its other ranks."""
    started: dict[str, dict[int, int]] = {}
    for report in reports:
        for group in report["groups"]:
            started.setdefault(group["name"], {})[report["rank"]] = group["started"]
    late: set[int] = set()
    for counts in started.values():
        most = max(counts.values())
        late |= {rank for rank, count in counts.items() if count < most}
    return late


def _describe(collective: dict[str, Any]) -> str:
    partner = f" with rank {collective['partner']}" if collective["partner"] is not None else ""
    ranks = collective["ranks"]
    return f"{collective['name']}{partner}" + (f" over {name_ranks(ranks)}" if ranks else "")


def _collective(frame: FrameType | None) -> dict[str, Any] | None:
    """The innermost call into torch.distributed of a stack; None: there is none."""
    while frame is not None:
        if frame.f_globals.get("__name__") == COLLECTIVES:
            name, local = frame.f_code.co_name, frame.f_locals
            partner = next((local[key] for key in ("src", "dst") if isinstance(local.get(key), int)), None)
            if not name.startswith("_") and name not in {"wrapper", "wait"}:
                return {"name": name, "ranks": _ranks_of(local.get("group")), "partner": partner}
        frame = frame.f_back
    return None


def _ranks_of(group: Any) -> list[int]:
    distributed = _distributed()
    if distributed is None or not distributed.is_initialized():
        return []
    try:
        ranks: list[int] = distributed.get_process_group_ranks(group)
    except (KeyError, ValueError, RuntimeError, TypeError):
        return []
    return ranks


def _groups() -> list[dict[str, Any]]:
    distributed = _distributed()
    if distributed is None or not distributed.is_initialized():
        return []
    found = []
    for group, name in named_groups(distributed).items():
        started = collectives_started(group)
        if started is None:
            continue
        found.append({"name": name, "ranks": _ranks_of(group), "started": started})
    return found


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "an unknown place"
    ours = frame
    while ours.f_back is not None and _is_library(ours):
        ours = ours.f_back
    shown = frame if _is_library(ours) else ours
    code = shown.f_code
    return f"{'/'.join(code.co_filename.rsplit('/', 2)[-2:])}:{shown.f_lineno} in {code.co_name}"


def _is_library(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return "site-packages" in name or name.startswith((sysconfig.get_path("stdlib"), "<"))


def _distributed() -> ModuleType | None:
    """torch.distributed if this process has imported it: reports must also work without."""
    return sys.modules.get("torch.distributed")
