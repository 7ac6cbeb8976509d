import base64
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from curvature_results import along_run, density, entries, hundred_tensors
from plain_results import blocks, bowl, changed, paired, run, sampled, spectrum, trace, valley

from landscape import figures
from landscape.readings import largest, places, sample_errors
from landscape.results import (
    FAILED,
    MISSING,
    Congruence,
    Eigenpairs,
    Line,
    Surface,
)
from landscape.tables import tables
from landscape.view import difference_view, log_ticks, tick_labels


def part(figure, meta):
    return next((one for one in figure.data if one.meta == meta), None)


@pytest.mark.parametrize("draw", [figures.surface_3d, figures.contour])
def test_rows_of_the_drawn_array_are_y(draw):
    surface = bowl(steps=5)
    drawn = part(draw(surface, scale="linear"), "surface")
    assert drawn.z[0][2] == surface.loss[2, 0] == 1.0  # x = 0, y = -1
    assert drawn.z[2][0] == surface.loss[0, 2] == 2.5  # x = -1, y = 0
    by_cell = np.array(drawn.customdata)[:, :, 0]
    solid = drawn.type == "surface"  # whose labels plotly looks up by [x, y]
    np.testing.assert_array_equal(by_cell if solid else by_cell.T, surface.loss)
    assert drawn.text[(2, 0) if solid else (0, 2)].startswith("loss 1.00 ")


@pytest.mark.parametrize("draw", [figures.surface_3d, figures.contour])
def test_cells_that_are_not_finite_are_markers_with_their_status_and_a_count(draw):
    surface = bowl()
    loss = surface.loss.copy()
    loss[0, 1], loss[4, 3], loss[4, 4] = np.nan, np.inf, -np.inf
    figure = draw(changed(surface, loss), scale="linear")
    cells = part(figure, "cells")
    places = list(zip(cells.x, cells.y, cells.text, strict=True))
    assert places == [(-1.0, -0.5, "nan"), (1.0, 0.5, "+inf"), (1.0, 1.0, "-inf")]
    assert np.isnan(np.array(part(figure, "surface").z)).sum() == 3
    assert "3 cells left out" in figure.layout.title.text


def test_missing_and_failed_cells_are_left_out_whatever_their_number():
    surface = bowl()
    status = surface.status.copy()
    status[0, 0], status[1, 1] = MISSING, FAILED
    cells = part(figures.contour(Surface(**{**vars(surface), "status": status})), "cells")
    assert list(cells.text) == ["missing", "failed"]


def test_a_log_scale_leaves_out_what_is_not_positive_and_says_so():
    surface = bowl(centre=0.0)
    figure = figures.contour(surface, scale="log")
    assert list(part(figure, "cells").text) == ["loss 0, not on a log scale"]
    assert "log scale" in part(figure, "surface").colorbar.title.text
    assert np.array(part(figure, "surface").z)[2, 0] == pytest.approx(np.log10(2.0))


def test_the_view_holds_every_finite_loss_on_round_levels():
    view = figures.loss_view([bowl(centre=0.03), bowl(centre=2.0)], scale="linear")
    assert view.low <= 0.03
    assert view.high >= 4.5
    assert view.low / view.step == pytest.approx(round(view.low / view.step))
    assert not view.log


def test_auto_chooses_a_log_scale_only_for_positive_losses_with_a_far_edge():
    far = np.full((5, 5), 1.0)
    far[0, 0] = 1e4
    assert figures.loss_view([changed(bowl(), far)]).log
    far[1, 1] = 0.0
    assert not figures.loss_view([changed(bowl(), far)]).log
    assert not figures.loss_view([bowl()]).log


def test_an_unknown_scale_lists_the_choices():
    with pytest.raises(ValueError, match=r"one of \('auto', 'linear', 'log'\), got 'ln'"):
        figures.loss_view([bowl()], scale="ln")


