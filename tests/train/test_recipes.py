import dataclasses
import math
import re
from collections import Counter

import pytest

from train import recipes
from train.config import TrainConfig

PAIRS = [(name, method) for name in recipes.names() for method in recipes.read(name).methods]
GIVEN = {"weights": "weights.pth"}
WHOLE = """
[recipe]
title = "t"
reproduces = "Table 1"
source = "s"
quantity = "q"
stated = "a"
chosen = "b"
expected = { sam = "1.0" }
[settings]
epochs = 3
[method.sgd]
[method.sam]
rho = 0.1
"""


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_every_recipe_makes_settings_for_each_of_its_methods(name, method):
    recipe = recipes.read(name)
    config = recipe.config(method, changes={key: GIVEN[key] for key in recipe.requires})
    assert config.method == method
    assert TrainConfig.from_toml(config.to_toml()) == config
    assert (config.label_smoothing, config.augment, config.seed) == (0.1, "paper", 0)
    assert config.split_ratio == 0.7
    assert config.rho1 == pytest.approx(2 * config.rho2)
    assert name.startswith(config.data)


def test_every_experiment_of_the_paper_has_its_recipe():
    count = Counter(experiment for name in recipes.names() for experiment in experiments(recipes.read(name)))
    assert count == {
        **{"v1 Table 1": 6, "v1 Table 2": 12, "v1 Table 3": 3, "v1 Table 4": 8, "v1 Table 5": 6, "v1 Table 6": 6},
        **{"v1 Figure 1": 6, "v1 Figure 2": 1, "v1 Figure 3": 1, "v1 Hessian": 2},
        **{"v3 Figure 1": 1, "v3 Figure 2": 1, "v3 Figure 3": 1, "v3 Figure 4": 1},
    }
    assert len(recipes.names()) == 33


def experiments(recipe):
    """The tables and figures that a recipe names, each with the version of the paper that has it."""
    version, kind = re.search(r"v\d$", recipe.source)[0], ""
    for word in re.findall(r"Table|Figure|Hessian|\b\d", re.sub(r"\(.*?\)", "", recipe.reproduces)):
        if word == "Hessian":
            yield f"{version} Hessian"
        elif word.isdigit():
            yield f"{version} {kind} {word}"
        else:
            kind = word


def test_a_recipe_for_a_bar_chart_or_a_surface_has_the_methods_that_the_figure_compares():
    for name in recipes.names():
        recipe = recipes.read(name)
        wanted = {"sgd", "sam", "agnostic-sam"}
        if "bars" in recipe.reproduces:
            wanted |= {"agnostic-sam-nonoverlap"}
        assert wanted <= set(recipe.methods)


def test_the_congruence_of_the_later_figure_1_is_probed_at_the_radius_of_the_paper():
    config = recipes.read("cifar100-resnet32-landscape").config("agnostic-sam")
    assert config.probe_radius == config.rho2


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.startswith("cifar")])
def test_asam_is_a_control_of_the_cifar_recipes_with_the_radius_of_its_authors(name):
    recipe = recipes.read(name)
    config = recipe.config("asam")
    assert (config.rho, config.eta) == ({"cifar10": 0.5, "cifar100": 1.0}[config.data], 0.01)
    assert "asam is our control" in recipe.chosen
    assert "asam" not in recipe.expected


def test_where_the_paper_has_the_best_of_three_radii_the_recipe_says_how_to_run_them():
    swept = [recipe for recipe in map(recipes.read, recipes.names()) if "best of 0.02, 0.05, 0.1" in recipe.stated]
    assert {recipe.name for recipe in swept} >= {
        n for n in recipes.names() if recipes.read(n).reproduces[:7] == "Table 2"
    }
    for recipe in swept:
        typed = [float(rho) for rho in re.findall(r"--rho ([\d.]+)\b", recipe.chosen)]
        assert [recipe.config("sam", changes={"rho": rho}).rho for rho in typed] == [0.02, 0.05, 0.1]


def test_expected_numbers_are_of_methods_that_the_recipe_has():
    for name in recipes.names():
        recipe = recipes.read(name)
        assert set(recipe.expected) <= set(recipe.methods)
        numbers = [float(value.split()[0]) for value in recipe.expected.values()]
        assert all(math.isfinite(number) for number in numbers)
        assert bool(numbers) == ("landscape" not in name)


