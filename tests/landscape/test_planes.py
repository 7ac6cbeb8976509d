"""Lines and planes that a problem itself gives: between checkpoints, along eigenvectors, up the gradient, one's own."""

import dataclasses

import numpy as np
import pytest
import torch
from problems import dense_hessian, objective_of, whole_loss
from torch import nn

from landscape.directions import (
    along,
    ascent_plane,
    axis_line,
    eigenvector_plane,
    line_between,
    plane_through,
    random_line,
    random_plane,
)
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import hessian, restricted
from landscape.plane import ParametersDifferError, layer_mask, moved
from landscape.surface import loss_line, loss_surface


def shifted(objective, seed, size=0.5):
    """Another checkpoint of the same network."""
    other = objective_of(objective_name(objective))
    with torch.no_grad():
        torch.manual_seed(seed)
        for p in other.model.parameters():
            p.add_(size * torch.randn_like(p))
    return other


def objective_name(objective):
    return {nn.BatchNorm2d: "conv_net", nn.GroupNorm: "group_norm_net"}[type(objective.model[1])]


@pytest.fixture
def start():
    return objective_of("group_norm_net")


def test_a_line_between_two_checkpoints_has_each_at_its_coordinate(start):
    other = shifted(start, 1)
    line = loss_line(start, line_between(start, other))
    assert line.x[15] == 0.0
    assert line.x[45] == pytest.approx(1.0, abs=1e-15)
    assert line.loss[15] == pytest.approx(start.evaluate().loss, rel=1e-12)
    assert line.loss[45] == pytest.approx(other.evaluate().loss, rel=1e-12)
    assert line.settings["landmarks"] == [
        {"name": "first", "coordinates": [0.0]},
        {"name": "second", "coordinates": [1.0]},
    ]
    end = line.checks["landmarks"][0]
    assert end["loss_on_plane"] == pytest.approx(end["own_loss"], rel=1e-12)


def test_a_plane_through_three_checkpoints_has_each_where_it_says(start):
    others = [shifted(start, seed) for seed in (1, 2)]
    plane = plane_through(start, *others, names=("a", "b", "c"))
    at = {landmark["name"]: torch.tensor(landmark["coordinates"]) for landmark in plane.settings["landmarks"]}
    for name, one in zip("abc", (start, *others), strict=True):
        torch.testing.assert_close(plane.centre + at[name].double() @ plane.axes, one.theta)
    assert plane.settings["axis_cosine"] == pytest.approx(0.0, abs=1e-12)
    assert plane.settings["axis_norms"] == pytest.approx([float((others[0].theta - start.theta).norm())] * 2)
    for axis, (low, high) in enumerate(plane.intervals):
        assert all(low < place[axis] < high for place in at.values())


def test_checkpoints_on_a_line_make_no_plane(start):
    other, third = shifted(start, 1), objective_of("group_norm_net")
    with torch.no_grad():
        for p, a, b in zip(third.model.parameters(), start.model.parameters(), other.model.parameters(), strict=True):
            p.copy_(a + 3 * (b - a))
    with pytest.raises(ValueError, match="first, second, third lie on a line"):
        plane_through(start, other, third)
    with pytest.raises(ValueError, match="lie on a line"):
        plane_through(start, start, third)
    with pytest.raises(ValueError, match="first and second have equal parameters: there is no line between them"):
        line_between(start, start)


def test_two_architectures_are_refused_with_what_differs(start):
    net = nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 3)).double()
    other = Objective(net, nn.CrossEntropyLoss(), start.batches)
    message = (
        r"sgd and sam are of different architectures: 4.weight is only in sam; .*; 3.weight is \(3, 6\) and \(4, 6\)"
    )
    with pytest.raises(ParametersDifferError, match=message):
        line_between(start, other, names=("sgd", "sam"))
    with pytest.raises(ParametersDifferError, match="different architectures"):
        random_plane(start, normalize_by=other)


def test_the_filters_of_another_checkpoint_give_both_the_same_displacement(start):
    other = shifted(start, 1)
    assert random_plane(other, normalize_by=start).axes.equal(random_plane(start).axes)
    assert not random_plane(other).axes.equal(random_plane(start).axes)
    assert random_plane(other, normalize_by=start).settings["normalized_by"] == start.theta_hash


