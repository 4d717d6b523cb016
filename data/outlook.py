"""What a run will see, before it starts: `python -m data plan`.

In: a run's config. Out: tokens, share and epochs of every source in every stage; what is wrong; what is odd.
Always: reads manifests and file sizes only.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import InputError
from data.checks import check_held_out, check_vocabulary
from data.length_classes import with_classes
from data.mixture import PERIOD
from data.run_order import RunOrder
from data.source import TokenSource
from data.stream import TokenStream, check_alike, open_sources, open_validation

MANY_EPOCHS = 4


@dataclass(frozen=True)
class SourceOutlook:
    """One source over the whole run."""

    path: str
    dataset_id: str
    tokenizer: str
    dtype: str
    tokens: int
    documents: int
    tokens_seen: int
    share: float
    """this source's share of the run's tokens"""
    epochs: float


@dataclass(frozen=True)
class StageSummary:
    """One stage of the run."""

    first_sample: int
    samples: int
    sequence_length: int
    weights: dict[str, float]
    """share of each source's samples, as the order realises it"""


@dataclass(frozen=True)
class Outlook:
    """What a run will see of its data, and what is wrong or odd."""

    steps: int
    samples: int
    tokens: int
    """tokens of all samples up to the last step, those on the skip list included"""
    sources: list[SourceOutlook]
    stages: list[StageSummary]
    problems: list[str]
    """the run must not start with these"""
    remarks: list[str]
    """worth a look"""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def outlook_of(run: RunOrder) -> Outlook:
    """Reads the manifests and works everything out. Raises InputError where there is no readable manifest."""
    run = replace(run, data=with_classes(run.data))
    sources = open_sources(run.data)
    stream = TokenStream(run.data, run.seed, sources)
    samples = run.batch.schedule.first_sample(run.train.steps)
    numbers = stream.skip.passed(samples)
    served = stream.order.served(numbers)
    plans = [_source_outlook(source, tokens, sum(served)) for source, tokens in zip(sources, served, strict=True)]
    stages = list(_stages(stream, numbers))
    return Outlook(
        run.train.steps,
        samples,
        sum(served),
        plans,
        stages,
        _problems(run, sources),
        _remarks(run, stream, plans, numbers),
    )


def _source_outlook(source: TokenSource, tokens_seen: int, total: int) -> SourceOutlook:
    manifest = source.manifest
    return SourceOutlook(
        path=source.name,
        dataset_id=source.id,
        tokenizer=manifest.tokenizer.get("name", "?"),
        dtype=manifest.dtype,
        tokens=manifest.tokens,
        documents=manifest.documents,
        tokens_seen=tokens_seen,
        share=tokens_seen / max(1, total),
        epochs=tokens_seen / max(1, manifest.tokens),
    )


def _stages(stream: TokenStream, numbers: int) -> Iterator[StageSummary]:
    for stage in stream.order.stages:
        samples = max(0, min(stage.last, numbers) - stage.first)
        paths = [stream.sources[entry.source].name for entry in stage.plan.sources]
        weights = {path: count / PERIOD for path, count in zip(paths, stage.mixture.counts, strict=True)}
        yield StageSummary(stage.first, samples, stage.plan.sequence_length, weights)


def _problems(run: RunOrder, sources: list[TokenSource]) -> list[str]:
    """Everything that is wrong, each in one line."""
    checks: list[Callable[[], object]] = [source.reader.check_files for source in sources]
    checks.append(lambda: check_alike(sources))
    checks.append(lambda: _check_vocabulary(run, sources))
    stream = TokenStream(run.data, run.seed, sources)
    checks.append(lambda: stream.check_stage_starts(run.batch.schedule, 0, run.train.steps))
    checks.append(lambda: _check_validation(run, sources))
    problems = []
    for check in checks:
        try:
            check()
        except InputError as error:
            problems.append(str(error))
    return problems


def _check_vocabulary(run: RunOrder, sources: list[TokenSource]) -> None:
    for source in sources:
        check_vocabulary(run.model.vocab_size, source.manifest.vocab_size, source.name)


def _check_validation(run: RunOrder, sources: list[TokenSource]) -> None:
    validation = open_validation(run.data)
    if validation is None:
        return
    validation.source.reader.check_files()
    check_held_out(run.data, sources[0].manifest.tokenizer, validation.tokenizer)


def _remarks(run: RunOrder, stream: TokenStream, plans: list[SourceOutlook], numbers: int) -> list[str]:
    remarks = []
    for plan in plans:
        if plan.tokens_seen == 0:
            remarks.append(f"{plan.path}: no sample of it comes up in {run.train.steps} steps: its weight is too small")
        if plan.epochs > MANY_EPOCHS:
            remarks.append(f"{plan.path}: every token is seen {plan.epochs:.1f} times")
    for number, stage in enumerate(stream.order.stages):
        if number and stage.first >= numbers:
            remarks.append(f"data.stages[{number - 1}] begins after the last step")
        total = sum(entry.weight for entry in stage.plan.sources)
        for entry, count in zip(stage.plan.sources, stage.mixture.counts, strict=True):
            wanted = entry.weight / total * PERIOD
            if abs(count - wanted) > 0.01 * wanted:
                remarks.append(
                    f"{stream.sources[entry.source].name}: its share {wanted / PERIOD:.3g} is rounded to "
                    f"{count} of {PERIOD} samples"
                )
    if run.data.skip:
        remarks.append(f"{sum(last - first + 1 for first, last in stream.skip.before(numbers))} samples are skipped")
    return remarks


def print_outlook(outlook: Outlook) -> None:
    """The outlook as a table for people."""
    print(f"{outlook.steps:,} steps, {outlook.samples:,} samples, {outlook.tokens:,} tokens")
    print(f"{'share':>8} {'epochs':>8} {'tokens seen':>19} {'tokens':>19}  dtype   source")
    for source in outlook.sources:
        print(
            f"{source.share:>8.3%} {source.epochs:>8.2f} {source.tokens_seen:>19,} {source.tokens:>19,}  "
            f"{source.dtype:<7} {source.path} ({source.tokenizer}, {source.dataset_id[:12]})"
        )
    if len(outlook.stages) > 1:
        for number, stage in enumerate(outlook.stages):
            span = f"{stage.samples:,} samples of {stage.sequence_length} tokens"
            print(f"stage {number}: from sample {stage.first_sample:,}, {span}")
    for kind, lines in (("remark", outlook.remarks), ("problem", outlook.problems)):
        for line in lines:
            print(f"{kind}: {line}")
