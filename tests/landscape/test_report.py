import base64
import csv
import html
import json
import re
import subprocess
import sys

import numpy as np
import plotly.offline
import pytest
from curvature_results import along_run, density, entries
from plain_results import paired
from scipy.stats import ttest_ind

from landscape.page.captions import surface_command
from landscape.report import write_report
from landscape.results import (
    Congruence,
    CongruenceTrace,
    DataSpread,
    Eigenpairs,
    Estimate,
    ExampleLosses,
    Line,
    Surface,
    status_of,
)


def bowl(label="sgd", *, split="train", centre=0.5, accuracy=0.9, steps=5, count=400, seed=0, checks=None, **settings):
    x = np.linspace(-1, 1, steps)
    loss = centre + 2.0 * x[:, None] ** 2 + 0.5 * x[None, :] ** 2
    return Surface(
        x=x,
        y=x,
        loss=loss,
        standard_error=0.1 * loss,
        accuracy=np.full_like(loss, accuracy),
        status=status_of(loss),
        checkpoint={"label": label, "hash": f"{label}-hash", "method": "sam", "config": {"method": "sam", "rho": 0.4}},
        settings={"split": split, "num_examples": count, "directions": "random", "seed": seed, **settings},
        checks={"centre_error": 3e-8, "centre_ok": True} if checks is None else checks,
    )


def changed(result, **values):
    if "loss" in values and isinstance(result, Surface):
        values["status"] = status_of(values["loss"])
    return type(result)(**{**vars(result), **values})


def spectrum(label="sgd", values=(4.0, 1.0), loss=0.5, converged=True, complete=True):
    return Eigenpairs(
        values=np.array(values),
        vectors=None,
        residuals=0.001 * np.abs(values),
        converged=np.full(len(values), converged),
        complete=complete,
        num_matvecs=31,
        loss=loss,
        checkpoint={"label": label, "hash": f"{label}-hash"},
        settings={"operator": "hessian", "split": "train"},
    )


def trace(label="sgd"):
    change = np.array([0.1, 0.2])
    return CongruenceTrace(
        epoch=np.array([1, 2]),
        cosine_b=0.3 + 0 * change,
        cosine_a=0.3 + change,
        change=change,
        cosine_b_standard_error=0.03 + 0 * change,
        cosine_a_standard_error=0.03 + 0 * change,
        change_standard_error=0.03 + 0 * change,
        learning_rate=change,
        num_probes=np.array([3, 3]),
        checkpoint={"label": label, "hash": f"{label}-hash"},
        settings={"radius": 0.05, "probe_every": 2, "mode": "train"},
    )


@pytest.fixture
def page(tmp_path):
    def write(*results, **options):
        path = tmp_path / "report.html"
        write_report(results, path, **options)
        return path.read_text("utf-8")

    return write


def ours(text):
    """The page without plotly.js."""
    return re.sub(r"<script>(?!\s*\"use strict\").*?</script>", "", text, flags=re.DOTALL)


def visible(text):
    """What a reader sees: no scripts, no styles, no tags."""
    text = re.sub(r"<(script|style).*?</\1>|<wbr>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)))


def heading(text):
    return visible(re.search(r"<h1>.*?</h1>", text, re.DOTALL)[0]).strip()


def data(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def columns(text):
    return [[column["name"] for column in plane["columns"]] for plane in data(text)["planes"]]


def test_the_page_is_one_small_file_without_addresses(page):
    text = page(bowl(), spectrum(), trace())
    assert len(text.encode()) < 6_000_000
    assert not re.search(r"""(src|href)=(?!"#)|url\(|@import|https?://""", ours(text))
    assert "default-src 'none'" in text
    assert '<html lang="en">' in text
    assert "showSendToCloud: false" in text


def test_content_comes_before_any_script(page):
    text = page(bowl(), spectrum(), trace())
    assert text.index("<h1>") < text.index("<table>") < text.index("</footer>") < text.index("<script")


def test_names_titles_and_commands_are_text_never_code(page):
    name = "\"><script>alert(1)</script> ' ${x} é 漢字 \u2028"
    hostile = [
        changed(one, checkpoint={"label": name, "hash": name, "method": name}) for one in (bowl(), spectrum(), trace())
    ]
    hostile[0] = changed(hostile[0], settings={**hostile[0].settings, "split": name, name: name, "directions": name})
    text = page(*hostile, title=name, commands=[name])
    assert "<script>alert" not in text
    assert "alert(1)" not in re.sub(r"<script type.*?</script>", "", text, flags=re.DOTALL).replace(
        "&lt;script&gt;alert(1)", ""
    )
    assert data(text)["planes"][0]["columns"][0]["name"] == name
    assert html.escape(name) in text


def test_a_name_cannot_turn_the_text_around_it(page):
    text = page(changed(bowl(), checkpoint={"label": "ok\u202e089\u2066\x07", "hash": "h"}))
    assert data(text)["planes"][0]["columns"][0]["name"] == "ok089"
    assert "\u202e" not in visible(text)


def test_equal_spectra_of_a_checkpoint_are_one(page):
    short = {n: getattr(spectrum(), n)[:1] for n in ("values", "residuals", "converged")}
    shorter = Eigenpairs(**{**vars(spectrum()), **short, "vectors": None})
    assert len(data(page(spectrum(), shorter, spectrum()))["eigenvalues"]["data"]) == 1


def test_equal_results_give_equal_bytes(page):
    results = [bowl(), spectrum(), trace()]
    assert page(*results) == page(*results)


def test_an_empty_report_says_which_commands_fill_it(page):
    text = visible(page())
    for command in ("landscape surface CKPT", "landscape hessian CKPT", "landscape alignment RUN"):
        assert command in text


def test_what_is_missing_names_once_the_command_that_makes_it(page):
    some = {"steps": 5, "seed": 3, "batch_norm": "recalibrated"}
    written = page(bowl("a", **some), bowl("a", split="test", **some), bowl("b", **some), spectrum("a"), trace("c"))
    text, unmeasured = visible(written), data(written)["planes"][0]["missing"]["test"]
    command = "landscape surface CKPT --split test --seed 3 --steps 5 --batch-norm recalibrated --out surface-test.npz"
    assert f"No test surface of b on this plane yet: {command}" in text
    assert f"No test surface of b, c yet: {command}" in text[text.index("Every measure at every checkpoint") :]
    assert "No spectrum of b, c yet: landscape hessian CKPT" in text
    assert visible(unmeasured).strip() == "Not measured on test."


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"directions": "pca", "intervals": [[-1, 2], [0, 1]]}, "--directions pca --steps 5"),
        ({"directions": "given", "layers": ["fc"]}, "--directions FILE --steps 5 --layers fc"),
        ({"directions": "random", "seed": 0, "extent": 1.0, "batch_norm": "frozen"}, "--steps 5"),
        ({"directions": "random", "extent": 0.5, "precision": "bf16"}, "--steps 5 --extent 0.5 --precision bf16"),
    ],
)
def test_the_command_for_what_is_missing_measures_the_same_plane(settings, options):
    like = changed(bowl(), settings=settings)
    assert surface_command("validation", like) == f"landscape surface CKPT --split val {options} --out surface-val.npz"


