"""A data set of one's own in an .npz file, read without pickles."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy_format

from train.data.errors import AbsentDataError, DataError, UnsafeDataError
from train.data.images import Part, Pixels
from train.data.source import Source

Array = np.ndarray[Any, Any]
_LAYOUTS = "x, y; or x_train, y_train with x_test, y_test and, if you like, x_val, y_val; and optionally classes"


def arrays(path: Path) -> Source:
    """The arrays x, y, or x_train, y_train, x_test, y_test (and x_val, y_val), and optionally the names in `classes`.

    Images are (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels; bytes are scaled to 0..1 and normalised by
    the mean and standard deviation of each channel of the training images; floating-point numbers are used as they are.

    Raises:
        AbsentDataError: If there is no such file.
        UnsafeDataError: If an array holds Python objects, which would have to be unpickled.
        DataError: If the file is damaged, lies about its sizes, or its arrays do not fit together.
    """
    if not path.is_file():
        raise AbsentDataError(f"there is no file {path}: npz:PATH needs one, with the arrays {_LAYOUTS}")
    try:
        content = _read(path)
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as .npz ({error}): copy it again") from error
    found = {
        suffix: _pair(path, content, suffix) for suffix in ("", "_train", "_val", "_test") if f"x{suffix}" in content
    }
    if set(found) == {""}:
        found["_train"] = found.pop("")
    if set(found) not in ({"_train"}, {"_train", "_test"}, {"_train", "_val", "_test"}):
        raise DataError(f"{path} holds {', '.join(sorted(content)) or 'nothing'}; expected {_LAYOUTS}")
    parts = _parts(found)
    return Source(
        train=parts["_train"],
        validation=parts.get("_val"),
        test=parts.get("_test"),
        classes=_classes(path, content, found),
    )


def _read(path: Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        total = sum(entry.file_size for entry in entries)
        if total > memory:
            raise DataError(f"{path} unpacks to {total:,} bytes, more than this machine's memory of {memory:,}")
        return {entry.filename.removesuffix(".npy"): _member(path, archive, entry) for entry in entries}


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    with archive.open(entry) as file:
        version = npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise UnsafeDataError(
                f"{path} holds Python objects in {entry.filename}, which would be unpickled: it was not opened. Save "
                "numbers or text arrays"
            )
        claimed, there = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
        if claimed != there:  # before anything of that size is allocated
            raise DataError(f"{path}: {entry.filename} says it has {claimed:,} bytes of data, but {there:,} are there")
    with archive.open(entry) as file:
        return npy_format.read_array(file, allow_pickle=False)


def _pair(path: Path, content: dict[str, Array], suffix: str) -> tuple[Array, Array]:
    x, y = content[f"x{suffix}"], content.get(f"y{suffix}")
    if y is None:
        raise DataError(f"{path} holds x{suffix} but no y{suffix}")
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{path}: y{suffix} must be whole numbers (N,), got {y.dtype} {y.shape}")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape[1:]:
        raise DataError(f"{path}: x{suffix} must be images (N, H, W) or (N, 1 or 3, H, W), got {x.shape}")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"{path}: x{suffix} must be bytes (uint8) or floating-point numbers, got {x.dtype}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{path}: x{suffix} has values that are not finite")
    return x, y.astype(np.int64)


def _parts(found: dict[str, tuple[Array, Array]]) -> dict[str, Part]:
    mean, std = _statistics(found["_train"][0])

    def part(x: Array, y: Array) -> Part:
        values = torch.from_numpy(np.array(x, dtype=np.uint8 if x.dtype == np.uint8 else np.float32, order="C"))
        return Pixels(values=values, mean=mean, std=std, flips=True), torch.from_numpy(y)

    return {suffix: part(*pair) for suffix, pair in found.items()}


def _statistics(x: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if x.dtype != np.uint8 or not len(x):
        return (0.0,) * x.shape[1], (1.0,) * x.shape[1]
    counts = [np.bincount(x[:, channel].reshape(-1), minlength=256) for channel in range(x.shape[1])]
    levels = np.arange(256) / 255
    means = [float(count @ levels / count.sum()) for count in counts]
    stds = [float(count @ (levels - mean) ** 2 / count.sum()) ** 0.5 for count, mean in zip(counts, means, strict=True)]
    return tuple(means), tuple(std or 1.0 for std in stds)  # a constant channel has nothing to scale


def _classes(path: Path, content: dict[str, Array], found: dict[str, tuple[Array, Array]]) -> tuple[str, ...]:
    if "classes" in content:
        return tuple(str(name) for name in content["classes"].reshape(-1))
    largest = max((int(y.max()) for _, y in found.values() if len(y)), default=-1)
    num_examples = sum(len(y) for _, y in found.values())
    if largest >= num_examples:
        raise DataError(f"{path} has the label {largest}, but only {num_examples} examples: labels count from 0")
    return tuple(str(number) for number in range(largest + 1))