@pytest.mark.parametrize(
    "loss",
    [np.full((5, 5), np.nan), np.full((5, 5), 2.0), np.zeros((5, 5)), np.full((5, 5), 1e300), np.full((5, 5), -1e-30)],
)
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_degenerate_surfaces_are_drawn(loss, scale):
    surface = changed(bowl(), loss)
    for figure in (figures.surface_3d(surface, scale=scale), figures.contour(surface, scale=scale)):
        assert figure.to_json()
    assert figures.slices([surface], scale=scale).to_json()


def test_a_single_cell_is_drawn():
    surface = bowl(steps=1)
    assert part(figures.contour(surface), "surface").z.shape == (1, 1)
    assert figures.surface_3d(surface).to_json()
    assert figures.slices([surface]).to_json()


def test_slices_go_through_the_centre_with_bands_of_one_standard_error():
    surface = bowl(steps=5)
    figure = figures.slices([surface], scale="linear")
    along_x = next(one for one in figure.data if one.xaxis == "x" and one.mode == "lines+markers")
    along_y = next(one for one in figure.data if one.xaxis == "x2" and one.mode == "lines+markers")
    np.testing.assert_allclose(along_x.y, 0.5 + 2.0 * surface.x**2)
    np.testing.assert_allclose(along_y.y, 0.5 + 0.5 * surface.y**2)
    band = next(one for one in figure.data if one.xaxis == "x" and one.mode == "none")
    np.testing.assert_allclose(band.y[:5], 0.9 * along_x.y)
    np.testing.assert_allclose(band.y[5:10], 1.1 * along_x.y[::-1])


def test_a_grid_without_the_centre_says_where_it_was_cut():
    figure = figures.slices([bowl(steps=4)])
    assert figures.centre_cell(bowl(steps=4)) is None
    assert figures.centre_cell(bowl(steps=5)) == (2, 2)
    assert "at y = -0.333" in figure.layout.xaxis.title.text


def test_eigenvalues_show_residuals_and_what_has_not_converged():
    figure = figures.eigenvalues([spectrum(), spectrum("sam", (8.0, 2.0), [True, False], complete=False)])
    assert figure.layout.yaxis.type == "log"
    np.testing.assert_allclose(figure.data[0].error_y.array, [0.04, 0.01])
    assert list(figure.data[1].marker.symbol) == ["square", "square-open"]
    assert figure.data[1].name == "sam, may have missed some"


def test_a_negative_eigenvalue_makes_the_axis_linear():
    assert figures.eigenvalues([spectrum(values=(1.0, -0.5))]).layout.yaxis.type != "log"


def test_spectra_of_different_operators_are_named_apart():
    other = Eigenpairs(**{**vars(spectrum()), "settings": {"operator": "fisher", "split": "train"}})
    names = [one.name for one in figures.eigenvalues([spectrum(), other]).data]
    assert names == ["sgd, hessian", "sgd, fisher"]


def test_congruence_joins_the_probed_epochs_and_bands_only_what_has_an_error():
    figure = figures.congruence([trace(change=(0.1, np.nan, 0.2, 0.3))])
    change = next(one for one in figure.data if one.xaxis == "x3" and one.mode != "none")
    np.testing.assert_allclose(change.x, [1, 3, 4])
    np.testing.assert_allclose(change.y, [0.1, 0.2, 0.3])
    band = next(one for one in figure.data if one.xaxis == "x3" and one.mode == "none")
    assert list(band.x) == [3, 4, 4, 3, None]


def test_one_colour_per_checkpoint_in_every_figure():
    surfaces = [bowl("sgd"), bowl("sam")]
    known = figures.styles([*surfaces, spectrum("sam"), trace("sam")])
    color = known["hash of sam"].color
    assert color == "#D55E00"
    assert figures.eigenvalues([spectrum("sam")], known=known).data[0].marker.color == color
    assert figures.congruence([trace("sam")], known=known).data[-1].line.color == color
    assert figures.slices(surfaces, known=known).data[-1].line.color == color
    assert part(figures.contour(surfaces[1], style=known["hash of sam"]), "centre").marker.color == color


