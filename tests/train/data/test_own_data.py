"""imagefolder:PATH, npz:PATH, and the digits rendered larger."""

import dataclasses
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from train.config import TrainConfig
from train.data import AbsentDataError, DataError, UnsafeDataError, load, record, splits_hash
from train.data.digits import digits, digits32


def own(kind, path):
    return TrainConfig(data=f"{kind}:{path}")


def classes(write, folder, num, size=(40, 30)):
    for name in ("cat", "dog"):
        for n in range(num):
            write.jpg(folder / name / f"{n}.jpg", n, size=size)


@pytest.fixture
def npz(tmp_path):
    def make(**arrays):
        np.savez(tmp_path / "d.npz", **arrays)
        return tmp_path / "d.npz"

    return make


X, Y = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8), np.arange(20) % 2


def test_one_folder_is_split_60_20_20(write, tmp_path):
    classes(write, tmp_path / "d", 10)
    splits = load(own("imagefolder", tmp_path / "d"))
    assert [len(part[1]) for part in (splits.train, splits.validation, splits.test)] == [12, 4, 4]
    assert splits.classes == ("cat", "dog")
    assert splits.train[0][:1].shape == (1, 3, 30, 40)  # small images are used as they are


def test_val_is_the_test_part_unless_there_is_one(write, tmp_path):
    classes(write, tmp_path / "d/train", 10)
    classes(write, tmp_path / "d/val", 3)
    splits = load(own("imagefolder", tmp_path / "d"))
    assert [len(part[1]) for part in (splits.train, splits.validation, splits.test)] == [18, 2, 6]
    classes(write, tmp_path / "d/test", 4)
    splits = load(own("imagefolder", tmp_path / "d"))
    assert [len(part[1]) for part in (splits.train, splits.validation, splits.test)] == [20, 6, 8]


def test_nothing_is_held_out_where_none_is_wanted_but_a_validation_part_that_is_there_stays(write, tmp_path):
    def sizes(**changes):
        splits = load(dataclasses.replace(own("imagefolder", tmp_path / "d"), **changes))
        return [len(part[1]) for part in (splits.train, splits.validation, splits.test)]

    classes(write, tmp_path / "d/train", 10)
    classes(write, tmp_path / "d/val", 3)
    assert sizes(val_fraction=0) == [20, 0, 6]
    assert sizes(val_fraction=0.25) == [15, 5, 6]
    whole = load(dataclasses.replace(own("imagefolder", tmp_path / "d"), val_fraction=0))
    assert splits_hash(whole) != splits_hash(load(own("imagefolder", tmp_path / "d")))
    classes(write, tmp_path / "d/test", 4)
    assert sizes(val_fraction=0) == [20, 6, 8]


def test_large_images_are_seen_at_224(write, tmp_path):
    classes(write, tmp_path / "d", 5, size=(130, 100))
    assert load(own("imagefolder", tmp_path / "d")).train[0][:2].shape == (2, 3, 224, 224)


