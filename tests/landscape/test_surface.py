import dataclasses

import numpy as np
import pytest
import torch
from problems import NETS, build, objective_of
from torch import nn

from landscape.directions import Plane, axis_line, line_between, random_plane
from landscape.evaluator import Engine
from landscape.objective import Objective
from landscape.operators import hessian
from landscape.results import NAN, NEGATIVE_INFINITY, OK, POSITIVE_INFINITY
from landscape.surface import StatisticsWarning, grid, loss_line, loss_surface, measure, plan_surface


def quadratic():
    """loss(w) = mean over examples of (w x)^2 / elements, known in closed form."""
    net = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    data = [(torch.diag(torch.tensor([3.0, 1.0])).double(), torch.zeros(2, 1).double())]
    objective = Objective(net, nn.MSELoss(), data)
    return objective, Plane(objective.theta, torch.eye(2).double(), {"directions": "given"})


def test_loss_i_j_is_at_x_i_along_axis0_and_y_j_along_axis1():
    surface = loss_surface(*quadratic(), steps=5, extent=2.0)
    a, b = np.meshgrid(surface.x, surface.y, indexing="ij")
    np.testing.assert_allclose(surface.loss, (9 * a**2 + b**2) / 2, rtol=1e-14)


def test_swapping_the_axes_transposes():
    objective, plane = quadratic()
    swapped = Plane(plane.centre, plane.axes.flip(0))
    one, other = loss_surface(objective, plane, steps=5), loss_surface(objective, swapped, steps=5)
    np.testing.assert_array_equal(one.loss, other.loss.T)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_centre_is_the_loss_of_the_untouched_model(name, dtype):
    objective = objective_of(name, dtype=dtype)
    surface = loss_surface(objective, random_plane(objective), steps=3)
    objective.model.eval()
    inputs, targets = (torch.cat([b[i] for b in objective.batches]) for i in (0, 1))
    expected = nn.functional.cross_entropy(objective.model(inputs), targets).item()
    assert surface.loss[1, 1] == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 1e-12)
    assert surface.checks["centre_ok"] is True
    assert surface.checks["centre_loss"] == surface.loss[1, 1]


def test_a_plane_around_another_centre_fails_the_centre_check():
    objective, plane = quadratic()
    surface = loss_surface(objective, Plane(plane.centre + 1, plane.axes), steps=3)
    assert surface.checks["centre_ok"] is False


def confident_net(largest):
    """Convolutions with BatchNorm and a head whose largest output is that, all but four of its 256 labels right."""
    layers = [(nn.Conv2d(c, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for c in (3, 16, 16, 16)]
    net = nn.Sequential(*[m for layer in layers for m in layer], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs, head = torch.randn(256, 3, 8, 8), nn.Linear(16, 10)
    with torch.no_grad():
        net(inputs)
        features = net.eval()(inputs)
        head.weight.normal_()
        head.bias.copy_(-features.mean(0) @ head.weight.T)
        scale = largest / head(features).abs().max()
        head.weight *= scale
        head.bias *= scale
        targets = head(features).argmax(1)
    targets[:4] = (targets[:4] + 1) % 10
    return nn.Sequential(*net, head), inputs, targets


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("largest", [54.0, 200.0])
def test_the_centre_check_allows_what_rounding_of_large_outputs_does_to_a_small_loss(seed, largest):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, inputs, targets = confident_net(largest)
    objective = Objective(net, nn.CrossEntropyLoss(), [(inputs, targets)])
    surface = loss_surface(objective, random_plane(objective), steps=1)
    assert surface.checks["centre_ok"]
    assert surface.checks["rounding"] < 1e-5  # and no more than that
    plane = random_plane(objective)
    off = loss_surface(objective, Plane(plane.centre + 1e-3 * plane.axes[0], plane.axes), steps=1)
    assert off.checks["centre_ok"] is False


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss(), lambda o, t: nn.functional.cross_entropy(o, t)])
def test_the_rounding_of_the_reference_is_the_first_order_effect_of_rounding_its_outputs(loss):
    net, inputs, targets = build("tied")
    targets = torch.randn(21, 3).double() if isinstance(loss, nn.MSELoss) else targets
    named = isinstance(loss, nn.Module)
    objective = Objective(net, loss, [(inputs, targets)], reduction=None if named else "mean")
    outputs = net(inputs).detach()
    nudged = [outputs.clone() for _ in range(outputs.numel())]
    for at, one in enumerate(nudged):
        one.view(-1)[at] *= 1 + 1e-6
    centre = loss(outputs, targets)
    moved = sum(float((loss(one, targets) - centre).abs()) for one in nudged) / 1e-6
    expected = torch.finfo(torch.float64).eps * moved / float(centre) if named else 0.0
    assert objective.reference().rounding == pytest.approx(expected, rel=1e-4)


def test_masked_outputs_have_no_part_in_the_rounding():
    class Masked(nn.Linear):
        def forward(self, x):
            return super().forward(x).masked_fill(torch.tensor([False, False, True]), -torch.inf)

    net, (_, inputs, targets) = Masked(5, 3).double(), build("tied")
    plain = Objective(net, nn.CrossEntropyLoss(), [(inputs, targets % 2)])
    assert 0 < plain.reference().rounding < 1e-14


def test_a_plane_of_another_network_is_refused_with_both_sizes():
    objective, plane = quadratic()
    other = objective_of("tied")
    sizes = rf"the plane is of {other.theta.numel()} parameters, this model has 2: make it from this one"
    with pytest.raises(ValueError, match=sizes):
        loss_surface(objective, random_plane(other), steps=3)
    with pytest.raises(ValueError, match=sizes):
        loss_line(objective, axis_line(random_plane(other)), steps=3)
    plan = plan_surface(objective, plane, steps=3)
    with pytest.raises(ValueError, match=sizes):
        measure(objective, random_plane(other), plan)
    with pytest.raises(ValueError, match=r"the plane is torch.float32 on cpu, the model torch.float64 on cpu"):
        loss_surface(objective, Plane(plane.centre.float(), plane.axes.float()), steps=3)


def test_every_point_is_computed_from_the_centre():
    """The same cell of a coarse and a fine grid is the same number, bit for bit: nothing walks."""
    objective = objective_of("conv_net", dtype=torch.float32)
    plane = random_plane(objective)
    coarse, fine = (loss_surface(objective, plane, steps=n, extent=0.5) for n in (3, 9))
    np.testing.assert_array_equal(coarse.loss, fine.loss[::4, ::4])


def test_the_batch_size_does_not_change_the_surface():
    plane = random_plane(objective_of("conv_net"))
    one, other = (loss_surface(objective_of("conv_net", sizes=s), plane, steps=3) for s in ((8, 8, 5), (20, 1)))
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-12)
    np.testing.assert_allclose(one.standard_error, other.standard_error, rtol=1e-9)


