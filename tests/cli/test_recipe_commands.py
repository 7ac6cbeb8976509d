"""Recipes on the command line: listed, planned, run, refused."""

import json
import re
import tomllib

import pytest
import torch

from train import recipes, timing
from train.checkpoint import read

WRN = ("--recipe", "cifar100-wrn28x10")


def test_the_list_has_every_recipe_with_what_it_reproduces_and_expects(landscape, landscape_json):
    done = landscape("train", "--list-recipes")
    assert done.code == 0
    assert [line.split(":")[0] for line in done.out.splitlines()[1:] if line[0] != " "] == recipes.names()
    assert max(map(len, done.out.splitlines())) <= 100
    assert "cifar100-wrn28x10" in done.out
    assert "Tables 1, 5 and 6 (time); Figure 1 (bars)" in done.out
    assert "agnostic-sam 83.86 ± 0.077" in done.out
    found = landscape_json("train", "--list-recipes").document["results"]["recipes"]
    assert [one["name"] for one in found] == recipes.names()
    one = found[recipes.names().index("cifar100-wrn28x10")]
    assert one["expected"]["sam"] == "82.69 ± 0.035"
    assert one["methods"]["agnostic-sam"]["rho1"] == 0.2


@pytest.fixture
def half_a_second(monkeypatch):
    """Each step takes half a second, timed on a batch of 32."""

    def time_steps(config, *, image_shape, num_classes):
        assert (image_shape, num_classes) == ((3, 32, 32), 100)
        known = {"device": "an abacus", "timed_batch_size": 32, "num_timed": 3, "seconds_per_step": 0.5}
        return timing.Timing(batch_size=config.batch_size, too_large=64, **known)

    monkeypatch.setattr(timing, "time_steps", time_steps)


@pytest.mark.usefixtures("half_a_second")
def test_a_dry_run_prints_the_plan_and_writes_nothing(landscape, landscape_json, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("train", *WRN, "--method", "agnostic-sam", "--lr", "0.05", "--dry-run")
    done = landscape(*command)
    assert done.code == 0, done.err
    settings = tomllib.loads(done.out.partition("\n\n")[0])
    assert settings == recipes.read("cifar100-wrn28x10").config("agnostic-sam", changes={"lr": 0.05}).to_dict()
    assert "36,536,884 parameters, 45,000 training examples of 100 classes" in done.out
    assert "70,200 steps: 200 epochs of 351" in done.out
    assert "2 gradients of a whole batch per step" in done.out
    assert "about 9.8 h of steps on an abacus, 0.5 s each: an estimate from 3 on 32 random images, times 4" in done.out
    assert "(64 did not fit into memory); reading images, probes and evaluation come on top" in " ".join(
        done.out.split()
    )
    assert max(map(len, done.out.splitlines())) <= 100
    assert "runs/cifar100-wrn28x10/agnostic-sam-seed0" in done.out
    found = landscape_json(*command).document["results"]
    assert (found["timing"]["seconds"], found["timing"]["seconds_per_step"]) == (35_100.0, 0.5)
    assert (found["settings"], found["num_steps"], found["num_gradients"]) == (settings, 70_200, 2.0)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_times_real_steps_on_the_device_of_the_run(landscape, landscape_json, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = landscape("train", "--method", "sam", "--dry-run")
    assert re.search(r"about [\d.]+ (s|min) of steps on cpu with \d+ thread", done.out)
    found = landscape_json("train", "--method", "sam", "--dry-run").document["results"]["timing"]
    assert found["seconds"] == 320 * found["seconds_per_step"] > 0
    assert list(tmp_path.iterdir()) == []


def test_without_its_device_a_dry_run_has_all_but_the_time(landscape, landscape_json, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ("train", *WRN, "--method", "sgd", "--device", "cuda", "--dry-run")
    done = landscape(*command)
    assert done.code == 0
    assert "time not estimated: device is 'cuda', but torch sees no CUDA device here" in done.out
    assert "70,200 steps" in done.out
    assert landscape_json(*command).document["results"]["timing"] is None


def test_a_dry_run_of_asam_tells_what_is_scaled(landscape, landscape_json):
    command = ("train", "--model", "resnet32", "--data", "digits32", "--method", "asam", "--batch-size", 8, "--dry-run")
    told = " ".join(landscape(*command).out.split())
    assert (
        "asam scales 63 parameters by |theta| + 0.01: conv*.weight, bn*.weight, 30 layer*.*.conv*.weight, "
        "30 layer*.*.bn*.weight, linear.weight (* is a number; --json names each)"
    ) in told
    names = landscape_json(*command).document["results"]["scaled_names"]
    assert (len(names), names[:3]) == (63, ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight"])
    assert "asam scales" not in landscape("train", "--dry-run").out


@pytest.mark.usefixtures("half_a_second")
def test_a_dry_run_and_a_run_warn_of_a_stem_for_larger_images(landscape, landscape_json, tmp_path):
    command = ("train", "--model", "densenet121_imagenet_stem", "--data", "cifar100", "--data-root", tmp_path)
    warning = "of 32x32 its last block sees 1x1"
    assert f"warning: densenet121_imagenet_stem was made for 224x224: {warning}" in landscape(*command, "--dry-run").out
    assert warning in landscape_json(*command, "--dry-run").document["results"]["warning"]
    run = landscape(*command)
    assert (run.code != 0, warning in run.err) == (True, True)  # the data is not there; what is planned is told before


@pytest.mark.usefixtures("half_a_second")
def test_what_is_typed_wins_even_where_it_is_the_default(landscape_json):
    command = ("train", *WRN, "--method", "sam", "--preset", "clean", "--epochs", 40, "--rho", 0.05, "--dry-run")
    settings = landscape_json(*command).document["results"]["settings"]
    assert (settings["epochs"], settings["rho"], settings["label_smoothing"]) == (40, 0.05, 0.0)


def test_a_recipe_trains(landscape, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ("--data", "digits32", "--model", "resnet8", "--epochs", 1, "--batch-size", 512)
    done = landscape("train", "--recipe", "cifar10-noise40-resnet32", "--method", "sam", "--seed", 2, *small)
    assert done.code == 0, done.err
    config = read(tmp_path / "runs/cifar10-noise40-resnet32/sam-seed2").config
    assert (config.label_noise, config.label_smoothing, config.rho, config.epochs) == (0.4, 0.1, 0.05, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recipe", "cifar100-wrn28_10"), "no recipe 'cifar100-wrn28_10'. Did you mean 'cifar100-wrn28x10'"),
        (WRN, "has the methods sgd, sam, sam-subset, asam, agnostic-sam-simple, agnostic-sam"),
        (("--recipe", "pets-resnet18", "--method", "asam"), "has the methods sgd, sam,"),
        ((*WRN, "--method", "sam", "--epochs", "0"), "epochs must be at least 1; got 0"),
        (("--preset", "clean"), "give --recipe NAME as well"),
        (("--recipe", "aircraft-efficientnet_b4-transfer", "--method", "sam"), "needs --weights as well"),
        (("--batch-size", "5000", "--dry-run"), "there are only 1078 training examples"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line_and_writes_nothing(landscape, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = landscape("train", *words)
    assert done.code == 2, done.err
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_json_of_a_list_is_one_document(landscape):
    assert json.loads(landscape("train", "--list-recipes", "--json").out)["ok"] is True
