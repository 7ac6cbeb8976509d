"""Every data set by name: where it is expected, whether it is there and whole.

The layout below the data root is torchvision's, so copies that other programs fetched are found. Nothing is downloaded
unless asked for, and torchvision is imported for that only.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from train.config import DATA, check_data
from train.data import folders
from train.data.arrays import arrays
from train.data.errors import AbsentDataError, DataError, LibraryError
from train.data.images import Files, in_threads
from train.data.sets import DATA_SETS, DataSet
from train.data.source import Source, check

State = Literal["present", "absent", "damaged"]
Checksums = Literal["verified", "wrong", "none published", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a data set on this machine. `sizes` are of training, validation and test part, where known.

    "present" means that the files are there; whether they are whole, only `checked` says.
    """

    name: str
    state: State
    folder: str
    sizes: tuple[int, int, int] | None
    num_classes: int | None
    licence: str
    checksums: Checksums
    detail: str = ""


def data_root(given: str = "") -> Path:
    """The folder below which data is expected: `given`, else $LANDSCAPE_DATA, else ~/.cache/landscape/data."""
    chosen = given or os.environ.get("LANDSCAPE_DATA") or "~/.cache/landscape/data"
    return Path(chosen).expanduser()


def open_source(name: str, root: Path) -> Source:
    """The data set called `name`, checked.

    Raises:
        ValueError: If the name is unknown.
        AbsentDataError: If it is not below `root`.
        DataError: If it is damaged, empty, or has labels out of range.
    """
    check_data(name)
    kind, _, path = name.partition(":")
    if kind == "imagefolder":
        source = folders.image_folder(Path(path).expanduser())
    elif kind == "npz":
        source = arrays(Path(path).expanduser())
    else:
        data_set = DATA_SETS[name]
        _refuse_absent(name, data_set, root)
        _refuse_wrong_checksums(data_set, root)
        try:
            source = data_set.read(root)
        except FileNotFoundError as error:
            raise AbsentDataError(_absent(name, data_set, root, str(error.filename))) from error
    check(name, source)
    return source


def records(root: Path) -> list[Record]:
    """Every data set that has a name of its own, and whether its files are below `root`; none is opened."""
    return [record(name, root) for name in DATA]


def record(name: str, root: Path) -> Record:
    """What is known of one data set without opening it."""
    check_data(name)
    kind, _, path = name.partition(":")
    if name not in DATA_SETS:
        there = Path(path).expanduser()
        found = there.is_dir() if kind == "imagefolder" else there.is_file()
        return _own_record(name, there, "present" if found else "absent")
    data_set = DATA_SETS[name]
    missing = _missing(data_set, root)
    return Record(
        name=name,
        state="absent" if missing else "present",
        folder=str(root / data_set.folder) if data_set.files else "",
        sizes=data_set.sizes,
        num_classes=data_set.num_classes,
        licence=data_set.licence,
        checksums="not checked" if any(data_set.files.values()) else "none published",
        detail=_absent(name, data_set, root, missing[0]) if missing else "",
    )


def checked(name: str, root: Path) -> Record:
    """What is known of one data set after reading all of it: checksums, labels, and every image file."""
    found = record(name, root)
    try:
        source = open_source(name, root)
        for part in (source.train, source.validation, source.test):
            _decode_all(part[0] if part else None)
    except AbsentDataError as error:
        return _with(found, state="absent", detail=str(error))
    except DataError as error:
        wrong = isinstance(error, _ChecksumError)
        return _with(found, state="damaged", detail=str(error), checksums="wrong" if wrong else found.checksums)
    verified = _verified(DATA_SETS[name], root) if name in DATA_SETS else False
    return _with(found, state="present", detail="", checksums="verified" if verified else found.checksums)