def test_the_same_settings_give_the_same_bits():
    one, other = (loss_surface(o, random_plane(o, seed=1), steps=3) for o in (objective_of("conv_net"),) * 2)
    assert one.loss.tobytes() == other.loss.tobytes()
    assert one.settings == other.settings


def test_values_that_are_not_finite_stay_with_a_status():
    class Cliff(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2, 1).double())

        def forward(self, x):
            a, b = self.w[:, 0]
            hole = torch.where(a < 0, torch.nan, torch.where(b > 0, torch.inf, torch.where(b < 0, -torch.inf, a)))
            return hole.expand(len(x), 1) + 0 * x

    def loss(output, target):
        return (output - target).mean()

    data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    objective = Objective(Cliff(), loss, data, reduction="mean")
    surface = loss_surface(objective, Plane(objective.theta, torch.eye(2).double()), steps=3)
    assert surface.status.tolist() == [[NAN] * 3] + [[NEGATIVE_INFINITY, OK, POSITIVE_INFINITY]] * 2
    assert np.isnan(surface.loss[0]).all()
    assert surface.loss[1].tolist() == [-np.inf, 0.0, np.inf]
    assert surface.num_nonfinite == surface.checks["num_nonfinite"] == 7


def test_the_central_second_difference_is_the_curvature_along_the_axis():
    objective = objective_of("batch_norm_net")  # tanh: smooth
    plane = random_plane(objective)
    h = 1e-4
    loss = loss_surface(objective, plane, steps=3, extent=h).loss
    v = plane.axes[0]
    curvature = float(v @ hessian(objective).matvec(v))
    assert (loss[2, 1] - 2 * loss[1, 1] + loss[0, 1]) / h**2 == pytest.approx(curvature, rel=1e-4)


@pytest.mark.parametrize(("steps", "hint"), [(0, 51), (-3, 51), (50, 51), (2, 3)])
def test_a_grid_without_a_centre_is_refused(steps, hint):
    with pytest.raises(ValueError, match=f"steps must be odd and positive.*got {steps}, try {hint}"):
        grid(steps, 1.0)


@pytest.mark.parametrize("extent", [0.0, -1.0, float("nan"), float("inf")])
def test_an_extent_that_is_not_positive_and_finite_is_refused(extent):
    with pytest.raises(ValueError, match="extent must be finite and positive"):
        grid(3, extent)


def test_an_extent_beyond_the_dtype_is_refused():
    objective = objective_of("tied", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"extent must be within the range of torch.float32"):
        loss_surface(objective, random_plane(objective), steps=3, extent=1e39)


