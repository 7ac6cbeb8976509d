import dataclasses
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from train import checkpoint as checkpoints
from train.checkpoint import Checkpoint, CheckpointError, UnsafeCheckpointError, content_hash, read, restore, save
from train.config import TrainConfig
from train.data import load
from train.models import build


@pytest.fixture(scope="module")
def whole():
    config = TrainConfig(label_noise=0.1, seed=4)
    model = build("resnet8", in_channels=1, num_classes=10, seed=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Checkpoint(
        config=config,
        model=dict(model.state_dict()),
        optimizer={"optimizer": optimizer.state_dict(), "num_skipped": 0},
        schedule={"name": "cosine", "epochs": 40, "next_epoch": 3},
        rng={"cpu": torch.get_rng_state()},
        data=checkpoints.describe_data(config, load(config)),
        epoch=3,
        step=24,
        metrics={"epoch": 3, "train_loss": 1.5, "cosine_b": None},
        versions=checkpoints.versions_here(config),
    )


@pytest.fixture
def path(whole, tmp_path):
    save(whole, tmp_path / "last.pt")
    return tmp_path / "last.pt"


def write(path, content):
    with path.open("wb") as file:
        torch.save(content, file)
    return path


def raw(path):
    return torch.load(path, weights_only=True)


def test_what_is_saved_is_read_back(whole, path):
    found = read(path)
    assert content_hash(found.model) == content_hash(whole.model)
    for name in ("config", "schedule", "epoch", "step", "metrics", "versions"):
        assert getattr(found, name) == getattr(whole, name)
    assert torch.equal(found.rng["cpu"], whole.rng["cpu"])
    assert torch.equal(found.data["noise_indices"], whole.data["noise_indices"])
    assert len(found.data["noise_indices"]) == 108
    assert {key: found.data[key] for key in ("name", "num_train", "num_validation", "num_test")} == {
        "name": "digits",
        "num_train": 1078,
        "num_validation": 359,
        "num_test": 360,
    }


def test_the_file_holds_exactly_these_keys_and_nothing_but_tensors_and_primitives(path):
    content = raw(path)
    assert list(content) == (
        ["format", "config", "model", "optimizer", "schedule", "rng", "data", "epoch", "step", "metrics", "versions"]
    )
    assert content["format"] == 1

    def check(value):
        assert type(value) in (torch.Tensor, dict, list, tuple, str, int, float, bool, type(None)), type(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            check(item)

    check(content)


def test_equal_checkpoints_are_equal_files_whatever_their_name(whole, path, tmp_path):
    save(whole, tmp_path / "another name.pt")
    assert (tmp_path / "another name.pt").read_bytes() == path.read_bytes()


def test_saving_replaces_the_file_whole_and_leaves_no_temporary_file(whole, path, monkeypatch):
    before = path.read_bytes()
    (path.parent / ".last.pt.tmp-999999999").write_bytes(b"of a dead process")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(whole, path)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["last.pt"]


def test_restore_rebuilds_model_and_data(whole, path):
    model, splits = restore(read(path))
    assert not model.training
    assert content_hash(model.state_dict()) == content_hash(whole.model)
    assert torch.equal(splits.noise_indices, whole.data["noise_indices"])


def test_a_run_folder_stands_for_its_last_checkpoint(whole, path, tmp_path):
    assert read(path.parent).epoch == whole.epoch
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"empty is a folder without last\.pt"):
        read(empty)


def test_a_missing_file_names_the_nearest(path):
    with pytest.raises(FileNotFoundError, match=r"no file .*lats\.pt\. Did you mean .*last\.pt\?"):
        read(path.with_name("lats.pt"))
    with pytest.raises(FileNotFoundError, match=r"no file nowhere/last\.pt$"):
        read("nowhere/last.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is an empty file \(interrupted download\?\)"),
        (b"<!DOCTYPE html><html>404</html>", "is an HTML page, not a checkpoint"),
        (b"  <html>", "is an HTML page"),
        (b'{"a": 1}', "looks like JSON, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("Grüße\n".encode() * 200, "is a text file, not a checkpoint"),
        (b"\x7fELF\x02\x01\x00", "begins with 7f 45 4c 46, not with a zip's PK"),
        (b"PK\x03\x04garbage", "is truncated: it has 11 bytes"),
        (pickle.dumps({"a": 1}), "is a bare pickle, not a landscape checkpoint"),
    ],
)
def test_another_file_is_named_for_what_it_is(tmp_path, content, message):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path / "x.pt")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_refused_with_its_size(path, share):
    size = int(path.stat().st_size * share)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=f"is truncated: it has {size:,} bytes"):
        read(path)


def test_a_flipped_byte_in_any_entry_is_refused_and_the_entry_named(path):
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size > 8]
    assert len(entries) > 50
    for entry in [*entries[:3], *entries[-3:]]:
        name_length = int.from_bytes(whole[entry.header_offset + 26 : entry.header_offset + 28], "little")
        extra_length = int.from_bytes(whole[entry.header_offset + 28 : entry.header_offset + 30], "little")
        place = entry.header_offset + 30 + name_length + extra_length + entry.file_size // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=f"is corrupted: the checksum of its entry {entry.filename} is wrong"):
            read(path)
    path.write_bytes(whole)
    read(path)


