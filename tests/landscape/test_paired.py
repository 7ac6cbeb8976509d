import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import build, in_batches, objective_of
from torch import nn

import landscape as ls
from landscape.export import export_csv, to_xarray
from landscape.readings import ring_rise
from landscape.results import ExampleLosses, ResultsError
from landscape.tables import tables


def two_surfaces(name="tied", loss=None, paired=13, **options):
    """Surfaces of a network and of the same a little moved, on the same data."""
    objective = objective_of(name)
    other = copy.deepcopy(objective.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn_like(p))
    objectives = [ls.Objective(m, loss or nn.CrossEntropyLoss(), objective.batches) for m in (objective.model, other)]
    surfaces = [ls.loss_surface(o, ls.random_plane(o), steps=5, paired=paired, **options) for o in objectives]
    for label, surface in zip(("first", "second"), surfaces, strict=True):
        surface.checkpoint["label"] = label
    return objectives, surfaces


def plain_losses(objective, weights):
    """The loss of each example by hand."""
    model = copy.deepcopy(objective.model).eval()
    with torch.no_grad():
        for p, value in zip(model.parameters(), objective.named(weights).values(), strict=True):
            p.copy_(value)
        return torch.cat(
            [nn.functional.cross_entropy(model(x), y, reduction="none") for x, y in objective.batches]
        ).numpy()


def test_the_losses_that_are_kept_are_those_of_the_examples():
    (objective, _), (surface, _) = two_surfaces(paired=21)
    plane = ls.random_plane(objective)
    moved = plane.centre + surface.x[1] * plane.axes[0] + surface.y[4] * plane.axes[1]
    np.testing.assert_allclose(surface.examples.loss[1, 4], plain_losses(objective, moved), rtol=1e-12)
    np.testing.assert_allclose(surface.examples.loss.mean(-1), surface.loss, rtol=1e-12)
    assert surface.examples.denominator.tolist() == [1.0] * 21


def test_the_kept_losses_are_the_same_bits_for_data_that_is_read_anew():
    net, inputs, targets = build("tied")

    class Loader:
        def __iter__(self):
            return iter(in_batches(inputs, targets))

    found = []
    for batches in (in_batches(inputs, targets), Loader()):
        objective = ls.Objective(net, nn.CrossEntropyLoss(), batches)
        found.append(ls.loss_surface(objective, ls.random_plane(objective), steps=3, paired=7).examples.loss)
    np.testing.assert_array_equal(found[0], found[1])


def test_a_difference_is_that_of_the_means_with_the_error_of_the_differences():
    objectives, (first, second) = two_surfaces(paired=21)
    found = ls.paired_difference(second, first)
    np.testing.assert_allclose(found.value, second.loss - first.loss, rtol=1e-9, atol=1e-15)
    each = [plain_losses(o, o.theta) for o in objectives]
    by_hand = np.std(each[1] - each[0], ddof=1) / np.sqrt(21)
    assert found.standard_error[2, 2] == pytest.approx(by_hand, rel=1e-9)
    apart = np.hypot(first.standard_error, second.standard_error)
    assert found.standard_error[2, 2] < 0.5 * apart[2, 2]  # what pairing is for
    assert found.num_examples == 21


def test_a_rise_is_that_of_the_rings():
    _, (first, second) = two_surfaces(paired=21)
    for fraction in (0.5, 0.75, 1.0):
        found = ls.paired_rise(second, first, fraction)
        assert float(found.value) == pytest.approx(ring_rise(second, fraction) - ring_rise(first, fraction), rel=1e-9)
        assert 0 < found.standard_error < np.inf


def test_class_weights_and_ignored_targets_weigh_as_in_the_mean():
    net, inputs, targets = build("tied")
    targets = targets.clone()
    targets[3] = -100
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64))
    objective = ls.Objective(net, loss, in_batches(inputs, targets))
    other = ls.Objective(nn.Sequential(copy.deepcopy(net), nn.Linear(3, 3).double()), loss, objective.batches)
    first = ls.loss_surface(objective, ls.random_plane(objective), steps=3, paired=21)
    second = ls.loss_surface(other, ls.random_plane(other), steps=3, paired=21)
    found = ls.paired_difference(second, first)
    np.testing.assert_allclose(found.value, second.loss - first.loss, rtol=1e-9)