@pytest.mark.parametrize("steps", [1, 3, 21, 51, 201])
def test_the_grid_is_symmetric_with_an_exact_zero(steps):
    x = grid(steps, 0.7)
    assert x[steps // 2] == 0.0
    np.testing.assert_array_equal(x, -x[::-1])
    if steps > 1:
        np.testing.assert_allclose(x, np.linspace(-0.7, 0.7, steps), atol=1e-15)


def test_progress_counts_to_the_end():
    seen = []
    objective, plane = quadratic()
    loss_surface(objective, plane, steps=3, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9, 9)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_dropout_layer_is_off():
    net, _, _ = build("batch_norm_net")
    assert any(isinstance(m, nn.Dropout) for m in net.modules())
    objective = objective_of("batch_norm_net")
    objective.model.train()
    plane = random_plane(objective)
    np.testing.assert_array_equal(
        loss_surface(objective, plane, steps=3).loss, loss_surface(objective, plane, steps=3).loss
    )


def test_a_line_is_a_row_of_numbers_known_in_closed_form():
    objective, plane = quadratic()
    line = loss_line(objective, axis_line(plane), steps=5, extent=2.0)
    np.testing.assert_allclose(line.loss, 9 * line.x**2 / 2, rtol=1e-14)
    assert line.settings["extent"] == 2.0
    assert line.checks["centre_ok"] is True


def test_an_interval_may_be_any_and_its_zero_is_exact():
    objective, plane = quadratic()
    surface = loss_surface(objective, plane, steps=21, interval=(-0.5, 1.5))
    np.testing.assert_allclose(surface.x, np.linspace(-0.5, 1.5, 21), atol=1e-15)
    assert surface.x[5] == 0.0
    assert surface.settings["intervals"] == [[-0.5, 1.5]] * 2
    assert surface.checks["centre_loss"] == surface.loss[5, 5] == 0.0


def test_a_centre_off_the_grid_is_evaluated_apart():
    objective = objective_of("conv_net")
    plane = random_plane(objective)
    surface = loss_surface(objective, plane, steps=4, interval=(-0.5, 1.5))
    assert 0.0 not in surface.x
    assert surface.checks["centre_loss"] == pytest.approx(objective.evaluate().loss, rel=1e-12)
    assert surface.checks["centre_ok"] is True
    elsewhere = loss_surface(objective, Plane(plane.centre + 1, plane.axes), steps=4, interval=(-0.5, 1.5))
    assert elsewhere.checks["centre_ok"] is False


def test_each_axis_may_have_an_interval_of_its_own():
    objective, plane = quadratic()
    plane = dataclasses.replace(plane, intervals=[(-1.0, 1.0), (0.0, 4.0)])
    surface = loss_surface(objective, plane, steps=3)
    assert (surface.x.tolist(), surface.y.tolist()) == ([-1.0, 0.0, 1.0], [0.0, 2.0, 4.0])
    a, b = np.meshgrid(surface.x, surface.y, indexing="ij")
    np.testing.assert_allclose(surface.loss, (9 * a**2 + b**2) / 2, rtol=1e-14)


def test_what_is_no_interval_is_refused():
    objective, plane = quadratic()
    for interval in ((1.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="from a lower to a higher finite number"):
            loss_surface(objective, plane, steps=3, interval=interval)
    with pytest.raises(ValueError, match="an extent or an interval, not both"):
        loss_surface(objective, plane, steps=3, extent=1.0, interval=(0.0, 1.0))
    for steps, interval, least in ((1, (0.0, 1.0), 2), (0, (0.0, 1.0), 2), (0, (-1.0, 1.0), 1), (-4, (-1.0, 1.0), 1)):
        with pytest.raises(ValueError, match=f"steps must be at least {least} for an interval, got {steps}"):
            loss_surface(objective, plane, steps=steps, interval=interval)


def test_a_line_is_no_surface_and_a_plane_no_line():
    objective, plane = quadratic()
    with pytest.raises(ValueError, match="loss_surface needs a plane, got a line"):
        loss_surface(objective, axis_line(plane), steps=3)
    with pytest.raises(ValueError, match="loss_line needs a line, got a plane"):
        loss_line(objective, plane, steps=3)


def test_between_checkpoints_with_batch_norm_the_difference_at_the_end_is_told_and_recalibration_mends_it():
    start, other = objective_of("conv_net"), objective_of("conv_net")
    data = torch.cat([batch[0] for batch in start.batches])
    for seed, one in ((1, start), (2, other)):
        torch.manual_seed(seed)
        with torch.no_grad():
            one.model[0].weight.add_(torch.randn_like(one.model[0].weight))
        one.model[1].momentum = None
        one.model[1].reset_running_stats()
        one.model.train()(data)
        one.model.eval()
    between = line_between(start, other)
    with pytest.warns(
        StatisticsWarning, match=r"at second the loss is .*its own .*--batch-norm recalibrated mends this"
    ):
        frozen = loss_line(start, between).checks["landmarks"][0]
    assert frozen["own_loss"] == pytest.approx(other.evaluate().loss)
    assert abs(frozen["loss_on_plane"] - frozen["own_loss"]) > 0.01
    whole = objective_of("conv_net", sizes=(21,))  # running_var of one batch is unbiased, that of three is their mean
    start = dataclasses.replace(start, batches=whole.batches)
    mended = loss_line(start, between, engine=Engine(batch_norm="recalibrated")).checks["landmarks"][0]
    assert mended["loss_on_plane"] == pytest.approx(mended["own_loss"], rel=1e-9)