@pytest.mark.parametrize(
    "one", [bowl(), spectrum(), trace(), Congruence(value=float("nan"), standard_error=0.0, status="zero gradient")]
)
def test_results_without_any_record_are_drawn(page, one):
    text = visible(page(changed(one, checkpoint={}, settings={}, checks={})))
    assert "unnamed checkpoint" in text


def test_several_test_accuracies_within_noise_are_not_called_different(page):
    text = heading(page(bowl("a", split="test", accuracy=0.95), bowl("b", split="test", accuracy=0.97)))
    assert text == "Test accuracies of these 2 checkpoints are within noise (95.0 ± 1.1 % to 97.0 ± 0.9 %)."


def test_ties_at_both_ends_of_the_accuracies_are_named(page):
    results = [bowl(name, split="test", accuracy=p) for name, p in (("a", 0.70), ("b", 0.95), ("c", 0.96), ("d", 0.71))]
    assert heading(page(*results)).endswith(
        "at a to 96.0 ± 1.0 % at c, b within noise of it; d within noise of the lowest."
    )


def test_a_difference_beyond_noise_is_told_with_its_errors(page):
    text = heading(page(bowl("a", split="test", accuracy=0.7), bowl("b", split="test", accuracy=0.95)))
    assert text == "Test accuracy ranges from 70.0 ± 2.3 % at a to 95.0 ± 1.1 % at b."


def test_accuracies_of_different_test_data_are_not_compared(page):
    results = [bowl("a", split="test", accuracy=0.7), bowl("b", split="test", accuracy=0.95, data_hash="other")]
    assert "not compared" in heading(page(*results))


def test_curvature_is_told_with_its_train_loss_and_never_as_flatness(page):
    text = page(
        bowl("a", centre=0.003), bowl("b", centre=1.32), spectrum("a", (2.0,), 0.003), spectrum("b", (6.4,), 1.32)
    )
    assert (
        "λmax is 2.00 at a (train loss 0.00300) and 6.40 at b (train loss 1.32), a ratio of 0.31250 ± 0.00044 (±: "
        "residuals)" in heading(text)
    )
    assert not re.search(r"\b(flat|flatter|flattest|sharper|better|worse)\b", visible(text))


def test_eigenvalues_within_their_residuals_are_not_told_apart(page):
    assert (
        heading(page(spectrum("a", (4.0,)), spectrum("b", (4.007,))))
        == "λmax of these 2 checkpoints is not told apart: 4.00 at a (train loss 0.500) and 4.01 at b (train loss "
        "0.500), within both residuals."
    )
    three = heading(page(spectrum("a", (4.0,)), spectrum("b", (4.007,)), spectrum("c", (8.0,)), spectrum("d", (8.01,))))
    assert "b not told apart from the lowest; c not told apart from the highest" in three


def test_the_ratio_of_eigenvalues_has_the_error_of_the_examples_where_it_is_known(page):
    results = [
        spectrum("a", (4.0,)),
        spectrum("b", (8.0,)),
        *(sample(*of) for of in (("a", 0.3, 4.0), ("b", 0.8, 8.0))),
    ]
    relative = np.hypot(0.3 / 4, 0.8 / 8)
    assert f"a ratio of 0.500 ± {0.5 * relative:.3f} (±: standard errors of the examples)" in heading(page(*results))
    wide = [spectrum("a", (4.0,)), spectrum("b", (8.0,)), *(sample(*of) for of in (("a", 2.0, 4.0), ("b", 2.0, 8.0)))]
    assert "is not told apart" in heading(page(*wide))
    assert "within two standard errors of the examples" in heading(page(*wide))


def test_curvature_without_a_loss_is_not_in_the_headline(page):
    assert "λ" not in heading(page(spectrum("a", loss=float("nan"))))


def test_many_checkpoints_within_noise_are_counted(page):
    near = [bowl(f"run {n}", split="test", accuracy=0.95) for n in range(7)]
    assert "at run 0, 6 others within noise of it" in heading(page(bowl("low", split="test", accuracy=0.5), *near))


def test_one_run_each_speaks_of_checkpoints(page):
    text = visible(page(bowl("a"), changed(bowl("b"), checkpoint={"label": "b", "hash": "b", "config": {"rho": 1}})))
    assert "2 checkpoints, one run each: this compares checkpoints, not methods" in text


def test_the_table_has_each_number_with_its_uncertainty(page):
    text = visible(
        page(bowl("a"), bowl("a", split="test", accuracy=0.95), spectrum("a"), spectrum("b", (8.0, 2.0), 0.1))
    )
    row = text[text.index("Every measure at every checkpoint") :]
    for cell in (
        "sam, rho 0.4",
        "0.500 ± 0.050",
        "90.0 ± 1.5 %",
        "95.0 ± 1.1 %",
        "4.0000 ± 0.0040",
        "1.39, 0.60",
        "8.0000 ± 0.0080",
    ):
        assert cell in row
    assert re.search(
        r"8.0000 ± 0.0080 2.08, 0.90 2.00 yes 31 2.00", row
    )  # ln, log10, vs a, converged, products, second


