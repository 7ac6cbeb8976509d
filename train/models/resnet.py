"""Residual networks for small images (He et al. 2016, arXiv:1512.03385, section 4.2), with BatchNorm."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ResNet8(nn.Module):
    """Three stages of one basic block, 16, 32 and 64 channels wide; 77,754 parameters for one channel and ten classes.

    Shortcuts are 1x1 convolutions with BatchNorm where the shape changes (option B of the paper, whose networks for
    small images take option A).
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2))
        self.head = nn.Linear(64, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width)."""
        features = self.stages(self.stem(inputs))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which a shortcut leads."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, out_channels, height / stride, width / stride)."""
        hidden = functional.relu(self.norm1(self.conv1(inputs)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))


class CifarResNet(nn.Module):
    """Three stages of (depth - 2) / 6 blocks, 16, 32 and 64 channels wide; depth 20, 32, 56: 0.27, 0.46, 0.85 M.

    The networks of section 4.2: shortcuts have no parameters (option A). Layers are named as PyTorch code for CIFAR
    usually names them.
    """

    def __init__(self, depth: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, num_blocks)
        self.layer2 = _stage(16, 32, 2, num_blocks)
        self.layer3 = _stage(32, 64, 2, num_blocks)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width)."""
        features = functional.relu(self.bn1(self.conv1(inputs)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


class PaddedBlock(nn.Module):
    """Two 3x3 convolutions around which a shortcut without parameters leads."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, out_channels, height / stride, width / stride)."""
        hidden = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(inputs)))))
        return functional.relu(hidden + strided_and_padded(inputs, channels=hidden.shape[1], stride=self.stride))


def strided_and_padded(inputs: Tensor, *, channels: int, stride: int) -> Tensor:
    """Every stride-th pixel of `inputs` (N, fewer channels, height, width) between equally many channels of zeros.

    Option A of the paper, which does not say where the zeros go; before and after is where PyTorch code puts them.
    """
    added = channels - inputs.shape[1]
    return functional.pad(inputs[:, :, ::stride, ::stride], (0, 0, 0, 0, added // 2, added - added // 2))


def _stage(in_channels: int, out_channels: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = PaddedBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(PaddedBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))
