import pytest
import torch
from problems import NETS, build, dense_hessian, in_batches, objective_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape.objective import Objective
from landscape.operators import hessian


def columns(operator):
    return torch.stack([operator.matvec(e) for e in torch.eye(operator.size, dtype=operator.dtype)])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["recomputed", "retained"])
def test_products_are_those_of_the_dense_hessian(name, memory):
    """Ragged last batch, BatchNorm in eval mode, attention, tied and unused weights included."""
    objective = objective_of(name)
    assert objective.theta.numel() <= 500
    truth = dense_hessian(objective)
    found = columns(hessian(objective, memory_bytes=memory))
    assert (found - truth).abs().max() <= 1e-8 * truth.abs().max()


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)),
    ],
    ids=str,
)
def test_the_loss_divides_by_its_own_denominators(loss):
    objective = objective_of("tied", loss)
    truth = dense_hessian(objective)
    assert (columns(hessian(objective)) - truth).abs().max() <= 1e-8 * truth.abs().max()


def test_mean_squared_error_of_a_linear_net_is_two_x_x_over_n():
    torch.manual_seed(0)
    inputs, targets = torch.randn(10, 3).double(), torch.randn(10, 1).double()
    net = nn.Linear(3, 1, bias=False).double()
    objective = Objective(net, nn.MSELoss(), in_batches(inputs, targets, [8, 2]))
    torch.testing.assert_close(columns(hessian(objective)), 2 / 10 * inputs.T @ inputs)


def test_a_loss_linear_in_theta_has_curvature_zero():
    net = nn.Linear(3, 1).double()
    objective = Objective(net, lambda o, t: (o * t).sum(), [(torch.ones(2, 3).double(),) * 2], reduction="sum")
    assert hessian(objective).matvec(objective.theta).count_nonzero() == 0


def test_the_operator_knows_its_loss_and_size():
    objective = objective_of("conv_net")
    operator = hessian(objective)
    assert operator.shape == (objective.theta.numel(),) * 2
    assert operator.loss == objective.evaluate().loss


def test_a_shuffling_loader_gives_the_same_product_whatever_is_kept():
    _, inputs, targets = build("conv_net")
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=True)
    truth = dense_hessian(objective_of("conv_net"))
    for memory in (0, 15_000, 30_000, 1 << 30):
        operator = hessian(Objective(build("conv_net")[0], nn.CrossEntropyLoss(), loader), memory_bytes=memory)
        torch.rand(3)
        assert (columns(operator) - truth).abs().max() <= 1e-8 * truth.abs().max()
