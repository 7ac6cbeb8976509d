from dataclasses import replace

import pytest
import torch

from train import timing
from train.config import TrainConfig
from train.loop import Outcome, Progress
from train.plan import plan
from train.telling import (
    duration,
    estimated,
    outcome_text,
    plan_lines,
    processes_text,
    progress_text,
    start_text,
)

METRICS = {"train_loss": 0.25, "test_accuracy": 0.5, "best_epoch": 3.0, "best_val_accuracy": 0.75}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *[(0.034, "0.034 s"), (59.6, "60 s"), (119.0, "119 s"), (120.0, "2 min"), (7_199.0, "120 min")],
        *[(35_100.0, "9.8 h"), (172_799.0, "48 h"), (172_800.0, "2 days"), (6e8, "6,944 days")],
    ],
)
def test_a_duration_is_told_in_a_unit_that_a_person_would_take(seconds, told):
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("sgd", "sgd lr=0.1"),
        ("sam", "sam rho=0.2 over sgd lr=0.1"),
        ("asam", "asam rho=0.2 eta=0.01 over sgd lr=0.1"),
        ("sam-subset", "sam-subset rho=0.2 split_ratio=0.7 over sgd lr=0.1"),
        ("agnostic-sam-simple", "agnostic-sam-simple rho1=0.1 rho2=0.05 split_ratio=0.7 over sgd lr=0.1"),
    ],
)
def test_a_method_is_told_with_the_radii_that_it_has(method, told):
    assert start_text(TrainConfig(method=method, rho=0.2)) == (
        f"resnet8 on digits: {told} momentum=0.9, 40 epochs, seed 0, cpu"
    )


def test_wrong_labels_and_small_images_are_told_before_the_start():
    text = start_text(TrainConfig(label_noise=0.4, data="digits32", model="densenet121_imagenet_stem"))
    assert text.startswith("densenet121_imagenet_stem on digits32, 40 % of the training labels wrong: sgd ")
    assert text.splitlines()[1].startswith("warning: densenet121_imagenet_stem was made for 224x224")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "sgd"}, "taking the mean gradient"),
        ({"method": "sam"}, "perturbing together"),
        ({"method": "sam", "sam_sync": "local"}, "each perturbing by itself"),
        ({"method": "sam", "m": 16}, "perturbing each chunk of 16 by itself"),
    ],
)
def test_processes_are_told_how_they_perturb(options, told):
    assert processes_text(TrainConfig(**options), 3).startswith(f"3 processes, {told}; ")


def test_an_epoch_without_a_loss_or_validation_is_told_as_it_is():
    at = Progress(epoch=1, epochs=2, metrics={"train_loss": 0.25, "val_accuracy": 0.5}, images_per_second=1234.5)
    assert progress_text(at) == "loss 0.250, validation 50.0 %, 1,234 images/s"
    assert progress_text(replace(at, metrics={"train_loss": None, "val_accuracy": None})) == "loss nan, 1,234 images/s"


def test_an_end_is_told_with_the_file_of_each_accuracy(tmp_path):
    folder = tmp_path / "a run"
    done = Outcome(status="finished", folder=folder, epoch=4, step=9, metrics=METRICS)
    last, best = outcome_text(done).splitlines()
    assert last == f"saved '{folder}/last.pt'   test accuracy 50.0 % (last epoch), train loss 0.25"
    assert best == f"saved '{folder}/best.pt'   best validation accuracy 75.0 %, at epoch 3"
    averaged = outcome_text(replace(done, metrics={**METRICS, "ema_test_accuracy": 0.625})).splitlines()
    assert averaged[1] == f"saved '{folder}/ema.pt'   test accuracy of the averaged weights 62.5 %"
    assert "no best.pt: nothing was held out" in outcome_text(replace(done, metrics={**METRICS, "best_epoch": None}))
    assert "(there already)" in outcome_text(replace(done, already_finished=True))
    diverged = replace(done, status="diverged", metrics={**METRICS, "test_accuracy": None})
    assert outcome_text(diverged).endswith("epoch 4, before it diverged")


def test_a_plan_has_its_counts_and_what_asam_scales():
    config = TrainConfig(method="asam", epochs=3, batch_size=100)
    counts, steps, gradients, scaled, time = plan_lines(config, plan(config), "soon")
    assert counts.endswith(" parameters, 1,078 training examples of 10 classes")
    assert steps == "30 steps: 3 epochs of 10"
    assert (gradients, time) == ("2 gradients of a whole batch per step", "soon")
    assert scaled.startswith("asam scales ")


def test_time_is_told_of_a_device_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = TrainConfig(epochs=3, batch_size=100)
    assert estimated(replace(config, device="cuda"), plan(config)) == (
        None,
        "time not estimated: device is 'cuda', but torch sees no CUDA device here: use 'cpu' or 'auto'",
    )
    known = {"device": "an abacus", "batch_size": 100, "timed_batch_size": 50, "num_timed": 3, "too_large": 0}
    monkeypatch.setattr(timing, "time_steps", lambda *_, **__: timing.Timing(seconds_per_step=2.0, **known))
    record, told = estimated(config, plan(config))
    assert record["seconds"] == 60.0
    assert told.startswith(
        "about 60 s of steps on an abacus, 2 s each: an estimate from 3 on 50 random images, times 2;"
    )
