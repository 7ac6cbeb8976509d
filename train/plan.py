"""What a run would do, before anything is written and, for data with a name, before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from train.config import DATA, TrainConfig
from train.data import data_root, load, num_held_out, record
from train.methods import ASAM
from train.models import build
from train.run import check_batch, gradients_per_step

_ONE_PIECE = ("digits", "digits32")  # of the sets with a name; all others have a test part
_SHAPES = {  # of an image of the sets with a name; all others are (3, 224, 224)
    "digits": (1, 8, 8),
    **dict.fromkeys(("mnist", "fashion-mnist", "kmnist"), (1, 28, 28)),
    **dict.fromkeys(("digits32", "cifar10", "cifar100", "svhn"), (3, 32, 32)),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of a run. `num_gradients` is of one step, in units of one gradient over the whole batch.

    `scaled_names` are the parameters that "asam" scales, for the other methods none. `warning` is a line or empty.
    """

    num_train: int
    num_classes: int
    image_shape: tuple[int, int, int]
    num_parameters: int
    steps_per_epoch: int
    num_steps: int
    num_gradients: float
    scaled_names: tuple[str, ...]
    warning: str


def plan(config: TrainConfig) -> Plan:
    """The counts of a run with these settings. Named data need not be there: its published sizes are taken.

    Raises:
        ValueError: If a batch is larger than the data or too small to be split or cut, or the network does not take
            its images.
        AbsentDataError: If data without a name of its own (imagefolder:PATH, npz:PATH) is not there.
        LibraryError: If the network needs torchvision or timm, and the library is missing or does not fit torch.

    Example:
        >>> plan(TrainConfig(method="sam")).num_steps  # 40 epochs of floor(1078 / 128)
        320
    """
    num_train, num_classes, image_shape = _sizes(config)
    check_batch(config, num_train)
    model = build(config.model, in_channels=image_shape[0], num_classes=num_classes, seed=config.seed)
    steps = num_train // config.batch_size
    return Plan(
        num_train=num_train,
        num_classes=num_classes,
        image_shape=image_shape,
        num_parameters=sum(param.numel() for param in model.parameters()),
        steps_per_epoch=steps,
        num_steps=steps * config.epochs,
        num_gradients=gradients_per_step(config),
        scaled_names=_scaled_names(model) if config.method == "asam" else (),
        warning=size_warning(config.model, image_shape),
    )


def published_shape(data: str) -> tuple[int, int, int] | None:
    """(C, H, W) of an image of the data set called `data`; None for data without a name of its own."""
    return _SHAPES.get(data, (3, 224, 224)) if data in DATA else None


def size_warning(model: str, image_shape: tuple[int, int, int]) -> str:
    """A line if the network leaves its last block but one pixel of such images, otherwise empty."""
    height, width = image_shape[1:]
    if model != "densenet121_imagenet_stem" or min(height, width) >= 64:
        return ""
    return (
        f"{model} was made for 224x224: of {height}x{width} its last block sees {height // 32}x{width // 32} "
        f"(of densenet121_cifar_stem, {height // 8}x{width // 8})"
    )


def _scaled_names(model: nn.Module) -> tuple[str, ...]:
    return tuple(ASAM(model, torch.optim.SGD(model.parameters(), lr=1.0)).scaled_names)


def _sizes(config: TrainConfig) -> tuple[int, int, tuple[int, int, int]]:
    known, shape = record(config.data, data_root(config.data_root)), published_shape(config.data)
    if known.sizes is not None and known.num_classes is not None and shape is not None:
        num_train = known.sizes[0]
        if config.val_fraction != TrainConfig.val_fraction:
            num_train += known.sizes[1]
            num_train -= num_held_out(num_train, config.val_fraction, one_piece=config.data in _ONE_PIECE)
        return num_train, known.num_classes, shape
    splits = load(config)
    _, channels, height, width = splits.train[0].shape
    return len(splits.train[1]), splits.num_classes, (channels, height, width)
