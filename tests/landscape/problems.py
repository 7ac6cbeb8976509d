"""Small problems with a known answer: networks of up to 500 parameters, data with a ragged last batch, dense truths."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.objective import Objective

NUM_EXAMPLES = 21
BATCHES = (8, 8, 5)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(5, 3)
        self.unused = nn.Linear(4, 2)

    def forward(self, x):
        return self.used(x)


def batch_norm_net():
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2.0)
    return net


def conv_net():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Linear(12, 3))


def group_norm_net():
    return nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 6), nn.ReLU(), nn.Linear(6, 3))


def hooked_net(place, hook):
    net = conv_net()
    (net if place == "whole" else net[place]).register_forward_hook(lambda _, inputs, output: hook(inputs[0], output))
    return net


HOOKS = {  # forward hooks, at places of `conv_net`: 0 is its convolution, 1 the BatchNorm that becomes part of it
    "after the convolution": (0, lambda _, output: output**2),
    "in place after the convolution": (0, lambda _, output: output.mul_(2)),
    "after the norm": (1, lambda _, output: output**2),
    "in place after the norm": (1, lambda _, output: output.mul_(2)),
    "of the convolution's output, after the norm": (1, lambda inputs, output: output + inputs**2),
    "after the whole": ("whole", lambda _, output: output + output**2),
}

SHAPES = {"conv_net": (1, 4, 4), "attention": (4, 4), **dict.fromkeys(HOOKS, (1, 4, 4))}
NETS = {
    "batch_norm_net": batch_norm_net,
    "conv_net": conv_net,
    "group_norm_net": group_norm_net,
    "attention": Attention,
    "tied": Tied,
    "unused": Unused,
}


def build(name, dtype=torch.float64, seed=0):
    """A network, inputs (21, ...) and integer targets (21,), the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = (hooked_net(*HOOKS[name]) if name in HOOKS else NETS[name]()).to(dtype)
        inputs = torch.randn(NUM_EXAMPLES, *SHAPES.get(name, (5,)), dtype=dtype)
        return net, inputs, torch.randint(0, 3, (NUM_EXAMPLES,))


def in_batches(inputs, targets, sizes=BATCHES):
    return list(zip(inputs.split(sizes), targets.split(sizes), strict=True))


def objective_of(name, loss=None, dtype=torch.float64, sizes=BATCHES):
    net, inputs, targets = build(name, dtype)
    return Objective(net, loss or nn.CrossEntropyLoss(), in_batches(inputs, targets, sizes))


def whole_loss(objective: Objective) -> Callable[[Tensor], Tensor]:
    """The mean loss as torch itself computes it: all data in one batch, the loss's own reduction."""
    inputs = torch.cat([batch[0] for batch in objective.batches])
    targets = torch.cat([batch[1] for batch in objective.batches])

    def loss(theta):
        return objective.loss(functional_call(objective.model, objective.named(theta), (inputs,)), targets)

    return loss


def dense_hessian(objective: Objective) -> Tensor:
    objective.model.eval()
    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(whole_loss(objective), objective.theta)


def a_run(num=3, size=0.02):
    """Objectives at weights that move a little each epoch."""
    net, inputs, targets = build("tied")
    found = []
    torch.manual_seed(0)
    for epoch in range(1, num + 1):
        net = copy.deepcopy(net)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(size * torch.randn_like(p))
        found.append((2 * epoch, Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))))
    return found
