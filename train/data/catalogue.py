"""Every data set by name: where it is expected, whether it is there and whole, and how it is read.

The layout below the data root is torchvision's, so copies that other programs fetched are found. Nothing is downloaded
unless asked for, and torchvision is imported for that only.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

from train.config import DATA, check_data
from train.data import cifar, fine_grained, folders, small
from train.data.arrays import arrays
from train.data.digits import digits, digits32
from train.data.errors import AbsentDataError, DataError, LibraryError
from train.data.images import Files, in_threads
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


@dataclass(frozen=True, kw_only=True)
class _DataSet:
    read: Callable[[Path], Source]
    sizes: tuple[int, int, int]
    num_classes: int
    licence: str
    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # below `folder`, with the MD5 that is published, or ""
    torchvision: str = ""  # the class that can download it
    parts: tuple[Mapping[str, str], ...] = ({},)  # its arguments, one download each
    fix: str = ""  # where it cannot


def _mnist_files(images: str, image_labels: str, test_images: str, test_labels: str) -> dict[str, str]:
    return {
        "train-images-idx3-ubyte.gz": images,
        "train-labels-idx1-ubyte.gz": image_labels,
        "t10k-images-idx3-ubyte.gz": test_images,
        "t10k-labels-idx1-ubyte.gz": test_labels,
    }


_EMBEDDED = {"sizes": (1078, 359, 360), "num_classes": 10, "licence": "CC BY 4.0 (UCI)"}
_DATA_SETS = {
    "digits": _DataSet(read=lambda _: digits(), **_EMBEDDED),  # type: ignore[arg-type]  # of mixed types
    "digits32": _DataSet(read=lambda _: digits32(), **_EMBEDDED),  # type: ignore[arg-type]
    "cifar10": _DataSet(
        read=cifar.cifar10,
        sizes=(45_000, 5_000, 10_000),
        num_classes=10,
        licence="none stated; cite Krizhevsky 2009",
        folder=cifar.CIFAR10,
        files={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        torchvision="CIFAR10",
    ),
    "cifar100": _DataSet(
        read=cifar.cifar100,
        sizes=(45_000, 5_000, 10_000),
        num_classes=100,
        licence="none stated; cite Krizhevsky 2009",
        folder=cifar.CIFAR100,
        files={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
        torchvision="CIFAR100",
    ),
    "flowers102": _DataSet(
        read=fine_grained.flowers102,
        sizes=(1_836, 204, 6_149),
        num_classes=102,
        licence="none stated; cite Nilsback 2008",
        folder="flowers-102",
        files={
            "jpg": "",
            "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
            "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
        },
        torchvision="Flowers102",
    ),
    "stanford-cars": _DataSet(
        read=fine_grained.stanford_cars,
        sizes=(7_330, 814, 8_041),
        num_classes=196,
        licence="non-commercial research",
        folder="stanford_cars",
        files=dict.fromkeys(
            (
                "cars_train",
                "cars_test",
                "devkit/cars_meta.mat",
                "devkit/cars_train_annos.mat",
                "cars_test_annos_withlabels.mat",
            ),
            "",
        ),
        fix="It can no longer be downloaded from its authors: arrange a copy in that folder",
    ),
    "aircraft": _DataSet(
        read=fine_grained.aircraft,
        sizes=(6_001, 666, 3_333),
        num_classes=100,
        licence="non-commercial research",
        folder="fgvc-aircraft-2013b/data",
        files=dict.fromkeys(("images", "variants.txt", "images_variant_trainval.txt", "images_variant_test.txt"), ""),
        torchvision="FGVCAircraft",
    ),
    "pets": _DataSet(
        read=fine_grained.pets,
        sizes=(3_312, 368, 3_669),
        num_classes=37,
        licence="CC BY-SA 4.0",
        folder="oxford-iiit-pet",
        files=dict.fromkeys(("images", "annotations/trainval.txt", "annotations/test.txt"), ""),
        torchvision="OxfordIIITPet",
    ),
    "imagenet": _DataSet(
        read=folders.imagenet,
        sizes=(1_271_167, 10_000, 50_000),
        num_classes=1000,
        licence="research, by registration",
        folder="imagenet",
        files=dict.fromkeys(("train", "val"), ""),
        fix="Register at image-net.org, download it there, and unpack it into a folder for each synset",
    ),
    "svhn": _DataSet(
        read=small.svhn,
        sizes=(65_932, 7_325, 26_032),
        num_classes=10,
        licence="non-commercial use",
        files={
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
        torchvision="SVHN",
        parts=({"split": "train"}, {"split": "test"}),
    ),
    "mnist": _DataSet(
        read=small.mnist,
        sizes=(54_000, 6_000, 10_000),
        num_classes=10,
        licence="CC BY-SA 3.0",
        folder="MNIST/raw",
        files=_mnist_files(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        torchvision="MNIST",
    ),
    "fashion-mnist": _DataSet(
        read=small.fashion_mnist,
        sizes=(54_000, 6_000, 10_000),
        num_classes=10,
        licence="MIT",
        folder="FashionMNIST/raw",
        files=_mnist_files(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        torchvision="FashionMNIST",
    ),
    "kmnist": _DataSet(
        read=small.kmnist,
        sizes=(54_000, 6_000, 10_000),
        num_classes=10,
        licence="CC BY-SA 4.0",
        folder="KMNIST/raw",
        files=_mnist_files(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        torchvision="KMNIST",
    ),
}


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
        data_set = _DATA_SETS[name]
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
    if name not in _DATA_SETS:
        there = Path(path).expanduser()
        found = there.is_dir() if kind == "imagefolder" else there.is_file()
        return _own_record(name, there, "present" if found else "absent")
    data_set = _DATA_SETS[name]
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
    verified = _verified(_DATA_SETS[name], root) if name in _DATA_SETS else False
    return _with(found, state="present", detail="", checksums="verified" if verified else found.checksums)


def download(name: str, root: Path) -> None:
    """Fetch a data set with torchvision, unless it is there.

    Raises:
        LibraryError: If torchvision cannot be imported.
        AbsentDataError: If it cannot be downloaded.
    """
    check_data(name)
    data_set = _DATA_SETS.get(name)
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


def _missing(data_set: _DataSet, root: Path) -> list[str]:
    folder = root / data_set.folder
    return [
        str(folder / name)
        for name in data_set.files
        if not (folder / name).exists() and not (folder / name.removesuffix(".gz")).exists()
    ]


def _refuse_absent(name: str, data_set: _DataSet, root: Path) -> None:
    missing = _missing(data_set, root)
    if missing:
        raise AbsentDataError(_absent(name, data_set, root, missing[0]))


def _absent(name: str, data_set: _DataSet, root: Path, missing: str) -> str:
    fix = data_set.fix or f"--download fetches it (landscape train --data {name} --download)"
    return (
        f"{name} is expected in {root / data_set.folder}, but {missing} is missing. {fix}; --data-root or "
        "$LANDSCAPE_DATA name another folder; --data digits32 needs no files"
    )


def _refuse_wrong_checksums(data_set: _DataSet, root: Path) -> None:
    for name, expected in data_set.files.items():
        path = root / data_set.folder / name
        if expected and path.exists() and _md5(path) != expected:
            raise _ChecksumError(
                f"{path} is damaged or another file: its MD5 is {_md5(path)}, expected {expected}. Remove it and "
                "download it again"
            )


def _verified(data_set: _DataSet, root: Path) -> bool:
    """Whether every file with a published MD5 was there to be checked."""
    names = [name for name, expected in data_set.files.items() if expected]
    return bool(names) and all((root / data_set.folder / name).exists() for name in names)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _decode_all(images: object) -> None:
    if isinstance(images, Files):
        in_threads(lambda _, row: images.decoded(row).size, list(range(len(images))))