def test_the_csv_has_full_precision(page):
    text = data(page(bowl("a", centre=0.1), spectrum("a", (1 / 3, 0.2))))["csv"]
    (row,) = csv.DictReader(text.splitlines())
    assert float(row["train_loss"]) == 0.1
    assert float(row["lambda_1"]) == 1 / 3
    assert row["test_loss"] == ""


def test_equal_losses_are_not_told_as_a_range(page):
    text = visible(page(*(bowl(f"run {n}") for n in range(6))))
    assert "Loss on train at the centre: 0.500 at all 6 checkpoints" in text
    assert "has risen by 0.1 along x at all 6 checkpoints alike: |x| = 0.224 (centre 0.500)" in text
    for gap, tie in ((0.01, True), (1.0, False)):
        text = visible(page(*(bowl(f"run {n}", centre=1.0 + gap * n) for n in range(6))))
        assert ("(run 5), within two standard errors of each other" in text) == tie


def test_what_another_program_found_is_told_with_the_spectrum(page):
    check = {"eigenvalue": 4.0001, "difference": 2.5e-5, "trace": 9.0, "trace_standard_error": 1.0, "num_matvecs": 40}
    checked = changed(spectrum(values=(4.0,)), checks={"pyhessian": check})
    text = visible(page(spectrum(), checked))  # the longer one is drawn, and the check of the shorter one kept
    assert "✓ PyHessian on the same data finds 4.00 at sgd (0.00250 % apart)." in text
    wrong = changed(checked, checks={"pyhessian": {**check, "difference": 0.2}})
    assert "✗ PyHessian on the same data finds 4.00 at sgd (20.0 % apart). More than 1 % apart" in visible(page(wrong))
    other = changed(checked, checks={"pyhessian": {**check, "difference": float("nan")}})
    assert "the other end of the spectrum, which does not compare" in visible(page(other))


def test_provenance_says_once_what_all_results_share(page):
    text = page(*(bowl(f"run {n}", precision="fp32") for n in range(30)))
    drawer = visible(text[text.index("<summary>Provenance") :])
    assert drawer.count("precision fp32") == 1
    assert "Surface (30)" in drawer


def test_flags_are_visible(page):
    text = visible(page(bowl(), spectrum(converged=False, complete=False)))
    assert "2 of 2 eigenvalues have not converged" in text
    assert "may have been missed" in text
    assert "NO (0 of 2), not complete" in text


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        (
            {"centre_ok": True, "centre_error": 3e-8},
            "✓ centre check: loss at the centre equals the checkpoint’s (relative difference 3e-08)",
        ),
        ({"centre_ok": False, "centre_error": 0.2}, "✗ centre check FAILED"),
        ({}, "The centre was not checked"),
    ],
)
def test_the_centre_check_is_shown(page, checks, said):
    assert said in visible(page(bowl(checks=checks)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -2.0, 1e300, 1e-300])
def test_surfaces_of_any_value_are_written(page, value):
    text = page(changed(bowl(), loss=np.full((5, 5), value)))
    assert data(text)["linear_only"] == (value in (0.0, -2.0))
    if not np.isfinite(value):
        assert "25 of 25 cells left out" in visible(text)
    page(*(changed(bowl(seed=seed), loss=np.full((5, 5), value)) for seed in (0, 1)))


def test_a_surface_of_one_cell_is_written(page):
    assert len(data(page(bowl(steps=1)))["planes"][0]["members"][0]["train"]["surfaces"]) == 1


def test_different_planes_are_shown_apart(page):
    text = page(bowl("a"), bowl("b", seed=1), bowl("c"), bowl("d", steps=3))
    assert columns(text) == [["a", "c"], ["b"], ["d"]]
    assert "3 different planes or grids" in visible(text)


def test_different_data_never_share_a_range(page):
    found = data(page(bowl("a"), bowl("b", labels="clean", centre=100.0), bowl("a", split="test")))
    assert [*found["splits"]] == ["train", "train-2", "test"]
    assert found["planes"][0]["members"][0]["train"]["views"]["linear"]["high"] < 10


def test_what_is_measured_twice_is_shown_twice_and_a_copy_of_it_once(page):
    assert columns(page(bowl("a"), bowl("b"), bowl("a", centre=0.6))) == [["a", "a [2]", "b"]]
    assert columns(page(bowl("a"), bowl("b"), bowl("a"))) == [["a", "b"]]


def test_packed_arrays_are_rows_of_y_and_keep_seven_digits(page):
    surface = bowl()
    packed = data(page(surface))["planes"][0]["members"][0]["train"]["surfaces"][0]["loss"]
    rows = np.frombuffer(base64.b64decode(packed["data"]), "<f4").reshape(packed["rows"], packed["columns"])
    np.testing.assert_allclose(rows, surface.loss.T, rtol=1e-7)


def test_a_large_comparison_stays_small(page):
    surfaces = [bowl(f"run {n}", steps=51, split=split) for n in range(8) for split in ("train", "test")]
    text = page(*surfaces, *[spectrum(f"run {n}") for n in range(8)], *[trace(f"run {n}") for n in range(8)])
    assert len(text.encode()) < 6_000_000
    assert len(data(text)["planes"][0]["columns"]) == 8


def test_the_rise_is_told_with_the_step_that_it_is_less_than(page):
    text = visible(page(bowl()))
    assert "risen by 0.1 along x: sgd at |x| = 0.224 (centre 0.500); below 0.500, one step of the grid, it is" in text
    assert "one step of the grid, it is" not in visible(page(bowl(steps=21)))


def test_provenance_and_commands_are_in_the_drawers(page):
    text = visible(page(bowl("a", versions={"torch": "2.15.0"}), commands=["landscape surface a.pt"]))
    assert "torch 2.15.0" in text
    assert "landscape surface a.pt" in text
    assert "hash a-hash" in text


def test_a_failed_write_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_report([object()], path)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_the_page_is_written_without_torch(tmp_path):
    code = (
        "import sys, landscape.report as r; r.write_report([], sys.argv[1]); "
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "report.html")], check=True)


