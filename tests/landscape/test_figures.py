import base64
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from curvature_results import along_run, density, entries

from landscape import figures, picture
from landscape.readings import largest, places
from landscape.results import (
    FAILED,
    MISSING,
    Congruence,
    CongruenceTrace,
    Eigenpairs,
    Estimate,
    ExampleLosses,
    Line,
    Surface,
    Trajectory,
    status_of,
)
from landscape.tables import tables


def bowl(label="sgd", *, steps=5, split="train", curvature=(4.0, 1.0), centre=0.5, **settings):
    """loss[i, j] = centre + (a x[i]^2 + b y[j]^2) / 2."""
    x = np.linspace(-1, 1, steps)
    loss = centre + 0.5 * (curvature[0] * x[:, None] ** 2 + curvature[1] * x[None, :] ** 2)
    return Surface(
        x=x,
        y=x,
        loss=loss,
        standard_error=0.1 * loss,
        accuracy=np.full_like(loss, 0.9),
        status=status_of(loss),
        checkpoint={"label": label, "hash": f"hash of {label}"},
        settings={"split": split, "num_examples": 100, "unit": "filter-normalized", **settings},
    )


def run(num_epochs=3):
    at = np.linspace(0.9, 0.0, num_epochs)
    return Trajectory(
        epoch=np.arange(1, num_epochs + 1),
        x=at,
        y=-at / 2,
        distance=at / 10,
        loss=1 + at,
        standard_error=0.01 * (1 + at),
        plane_loss=1.5 + at,
        explained_variance=0.97,
    )


def valley(label="sgd", **settings):
    """loss[i] = 0.5 + x[i]^2, from one checkpoint at 0 to another at 1."""
    x = np.linspace(-0.5, 1.5, 9)
    landmarks = [{"name": label, "coordinates": [0.0]}, {"name": "sam", "coordinates": [1.0]}]
    return Line(
        x=x,
        loss=0.5 + x**2,
        standard_error=0.1 + 0 * x,
        accuracy=0.9 + 0 * x,
        status=status_of(x),
        checkpoint={"label": label, "hash": f"hash of {label}"},
        settings={"directions": "between", "unit": "distance", "landmarks": landmarks, **settings},
        checks={"centre_ok": True, "landmarks": [{"name": "sam", "loss_on_plane": 1.5, "own_loss": 1.25}]},
    )


def changed(surface, loss):
    return Surface(**{**vars(surface), "loss": loss, "status": status_of(loss)})


def spectrum(label="sgd", values=(4.0, 1.0), converged=None, complete=True):
    values = np.array(values)
    converged = np.ones(len(values), bool) if converged is None else np.array(converged)
    checkpoint = {"label": label, "hash": f"hash of {label}"}
    return Eigenpairs(
        values=values,
        vectors=None,
        residuals=0.01 * np.abs(values),
        converged=converged,
        complete=complete,
        num_matvecs=12,
        loss=0.5,
        checkpoint=checkpoint,
        settings={"operator": "hessian", "split": "train"},
    )


def trace(label="sgd", change=(0.1, np.nan, 0.2), error=0.01):
    change = np.array(change)
    errors = np.where(np.isfinite(change), error, np.nan)
    return CongruenceTrace(
        epoch=np.arange(1, len(change) + 1),
        cosine_b=0.3 + 0 * change,
        cosine_a=0.3 + change,
        change=change,
        cosine_b_standard_error=errors,
        cosine_a_standard_error=errors,
        change_standard_error=errors,
        learning_rate=np.full(len(change), 0.1),
        num_probes=np.where(np.isfinite(change), 3, 0),
        checkpoint={"label": label, "hash": f"hash of {label}"},
        settings={"radius": 0.05, "probe_every": 2, "mode": "train"},
    )


def part(figure, meta):
    return next((one for one in figure.data if one.meta == meta), None)


