"""A model that runs parts of its forward pass again in the backward pass is measured as its twin that does not."""

import copy
from functools import partial

import pytest
import torch
from problems import build, in_batches
from torch import nn
from torch.utils.checkpoint import checkpoint

from landscape.alignment import gradient_congruence
from landscape.following import curvature_trace
from landscape.objective import Objective
from landscape.operators import fisher, gauss_newton, hessian, per_layer

FORCED = partial(hessian, engine="finite-differences")
MATRICES = {
    "retained": hessian,
    "recomputed": partial(hessian, engine="recomputed"),
    "finite differences": FORCED,
    "gauss-newton": gauss_newton,
    "fisher": fisher,
    "train": partial(hessian, batch_norm="train"),
    "train, timed": partial(hessian, batch_norm="train", engine="timed"),
}


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class Net(nn.Module):
    def __init__(self, again, function=torch.tanh):
        super().__init__()
        self.again, self.function = again, function
        self.first, self.last = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, 3)
        self.block = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh(), nn.Conv2d(2, 2, 1))

    def forward(self, x):
        h = self.function(self.first(x))
        h = checkpoint(self.block, h, use_reentrant=False) if self.again else self.block(h)
        return self.last(h.tanh().flatten(1))


def twins(**options):
    _, inputs, targets = build("conv_net")
    torch.manual_seed(0)
    plain, again = Net(False, **options).double(), Net(True, **options).double()
    again.load_state_dict(plain.state_dict())
    return [Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets)) for net in (plain, again)]


def assert_close(found, expected):
    assert (found - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize("size", [0.0, 0.05, 1.0])
def test_gradients_are_those_at_the_point_asked_for(size):
    plain, again = twins()
    theta = plain.theta + size * torch.randn_like(plain.theta)
    assert_close(again.gradient(theta), plain.gradient(theta))


@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_products_are_those_without_checkpointing(make):
    plain, again = twins()
    torch.manual_seed(0)
    vectors = torch.randn(2, len(plain.theta), dtype=torch.float64)
    before = copy.deepcopy(again.model.state_dict())
    operator, expected = make(again), make(plain).matvecs(vectors)
    tolerance = 1e-6 if make is FORCED else 1e-10
    for _ in range(2):  # from graphs that are built, and from those that are kept
        assert (operator.matvecs(vectors) - expected).norm() <= tolerance * expected.norm()
    assert all(again.model.state_dict()[name].equal(value) for name, value in before.items())
    assert all(isinstance(p, nn.Parameter) for p in again.model.parameters())


def test_blocks_of_layers_are_those_without_checkpointing():
    blocks, expected = (per_layer(one) for one in reversed(twins()))
    for name, block in blocks.items():
        v = torch.ones(block.size, dtype=torch.float64)
        assert_close(block.matvec(v), expected[name].matvec(v))


def test_congruence_and_the_curvature_along_sams_step_are_those_without_checkpointing():
    plain, again = twins()
    expected, found = (gradient_congruence(one, one, radius=0.5).value for one in (plain, again))
    assert found == pytest.approx(expected, rel=1e-12)
    expected, found = (curvature_trace([(1, one)], k=1, rho=2.0).along_sam[0] for one in (plain, again))
    assert found == pytest.approx(expected, rel=1e-10)


def test_a_right_function_beside_checkpointing_is_no_false_alarm():
    for objective in twins(function=Sine.apply):
        for make in (hessian, gauss_newton):
            assert make(objective).checks["gradient_change"] < 1e-6


def test_an_error_in_a_backward_pass_leaves_the_model_as_it_was():
    of_backward = []

    def failing(x):
        if torch._C._current_graph_task_id() != -1:
            of_backward.append(True)
            raise RuntimeError("no more")
        return x.tanh()

    objective = twins()[1]
    objective.model.block[2] = _Calling(failing)
    before = copy.deepcopy(objective.model.state_dict())
    for measure in (objective.gradient, lambda: hessian(objective).matvec(objective.theta)):
        with pytest.raises((RuntimeError, ValueError), match="no more"):
            measure()
        assert of_backward.pop()
        assert all(objective.model.state_dict()[name].equal(value) for name, value in before.items())
        assert all(isinstance(p, nn.Parameter) for p in objective.model.parameters())


class _Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)
