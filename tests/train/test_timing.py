import math
import random
from pathlib import Path

import pytest
import torch

from train.config import METHODS, TrainConfig
from train.run import SettingsError
from train.timing import BOUND_SECONDS, time_steps, timed

SHAPE = (1, 8, 8)


class Machine:
    """A clock that only its steps move: so many seconds an example, the first step of a size ten times as many."""

    def __init__(self, seconds_per_example, *, memory=math.inf):
        self.now, self.seconds, self.memory, self.taken = 0.0, seconds_per_example, memory, []

    def at(self, size):
        if size > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")

        def step():
            self.now += size * self.seconds * (1 if size in self.taken else 10)
            self.taken.append(size)

        return step

    def timed(self, whole):
        return timed(self.at, smallest=6, whole=whole, device="here", clock=lambda: self.now)


def test_a_batch_that_is_quick_is_timed_whole_and_without_its_first_step():
    machine = Machine(1e-4)
    found = machine.timed(128)
    assert machine.taken == [6, 6, 24, 24, 96, 96, 128, 128, 128, 128]
    assert (found.timed_batch_size, found.batch_size, found.num_timed, found.too_large) == (128, 128, 3, 0)
    assert found.seconds_per_step == pytest.approx(128e-4, rel=1e-12)


def test_where_a_step_takes_longer_than_the_bound_the_smallest_batch_is_scaled_by_its_examples():
    machine = Machine(1.0)
    found = machine.timed(128)
    assert machine.taken == [6, 6]
    assert (found.timed_batch_size, found.num_timed) == (6, 1)
    assert found.seconds_per_step == pytest.approx(128.0, rel=1e-12)


@pytest.mark.parametrize("seconds", [1e-5, 1e-3, 2e-3, 4e-3, 8e-3, 0.02, 0.04])
def test_the_bound_holds_but_for_warming_up(seconds):
    machine = Machine(seconds)
    found = machine.timed(128)
    warm_up = 9 * seconds * sum(set(machine.taken))
    assert machine.now - warm_up <= BOUND_SECONDS
    assert found.seconds_per_step == pytest.approx(128 * seconds, rel=1e-9)


def test_a_batch_beyond_the_memory_is_named_and_the_largest_that_fits_is_scaled():
    found = Machine(1e-4, memory=30).timed(128)
    assert (found.too_large, found.timed_batch_size) == (96, 24)
    assert found.seconds_per_step == pytest.approx(128e-4, rel=1e-9)
    with pytest.raises(torch.OutOfMemoryError):
        Machine(1e-4, memory=5).timed(128)


@pytest.mark.parametrize("method", METHODS)
def test_steps_of_every_method_are_timed_and_nothing_is_left_behind(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled(), torch.get_default_dtype()
    config = TrainConfig(method=method, batch_size=16, weights="absent.pt", data="cifar10", data_root="absent")
    found = time_steps(config, image_shape=SHAPE, num_classes=10)
    assert (found.batch_size, found.timed_batch_size) == (16, 16)
    assert found.seconds_per_step > 0
    assert found.device == "cpu with 1 thread"
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), torch.is_grad_enabled(), torch.get_default_dtype())
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_steps_are_timed_in_the_precision_of_the_run(precision):
    config = TrainConfig(method="sam", batch_size=8, precision=precision)
    assert time_steps(config, image_shape=SHAPE, num_classes=10).num_timed > 0


def test_the_smallest_batch_has_two_examples_in_both_parts():
    found = time_steps(TrainConfig(batch_size=16, split_ratio=0.9), image_shape=SHAPE, num_classes=3)
    assert found.timed_batch_size == 16
    with pytest.raises(SettingsError, match=r"a batch of 3 cannot be split at 0.7 into parts of 2 or more"):
        time_steps(TrainConfig(batch_size=3), image_shape=SHAPE, num_classes=3)


def test_a_batch_that_is_climbed_on_in_chunks_is_timed_in_whole_ones():
    config = TrainConfig(method="agnostic-sam", m=12, batch_size=36)
    assert time_steps(config, image_shape=SHAPE, num_classes=3).timed_batch_size == 36


def test_images_that_the_network_does_not_take_are_refused():
    config = TrainConfig(model="densenet121_imagenet_stem")
    with pytest.raises(SettingsError, match="densenet121_imagenet_stem does not take images of 1x8x8"):
        time_steps(config, image_shape=SHAPE, num_classes=3)


@pytest.mark.gpu
def test_on_a_gpu_the_whole_batch_is_timed_and_its_generator_left_alone():
    before = torch.cuda.get_rng_state()
    config = TrainConfig(method="agnostic-sam", model="resnet32", device="cuda")
    found = time_steps(config, image_shape=(3, 32, 32), num_classes=10)
    assert (found.timed_batch_size, found.num_timed) == (128, 3)
    assert torch.cuda.get_device_name() in found.device
    assert torch.equal(torch.cuda.get_rng_state(), before)
