"""DenseNet-121 (Huang et al. 2017, arXiv:1608.06993): torchvision's network, with its stem or one for small images."""

from __future__ import annotations

from typing import Literal

from torch import nn

from train.models.libraries import torchvision_models


def densenet121(stem: Literal["imagenet", "cifar"], in_channels: int, num_classes: int) -> nn.Module:
    """Blocks of 6, 12, 24 and 16 layers, growth 32; 7,978,856 parameters with torchvision's own stem and 1,000 classes.

    The stem "imagenet" is a 7x7 convolution of stride 2 and a maximum over 3x3 of stride 2: a 32x32 image enters the
    first block as 8x8. The stem "cifar" is a 3x3 convolution of stride 1. All else is the same, the names too.

    Raises:
        LibraryError: If torchvision is missing, or does not fit torch.
    """
    kernel, stride, padding = {"imagenet": (7, 2, 3), "cifar": (3, 1, 1)}[stem]
    model: nn.Module = torchvision_models().densenet121(weights=None, num_classes=num_classes)
    features = model.get_submodule("features")
    convolution = nn.Conv2d(in_channels, 64, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(convolution.weight)  # as torchvision
    features.add_module("conv0", convolution)
    if stem == "cifar":
        features.add_module("pool0", nn.Identity())
    return model
