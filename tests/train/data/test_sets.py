"""Every set that has a name: read from its true format, held against torchvision's own reader, refused when damaged."""

import os
import pickle

import numpy as np
import pytest
import torch

from train.config import DATA, TrainConfig
from train.data import AbsentDataError, DataError, UnsafeDataError, catalogue, checked, load, records, splits_hash
from train.data.catalogue import open_source
from train.data.images import Files, Pixels
from train.plan import published_shape

# name: training, validation, test examples of the small sets; classes; shape of an image
EXPECTED = {
    "cifar10": ((180, 20, 40), 10, (3, 32, 32)),
    "cifar100": ((180, 20, 200), 100, (3, 32, 32)),
    "svhn": ((45, 5, 20), 10, (3, 32, 32)),
    "mnist": ((45, 5, 20), 10, (1, 28, 28)),
    "fashion-mnist": ((45, 5, 20), 10, (1, 28, 28)),
    "kmnist": ((45, 5, 20), 10, (1, 28, 28)),
    "flowers102": ((18, 2, 10), 102, (3, 224, 224)),
    "stanford-cars": ((18, 2, 6), 196, (3, 224, 224)),
    "aircraft": ((18, 2, 6), 3, (3, 224, 224)),
    "pets": ((18, 2, 6), 2, (3, 224, 224)),
    "imagenet": ((18, 2, 6), 2, (3, 224, 224)),
}
TORCHVISION = {
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "cifar100": ("CIFAR100", {"train": True}, {"train": False}),
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),
    "mnist": ("MNIST", {"train": True}, {"train": False}),
    "fashion-mnist": ("FashionMNIST", {"train": True}, {"train": False}),
    "stanford-cars": ("StanfordCars", {"split": "train"}, {"split": "test"}),
    "aircraft": ("FGVCAircraft", {"split": "trainval"}, {"split": "test"}),
    "pets": ("OxfordIIITPet", {"split": "trainval"}, {"split": "test"}),
    "flowers102": ("Flowers102", {"split": "val"}, {"split": "test"}),
}


def settings(name, root, **others):
    return TrainConfig(data=name, data_root=str(root), **others)


def test_every_listed_name_can_be_opened():
    assert set(catalogue.DATA_SETS) == set(DATA)
    assert set(EXPECTED) | {"digits", "digits32"} == set(DATA)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_set_has_its_sizes_classes_and_shape(name, write):
    root = write(name)
    splits = load(settings(name, root))
    sizes, num_classes, shape = EXPECTED[name]
    assert tuple(len(part[1]) for part in (splits.train, splits.validation, splits.test)) == sizes
    assert splits.num_classes == len(splits.classes) == num_classes
    assert published_shape(name) == shape
    for inputs, targets in (splits.train, splits.validation, splits.test):
        assert tuple(inputs.shape) == (len(targets), *shape)
        assert inputs[:2].dtype == torch.float32
        assert inputs[:2].shape[1:] == shape
        assert targets.dtype == torch.int64
    assert checked(name, root).state == "present"


@pytest.mark.parametrize("name", TORCHVISION)
def test_images_labels_and_their_order_are_those_of_torchvision(name, write, monkeypatch):
    from torchvision import datasets

    root = write(name)
    kind, *arguments = TORCHVISION[name]
    constructor = getattr(datasets, kind)
    if hasattr(constructor, "_check_integrity"):
        monkeypatch.setattr(constructor, "_check_integrity", lambda self: True)
    if hasattr(constructor, "meta"):
        monkeypatch.setattr(constructor, "meta", {**constructor.meta, "md5": None})
    source = open_source(name, root)
    for (inputs, targets), chosen in zip((source.train, source.test), arguments, strict=True):
        theirs = constructor(str(root), **chosen)
        first = len(targets) - len(theirs)  # of Flowers102, whose training part comes before the validation part
        assert targets[first:].tolist() == [int(theirs[n][1]) for n in range(len(theirs))]
        for n in (0, len(theirs) - 1):
            image = np.asarray(theirs[n][0])
            if isinstance(inputs, Files):
                assert np.array_equal(np.asarray(inputs.decoded(first + n)), image)
            else:
                assert np.array_equal(inputs.values[n].permute(1, 2, 0).squeeze().numpy(), image)
    if kind not in ("SVHN", "MNIST", "Flowers102"):
        assert source.classes == tuple(theirs.classes)


