"""Every recipe takes two steps: its network, data format, augmentation, label noise, method, loss and schedule."""

import itertools
import json
import math

import pytest
import torch

from train import loop, recipes
from train.models import build

RECIPES = {name: recipes.read(name) for name in recipes.names()}
NUM_TRAIN, BATCH_SIZE = 9, 6  # 6: the smallest batch of which 70 % and 30 % are two examples or more
PASSES = {  # examples of each pass of a step
    "sgd": [6],
    "sam": [6, 6],
    "sam-subset": [4, 4],
    "asam": [6, 6],
    "agnostic-sam-simple": [4, 2, 4],
    "agnostic-sam": [4, 2, 2, 4],
    "agnostic-sam-nonoverlap": [4, 2, 2, 4],
}


def runs():
    """Each recipe with a method that perturbs, each network with every method: a network's recipes take turns.

    One run of a network is whole. Probes, evaluation and best.pt are the same for all methods, and most of the time.
    """
    by_network = {}
    for name, recipe in RECIPES.items():
        by_network.setdefault(recipe.settings["model"], []).append(name)
    for names in by_network.values():
        methods = [method for method in RECIPES[names[0]].methods if method != "sgd"]
        yield names[0], "sgd", False
        for turn in range(max(len(names), len(methods))):
            yield names[turn % len(names)], methods[turn % len(methods)], turn == 0


RUNS = list(runs())


@pytest.fixture(scope="module")
def imagenet_weights(tmp_path_factory):
    """A file as torchvision's, for 1,000 classes, of another draw than the run's own."""
    path = tmp_path_factory.mktemp("weights") / "efficientnet_b4.pth"
    torch.save(build("torchvision:efficientnet_b4", in_channels=3, num_classes=1000, seed=9).state_dict(), path)
    yield path
    path.unlink()


def test_every_recipe_is_run_with_a_perturbation_and_every_network_with_every_method():
    assert {name for name, method, _ in RUNS if method != "sgd"} == set(RECIPES)
    run = {(RECIPES[name].settings["model"], method) for name, method, _ in RUNS}
    assert run == {(recipe.settings["model"], method) for recipe in RECIPES.values() for method in recipe.methods}
    assert {RECIPES[name].settings["model"] for name, _, whole in RUNS if whole} == {model for model, _ in run}
    assert set(PASSES) == {method for _, method, _ in RUNS}


@pytest.mark.parametrize(("name", "method", "whole"), RUNS)
def test_a_recipe_takes_two_steps(name, method, whole, write, request, tmp_path, monkeypatch):
    recipe = RECIPES[name]
    data = recipe.settings["data"]
    tiny = {"data_root": str(write(data, num_train=NUM_TRAIN + 1, num_test=2)), "device": "cpu", "probe_every": 100}
    tiny |= {"epochs": 2, "batch_size": BATCH_SIZE}
    tiny |= {key: str(request.getfixturevalue("imagenet_weights")) for key in recipe.requires}
    config = recipe.config(method, changes=tiny)
    passes, states = watch(monkeypatch, keep_best=whole)
    if not whole:
        accuracies = itertools.count()
        monkeypatch.setattr(loop, "_probe", lambda *_: 0.0)
        monkeypatch.setattr(loop, "evaluate", lambda *_: (1.0, next(accuracies)))

    outcome = loop.train(config, tmp_path / "run")
    (tmp_path / "run/best.pt").unlink(missing_ok=True)  # up to 300 MB
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert (outcome.status, outcome.step) == ("finished", 2)
    assert [size for size, _, _ in passes] == 2 * PASSES[method]
    assert {shape for _, shape, _ in passes} == {(3, 32, 32) if data.startswith("cifar") else (3, 224, 224)}
    assert all(math.isfinite(loss) for _, _, loss in passes)
    assert all(math.isfinite(line[key]) for line in lines for key in ("train_loss", "val_loss"))
    assert math.isfinite(lines[0]["change"])
    assert [line["learning_rate"] for line in lines] == [config.lr, config.lr / 2]  # half of a cosine
    first, last = states[0], states[-1]
    assert [key for key, value in last.items() if value.dim() > 1 and torch.equal(value, first[key])] == []
    assert {value.item() for key, value in last.items() if key.endswith("num_batches_tracked")} == {2}
    assert all(torch.isfinite(value).all() for value in last.values())
    if config.weights:
        given = torch.load(config.weights, weights_only=True)
        assert torch.equal(first["features.0.0.weight"], given["features.0.0.weight"])


def watch(monkeypatch, *, keep_best):
    """Examples, shape and loss of each pass; the model at each place where the loop would write last.pt."""
    passes, states, training_loss, save = [], [], loop.training_loss, loop.checkpoints.save

    def watched_loss(*settings):
        loss = training_loss(*settings)

        def called(model, batch):
            value = loss(model, batch)
            passes.append((len(batch[1]), tuple(batch[0].shape[1:]), value.item()))
            return value

        return called

    def keep(checkpoint, path):
        assert len(checkpoint.data["noise_indices"]) == round(checkpoint.config.label_noise * NUM_TRAIN)
        if path.name == "best.pt" and keep_best:
            save(checkpoint, path)
        states.append({key: value.clone() for key, value in checkpoint.model.items()})

    monkeypatch.setattr(loop, "training_loss", watched_loss)
    monkeypatch.setattr(loop.checkpoints, "save", keep)
    return passes, states