def test_equal_labels_of_different_weights_are_told_apart_by_hash():
    surfaces = [bowl("last"), bowl("last")]
    surfaces[1].checkpoint["hash"] = "0123456789abcdef"
    names = [style.name for style in figures.styles(surfaces).values()]
    assert names == ["last (hash of )", "last (01234567)"]


def test_names_are_literal_in_figures():
    name = "<b>bold</b> %{y} & co"
    figure = figures.slices([bowl(name)])
    assert figure.data[-1].name == "&lt;b&gt;bold&lt;/b&gt; %&#123;y} &amp; co"


def test_empty_lists_are_drawn_empty():
    assert len(figures.slices([]).data) == len(figures.eigenvalues([]).data) == len(figures.congruence([]).data) == 0


def test_a_number_has_the_digits_of_the_tables_in_every_hover_label():
    at_corner = "loss 3.00 ± 0.30<br>accuracy 90.0 %<br>status ok"
    for draw in (figures.contour, figures.surface_3d):
        assert part(draw(bowl()), "surface").text[0][0] == at_corner
    cut = next(one for one in figures.slices([bowl()]).data if one.mode == "lines+markers")
    assert cut.text[2] == "0.500 ± 0.050"
    (found,) = figures.eigenvalues([spectrum(converged=[True, False])]).data
    assert found.text == ("λ 4.000 ± 0.040<br>converged", "λ 1.000 ± 0.010<br>NOT converged")
    curves = [one for one in figures.congruence([trace(change=(-0.1, 0.2))]).data if one.text]
    assert [one.text[0] for one in curves] == ["0.300 ± 0.010", "0.200 ± 0.010", "−0.100 ± 0.010", "−1.00 ± 0.10"]
    apart = part(figures.difference(paired("sam", [0.1, 0.3]), paired("sgd", [0.0, 0.0])), "difference")
    assert apart.text[0][0] == "difference +0.200 ± 0.100"
    assert figures.diagonal([entries()]).data[0].hovertext[0] == "3.00 ± 0.30"
    assert part(figures.density([density()]), "sticks").text[0] == "40.00 ± 0.10"
    assert figures.curvature_trace([along_run()]).data[0].text[0] == "4.000 ± 0.010"
    every = [figures.contour(bowl()), figures.slices([bowl()]), figures.line([valley()]), figures.congruence([trace()])]
    assert not [one.hovertemplate for figure in every for one in figure.data if "{y:" in str(one.hovertemplate)[20:]]


def test_the_spectra_of_layers_are_points_from_input_to_output():
    found = blocks() + [replace(one, complete=False) for one in blocks("sam", {"fc": (3.0,), "conv": (2.0,)})]
    figure = figures.layers(found)
    sgd, sam = figure.data
    np.testing.assert_array_equal(sgd.x, [4.0, 1.0, 0.5, np.nan, 40.0, 2.0])
    np.testing.assert_allclose(sgd.y, np.repeat([0, 1, 2], 2) - 0.15)
    np.testing.assert_allclose(sam.y, [2.15, 0.15])
    assert sgd.error_x.array.tolist() == [0.04, 0.01, 0.005, 0.0025, 0.4, 0.02]
    assert figure.layout.yaxis.ticktext == ("conv", "norm", "fc")
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the input above
    assert figure.layout.xaxis.title.text == "eigenvalue, log scale; 1 not above 0 left out"
    assert (set(sgd.marker.symbol), set(sam.marker.symbol)) == ({"circle"}, {"square-open"})
    assert sgd.text[4] == "fc<br>λ 40.00 ± 0.40"
    below = figures.layers(blocks(layers={"conv": (-1.0, -2.0)}))
    assert below.layout.xaxis.title.text == "eigenvalue"
    assert list(below.data[0].x) == [-1.0, -2.0]


