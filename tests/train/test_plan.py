import dataclasses

import numpy as np
import pytest
import torch

from train import loop, recipes
from train.config import METHODS, TrainConfig
from train.data import load, num_held_out
from train.data.sets import DATA_SETS
from train.models import build
from train.plan import plan, published_shape, size_warning


@pytest.mark.parametrize("data", ["digits", "digits32"])
@pytest.mark.parametrize("method", METHODS)
def test_the_plan_is_what_the_loop_does(data, method):
    config = TrainConfig(data=data, method=method, epochs=3, batch_size=100)
    found, splits = plan(config), load(config)
    assert found.steps_per_epoch == len(loop._order(config, 0, len(splits.train[1]))) == 10
    assert (found.num_steps, found.num_train, found.num_classes) == (30, len(splits.train[1]), 10)
    assert found.image_shape == splits.train[0].shape[1:]
    model = build("resnet8", in_channels=splits.train[0].shape[1], num_classes=10, seed=0)
    assert found.num_parameters == sum(param.numel() for param in model.parameters())
    assert found.num_gradients == loop.gradients_per_step(config)


def test_named_data_need_not_be_there(tmp_path):
    found = plan(TrainConfig(data="cifar10", data_root=str(tmp_path), model="resnet32"))
    assert (found.num_train, found.steps_per_epoch, found.num_parameters) == (45_000, 351, 464_154)
    assert list(tmp_path.iterdir()) == []


def test_the_parameters_that_asam_scales_are_named_and_for_other_methods_none():
    config = TrainConfig(method="asam", model="resnet20", data="digits32")
    model = build("resnet20", in_channels=3, num_classes=10, seed=0)
    expected = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    assert list(plan(config).scaled_names) == expected
    assert plan(dataclasses.replace(config, method="sam")).scaled_names == ()


@pytest.mark.parametrize(
    ("model", "data", "warned"),
    [
        ("densenet121_imagenet_stem", "cifar10", True),
        ("densenet121_imagenet_stem", "flowers102", False),
        ("densenet121_cifar_stem", "cifar10", False),
        ("resnet8", "cifar10", False),
    ],
)
def test_a_stem_that_leaves_one_pixel_is_warned_of(model, data, warned, tmp_path):
    found = plan(TrainConfig(model=model, data=data, data_root=str(tmp_path))).warning
    assert found == size_warning(model, published_shape(data))
    assert ("of 32x32 its last block sees 1x1 (of densenet121_cifar_stem, 4x4)" in found) == warned
    assert bool(found) == warned


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 1), ("cifar", 4)])
def test_what_the_warning_says_of_the_two_stems_is_so(stem, side):
    model, seen = build(f"densenet121_{stem}_stem", in_channels=3, num_classes=10, seed=0).eval(), []
    model.get_submodule("features.denseblock4").register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert seen[0][2:] == (side, side)


@pytest.mark.parametrize(
    ("data", "fraction", "expected"),
    [
        ("digits", 0, 1437),
        ("cifar10", 0, 50_000),
        ("cifar10", 0.2, 40_000),
        ("flowers102", 0, 2_040),
        ("imagenet", 0, 1_281_167),
    ],
)
def test_the_plan_counts_what_is_not_held_out(data, fraction, expected):
    assert plan(TrainConfig(data=data, val_fraction=fraction)).num_train == expected


def test_by_default_the_published_sizes_are_those_of_the_split():
    for name, data_set in DATA_SETS.items():
        given, one_piece = data_set.sizes[0] + data_set.sizes[1], name.startswith("digits")
        held_out = num_held_out(sum(data_set.sizes) if one_piece else given, 0.1, one_piece=one_piece)
        assert data_set.sizes[:2] == (given - held_out, held_out), name


def test_own_data_is_counted(tmp_path):
    images = np.zeros((20, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=images, y=np.arange(20) % 2)
    config = TrainConfig(data=f"npz:{tmp_path / 'own.npz'}", batch_size=6)
    assert plan(config).num_train == len(load(config).train[1])
    assert plan(config).image_shape == (3, 8, 8)
    assert published_shape(config.data) is None
    with pytest.raises(ValueError, match=r"batch_size is 100, but there are only \d+ training examples"):
        plan(dataclasses.replace(config, batch_size=100))


@pytest.mark.parametrize("model", sorted({str(recipes.read(name).settings["model"]) for name in recipes.names()}))
def test_every_network_of_a_recipe_can_be_built(model, tmp_path):
    name = next(name for name in recipes.names() if recipes.read(name).settings["model"] == model)
    recipe = recipes.read(name)
    changes = {"data_root": str(tmp_path), **dict.fromkeys(recipe.requires, "weights.pth")}
    assert plan(recipe.config("sam", changes=changes)).num_parameters > 400_000
