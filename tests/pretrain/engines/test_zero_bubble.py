"""The order of a stage's work under `zero_bubble`: that of 1F1B, with the gradients of weights in its gaps.

The time of a step is found by playing all stages' instructions against each other, and is the paper's.
"""

import itertools
from collections import defaultdict

import pytest
from deepspeed.runtime.pipe import schedule

from pretrain.engines.zero_bubble import WeightGradients, ZeroBubbleSchedule

PIPELINES = [(2, 1), (2, 5), (3, 2), (3, 7), (5, 3), (5, 11), (8, 13)]
"""stages and micro-batches: fewer micro-batches than stages, and numbers that do not divide"""
FORWARD, BACKWARD, WEIGHTS = 1.0, 1.25, 0.75
ENDS = (schedule.ReduceTiedGrads, schedule.ReduceGrads, schedule.OptimizerStep)
NEEDS = (schedule.ForwardPass, schedule.BackwardPass)
"""what a message is asked for"""


def instructions(kind, stages: int, micro_batches: int, stage: int) -> list:
    return list(itertools.chain.from_iterable(kind(micro_batches, stages, stage).steps()))


@pytest.mark.parametrize(("stages", "micro_batches"), PIPELINES)
def test_passes_and_messages_keep_their_order(stages: int, micro_batches: int) -> None:
    for stage in range(stages):
        ours = instructions(ZeroBubbleSchedule, stages, micro_batches, stage)
        others = [repr(one) for one in ours if not isinstance(one, WeightGradients)]
        assert others == [repr(one) for one in instructions(schedule.TrainSchedule, stages, micro_batches, stage)]
        assert len(ours) - len(others) == micro_batches
        assert [type(one) for one in ours[-3:]] == list(ENDS)


@pytest.mark.parametrize(("stages", "micro_batches"), PIPELINES)
def test_no_stage_has_more_micro_batches_in_hand_than_the_first(stages: int, micro_batches: int) -> None:
    for stage in range(stages):
        activations = deferred = most = 0
        for one in instructions(ZeroBubbleSchedule, stages, micro_batches, stage):
            activations += isinstance(one, schedule.ForwardPass) - isinstance(one, schedule.BackwardPass)
            deferred += isinstance(one, schedule.BackwardPass) - isinstance(one, WeightGradients)
            most = max(most, activations + deferred)
            assert 0 <= deferred <= stage + 1
        assert most <= min(stages, micro_batches)


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 5), (3, 7), (5, 11), (8, 13)])
def test_a_step_waits_a_third_as_long(stages: int, micro_batches: int) -> None:
    own = micro_batches * (FORWARD + BACKWARD + WEIGHTS)
    waited = step_seconds(schedule.TrainSchedule, stages, micro_batches, FORWARD, BACKWARD + WEIGHTS) - own
    assert waited == pytest.approx((stages - 1) * (FORWARD + BACKWARD + WEIGHTS))
    waited = step_seconds(ZeroBubbleSchedule, stages, micro_batches, FORWARD, BACKWARD) - own
    assert waited == pytest.approx((stages - 1) * (FORWARD + BACKWARD - WEIGHTS))


def step_seconds(kind, stages: int, micro_batches: int, forward: float, backward: float) -> float:
    """Until the last stage is done; a message takes no time, and is waited for by the pass that needs it."""
    seconds = {schedule.ForwardPass: forward, schedule.BackwardPass: backward, WeightGradients: WEIGHTS}
    left = [instructions(kind, stages, micro_batches, stage) for stage in range(stages)]
    clock, sent, asked = [0.0] * stages, defaultdict(list), [[] for _ in range(stages)]

    def lacks(stage: int) -> bool:
        return type(left[stage][0]) in NEEDS and any(not sent[message] for message in asked[stage])

    while any(left):
        stage = next(stage for stage in range(stages) if left[stage] and not lacks(stage))
        one = left[stage].pop(0)
        if isinstance(one, schedule.SendActivation):
            sent[schedule.RecvActivation, stage + 1].append(clock[stage])
        elif isinstance(one, schedule.SendGrad):
            sent[schedule.RecvGrad, stage - 1].append(clock[stage])
        elif isinstance(one, schedule.RecvActivation | schedule.RecvGrad):
            asked[stage].append((type(one), stage))
        elif type(one) in NEEDS:
            clock[stage] = max(clock[stage], *(sent[message].pop(0) for message in asked[stage]), 0.0)
            asked[stage].clear()
        clock[stage] += seconds.get(type(one), 0.0)
    return max(clock)