def test_layers_on_different_data_or_of_different_matrices_are_told_apart():
    for name, value in (("split", "test"), ("operator", "fisher"), ("num_examples", 9)):
        other = [replace(one, settings={**one.settings, name: value}) for one in blocks()]
        first, second = (curve.name for curve in figures.layers(blocks() + other).data)
        assert first != second
        assert str(value) in second


def test_of_many_layers_the_sharpest_are_drawn():
    figure = figures.layers(blocks(layers={f"layer {n}": (float(n + 1),) for n in range(40)}))
    assert figure.layout.yaxis.ticktext == tuple(f"layer {n}" for n in range(10, 40))


def test_broad_bars_are_what_the_sample_leaves_to_the_eigenvalues():
    figure = figures.eigenvalues([spectrum(), spectrum("sam")], [sampled()])
    bars, marks, other = figure.data
    np.testing.assert_allclose(bars.y, [3.5, 4.5, np.nan, 1e-6, 3.0, np.nan])  # 1 - 2 is below a log axis
    np.testing.assert_array_equal(bars.x[::3], marks.x)
    assert "lower bound" in bars.name
    assert marks.text[0] == "λ 4.000 ± 0.040<br>± 0.500 from the sample, at least<br>converged"
    assert "sample" not in other.text[0]
    low, high = 10 ** np.array(figure.layout.yaxis.range)
    assert low < 1.0
    assert high > 4.5


@pytest.mark.parametrize(
    "spread",
    [sampled("sam"), sampled(values=(9.0, 7.0)), replace(sampled(), settings={"operator": "fisher", "split": "train"})],
)
def test_what_was_measured_at_other_eigenvalues_has_no_bar(spread):
    assert np.isnan(sample_errors(spectrum(), [spread])).all()
    assert len(figures.eigenvalues([spectrum()], [spread]).data) == 1


def test_a_bar_that_nearly_reaches_zero_does_not_set_the_axis():
    figure = figures.eigenvalues([spectrum(values=(4.0, 1.0))], [sampled(errors=(9.0, 0.999999))])
    low, high = (10**end for end in figure.layout.yaxis.range)
    assert 0.2 < low < 1 / 3
    assert high > 13


def test_a_spread_at_fewer_or_more_eigenvalues_has_the_bars_of_those_that_are_the_same():
    np.testing.assert_array_equal(sample_errors(spectrum(), [sampled(values=(4.0,), errors=(0.5,))]), [0.5, np.nan])
    more = sampled(values=(4.0, 1.0, -3.0), errors=(0.5, 0.2, 0.1))
    np.testing.assert_array_equal(sample_errors(spectrum(), [more]), [0.5, 0.2])


def test_drawing_imports_neither_torch_nor_matplotlib():
    code = "import sys, landscape.report; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trajectory_lies_over_its_contour_with_both_losses_to_read():
    surface = Surface(**{**vars(bowl()), "trajectory": run()})
    drawn = next(one for one in figures.contour(surface).data if one.meta == "trajectory")
    assert list(drawn.x) == run().x.tolist()
    assert list(drawn.y) == run().y.tolist()
    told = "epoch 1<br>its own loss 1.900 ± 0.019<br>the plane's loss here 2.40<br>0.0900 off the plane"
    assert drawn.text[0] == told
    assert figures.overview_picture([surface]).axes[0].lines


def test_the_other_checkpoints_of_a_plane_are_named_where_they_lie():
    places = [{"name": "sgd", "coordinates": [0.0, 0.0]}, {"name": "sam", "coordinates": [0.5, -0.5]}]
    drawn = next(one for one in figures.contour(bowl(landmarks=places)).data if one.meta == "landmarks")
    assert (list(drawn.x), list(drawn.y), list(drawn.text)) == ([0.5], [-0.5], ["sam"])


