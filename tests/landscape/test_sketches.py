"""Pictures in characters: what stands where is known in closed form."""

import numpy as np
import pytest
from curvature_results import along_run, density, hundred_tensors
from plain_results import blocks

from landscape.ink import ASCII, BLOCKS, columns, shaded
from landscape.results import CongruenceTrace, Eigenpairs, Estimate, Line, Surface, status_of
from landscape.sketches import sketch


def surface(loss, x, y=None, label="sgd", **settings):
    return Surface(
        x=x,
        y=x if y is None else y,
        loss=loss,
        standard_error=0 * loss,
        accuracy=np.full_like(loss, 0.5),
        status=status_of(loss),
        checkpoint={"label": label, "hash": label},
        settings={"unit": "filter-normalized", **settings},
    )


def bowl(steps, label="sgd", height=0.1, extent=1.0, **settings):
    x = np.linspace(-extent, extent, steps)
    return surface(loss_of(x[:, None], x[None, :], height), x, label=label, **settings)


def loss_of(x, y, height=0.1):
    """Neither even in y nor equal in x and y: turned or mirrored, it is another."""
    return height + x**2 + 3 * (y - 0.25) ** 2


def the_map(text):
    """The lines of the only map of a picture, the topmost first, without what stands beside it."""
    lines = text.splitlines()
    end = next(n for n, line in enumerate(lines) if line.startswith("x -"))
    columns = 2 * (end - 1) - 1
    return [f"{line:<{columns}}"[:columns] for line in lines[1:end]]


@pytest.mark.parametrize("ink", [BLOCKS, ASCII])
def test_the_rings_of_a_paraboloid_are_where_they_must_be(ink):
    text = sketch([bowl(201)], ink=ink)
    lines = the_map(text)
    edges = [
        float(line.split(" to ")[0].split()[-1]) for line in text.splitlines() if " to " in line and "x -" not in line
    ]
    assert len(edges) == len(ink.bands) == len(set(ink.bands))
    seen = set()
    for y, line in zip(np.linspace(1, -1, len(lines)), lines, strict=True):
        for x, character in zip(np.linspace(-1, 1, len(line)), line, strict=True):
            loss = loss_of(x, y)
            if character != "+" and all(abs(loss / edge - 1) > 0.02 for edge in edges):
                seen.add(character)
                assert character == ink.bands[sum(loss > edge for edge in edges[:-1])], (x, y)
    assert seen == set(ink.bands)