def records_text(found: Sequence[Record]) -> str:
    """A table of data sets."""
    rows: list[tuple[str, ...]] = [("data", "state", "train", "validation", "test", "classes", "licence")]
    for one in found:
        sizes = [f"{size:,}" for size in one.sizes] if one.sizes else ["?"] * 3
        rows.append((one.name, one.state, *sizes, str(one.num_classes), one.licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (0, 1, 6)
    return "\n".join(
        "  ".join(
            f"{cell:<{w}}" if n in left else f"{cell:>{w}}" for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def download(name: str, root: Path) -> None:
    """Fetch a data set with torchvision, unless it is there.

    Raises:
        LibraryError: If torchvision cannot be imported.
        AbsentDataError: If it cannot be downloaded.
    """
    check_data(name)
    data_set = DATA_SETS.get(name)
    if data_set is None:
        raise AbsentDataError(f"{name} is data of your own: there is nothing to download")
    if not _missing(data_set, root):
        return
    if not data_set.torchvision:
        raise AbsentDataError(_absent(name, data_set, root, _missing(data_set, root)[0]))
    fetch = getattr(torchvision_datasets(), data_set.torchvision)
    root.mkdir(parents=True, exist_ok=True)
    try:
        for arguments in data_set.parts:
            fetch(str(root), download=True, **arguments)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise AbsentDataError(
            f"{name} could not be downloaded ({reason}): put a copy into {root / data_set.folder}, or try again later"
        ) from error


def torchvision_datasets() -> ModuleType:
    """torchvision.datasets, imported only now.

    Raises:
        LibraryError: If it is missing, or was built for another torch.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except ModuleNotFoundError as error:
        raise LibraryError(f"{error.name} is not installed: pip install {error.name}") from error
    except Exception as error:  # a RuntimeError, ImportError or AttributeError, by version
        torch, vision = (importlib.metadata.version(package) for package in ("torch", "torchvision"))
        raise LibraryError(
            f"torchvision {vision} does not work with torch {torch} ({str(error).splitlines()[0]}): install both "
            "together from one index, pip install --force-reinstall torch torchvision"
        ) from error


class _ChecksumError(DataError):
    pass


def _own_record(name: str, path: Path, state: State) -> Record:
    return Record(
        name=name,
        state=state,
        folder=str(path),
        sizes=None,
        num_classes=None,
        licence="your own data",
        checksums="none published",
        detail="" if state == "present" else f"{path} is not there",
    )


def _with(found: Record, *, state: State, detail: str, checksums: Checksums | None = None) -> Record:
    return Record(**{**vars(found), "state": state, "detail": detail, "checksums": checksums or found.checksums})


def _missing(data_set: DataSet, root: Path) -> list[str]:
    folder = root / data_set.folder
    return [
        str(folder / name)
        for name in data_set.files
        if not (folder / name).exists() and not (folder / name.removesuffix(".gz")).exists()
    ]


def _refuse_absent(name: str, data_set: DataSet, root: Path) -> None:
    missing = _missing(data_set, root)
    if missing:
        raise AbsentDataError(_absent(name, data_set, root, missing[0]))


def _absent(name: str, data_set: DataSet, root: Path, missing: str) -> str:
    fix = data_set.fix or f"--download fetches it (landscape train --data {name} --download)"
    return (
        f"{name} is expected in {root / data_set.folder}, but {missing} is missing. {fix}; --data-root or "
        "$LANDSCAPE_DATA name another folder; --data digits32 needs no files"
    )


def _refuse_wrong_checksums(data_set: DataSet, root: Path) -> None:
    for name, expected in data_set.files.items():
        path = root / data_set.folder / name
        if expected and path.exists() and _md5(path) != expected:
            raise _ChecksumError(
                f"{path} is damaged or another file: its MD5 is {_md5(path)}, expected {expected}. Remove it and "
                "download it again"
            )


def _verified(data_set: DataSet, root: Path) -> bool:
    """Whether every file with a published MD5 was there to be checked."""
    names = [name for name, expected in data_set.files.items() if expected]
    return bool(names) and all((root / data_set.folder / name).exists() for name in names)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _decode_all(images: object) -> None:
    if isinstance(images, Files):
        in_threads(lambda _, row: images.decoded(row).size, list(range(len(images))))
