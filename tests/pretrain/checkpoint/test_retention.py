"""Which checkpoints stay."""

from pretrain.checkpoint.retention import Retention


def kept(steps: list[int], **rules: int) -> list[int]:
    """What stays if every step's checkpoint retires the ones before it, as in a run."""
    settings = {"keep": 2, "keep_every": 0, "keep_tokens": 0, **rules}
    retention = Retention(**settings, tokens_at=lambda step: 10 * step)
    there: list[int] = []
    for step in steps:
        there.append(step)
        there = [step for step in there if step not in retention.expired(there)]
    return there


STEPS = list(range(10, 110, 10))


def test_the_newest_stay() -> None:
    assert kept(STEPS) == [90, 100]
    assert kept(STEPS, keep=0) == STEPS


def test_multiples_of_keep_every_stay_for_ever() -> None:
    assert kept(STEPS, keep_every=30) == [30, 60, 90, 100]


def test_the_first_past_every_milestone_stays_for_ever() -> None:
    """Milestones at 250, 500, 750, 1000 tokens: steps 30, 50, 80 and 100."""
    assert kept(STEPS, keep_tokens=250, keep=1) == [30, 50, 80, 100]