def test_a_page_of_planes_that_end_at_the_checkpoint_tells_no_step_it_has_not(page):
    at = np.linspace(-1, 0, 5)
    text = visible(page(*(changed(bowl("a", seed=seed), x=at, y=at) for seed in (3, 4))))
    assert "Flatness over several planes" in text
    assert not re.search(r"\bnan\b", text)
    assert "one step of the grid, the loss is taken for a bowl" not in text
    assert "one step of the grid, the loss is taken for a bowl" in visible(page(*(bowl("a", seed=n) for n in (3, 4))))


def test_the_note_of_differences_has_the_knee_of_their_scale(page):
    text = visible(page(paired("sgd", [0.0, 0.1]), paired("sam", [0.1, 0.25])))  # 0.125 ± 0.025
    assert "A symlog scale is linear up to ±0.01, near the median standard error" in text


def test_seeds_of_the_same_checkpoints_are_one_family_of_planes(page):
    text = page(*(bowl(label, seed=seed) for seed in (3, 4) for label in ("a", "b")), bowl("c", seed=4))
    assert columns(text) == [["a", "b", "c"], ["a", "b"]]  # other checkpoints: another family; the largest first
    text = page(*(bowl(label, seed=seed) for seed in (3, 4, 5) for label in ("a", "b")))
    assert len(data(text)["planes"][0]["members"]) == 3
    assert "Flatness over several planes" in visible(text)
    assert "different planes or grids" not in visible(text)
    apart = page(*(bowl("a", seed=seed) for seed in (3, 4, 5)), bowl("b", seed=3))  # the planes are two families
    assert visible(apart).count("Flatness over several planes") == 1
    assert "a 3 0.500" in visible(apart)


def test_a_line_alone_makes_a_page(page):
    x = np.linspace(-1, 1, 5)
    line = Line(
        x=x,
        loss=x,
        standard_error=0 * x,
        accuracy=0 * x,
        status=status_of(x),
        checkpoint={"label": "a"},
        settings={"split": "test"},
    )
    text = page(line, changed(line, settings={"split": "train"}))
    assert [list(figure) for figure in data(text)["lines"]] == [["linear"], ["linear"]]  # a loss below zero: no log
    assert "The train loss along a line is lowest -1.00 at x = -1 of a (0 at the checkpoint)" in visible(text)
    assert "No surface yet: landscape surface CKPT" in visible(text)


def test_a_bracket_at_the_start_of_a_row_is_no_option_of_the_row_before_in_latex(page):
    text = data(page(bowl("a"), bowl("[b]")))["latex"]
    assert "\n{[}b] &" in text


def test_the_latex_of_the_table_is_escaped_and_has_a_cell_for_each_column(page):
    text = data(page(bowl("a_1 & $b$ \\ 100 %"), spectrum("a_1 & $b$ \\ 100 %")))["latex"]
    assert r"a\_1 \& \$b\$ \textbackslash{} 100 \%" in text
    assert r"0.500 $\pm$ 0.050" in text
    head, row = (line.replace(r"\&", "") for line in text.splitlines() if line.endswith(r"\\"))
    assert head.count("&") == row.count("&") == len(re.search(r"{tabular}{(\w+)}", text)[1]) - 1


def test_differences_that_do_not_fit_are_in_the_table(page):
    def kept(label, shift):
        one = bowl(label, paired_hash="p", num_paired=4)
        losses = one.loss[..., None] + shift * np.arange(4)
        return changed(one, examples=ExampleLosses(loss=losses, denominator=np.ones(4)))

    text = page(*(kept(f"run {n}", n) for n in range(12)))
    assert len(data(text)["differences"]) == 7
    assert "The table has 4 more" in visible(text)
    assert "run 11 less run 0" in visible(text)
    assert data(page(bowl("a"), bowl("b")))["differences"] == []


def test_fifty_checkpoints_have_a_picture_for_three(page):
    text = page(*(bowl(f"epoch {n}", centre=1 + n) for n in range(50)))
    assert heading(text) == "Train loss ranges from 1.00 ± 0.10 at epoch 0 to 50.0 ± 5.0 at epoch 49."
    assert len(columns(text)[0]) == 50
    assert len(re.findall(r'class="contour"', ours(text))) == 3
    assert len(data(text)["planes"][0]["members"][0]["train"]["surfaces"]) == 50


def test_a_surface_without_a_finite_number_is_told_as_such(page):
    lost = changed(bowl("lost"), loss=np.full((5, 5), np.nan))
    text = page(lost, bowl("fine"))
    assert heading(text) == "Train loss 0.500 ± 0.050 at fine. No finite train loss at 1 checkpoint."
    table = visible(text)[visible(text).index("Every measure at every checkpoint") :]
    assert "lost sam, rho 0.4 nan" in table  # not a dash: it was measured
    assert "No finite loss was measured on train" in visible(page(lost))


def test_a_grid_without_its_centre_is_told_by_what_it_holds(page):
    text = page(bowl("one", steps=1))
    assert "a grid of one cell, nothing to draw: train loss 3.00 ± 0.30" in visible(text)
    assert "Loss on train: 3.00; not finite at the checkpoints, or not measured there" in visible(text)


def test_a_long_name_is_cut_inside_and_whole_in_the_provenance(page):
    name = "a_very_long_name_" * 9
    text = page(
        changed(bowl(), checkpoint={"label": f"{name}1", "hash": "1"}),
        changed(bowl(), checkpoint={"label": f"{name}2", "hash": "2"}),
    )
    shown = [column["name"] for column in data(text)["planes"][0]["columns"]]
    assert len(set(shown)) == 2
    assert max(map(len, shown)) <= 48
    assert f"{name}1" in visible(text)


def test_names_that_are_equal_once_cut_are_told_apart_by_their_hashes(page):
    names = [f"{'x' * 30}{middle}{'y' * 30}" for middle in "ab"]
    text = page(*(changed(bowl(), checkpoint={"label": name, "hash": f"{name[30]}234567890"}) for name in names))
    assert {name[-11:] for name in columns(text)[0]} == {" (a2345678)"[-11:], " (b2345678)"[-11:]}