def test_a_line_shows_its_loss_and_the_checkpoints_on_it():
    figure = figures.line([valley()])
    curve = next(one for one in figure.data if one.mode == "lines+markers")
    np.testing.assert_array_equal(curve.y, valley().loss)
    assert [shape.x0 for shape in figure.layout.shapes] == [0.0, 1.0]
    assert [note.text for note in figure.layout.annotations] == ["sgd", "sam"]
    assert figures.line([]).data == ()


def test_a_line_is_told_with_its_barrier_and_the_ends_with_both_losses():
    (table,) = tables([valley()])
    assert "a line through checkpoints" in table.title
    assert table.records[0]["lowest"] == 0.5
    assert table.records[0]["barrier"] is None  # the line does not end at the other's own loss
    assert "at sam the loss is 1.50 here, its own 1.25" in table.notes
    recalibrated = {**valley().settings, "batch_norm": "recalibrated"}
    (table,) = tables([Line(**{**vars(valley()), "settings": recalibrated})])
    assert table.records[0]["barrier"] == 0.0  # a valley: nowhere above the straight line
    hill = Line(
        **{**vars(valley()), "settings": recalibrated, "loss": 0.5 + 2 * valley().x - valley().x ** 2}
    )  # 1.5 at x = 1
    (table,) = tables([hill])
    assert table.records[0]["barrier"] == pytest.approx(0.25)  # x - x^2 at 1/2
    (table,) = tables([Line(**{**vars(valley()), "checks": {}})])
    assert table.records[0]["barrier"] is None
    assert "barrier" not in table.text()


def test_a_run_on_a_plane_has_a_table_of_its_own():
    _, table = tables([Surface(**{**vars(bowl()), "trajectory": run()})])
    assert table.title.endswith("plane of sgd; 97 % of its squared distances from the centre lie in it")
    assert [row[0] for row in table.rows] == ["1", "2", "3"]
    assert table.records[0]["plane_loss"] == run().plane_loss[0]


def test_tensors_that_count_as_one_filter_are_told():
    (table,) = tables([bowl(whole_tensors=["gate", "experts", "a", "b"])])
    told = "of no known kind, and so one filter each: gate, experts, a and 1 more (output dimensions may be given)"
    assert told in table.notes
    (table,) = tables([bowl(whole_tensors=[])])
    assert not any("filter each" in note for note in table.notes)


def test_a_grid_that_is_not_symmetric_has_no_rings_and_says_where_it_reaches():
    one = bowl(intervals=[[0.0, 2.0], [-1.0, 1.0]])
    (table,) = tables([Surface(**{**vars(one), "x": one.x + 1})])
    assert "x 0 to 2, y -1 to 1" in table.title
    assert np.isnan(table.records[0]["rise_at_edge"])
    assert not any("ring" in note for note in table.notes)


def test_a_centre_measured_apart_is_told():
    one = bowl()
    apart = {"centre_loss": 0.25, "centre_standard_error": 0.02, "centre_accuracy": 0.75}
    (table,) = tables([Surface(**{**vars(one), "x": one.x + 0.1, "checks": apart})])
    assert table.rows[0][1:3] == ["0.250 ± 0.020", "75.0 ± 4.3 %"]


def quadratics(figure):
    return [one for one in figure.data if one.meta and one.meta[0] == "quadratic"]


def test_along_eigenvectors_the_quadratic_model_has_the_eigenvalues_and_the_slope_of_the_slice():
    tilted = bowl(eigenvalues=[3.0, 2.0], operator="hessian", axes_of="hash of sgd")
    tilted = changed(tilted, tilted.loss + 0.3 * tilted.x[:, None])
    along_x, along_y = quadratics(figures.slices([tilted, bowl("sam")], scale="linear"))[:2]
    np.testing.assert_allclose(along_x.y, 0.5 + 0.3 * along_x.x + 1.5 * along_x.x**2, rtol=1e-12)
    np.testing.assert_allclose(along_y.y, 0.5 + 1.0 * along_y.x**2, rtol=1e-12)
    assert (along_x.name, along_x.visible) == ("quadratic model of the Hessian", True)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eigenvalues": [3.0, 2.0], "operator": "hessian", "axes_of": "another theta"},
        {"eigenvalues": [3.0, 2.0], "operator": "gauss-newton", "axes_of": "hash of sgd"},
    ],
)
def test_of_other_axes_only_the_second_difference_is_known_and_it_is_off_at_first(settings):
    along_x, *_ = quadratics(figures.slices([bowl(**settings), bowl("sam")], scale="linear"))
    np.testing.assert_allclose(along_x.y, 0.5 + 2.0 * along_x.x**2, rtol=1e-12)  # exact: the bowl is a parabola
    assert (along_x.name, along_x.visible) == ("parabola of the second difference", "legendonly")