def test_a_flipped_bit_anywhere_is_an_error_in_words_or_does_no_harm(path):
    whole, expected, messages = path.read_bytes(), content_hash(read(path).model), []
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    # every byte of one record of the table of contents and of the file's end; anywhere else at random
    record = whole.index(b"PK\x01\x02", directory + 1000)
    stream = np.random.default_rng(0)
    places = [*range(record, record + 62), *range(len(whole) - 98, len(whole)), *stream.integers(0, len(whole), 40)]
    for place, bit in zip(places, np.resize([16, 1, 16, 128, 16], len(places)), strict=True):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(bit)]) + whole[place + 1 :])
        message = _refusal(path)
        if message is None:
            assert content_hash(read(path).model) == expected, (place, bit)
        else:
            assert "\n" not in message
            messages.append(message)
    assert len(messages) > 60


def test_an_entry_marked_as_a_folder_is_refused_since_torch_would_not_fill_its_tensor(path):
    whole = path.read_bytes()
    name = whole.rindex(b"archive/data/9PK")  # the external attributes lie 8 bytes before the name
    path.write_bytes(whole[: name - 8] + b"\x10" + whole[name - 7 :])
    with pytest.raises(CheckpointError, match="its entry archive/data/9 is marked as a folder"):
        read(path)


def _refusal(path):
    try:
        read(path)
    except CheckpointError as error:
        return str(error)
    return None


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_checkpoint_that_names_code_is_refused_and_nothing_is_run(path, tmp_path):
    marker = tmp_path / "marker"
    content = {**raw(path), "versions": Payload(marker)}
    write(path, content)
    with pytest.raises(UnsafeCheckpointError, match=r"names code \((posix|os)\.system\).*not opened"):
        read(path)
    assert not marker.exists()
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(UnsafeCheckpointError, match=r"bare pickle that names code \((posix|os)\.system\)"):
        read(bare)
    assert not marker.exists()
    pickle.loads(bare.read_bytes())  # the payload does work where it is let
    assert marker.exists()


def test_a_whole_model_is_refused_as_code(path):
    write(path, build("resnet8", in_channels=1, num_classes=10, seed=0))
    with pytest.raises(UnsafeCheckpointError, match=r"train\.models\.resnet\.ResNet8"):
        read(path)


def test_other_peoples_weights_are_named_as_such(path):
    model = build("resnet8", in_channels=1, num_classes=10, seed=0)
    for content in (dict(model.state_dict()), {"state_dict": dict(model.state_dict()), "epoch": 3}, torch.zeros(3)):
        write(path, content)
        with pytest.raises(CheckpointError, match="holds weights but not a landscape run"):
            read(path)
    write(path, {"lr": 0.1})
    with pytest.raises(CheckpointError, match="holds something but not a landscape run"):
        read(path)


def test_other_archives_are_named_for_what_they_are(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", json.dumps({}))
    with pytest.raises(CheckpointError, match="is a zip archive, but not a checkpoint"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", b"x")
    with pytest.raises(CheckpointError, match="TorchScript archive, which holds code"):
        read(path)


def test_content_that_is_not_ours_is_refused_part_by_part(path):
    content = raw(path)
    cases = [
        ({**content, "format": 2}, "has format 2, made by a newer landscape; this one reads 1: upgrade"),
        ({**content, "format": "x"}, "has no format that a landscape ever wrote: 'x'"),
        ({key: value for key, value in content.items() if key not in ("rng", "step")}, "lacks rng, step"),
        ({**content, "epoch": "3", "model": [1]}, "of an unexpected type are model, epoch"),
        ({**content, "config": {**content["config"], "lr": -1.0}}, "settings that cannot be used: lr must be above 0"),
        ({**content, "config": {"learning": 1}}, "settings that cannot be used: there is no setting 'learning'"),
    ]
    for changed, message in cases:
        write(path, changed)
        with pytest.raises(CheckpointError, match=message):
            read(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name_unless_allowed(whole, path, value):
    model = {name: tensor.clone() for name, tensor in whole.model.items()}
    model["head.bias"][3] = value
    save(dataclasses.replace(whole, model=model), path)
    with pytest.raises(CheckpointError, match=r"not finite: head\.bias\. The run diverged"):
        read(path)
    assert not torch.isfinite(read(path, allow_nonfinite=True).model["head.bias"][3])


def test_a_file_written_without_checksums_is_read(whole, path):
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        save(whole, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert content_hash(read(path).model) == content_hash(whole.model)


def test_restore_names_weights_that_do_not_fit(whole):
    model = dict(whole.model)
    model["extra"] = model.pop("head.bias")
    model["head.weight"] = torch.zeros(9, 64)
    message = (
        r"do not fit the model 'resnet8': missing head\.bias; unexpected extra; "
        r"wrong shape head\.weight is \(9, 64\), expected \(10, 64\)"
    )
    with pytest.raises(CheckpointError, match=message):
        restore(dataclasses.replace(whole, model=model))


def test_restore_refuses_other_data(whole):
    changed = dataclasses.replace(whole, data={**whole.data, "hash": "0" * 64})
    with pytest.raises(CheckpointError, match=r"data 'digits' .* content hash differs\. .*torch "):
        restore(changed)


def test_content_hash_follows_names_and_values_and_not_their_order():
    a, b = torch.zeros(2), torch.ones(2)
    assert content_hash({"a": a, "b": b}) == content_hash({"b": b, "a": a})
    assert len({content_hash({"a": a}), content_hash({"b": a}), content_hash({"a": b})}) == 3
