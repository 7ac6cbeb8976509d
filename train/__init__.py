"""Train a classifier with SGD, SAM, ASAM or Agnostic-SAM, and keep checkpoints that know their data and model.

`import train` is light: each name is imported when it is first used, so that settings can be checked without torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.batches import MicroBatches
    from train.config import TrainConfig
    from train.methods import ASAM, SAM, AgnosticSAM

_HOME = {
    "ASAM": "methods",
    "AgnosticSAM": "methods",
    "MicroBatches": "batches",
    "SAM": "methods",
    "TrainConfig": "config",
}

__all__ = ["ASAM", "SAM", "AgnosticSAM", "MicroBatches", "TrainConfig"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(importlib.import_module(f"train.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
