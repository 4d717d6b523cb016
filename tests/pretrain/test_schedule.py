"""Learning-rate schedules at their corners."""

import pytest

from common.errors import InputError
from pretrain.config import ScheduleConfig
from pretrain.schedule import check_schedule, learning_rate

PEAK, STEPS = 2.0, 100


def rates(**settings: object) -> list[float]:
    config = ScheduleConfig(**settings)  # type: ignore[arg-type]
    check_schedule(config, STEPS)
    return [learning_rate(config, PEAK, STEPS, step) for step in range(STEPS)]


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_warm_up_is_linear_and_the_last_step_has_the_final_rate(kind: str) -> None:
    rate = rates(kind=kind, warmup_steps=10, decay_steps=20, final_ratio=0.1)
    assert rate[:10] == pytest.approx([PEAK * (step + 1) / 10 for step in range(10)])
    assert rate[-1] == pytest.approx(0.1 * PEAK)
    assert max(rate) == PEAK


def test_linear_is_halfway_in_the_middle_and_cosine_is_symmetric() -> None:
    linear = rates(kind="linear", warmup_steps=0, final_ratio=0.0)
    assert linear[49] == pytest.approx(PEAK / 2)
    cosine = rates(kind="cosine", warmup_steps=0, final_ratio=0.0)
    assert [cosine[i] + cosine[98 - i] for i in range(49)] == pytest.approx([PEAK] * 49)


def test_wsd_is_flat_until_its_decay() -> None:
    rate = rates(kind="wsd", warmup_steps=10, decay_steps=20, final_ratio=0.0)
    assert rate[10:80] == [PEAK] * 70
    assert rate[80] == pytest.approx(PEAK * 19 / 20)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"warmup_steps": 101}, "schedule.warmup_steps"),
        ({"kind": "wsd", "warmup_steps": 50, "decay_steps": 51}, "schedule.decay_steps"),
        ({"final_ratio": 1.5}, "schedule.final_ratio"),
    ],
)
def test_parts_that_do_not_fit_are_named(settings: dict[str, object], name: str) -> None:
    with pytest.raises(InputError, match=name):
        rates(**settings)
