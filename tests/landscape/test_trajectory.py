import copy

import numpy as np
import pytest
import torch
from problems import objective_of
from torch import nn

from landscape.directions import along, axis_line, random_plane
from landscape.objective import Objective
from landscape.plane import ParametersDifferError, Plane, layer_mask
from landscape.trajectory import pca_plane, project, project_run


def run_of(objective, count=6, seed=0):
    """A run that ends at the objective: models by epoch, and their parameters (T, P)."""
    torch.manual_seed(seed)
    models = []
    for epoch in range(count):
        model = copy.deepcopy(objective.model)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * (count - 1 - epoch) * torch.randn_like(p))
        models.append((epoch, model))
    return models, torch.stack([Objective(m, objective.loss, objective.batches).theta for _, m in models])


@pytest.mark.parametrize("about", ["centre", "mean"])
def test_pca_is_the_svd_of_the_differences(about):
    objective = objective_of("group_norm_net")
    _, thetas = run_of(objective)
    plane = pca_plane(objective, thetas, about=about)
    rows = thetas.numpy() - (objective.theta.numpy() if about == "centre" else thetas.numpy().mean(0))
    _, singular, right = np.linalg.svd(rows, full_matrices=False)
    for axis, expected in zip(plane.axes.numpy(), right, strict=False):
        assert abs(axis @ expected) == pytest.approx(1.0, abs=1e-10)
    share = singular**2 / (singular**2).sum()
    assert plane.settings["explained_variance"] == pytest.approx(share[:2].tolist(), rel=1e-10)
    assert plane.settings["axis_cosine"] == pytest.approx(0.0, abs=1e-10)


def test_the_intervals_of_pca_hold_the_run_which_begins_at_positive_coordinates():
    objective = objective_of("group_norm_net")
    _, thetas = run_of(objective)
    plane = pca_plane(objective, thetas)
    at, _ = project(plane, thetas)
    assert (at[0] >= 0).all()
    np.testing.assert_allclose(at[-1], 0.0, atol=1e-12)
    for (low, high), column in zip(plane.intervals, at.T, strict=True):
        assert low < column.min() <= column.max() < high


def test_pca_of_some_layers_is_that_of_their_parameters():
    objective = objective_of("group_norm_net")
    _, thetas = run_of(objective)
    keep = layer_mask(objective, ["3"]).numpy()
    plane = pca_plane(objective, thetas, layers=["3"])
    right = np.linalg.svd(thetas.numpy()[:, keep] - objective.theta.numpy()[keep], full_matrices=False)[2]
    assert abs(plane.axes[0].numpy()[keep] @ right[0]) == pytest.approx(1.0, abs=1e-10)
    assert not plane.axes[:, ~torch.from_numpy(keep)].any()


def test_what_has_no_two_principal_directions_is_refused():
    objective = objective_of("group_norm_net")
    with pytest.raises(ValueError, match="PCA needs 3 checkpoints of a run or more, got 2: train with --save-every"):
        pca_plane(objective, objective.theta.repeat(2, 1))
    with pytest.raises(ValueError, match="lie on a line"):
        pca_plane(objective, objective.theta + torch.arange(4.0)[:, None] * torch.ones_like(objective.theta))
    with pytest.raises(ValueError, match="lie on a line"):
        pca_plane(objective, objective.theta.repeat(3, 1))
    with pytest.raises(ValueError, match=r"thetas must have shape \(T, 69\), got \(3, 4\)"):
        pca_plane(objective, torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"one of \('centre', 'mean'\), got 'end'"):
        pca_plane(objective, objective.theta.repeat(3, 1), about="end")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_projection_is_least_squares_in_the_planes_own_axes(dtype):
    objective = objective_of("group_norm_net", dtype=dtype)
    oblique = torch.randn(2, objective.theta.numel(), generator=torch.Generator().manual_seed(1)).to(dtype)
    oblique[1] = 5 * oblique[0] + 0.3 * oblique[1]
    plane = Plane(objective.theta, oblique)
    _, thetas = run_of(objective)
    at, distance = project(plane, thetas)
    differences = thetas.double().numpy() - objective.theta.double().numpy()
    expected = np.linalg.lstsq(oblique.double().numpy().T, differences.T, rcond=None)[0].T
    np.testing.assert_allclose(at, expected, rtol=1e-8, atol=1e-10)
    rest = np.linalg.norm(differences - expected @ oblique.double().numpy(), axis=1)
    np.testing.assert_allclose(distance, rest, rtol=1e-8, atol=1e-10)


def test_a_run_on_a_plane_has_its_own_loss_and_the_planes():
    objective = objective_of("conv_net")  # has BatchNorm
    models, thetas = run_of(objective, 4)
    for epoch, model in models:
        model[1].running_mean.fill_(0.1 * epoch)
    plane = random_plane(objective, seed=2)
    found = project_run(objective, plane, reversed(models))
    assert found.epoch.tolist() == [0, 1, 2, 3]
    for n, (_, model) in enumerate(models):
        own = Objective(model, objective.loss, objective.batches)
        assert found.loss[n] == own.evaluate().loss
        foot = objective.theta + torch.tensor([found.x[n], found.y[n]]) @ plane.axes
        assert found.plane_loss[n] == pytest.approx(objective.evaluate(foot).loss, rel=1e-10)
        assert found.distance[n] == pytest.approx(float((thetas[n] - foot).norm()), rel=1e-10, abs=1e-10)
    total = (thetas - objective.theta).square().sum()
    assert found.explained_variance == pytest.approx(1 - (found.distance**2).sum() / float(total))


def test_a_run_that_lies_on_the_plane_has_no_distance_and_one_loss():
    objective = objective_of("group_norm_net")
    models, thetas = run_of(objective, 3)
    plane = along(objective, thetas[0] - objective.theta, thetas[1] - objective.theta)
    found = project_run(objective, plane, models)
    np.testing.assert_allclose(found.distance, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.loss, found.plane_loss, rtol=1e-12)
    np.testing.assert_allclose(np.stack([found.x, found.y], 1), [[1, 0], [0, 1], [0, 0]], atol=1e-12)
    assert found.explained_variance == pytest.approx(1.0)


def test_a_run_that_cannot_be_projected_is_refused():
    objective = objective_of("group_norm_net")
    plane = random_plane(objective)
    with pytest.raises(
        ParametersDifferError, match=r"the plane and epoch 3 are of different architectures: .* only in"
    ):
        project_run(objective, plane, [(3, nn.Linear(5, 3).double())])
    with pytest.raises(ValueError, match="seen from a plane: this is a line"):
        project_run(objective, axis_line(plane), [(3, objective.model)])
    with pytest.raises(ValueError, match="no checkpoint in this trajectory"):
        project_run(objective, plane, [])