def test_the_checkpoint_is_marked_at_the_origin_wherever_that_is():
    lines = the_map(sketch([bowl(21)]))
    assert lines[len(lines) // 2][len(lines[0]) // 2] == "+"
    assert sum(line.count("+") for line in lines) == 1
    x = np.linspace(-1, 3, 21)
    lines = the_map(sketch([surface(loss_of(x[:, None], x[None, :]), x)]))
    assert lines[round(0.75 * (len(lines) - 1))][round(0.25 * (len(lines[0]) - 1))] == "+"
    away = np.linspace(1, 2, 5)
    assert "+" not in sketch([surface(loss_of(away[:, None], away[None, :]), away)]).split("x 1 to 2")[0].replace(
        "+ the checkpoint", ""
    )


def test_each_cell_that_is_not_finite_is_marked_and_counted():
    for steps in (5, 201):
        one = bowl(steps)
        one.loss[0, 0], one.loss[-1, 0], one.loss[steps // 4, steps // 4] = np.nan, np.inf, np.nan
        one.status[:] = status_of(one.loss)
        text = sketch([one])
        lines = the_map(text)
        assert (lines[-1][0], lines[-1][-1], lines[0][0]) == ("×", "×", lines[0][0])
        if steps == 201:  # else a gap is as large as a cell
            assert sum(line.count("×") for line in lines) == 3
        assert "× 2 nan" in text
        assert "× 1 +inf" in text


def test_a_surface_without_a_finite_loss_is_all_marks():
    one = bowl(3)
    one.loss[:] = np.nan
    one.status[:] = status_of(one.loss)
    text = sketch([one], ink=ASCII)
    assert "x 9 nan" in text
    assert set("".join(the_map(text))) == {"x", "+"}


def test_losses_below_zero_have_a_linear_scale():
    one = bowl(21, height=-1.0)
    assert "linear scale" in sketch([one])
    assert "log scale" in sketch([bowl(21)])


@pytest.mark.parametrize("steps", [1, 2, 3, 51, 201])
@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_maps_keep_to_the_width_and_height_they_are_given(steps, width, count):
    some = [bowl(steps, f"checkpoint {n}", extent=0.0 if steps == 1 else 1.0) for n in range(count)]
    lines = sketch(some, width=width, height=24).splitlines()
    assert max(map(len, lines)) <= width
    heads = [n for n, line in enumerate(lines) if "checkpoint 0" in line or line.startswith("checkpoint")]
    assert all(later - n <= 24 for n, later in zip(heads, [*heads[1:], len(lines)], strict=True))
    assert all(f"checkpoint {n}" in "\n".join(lines) for n in range(count))


def test_checkpoints_on_one_plane_share_one_scale():
    text = sketch([bowl(21, "low", height=0.01), bowl(21, "high", height=100.0)], ink=ASCII)
    assert text.count("mean loss") == 1
    first = text.splitlines()[0].index("high") - 2
    rows = [line[:first] for line in text.splitlines()[1:18]]
    assert "#" not in "".join(rows)  # the highest band is the other's alone


def test_several_planes_say_which_is_which():
    text = sketch([bowl(5, seed=0, split="train"), bowl(5, seed=1, split="train")])
    assert "split train, seed 0" in text
    assert "split train, seed 1" in text


def test_pictures_in_ascii_are_ascii_and_names_bring_no_control_characters():
    some = [bowl(9, "a\x1b[31mred\u202e"), density(), along_run(), *pairs([3.0, 1.0]), congruence()]
    text = sketch(some, ink=ASCII)
    assert text.isascii()
    assert "\x1b" not in text
    assert "\u202e" not in text


def line(loss, x, **changes):
    values = {"standard_error": 0 * loss, "accuracy": 0 * loss + 0.5, "status": status_of(loss)}
    return Line(x=x, loss=loss, checkpoint={"label": "sgd"}, **{**values, "settings": {}, **changes})


def test_a_line_is_as_high_as_its_loss():
    x = np.linspace(-1, 1, 61)
    name, *rows, marks, told = sketch([line(10.0 ** (3 * x), x)]).splitlines()
    heights = [sum(" ▁▂▃▄▅▆▇█".index(row.ljust(61)[c]) for row in rows) for c in range(61)]
    assert heights == [1 + min(int(48 * n / 60), 47) for n in range(61)]  # log10 of the loss is linear
    assert marks == " " * 30 + "+"
    assert name == "sgd"
    assert told == "x -1 to 1; + the checkpoint"
    assert "  1000" in rows[0]


def test_a_line_marks_its_other_end_and_what_is_not_finite():
    x = np.linspace(0, 1, 11)
    loss = 1 + x
    loss[5] = np.nan
    ends = [{"name": "sgd", "coordinates": [0.0]}, {"name": "sam", "coordinates": [1.0]}]
    text = sketch([line(loss, x, settings={"landmarks": ends})])
    assert "A sam" in text
    assert "sgd;" not in text
    marks = text.splitlines()[-2]
    assert (marks[0], marks[-1]) == ("+", "A")
    assert "× 1 not finite" in text


def pairs(values, label="sgd"):
    values = np.array(values)
    flags = np.ones(len(values), bool)
    return [
        Eigenpairs(
            values=values,
            vectors=None,
            residuals=0 * values,
            converged=flags,
            complete=True,
            num_matvecs=9,
            checkpoint={"label": label, "hash": label},
        )
    ]


def test_eigenvalues_have_one_scale_that_holds_zero():
    text = sketch([*pairs([8.0, 4.0, 0.0], "a"), *pairs([4.0, 4.0, 4.0], "b")])
    assert text.splitlines()[1:] == ["a  ████▅▅▅▅▁▁▁▁  0 to 8.00", "b  ▅▅▅▅▅▅▅▅▅▅▅▅  4.00 to 4.00"]


def test_curvature_through_training_has_a_curve_for_each_quantity():
    lines = sketch([along_run()]).splitlines()
    assert lines[0] == "Curvature through training, epochs 1 to 3; equal quantities share a scale; × not measured"
    assert lines[1] == "sgd  lambda_1  ▁▁▁▁▅▅▅▅████  4.00 to 8.00"
    assert lines[4].split()[2] == "××××▁▁▁▁████"


def congruence(epochs=3):
    values = np.linspace(0.1, 0.7, epochs)
    names = ("cosine_b", "cosine_a", "change")
    series = {name: values.copy() for name in names} | {f"{name}_standard_error": values / 9 for name in names}
    series["cosine_a"][1] = np.nan
    counts = np.ones(epochs, int)
    return CongruenceTrace(
        epoch=np.arange(1, epochs + 1),
        num_probes=counts,
        learning_rate=values,
        checkpoint={"label": "sam", "hash": "sam"},
        **series,
    )


def test_congruence_is_three_curves_and_marks_epochs_that_were_not_probed():
    lines = sketch([congruence()]).splitlines()
    assert lines[1] == "sam  cosine before  ▁▁▁▁▅▅▅▅████  0.100 to 0.700"
    assert lines[2].split()[2] == "▁▁▁▁××××████"


def test_a_long_run_is_drawn_by_means_of_neighbouring_epochs():
    curve = sketch([congruence(1000)], width=110).splitlines()[1].split()[3]
    assert len(curve) == 61
    assert (curve[0], curve[-1]) == ("▁", "█")
    assert list(curve) == sorted(curve)


def test_a_density_is_columns_on_a_log_scale_with_a_stick_where_each_outlier_is():
    one = density()
    name, *rows, axis = sketch([one]).splitlines()
    assert name == "sgd"
    assert axis == "eigenvalues from -1.00 to 40.0; │ each of 2 that converged"
    edges = np.linspace(-1, 40, 62)
    places = [c for c in range(61) if "│" in {row.ljust(61)[c] for row in rows}]
    assert places == [int(np.searchsorted(edges, 20.0)) - 1, 60]
    assert rows[0][1:3] != "  "  # the bulk, at 0
    assert "  1.00" in rows[0]


def test_layers_are_bars_as_long_as_their_largest_eigenvalue():
    both = blocks(layers={"conv": (4.0, 1.0), "fc": (10.0,)}) + blocks("sam", {"conv": (-5.0,), "fc": (np.nan,)})
    for ink in (BLOCKS, ASCII):
        title, *rows = sketch(both, width=100, ink=ink).splitlines()
        assert title == "Largest eigenvalue of each layer's own block; a bar is its size"
        full = ink.parts[-1]
        assert rows == [
            f"conv  sgd  {32 * full} 4.00",
            f"      sam  {40 * full} -5.00",
            f"fc    sgd  {79 * full} 10.0",
            f"      sam  {ink.left_out} nan",
        ]


def test_rows_of_layers_are_the_sharpest_of_all_checkpoints_and_fill_the_height():
    up, down = ({f"l{k}": (float(1 + (k if rising else 29 - k)),) for k in range(30)} for rising in (True, False))
    title, *rows = sketch(blocks(layers=up) + blocks("sam", down), height=24).splitlines()
    assert title.startswith("Largest eigenvalue of each layer's own block, the 11 largest of 30")
    assert len(rows) == 22
    many = [one for n in range(24) for one in blocks(f"c{n}", up)]
    title, *rows = sketch(many, height=24).splitlines()
    assert ", the largest of 30" in title
    assert len(rows) == 24


def test_tensors_are_bars_as_long_as_their_traces_and_of_many_the_largest_are_shown():
    title, *rows = sketch([hundred_tensors()], width=100).splitlines()
    assert title == "Trace of each tensor, the 23 largest of 100; a bar is its size"
    assert len(rows) == 23
    lengths = [row.count("█") for row in rows]
    assert lengths[0] == max(lengths)  # the trace of -50
    assert rows[0].endswith(" -50.0")


def test_no_word_of_a_title_is_cut():
    text = sketch([along_run()], width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "Curvature through training, epochs 1 to 3; equal quantities share a scale" in " ".join(text.split())


def test_what_is_one_number_has_no_picture():
    one = Estimate(quantity="trace", value=1.0, standard_error=0.1, num_samples=4, num_matvecs=4)
    assert sketch([one]) == ""
    assert sketch(pairs([1.0])) == ""
    assert sketch([]) == ""


def test_equal_values_and_values_beyond_the_range_are_drawn():
    assert columns(np.array([2.0, 2.0, np.nan]), 2.0, 2.0) == ["▅▅×"]
    assert columns(np.array([-1.0, 9.0]), 0.0, 1.0, 2) == [" █", " █"]
    assert shaded(np.array([[-5.0, 5.0]]), 0.0, 1.0, ASCII) == [" #"]
