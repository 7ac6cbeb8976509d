"""The kernels' second derivatives against torch's own double backward, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from landscape.kernels import SecondOrder

CONVOLUTIONS = {
    "1d": (nn.Conv1d(3, 4, 3, padding=1), (2, 3, 7)),
    "2d": (nn.Conv2d(3, 4, 3), (2, 3, 6, 6)),
    "3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 3, 3, 3)),
    "strided": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 6, 6)),
    "dilated, oblong": (nn.Conv2d(3, 4, (3, 1), dilation=(2, 1), padding=(1, 0)), (2, 3, 7, 5)),
    "grouped, without bias": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 5)),
    "padding by name": (nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 5, 5)),
    "padding that reflects": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 5, 5)),
    "one example without a batch": (nn.Conv2d(3, 4, 3), (3, 5, 5)),
}


def second_order(function, inputs, mode, seed=0):
    """Value, gradient and H v of sum(weights * tanh(function(inputs))) with respect to the inputs."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    with mode:
        output = function(*leaves)
    stream = torch.Generator().manual_seed(seed)
    draw = lambda like: torch.randn(like.shape, generator=stream, dtype=torch.float64)  # noqa: E731
    loss = (draw(output) * output.tanh()).sum()
    gradient = torch.autograd.grad(loss, leaves, create_graph=True)
    return [output, *gradient, *torch.autograd.grad(gradient, leaves, [draw(t) for t in leaves])]


def assert_as_torch(function, inputs):
    expected = second_order(function, inputs, torch.enable_grad())
    for truth, found in zip(expected, second_order(function, inputs, SecondOrder()), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-11)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_has_the_second_derivative_of_torchs_own(name):
    layer, shape = CONVOLUTIONS[name]
    layer = layer.double()
    names, params = zip(*layer.named_parameters(), strict=True)

    def function(x, *params):
        return torch.func.functional_call(layer, dict(zip(names, params, strict=True)), (x,))

    assert_as_torch(function, [torch.randn(shape).double(), *params])


def batch_norm(x, weight, bias):
    mean, var = torch.linspace(-1, 1, x.shape[1]).double(), torch.linspace(0.5, 2, x.shape[1]).double()
    return F.batch_norm(x, mean, var, weight, bias, False, 0.1, 1e-5)


def test_one_number_stands_for_all_dimensions():
    def function(x, kernel):
        return F.conv2d(x, kernel, stride=(2,), padding=[1], dilation=(1,))

    assert_as_torch(function, [torch.randn(2, 3, 6, 6).double(), torch.randn(4, 3, 3, 3).double()])


@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_in_eval_mode_after_a_convolution_has_the_second_derivative_of_torchs_own(bias):
    inputs = [torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), *torch.randn(3, 4)]

    def function(x, kernel, its_bias, weight, shift):
        y = F.conv2d(x, kernel, its_bias if bias else None, padding=1)
        return batch_norm(y, weight, shift) + 0 * its_bias.sum()

    assert_as_torch(function, [t.double() for t in inputs])


def test_batch_norm_by_itself_and_without_weights_has_the_second_derivative_of_torchs_own():
    assert_as_torch(batch_norm, [torch.randn(5, 4).double(), *torch.randn(2, 4).double()])
    assert_as_torch(lambda x: batch_norm(x.square(), None, None), [torch.randn(2, 4, 3).double()])


def test_a_convolution_that_others_read_too_keeps_its_own_derivative():
    def function(x, kernel, weight, bias):
        y = F.conv2d(x, kernel)
        return batch_norm(y, weight, bias) * y

    inputs = [torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), *torch.randn(2, 4)]
    assert_as_torch(function, [t.double() for t in inputs])


def test_a_convolution_changed_in_place_before_its_batch_norm_is_none():
    def function(x, kernel, weight, bias):
        return batch_norm(F.relu(F.conv2d(x, kernel), inplace=True), weight, bias).relu_()

    inputs = [torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), *torch.randn(2, 4)]
    assert_as_torch(function, [t.double() for t in inputs])


def test_batch_norm_in_train_mode_is_left_to_torch():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)).double()
    assert_as_torch(layers.train(), [torch.randn(6, 3, 5, 5).double()])


def test_values_are_those_of_the_model_bit_for_bit():
    """So that a ReLU is cut where the model cuts it."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3)).eval()
    net[1].running_mean.normal_()
    x = torch.randn(4, 3, 9, 9)
    with SecondOrder():
        found = net(x)
    assert found.equal(net(x))


def test_a_frozen_graph_has_the_same_vector_jacobian_products_and_their_derivative():
    net = (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 2)).double().eval()
    )
    x, params = torch.randn(4, 2, 5, 5).double(), list(net.parameters())
    expected, directions = [], [torch.randn_like(p) for p in params]
    for mode in (torch.enable_grad(), SecondOrder(frozen=True)):
        with mode:
            output = net(x)
        z = torch.ones_like(output, requires_grad=True)
        back = torch.autograd.grad(output, params, z, create_graph=True)
        expected.append([*back, torch.autograd.grad(back, z, directions)[0]])
    for truth, found in zip(*expected, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-11)