@pytest.mark.parametrize("draw", [figures.surface_3d, figures.contour])
def test_rows_of_the_drawn_array_are_y(draw):
    surface = bowl(steps=5)
    drawn = part(draw(surface, scale="linear"), "surface")
    assert drawn.z[0][2] == surface.loss[2, 0] == 1.0  # x = 0, y = -1
    assert drawn.z[2][0] == surface.loss[0, 2] == 2.5  # x = -1, y = 0
    np.testing.assert_array_equal(np.array(drawn.customdata)[:, :, 0], surface.loss.T)


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
    assert names == ["sgd, hessian, train", "sgd, fisher, train"]


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


def test_the_picture_has_a_row_per_split_and_a_column_per_checkpoint(tmp_path):
    results = [
        bowl("sgd"),
        bowl("sam"),
        bowl("sgd", split="test"),
        spectrum(),
        Congruence(value=0.1, standard_error=0.0),
    ]
    nan = results[1].loss.copy()
    nan[0, 0] = np.nan
    results[1] = changed(results[1], nan)
    picture = figures.overview_picture(results)
    assert [ax.get_ylabel() for ax in picture.axes[:4]] == ["train: y", "", "test: y", ""]
    assert picture.axes[0].get_title() == "sgd\nloss 0.5, accuracy 90.0%"
    picture.savefig(tmp_path / "overview.png")


@pytest.mark.parametrize("value", [np.nan, 2.0])
def test_the_picture_of_a_degenerate_surface_is_drawn(value, tmp_path):
    figures.overview_picture([changed(bowl(), np.full((5, 5), value))]).savefig(tmp_path / "a.png")
    figures.overview_picture([bowl(steps=1)]).savefig(tmp_path / "b.png")


def test_the_picture_needs_a_surface():
    with pytest.raises(ValueError, match="overview_picture needs a Surface, got none"):
        figures.overview_picture([spectrum()])


def test_drawing_imports_neither_torch_nor_matplotlib():
    code = "import sys, landscape.report; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trajectory_lies_over_its_contour_with_both_losses_to_read():
    surface = Surface(**{**vars(bowl()), "trajectory": run()})
    drawn = next(one for one in figures.contour(surface).data if one.meta == "trajectory")
    assert list(drawn.x) == run().x.tolist()
    assert list(drawn.y) == run().y.tolist()
    expected = [[1, 2, 3], run().loss, run().plane_loss, run().distance, run().standard_error]
    assert drawn.customdata.tolist() == np.stack(expected, 1).tolist()
    assert "off the plane" in drawn.hovertemplate
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


def paired(label, losses):
    """A surface of 5 x 5 points whose examples have these losses above the bowl's."""
    kept = bowl().loss[..., None] + np.asarray(losses)
    surface = changed(bowl(label, paired_hash="same"), kept.mean(-1))
    return replace(surface, examples=ExampleLosses(loss=kept, denominator=np.ones(len(losses))))


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


def test_the_twin_of_figure_1_has_the_three_panels_of_the_traces():
    panels = picture.congruence_picture([trace("sgd"), trace("sam")]).axes
    assert [ax.get_ylabel() for ax in panels] == [
        "cosine before a step",
        "cosine after it",
        "change (after − before)",
    ]
    known = np.isfinite(trace().change)
    np.testing.assert_array_equal(panels[2].lines[0].get_ydata(), trace().change[known])
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["sgd", "sam"]


def test_the_twin_of_the_spectrum_leaves_open_what_has_not_converged():
    (ax,) = picture.spectrum_picture([spectrum(converged=[True, False])]).axes
    done, open_mark = ax.lines[-2:]
    assert (list(done.get_ydata()), list(open_mark.get_ydata())) == ([4.0], [1.0])
    assert (done.get_markerfacecolor(), open_mark.get_markerfacecolor()) == ("#0072B2", "none")
    assert ax.get_yscale() == "log"


def test_the_twin_of_a_line_has_the_other_ends_own_loss():
    (ax,) = picture.line_picture([valley("_$sgd$")]).axes
    assert (ax.lines[1].get_xdata(), ax.lines[1].get_ydata()) == ([1.0], [1.25])
    assert {note.get_text() for note in ax.texts} == {r"_\$sgd\$", "sam"}