def test_a_large_surface_is_written_whole(page):
    text = page(bowl(steps=201))
    assert data(text)["planes"][0]["members"][0]["train"]["surfaces"][0]["loss"]["rows"] == 201


def test_estimates_stand_in_the_table_with_their_errors(page):
    estimate = Estimate(
        quantity="effective_rank",
        value=10.28,
        standard_error=0.17,
        num_samples=4,
        num_matvecs=60,
        checkpoint=spectrum().checkpoint,
        settings=spectrum().settings,
    )
    text = visible(page(spectrum(), estimate))
    assert "trace / λmax" in text
    assert "10.28 ± 0.17" in text


def test_a_page_of_smallest_eigenvalues_tells_them_with_their_losses(page):
    low = {**spectrum().settings, "which": "smallest", "k": 2}
    first, other = (changed(spectrum(label, (-1.0, value)), settings=low) for label, value in (("a", -3.17), ("b", -2)))
    assert "λmin is −3.17 at a (train loss 0.500), −2.00 at b (train loss 0.500)" in visible(page(first, other))
    unsure = changed(first, complete=False)
    assert "λmin is −3.1700 ± 0.0032, not certified, at a (train loss 0.500)" in visible(page(unsure))
    assert "the loss they belong to was not recorded" in visible(page(changed(first, loss=np.nan)))


def test_the_smallest_eigenvalue_is_never_called_the_largest(page):
    low = changed(spectrum("a", (-1.0, -2.0)), settings={**spectrum().settings, "which": "smallest", "k": 2})
    text = page(bowl("a"), low)
    assert "λmax is" not in visible(text)
    assert "-2.0000 ± 0.0020" in visible(text)
    assert "λmax is 4.00 at a" in heading(page(bowl("a"), low, spectrum("a")))


def test_blocks_of_layers_are_not_compared_with_the_whole(page):
    block = changed(spectrum("b", (9.0,)), settings={**spectrum().settings, "layers": ["fc"]})
    text = visible(page(spectrum("a"), block))
    assert "hessian, of fc, train" in text
    assert "9.00 at b" not in heading(page(spectrum("a"), block))


def test_a_density_and_a_followed_run_have_panels(page):
    text = page(spectrum(), *(make(checkpoint=spectrum().checkpoint) for make in (density, along_run)))
    assert "Sticks are outliers, eigenvalues found by themselves" in visible(text)
    assert "λmax through training: sgd from 4.00 to 8.00" in visible(text)
    assert data(text)["density"]
    assert data(text)["curvature-trace"]
    assert "No density and no trace yet: landscape hessian CKPT --budget 100" in visible(page(spectrum()))


def test_a_line_that_does_not_lead_to_the_other_has_no_barrier(page):
    x = np.linspace(0, 1, 5)
    places = [{"name": name, "coordinates": [at]} for name, at in (("a", 0.0), ("b", 1.0))]
    line = Line(
        x=x,
        loss=1 + x,
        standard_error=0 * x,
        accuracy=0 * x,
        status=status_of(x),
        checkpoint={"label": "a"},
        settings={"split": "train", "landmarks": places, "batch_norm": "frozen"},
        checks={"landmarks": [{"name": "b", "loss_on_plane": 2.0, "own_loss": 0.5}]},
    )
    assert "A line to another loss has no barrier: --batch-norm recalibrated mends this" in visible(page(line))
    title = "From a the line does not lead to b: its train loss is 2.00 on the line and 0.500 by itself"
    assert title in visible(page(line))
    recalibrated = changed(line, settings={**line.settings, "batch_norm": "recalibrated"})
    assert "rises at most 0 above the straight line between its ends" in visible(page(recalibrated))


def test_blocks_of_layers_are_a_table_and_never_the_largest_eigenvalue(page):
    blocks = [
        changed(
            spectrum("a", (value,)), settings={**spectrum().settings, "layer": layer, "layers": [layer], "num_kept": 9}
        )
        for layer, value in (("conv", 40.0), ("fc", 50.0))
    ]
    text = page(bowl("a"), spectrum("a"), *blocks)
    assert "λmax is 4.00 at a" in heading(text)
    assert "The layer of most curvature by itself: fc at a (50.0)" in visible(text)
    assert "conv 9 40.000 ± 0.040 yes" in visible(text)
    (drawn,) = data(text)["layers"]["data"]
    assert drawn["text"] == ["conv<br>λ 40.000 ± 0.040", "fc<br>λ 50.000 ± 0.050"]
    assert 'id="layers" style="--height: 170px"' in text


def test_a_broad_bar_is_explained_where_there_is_one(page):
    explained = "A broad bar is ± one standard error over new draws"
    assert explained in visible(page(bowl("a"), spectrum("a"), sample("a", 0.5)))
    assert explained not in visible(page(bowl("a"), spectrum("a"), sample("b", 0.5)))


def test_the_traces_of_tensors_are_a_table(page):
    text = visible(page(bowl("a"), entries(), entries("sam", (1.0, 2.0, 3.0))))
    assert "Largest trace of a tensor: in.bias -8.00 ± 0.40 at sgd; out.weight" in text
    assert "tensor entries sgd sam in.weight 6 3.00 ± 0.30 1.00 ± 0.30 in.bias 2 -8.00 ± 0.40" in text
    assert "all 12 -4.50 ± 0.70 6.00 ± 0.70" in text


def test_of_many_tensors_the_page_has_the_largest_and_all(page):
    errors = {"standard_error": np.ones(40), "tensor_standard_errors": np.ones(40), "tensor_traces": np.arange(40.0)}
    names = {"names": [f"t{n}" for n in range(40)], "shapes": [[1]] * 40, "values": np.arange(40.0)}
    text = visible(page(bowl("a"), entries(**errors, **names)))
    assert "Largest trace of a tensor: t39 39.0 ± 1.0 at sgd, not told apart from t38 38.0 ± 1.0 and 1 other" in text
    assert "t28 1 28.0 ± 1.0" in text
    assert "t27 " not in text