def test_evaluation_resizes_and_crops_as_torchvision_does(write):
    from torchvision import transforms

    write.jpg(write("pets") / "x.jpg", 3, size=(411, 300))
    files = Files(folder=write("imagenet"), names=("x.jpg",))
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(files[:1][0], transforms.Compose(steps)(files.decoded(0)), atol=1e-5)


def test_pixels_are_normalised_by_channel(write):
    pixels = load(settings("cifar10", write("cifar10"))).test[0]
    assert isinstance(pixels, Pixels)
    assert pixels.values.dtype == torch.uint8
    red = (pixels.values[3, 0].double() / 255 - 0.4914) / 0.2470
    assert torch.allclose(pixels[3:4][0, 0].double(), red, atol=1e-6)
    assert torch.equal(pixels[torch.tensor([3])], pixels[3:4])


@pytest.mark.parametrize("name", ["cifar10", "flowers102"])
def test_noise_and_split_follow_data_seed_for_every_set(name, write):
    root = write(name)
    noisy = load(settings(name, root, label_noise=0.4))
    assert len(noisy.noise_indices) == round(0.4 * len(noisy.train[1]))
    assert torch.equal((noisy.train[1] != noisy.clean_train_targets).nonzero().flatten(), noisy.noise_indices)
    assert splits_hash(noisy) == splits_hash(load(settings(name, root, label_noise=0.4, seed=7)))
    assert splits_hash(noisy) != splits_hash(load(settings(name, root, label_noise=0.4, data_seed=1)))


def test_the_hash_of_files_sees_names_sizes_and_labels_but_not_the_folder(write, tmp_path):
    root = write("pets")
    before = splits_hash(load(settings("pets", root)))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (root / "oxford-iiit-pet").rename(moved / "oxford-iiit-pet")
    assert splits_hash(load(settings("pets", moved))) == before
    write.jpg(moved / "oxford-iiit-pet/images/Abyssinian_test0.jpg", 99, size=(50, 50))
    assert splits_hash(load(settings("pets", moved))) != before


def test_files_that_fit_are_read_once(write):
    files = load(settings("aircraft", write("aircraft"))).test[0].to(torch.device("cpu"))
    first = files[:3]
    (files.folder / files.names[0]).unlink()
    assert torch.equal(files[torch.tensor([0, 1])], first[:2])
    assert torch.equal(files[:0], torch.empty(0, 3, 224, 224))


@pytest.mark.parametrize("name", EXPECTED)
def test_an_absent_set_names_its_folder_and_the_fix(name, tmp_path):
    with pytest.raises(AbsentDataError, match=f"{name} is expected in {tmp_path}.* is missing") as caught:
        load(settings(name, tmp_path))
    assert "\n" not in str(caught.value)
    fix = {"stanford-cars": "can no longer be downloaded", "imagenet": "Register at image-net.org"}
    assert fix.get(name, f"landscape train --data {name} --download") in str(caught.value)


def test_the_root_is_the_setting_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LANDSCAPE_DATA", str(tmp_path))
    assert catalogue.data_root() == tmp_path
    assert str(catalogue.data_root("/a")) == "/a"
    monkeypatch.delenv("LANDSCAPE_DATA")
    assert catalogue.data_root().parts[-3:] == (".cache", "landscape", "data")


