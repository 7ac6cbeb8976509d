import pytest
import torch
from torch import nn

from train.config import TrainConfig


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny():
    """Settings of a run of two epochs with two steps each."""
    return TrainConfig(epochs=2, batch_size=512, seed=3, label_noise=0.2)


class SmoothNet(nn.Module):
    """Two layers, float64, with or without BatchNorm; smooth, so that formulas hold to the last digits."""

    def __init__(self, *, batch_norm: bool):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.norm = nn.BatchNorm1d(7) if batch_norm else nn.Identity()
        self.second = nn.Linear(7, 3)

    def forward(self, inputs):
        return self.second(torch.tanh(self.norm(self.first(inputs))))


@pytest.fixture
def make_net():
    def make(*, batch_norm=True, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SmoothNet(batch_norm=batch_norm).double()

    return make


@pytest.fixture
def batch():
    stream = torch.Generator().manual_seed(11)
    inputs = torch.randn(20, 5, generator=stream, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (20,), generator=stream)