def test_without_neighbours_of_the_centre_there_is_no_model():
    loss = bowl().loss
    loss[1, 2] = np.nan
    assert len(quadratics(figures.slices([changed(bowl(), loss)], scale="linear"))) == 1
    assert not quadratics(figures.slices([bowl(steps=1)]))


def test_a_difference_is_drawn_around_zero_with_dots_where_it_is_doubtful():
    figure = figures.difference(paired("sam", [0.3, 0.5, 0.4]), paired("sgd", [0.0, 0.0, 0.0]))
    drawn, dots = figure.data
    np.testing.assert_allclose(drawn.z, np.full((5, 5), 0.4), rtol=1e-12)
    assert drawn.zmin == -drawn.zmax
    assert len(dots.x) == 0
    doubtful = figures.difference(paired("sam", [-1.0, 1.0, 0.1]), paired("sgd", [0.0, 0.0, 0.0]))
    assert len(doubtful.data[1].x) == 25
    with pytest.raises(ValueError, match="not kept"):
        figures.difference(bowl(), bowl("sam"))


def test_a_run_is_drawn_with_both_losses_and_its_distance():
    surface = replace(bowl(), trajectory=run())
    curves = [one for one in figures.trajectory([surface, bowl("sam")]).data if one.mode == "lines+markers"]
    own, plane, distance = (one.y for one in curves)
    np.testing.assert_array_equal([own, plane, distance], [run().loss, run().plane_loss, run().distance])
    assert figures.trajectory([bowl()]).data == ()


@pytest.mark.parametrize(("scale", "heights"), [("linear", run().plane_loss), ("log", np.log10(run().plane_loss))])
def test_in_three_dimensions_a_run_lies_at_the_loss_of_the_plane(scale, heights):
    figure = figures.surface_3d(replace(bowl(), trajectory=run()), scale=scale)
    drawn = next(one for one in figure.data if one.meta == "trajectory")
    np.testing.assert_allclose(drawn.z, heights)


def test_the_other_end_of_a_line_has_its_own_loss_beside_the_loss_there():
    figure = figures.line([valley()], scale="linear")
    (own,) = (one for one in figure.data if one.meta == "own loss")
    assert (own.x, own.y) == ((1.0, 1.0), (1.5, 1.25))
    far = replace(valley(), checks={"landmarks": [{"name": "sam", "loss_on_plane": 1.5, "own_loss": 40.0}]})
    assert figures.line([far], scale="linear").layout.yaxis.range[1] > 40


@pytest.mark.parametrize("one", [bowl(), valley(), spectrum(), trace(), density(), entries(), along_run()])
def test_a_result_plots_itself_and_shows_itself_in_a_notebook(one):
    assert one.plot().data
    shown = one._repr_html_()
    assert base64.b64decode(shown.split("base64,")[1].rstrip('">')).startswith(b"\x89PNG")
    assert len(shown) < 200_000
    assert "<script" not in shown
    assert shown == one._repr_html_()


def test_a_notebook_says_which_check_failed_and_shows_names_as_text():
    shown = replace(bowl('"><script>'), checks={"centre_ok": False, "centre_error": 0.5})._repr_html_()
    assert "the loss at the centre differs" in shown
    assert "<script" not in shown


