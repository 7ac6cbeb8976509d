import itertools
from dataclasses import replace

import numpy as np
import pytest
from curvature_results import along_run, density, entries, hundred_tensors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from plain_results import blocks, bowl, changed, paired, run, sampled, spectrum, trace, valley

from landscape import picture
from landscape.results import Congruence
from landscape.smoothing import of_one_width

BAR = "mean train loss\nlinear scale"


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
    made = picture.overview_picture(results)
    assert [ax.get_ylabel() for ax in made.axes] == ["train: y", "", BAR, "test: y", "", BAR.replace("train", "test")]
    assert [ax.get_title() for ax in made.axes[:2]] == [
        "sgd\nloss 0.500, accuracy 90.0 ± 3.0 %",
        "sam\nloss 0.500, accuracy 90.0 ± 3.0 %\n1 cell left out",
    ]
    assert [text.get_text() for text in made.axes[4].texts] == ["no test surface"]
    made.savefig(tmp_path / "overview.png")


@pytest.mark.parametrize("value", [np.nan, 2.0])
def test_the_picture_of_a_degenerate_surface_is_drawn(value, tmp_path):
    picture.overview_picture([changed(bowl(), np.full((5, 5), value))]).savefig(tmp_path / "a.png")
    picture.overview_picture([bowl(steps=1)]).savefig(tmp_path / "b.png")


def test_the_picture_needs_a_surface():
    with pytest.raises(ValueError, match="overview_picture needs a Surface, got none"):
        picture.overview_picture([spectrum()])


def test_the_twin_of_figure_1_has_the_three_panels_of_the_traces():
    made = picture.congruence_picture([trace("sgd"), trace("sam")])
    panels = made.axes
    assert [ax.get_ylabel() for ax in panels] == [
        "(a) cosine before a step",
        "(b) cosine after it",
        "(c) change, after − before",
    ]
    known = np.isfinite(trace().change)
    np.testing.assert_array_equal(panels[2].lines[0].get_ydata(), trace().change[known])
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["sgd", "sam"]


@pytest.mark.parametrize("width", ["single", "double"])
def test_the_twin_of_figure_1_holds_every_value_and_its_error(width):
    one = replace(trace(), cosine_b=np.full(3, 0.8), cosine_a=np.full(3, 0.4))
    for ax, value in zip(picture.congruence_picture([one], width=width).axes[:2], (0.8, 0.4), strict=True):
        low, high = ax.get_ylim()
        assert low <= 0.4 - 0.01
        assert high >= 0.8 + 0.01
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), [value] * 3)


@pytest.mark.parametrize("width", ["single", "double", None])
@pytest.mark.parametrize("draw", [picture.overview_picture, picture.relief_picture])
def test_no_number_in_a_title_is_cut(draw, width):
    made = draw([bowl(f"{n} a much longer name than there is room for", num_examples=363) for n in "ab"], width=width)
    for ax in made.axes[:2]:
        _, *told = ax.get_title().split("\n")  # a long name may be cut
        assert " ".join(told).replace(",", "").replace("acc.", "accuracy") == "loss 0.500 accuracy 90.0 ± 1.6 %"
    frame = made.bbox
    for text, _, box in letters(made):
        assert max(frame.x0 - box.x0, box.x1 - frame.x1) < 1, text


def test_the_twin_of_the_spectrum_leaves_open_what_has_not_converged():
    (ax,) = picture.spectrum_picture([spectrum(converged=[True, False])]).axes
    done, open_mark = ax.lines[-2:]
    assert (list(done.get_ydata()), list(open_mark.get_ydata())) == ([4.0], [1.0])
    assert (done.get_markerfacecolor(), open_mark.get_markerfacecolor()) == ("#0072B2", "none")
    assert ax.get_yscale() == "log"


def test_the_twin_of_the_spectrum_has_broad_bars_of_what_the_sample_leaves():
    made = picture.spectrum_picture([spectrum(), spectrum("sam"), sampled()])
    (ax,) = made.axes
    lines = next(one for one in ax.collections if len(one.get_linewidth()) == 1 and one.get_linewidth()[0] > 5)
    assert [path.vertices[:, 1].tolist() for path in lines.get_paths()] == [[3.5, 4.5], [-1.0, 3.0]]
    assert [text.get_text() for text in made.legends[0].get_texts()][2:] == [
        "broad bar: ± of the sample, a lower bound"
    ]


