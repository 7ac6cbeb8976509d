"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their Python batches, which are pickles.

A pickle can run code when it is read, and a matching MD5 is no proof against that. So the reader admits what such a
batch is made of (arrays, text, bytes, lists, dictionaries) and refuses every other name in it.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch

from train.data.errors import DataError, UnsafeDataError
from train.data.images import Part, Pixels
from train.data.source import Source, labels

CIFAR10 = "cifar-10-batches-py"
CIFAR100 = "cifar-100-python"
_STATISTICS = {  # of the training images
    "labels": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "fine_labels": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def cifar10(root: Path) -> Source:
    """CIFAR-10 in `root`/cifar-10-batches-py."""
    folder = root / CIFAR10
    train = _part([folder / f"data_batch_{number}" for number in range(1, 6)], "labels")
    return Source(
        train=train,
        test=_part([folder / "test_batch"], "labels"),
        classes=_names(folder / "batches.meta", "label_names"),
    )


def cifar100(root: Path) -> Source:
    """CIFAR-100 with its fine labels, in `root`/cifar-100-python."""
    folder = root / CIFAR100
    return Source(
        train=_part([folder / "train"], "fine_labels"),
        test=_part([folder / "test"], "fine_labels"),
        classes=_names(folder / "meta", "fine_label_names"),
    )


def _part(paths: list[Path], key: str) -> Part:
    images, targets = [], []
    for path in paths:
        batch = read_batch(path)
        data, found = batch.get("data"), batch.get(key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise DataError(f"{path} is not a CIFAR batch: its 'data' is not (N, 3072) bytes")
        if not isinstance(found, list) or len(found) != len(data) or not all(type(y) is int for y in found):
            raise DataError(f"{path} is not a CIFAR batch: its {key!r} is not a list of {len(data)} whole numbers")
        images.append(torch.from_numpy(data.copy()).view(-1, 3, 32, 32))
        targets += found
    mean, std = _STATISTICS[key]
    return Pixels(values=torch.cat(images), mean=mean, std=std, flips=True), labels(targets)


def _names(path: Path, key: str) -> tuple[str, ...]:
    names = read_batch(path).get(key)
    if not isinstance(names, list):
        raise DataError(f"{path} does not list the names of the classes under {key!r}")
    return tuple(str(name) for name in names)


def read_batch(path: Path) -> dict[str, object]:
    """The dictionary in a batch file.

    Raises:
        UnsafeDataError: If the file names anything but arrays and plain values. Nothing of it is run.
        DataError: If the file is damaged.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
    except UnsafeDataError as error:
        raise UnsafeDataError(f"{path} {error}") from None
    except Exception as error:  # whatever a damaged pickle can make its reader raise
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}): copy or download it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a CIFAR batch: it holds a {type(content).__name__}")
    return content


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1
        raise UnsafeDataError(f"names code ({module}.{name}), which would run on loading: it was not opened")


def _empty_array(*_: object) -> np.ndarray:  # its state, dtype and shape included, follows
    return np.empty(0, dtype=np.uint8)


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")