def test_a_single_number_has_no_figure():
    one = Congruence(value=0.25, standard_error=0.01)
    assert not hasattr(one, "plot")
    with pytest.raises(TypeError, match="a Congruence is a number and has no figure"):
        figures.figure_of(one)


def test_the_change_is_also_told_per_learning_rate_where_that_is_known():
    one = replace(trace(change=(0.1, 0.2, 0.3)), learning_rate=np.array([0.1, 0.0, 0.5]))
    curves = [curve for curve in figures.congruence([one]).data if curve.xaxis == "x4" and curve.mode != "none"]
    np.testing.assert_allclose(curves[0].y, [1.0, 0.6])
    unknown = figures.congruence([replace(one, learning_rate=np.full(3, np.nan))])
    assert "xaxis4" not in unknown.layout


def test_a_density_has_a_bulk_above_the_floor_and_sticks_as_high_as_one_eigenvalue():
    figure = figures.density([density()])
    bulk = next(one for one in figure.data if one.mode == "lines")
    np.testing.assert_array_equal(bulk.y, [np.nan, 1.0, 0.1, np.nan, 0.01, np.nan, np.nan])
    (sticks,) = (one for one in figure.data if one.meta == "sticks")
    assert (list(sticks.x), list(sticks.error_x.array)) == ([40.0, 20.0], [0.1, 0.2])
    np.testing.assert_allclose(sticks.y, 1 / (100 * 0.3 * np.sqrt(2 * np.pi)))


def test_a_density_without_a_band_draws_none():
    unknown = dict.fromkeys(("low", "high"), np.full(7, np.nan))
    assert not [one for one in figures.density([density(**unknown)]).data if one.fill]
    nothing = density(mean=np.full(7, np.nan), sticks=np.zeros(0), stick_residuals=np.zeros(0), **unknown)
    assert len(figures.density([nothing]).data) == 1


def test_curvature_along_a_run_keeps_its_axis_where_the_stability_limit_leaves_it():
    figure = figures.curvature_trace([along_run()])
    named = {one.name: one for one in figure.data if one.xaxis != "x2"}
    np.testing.assert_array_equal(named["sgd, λ1"].y, [4.0, 6.0, 8.0])
    limit = named["sgd, stable up to here (full-batch theory)"]
    np.testing.assert_array_equal(limit.y, [38.0, 38.0, np.nan])
    assert [note.text for note in figure.layout.annotations] == ["sgd: stability limit above the figure, 38 and more"]
    assert 10 ** figure.layout.yaxis.range[1] < 38
    sam = figures.curvature_trace([along_run(stability_limit=np.full(3, np.nan))])
    assert not [one for one in sam.data if "theory" in str(one.name)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 2, 3]),
        ({"which": "largest", "k": 3}, [1, 2, 3]),
        ({"which": "smallest", "k": 3}, [-3, -2, -1]),
        ({"which": "both", "k": 2}, [1, 2, -1]),
    ],
)
def test_eigenvalues_are_numbered_from_their_own_end(settings, expected):
    one = replace(spectrum(values=(4.0, 1.0, -2.0)), settings=settings)
    assert places(one) == expected
    assert (largest(one) == 4.0) == (expected[0] == 1)
    labels = dict(
        zip(*(figures.eigenvalues([one]).layout.xaxis[name] for name in ("tickvals", "ticktext")), strict=True)
    )
    told = [labels[round(x)] for x in figures.eigenvalues([one]).data[0].x]
    assert told == [str(place).replace("-", "−") for place in expected]