def test_a_bar_of_the_sample_that_nearly_reaches_zero_does_not_set_the_axis_of_the_twin():
    drawn = picture.spectrum_picture([spectrum(values=(4.0, 1.0)), sampled(errors=(9.0, 0.999999))])
    low, high = drawn.axes[0].get_ylim()
    assert 0.2 < low < 1 / 3
    assert high > 13  # the upper ends are held


def test_the_twin_of_layers_has_their_eigenvalues_from_input_to_output():
    (ax,) = picture.layers_picture([*blocks(), spectrum()]).axes
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), [4.0, 1.0, 0.5, np.nan, 40.0, 2.0])
    assert ax.lines[-1].get_ydata().tolist() == [0, 0, 1, 1, 2, 2]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["conv", "norm", "fc"]
    assert ax.get_xlabel() == "eigenvalue of the layer's own block; 1 not above 0"
    assert ax.yaxis_inverted()
    with pytest.raises(ValueError, match="layers_picture needs spectra of layers, got none: landscape hessian"):
        picture.layers_picture([spectrum()])


def test_the_twin_of_layers_says_what_is_open_once_and_tells_data_apart():
    mixed = [replace(one, complete=name != "conv") for name, one in zip(("conv", "norm", "fc"), blocks(), strict=True)]
    other = [replace(one, settings={**one.settings, "split": "test"}) for one in mixed]
    (ax,) = picture.layers_picture([*mixed, *other]).axes
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == [
        "sgd, train",
        "open: not certified",
        "sgd, test",
    ]
    filled = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"]
    assert [face == "white" for face in filled] == [False, True, False, True]
    (ax,) = picture.layers_picture([replace(one, complete=False) for one in blocks()]).axes
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["sgd, not certified"]


def test_the_twin_of_a_line_has_the_other_ends_own_loss():
    (ax,) = picture.line_picture([valley("_$sgd$")]).axes
    assert (ax.lines[1].get_xdata(), ax.lines[1].get_ydata()) == ([1.0], [1.25])
    (above,) = ax.child_axes
    assert [(label.get_text(), label.get_position()[0]) for label in above.get_xticklabels()] == [
        (r"_\$sgd\$", 0.0),
        ("sam", 1.0),
    ]


def test_the_twin_of_a_run_has_both_losses():
    left, _, right = picture.trajectory_picture([replace(bowl(), trajectory=run())]).axes
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


def test_the_twin_of_a_density_has_its_bulk_and_its_sticks():
    (ax,) = picture.density_picture([density()]).axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [np.nan, 1.0, 0.1, np.nan, 0.01, np.nan, np.nan])
    assert [list(path.vertices[:, 0]) for path in ax.collections[1].get_paths()] == [[40.0] * 2, [20.0] * 2]
    assert ax.get_yscale() == "log"


def test_the_twin_of_a_runs_curvature_names_the_run_once():
    made = picture.curvature_picture([along_run()])
    (ax,) = made.axes
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [2.0, 3.0, 4.0])
    first, second = (text.get_text() for text in made.legends[0].get_texts())
    assert first == "sgd"
    assert second.replace("\n", " ") == "sgd: stable up to here (full-batch theory); above the figure, 38 and more"
    assert ax.get_ylim()[1] < 10  # the stability limit does not stretch it


def test_the_twin_of_both_ends_numbers_the_smallest_from_below():
    one = replace(spectrum(values=(4.0, 1.0, -2.0)), settings={"which": "both", "k": 2})
    (ax,) = picture.spectrum_picture([one]).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "−1"]


def test_each_plane_has_a_colour_bar_of_its_own():
    low, high = bowl(seed=0), bowl(seed=1, centre=100.0)
    made = picture.overview_picture([low, bowl("sam", seed=0), high])
    assert [ax.get_ylabel() for ax in made.axes if ": y" in ax.get_ylabel()] == [
        "plane 1, train: y",
        "plane 2, train: y",
    ]
    tops = [ax.get_ylim()[1] for ax in made.axes if ax.get_ylabel().endswith("scale")]
    np.testing.assert_allclose(tops, [3.0, 102.6])