def test_the_twin_of_a_run_has_both_losses():
    left, right = picture.trajectory_picture([replace(bowl(), trajectory=run())]).axes
    assert "97 %" in left.get_title()
    for drawn, expected in zip(right.lines, (run().loss, run().plane_loss), strict=True):
        np.testing.assert_array_equal(drawn.get_ydata(), expected)
    with pytest.raises(ValueError, match="needs a run on its plane"):
        picture.trajectory_picture([bowl()])


@pytest.mark.parametrize(("width", "inches"), [("single", 3.25), ("double", 6.75)])
def test_pictures_have_the_width_of_a_column(width, inches):
    draw = (picture.overview_picture, picture.relief_picture)
    assert [one([bowl(), bowl("sam")], width=width).get_figwidth() for one in draw] == [inches] * 2
    assert picture.congruence_picture([trace()], width=width).get_figwidth() == inches


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
    assert "0.250 ± 0.010" in one._repr_html_()
    rank = Estimate(quantity="effective_rank", value=10.28, standard_error=0.17, num_samples=4, num_matvecs=60)
    assert "Effective rank at unnamed checkpoint: 10.28 ± 0.17" in " ".join(
        rank._repr_html_().replace("</p>", "").split()
    )
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
    np.testing.assert_array_equal(named["sgd, stable up to here (full-batch theory)"].y, [38.0, 38.0, np.nan])
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


def test_the_twin_of_a_density_has_its_bulk_and_its_sticks():
    (ax,) = picture.density_picture([density()]).axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [np.nan, 1.0, 0.1, np.nan, 0.01, np.nan, np.nan])
    assert [list(path.vertices[:, 0]) for path in ax.collections[1].get_paths()] == [[40.0] * 2, [20.0] * 2]
    assert ax.get_yscale() == "log"


def test_the_twin_of_a_runs_curvature_names_the_run_once():
    (ax,) = picture.curvature_picture([along_run()]).axes
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [2.0, 3.0, 4.0])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sgd"]
    assert ax.get_ylim()[1] < 10  # the stability limit does not stretch it


def test_the_twin_of_both_ends_numbers_the_smallest_from_below():
    one = replace(spectrum(values=(4.0, 1.0, -2.0)), settings={"which": "both", "k": 2})
    (ax,) = picture.spectrum_picture([one]).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "−1"]


def test_a_diagonal_is_a_bar_for_each_tensor_from_input_to_output_with_its_error():
    one, other = figures.diagonal([entries(), entries("sam", (1.0, 2.0, 3.0))]).data
    assert list(one.y) == ["in.weight", "in.bias", "out.weight"]
    assert list(one.x) == [3.0, -8.0, 0.5]
    assert list(one.error_x.array) == [0.3, 0.4, 0.05]
    assert (one.name, other.name) == ("sgd", "sam")
    assert one.marker.pattern.shape != other.marker.pattern.shape


def test_of_many_tensors_the_largest_are_drawn():
    traces = np.arange(-50.0, 50.0)
    shapes = {"names": [f"t{n}" for n in range(100)], "shapes": [[1]] * 100}
    errors = {"standard_error": np.ones(100), "tensor_standard_errors": np.ones(100)}
    one = entries(traces=(0.0,) * 3, values=traces, tensor_traces=traces, **shapes, **errors)
    (bars,) = figures.diagonal([one]).data
    assert list(bars.y) == [f"t{n}" for n in (*range(16), *range(86, 100))]
    (ax,) = picture.diagonal_picture([one]).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"t{n}" for n in (*range(7), *range(95, 100))]


def test_the_twin_of_a_diagonal_has_the_same_bars():
    (ax,) = picture.diagonal_picture([entries(), entries("sam")]).axes
    assert [bar.get_width() for bar in ax.patches] == 2 * [3.0, -8.0, 0.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["in.weight", "in.bias", "out.weight"]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"sgd", "sam"}