def test_the_standard_error_is_that_of_repeated_draws():
    draws = np.random.default_rng(0)
    denominator = np.ones(64)
    values, errors = [], []
    for _ in range(400):
        a = draws.normal(size=(1, 1, 64))
        surfaces = [bare(a + 0.3 + 0.1 * draws.normal(size=a.shape), denominator), bare(a, denominator)]
        found = ls.paired_difference(*surfaces)
        values.append(float(found.value[0, 0]))
        errors.append(float(found.standard_error[0, 0]))
    assert np.mean(values) == pytest.approx(0.3, abs=4 * 0.1 / 8 / 20)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.15)


def bare(loss, denominator, **settings):
    mean = loss.mean(-1)
    return ls.Surface(
        x=np.zeros(1),
        y=np.zeros(1),
        loss=mean,
        standard_error=mean,
        accuracy=mean,
        status=np.ones(mean.shape, np.uint8),
        examples=ExampleLosses(loss=loss, denominator=denominator),
        settings={"paired_hash": "one", **settings},
    )


def test_a_loss_that_is_not_finite_makes_the_difference_unknown():
    loss = np.ones((1, 1, 4))
    loss[0, 0, 2] = np.inf
    found = ls.paired_difference(bare(loss, np.ones(4)), bare(np.ones((1, 1, 4)), np.ones(4)))
    assert found.value[0, 0] == np.inf
    assert np.isnan(found.standard_error[0, 0])


def test_lines_are_compared_too():
    objectives, _ = two_surfaces()
    lines = [ls.loss_line(one, ls.random_line(one), steps=5, paired=9) for one in objectives]
    found = ls.paired_difference(*lines)
    assert found.value.shape == (5,)
    assert (found.standard_error > 0).all()


def test_what_does_not_compare_is_refused():
    _, (first, second) = two_surfaces()
    bare_one = replace(first, examples=None)
    with pytest.raises(ValueError, match=r"were not kept: measure both with paired=1024 \(--paired 1024\)"):
        ls.paired_difference(bare_one, second)
    with pytest.raises(ValueError, match="measured on different examples"):
        ls.paired_difference(replace(first, settings={**first.settings, "paired_hash": "another"}), second)
    for name, value in (("seed", 99), ("normalization", "none"), ("batch_norm", "train")):
        other = replace(first, settings={**first.settings, name: value})
        with pytest.raises(ValueError, match=rf"on planes of different kinds \({name}\): measure both alike"):
            ls.paired_difference(other, second)
        assert len(tables([other, second])) < 3
    with pytest.raises(ValueError, match="have different grids: measure both with equal steps and extent"):
        ls.paired_rise(replace(first, x=2 * first.x), second, 1.0)


@pytest.mark.parametrize(
    ("paired", "message"),
    [(1, r"paired must be 0, or in 2\.\.1024 examples, got 1"), (1025, "got 1025"), (22, "the data has 21 examples")],
)
def test_a_number_of_examples_that_cannot_be_kept_is_refused(paired, message):
    with pytest.raises(ValueError, match=message):
        two_surfaces(paired=paired)


def test_a_loss_that_hides_its_examples_is_refused():
    net, inputs, targets = build("tied")
    objective = ls.Objective(
        net, lambda o, t: nn.functional.cross_entropy(o, t), in_batches(inputs, targets), reduction="mean"
    )
    with pytest.raises(ValueError, match="paired needs the loss of each example"):
        ls.loss_surface(objective, ls.random_plane(objective), steps=3, paired=5)


def test_examples_are_the_same_for_equal_data_and_others_for_other_data():
    _, (first, second) = two_surfaces()
    assert first.settings["paired_hash"] == second.settings["paired_hash"]
    net, inputs, targets = build("tied")
    objective = ls.Objective(net, nn.CrossEntropyLoss(), in_batches(inputs + 1, targets))
    third = ls.loss_surface(objective, ls.random_plane(objective), steps=3, paired=13)
    assert third.settings["paired_hash"] != first.settings["paired_hash"]