def test_what_is_owed_to_the_sample_is_told(page):
    text = visible(page(spectrum(), sample("sgd", 0.2)))
    assert "λ1 with the error that the choice of examples leaves: sgd 4.00 ± 0.20" in text
    assert "sgd 100 4.00 ± 0.20 0.400 200" in text  # max((0.2 / 0.2)^2, 0.4 / 0.2) times 100


def of_seed(result, method, seed, **more):
    """The result as that of one seed of a method."""
    label = f"{method}-{seed}"
    config = {"method": method, "rho": 0.4, "lr": 0.1, "seed": seed, **more}
    return changed(result, checkpoint={"label": label, "hash": label, "method": method, "epoch": 4, "config": config})


def seeds_of(method, values, losses, accuracies, **more):
    """A train surface, a test surface and a spectrum for each seed."""
    found = []
    for seed, (value, loss, accuracy) in enumerate(zip(values, losses, accuracies, strict=True)):
        made = [bowl(centre=loss), bowl(split="test", accuracy=accuracy), spectrum(values=(value, 1.0), loss=loss)]
        found += [of_seed(one, method, seed, **more) for one in made]
    return found


SGD = seeds_of("sgd", (7.0, 8.0, 9.0), (0.5, 0.6, 0.7), (0.90, 0.91, 0.92))
SAM = seeds_of("sam", (2.0, 2.1, 2.2), (1.0, 1.1, 1.2), (0.91, 0.92, 0.90))


def test_three_seeds_of_two_methods_are_told_as_methods(page):
    text = page(*SAM, *SGD)
    low, middle, high = (np.exp(value) for value in interval(np.log([2.0, 2.1, 2.2]), np.log([7.0, 8.0, 9.0])))
    assert heading(text) == (
        "Test accuracy: sgd 91.0 ± 1.0 %, sam (rho 0.4) 91.0 ± 1.0 % (± over seeds); sam − sgd 0.0 points "
        "(95 %: −2.3 to 2.3), not more than the seeds explain, on this test set. "
        f"λmax of sam (rho 0.4) is {middle:.3f} (95 %: {low:.3f} to {high:.3f}) times that of sgd, more "
        "than the seeds explain, at train losses 1.10 ± 0.10 and 0.60 ± 0.10 (± over seeds)."
    )
    assert "3 seeds of sgd, 3 seeds of sam (rho 0.4)." in visible(text)
    assert "compares checkpoints, not methods" not in visible(text)
    assert "Loss on train, centre → edge of the slice (median), mean ± standard deviation over seeds: sgd" in visible(
        text
    )


def interval(a, b):
    found = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return found.low, np.mean(a) - np.mean(b), found.high


def rank(value, loss=0.5, **settings):
    """The trace over the largest eigenvalue."""
    numbers = {"value": value, "standard_error": 0.1, "num_samples": 4, "num_matvecs": 9, "loss": loss}
    settings = {"operator": "hessian", "split": "train", **settings}
    return Estimate(quantity="effective_rank", **numbers, checkpoint=spectrum().checkpoint, settings=settings)


def of_seeds(make, numbers, **more):
    """A result for each seed of each method."""
    return [of_seed(make(x), method, n, **more) for method, xs in numbers.items() for n, x in enumerate(xs)]


def test_the_title_of_the_densities_is_of_methods_where_there_are_seeds(page):
    numbers = {"sgd": [7.0, 8.0, 9.0], "sam": [2.0, 2.1, 2.2]}
    low, middle, high = (np.exp(value) for value in interval(*(np.log(numbers[name]) for name in ("sam", "sgd"))))
    told = visible(page(*of_seeds(rank, numbers)))
    assert (
        f"Trace / λmax of sam (rho 0.4) is {middle:.3f} (95 %: {low:.3f} to {high:.3f}) times that of sgd, more than "
        "the seeds explain, at train losses 0.500 and 0.500"
    ) in told
    other = [*of_seeds(rank, {"sgd": numbers["sgd"]}), *of_seeds(lambda x: rank(x, data="x"), {"sam": numbers["sam"]})]
    assert "Trace / λmax is of different train data, so methods are not compared" in visible(page(*other))
    lacking = visible(page(*SGD, *SAM, *of_seeds(rank, numbers)[:4]))
    assert "Trace / λmax of one kind is known for 1 of 3 seeds of sam (rho 0.4): methods not compared" in lacking


def test_densities_of_different_data_are_not_held_against_each_other_in_the_title(page):
    a, b = (changed(rank(x), checkpoint=spectrum(name).checkpoint) for name, x in (("a", 7.0), ("b", 2.0)))
    assert "Trace / λmax: a 7.00 ± 0.10, b 2.00 ± 0.10" in visible(page(a, b))
    elsewhere = changed(b, settings={**b.settings, "data_hash": "another"})
    assert "Trace / λmax of these 2 checkpoints is of different train data and not compared" in visible(
        page(a, elsewhere)
    )


def probed(change, radius=0.05):
    """A trace whose change is the same at both of its epochs."""
    names = ("cosine_b", "cosine_a", "change", "learning_rate")
    values = {name: np.full(2, change) for name in names}
    errors = {f"{name}_standard_error": np.full(2, 0.01) for name in names[:3]}
    counts = {"epoch": np.array([1, 2]), "num_probes": np.full(2, 3)}
    return CongruenceTrace(**values, **errors, **counts, settings={"radius": radius})


def test_the_title_of_the_congruence_is_of_methods_where_there_are_seeds(page):
    numbers = {"sgd": [0.10, 0.11, 0.12], "sam": [-0.02, -0.01, 0.0]}
    low, middle, high = interval(numbers["sam"], numbers["sgd"])
    text = visible(page(*of_seeds(probed, numbers)))
    assert "over the probed epochs, by sgd +0.110 ± 0.010, sam (rho 0.4) −0.010 ± 0.010 (± over seeds); " in text
    verdict = f"sam − sgd {middle:.3f} (95 %: {low:.3f} to {high:.3f}), more than the seeds explain"
    assert verdict.replace("-", "−") in text
    apart = [*of_seeds(probed, {"sgd": numbers["sgd"]}), *of_seeds(lambda x: probed(x, 0.1), {"sam": numbers["sam"]})]
    assert "of different data or probe radii, so methods are not compared" in visible(page(*apart))
    assert "by +0.1000 ± 0.0071 (sgd-0)" in visible(page(*of_seeds(probed, {"sgd": [0.1]})))


