"""Pyramidal residual networks for small images (Han, Kim & Kim 2017, arXiv:1610.02915), with BatchNorm in every block.

Block k of K has D_k = 16 + alpha k / K channels, rounded, as in the authors' PyTorch code (eq. 3 of the paper rounds
down, and adds up what is rounded), and its shortcut carries zeros for the channels that are new.

A BatchNorm whose output meets only BatchNorm has a bias without effect in train mode: its gradient there is zero up to
rounding, as in the authors' network.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["basic", "bottleneck"]


class PyramidNet(nn.Module):
    """Three stages of equally many blocks; 110, 270, "basic": 28.5 M parameters; 101, 64, "bottleneck": 1.6 M.

    A basic block has two layers and D_k channels at its end, a bottleneck has three and 4 D_k.
    """

    def __init__(self, depth: int, alpha: int, kind: Kind, in_channels: int, num_classes: int) -> None:
        super().__init__()
        block = {"basic": PyramidBasicBlock, "bottleneck": PyramidBottleneck}[kind]
        per_stage = (depth - 2) // {"basic": 6, "bottleneck": 9}[kind]
        expansion = {"basic": 1, "bottleneck": 4}[kind]
        widths = [round(16 + alpha * k / (3 * per_stage)) for k in range(1, 3 * per_stage + 1)]
        incoming = [16, *(expansion * width for width in widths)]
        strides = [2 if k in (per_stage, 2 * per_stage) else 1 for k in range(3 * per_stage)]
        blocks = [block(*shape) for shape in zip(incoming[:-1], widths, strides, strict=True)]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*blocks[:per_stage])
        self.layer2 = nn.Sequential(*blocks[per_stage : 2 * per_stage])
        self.layer3 = nn.Sequential(*blocks[2 * per_stage :])
        self.bn_final = nn.BatchNorm2d(incoming[-1])
        self.fc = nn.Linear(incoming[-1], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width)."""
        features = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(inputs)))))
        logits: Tensor = self.fc(functional.relu(self.bn_final(features)).mean(dim=(2, 3)))
        return logits


class PyramidBasicBlock(nn.Module):
    """BatchNorm, 3x3 convolution, BatchNorm, ReLU, 3x3 convolution, BatchNorm: a ReLU less than elsewhere."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, width, height / stride, width / stride)."""
        hidden = self.conv1(self.bn1(inputs))
        residual: Tensor = self.bn3(self.conv2(functional.relu(self.bn2(hidden))))
        return residual + pooled_and_padded(inputs, channels=residual.shape[1], stride=self.stride)


class PyramidBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, the last to four times the channels; BatchNorm around each."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(4 * width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, 4 width, height / stride, width / stride)."""
        hidden = self.conv1(self.bn1(inputs))
        hidden = self.conv2(functional.relu(self.bn2(hidden)))
        residual: Tensor = self.bn4(self.conv3(functional.relu(self.bn3(hidden))))
        return residual + pooled_and_padded(inputs, channels=residual.shape[1], stride=self.stride)


def pooled_and_padded(inputs: Tensor, *, channels: int, stride: int) -> Tensor:
    """`inputs` (N, fewer channels, height, width), averaged over stride x stride pixels, zeros as the last channels."""
    if stride != 1:
        inputs = functional.avg_pool2d(inputs, stride, ceil_mode=True)  # odd sizes: as a convolution of this stride
    return functional.pad(inputs, (0, 0, 0, 0, 0, channels - inputs.shape[1]))
