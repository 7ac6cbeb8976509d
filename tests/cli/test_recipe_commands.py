"""Recipes on the command line: listed, planned, run, refused."""

import json
import tomllib

import pytest

from train import recipes
from train.checkpoint import read

WRN = ("--recipe", "cifar100-wrn28x10")


def test_the_list_has_every_recipe_with_what_it_reproduces_and_expects(landscape, landscape_json):
    done = landscape("train", "--list-recipes")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == recipes.names()
    assert "cifar100-wrn28x10" in done.out
    assert "Tables 1, 5 and 6 (time); Figure 1 (bars)" in done.out
    assert "agnostic-sam 83.86 ± 0.077" in done.out
    found = landscape_json("train", "--list-recipes").document["results"]["recipes"]
    assert [one["name"] for one in found] == recipes.names()
    one = found[recipes.names().index("cifar100-wrn28x10")]
    assert one["expected"]["sam"] == "82.69 ± 0.035"
    assert one["methods"]["agnostic-sam"]["rho1"] == 0.2


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
    assert "runs/cifar100-wrn28x10/agnostic-sam-seed0" in done.out
    found = landscape_json(*command).document["results"]
    assert (found["settings"], found["num_steps"], found["num_gradients"]) == (settings, 70_200, 2.0)
    assert list(tmp_path.iterdir()) == []


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