@pytest.mark.parametrize(("reach", "error"), [(3.0, 0.01), (3.0, 5.0), (0.07, 0.0), (1e6, 1e-3)])
def test_a_signed_log_scale_holds_its_ends_and_is_linear_near_zero(reach, error):
    values = np.array([-reach, 0.0, reach / 2, np.nan, np.inf])
    view = difference_view(values, np.full(5, error), scale="log")
    assert view.reach >= reach
    assert list(view.ticks) == sorted(view.ticks)
    assert 3 <= len(view.ticks) <= 9
    assert max(view.ticks) <= view.reach
    assert view.linear < max(view.ticks)
    small = 1e-4 * view.linear
    np.testing.assert_allclose(view.at(np.array([-small, small])) * np.log(10) / 1e-4, [-1, 1], rtol=1e-3)
    assert (difference_view(values, np.full(5, error)).linear is None) == (error in (5.0, 0.0))
    assert difference_view(values, np.full(5, error), scale="linear").linear is None


def test_differences_that_span_decades_are_read_raw_on_a_signed_log_scale():
    near, far = paired("sgd", [0.0, 0.0, 0.0]), paired("sam", [-0.9, -1.0, -1.1])
    steep = far.examples.loss * np.linspace(1, 1e4, 5)[:, None, None]
    far = replace(far, examples=replace(far.examples, loss=steep))
    drawn, _ = figures.difference(far, near).data
    raw = np.array(drawn.customdata)[:, :, 0]
    np.testing.assert_allclose(raw, (steep.mean(-1) - bowl().loss).T, rtol=1e-12)
    at = np.searchsorted(np.sort(raw.ravel()), 0)
    assert np.array_equal(np.argsort(raw, axis=None), np.argsort(np.array(drawn.z), axis=None))
    assert 0 < at < raw.size
    assert "log beyond ±" in drawn.colorbar.title.text
    assert "0" in drawn.colorbar.ticktext


def test_densities_share_one_kernel_and_epochs_have_whole_ticks():
    nodes, weights = np.zeros((4, 2)), np.full((4, 2), 0.5)
    figure = figures.density([density(nodes=nodes, weights=weights), density(kernel_width=0.6)])
    assert figure.layout.xaxis.title.text == "eigenvalue, smoothed by a Gaussian of σ = 0.6"
    drawn = next(one for one in figure.data if one.mode == "lines")
    expected = 0.98 * np.exp(-((np.array(drawn.x) / 0.6) ** 2) / 2) / (0.6 * np.sqrt(2 * np.pi))
    known = np.isfinite(np.array(drawn.y, dtype=float))
    np.testing.assert_allclose(np.array(drawn.y)[known], expected[known], rtol=1e-12)
    assert figures.congruence([trace(change=(0.1, 0.2))]).layout.xaxis3.dtick == 1
    assert figures.curvature_trace([along_run(epoch=np.array([0, 40, 90]))]).layout.xaxis.dtick == 20


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(1.48, 2.05, ["1.6", "1.8", "2"]), (0.7, 130, ["1", "10", "100"]), (1.49012, 1.49031, None), (3, 40, None)],
)
def test_ticks_of_a_log_axis_are_round_and_told_apart(low, high, labels):
    ticks = log_ticks(np.log10(low), np.log10(high))
    told = tick_labels(10**tick for tick in ticks)
    assert len(set(told)) == len(told) >= 3
    np.testing.assert_allclose([float(label) for label in told], [10**tick for tick in ticks], rtol=1e-9)
    assert labels is None or told == labels


def test_a_diagonal_is_a_bar_for_each_tensor_from_input_to_output_with_its_error():
    one, other = figures.diagonal([entries(), entries("sam", (1.0, 2.0, 3.0))]).data
    assert list(one.y) == ["in.weight", "in.bias", "out.weight"]
    assert list(one.x) == [3.0, -8.0, 0.5]
    assert list(one.error_x.array) == [0.3, 0.4, 0.05]
    assert (one.name, other.name) == ("sgd", "sam")
    assert one.marker.pattern.shape != other.marker.pattern.shape


def test_of_many_tensors_the_largest_are_drawn():
    (bars,) = figures.diagonal([hundred_tensors()]).data
    assert list(bars.y) == [f"t{n}" for n in (*range(16), *range(86, 100))]