def test_many_checkpoints_go_on_below_and_keep_their_size():
    surfaces = [bowl(f"number {n}") for n in range(5)]
    for width, across in (("single", 2), ("double", 4)):
        made = picture.overview_picture(surfaces, width=width)
        places = [ax.get_position() for ax in made.axes[:5]]
        assert len({round(place.x0, 6) for place in places}) == across
        assert len({round(place.y0, 6) for place in places}) == -(-5 // across)
        assert all(place.x0 >= 0 and place.x1 <= 1 and place.y0 >= 0 and place.y1 <= 1 for place in places)


def test_a_panel_has_the_shape_of_its_plane_and_the_bar_its_height():
    wide = replace(bowl(), y=bowl().y / 2)
    made = picture.overview_picture([wide], width="single")
    panel, bar = (ax.get_position() for ax in made.axes)
    across, up = made.get_size_inches()
    assert panel.height * up == pytest.approx(panel.width * across / 2)
    assert (bar.y0, bar.y1) == (pytest.approx(panel.y0), pytest.approx(panel.y1))


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("along", [-0.9, -0.5, 0.3, 0.6])
def test_the_name_of_an_epoch_lies_on_no_loss_of_a_contour_line(width, along):
    one = replace(bowl(steps=21), trajectory=replace(run(), x=np.array([along, along / 2, 0.0])))
    made = picture.trajectory_picture([one], width=width)
    FigureCanvasAgg(made).draw()
    left = made.axes[0]
    losses = [text for found in left.collections for text in getattr(found, "labelTexts", []) if text.figure]
    names = [text for text in left.texts if text.get_text().startswith("epoch")]
    assert losses
    assert len(names) == 2
    for a, b in itertools.product(losses, names):
        one, other = a.get_window_extent(), b.get_window_extent()
        assert min(min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)) < 1


@pytest.mark.parametrize("width", ["single", "double"])
def test_no_letters_are_cut_or_overlap_and_none_is_below_six_points(width):
    surfaces = [bowl("sgd", steps=9), bowl("a much longer name than there is room for", steps=9), bowl("sam", steps=9)]
    along = replace(along_run(), stability_limit=np.array([5.0, 38.0, np.inf]))
    names = [spectrum(f"checkpoint {n}") for n in range(7)]
    for made in (
        picture.overview_picture(surfaces, width=width),
        picture.difference_picture([paired("sgd", [0.0, 0.1]), paired("sam", [0.3, 50.0])], width=width),
        picture.trajectory_picture([replace(bowl(steps=9), trajectory=run())], width=width),
        picture.congruence_picture([trace("sgd"), trace("sam")], width=width),
        picture.spectrum_picture(names, width=width),
        picture.curvature_picture([along], width=width),
        picture.density_picture([density()], width=width),
        picture.diagonal_picture([entries(), entries("sam")], width=width),
        picture.layers_picture([*blocks(), *blocks("sam")], width=width),
        picture.spectrum_picture([spectrum(), sampled()], width=width),
        picture.line_picture([valley()], width=width),
    ):
        boxes = letters(made)
        assert min(size for _, size, _ in boxes) >= 6
        frame = made.bbox
        for text, _, box in boxes:
            cut = max(frame.x0 - box.x0, frame.y0 - box.y0, box.x1 - frame.x1, box.y1 - frame.y1)
            assert cut < 1, text
        for (one, _, a), (other, _, b) in itertools.combinations(boxes, 2):
            overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(overlap) < 2, (one, other)  # pixels of 1 / 150 inch


def letters(made):
    """What is written, how large, and where, without the losses on contour lines."""
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    hidden = {id(text) for ax in made.axes for found in ax.collections for text in getattr(found, "labelTexts", [])}
    for axis in (
        axis for ax in [*made.axes, *(a for b in made.axes for a in b.child_axes)] for axis in (ax.xaxis, ax.yaxis)
    ):
        low, high = sorted(axis.get_view_interval())
        beyond = [tick for tick in axis.get_major_ticks() + axis.get_minor_ticks() if not low <= tick.get_loc() <= high]
        hidden |= {id(text) for tick in beyond for text in (tick.label1, tick.label2)}
    texts = [text for text in made.findobj(Text) if text.get_text().strip() and text.get_visible()]
    texts = [text for text in texts if id(text) not in hidden]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    return [
        (text.get_text(), text.get_fontsize(), box) for text, box in zip(texts, boxes, strict=True) if box.width > 0
    ]


