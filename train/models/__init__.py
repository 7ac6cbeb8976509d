"""The networks of this package, by name."""

from collections.abc import Callable

import torch
from torch import nn

from train.config import check_choice
from train.models.resnet import ResNet8
from train.streams import derived_seed, generator

CONSTRUCTORS: dict[str, Callable[[int, int], nn.Module]] = {"resnet8": ResNet8}


def build(name: str, *, in_channels: int, num_classes: int, seed: int) -> nn.Module:
    """The network called `name`, in train mode, its weights drawn by `seed`.

    Convolutions: He et al. 2015 (arXiv:1502.01852), fan-out, ReLU. Linear layers: normal with variance 1 / fan-in,
    zero bias. The draw of a layer depends on `seed` and the layer's name alone.

    Raises:
        ValueError: If there is no network of this name.
    """
    check_choice("model", name, tuple(CONSTRUCTORS))
    with torch.random.fork_rng(devices=[]):  # torch's layers draw their default weights from the global generator
        model = CONSTRUCTORS[name](in_channels, num_classes)
    for layer_name, layer in model.named_modules():
        stream = generator(derived_seed(seed, "initialisation"), layer_name)
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=stream)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=stream)
            nn.init.zeros_(layer.bias)
    return model
