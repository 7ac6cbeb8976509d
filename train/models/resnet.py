"""A small residual network for small images (He et al. 2016, arXiv:1512.03385, section 4.2), with BatchNorm."""

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
