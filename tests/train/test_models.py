import pytest
import torch

from train.models import build


@pytest.mark.parametrize(("in_channels", "expected"), [(1, 77_754), (3, 78_042)])
def test_resnet8_has_its_number_of_parameters(in_channels, expected):
    model = build("resnet8", in_channels=in_channels, num_classes=10, seed=0)
    assert sum(param.numel() for param in model.parameters()) == expected
    assert model(torch.zeros(2, in_channels, 8, 8)).shape == (2, 10)


def test_stages_halve_the_image_twice():
    model = build("resnet8", in_channels=1, num_classes=10, seed=0)
    features = model.stem(torch.zeros(2, 1, 8, 8))
    shapes = []
    for stage in model.stages:
        features = stage(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build("resnet8", in_channels=1, num_classes=10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same = build("resnet8", in_channels=1, num_classes=10, seed=0)
    other = build("resnet8", in_channels=1, num_classes=10, seed=1)
    pairs = list(zip(first.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert all(not torch.equal(a, c) for a, _, c in pairs if a.dim() > 1)


def test_convolutions_have_the_variance_of_he():
    model = build("resnet8", in_channels=1, num_classes=10, seed=0)
    weight = model.stages[2].conv2.weight  # 36,864 draws: the standard deviation is known to 0.4 %
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"model must be one of resnet8; got 'resnet18'. Did you mean 'resnet8'\?"):
        build("resnet18", in_channels=1, num_classes=10, seed=0)