@pytest.mark.parametrize(
    ("name", "method", "settings"),
    [
        ("cifar10-wrn28x10", "sam", {"rho": 0.05, "epochs": 200, "lr": 0.1, "model": "wrn28_10"}),
        ("cifar100-wrn28x10", "agnostic-sam", {"rho1": 0.2, "rho2": 0.1, "batch_size": 128}),
        ("cifar100-noise30-resnet32", "sam", {"rho": 0.1, "label_noise": 0.3, "model": "resnet32"}),
        ("pets-resnet18", "agnostic-sam", {"rho1": 0.1, "rho2": 0.05, "model": "torchvision:resnet18"}),
        ("cifar10-wrn28x10", "sam-subset", {"rho": 0.1}),
    ],
)
def test_settings_are_those_of_the_paper(name, method, settings):
    config = recipes.read(name).config(method)
    assert {key: getattr(config, key) for key in settings} == settings


def test_what_is_given_wins_and_clean_has_no_label_smoothing():
    recipe = recipes.read("cifar10-wrn28x10")
    paper, clean = recipe.config("sam"), recipe.config("sam", preset="clean")
    assert clean == dataclasses.replace(paper, label_smoothing=0.0)
    changed = recipe.config("sam", preset="clean", changes={"epochs": 2, "rho": 0.3, "label_smoothing": 0.2})
    assert (changed.epochs, changed.rho, changed.label_smoothing) == (2, 0.3, 0.2)
    with pytest.raises(ValueError, match=r"preset must be one of paper, clean; got 'dirty'"):
        recipe.config("sam", preset="dirty")


def test_transfer_needs_a_file_of_weights():
    with pytest.raises(ValueError, match=r"aircraft-efficientnet_b4-transfer needs --weights as well"):
        recipes.read("aircraft-efficientnet_b4-transfer").config("sam")


def test_an_unknown_recipe_or_method_names_the_nearest():
    with pytest.raises(ValueError, match=r"no recipe 'cifar10-wrn28_10'\. Did you mean 'cifar10-wrn28x10' or"):
        recipes.read("cifar10-wrn28_10")
    with pytest.raises(ValueError, match=r"no recipe '/etc/passwd': --list-recipes shows them all"):
        recipes.read("/etc/passwd")
    with pytest.raises(ValueError, match=r"has the methods sgd, sam, .*; got 'asam'"):
        recipes.read("pets-resnet18").config("asam")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "t"', "title = 3", r"recipe r: title must be text in quotes; got 3"),
        ('title = "t"', "", r"recipe r: \[recipe\] lacks title"),
        ('title = "t"', 'tilte = "t"', r"\[recipe\] has 'tilte', which is none of title, reproduces"),
        ('sam = "1.0"', 'asam = "1.0"', r"\[recipe.expected\] has 'asam', which is none of sgd, sam"),
        ('sam = "1.0"', "sam = 1.0", r"expected.sam must be text in quotes; got 1.0"),
        ("[settings]", "requires = ['wieghts']\n[settings]", r"requires has 'wieghts', which is none of method, data"),
        ("[settings]", "requires = 'weights'\n[settings]", r"requires must be a list of settings; got 'weights'"),
        ("epochs = 3", "epoch = 3", r"recipe r, \[settings\]: there is no setting 'epoch'\. Did you mean 'epochs'\?"),
        ("epochs = 3", "epochs = '3'", r"recipe r, \[settings\]: epochs must be a whole number; got '3'"),
        ("epochs = 3", "schedule = 'cosin'", r"schedule must be one of cosine, step, constant; got 'cosin'"),
        ("epochs = 3", "method = 'sam'", r"\[settings\]: the method is the name of a table"),
        ("[method.sgd]", "[method.sdg]", r"method must be one of sgd, .*; got 'sdg'"),
        ("rho = 0.1", "rho = -1", r"recipe r, \[method.sam\]: rho must be at least 0"),
        ("[method.sgd]", "[methods.sgd]", r"the file has 'methods', which is none of recipe, settings, method"),
        ("epochs = 3", "epochs 3", r"recipe r is not TOML"),
    ],
)
def test_a_wrong_file_names_the_key_and_what_is_allowed(old, new, message):
    assert recipes.parse("r", WHOLE).config("sam").rho == 0.1
    with pytest.raises(ValueError, match=message):
        recipes.parse("r", WHOLE.replace(old, new))
