"""Small data sets, written in the formats that the real ones have on disk."""

import dataclasses
import gzip
import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from train.data import catalogue

RNG_SEED = 5


def jpg(path, seed, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def cifar(folder, sizes, keys, num_classes):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(RNG_SEED)
    for name, num_examples in sizes.items():
        batch = {
            "batch_label": name,
            "data": rng.integers(0, 256, (num_examples, 3072), dtype=np.uint8),
            keys[0]: [n % num_classes for n in range(num_examples)],
            "filenames": [f"{n}.png" for n in range(num_examples)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {keys[1]: [f"class {n}" for n in range(num_classes)]}
    (folder / keys[2]).write_bytes(pickle.dumps(meta, protocol=2))


def cifar10(root, num_train=200, num_test=40):
    sizes = {f"data_batch_{n}": num_train // 5 for n in range(1, 6)} | {"test_batch": num_test}
    cifar(root / "cifar-10-batches-py", sizes, ("labels", "label_names", "batches.meta"), 10)


def cifar100(root, num_train=200, num_test=200):
    sizes = {"train": num_train, "test": num_test}
    cifar(root / "cifar-100-python", sizes, ("fine_labels", "fine_label_names", "meta"), 100)


def idx(array, path, *, packed):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path = path.with_name(path.name + ".gz")
        content = gzip.compress(content)
    path.write_bytes(content)


def mnist(root, name="MNIST", *, packed=False):
    rng = np.random.default_rng(RNG_SEED)
    for prefix, num in (("train", 50), ("t10k", 20)):
        images = rng.integers(0, 256, (num, 28, 28), dtype=np.uint8)
        idx(images, root / name / f"raw/{prefix}-images-idx3-ubyte", packed=packed)
        idx((np.arange(num) % 10).astype(np.uint8), root / name / f"raw/{prefix}-labels-idx1-ubyte", packed=packed)


def svhn(root):
    rng = np.random.default_rng(RNG_SEED)
    for name, num in (("train", 50), ("test", 20)):
        labels = (np.arange(num) % 10 + 1).astype(np.uint8)[:, None]
        savemat(root / f"{name}_32x32.mat", {"X": rng.integers(0, 256, (32, 32, 3, num), dtype=np.uint8), "y": labels})


def flowers102(root, num_train=20, num_test=10):
    folder = root / "flowers-102"
    numbers = np.arange(1, num_train + num_test + 1)
    for number in numbers:
        jpg(folder / f"jpg/image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": ((numbers - 1) % 3 + 100)[None].astype(np.uint8)})
    parts = np.split(numbers, [num_train // 2, num_train])
    ids = {name: part[None].astype(np.uint16) for name, part in zip(("trnid", "valid", "tstid"), parts, strict=True)}
    savemat(folder / "setid.mat", ids)


def stanford_cars(root, num_train=20, num_test=6):
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array([f"Car {n}" for n in range(1, 197)], dtype=object)[None]
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    paths = ("train", "devkit/cars_train_annos", num_train), ("test", "cars_test_annos_withlabels", num_test)
    for part, path, num in paths:
        kinds = [("bbox_x1", "u1"), ("class", "u1"), ("fname", object)]
        rows = np.array([[(1, n % 3 + 1, f"{n + 1:05d}.jpg") for n in range(num)]], dtype=kinds)
        savemat(folder / f"{path}.mat", {"annotations": rows})
        for n in range(num):
            jpg(folder / f"cars_{part}/{n + 1:05d}.jpg", n)


def aircraft(root, num_train=20, num_test=6):
    folder = root / "fgvc-aircraft-2013b/data"
    variants = ["707-320", "A340 600", "F/A-18"]
    for part, first, num in (("trainval", 0, num_train), ("test", num_train, num_test)):
        lines = [f"{n:07d} {variants[n % 3]}\n" for n in range(first, first + num)]
        for n in range(first, first + num):
            jpg(folder / f"images/{n:07d}.jpg", n)
        (folder / f"images_variant_{part}.txt").write_text("".join(lines))
    (folder / "variants.txt").write_text("\n".join(variants) + "\n")


def pets(root, num_train=20, num_test=6):
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, num in (("trainval", num_train), ("test", num_test)):
        rows = [(f"{('Abyssinian', 'great_pyrenees')[n % 2]}_{part}{n}", n % 2 + 1) for n in range(num)]
        (folder / f"annotations/{part}.txt").write_text("".join(f"{name} {y} {y} 1\n" for name, y in rows))
        for n, (name, _) in enumerate(rows):
            jpg(folder / f"images/{name}.jpg", n)


def imagenet(root):
    for part, num in (("train", 10), ("val", 3)):
        for synset in ("n01440764", "n01443537"):
            for n in range(num):
                jpg(root / f"imagenet/{part}/{synset}/{synset}_{n}.JPEG", n, size=(300, 260))


WRITERS = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "mnist": mnist,
    "fashion-mnist": lambda root: mnist(root, "FashionMNIST"),
    "kmnist": lambda root: mnist(root, "KMNIST"),
    "flowers102": flowers102,
    "stanford-cars": stanford_cars,
    "aircraft": aircraft,
    "pets": pets,
    "imagenet": imagenet,
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a small data set of a name below tmp_path, and take its checksums for the published ones."""

    def make(name, **sizes):
        WRITERS[name](tmp_path, **sizes)
        trust(name)
        return tmp_path

    def trust(name):
        data_set = catalogue.DATA_SETS[name]
        folder = tmp_path / data_set.folder
        files = {
            file: hashlib.md5((folder / file).read_bytes()).hexdigest() if md5 and (folder / file).exists() else md5
            for file, md5 in data_set.files.items()
        }
        monkeypatch.setitem(catalogue.DATA_SETS, name, dataclasses.replace(data_set, files=files))

    make.trust = trust
    make.jpg = jpg
    make.mnist = mnist
    return make