def test_seeds_that_were_not_measured_are_counted(page):
    more = of_seed(bowl(centre=9.0), "sgd", 7)
    text = page(*SGD, *SAM, more)
    assert heading(text).count("(3 of 4 seeds of sgd)") == 2
    row = visible(text)[visible(text).index("Over seeds: mean") :]
    assert "sgd 3 to 4 of 4 " in row
    assert f"{np.mean([0.5, 0.6, 0.7, 9.0]):.1f} ± {np.std([0.5, 0.6, 0.7, 9.0], ddof=1):.1f}" in row


def test_two_seeds_each_are_told_as_checkpoints(page):
    text = page(*SAM[:6], *SGD[:6])
    assert "ranges from 2.00 at sam-0" in heading(text)
    assert "fewer than 3 seeds of two methods: this compares checkpoints, not methods" in visible(text)
    assert "Over seeds" not in visible(text)


def test_eigenvalues_that_are_not_certified_are_not_compared_between_methods(page):
    unsure = changed(SAM[2], complete=False)
    assert heading(page(*SAM[:2], unsure, *SAM[3:], *SGD)).endswith(
        "λmax of sam (rho 0.4) is not compared: 1 of 3 are not certified."
    )
    second = changed(SAM[2], converged=np.array([True, False]))
    text = page(*SAM[:2], second, *SAM[3:], *SGD)
    assert "times that of sgd" in heading(text)
    assert "λmax / that of sgd" in visible(text)


def test_where_a_method_lacks_seeds_of_a_measure_its_checkpoints_are_not_compared_instead(page):
    assert heading(page(*SGD, *SAM[:-1])).endswith(
        "λmax of one kind is known for 2 of 3 seeds of sam (rho 0.4): methods not compared."
    )
    assert heading(page(*SGD, *SAM[:-2], SAM[-1])).startswith(
        "Test accuracy is known for 2 of 3 seeds of sam (rho 0.4): methods not compared. λmax of sam"
    )
    assert (
        heading(page(*SGD[::3], *SAM[::3])) == "Train loss: sgd 0.60 ± 0.10, sam (rho 0.4) 1.10 ± 0.10 (± over seeds)."
    )


def on(data_hash, one):
    return changed(one, settings={**one.settings, "data_hash": data_hash})


def test_measures_on_different_data_are_not_compared_unless_each_seed_has_its_own_split(page):
    alone = page(*(on(name, spectrum(name)) for name in ("sgd", "sam")))
    assert "λmax of these 2 checkpoints is of different train data and not compared" in heading(alone)
    assert "other data" in visible(alone)
    own = page(*(on(f"split {n // 3 % 3}", one) for n, one in enumerate([*SGD, *SAM])))
    assert heading(own).count("each on its own split") == 2
    assert "Of different data from seed to seed: train, test, λ" in visible(own)
    assert "Of different data" not in visible(page(*SGD, *SAM))
    confounded = page(*(on(f"split {n // 9}", one) for n, one in enumerate([*SGD, *SAM])))
    assert heading(confounded).count("so methods are not compared") == 2
    assert "λmax / that" not in visible(confounded)


def test_each_method_has_a_row_of_means_over_its_seeds(page):
    text = visible(page(*SGD, *SAM))
    start = text.index("Over seeds: mean ± standard deviation")
    row = text[text.index("sam (rho 0.4) 3 1.10", start) : text.index("Each checkpoint", start)]
    deviation = np.log([2.0, 2.1, 2.2]).std(ddof=1)
    for cell in (
        "1.10 ± 0.10",
        "91.0 ± 1.0 %",
        "2.10 ± 0.10",
        f"{np.log([2.0, 2.1, 2.2]).mean():.3f} ± {deviation:.3f}",
        "3 of 3",
    ):
        assert cell in row
    low, middle, high = (np.exp(value) for value in interval(np.log([2.0, 2.1, 2.2]), np.log([7.0, 8.0, 9.0])))
    assert f"{middle:.3f} ({low:.3f} to {high:.3f})" in row
    assert "λmax / that of sgd (95 %)" in text
    latex = data(page(*SGD, *SAM))["latex"]
    assert latex.count(r"\midrule") == 2
    assert r"sam (rho 0.4) & 3 seeds" in latex


def test_the_seeds_of_a_method_share_a_colour_and_one_has_the_picture(page):
    text = page(*SGD, *SAM)
    (columns,) = [plane["columns"] for plane in data(text)["planes"]]
    assert len({column["color"] for column in columns[:3]}) == len({column["color"] for column in columns[3:]}) == 1
    assert len({column["color"] for column in columns}) == 2
    assert len(re.findall(r'<article class="column">', text)) == 2
    assert "One checkpoint of each method has a picture" in visible(text)
    assert data(text)["planes"][0]["crowded"]
    assert len(re.findall(r'<article class="column">', page(*SGD))) == 3


def sample(label, error, largest=4.0):
    """What the largest eigenvalue of a checkpoint owes to its examples."""
    return DataSpread(
        values=np.array([largest, 1.0]),
        standard_error=np.array([error, 0.1]),
        trace=10.0,
        trace_standard_error=0.5,
        subset_sizes=np.array([50.0, 100.0]),
        subset_values=np.array([4.4, 4.0]),
        bias=0.4,
        num_examples=100.0,
        num_parts=4,
        num_matvecs=9,
        checkpoint=spectrum(label).checkpoint,
        settings=spectrum(label).settings,
    )


def test_pages_of_a_folder_share_one_plotly_that_is_written_once(tmp_path):
    for name in ("a", "b"):
        write_report([], tmp_path / f"{name}.html", plotlyjs="directory")
    (script,) = tmp_path.glob("*.js")
    assert script.read_text("utf-8") == plotly.offline.get_plotlyjs()
    page = (tmp_path / "a.html").read_text("utf-8")
    assert f'<script src="{script.name}"></script>' in page
    assert plotly.offline.get_plotlyjs() not in page
    before = script.stat().st_ino, script.stat().st_mtime_ns
    write_report([], tmp_path / "c.html", plotlyjs="directory")
    assert (script.stat().st_ino, script.stat().st_mtime_ns) == before


