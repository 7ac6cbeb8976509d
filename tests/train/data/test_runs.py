"""Runs on other data than digits: resumed exactly, restored with their data, refused when the data changed."""

import pytest
import torch

from train import checkpoint as checkpoints
from train import loop
from train.checkpoint import CheckpointError, content_hash, read, restore
from train.config import TrainConfig

SMALL = {"batch_size": 32, "epochs": 2, "seed": 1, "probe_every": 5}


class StoppedError(Exception):
    pass


def stop_after(epoch):
    def progress(at):
        if at.epoch == epoch:
            raise StoppedError

    return progress


@pytest.mark.parametrize("name", ["cifar10", "folder"])
def test_a_resumed_run_with_augmentation_equals_one_that_was_not_stopped(name, write, tmp_path):
    if name == "folder":
        for n in range(60):
            write.jpg(tmp_path / f"d/{'ab'[n % 2]}/{n}.jpg", n, size=(16, 16))
        config = TrainConfig(data=f"imagefolder:{tmp_path}/d", augment="paper", **SMALL)
    else:
        config = TrainConfig(data=name, data_root=str(write(name)), augment="paper", **SMALL)
    whole = loop.train(config, tmp_path / "whole")
    with pytest.raises(StoppedError):
        loop.train(config, tmp_path / "parts", progress=stop_after(1))
    parts = loop.train(config, tmp_path / "parts", resume=True)
    assert parts.metrics == whole.metrics
    one, other = (read(tmp_path / run / "last.pt") for run in ("whole", "parts"))
    assert content_hash(one.model) == content_hash(other.model)


def test_both_probes_of_a_step_and_the_step_itself_see_one_draw(write, tmp_path, monkeypatch):
    calls = []

    def counted(images, rows, **others):
        calls.append(others)
        return images[rows]

    monkeypatch.setattr(loop, "augmented", counted)
    config = TrainConfig(data="cifar10", data_root=str(write("cifar10")), augment="paper", **SMALL)
    outcome = loop.train(config, tmp_path / "run")
    assert len(calls) == outcome.step
    assert {call["epoch"] for call in calls} == {0, 1}


def test_restore_brings_photographs_back_and_refuses_changed_ones(write, tmp_path):
    config = TrainConfig(data="pets", data_root=str(write("pets")), batch_size=8, epochs=1, probe_every=9)
    loop.train(config, tmp_path / "run")
    checkpoint = read(tmp_path / "run")
    assert checkpoint.data["classes"] == ["Abyssinian", "Great Pyrenees"]
    _, splits = restore(checkpoint)
    assert splits.train[0][:1].shape == (1, 3, 224, 224)
    write.jpg(tmp_path / "oxford-iiit-pet/images/Abyssinian_trainval0.jpg", 77, size=(9, 9))
    with pytest.raises(CheckpointError, match="its content hash differs"):
        restore(checkpoint)


def test_a_description_of_data_is_tensors_and_primitives(write):
    config = TrainConfig(data="svhn", data_root=str(write("svhn")))
    described = checkpoints.describe_data(config, checkpoints.load(config))
    assert described["num_train"] == 45
    assert all(isinstance(value, str | int | list | torch.Tensor) for value in described.values())