def test_a_panel_that_reaches_few_levels_of_the_bar_has_lines_of_its_own():
    steep, flat = bowl("sgd", centre=0.001, curvature=(300.0, 300.0), steps=21), bowl("sam", centre=1.3, steps=21)
    first, second, bar = picture.overview_picture([steep, flat]).axes
    levels = [[set(found.levels) for found in ax.collections if hasattr(found, "labelTexts")] for ax in (first, second)]
    assert levels[0][-1] <= set(bar.get_yticks())
    assert len(levels[1][-1]) >= 2
    assert all(np.log10(1.3) < level < np.log10(3.8) for level in levels[1][-1])


def test_what_is_not_finite_is_hatched_and_crossed_and_never_filled():
    loss = bowl(steps=9).loss.copy()
    loss[4, 1] = np.nan
    ax, _ = picture.overview_picture([changed(bowl(steps=9), loss)]).axes
    assert ax.patch.get_hatch()
    cross = next(line for line in ax.lines if line.get_marker() == "x")
    assert (cross.get_xdata(), cross.get_ydata()) == ([0.0], [-0.75])
    whole, _ = picture.overview_picture([bowl(steps=9)]).axes
    assert not whole.patch.get_hatch()


def test_points_left_out_of_a_line_are_counted_in_its_legend():
    loss = valley().loss.copy()
    loss[[1, 4]] = np.nan, np.inf
    made = picture.line_picture([changed(valley(), loss)])
    told = [text.get_text().replace("\n", " ") for text in made.legends[0].get_texts()]
    assert "sgd: 2 points left out, not finite or missing" in told


def test_a_clip_ends_the_colours_and_is_said():
    for draw in (picture.overview_picture, picture.relief_picture):
        made = draw([bowl()], clip=2.0)
        assert made.axes[-1].get_ylabel() == "mean train loss\nlinear scale, cut at 2"
        assert made.axes[-1].get_ylim()[1] == 2.0
        assert "cut" not in draw([bowl()], clip=9.0).axes[-1].get_ylabel()  # it cuts nothing
    with pytest.raises(ValueError, match=r"clip must be above the lowest loss, 0\.5, got 0\.25"):
        picture.overview_picture([bowl()], clip=0.25)


