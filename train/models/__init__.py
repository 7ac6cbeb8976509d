"""The networks of this package, by name, and those of torchvision and timm.

Ours take images of 8x8 and larger, "densenet121_imagenet_stem" of 32x32 and larger: it was made for 224x224.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from train.config import MODEL_LIBRARIES, MODELS, check_choice
from train.models.densenet import densenet121
from train.models.libraries import LibraryError, timm_network, torchvision_classifier
from train.models.pyramidnet import PyramidNet
from train.models.resnet import CifarResNet, ResNet8
from train.models.wide_resnet import WideResNet
from train.streams import derived_seed, generator, seeded

__all__ = ["CONSTRUCTORS", "LibraryError", "build", "library_of"]

Constructor = Callable[[int, int], nn.Module]  # of the channels of an image and the number of classes

_OURS: dict[str, Constructor] = {
    "resnet8": ResNet8,
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet56": partial(CifarResNet, 56),
    "wrn16_4": partial(WideResNet, 16, 4),
    "wrn40_2": partial(WideResNet, 40, 2),
    "wrn28_10": partial(WideResNet, 28, 10),
    "pyramidnet101_64": partial(PyramidNet, 101, 64, "bottleneck"),
    "pyramidnet110_84": partial(PyramidNet, 110, 84, "basic"),
    "pyramidnet110_270": partial(PyramidNet, 110, 270, "basic"),
}
_ON_TORCHVISION: dict[str, Constructor] = {
    "densenet121_imagenet_stem": partial(densenet121, "imagenet"),
    "densenet121_cifar_stem": partial(densenet121, "cifar"),
}
CONSTRUCTORS = _OURS | _ON_TORCHVISION


def build(name: str, *, in_channels: int, num_classes: int, seed: int) -> nn.Module:
    """The network called `name`, in train mode, its weights drawn by `seed`.

    Our networks: convolutions as He et al. 2015 (arXiv:1502.01852), fan-out, ReLU; linear layers normal with variance
    1 / fan-in, zero bias; the draw of a layer depends on `seed` and the layer's name alone. What torchvision or timm
    builds, both DenseNets included, keeps that library's distributions, drawn one after the other from `seed`.

    Raises:
        ValueError: If there is no network of this name, or it does not take images of so many channels.
        LibraryError: If the library that the network needs is missing, or does not fit torch.
    """
    check_choice("model", name, (*MODELS, *MODEL_LIBRARIES))
    with seeded(derived_seed(seed, "initialisation"), torch.device("cpu")):
        model = _constructor(name)(in_channels, num_classes)
    if name in _OURS:
        _draw_weights_(model, seed)
    return model


def library_of(name: str) -> str | None:
    """The library that the network called `name` is built with, None for those that are all ours.

    Example:
        >>> library_of("densenet121_cifar_stem"), library_of("timm:resnet18"), library_of("resnet8")
        ('torchvision', 'timm', None)
    """
    library, colon, _ = name.partition(":")
    if colon:
        return library
    return "torchvision" if name in _ON_TORCHVISION else None


def _constructor(name: str) -> Constructor:
    library, colon, rest = name.partition(":")
    if not colon:
        return CONSTRUCTORS[name]
    return partial({"torchvision": torchvision_classifier, "timm": timm_network}[library], rest)


def _draw_weights_(model: nn.Module, seed: int) -> None:
    for layer_name, layer in model.named_modules():
        stream = generator(derived_seed(seed, "initialisation"), layer_name)
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=stream)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=stream)
            nn.init.zeros_(layer.bias)