@pytest.mark.parametrize("name", ["batch_norm_net", "conv_net"])  # tanh and GELU: smooth
def test_an_eigenvector_axis_is_the_eigenvector_and_its_curvature_the_eigenvalue(name):
    objective = objective_of(name)
    pairs = top_eigenpairs(hessian(objective), k=2, tolerance=1e-6)
    plane = eigenvector_plane(objective, pairs)
    values, vectors = torch.linalg.eigh(dense_hessian(objective))
    for n in (0, 1):
        assert abs(float(plane.axes[n] @ vectors[:, -1 - n])) == pytest.approx(1.0, abs=1e-6)
        assert plane.settings["eigenvalues"][n] == pytest.approx(float(values[-1 - n]), rel=1e-6)
    assert plane.settings["axis_norms"] == pytest.approx([1.0, 1.0])
    h = 1e-4
    loss = loss_surface(objective, plane, steps=3, extent=h).loss
    assert (loss[2, 1] - 2 * loss[1, 1] + loss[0, 1]) / h**2 == pytest.approx(pairs.values[0], rel=1e-4)
    assert (loss[1, 2] - 2 * loss[1, 1] + loss[1, 0]) / h**2 == pytest.approx(pairs.values[1], rel=1e-4)


def test_eigenvectors_of_some_layers_are_those_of_their_block():
    objective = objective_of("batch_norm_net")
    keep = layer_mask(objective, ["4"])
    pairs = top_eigenpairs(restricted(hessian(objective), keep), k=2, tolerance=1e-6)
    block = dense_hessian(objective)[keep][:, keep]
    np.testing.assert_allclose(pairs.values, torch.linalg.eigvalsh(block).flip(0)[:2], rtol=1e-6)
    axes = eigenvector_plane(objective, pairs, layers=["4"]).axes
    assert not axes[:, ~keep].any()
    for axis, value in zip(axes[:, keep], pairs.values, strict=True):
        torch.testing.assert_close(block @ axis, value * axis, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="move more than the layers"):
        eigenvector_plane(objective, pairs, layers=["0"])


def test_eigenpairs_that_make_no_plane_are_refused(start):
    pairs = top_eigenpairs(hessian(start), k=1)
    with pytest.raises(ValueError, match=r"needs 2 pairs, got 1"):
        eigenvector_plane(start, pairs)
    with pytest.raises(ValueError, match="kept without their vectors"):
        eigenvector_plane(start, dataclasses.replace(pairs, vectors=None))
    with pytest.raises(ValueError, match=r"are of 60 parameters, this model has 69"):
        eigenvector_plane(start, dataclasses.replace(pairs, vectors=np.ones((2, 60)), values=np.ones(2)))


def test_the_first_axis_of_ascent_is_sams_step(start):
    theta = start.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(whole_loss(start)(theta), theta)
    plane = ascent_plane(start, rho=0.05)
    torch.testing.assert_close(plane.axes[0], 0.05 * gradient / gradient.norm())
    assert plane.settings["directions"] == "sam"
    assert plane.settings["axis_norms"] == pytest.approx([0.05, 0.05])
    assert plane.settings["axis_cosine"] == pytest.approx(0.0, abs=1e-12)
    unit = ascent_plane(start)
    torch.testing.assert_close(unit.axes[0], gradient / gradient.norm())
    h = 1e-5
    slope = np.diff(loss_line(start, axis_line(unit), steps=3, extent=h).loss[[0, 2]])[0] / (2 * h)
    assert slope == pytest.approx(unit.settings["gradient_norm"], rel=1e-6)


def test_ascent_of_some_layers_is_along_their_gradient_alone(start):
    keep = layer_mask(start, ["3"])
    axis = ascent_plane(start, rho=0.1, layers=["3"]).axes[0]
    expected = start.gradient()[keep]
    torch.testing.assert_close(axis[keep], 0.1 * expected / expected.norm())
    assert not axis[~keep].any()


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan")])
def test_a_radius_that_is_not_positive_is_refused(start, rho):
    with pytest.raises(ValueError, match="rho must be finite and positive"):
        ascent_plane(start, rho=rho)


def test_where_the_gradient_is_zero_there_is_no_ascent():
    net = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(net.weight)
    with pytest.raises(ValueError, match="gradient has length 0 here"):
        ascent_plane(Objective(net, nn.MSELoss(), [(torch.eye(2), torch.zeros(2, 1))]))


