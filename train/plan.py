"""What a run would do, before anything is written and, for data with a name, before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass

from train.config import TrainConfig
from train.data import data_root, load, num_held_out, record
from train.models import build
from train.run import gradients_per_step

_ONE_PIECE = ("digits", "digits32")  # of the sets with a name; all others have a test part
_ONE_CHANNEL = ("digits", "mnist", "fashion-mnist", "kmnist")  # of the sets with a name; all others have three


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of a run. `num_gradients` is of one step, in units of one gradient over the whole batch."""

    num_train: int
    num_classes: int
    num_parameters: int
    steps_per_epoch: int
    num_steps: int
    num_gradients: float


def plan(config: TrainConfig) -> Plan:
    """The counts of a run with these settings. Named data need not be there: its published sizes are taken.

    Raises:
        ValueError: If a batch is larger than the data, or the network does not take its images.
        AbsentDataError: If data without a name of its own (imagefolder:PATH, npz:PATH) is not there.
        LibraryError: If the network needs torchvision or timm, and the library is missing or does not fit torch.

    Example:
        >>> plan(TrainConfig(method="sam")).num_steps  # 40 epochs of floor(1078 / 128)
        320
    """
    num_train, num_classes, in_channels = _sizes(config)
    if config.batch_size > num_train:
        raise ValueError(
            f"batch_size is {config.batch_size}, but there are only {num_train} training examples: use a smaller one"
        )
    model = build(config.model, in_channels=in_channels, num_classes=num_classes, seed=config.seed)
    steps = num_train // config.batch_size
    return Plan(
        num_train=num_train,
        num_classes=num_classes,
        num_parameters=sum(param.numel() for param in model.parameters()),
        steps_per_epoch=steps,
        num_steps=steps * config.epochs,
        num_gradients=gradients_per_step(config),
    )


def _sizes(config: TrainConfig) -> tuple[int, int, int]:
    known = record(config.data, data_root(config.data_root))
    if known.sizes is not None and known.num_classes is not None:
        num_train = known.sizes[0]
        if config.val_fraction != TrainConfig.val_fraction:
            num_train += known.sizes[1]
            num_train -= num_held_out(num_train, config.val_fraction, one_piece=config.data in _ONE_PIECE)
        return num_train, known.num_classes, 1 if config.data in _ONE_CHANNEL else 3
    splits = load(config)
    return len(splits.train[1]), splits.num_classes, splits.train[0].shape[1]
