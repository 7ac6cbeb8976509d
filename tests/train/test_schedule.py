import math

import pytest

from train.config import SCHEDULES, TrainConfig
from train.schedule import learning_rate


def rates(**settings):
    config = TrainConfig(lr=0.1, **settings)
    return [learning_rate(config, epoch) for epoch in range(config.epochs)]


def test_cosine_is_half_a_period_from_lr_towards_zero():
    assert rates(epochs=4) == pytest.approx([0.1, 0.1 * (2 + math.sqrt(2)) / 4, 0.05, 0.1 * (2 - math.sqrt(2)) / 4])


@pytest.mark.parametrize("epochs", [10, 100, 200])
def test_step_falls_to_a_fifth_at_30_60_and_80_percent(epochs):
    lengths = {0.1: 3, 0.02: 3, 0.004: 2, 0.0008: 2}
    expected = [rate for rate, tenths in lengths.items() for _ in range(tenths * epochs // 10)]
    assert rates(schedule="step", epochs=epochs) == pytest.approx(expected)


def test_constant_is_lr():
    assert rates(schedule="constant", epochs=3) == [0.1] * 3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_rises_in_equal_steps_and_the_schedule_has_the_epochs_that_are_left(schedule):
    found = rates(schedule=schedule, epochs=14, warmup_epochs=4)
    assert found[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert found[4:] == rates(schedule=schedule, epochs=10)
