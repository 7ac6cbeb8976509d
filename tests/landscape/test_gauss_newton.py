"""Gauss-Newton and Fisher matrices against dense Jacobians, and against curvlinops."""

import pytest
import torch
from problems import HOOKS, NETS, build, dense_hessian, in_batches, objective_of
from torch import nn
from torch.func import functional_call

from landscape.objective import Objective
from landscape.operators import fisher, gauss_newton, hessian


def columns(operator):
    return torch.stack([operator.matvec(e) for e in torch.eye(operator.size, dtype=operator.dtype)])


def goals(loss, targets):
    """Targets as the loss wants them."""
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return targets
    return nn.functional.one_hot(targets, 3).double() + (0.3 if isinstance(loss, nn.MSELoss) else 0.0)


def objective_with(loss, name="batch_norm_net"):
    net, inputs, targets = build(name)
    return Objective(net, loss, in_batches(inputs, goals(loss, targets)))


def outputs_and_jacobian(objective):
    """Outputs (N, C) and their derivative (N, C, P), all data at once."""
    objective.model.eval()
    inputs = torch.cat([batch[0] for batch in objective.batches])

    def outputs(theta):
        return functional_call(objective.model, objective.named(theta), (inputs,))

    return outputs(objective.theta), torch.autograd.functional.jacobian(outputs, objective.theta)


def dense_gauss_newton(objective):
    targets = torch.cat([batch[1] for batch in objective.batches])
    outputs, jacobian = outputs_and_jacobian(objective)
    curvature = torch.autograd.functional.hessian(lambda out: objective.loss(out, targets), outputs.detach())
    return torch.einsum("ncp,ncmd,mdq->pq", jacobian, curvature, jacobian)


@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["recomputed", "retained"])
@pytest.mark.parametrize("name", NETS)
def test_gauss_newton_is_that_of_dense_jacobians(name, memory):
    objective = objective_of(name)
    truth = dense_gauss_newton(objective)
    assert (columns(gauss_newton(objective, memory_bytes=memory)) - truth).abs().max() <= 1e-10 * truth.abs().max()


@pytest.mark.parametrize("name", HOOKS)
def test_forward_hooks_are_part_of_the_network(name):
    objective = objective_of(name)
    for make, dense in ((gauss_newton, dense_gauss_newton), (hessian, dense_hessian)):
        truth = dense(objective)
        assert (columns(make(objective)) - truth).abs().max() <= 1e-10 * truth.abs().max()


CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
LOSSES = [
    nn.MSELoss(),
    nn.BCEWithLogitsLoss(),
    nn.HuberLoss(),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    nn.CrossEntropyLoss(ignore_index=1),
    nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, label_smoothing=0.2),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gauss_newton_knows_the_loss(loss):
    objective = objective_with(loss)
    truth = dense_gauss_newton(objective)
    assert (columns(gauss_newton(objective)) - truth).abs().max() <= 1e-10 * truth.abs().max()