def test_differences_that_span_decades_are_drawn_on_a_signed_log_scale_that_is_said():
    near, far = paired("sgd", [0.0, 0.0, 0.0]), paired("sam", [-0.9, -1.0, -1.1])
    far = replace(far, examples=replace(far.examples, loss=far.examples.loss * np.linspace(1, 1e4, 5)[:, None, None]))
    _, bar = picture.difference_picture([near, far]).axes
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert labels[len(labels) // 2] == "0"
    assert "log beyond ±" in bar.get_ylabel()
    values = [abs(float(label)) for label in labels]
    assert values == values[::-1]
    _, plain = picture.difference_picture([near, paired("sam", [0.9, 1.0, 1.1])]).axes
    assert plain.get_ylabel() == "difference of mean losses"
    with pytest.raises(ValueError, match="kept the losses of equal examples: landscape surface CKPT CKPT --paired"):
        picture.difference_picture([bowl(), bowl("sam")])


def test_differences_are_drawn_on_each_data_on_which_they_were_measured():
    results = [
        replace(one, settings={**one.settings, "split": split, "paired_hash": split})
        for split in ("test", "train")
        for one in (paired("sgd", [0.0, 0.0]), paired("sam", [0.1, 0.3]), paired("asam", [0.5, 0.7]))
    ]
    made = picture.difference_picture(results)
    maps = [ax for ax in made.axes if ax.get_title()]
    assert [ax.get_title() for ax in maps] == ["sam\nless sgd", "asam\nless sgd"] * 2
    assert [ax.get_ylabel() for ax in maps] == ["train: y", "", "test: y", ""]


@pytest.mark.parametrize("width", ["single", "double"])
def test_a_picture_of_one_panel_is_no_higher_than_a_column_is_wide(width):
    for made in (
        picture.overview_picture([bowl()], width=width),
        picture.difference_picture([paired("sgd", [0.0, 0.1]), paired("sam", [0.3, 50.0])], width=width),
    ):
        assert made.get_figheight() < 4.5
        boxes = letters(made)
        for text, _, box in boxes:
            assert max(made.bbox.x0 - box.x0, box.x1 - made.bbox.x1, box.y1 - made.bbox.y1) < 1, text


def test_epochs_have_ticks_at_whole_numbers():
    made = picture.congruence_picture([trace(change=(0.1, 0.2))])
    made.draw_without_rendering()
    ticks = np.concatenate([ax.get_xticks() for ax in made.axes])
    np.testing.assert_array_equal(ticks, ticks.round())


def test_densities_of_different_kernels_are_drawn_with_the_widest():
    nodes, weights = np.array([[0.0, 1.0]] * 4), np.full((4, 2), 0.5)
    narrow, wide = (
        density(nodes=nodes, weights=weights, sticks=np.zeros(0), stick_residuals=np.zeros(0), kernel_width=width)
        for width in (0.1, 0.3)
    )
    first, second = of_one_width([narrow, replace(wide, grid=wide.grid)])
    assert (first.kernel_width, second.kernel_width) == (0.3, 0.3)
    assert second.mean is wide.mean
    gaussian = sum(np.exp(-(((first.grid - at) / 0.3) ** 2) / 2) for at in (0, 1)) / (0.6 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(first.mean, gaussian, rtol=1e-12)
    (ax,) = picture.density_picture([narrow, wide]).axes
    assert ax.get_ylabel() == "density (kernel σ = 0.3)"


def test_a_pdf_has_its_fonts_within_it_and_each_file_the_same_bytes_twice(tmp_path):
    for suffix in ("svg", "pdf"):
        for n in (1, 2):
            made = picture.overview_picture([bowl("sgd"), bowl("sam")])
            picture.save_picture(made, tmp_path / f"{n}.{suffix}", caption="two bowls")
        first, second = ((tmp_path / f"{n}.{suffix}").read_bytes() for n in (1, 2))
        assert first == second
        assert b"two bowls" in first
    assert b"/FontFile2" in first
    assert b"/Type3" not in first
    with pytest.raises(ValueError, match="a picture is written as png, svg, pdf, got"):
        picture.save_picture(made, tmp_path / "a.jpg")


@pytest.fixture
def with_a_font(tmp_path):
    """A font that has 模 and little else, known to matplotlib for a while."""
    import fontTools.ttLib
    from matplotlib import font_manager

    font = fontTools.ttLib.TTFont(font_manager.findfont("DejaVu Sans"))
    for table in font["cmap"].tables:
        table.cmap = {ord("模"): table.cmap[ord("A")]} if ord("A") in table.cmap else table.cmap
    for record in font["name"].names:
        record.string = "Lone Letter"
    font.save(tmp_path / "lone.ttf")
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "lone.ttf")
    yield
    font_manager.fontManager.ttflist[:] = before
    font_manager.fontManager._findfont_cached.cache_clear()


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_letter_that_the_usual_font_lacks_is_taken_from_one_that_has_it(with_a_font, recwarn, kind):
    made = [picture.picture_bytes(picture.spectrum_picture([spectrum(name)]), kind) for name in ("模", "模", "A")]
    assert made[0] == made[1]
    assert not [str(one.message) for one in recwarn]
    if kind == "png":
        assert made[0] == made[2]  # its glyph is that of an A
    else:
        assert b"Lone" in made[0]


def test_letters_that_no_font_has_are_named_once():
    missing = "\U000f1234"
    made = picture.spectrum_picture([spectrum(f"a {missing}"), spectrum(f"b {missing}")])
    with pytest.warns(UserWarning, match="no installed font") as said:
        picture.picture_bytes(made, "png")
    assert [str(one.message) for one in said] == [
        f"no installed font has {missing}: boxes stand for them in the picture"
    ]


def test_the_twin_of_a_diagonal_has_the_same_bars():
    made = picture.diagonal_picture([entries(), entries("sam")])
    (ax,) = made.axes
    assert [bar.get_width() for bar in ax.patches] == 2 * [3.0, -8.0, 0.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["in.weight", "in.bias", "out.weight"]
    assert {text.get_text() for text in made.legends[0].get_texts()} == {"sgd", "sam"}
    (ax,) = picture.diagonal_picture([hundred_tensors()]).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"t{n}" for n in (*range(7), *range(95, 100))]
