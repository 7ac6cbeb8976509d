"""How long the steps of a run will take: a few real ones timed, on random images of the shape of its own.

Network, method, precision and device are those of the run. The steps alone are timed: reading and augmenting images,
probes, evaluation and checkpoints come on top. Neither data nor weights are read, and the global generators are left as
they were.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from train.batches import part_sizes
from train.config import TrainConfig
from train.data import Splits
from train.distributed import Workers
from train.loss import training_loss
from train.run import as_settings_error, device_of, prepare_on
from train.streams import generator, seeded

BOUND_SECONDS = 4.0  # of all timed steps; the first two are taken however long they are
_NUM_TIMED, _GROWTH = 3, 4

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of a step of `batch_size` examples: the median of `num_timed` on `timed_batch_size`, in proportion.

    Small batches use a device badly: where fewer examples were timed than a batch has, the true time is rather shorter.
    `too_large` is a batch that did not fit into the memory of the device, or 0.
    """

    device: str
    batch_size: int
    timed_batch_size: int
    num_timed: int
    seconds_per_step: float
    too_large: int = 0


def time_steps(config: TrainConfig, *, image_shape: tuple[int, int, int], num_classes: int) -> Timing:
    """Time of a step of a run with these settings. Takes a few seconds; longer where two of the smallest batch do.

    Raises:
        SettingsError: If the device is not there, or the network does not take images of this shape.
        LibraryError: If the network needs torchvision or timm, and the library is missing or does not fit torch.
    """
    device, smallest = device_of(config.device), _smallest_batch(config)
    with seeded(config.seed, device), as_settings_error():
        tiny = dataclasses.replace(config, batch_size=smallest)
        splits = _random_splits(smallest, image_shape, num_classes)
        run = prepare_on(splits, tiny, Path(), device, Workers(), pretrained=False)
        loss = training_loss(config, device)

        def at(batch_size: int) -> Step:
            images, labels = (tensor.to(device) for tensor in _random(batch_size, image_shape, num_classes))

            def step() -> None:
                run.method.step(loss, (images, labels), scaler=run.scaler)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)

            return step

        return timed(at, smallest=smallest, whole=config.batch_size, device=_named(device))


def timed(
    at: Callable[[int], Step],
    *,
    smallest: int,
    whole: int,
    device: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time of a step of `whole` examples; `at(batch_size)` makes one of so many.

    From `smallest` the batch grows fourfold as long as two more steps, the first to warm up, fit `BOUND_SECONDS`. The
    largest counts.
    """

    def seconds_of(step: Step) -> float:
        started = clock()
        step()
        return clock() - started

    size, spent, too_large = smallest, 0.0, 0
    largest: tuple[int, Step, float] | None = None
    while True:
        try:
            step = at(size)
            warm_up, seconds = seconds_of(step), seconds_of(step)
        except torch.OutOfMemoryError:
            if largest is None:
                raise
            too_large = size
            break
        spent += warm_up + seconds
        largest = size, step, seconds
        if size == whole or spent + 2 * seconds * min(_GROWTH * size, whole) / size > BOUND_SECONDS:
            break
        size = min(_GROWTH * size, whole)
    size, step, seconds = largest
    times = [seconds]
    while len(times) < _NUM_TIMED and spent + times[-1] <= BOUND_SECONDS:
        times.append(seconds_of(step))
        spent += times[-1]
    return Timing(
        device=device,
        batch_size=whole,
        timed_batch_size=size,
        num_timed=len(times),
        seconds_per_step=statistics.median(times) * whole / size,
        too_large=too_large,
    )


def _smallest_batch(config: TrainConfig) -> int:
    """The smallest batch of which both parts have the two examples that BatchNorm needs; with `m`, one chunk."""
    if config.m:
        return min(config.m, config.batch_size)
    return next(
        num
        for num in range(2, config.batch_size + 1)
        if num == config.batch_size or min(part_sizes(num, config.split_ratio)) >= 2
    )


def _random(num: int, image_shape: tuple[int, int, int], num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    stream = generator(0, "images to time steps on")
    return torch.randn((num, *image_shape), generator=stream), torch.randint(num_classes, (num,), generator=stream)


def _random_splits(num: int, image_shape: tuple[int, int, int], num_classes: int) -> Splits:
    part = _random(num, image_shape, num_classes)
    return Splits(
        train=part,
        validation=part,
        test=part,
        num_classes=num_classes,
        noise_indices=torch.empty(0, dtype=torch.int64),
        clean_train_targets=part[1],
        classes=tuple(map(str, range(num_classes))),
    )


def _named(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} with {threads} thread{'s' if threads > 1 else ''}"