def test_ones_own_directions_are_taken_by_name_or_flat(start):
    own = {"3.weight": torch.ones(3, 6)}
    line = along(start, own)
    named = start.named(line.axes[0])
    assert named["3.weight"].eq(1).all()
    assert line.axes[0].sum() == 18
    plane = along(start, own, torch.arange(start.theta.numel()))
    assert plane.axes[0].equal(line.axes[0])
    assert plane.settings["unit"] == "as given"
    assert plane.settings["axis_norms"][0] == pytest.approx(18**0.5)


def test_directions_that_do_not_fit_are_refused(start):
    with pytest.raises(ValueError, match=r"unknown parameter '3.wieght'; the nearest: 3.weight"):
        along(start, {"3.wieght": torch.ones(3, 6)})
    with pytest.raises(ValueError, match=r"3.weight must have its shape \(3, 6\), got \(6, 3\)"):
        along(start, {"3.weight": torch.ones(6, 3)})
    with pytest.raises(ValueError, match=r"must have shape \(69,\), got \(3,\)"):
        along(start, torch.ones(3))
    with pytest.raises(ValueError, match="two directions are parallel"):
        along(start, {"3.bias": torch.ones(3)}, {"3.bias": -2 * torch.ones(3)})
    with pytest.raises(ValueError, match="a direction is not finite"):
        along(start, {"3.bias": torch.tensor([1.0, torch.nan, 0.0])})
    with pytest.raises(ValueError, match="one direction for a line, two for a plane; got 3"):
        along(start, *[{"3.bias": torch.ones(3)}] * 3)


@pytest.mark.parametrize("layers", [["0"], ["0.*"], ["0.weight"], ["0.wei*", "1"]])
def test_only_the_layers_that_are_named_move(start, layers):
    for axis in random_plane(start, layers=layers).axes:
        moving = {name for name, d in start.named(axis).items() if d.any()}
        assert moving == {"0.weight"}  # all else of 0 and 1 has one dimension
    whole = start.named(random_plane(start).axes[0])["0.weight"]
    assert start.named(random_plane(start, layers=layers).axes[0])["0.weight"].equal(whole)


def test_an_unknown_layer_is_refused_with_the_nearest(start):
    with pytest.raises(ValueError, match=r"fits '0.weigth'; the nearest: 0.weight"):
        random_plane(start, layers=["0.weigth"])
    with pytest.raises(ValueError, match="layers must be a list of names, got the text '0'"):
        random_plane(start, layers="0")


def test_with_some_layers_the_line_leads_past_the_other_checkpoint(start):
    other = shifted(start, 1)
    plane = line_between(start, other, layers=["3"])
    keep = layer_mask(start, ["3"])
    torch.testing.assert_close(plane.axes[0], torch.where(keep, other.theta - start.theta, 0.0))
    assert plane.settings["landmarks"] == [{"name": "first", "coordinates": [0.0]}]
    assert not plane.landmarks


def test_a_line_is_one_axis_of_its_plane(start):
    plane = random_plane(start, seed=3)
    assert random_line(start, seed=3).axes.equal(plane.axes[:1])
    second = axis_line(plane, 1)
    assert second.axes.equal(plane.axes[1:])
    assert second.settings["axis_norms"] == plane.settings["axis_norms"][1:]
    assert "axis_cosine" not in second.settings
    one, whole = loss_line(start, second, steps=5), loss_surface(start, plane, steps=5)
    np.testing.assert_array_equal(one.loss, whole.loss[2])


def test_moved_axes_are_the_same_displacement(start):
    other = shifted(start, 1)
    plane = moved(line_between(start, other), other)
    assert plane.axes.equal(other.theta[None] - start.theta[None])
    assert plane.centre.equal(other.theta)
    assert "landmarks" not in plane.settings
    with pytest.raises(ValueError, match=r"plane is of 69 parameters, this model has"):
        moved(plane, objective_of("tied"))


def test_norm_ratios_are_one_for_filters_that_have_the_weights_own_norm(start):
    for ratios in random_plane(start).settings["norm_ratios"]:
        assert set(ratios) == {"0.weight", "3.weight"}
        assert [value for pair in ratios.values() for value in pair] == pytest.approx([1.0] * 4)
    own = along(start, {"3.weight": torch.diag(torch.arange(3.0)) @ start.model[3].weight.detach().float()})
    assert own.settings["norm_ratios"][0]["3.weight"] == pytest.approx([0.0, 2.0], abs=1e-6)
