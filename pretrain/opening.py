"""The first lines of a run: what is trained, how far, what will change on the way, and where to look.

In: the config, the data, the step to go on from, the sinks. Out: lines. Always: steps are counted as the console's, on
which step n is the n-th.
"""

import itertools
from collections.abc import Iterator, Sequence

from data.stream import TokenStream
from model.counts import parameter_counts
from pretrain.config import RunConfig
from pretrain.sinks.base import Sink

MOST_SOURCES = 6
"""of a mixture that are told by name"""


def opening_lines(config: RunConfig, stream: TokenStream, start: int) -> Iterator[str]:
    """What is trained and how far, of a run that goes on from step ``start``."""
    parameters = sum(parameter_counts(config.model).values())
    yield f"{parameters:,} parameters ({config.model.attention}); run folder: {config.run_folder}"
    schedule, steps = config.batch.schedule, config.train.steps
    behind, whole = (stream.tokens_before(schedule.first_sample(step)) for step in (start, steps))
    begins = "resuming at" if start else "starting at"
    yield f"{begins} step {start} of {steps}; {whole - behind:,} tokens to go"
    yield from stage_lines(config, stream, start)


def sinks_line(sinks: Sequence[Sink]) -> str:
    """Where the numbers go."""
    return f"metrics: {', '.join(sink.title for sink in sinks)}"


def stage_lines(config: RunConfig, stream: TokenStream, start: int) -> Iterator[str]:
    """What `data.stages` will change after step ``start``, and when."""
    schedule = config.batch.schedule
    for number, (before, stage) in enumerate(itertools.pairwise(stream.order.stages)):
        step = schedule.step_of(stream.skip.trained_before(stage.first))
        if step < start:
            continue
        when = f"from step {step + 1} on" if step < config.train.steps else "not in this run, which ends before"
        changes = []
        if stage.plan.sequence_length != before.plan.sequence_length:
            changes.append(f"samples of {stage.plan.sequence_length:,} tokens")
        mixture, mixture_before = (
            [(stream.sources[entry.source].name, entry.weight) for entry in plan.sources]
            for plan in (stage.plan, before.plan)
        )
        if mixture != mixture_before:
            changes.append(_told(mixture))
        yield f"data.stages[{number}], {when}: {'; '.join(changes) or 'nothing changes'}"


def _told(mixture: Sequence[tuple[str, float]]) -> str:
    total = sum(weight for _, weight in mixture)
    shown = [f"{weight / total:.1%} {name}" for name, weight in mixture[:MOST_SOURCES]]
    more = len(mixture) - len(shown)
    return ", ".join(shown) + (f" and {more} more sources" if more else "")
