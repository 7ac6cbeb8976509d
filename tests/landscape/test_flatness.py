import math
from dataclasses import replace

import numpy as np
import pytest

from landscape.flatness import flatness, mean_and_spread
from landscape.grid import coarse_grids
from landscape.readings import barrier, crossing, ring_rise, rise_distance
from landscape.results import Line, Surface, status_of
from landscape.surface_tables import flatness_table
from landscape.tables import tables


def bowl(a, b, *, steps=21, seed=0, key="h", label="one", height=0.5):
    """height + a x^2 + b y^2 on [-1, 1]."""
    x = np.linspace(-1, 1, steps)
    loss = height + a * x[:, None] ** 2 + b * x[None, :] ** 2
    return Surface(
        x=x,
        y=x,
        loss=loss,
        standard_error=loss * 0,
        accuracy=loss * math.nan,
        status=status_of(loss),
        checkpoint={"hash": key, "label": label},
        settings={"seed": seed, "directions": "random", "unit": "filter-normalized", "extent": 1.0},
        checks={"centre_ok": True},
    )


def test_measures_of_a_bowl_are_those_of_its_formula():
    found = flatness([bowl(2.0, 4.0), bowl(3.0, 3.0, seed=1)])
    assert found.loss == 0.5
    np.testing.assert_allclose(found.curvature, [6.0, 6.0], rtol=1e-10)  # mean of 2a and 2b
    expected = [np.mean([math.sqrt(1 / 2), math.sqrt(1 / 4)]), math.sqrt(1 / 3)]
    np.testing.assert_allclose(found.radius_large, expected, rtol=1e-12)
    np.testing.assert_allclose(found.radius_small[1], math.sqrt(0.1 / 3), rtol=1e-12)
    assert found.rise_edge[1] > found.rise_half[1] > 0


def test_the_rise_on_a_ring_is_its_mean_above_the_centre():
    one = bowl(2.0, 4.0, steps=5)  # x in -1, -1/2, 0, 1/2, 1
    edge = [one.loss[i, j] for i in range(5) for j in range(5) if max(abs(i - 2), abs(j - 2)) == 2]
    inner = [one.loss[i, j] for i in range(5) for j in range(5) if max(abs(i - 2), abs(j - 2)) == 1]
    assert ring_rise(one, 1.0) == pytest.approx(np.mean(edge) - 0.5, rel=1e-14)
    assert ring_rise(one, 0.5) == pytest.approx(np.mean(inner) - 0.5, rel=1e-14)
    assert ring_rise(one, 0.75) == pytest.approx((np.mean(inner) + np.mean(edge)) / 2 - 0.5, rel=1e-14)
    assert math.isnan(ring_rise(bowl(1.0, 1.0, steps=1), 1.0))
    assert math.isnan(ring_rise(bowl(1.0, 1.0, steps=3), 0.5))


@pytest.mark.parametrize("steps", [3, 5, 11, 41])
def test_the_radius_of_a_bowl_does_not_depend_on_the_grid(steps):
    one = bowl(9.0, 16.0, steps=steps)
    assert rise_distance(one, 0.1) == pytest.approx(math.sqrt(0.1 / 9), rel=1e-12)
    expected = math.sqrt(0.1) * (1 / 3 + 1 / 4) / 2
    assert flatness([one]).radius_small[0] == pytest.approx(expected, rel=1e-12)


def test_where_the_loss_has_dipped_below_the_centre_it_is_linear_between_the_points():
    at = np.array([0.0, 1.0, 2.0])
    assert crossing(at, np.array([0.5, 0.25, 1.25]), 0.75) == pytest.approx(1.5, rel=1e-14)
    assert math.isnan(crossing(at, np.array([1e300, 1e300, 2e300]), 1e300 + 0.1))  # the rise is lost in rounding


