"""Training's probe and the measurement at a checkpoint are the same quantity where no layer tells the modes apart."""

import pytest
import torch
from torch import nn

import landscape as ls
from train.batches import part_sizes
from train.probe import congruence


@pytest.mark.parametrize("radius", [0.0, 0.05, 1.0])
def test_the_probe_equals_the_measurement_on_a_network_without_batch_norm(radius):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    inputs, targets = torch.randn(40, 5).double(), torch.randint(0, 3, (40,))

    def mean_loss(net, batch):
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    probed = congruence(model, mean_loss, (inputs, targets), split_ratio=0.7, radius=radius)
    first = part_sizes(40, 0.7)[0]
    parts = [(inputs[:first], targets[:first])], [(inputs[first:], targets[first:])]
    train, validation = (ls.Objective(model, nn.CrossEntropyLoss(), part) for part in parts)
    measured = ls.gradient_congruence(train, validation, radius=radius)
    assert measured.value == pytest.approx(probed, rel=1e-12)
