"""The four fine-grained sets of the paper: photographs of many sizes, with the splits that come with them.

Stanford Cars, FGVC-Aircraft and Oxford-IIIT Pets are trained on all that is not their test part; Flowers102 on its
training and validation parts together. The layouts are torchvision's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from train.data.errors import DataError
from train.data.images import Files, Part
from train.data.matlab import read_matlab
from train.data.source import Source, labels


def flowers102(root: Path) -> Source:
    """Nilsback and Zisserman 2008: 102 kinds of flower; classes are called 1 to 102, for the files name none."""
    folder = root / "flowers-102"
    targets = read_matlab(folder / "imagelabels.mat", "labels")["labels"].reshape(-1).tolist()
    ids = read_matlab(folder / "setid.mat", "trnid", "valid", "tstid")

    def part(*names: str) -> Part:
        numbers = [int(number) for name in names for number in ids[name].reshape(-1)]
        if not all(1 <= number <= len(targets) for number in numbers):
            raise DataError(f"{folder / 'setid.mat'} names images beyond the {len(targets)} of imagelabels.mat")
        return _part(folder, ((f"jpg/image_{n:05d}.jpg", int(targets[n - 1]) - 1) for n in numbers))

    return Source(train=part("trnid", "valid"), test=part("tstid"), classes=tuple(str(n) for n in range(1, 103)))


def stanford_cars(root: Path) -> Source:
    """Krause et al. 2013: 196 models of car, by the annotations of the devkit."""
    folder = root / "stanford_cars"
    names = read_matlab(folder / "devkit/cars_meta.mat", "class_names")["class_names"].reshape(-1)

    def part(images: str, annotations: str) -> Part:
        found = read_matlab(folder / annotations, "annotations")["annotations"].reshape(-1)
        if not {"fname", "class"} <= set(found.dtype.names or ()):
            raise DataError(f"{folder / annotations} lacks the fields fname and class")
        return _part(folder, ((f"{images}/{one['fname']}", int(one["class"]) - 1) for one in found))

    return Source(
        train=part("cars_train", "devkit/cars_train_annos.mat"),
        test=part("cars_test", "cars_test_annos_withlabels.mat"),
        classes=tuple(str(name) for name in names),
    )


def aircraft(root: Path) -> Source:
    """Maji et al. 2013 (arXiv:1306.5151): 100 variants of aircraft."""
    folder = root / "fgvc-aircraft-2013b/data"
    classes = tuple(line.strip() for line in _lines(folder / "variants.txt"))
    numbers = {name: number for number, name in enumerate(classes)}

    def part(name: str) -> Part:
        path = folder / f"images_variant_{name}.txt"
        pairs = [tuple(line.strip().split(" ", 1)) for line in _lines(path)]
        for pair in pairs:
            if len(pair) != 2 or pair[1] not in numbers:
                raise DataError(f"{path} has the line {' '.join(pair)!r}, which names no variant of variants.txt")
        return _part(folder, ((f"images/{image}.jpg", numbers[variant]) for image, variant in pairs))

    return Source(train=part("trainval"), test=part("test"), classes=classes)


def pets(root: Path) -> Source:
    """Parkhi et al. 2012: 37 breeds of cat and dog."""
    folder = root / "oxford-iiit-pet"
    names: dict[int, str] = {}

    def part(name: str) -> Part:
        path, images = folder / f"annotations/{name}.txt", []
        for line in _lines(path):
            try:
                image, number, _, _ = line.split()
                label = int(number) - 1
            except ValueError:
                raise DataError(f"{path} has the line {line!r}, expected an image and three numbers") from None
            names.setdefault(label, image.rsplit("_", 1)[0].replace("_", " ").title())
            images.append((f"images/{image}.jpg", label))
        return _part(folder, images)

    train, test = part("trainval"), part("test")
    return Source(
        train=train, test=test, classes=tuple(names.get(n, str(n)) for n in range(max(names, default=-1) + 1))
    )


def _part(folder: Path, pairs: Iterable[tuple[str, int]]) -> Part:
    listed = list(pairs)
    return Files(folder=folder, names=tuple(name for name, _ in listed)), labels([label for _, label in listed])


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error.reason}): copy or download it again") from error
