"""Image files in one folder per class: any `imagefolder:PATH`, and ImageNet."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import torch

from train.data.errors import AbsentDataError, DataError
from train.data.images import Files, Part
from train.data.source import Source, labels

SMALL = 96  # images whose first has sides up to this are used as they are, larger ones at 224 x 224
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def image_folder(path: Path) -> Source:
    """The images below `path`: in PATH/train with PATH/val and PATH/test, or in PATH itself, a folder for each class.

    Without PATH/test the test part is PATH/val, as it is for ImageNet. What is missing is split off the training part.

    Raises:
        AbsentDataError: If there is no such folder.
        DataError: If there are no images in it, or the parts differ in their classes.
    """
    if not path.is_dir():
        raise AbsentDataError(
            f"there is no folder {path}: imagefolder:PATH needs PATH/CLASS/*.jpg or PATH/train, PATH/val"
        )
    if not (path / "train").is_dir():
        classes = _classes(path)
        return Source(train=_sized(_part(path, path, classes)), classes=classes)
    classes = _classes(path / "train")
    train = _sized(_part(path, path / "train", classes))
    size = cast(Files, train[0]).size
    others = {
        name: _resized(_part(path, path / name, classes), size) for name in ("val", "test") if (path / name).is_dir()
    }
    if "test" not in others and "val" in others:
        others["test"] = others.pop("val")
    return Source(train=train, validation=others.get("val"), test=others.get("test"), classes=classes)


def imagenet(root: Path) -> Source:
    """ImageNet 2012 in `root`/imagenet: train and val, each with a folder for each of the synsets (n01440764, ...).

    Classes have their names where torchvision's meta.bin lies beside, and their synsets otherwise.
    """
    folder = root / "imagenet"
    classes = _classes(folder / "train")
    train, test = (_part(folder, folder / name, classes) for name in ("train", "val"))
    if not len(test[1]):
        raise DataError(f"{folder / 'val'} must have a folder for each synset, with its images inside")
    return Source(train=train, test=test, classes=_synset_names(folder / "meta.bin", classes))


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")))


def _part(root: Path, folder: Path, classes: tuple[str, ...]) -> Part:
    unknown = sorted(set(_classes(folder)) - set(classes))
    if unknown:
        raise DataError(f"{folder} has the class {unknown[0]!r}, which the training images do not have")
    names: list[str] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(item for item in (folder / name).rglob("*") if item.suffix.lower() in _SUFFIXES)
        names += [item.relative_to(root).as_posix() for item in files]
        targets += [label] * len(files)
    return Files(folder=root, names=tuple(names)), labels(targets)


def _sized(part: Part) -> Part:
    """The part with the size of its first image, where that is small."""
    files = cast(Files, part[0])
    if not files.names:
        raise DataError(
            f"{files.folder} holds no images: it needs a folder for each class, with {', '.join(_SUFFIXES)}"
        )
    first = files.decoded(0)
    return _resized(part, (first.height, first.width) if max(first.size) <= SMALL else None)


def _resized(part: Part, size: tuple[int, int] | None) -> Part:
    return dataclasses.replace(cast(Files, part[0]), size=size), part[1]


def _synset_names(path: Path, synsets: tuple[str, ...]) -> tuple[str, ...]:
    if not path.is_file():
        return synsets
    try:
        names = torch.load(path, weights_only=True)[0]
        return tuple(names[synset][0] for synset in synsets)
    except Exception as error:  # whatever a damaged file can make its reader raise
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}): remove it, it only names the classes"
        ) from error