def test_bad_folders_are_refused_in_words(write, tmp_path):
    with pytest.raises(AbsentDataError, match=r"there is no folder .*nowhere"):
        load(own("imagefolder", tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        load(own("imagefolder", tmp_path / "empty"))
    classes(write, tmp_path / "d/train", 3)
    write.jpg(tmp_path / "d/val/bird/1.jpg", 1)
    with pytest.raises(DataError, match="val has the class 'bird', which the training images do not have"):
        load(own("imagefolder", tmp_path / "d"))
    classes(write, tmp_path / "one", 3)
    for path in (tmp_path / "one/dog").iterdir():
        path.unlink()
    (tmp_path / "one/dog").rmdir()
    with pytest.raises(DataError, match="has 1 class: a classifier needs two"):
        load(own("imagefolder", tmp_path / "one"))


def test_a_small_image_of_another_size_is_named(write, tmp_path):
    classes(write, tmp_path / "d", 10)
    write.jpg(tmp_path / "d/cat/3.jpg", 1, size=(41, 30))
    splits = load(own("imagefolder", tmp_path / "d"))
    with pytest.raises(DataError, match=r"cat/3\.jpg is 30x41 pixels, but the first image is 30x40"):
        [part[0][:] for part in (splits.train, splits.validation, splits.test)]


@pytest.mark.parametrize(
    ("shape", "seen"),
    [((20, 8, 8), (1, 8, 8)), ((20, 3, 8, 9), (3, 8, 9)), ((20, 8, 9, 3), (3, 8, 9)), ((20, 8, 9, 1), (1, 8, 9))],
)
def test_arrays_may_have_any_usual_layout(npz, shape, seen):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    splits = load(own("npz", npz(x=x, y=Y)))
    assert [len(part[1]) for part in (splits.train, splits.validation, splits.test)] == [12, 4, 4]
    assert splits.train[0][:].shape == (12, *seen)


def test_bytes_are_normalised_by_the_training_images_and_floats_left_alone(npz):
    x = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    splits = load(own("npz", npz(x_train=x, y_train=Y, x_test=x, y_test=Y)))
    whole = splits.test[0][:].double()
    assert whole.mean(dim=(0, 2, 3)).abs().max() < 1e-6
    assert (whole.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-6
    floats = load(own("npz", npz(x_train=x / 7, y_train=Y, x_test=x / 7, y_test=Y)))
    assert torch.equal(floats.test[0][:], torch.from_numpy(x / 7).float())


def test_given_parts_and_classes_are_kept(npz):
    path = npz(x_train=X, y_train=Y, x_val=X[:4], y_val=Y[:4], x_test=X[:6], y_test=Y[:6], classes=["no", "yes"])
    splits = load(own("npz", path))
    assert [len(part[1]) for part in (splits.train, splits.validation, splits.test)] == [20, 4, 6]
    assert splits.classes == ("no", "yes")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "holds x but no y"),
        ({"y": Y}, "holds y; expected x, y; or x_train"),
        ({"x": X[:0], "y": Y[:0]}, "has 0 class"),
        ({"x": X[:0], "y": Y[:0], "classes": ["a", "b"]}, "the training part is empty"),
        ({"x": X[:2], "y": Y[:2]}, "too few to split"),
        ({"x": X, "y": Y[:5]}, "20 inputs, but 5 labels"),
        ({"x": X, "y": Y - 1}, "labels out of range: -1 at row 0, expected 0 to 0|has 1 class"),
        ({"x": X, "y": Y - 1, "classes": ["a", "b"]}, "labels out of range: -1 at row 0, expected 0 to 1"),
        ({"x": X, "y": Y + 1, "classes": ["a", "b"]}, "labels out of range: 2 at row 1, expected 0 to 1"),
        ({"x": X, "y": Y * 10**9}, "has the label 1000000000, but only 20 examples"),
        ({"x": X, "y": Y / 2}, "y must be whole numbers"),
        ({"x": X.astype(int), "y": Y}, "x must be bytes"),
        ({"x": np.full((20, 8, 8), np.nan), "y": Y}, "not finite"),
        ({"x": X.reshape(20, 64), "y": Y}, r"x must be images .* got \(20, 64\)"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y}, r"images of the test part are \(1, 4, 8\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_words(npz, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        load(own("npz", npz(**arrays)))
    assert "\n" not in str(caught.value)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_an_array_of_objects_is_not_unpickled(npz, tmp_path):
    path = npz(x=np.array([Payload(tmp_path / "hacked")], dtype=object), y=Y)
    with pytest.raises(UnsafeDataError, match=r"Python objects in x\.npy"):
        load(own("npz", path))
    assert not (tmp_path / "hacked").exists()


def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + b"123")
    with pytest.raises(DataError, match="says it has 1,000,000,000,000,000 bytes of data, but 3 are there"):
        load(own("npz", tmp_path / "d.npz"))


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1])])
def test_a_file_that_is_no_npz_is_named(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.npz cannot be read as \.npz"):
        load(own("npz", tmp_path / "d.npz"))


def test_a_truncated_or_missing_npz_is_named(npz, tmp_path):
    path = npz(x=X, y=Y)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"d\.npz cannot be read as \.npz"):
        load(own("npz", path))
    with pytest.raises(AbsentDataError, match=r"there is no file .*nowhere"):
        load(own("npz", tmp_path / "nowhere"))
    assert record(f"npz:{tmp_path}/nowhere", tmp_path).state == "absent"


def test_digits32_are_the_digits_interpolated():
    small, large = digits().train[0][:], digits32().train[0].values
    assert large.shape == (1797, 3, 32, 32)
    assert large.dtype == torch.uint8
    assert torch.equal(large[:, 0], large[:, 2])
    levels = ((small + 1) * 8).double()
    corner = (levels[:, 0, 0, 0] * 255 / 16).round()  # half a small pixel of border is repeated
    assert torch.equal(large[:, 0, 0, 0].double(), corner)
    # pixel 2 of 32 has its centre at 2.5 / 4 - 0.5 = 1/8 of the way from level 0 to level 1
    along = (levels[:, 0, 0, 0] * 7 + levels[:, 0, 0, 1]) / 8
    assert torch.equal(large[:, 0, 0, 2].double(), (along * 255 / 16).round())


def test_digits32_have_the_split_and_labels_of_digits():
    one, other = load(TrainConfig(label_noise=0.2)), load(TrainConfig(label_noise=0.2, data="digits32"))
    assert torch.equal(one.train[1], other.train[1])
    assert torch.equal(one.noise_indices, other.noise_indices)
    assert (other.train[0][:].min(), other.train[0][:].max()) == (-1, 1)


def test_digits_are_what_they_were():
    assert splits_hash(load(TrainConfig())).startswith("c43c4571667ff1aa")
    assert splits_hash(load(TrainConfig(data="digits32"))) == splits_hash(load(TrainConfig(data="digits32")))