def test_a_damaged_plotly_is_written_anew_and_another_version_keeps_its_own(tmp_path, monkeypatch):
    write_report([], tmp_path / "a.html", plotlyjs="directory")
    (script,) = tmp_path.glob("*.js")
    script.write_text(plotly.offline.get_plotlyjs()[:1000])
    write_report([], tmp_path / "a.html", plotlyjs="directory")
    assert script.read_text("utf-8") == plotly.offline.get_plotlyjs()
    monkeypatch.setattr(plotly.offline, "get_plotlyjs_version", lambda: "0.0.1")
    monkeypatch.setattr(plotly.offline, "get_plotlyjs", lambda: "another")
    write_report([], tmp_path / "b.html", plotlyjs="directory")
    assert len(script.read_text("utf-8")) > 1_000_000
    assert (tmp_path / "plotly-0.0.1.min.js").read_text() == "another"


def test_a_file_of_plotlys_name_that_is_not_plotly_stays(tmp_path):
    write_report([], tmp_path / "a.html", plotlyjs="directory")
    (script,) = tmp_path.glob("*.js")
    script.write_text("my own")
    with pytest.raises(FileExistsError, match=r"plotly-.*js is no plotly.js: move it away"):
        write_report([], tmp_path / "b.html", plotlyjs="directory")
    assert script.read_text() == "my own"
    assert not (tmp_path / "b.html").exists()


def test_an_embedded_page_lets_in_no_script_from_outside(tmp_path):
    write_report([], tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert "script-src 'unsafe-inline';" in (tmp_path / "a.html").read_text("utf-8")


def test_plotlyjs_has_two_places(tmp_path):
    with pytest.raises(ValueError, match=r"one of \('embedded', 'directory'\), got 'cdn'"):
        write_report([], tmp_path / "a.html", plotlyjs="cdn")


def test_a_surface_that_stands_twice_is_one_and_seeds_stay_methods(page):
    twice = visible(page(*SGD, *SAM, *SGD[::3]))
    assert "[2]" not in twice
    assert "mean ± standard deviation over seeds: sgd 0.60 ± 0.10" in twice
    again = [changed(one, loss=one.loss + 1e-9) for one in SGD[::3]]  # measured anew: shown, and one for each seed
    twice = visible(page(*SGD, *SAM, *again))
    assert "[2]" in twice
    assert "mean ± standard deviation over seeds: sgd 0.60 ± 0.10" in twice


def test_several_data_are_named_by_the_seed_of_their_split_or_eight_letters_of_their_hash(page):
    hashes = [f"{n}" * 40 for n in range(2)]
    seeds = [
        of_seed(bowl(split="test", labels="clean", data_hash=one), "sgd", n, data_seed=n)
        for n, one in enumerate(hashes)
    ]
    assert [one["name"] for one in data(page(*seeds))["splits"].values()] == [
        f"test, clean, data seed {n}" for n in range(2)
    ]
    unknown = [bowl(f"run {n}", split="test", data_hash=one) for n, one in enumerate(hashes)]
    assert [one["name"] for one in data(page(*unknown))["splits"].values()] == ["test, 00000000", "test, 11111111"]


def test_play_goes_through_both_of_two_checkpoints(page):
    assert "through both checkpoints" in visible(page(bowl("a"), bowl("b")))
    assert "through all 3 checkpoints" in visible(page(bowl("a"), bowl("b"), bowl("c")))
    assert "through all 3 measurements" in visible(page(bowl("a"), bowl("b"), bowl("a", centre=0.6)))


def test_a_slice_beside_the_centre_is_said_to_be_nearest_to_it(page):
    assert "The two lines through the centre" in visible(page(bowl("a")))
    assert "The two lines nearest to the centre" in visible(page(bowl("a", steps=4)))


def test_a_checkpoint_that_ties_with_both_ends_is_named_once(page):
    accuracies = {"a": 0.86, "b": 0.89, "c": 0.895, "d": 0.90, "e": 0.92}
    told = heading(page(*(bowl(name, split="test", accuracy=at) for name, at in accuracies.items())))
    assert told.endswith("92.0 ± 1.4 % at e, d, c and b within noise of it.")


def test_what_is_copied_has_all_that_the_table_has(page):
    trace_of = Estimate(
        quantity="trace",
        value=12.5,
        standard_error=0.5,
        num_samples=4,
        num_matvecs=9,
        checkpoint=SGD[2].checkpoint,
        settings=SGD[2].settings,
    )
    found = data(page(*SGD, *SAM, trace_of))
    latex = found["latex"]
    assert latex.startswith("% ± is the standard error over the examples for a loss")
    assert "% Over seeds: mean ± standard deviation" in latex
    assert r"$\lambda$max / that of sgd (95 \%)" in latex
    low, middle, high = (np.exp(value) for value in interval(np.log([2.0, 2.1, 2.2]), np.log([7.0, 8.0, 9.0])))
    assert f"{middle:.3f} ({low:.3f} to {high:.3f})" in latex
    rows = list(csv.DictReader(found["csv"].splitlines()))
    assert (rows[0]["trace"], rows[0]["trace_se"], rows[1]["trace"]) == ("12.5", "0.5", "")
    of_sam = {row["row"]: row for row in rows if row["checkpoint"] == "sam (rho 0.4)"}
    mean, error, count = (
        of_sam[name] for name in ("mean over seeds", "standard deviation over seeds", "number of seeds")
    )
    assert float(mean["lambda_1"]) == pytest.approx(2.1)
    assert float(error["train_loss"]) == pytest.approx(0.1)
    assert (count["lambda_1"], mean["ratio_to"]) == ("3", "sgd")
    ends = [float(mean[f"lambda_1_ratio{end}"]) for end in ("_low", "", "_high")]
    np.testing.assert_allclose(ends, [low, middle, high], rtol=1e-9)
