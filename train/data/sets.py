"""The data sets that have a name: reader, sizes, licence, files with their published checksums, where to fetch them.

`sizes` are those of the parts as runs see them by default, a validation part split off (train.data.splits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from train.data import cifar, fine_grained, folders, small
from train.data.digits import digits, digits32
from train.data.source import Source


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """How a set is read, what is published of it, and where its files lie."""

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
DATA_SETS = {
    "digits": DataSet(read=lambda _: digits(), **_EMBEDDED),  # type: ignore[arg-type]  # of mixed types
    "digits32": DataSet(read=lambda _: digits32(), **_EMBEDDED),  # type: ignore[arg-type]
    "cifar10": DataSet(
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
    "cifar100": DataSet(
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
    "flowers102": DataSet(
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
    "stanford-cars": DataSet(
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
    "aircraft": DataSet(
        read=fine_grained.aircraft,
        sizes=(6_001, 666, 3_333),
        num_classes=100,
        licence="non-commercial research",
        folder="fgvc-aircraft-2013b/data",
        files=dict.fromkeys(("images", "variants.txt", "images_variant_trainval.txt", "images_variant_test.txt"), ""),
        torchvision="FGVCAircraft",
    ),
    "pets": DataSet(
        read=fine_grained.pets,
        sizes=(3_312, 368, 3_669),
        num_classes=37,
        licence="CC BY-SA 4.0",
        folder="oxford-iiit-pet",
        files=dict.fromkeys(("images", "annotations/trainval.txt", "annotations/test.txt"), ""),
        torchvision="OxfordIIITPet",
    ),
    "imagenet": DataSet(
        read=folders.imagenet,
        sizes=(1_271_167, 10_000, 50_000),
        num_classes=1000,
        licence="research, by registration",
        folder="imagenet",
        files=dict.fromkeys(("train", "val"), ""),
        fix="Register at image-net.org, download it there, and unpack it into a folder for each synset",
    ),
    "svhn": DataSet(
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
    "mnist": DataSet(
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
    "fashion-mnist": DataSet(
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
    "kmnist": DataSet(
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