@pytest.mark.parametrize("ends", [(-1.0, 0.0), (0.0, 1.0)])
def test_at_the_edge_of_its_grid_a_checkpoint_has_no_curvature_and_no_radius(ends):
    at = np.linspace(*ends, 5)
    for x, y in ((at, np.linspace(-1, 1, 5)), (np.linspace(-1, 1, 5), at), (at, at)):
        loss = 0.5 + 2 * x[:, None] ** 2 + 4 * y**2
        mine = [replace(bowl(2.0, 4.0, steps=5, seed=seed), x=x, y=y, loss=loss) for seed in (0, 1)]
        assert np.isnan(flatness(mine).curvature).all()
        assert np.isnan(flatness(mine).radius_small).all()
        assert "nan" in flatness_table(mine).rows[0][2]


def test_a_radius_below_one_step_of_the_grid_is_said_to_be_one():
    def notes(steps):
        return " ".join(flatness_table([bowl(2.0, 2.0, steps=steps, seed=seed) for seed in (0, 1)]).notes)

    assert "radius +0.1 and +1 are below one step of the grid (1.00)" in notes(3)
    assert "radius +0.1 is below one step of the grid (0.500)" in notes(5)
    assert "below one step" not in notes(21)


def test_an_axis_that_never_rises_makes_the_radius_infinite():
    found = flatness([bowl(2.0, 0.0)])
    assert found.radius_small[0] == math.inf
    mean, spread = mean_and_spread(np.array([0.5, math.inf]))
    assert mean == math.inf
    assert math.isnan(spread)


def test_a_cell_that_is_not_finite_is_not_passed_over():
    one = bowl(2.0, 2.0)
    one.loss[12, 10] = math.nan
    one.status[12, 10] = 2
    found = flatness([one])
    assert math.isnan(found.radius_small[0])
    assert math.isfinite(found.curvature[0])
    one.loss[11, 10] = math.nan
    one.status[11, 10] = 2
    assert math.isnan(flatness([one]).curvature[0])


def test_the_mean_and_spread_are_over_planes():
    assert mean_and_spread(np.array([1.0, 3.0])) == (2.0, pytest.approx(math.sqrt(2.0)))
    assert math.isnan(mean_and_spread(np.array([1.0]))[1])


def test_several_planes_of_a_checkpoint_are_one_row_with_their_spread():
    results = [bowl(a, a, seed=seed, key=key, label=key) for key in ("sgd", "sam") for seed, a in ((0, 2.0), (1, 4.0))]
    (table,) = tables(results)
    assert [row[0] for row in table.rows] == ["sgd", "sam"]
    assert table.records[0]["num_planes"] == 2
    assert table.records[0]["curvature"] == pytest.approx(6.0)
    assert table.records[0]["curvature_standard_deviation"] == pytest.approx(math.sqrt(8.0))
    assert "Flatness on 2 random planes, filter-normalized, extent 1.0" in table.text()
    assert "inf" in flatness_table([bowl(1.0, 0.0), bowl(1.0, 0.0, seed=1)]).text()
    (one_each,) = tables([results[0], results[2]])
    assert "Loss on a random plane" in one_each.text()


def test_surfaces_of_several_checkpoints_are_not_one_flatness():
    with pytest.raises(ValueError, match="surfaces of one checkpoint"):
        flatness([bowl(1.0, 1.0), bowl(1.0, 1.0, key="other")])
    wider = bowl(1.0, 1.0)
    wider = replace(wider, x=2 * wider.x)
    with pytest.raises(ValueError, match="one grid: measure all with equal steps and extent"):
        flatness([bowl(1.0, 1.0), wider])
    with pytest.raises(ValueError, match="does not hold the centre"):
        flatness([bowl(1.0, 1.0, steps=4)])


def test_two_files_of_equal_weights_are_two_rows_and_not_two_planes():
    (table,) = tables([bowl(1.0, 2.0, label="last"), bowl(1.0, 2.0, label="best")])
    assert [row[0] for row in table.rows] == ["last", "best"]
    assert "random plane" in table.title