def test_a_packed_idx_file_is_read_as_well(tmp_path, write):
    write.mnist(tmp_path, packed=True)
    with pytest.raises(DataError, match=r"its MD5 is .*, expected f68b3c2d"):
        load(settings("mnist", tmp_path))
    write.trust("mnist")
    packed = load(settings("mnist", tmp_path))
    assert checked("mnist", tmp_path).checksums == "verified"
    for path in (tmp_path / "MNIST/raw").iterdir():
        path.unlink()
    write.mnist(tmp_path)
    assert splits_hash(load(settings("mnist", tmp_path))) == splits_hash(packed)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_cifar_batch_is_refused_and_not_run(write, tmp_path):
    root = write("cifar10")
    (root / "cifar-10-batches-py/data_batch_2").write_bytes(pickle.dumps(Payload(tmp_path / "hacked"), protocol=2))
    write.trust("cifar10")
    with pytest.raises(UnsafeDataError, match=r"data_batch_2 names code \((posix|nt).system\)"):
        load(settings("cifar10", root))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "test_batch is damaged"),
        (pickle.dumps([1], protocol=2), "test_batch is not a CIFAR batch: it holds a list"),
        (pickle.dumps({"labels": [1]}, protocol=2), "its 'data' is not"),
        (pickle.dumps({"data": np.zeros((2, 3072), "u1"), "labels": [1]}, protocol=2), "not a list of 2 whole numbers"),
        (pickle.dumps({"data": np.zeros((1, 3072), "u1"), "labels": [10]}, protocol=2), "out of range: 10 at row 0"),
    ],
)
def test_a_cifar_batch_that_is_something_else_is_refused_in_words(write, content, message):
    root = write("cifar10")
    (root / "cifar-10-batches-py/test_batch").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged or another file: its MD5 is .* Remove it"):
        load(settings("cifar10", root))
    assert checked("cifar10", root).checksums == "wrong"
    write.trust("cifar10")
    with pytest.raises(DataError, match=message):
        load(settings("cifar10", root))


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (
            "mnist",
            "MNIST/raw/t10k-labels-idx1-ubyte",
            b"\0\0\x08\x01\0\0\0\x14123",
            "it has 3 bytes, its header says 20",
        ),
        ("kmnist", "KMNIST/raw/t10k-images-idx3-ubyte", b"<html>", "is not an IDX file.*begins with 3c 68 74 6d"),
        ("svhn", "test_32x32.mat", b"not matlab", "cannot be read as a MATLAB file"),
        ("pets", "oxford-iiit-pet/annotations/test.txt", b"a b\n", "has the line 'a b'"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", b"1 B-17\n", "names no variant"),
        ("flowers102", "flowers-102/setid.mat", b"", "setid.mat cannot be read as a MATLAB file"),
    ],
)
def test_a_damaged_file_is_named(write, name, file, content, message):
    root = write(name)
    (root / file).write_bytes(content)
    write.trust(name)
    with pytest.raises(DataError, match=message):
        load(settings(name, root))
    assert checked(name, root).state == "damaged"


def test_a_corrupt_image_is_named_when_it_is_read_and_when_it_is_checked(write):
    root = write("stanford-cars")
    path = root / "stanford_cars/cars_test/00003.jpg"
    path.write_bytes(path.read_bytes()[:300])
    inputs = load(settings("stanford-cars", root)).test[0]
    with pytest.raises(DataError, match=r"00003\.jpg cannot be read as an image"):
        inputs[:]
    assert "00003.jpg" in checked("stanford-cars", root).detail


def test_records_say_what_is_there(write):
    root = write("cifar10")
    found = {record.name: record for record in records(root)}
    assert list(found) == list(DATA)
    assert {name for name, record in found.items() if record.state == "present"} == {"digits", "digits32", "cifar10"}
    assert found["cifar10"].folder == f"{root}/cifar-10-batches-py"
    assert found["cifar10"].checksums == "not checked"
    assert checked("cifar10", root).checksums == "verified"


def test_a_torchvision_that_does_not_fit_is_one_line_with_the_fix(monkeypatch, tmp_path):
    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(catalogue.importlib, "import_module", fail)
    with pytest.raises(
        catalogue.LibraryError, match=r"torchvision .* does not work with torch .*nms does not exist.*pip"
    ):
        catalogue.download("cifar10", tmp_path)


def test_download_asks_torchvision_and_nothing_else_does(monkeypatch, tmp_path):
    calls = []

    class Fake:
        def __getattr__(self, kind):
            return lambda root, **arguments: calls.append((kind, arguments))

    monkeypatch.setattr(catalogue, "torchvision_datasets", Fake)
    with pytest.raises(AbsentDataError):
        load(settings("svhn", tmp_path))
    assert calls == []
    catalogue.download("svhn", tmp_path)
    expected = [("SVHN", {"download": True, "split": "train"}), ("SVHN", {"download": True, "split": "test"})]
    assert calls == expected
    with pytest.raises(AbsentDataError, match="can no longer be downloaded"):
        catalogue.download("stanford-cars", tmp_path)
    with pytest.raises(AbsentDataError, match="nothing to download"):
        catalogue.download("npz:x.npz", tmp_path)