def test_gauss_newton_is_the_hessian_of_a_network_linear_in_theta_and_not_of_another():
    _, inputs, targets = build("tied")
    linear = Objective(nn.Linear(5, 3).double(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    truth = dense_hessian(linear)
    assert (columns(gauss_newton(linear)) - truth).abs().max() <= 1e-10 * truth.abs().max()
    other = objective_of("tied")
    assert (columns(gauss_newton(other)) - dense_hessian(other)).abs().max() > 1e-3


def test_gauss_newton_of_a_convex_loss_has_no_negative_eigenvalue():
    values = torch.linalg.eigvalsh(columns(gauss_newton(objective_of("attention"))))
    assert values.min() >= -1e-12 * values.max()


def test_gauss_newton_takes_any_loss_with_a_stated_reduction():
    def cubed(output, target):
        return (output - target).abs().pow(3).mean()

    net, inputs, targets = build("tied")
    objective = Objective(net, cubed, in_batches(inputs, goals(nn.MSELoss(), targets)), reduction="mean")
    truth = dense_gauss_newton(objective)
    assert (columns(gauss_newton(objective)) - truth).abs().max() <= 1e-10 * truth.abs().max()


def test_a_loss_linear_in_the_output_has_no_gauss_newton_curvature():
    objective = Objective(
        nn.Linear(3, 1).double(), lambda o, t: (o * t).sum(), [(torch.ones(2, 3).double(),) * 2], reduction="sum"
    )
    assert gauss_newton(objective).matvec(objective.theta).count_nonzero() == 0


def test_a_model_that_does_not_use_its_parameters_has_no_curvature():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused, self.used = nn.Linear(2, 2), nn.Linear(5, 3).requires_grad_(False)

        def forward(self, x):
            return self.used(x)

    _, inputs, targets = build("tied")
    objective = Objective(Constant().double(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    for make in (hessian, gauss_newton, fisher):
        assert make(objective).matvec(objective.theta).count_nonzero() == 0


@pytest.mark.parametrize("loss", [*LOSSES[:2], *LOSSES[3:]], ids=repr)
def test_empirical_fisher_is_the_sum_of_the_examples_outer_products(loss):
    objective = objective_with(loss)
    targets = torch.cat([batch[1] for batch in objective.batches])
    outputs, jacobian = outputs_and_jacobian(objective)
    leaf = outputs.detach().requires_grad_()
    summed = type(loss)(reduction="sum", **options(loss))
    scores = torch.autograd.grad(summed(leaf, targets), leaf)[0]
    gradients = torch.einsum("nc,ncp->np", scores, jacobian)
    truth = gradients.T @ gradients / objective.denominator
    assert (columns(fisher(objective, kind="empirical")) - truth).abs().max() <= 1e-10 * truth.abs().max()


@pytest.mark.parametrize("loss", LOSSES[:2], ids=repr)
def test_of_a_mean_over_outputs_empirical_fisher_is_so_many_times_the_mean_of_the_examples_outer_products(loss):
    objective = objective_with(loss)
    gradients = []
    for inputs, targets in objective.batches:
        for x, y in zip(inputs, targets, strict=True):
            own = Objective(objective.model, loss, [(x.unsqueeze(0), y.unsqueeze(0))])
            gradients.append(own.gradient())
    mean = torch.stack([torch.outer(g, g) for g in gradients]).mean(0)
    assert (columns(fisher(objective, kind="empirical")) - 3 * mean).abs().max() <= 1e-10 * mean.abs().max()


def options(loss):
    names = ("weight", "ignore_index", "label_smoothing") if isinstance(loss, nn.CrossEntropyLoss) else ()
    return {name: getattr(loss, name) for name in names}


@pytest.mark.parametrize("loss", [*LOSSES[:2], nn.CrossEntropyLoss(), *LOSSES[3:]], ids=repr)
def test_the_mean_over_drawn_labels_is_the_gauss_newton_matrix(loss):
    """Over 100 seeds, for 5 forms v'Fv: within 4 standard errors, and these are no wider than a sixth of the value."""
    objective = objective_with(loss, "tied")
    truth = columns(gauss_newton(objective))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probes = torch.randn(5, objective.theta.numel(), dtype=torch.float64)
    found = torch.stack([(probes * fisher(objective, seed=s).matvecs(probes)).sum(1) for s in range(100)])
    expected = ((probes @ truth) * probes).sum(1)
    error = found.std(0) / 10
    assert ((found.mean(0) - expected).abs() <= 4 * error).all()
    assert (error <= expected / 6).all()


def test_the_mean_over_drawn_labels_knows_class_probabilities_and_many_labels_an_example():
    torch.manual_seed(0)
    soft = torch.rand(21, 3, 2).double().softmax(1)
    for targets in (soft, torch.randint(0, 3, (21, 2))):
        net = nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (3, 2))).double()
        loss = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, label_smoothing=0.1)
        objective = Objective(net, loss, in_batches(torch.randn(21, 5).double(), targets))
        exact = gauss_newton(objective)
        truth = dense_hessian(objective)  # the network is linear
        assert (columns(exact) - truth).abs().max() <= 1e-10 * truth.abs().max()
        v = torch.randn(objective.theta.numel(), dtype=torch.float64)
        found = torch.stack([v @ fisher(objective, seed=s).matvec(v) for s in range(100)])
        assert abs(found.mean() - v @ exact.matvec(v)) <= 4 * found.std() / 10


@pytest.mark.parametrize("loss", LOSSES[:2] + LOSSES[3:4], ids=repr)
def test_labels_are_drawn_once_by_seed_however_the_data_is_cut(loss):
    objective = objective_with(loss)
    v = torch.randn(objective.theta.numel(), dtype=torch.float64)
    first, other = fisher(objective), fisher(objective, seed=1)
    assert first.matvec(v).equal(first.matvec(v))
    assert not torch.allclose(first.matvec(v), other.matvec(v))
    for micro_batch in (1, 2, 3, 100):
        for memory in (0, 1 << 30):
            again = fisher(objective, micro_batch=micro_batch, memory_bytes=memory)
            torch.testing.assert_close(again.matvec(v), first.matvec(v), rtol=1e-10, atol=1e-12)


def test_settings_say_which_matrix():
    objective = objective_of("tied")
    assert gauss_newton(objective).settings["operator"] == "gauss-newton"
    assert {"operator": "fisher", "kind": "mc", "seed_of_labels": 3}.items() <= fisher(
        objective, seed=3
    ).settings.items()
    assert fisher(objective, kind="empirical").settings["kind"] == "empirical"


def test_batch_norm_in_train_mode_is_allowed_and_labelled():
    operator = gauss_newton(objective_of("conv_net"), batch_norm="train")
    assert operator.settings["batch_norm"] == "train"
    frozen = gauss_newton(objective_of("conv_net"))
    v = torch.ones(operator.size, dtype=torch.float64)
    assert not torch.allclose(operator.matvec(v), frozen.matvec(v), rtol=1e-2)


def test_what_is_not_known_is_refused():
    net, inputs, targets = build("tied")
    batches = in_batches(inputs, targets)
    sums = Objective.from_sums(net, lambda model, b: (model(b[0]).sum(), len(b[1])), batches)
    for make in (gauss_newton, fisher):
        with pytest.raises(ValueError, match=r"need loss\(output, target\), and this objective was made from sums"):
            make(sums)
    own = Objective(net, lambda o, t: nn.CrossEntropyLoss()(o, t), batches, reduction="mean")
    with pytest.raises(ValueError, match="known for CrossEntropyLoss, MSELoss, BCEWithLogitsLoss, got <lambda>"):
        fisher(own)
    with pytest.raises(ValueError, match="got HuberLoss: use the Gauss-Newton matrix"):
        fisher(objective_with(nn.HuberLoss()), kind="empirical")
    with pytest.raises(ValueError, match="weighted BCEWithLogitsLoss is not defined"):
        fisher(objective_with(nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHTS)))
    with pytest.raises(ValueError, match=r"kind must be one of \('mc', 'empirical'\), got 'exact'"):
        fisher(objective_of("tied"), kind="exact")


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_curvlinops_agrees(loss):
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")
    objective = objective_with(loss)
    model, v = objective.model.eval(), torch.randn(objective.theta.numel(), dtype=torch.float64)
    params = list(model.parameters())
    theirs = {
        hessian: curvlinops.HessianLinearOperator,
        gauss_newton: curvlinops.GGNLinearOperator,
        (lambda o: fisher(o, kind="empirical")): curvlinops.EFLinearOperator,
    }
    for make, kind in theirs.items():
        expected = kind(model, loss, params, objective.batches, check_deterministic=False) @ v
        assert (make(objective).matvec(v) - expected).norm() <= 1e-10 * expected.norm()
