"""What stands between a convolution and a BatchNorm is in the Hessian, and models that our kernels break fall back."""

import pytest
import torch
from problems import dense_hessian
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import landscape as ls
from landscape.operators import gauss_newton, hessian
from landscape.sampling import data_error
from landscape.spectrum import trace


class Between(nn.Module):
    """A convolution, something, BatchNorm, and a head."""

    def __init__(self, between):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(12, 3)
        self.between = between
        nn.init.uniform_(self.bn.running_var, 0.5, 2.0)
        nn.init.normal_(self.bn.running_mean)

    def forward(self, x):
        return self.head(torch.tanh(self.bn(self.between(self, x))).flatten(1))


def without_graph(net, x):
    with torch.no_grad():
        return net.conv(x)


def cut(net, x):
    return net.conv(x).detach_()


def hooked(net, x):
    y = net.conv(x)
    if y.requires_grad:
        y.register_hook(lambda gradient: 0.1 * gradient)
    return y


def checkpointed(net, x):
    return checkpoint(net.conv, x, use_reentrant=False)


def objective_of(between, seed=0):
    torch.manual_seed(seed)
    net = Between(between).double().eval()
    x, y = torch.randn(7, 1, 4, 4, dtype=torch.float64), torch.randint(3, (7,))
    return ls.Objective(net, nn.CrossEntropyLoss(), [(x, y)])


def by_autograd(objective):
    """Rows of d gradient / d theta, as plain double backward of the model has them, hooks and cuts included."""
    (x, y), theta = objective.batches[0], objective.theta.clone().requires_grad_()
    loss = nn.functional.cross_entropy(functional_call(objective.model, objective.named(theta), (x,)), y)
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    rows = [torch.autograd.grad(g, theta, retain_graph=True, allow_unused=True)[0] for g in gradient]
    return torch.stack([torch.zeros_like(theta) if row is None else row for row in rows])


@pytest.mark.parametrize("between", [without_graph, cut, hooked, checkpointed, lambda net, x: net.conv(x)])
@pytest.mark.parametrize("engine", ["retained", "recomputed"])
def test_products_are_those_of_plain_double_backward(between, engine):
    objective = objective_of(between)
    operator, dense = hessian(objective, engine=engine), by_autograd(objective)
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(operator.matvec(v), v @ dense, rtol=1e-8, atol=1e-10)


def test_a_model_that_our_kernels_break_goes_on_with_torchs_own_and_says_so():
    operator = hessian(objective_of(checkpointed))
    v = torch.ones(operator.size, dtype=torch.float64)
    found = operator.matvec(v)
    if "kernels" in operator.checks:
        assert operator.checks["kernels"].startswith("torch's own: ")
    torch.testing.assert_close(
        found, hessian(objective_of(lambda net, x: net.conv(x))).matvec(v), rtol=1e-8, atol=1e-10
    )


def test_gauss_newton_sees_a_cut_too():
    operator = gauss_newton(objective_of(without_graph))
    v = torch.randn(operator.size, dtype=torch.float64)
    assert operator.matvec(v)[: 3 * 9 + 3].abs().max() == 0  # the convolution is not in the graph


def test_weight_norm_has_the_hessian_of_its_formula():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
    net = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.randint(3, (9,))
    objective = ls.Objective(net, nn.CrossEntropyLoss(), [(x, y)])
    operator, theta, step = hessian(objective), objective.theta, 1e-5
    v = torch.randn(operator.size, dtype=torch.float64)
    ahead, behind = (objective.gradient(theta + sign * step * v) for sign in (1, -1))
    torch.testing.assert_close(operator.matvec(v), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


def test_pairs_of_another_block_of_equal_size_are_refused():
    objective = objective_of(lambda net, x: net.conv(x))
    one, other = (hessian(objective, only=[name]) for name in ("bn.weight", "bn.bias"))
    pairs = ls.top_eigenpairs(one, 1)
    with pytest.raises(ValueError, match="these pairs are of another operator, they differ in: kept_hash"):
        trace(other, num_matvecs=2, pairs=pairs)


def test_labels_that_are_drawn_have_no_parts():
    objective = objective_of(lambda net, x: net.conv(x))
    pairs = ls.top_eigenpairs(ls.fisher(objective), 1)
    with pytest.raises(ValueError, match="are drawn anew in each part: take the empirical Fisher matrix"):
        data_error(objective, pairs, operator_of=ls.fisher)


def test_dense_and_plain_agree_where_nothing_stands_between():
    objective = objective_of(lambda net, x: net.conv(x))
    torch.testing.assert_close(by_autograd(objective), dense_hessian(objective), rtol=1e-8, atol=1e-10)


def test_forward_over_reverse_is_held_against_double_backward():
    objective = objective_of(without_graph)
    with pytest.raises(ValueError, match=r"forward over reverse differs by .* from double backward here"):
        hessian(objective, engine="forward-over-reverse")
    plain = hessian(objective_of(lambda net, x: net.conv(x)), engine="forward-over-reverse")
    assert plain.checks["forward_difference"] < 1e-10
