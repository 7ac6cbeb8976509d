"""Wide residual networks for small images (Zagoruyko & Komodakis 2016, arXiv:1605.07146), without dropout."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks, 16, 32 and 64 times `width` channels wide; 28, 10: 36.5 M parameters.

    Activation comes before convolution. Where the shape changes, the shortcut is a 1x1 convolution of what the first
    one sees.
    """

    def __init__(self, depth: int, width: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        num_blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16 * width, 1, num_blocks)
        self.layer2 = _stage(16 * width, 32 * width, 2, num_blocks)
        self.layer3 = _stage(32 * width, 64 * width, 2, num_blocks)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width)."""
        features = self.layer3(self.layer2(self.layer1(self.conv1(inputs))))
        logits: Tensor = self.fc(functional.relu(self.bn(features)).mean(dim=(2, 3)))
        return logits


class PreActivationBlock(nn.Module):
    """Two times BatchNorm, ReLU and 3x3 convolution, around which a shortcut leads."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, out_channels, height / stride, width / stride)."""
        active = functional.relu(self.bn1(inputs))
        hidden: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return hidden + (inputs if self.shortcut is None else self.shortcut(active))


def _stage(in_channels: int, out_channels: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(PreActivationBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))