def test_the_rings_of_an_irregular_early_grid_are_by_their_distance():
    whole = bowl(1.0, 1.0, steps=51)
    marks = coarse_grids(51)[1]  # 0, 12, 25, 38, 50
    early = replace(
        whole,
        x=whole.x[marks],
        y=whole.y[marks],
        **{
            name: getattr(whole, name)[np.ix_(marks, marks)]
            for name in ("loss", "standard_error", "accuracy", "status")
        },
    )
    near, edge = ring_rise(early, 0.52), ring_rise(early, 1.0)
    assert ring_rise(early, 0.76) == pytest.approx((near + edge) / 2)
    ring = [early.loss[i, j] for i in range(1, 4) for j in range(1, 4) if (i, j) != (2, 2)]
    assert near == pytest.approx(np.mean(ring) - 0.5)
    assert math.isnan(ring_rise(bowl(1.0, 1.0, steps=1), 0.5))


def test_a_table_says_how_the_loss_was_measured_where_that_is_not_the_usual_way():
    def titled(**settings):
        one = bowl(1.0, 1.0)
        one = replace(one, settings={**one.settings, **settings})
        return tables([one])[0]

    assert "BatchNorm" not in titled(batch_norm="frozen", precision="fp32").text()
    found = titled(batch_norm="recalibrated", precision="bf16")
    assert "BatchNorm recalibrated at each point, forward pass in bf16" in found.title
    assert "equals a plain loop with recalibrated statistics" in " ".join(found.notes)
    assert "(early, of 51 along an axis)" in titled(early_of=51, steps=21).title
    one = bowl(1.0, 1.0)
    one.status[:4] = 0
    assert "one: 357 of 441 points are measured yet" in " ".join(tables([one])[0].notes)


def test_along_eigenvectors_the_curvature_of_the_grid_stands_beside_the_eigenvalues():
    one = bowl(2.0, 1.0)
    one = replace(
        one,
        settings={
            **one.settings,
            "directions": "eigenvectors",
            "eigenvalues": [3.9, 2.1],
            "operator": "hessian",
            "axes_of": "h",
        },
    )
    notes = " ".join(tables([one])[0].notes)
    assert "along the axes: 3.90 and 2.10" in notes
    assert "curvature over one step of the grid (0.100) along them: 4.00 and 2.00" in notes


def line(losses, **changes):
    x = np.linspace(-0.5, 1.5, len(losses))
    loss = np.array(losses)
    values = {
        "x": x,
        "loss": loss,
        "standard_error": loss * 0,
        "accuracy": loss * math.nan,
        "status": status_of(loss),
        "checkpoint": {"hash": "h", "label": "one"},
        "settings": {"directions": "between", "batch_norm": "frozen"},
        "checks": {
            "centre_ok": True,
            "centre_loss": 1.0,
            "landmarks": [{"name": "two", "loss_on_plane": 2.0, "own_loss": 2.0}],
        },
    }
    return Line(**(values | changes))


def test_a_barrier_is_of_a_line_that_ends_at_the_other_checkpoints_own_loss():
    losses = [0.5, 1.0, 3.0, 2.0, 4.0]  # at -0.5, 0, 0.5, 1, 1.5
    assert barrier(line(losses)) == pytest.approx(1.5)
    ends = [{"name": "two", "loss_on_plane": 2.0, "own_loss": 1.5}]
    elsewhere = line(losses, checks={"centre_ok": True, "landmarks": ends})
    assert barrier(elsewhere) is None
    (table,) = tables([elsewhere])
    assert table.records[0]["barrier"] is None
    assert "no barrier: the line does not end at the other" in " ".join(table.notes)
    recalibrated = replace(elsewhere, settings={"directions": "between", "batch_norm": "recalibrated"})
    assert barrier(recalibrated) == pytest.approx(1.5)


def test_the_lowest_loss_of_a_line_is_the_centres_where_the_grid_misses_it():
    missed = line([2.0, 3.0, 4.0, 5.0], checks={"centre_ok": True, "centre_loss": 0.5})
    record = tables([missed])[0].records[0]
    assert (record["lowest"], record["lowest_at"]) == (0.5, 0.0)