def test_the_table_says_what_differs_with_its_error():
    _, surfaces = two_surfaces()
    made = tables(surfaces)
    assert [len(table.rows) for table in made] == [2, 1]
    assert "Differences to first, 13 of the 21 examples" in made[1].text()
    record = made[1].records[0]
    found = ls.paired_difference(surfaces[1], surfaces[0])
    assert record["loss"] == found.value[2, 2]
    assert record["loss_standard_error"] == found.standard_error[2, 2]
    assert len(tables([surfaces[0], replace(surfaces[1], examples=None)])) == 1


# Metrics


def top2(output, target):
    return output.topk(2, dim=1).indices.eq(target[:, None]).any(1)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_metric_of_ones_own_is_measured_at_every_point_with_its_error(steps):
    net, inputs, targets = build("tied")
    objective = ls.Objective(
        net, nn.CrossEntropyLoss(), in_batches(inputs, targets), metrics={"top2": top2, "one": one}
    )
    plane = ls.random_plane(objective)
    surface = ls.loss_surface(objective, plane, steps=steps)
    moved = plane.centre + surface.x[0] * plane.axes[0] + surface.y[-1] * plane.axes[1]
    model = copy.deepcopy(net).eval()
    with torch.no_grad():
        for p, value in zip(model.parameters(), objective.named(moved).values(), strict=True):
            p.copy_(value)
        each = torch.cat([top2(model(x), y) for x, y in objective.batches]).double().numpy()
    metric = surface.metrics["top2"]
    assert metric.mean[0, -1] == pytest.approx(each.mean(), rel=1e-12)
    assert metric.standard_error[0, -1] == pytest.approx(each.std(ddof=1) / np.sqrt(21), rel=1e-9)
    assert (surface.metrics["one"].mean == 1).all()
    assert (surface.metrics["one"].standard_error == 0).all()
    assert objective.evaluate().loss == pytest.approx(surface.checks["centre_loss"])


def one(output, target):
    del output
    return torch.ones(len(target))


def test_metrics_and_kept_losses_survive_the_file_and_reach_other_programs(tmp_path):
    net, inputs, targets = build("tied")
    objective = ls.Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets), metrics={"top2": top2})
    surface = ls.loss_surface(objective, ls.random_plane(objective), steps=3, paired=5)
    line = ls.loss_line(objective, ls.random_line(objective), steps=3, paired=5)
    ls.save([surface, line], tmp_path / "all.npz")
    for before, after in zip((surface, line), ls.load(tmp_path / "all.npz"), strict=True):
        np.testing.assert_array_equal(before.metrics["top2"].mean, after.metrics["top2"].mean)
        np.testing.assert_array_equal(before.metrics["top2"].standard_error, after.metrics["top2"].standard_error)
        np.testing.assert_array_equal(before.examples.loss, after.examples.loss)
        np.testing.assert_array_equal(before.examples.denominator, after.examples.denominator)
    for result in (surface, line):
        content, _ = export_csv([result], tmp_path / "x").values()
        assert "metrics.top2.mean,metrics.top2.standard_error" in content.decode().splitlines()[0]
        assert len(content.decode().splitlines()) == 1 + result.loss.size
    assert to_xarray(surface)["metrics.top2.mean"].shape == (3, 3)
    (first, *_) = tables([surface])
    assert first.records[0]["top2"] == surface.metrics["top2"].mean[1, 1]


def test_a_damaged_part_is_refused(tmp_path):
    _, (surface, _) = two_surfaces()
    wrong = ExampleLosses(loss=surface.examples.loss[:, :, :4], denominator=surface.examples.denominator)
    ls.save(replace(surface, examples=wrong), tmp_path / "wrong.npz")
    with pytest.raises(ResultsError, match="the losses of its examples are of a wrong shape"):
        ls.load(tmp_path / "wrong.npz")


def test_a_metric_that_is_none_is_refused():
    net, inputs, targets = build("tied")
    batches = in_batches(inputs, targets)
    with pytest.raises(ValueError, match="a metric's name is made of letters, digits and _, got 'top 2'"):
        ls.Objective(net, nn.CrossEntropyLoss(), batches, metrics={"top 2": top2})
    mean = {"mean": lambda output, target: top2(output, target).double().mean()}
    with pytest.raises(ValueError, match=r"metric mean must return one value for each of the 8 examples, got \(\)"):
        ls.Objective(net, nn.CrossEntropyLoss(), batches, metrics=mean).evaluate()
