"""The page as a browser draws it. Its content policy forbids eval: the tests poll, and never wait for a function."""

import csv
import hashlib
import importlib.resources
import io
import json
import math
import os
import re
import shutil
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from curvature_results import along_run, density
from plain_results import blocks, sampled

from landscape.formatting import plus_minus, short
from landscape.report import write_report
from landscape.results import CongruenceTrace, Eigenpairs, ExampleLosses, Line, Surface, Trajectory, status_of

pytestmark = pytest.mark.browser

ARRAYS = ("loss", "standard_error", "accuracy", "status")
CHROMIUM = Path("/usr/bin/chromium")


def results(labels, *, broken=False):
    found = []
    x = np.linspace(-1, 1, 9)
    for n, label in enumerate(labels):
        checkpoint = {"label": label, "hash": f"{n}-hash"}
        for split in ("train", "test"):
            loss = 0.01 + 10.1 * n + (20.0 if split == "train" else 3.0) * (x[:, None] ** 2 + 0.2 * x[None, :] ** 2)
            if broken:
                loss[0, 0], loss[8, 8] = np.nan, np.inf
            found.append(
                Surface(
                    x=x,
                    y=x,
                    loss=loss,
                    standard_error=0.1 * loss,
                    accuracy=np.full_like(loss, 0.9),
                    status=status_of(loss),
                    checkpoint=checkpoint,
                    settings={"split": split, "num_examples": 100, "unit": "filter-normalized"},
                )
            )
        values = np.array([4.0, 1.0]) * (n + 1)
        found.append(
            Eigenpairs(
                values=values,
                vectors=None,
                residuals=values * [0.001, 2.0],  # a bar that goes below zero on a log axis
                converged=np.array([True, False]),
                complete=True,
                num_matvecs=9,
                loss=0.01,
                checkpoint=checkpoint,
                settings={"operator": "hessian", "split": "train"},
            )
        )
        some = np.array([0.1, np.nan, 0.2])
        series = dict.fromkeys(("cosine_b", "cosine_a", "change", "learning_rate"), some)
        errors = {f"{name}_standard_error": some / 5 for name in ("cosine_b", "cosine_a", "change")}
        found.append(
            CongruenceTrace(
                epoch=np.arange(3), num_probes=np.ones(3, int), checkpoint=checkpoint, settings={}, **series, **errors
            )
        )
    return found


def around(label, *, seed=0, directions="random", paired=False, **more):
    """A bowl of 9 x 9 points that is 2 + n steeper for each seed."""
    x, n = np.linspace(-1, 1, 9), len(label)
    loss = 0.1 * n + (2.0 + seed) * (x[:, None] ** 2 + 0.5 * x[None, :] ** 2)
    examples = None
    if paired:
        kept = (loss + 5 * (n - 3) * x[:, None] ** 2)[..., None] + np.linspace(-0.1, 0.1, 8) * n
        examples = ExampleLosses(loss=kept, denominator=np.ones(8))
    settings = {"split": "train", "num_examples": 100, "directions": directions, "paired_hash": "p", "num_paired": 8}
    settings |= {"seed": seed} if directions == "random" else {}
    return Surface(
        x=x,
        y=x,
        loss=loss,
        standard_error=0.1 * loss,
        accuracy=np.full_like(loss, 0.9),
        status=status_of(loss),
        examples=examples,
        checkpoint={"label": label, "hash": label},
        settings={**settings, **more.pop("settings", {})},
        checks={"centre_ok": True, "centre_error": 1e-9},
        **more,
    )


def tilted(surface):
    """Lowest at x = 0.5, y = -0.25."""
    loss = 0.3 + 2 * ((surface.x[:, None] - 0.5) ** 2 + 0.5 * (surface.y[None, :] + 0.25) ** 2)
    return replace(surface, loss=loss)


def all_kinds():
    """Three planes of two checkpoints with kept examples, a run on its plane, eigenvectors, a line between the two."""
    run = Trajectory(
        epoch=np.array([1, 2, 3]),
        x=np.array([0.9, 0.4, 0.0]),
        y=np.array([0.5, 0.2, 0.0]),
        distance=np.array([0.3, 0.1, 0.0]),
        loss=np.array([4.0, 2.0, 0.3]),
        standard_error=np.full(3, 0.1),
        plane_loss=np.array([3.0, 1.0, 0.3]),
        explained_variance=0.9,
    )
    x = np.linspace(-0.5, 1.5, 9)
    places = [{"name": "sgd", "coordinates": [0.0]}, {"name": "sam!", "coordinates": [1.0]}]
    line = Line(
        x=x,
        loss=0.3 + x**2,
        standard_error=0.02 + 0 * x,
        accuracy=0.9 + 0 * x,
        status=status_of(x),
        checkpoint={"label": "sgd", "hash": "sgd"},
        settings={"split": "train", "directions": "between", "landmarks": places},
        checks={"centre_ok": True, "landmarks": [{"name": "sam!", "loss_on_plane": 1.3, "own_loss": 0.4}]},
    )
    eigen = {"eigenvalues": [4.0, 2.0], "operator": "hessian", "axes_of": "sgd"}
    return [
        *(around(label, seed=seed, paired=seed == 0) for seed in range(3) for label in ("sgd", "sam!")),
        around("sgd", directions="pca", trajectory=run),
        tilted(around("sgd", directions="eigenvectors", settings=eigen)),
        line,
        *(replace(one, checkpoint=line.checkpoint) for one in results(["sgd"]) if isinstance(one, Eigenpairs)),
        density(checkpoint=line.checkpoint),
        along_run(checkpoint=line.checkpoint),
        *(replace(one, checkpoint=line.checkpoint) for one in blocks()),
        replace(sampled(errors=(0.5, 0.1)), checkpoint=line.checkpoint),
    ]


def missing(reason):
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def playwright():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    if not CHROMIUM.exists():
        missing(f"no browser at {CHROMIUM}")
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright):
    browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(results(["sgd", "sam"], broken=True), path)
    return path.as_uri()


@pytest.fixture(scope="module")
def rich(browser, tmp_path_factory):
    path = tmp_path_factory.mktemp("rich") / "report.html"
    write_report(all_kinds(), path, commands=["landscape surface a.pt"])
    watched = Watched(browser, path.as_uri(), viewport={"width": 900, "height": 700}, reduced_motion="reduce")
    yield watched
    watched.context.close()


class Watched:
    """A page, and what went wrong on it."""

    def __init__(self, browser, address, *, script="", **options):
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        if script:
            self.page.add_init_script(script)
        self.page.goto(address)
        self.drawn()

    def drawn(self):
        self.until("document.body.dataset.drawn === 'all'")

    def until(self, expression, seconds=30):
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"{expression} did not come true; errors: {self.errors}"
            time.sleep(0.05)

    def get(self, expression):
        return self.page.evaluate(expression)

    def choose(self, name, value):
        self.page.check(f'input[name="{name}"][value="{value}"]')
        self.drawn()


@pytest.fixture(scope="module")
def seen(browser, address):
    watched = Watched(browser, address, viewport={"width": 760, "height": 600})
    yield watched
    watched.context.close()


@pytest.fixture(autouse=True)
def nothing_went_wrong(request):
    yield
    for name in {"seen", "rich", "fifty"} & set(request.fixturenames):
        watched = request.getfixturevalue(name)
        assert not watched.errors
        assert all(url.startswith(("file:", "data:", "blob:")) for url in watched.requests)
        assert len([url for url in watched.requests if url.startswith("file:")]) == 1


def colors_of(watched, plot):
    """What is on the screen there, as an array of pixels."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(watched.page.locator(f"#{plot}").screenshot())).convert("RGB"))


def test_pages_that_share_plotly_are_drawn_from_the_file_beside_them(browser, tmp_path):
    write_report(results(["sgd"]), tmp_path / "report.html", plotlyjs="directory")
    (script,) = tmp_path.glob("*.js")
    watched = Watched(browser, (tmp_path / "report.html").as_uri(), viewport={"width": 760, "height": 600})
    assert not watched.errors
    assert [url for url in watched.requests if not url.startswith(("data:", "blob:"))] == [
        (tmp_path / "report.html").as_uri(),
        script.as_uri(),
    ]
    assert watched.get("document.querySelectorAll('#p0c0-contour svg').length") > 0
    script.unlink()
    watched.page.reload()
    watched.until("document.querySelector('header').innerText.includes('has to be beside this page')", seconds=5)
    watched.context.close()


def test_scenes_and_contours_are_really_drawn(seen):
    for plot in ("p0c0-scene", "p0c1-scene", "p0c0-contour"):
        pixels = colors_of(seen, plot)[..., :3].reshape(-1, 3).astype(int)
        green = (pixels[:, 1] > pixels[:, 0] + 40) & (pixels[:, 1] > pixels[:, 2] - 10)  # the middle of viridis
        assert green.mean() > 0.01, plot
    assert seen.get("document.querySelectorAll('.scene canvas').length") >= 2


def test_rows_on_the_page_are_y_and_the_hover_has_the_raw_loss(seen):
    trace = seen.get(
        "(() => { const t = document.getElementById('p0c0-contour').data[0]; return [t.z[4], t.customdata[4][0]]; })()"
    )
    np.testing.assert_allclose(trace[0], 0.01 + 20 * np.linspace(-1, 1, 9) ** 2, rtol=1e-6)  # the row y = 0
    np.testing.assert_allclose(trace[1], [20.01, 2.001, 0.9], rtol=1e-6)


def test_cells_left_out_are_marked(seen):
    cells = "document.getElementById('p0c0-contour').data.find((t) => t.meta === 'cells')"
    assert seen.get(f"[{cells}.x, {cells}.y, {cells}.text]") == [[-1, 1], [-1, 1], ["nan", "+inf"]]


def test_the_status_of_a_cell_leaves_the_page_with_its_loss(seen, tmp_path):
    found = json.loads(saved(seen, "#save-json", tmp_path).read_text())["surfaces"][0]
    assert (found["loss"][0][0], found["status"][0][0]) == ("NaN", "nan")
    assert (found["loss"][8][8], found["status"][8][8]) == ("Infinity", "+inf")
    assert found["status"][4][4] == "ok"


def test_no_button_sends_the_chart_away(seen):
    titles = seen.get(
        "[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title + ' ' + b.dataset.attr)"
    )
    assert titles
    assert not [title for title in titles if {"share", "cloud", "upload"} & set(title.lower().split())]
    assert "plot.ly" not in json.dumps(
        seen.get("Object.values(document.getElementById('p0c0-contour')._context.plotlyServerURL)")
    )


def test_the_split_switch_redraws_the_same_scenes(seen):
    canvas = "document.querySelector('#p0c0-scene canvas')"
    seen.get(f"{canvas}.dataset.mine = 'yes'")
    seen.choose("split", "test")
    assert seen.get(f"{canvas}.dataset.mine") == "yes"
    assert seen.get("document.getElementById('p0c0-scene').data[0].z[4][0]") == pytest.approx(3.01, rel=1e-6)
    assert "Loss on test" in seen.page.inner_text("#surfaces h2")
    assert "split=test" in seen.page.url
    seen.choose("split", "train")


def test_the_loss_switch_shows_logarithms_of_the_same_losses(seen):
    seen.choose("loss", "log")
    drawn = "document.getElementById('p0c0-contour').data[0]"
    z, label = seen.get(f"[{drawn}.z[4][0], {drawn}.colorbar.title.text]")
    assert z == pytest.approx(np.log10(20.01), rel=1e-6)
    assert "log scale" in label
    assert seen.get("document.getElementById('p0-slices').layout.yaxis.type") == "log"
    seen.choose("loss", "linear")


def test_the_range_is_common_until_own_is_chosen(seen):
    first, second = (f"document.getElementById('{plot}').data[0]" for plot in ("p0c0-contour", "p0c1-contour"))
    assert seen.get(f"{first}.zmax === {second}.zmax && {first}.zmin === {second}.zmin")
    seen.choose("scale", "own")
    assert "own range" in seen.get(f"{first}.colorbar.title.text")
    assert seen.get(f"{first}.zmin !== {second}.zmin")
    seen.choose("scale", "common")


def test_cameras_are_linked_and_have_presets(seen):
    eye = "document.getElementById('{}').layout.scene.camera.eye"
    seen.choose("camera", "top")
    seen.until(f"{eye.format('p0c1-scene')}.z > 2")
    seen.get("Plotly.relayout('p0c0-scene', {'scene.camera': {eye: {x: 2, y: 0.5, z: 0.25}}}).then(() => true)")
    seen.until(f"{eye.format('p0c1-scene')}.x === 2")
    seen.until("location.hash.includes('eye=2.00%2C0.50%2C0.25')")
    assert seen.page.is_checked('input[name="camera"][value="free"]')


def test_pointing_at_a_contour_reads_every_checkpoint(seen):
    box = seen.page.locator("#p0c0-contour .nsewdrag").first
    box.scroll_into_view_if_needed()
    box.hover()
    seen.until("document.getElementById('p0-readout').textContent.startsWith('At x')")
    said = seen.page.inner_text("#p0-readout")
    assert "sgd 0.0100 ± 0.0010 (accuracy 90.0 %) · sam 10.1 ± 1.0 (accuracy 90.0 %); 100 examples" in said


def test_the_label_at_the_mouse_says_what_the_words_below_say(seen):
    for kind in ("contour", "scene"):
        picture = seen.page.locator(f"#p0c0-{kind}")
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        for right in range(2):  # a scene looks where the mouse is once it has moved
            seen.page.mouse.move(box["x"] + 0.6 * box["width"] + right, box["y"] + 0.5 * box["height"])
            time.sleep(0.1)
        label = f"document.querySelector('#p0c0-{kind} .hovertext')"
        seen.until(f"{label} !== null")
        said = seen.page.inner_text("#p0-readout")
        x, y, loss, error = re.match(r"At x = (\S+), y = (\S+): sgd (\S+) ± (\S+) ", said).groups()
        assert abs(float(x)) != abs(float(y))  # a cell whose mirror image has another loss
        assert seen.get(f"{label}.textContent") == f"x {x}y {y}loss {loss} ± {error}accuracy 90.0 %status ok"
        seen.page.mouse.move(1, 1)


def test_pointing_at_an_epoch_reads_it_in_all_panels(seen):
    panel = seen.page.locator("#congruence .nsewdrag").first
    panel.scroll_into_view_if_needed()
    panel.hover(position={"x": 8, "y": 40})  # at the first epoch
    seen.until("document.querySelectorAll('#congruence .hoverlayer .hovertext').length === 2 * 4")


def test_the_table_is_copied_as_csv(seen):
    seen.page.click("#copy-csv")
    seen.until("document.querySelector('#copy-csv ~ [role=status]').textContent !== ''")


def test_colours_follow_the_system(seen):
    seen.page.emulate_media(color_scheme="dark")
    seen.until("document.getElementById('eigenvalues').layout.font.color === '#e4e7eb'")
    seen.drawn()
    seen.page.emulate_media(color_scheme="light")
    seen.until("document.getElementById('eigenvalues').layout.font.color === '#1f2328'")
    seen.drawn()


def test_a_checkpoint_has_one_colour_in_all_figures_of_the_page(seen):
    shown = """['p0-slices', 'eigenvalues', 'congruence'].flatMap((id) => document.getElementById(id).data)
        .filter((one) => one.name === name && one.mode !== 'none' && one.meta === undefined)
        .map((one) => one.mode === 'markers' ? one.marker.color : one.line.color)"""
    swatch = "document.getElementById(id + '-swatch').style.getPropertyValue('--swatch')"
    centre = plot("{}-contour", ".data.find((one) => one.meta === 'centre').marker.color")
    found = {}
    for name, column in (("sgd", "p0c0"), ("sam", "p0c1")):
        colors = seen.get(f"((name, id) => [...{shown}, {swatch}, {centre.format(column)}])('{name}', '{column}')")
        assert len(colors) >= 2 + 1 + 4 + 2
        (found[name],) = set(colors)
    assert found["sgd"] != found["sam"]


def test_paper_has_light_figures_and_no_controls(seen):
    seen.page.emulate_media(color_scheme="dark")
    seen.until("document.getElementById('eigenvalues').layout.font.color === '#e4e7eb'")
    seen.drawn()
    seen.get(
        "addEventListener('beforeprint', () => { const { font, xaxis, width } = "
        "document.getElementById('eigenvalues').layout; window.paper = [font.color, xaxis.gridcolor, width <= 718]; })"
    )
    assert seen.page.pdf().startswith(b"%PDF")
    assert seen.get("window.paper") == ["#000000", "#cccccc", True]
    assert seen.get("[...document.querySelectorAll('table')].every((one) => !Number(one.style.zoom))")
    seen.until("document.getElementById('eigenvalues').layout.font.color === '#e4e7eb'")
    seen.page.emulate_media(media="print", color_scheme="light")
    assert not [one for one in seen.page.locator(".controls, .actions, .play, .skip").all() if one.is_visible()]
    assert seen.page.locator("[aria-label='All measures'] th").first.is_visible()
    seen.page.emulate_media(media="screen", color_scheme="light")
    seen.until("document.getElementById('eigenvalues').layout.font.color === '#1f2328'")
    seen.drawn()


def test_every_table_fits_on_paper(browser, address):
    watched = Watched(browser, address, viewport={"width": 1280, "height": 800})
    watched.get("document.querySelector('[aria-label=\"All measures\"] td').textContent = 'x'.repeat(150)")
    watched.get("dispatchEvent(new Event('beforeprint'))")
    right = "getBoundingClientRect().right"
    beyond = f"(one) => one.{right} > document.querySelector('main').{right} + 0.5"
    assert not watched.get(f"[...document.querySelectorAll('table')].some({beyond})")
    assert watched.get("[...document.querySelectorAll('table')].some((one) => Number(one.style.zoom) < 1)")
    watched.get("dispatchEvent(new Event('afterprint'))")
    watched.drawn()
    assert watched.get("[...document.querySelectorAll('table')].every((one) => !one.style.zoom)")
    watched.context.close()


def test_controls_are_labelled_and_reachable_by_keyboard(seen):
    assert seen.get(
        "[...document.querySelectorAll('input, select')].every((i) => i.labels.length === 1 && i.labels[0].textContent)"
    )
    assert seen.get("[...document.querySelectorAll('[role=group]')].every((e) => e.getAttribute('aria-label'))")
    seen.page.focus('input[name="camera"]:checked')
    seen.page.keyboard.press("ArrowRight")
    seen.until("location.hash.includes('camera=top')")


def test_a_phone_scrolls_only_downwards(browser, address):
    watched = Watched(browser, address, viewport={"width": 400, "height": 800}, color_scheme="dark")
    assert watched.get("document.documentElement.scrollWidth") <= 400
    parts = "[...document.querySelectorAll('.contour, .chart, h1, h2')]"
    assert watched.get(f"{parts}.every((part) => part.getBoundingClientRect().right <= 400)")
    assert not watched.errors
    watched.context.close()


def test_without_webgl_the_contours_are_still_drawn(browser, address):
    script = """
        const real = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
            return kind.includes("webgl") ? null : real.call(this, kind, ...rest);
        };
    """
    watched = Watched(browser, address, script=script)
    assert "no WebGL" in watched.page.inner_text("#p0c0-scene")
    assert watched.get("document.querySelectorAll('.scene canvas, .scene .main-svg').length") == 0
    assert watched.get("document.querySelectorAll('#p0c0-contour .contourfill path').length") > 3
    assert not watched.errors
    watched.context.close()


def test_eight_checkpoints_have_four_scenes_and_a_way_to_the_others(browser, tmp_path):
    path = tmp_path / "many.html"
    write_report(results([f"run {n}" for n in range(8)]), path)
    watched = Watched(browser, path.as_uri(), viewport={"width": 1280, "height": 900})
    drawn = "[...document.querySelectorAll('.scene')].map((div) => Boolean(div.querySelector('canvas')))"
    assert watched.get(drawn) == [True] * 4 + [False] * 4
    assert watched.get("document.querySelectorAll('.contour .main-svg').length") >= 8
    watched.page.click("#p0c5-scene button")
    watched.until("Boolean(document.querySelector('#p0c5-scene canvas'))")
    assert watched.get(drawn) == [False, True, True, True, False, True, False, False]
    assert not watched.errors
    watched.context.close()


def test_an_empty_report_has_no_errors(browser, tmp_path):
    path = tmp_path / "empty.html"
    write_report([], path)
    watched = Watched(browser, path.as_uri())
    assert "landscape surface CKPT" in watched.page.inner_text("main")
    assert not watched.errors
    watched.context.close()


def test_degenerate_surfaces_and_names_have_no_errors_and_stay_in_the_page(browser, tmp_path):
    path = tmp_path / "degenerate.html"
    first, *_ = results(["one"])
    one = {"x": np.zeros(1), "y": np.zeros(1)} | dict.fromkeys(("loss", "standard_error", "accuracy"), np.ones((1, 1)))
    lost = np.full((9, 9), np.nan)
    name = '"><script>alert(1)</script>' + "and_no_place_to_break" * 9
    hostile = {"label": name, "hash": "2"}
    run, line = all_kinds()[6], all_kinds()[8]
    places = [{"name": name, "coordinates": [at]} for at in (0.0, 1.0)]
    wide = np.linspace(-1, 1, 201)
    kept = ExampleLosses(loss=np.full((9, 9, 8), np.nan), denominator=np.ones(8))
    write_report(
        [
            Surface(**{**vars(first), **one, "status": status_of(np.ones((1, 1)))}),
            Surface(**{**vars(first), "loss": lost, "status": status_of(lost), "checkpoint": hostile}),
            replace(around("sgd", paired=True, settings={"seed": 7}), loss=lost, status=status_of(lost), examples=kept),
            replace(around("sam", paired=True, settings={"seed": 7}), checkpoint=hostile),
            replace(run, loss=lost, status=status_of(lost), checkpoint=hostile),
            replace(line, checkpoint=hostile, settings={"landmarks": places}, loss=np.full(9, np.inf)),
            replace(around("big"), x=wide, y=wide, **dict.fromkeys(ARRAYS, np.add.outer(wide**2, wide**2 + 0.1))),
        ],
        path,
        title=name,
        commands=[name],
    )
    watched = Watched(browser, path.as_uri(), viewport={"width": 400, "height": 800})
    assert watched.get("document.documentElement.scrollWidth") <= 400
    assert not watched.errors
    watched.context.close()


def plot(name, rest=""):
    return f"document.getElementById('{name}'){rest}"


def trace(name, meta):
    return plot(name, f"._fullData.find((one) => one.meta === '{meta}')")


def test_a_line_shows_what_the_running_statistics_do(rich):
    own = trace("line-0", "own loss")
    assert rich.get(f"[...{own}.y]") == pytest.approx([1.3, 0.4])
    assert rich.get(plot("line-0", ".layout.annotations.map((note) => note.text)")) == ["sgd", "sam!"]
    text = rich.page.inner_text("#section-lines")
    assert "BatchNorm’s running statistics" in text
    assert "sam! 1.30 on the line and 0.400 by itself" in text


def test_a_run_lies_on_the_contour_and_on_the_surface_at_the_loss_of_the_plane(rich):
    assert rich.get(f"[...{trace('p1c0-contour', 'trajectory')}.x]") == pytest.approx([0.9, 0.4, 0.0])
    seen = trace("p1c0-scene", "trajectory")
    on_axis = "(v) => (document.querySelector('input[value=log]').checked ? 10 ** v : v)"
    assert rich.get(f"{seen}.z.map({on_axis})") == pytest.approx([3.0, 1.0, 0.3])
    names = rich.get(plot("p1-run", ".data.map((one) => one.name)"))
    assert {"sgd, its own loss", "sgd, the plane's loss there"} <= set(names)
    assert "it holds 90 % of their squared distances; at most 0.300 off it" in rich.page.inner_text("#p1c0-stat")


def test_several_planes_are_one_table_and_a_picker(rich):
    assert rich.page.locator("#p0c1-contour, #p0c2-contour").count() == 1
    assert "4.5 ± 1.5" in " ".join(rich.page.inner_text("[aria-label='Flatness over planes']").split())
    edge = plot("p0c0-contour", ".data[0].customdata[4][0][0]")
    assert rich.get(edge) == pytest.approx(2.3)
    rich.page.select_option("select[name=plane0]", "2")
    rich.drawn()
    assert rich.get(edge) == pytest.approx(4.3)
    assert "seed 2" in rich.page.inner_text("#surfaces")
    assert "plane0=2" in rich.page.url
    rich.page.select_option("select[name=plane0]", "0")
    rich.drawn()


def test_differences_are_centred_at_zero(rich):
    drawn = trace("difference-0", "difference")
    assert rich.get(f"{drawn}.zmin === -{drawn}.zmax")
    assert "sam! less sgd: train loss +0.100\u00a0±\u00a00.025" in rich.page.inner_text("#section-differences h2")


def on_axis(watched, loss):
    return np.log10(loss) if watched.get("document.querySelector('input[value=log]').checked") else loss


def labels(watched):
    """What is read at the contours of the first plane."""
    found = "['p0c0', 'p0c1'].map((id) => document.querySelector(`#${id}-contour .hoverlayer`).textContent)"
    return watched.get(found)


def spots(watched, *columns):
    """Where the scenes mark the cell or epoch that is read."""
    point = "((t) => [t.x[0], t.y[0], t.z[0]])(" + plot("{}-scene", ".data.find((one) => one.meta === 'read')") + ")"
    return [watched.get(point.format(column)) for column in columns]


def test_the_lowest_cell_is_marked_and_told(rich):
    for kind in ("contour", "scene"):
        mark = trace(f"p2c0-{kind}", "lowest")
        assert rich.get(f"[{mark}.x[0], {mark}.y[0]]") == [0.5, -0.25]
    assert rich.get(trace("p2c0-contour", "lowest") + ".hovertemplate").startswith("lowest cell: loss 0.300 ± 0.086")
    assert "lowest cell: 0.300 ± 0.086 at x 0.5, y -0.25" in rich.page.inner_text("#p2c0-marks")


def test_the_ring_lies_where_the_loss_is_the_chosen_one_above_the_centre(rich):
    field = rich.page.locator("input[name=ring]")
    field.fill("0.5")
    field.press("Enter")
    rich.until("location.hash.includes('ring=0.5')")
    rich.drawn()
    level = on_axis(rich, 0.8)
    ring = plot("p0c0-contour", ".data.find((one) => one.meta === 'ring')")
    x, y = (np.array(rich.get(f"{ring}.{axis}.filter((v) => v !== null)")) for axis in "xy")
    assert (np.abs(x).max(), np.abs(y).max()) == pytest.approx((0.5, 0.5**0.5), rel=0.02)
    ring = plot("p0c0-scene", ".data.find((one) => one.meta === 'ring')")
    x, y, z = (np.array(rich.get(f"{ring}.{axis}.filter((v) => v !== null)")) for axis in "xyz")
    np.testing.assert_allclose(z, level)
    assert (np.abs(x).max(), np.abs(y).max()) == pytest.approx((0.5, 0.5**0.5), rel=0.02)  # 2 (x^2 + y^2 / 2) = 0.5
    assert "White ring: 0.8, the centre’s loss + 0.5." in rich.page.inner_text("#p0c0-marks")
    field.fill("100")
    field.press("Enter")
    rich.until("document.getElementById('p0c0-marks').textContent.includes('which no cell reaches')")
    field.fill("")
    field.press("Enter")
    rich.until("!document.getElementById('p0c0-marks').textContent.includes('ring')")
    field.fill("1")
    field.press("Enter")
    rich.until("!location.hash.includes('ring')")
    rich.drawn()


def test_arrow_keys_read_a_cell_in_all_pictures_of_its_plane(rich):
    rich.page.focus("#p0c0-contour")
    for key in ("ArrowUp", "ArrowRight", "ArrowUp"):  # the first shows the checkpoint
        rich.page.keyboard.press(key)
    said = "sgd 0.488 ± 0.049 (accuracy 90.0 %) · sam! 0.587 ± 0.059 (accuracy 90.0 %); 100 examples"
    rich.until(f"document.getElementById('p0-readout').textContent === 'At x = 0.25, y = 0.25: {said}'")
    assert [
        any(f"loss {loss} ± 0.0" in text for loss in ("0.487", "0.488", "0.587", "0.588")) for text in labels(rich)
    ] == [True, True]
    rich.until(plot("p0c1-scene", ".data.find((one) => one.meta === 'read').x[0] === 0.25"))
    expected = [[0.25, 0.25, on_axis(rich, loss)] for loss in (0.4875, 0.5875)]
    np.testing.assert_allclose(spots(rich, "p0c0", "p0c1"), expected, rtol=1e-6)
    rich.get("navigator.clipboard.writeText = async (text) => { window.copied = text; }; true")
    rich.page.click("#p0-copy")
    rich.until("Boolean(window.copied)")
    copied = json.loads(rich.get("window.copied"))
    assert (copied["x"], copied["y"], copied["data"]) == (0.25, 0.25, "train")
    assert copied["values"][1] == pytest.approx(
        {
            **{"checkpoint": "sam!", "loss": 0.5875, "standard_error": 0.05875, "accuracy": 0.9},
            **{"num_examples": 100, "status": "ok"},
        }
    )
    rich.page.focus("#p2c0-contour")
    rich.page.keyboard.press("End")
    assert rich.page.inner_text("#p2-readout").startswith("At x = 0.5, y = -0.25: sgd 0.300 ±")
    rich.page.keyboard.press("Home")
    assert rich.page.inner_text("#p2-readout").startswith("At x = 0, y = 0: sgd")
    rich.until(plot("p2c0-scene", ".data.find((one) => one.meta === 'read').x[0] === 0"))
    rich.page.focus("#p0c0-contour")  # from plane to plane without a pause
    rich.page.keyboard.press("ArrowUp")
    rich.page.focus("#p2c0-contour")
    rich.page.keyboard.press("End")
    rich.until(plot("p2c0-scene", ".data.find((one) => one.meta === 'read').x[0] === 0.5"))
    rich.until(plot("p0c1-scene", ".data.find((one) => one.meta === 'read').x[0] === null"))
    rich.page.focus("#p0c0-contour")
    rich.page.keyboard.press("ArrowUp")
    rich.until(plot("p0c1-scene", ".data.find((one) => one.meta === 'read').x[0] !== null"))
    rich.page.keyboard.press("Escape")
    rich.until(plot("p0c1-scene", ".data.find((one) => one.meta === 'read').x[0] === null"))
    assert labels(rich) == ["", ""]


def test_cells_left_out_say_their_status_where_they_are_read(seen):
    seen.page.focus("#p0c0-contour")
    for key in ("Home", "Shift+ArrowLeft", "Shift+ArrowDown"):
        seen.page.keyboard.press(key)
    assert seen.page.inner_text("#p0-readout") == "At x = -1, y = -1: sgd nan · sam nan; 100 examples"
    seen.page.keyboard.press("Escape")


def test_pointing_at_a_contour_shows_the_cell_in_all_other_pictures(rich):
    box = rich.page.locator("#p0c1-contour .nsewdrag").first
    box.scroll_into_view_if_needed()
    size = box.bounding_box()
    box.hover(position={"x": size["width"] * 0.75, "y": size["height"] * 0.5})
    rich.until(plot("p0c1-scene", ".data.find((one) => one.meta === 'read').x[0] > 0"))
    (x, y, _), other = spots(rich, "p0c0", "p0c1")
    assert other[:2] == [x, y]
    assert f"x {x:g}" in labels(rich)[0].replace("y", " y")
    rich.page.mouse.move(1, 1)
    rich.until(plot("p0c1-scene", ".data.find((one) => one.meta === 'read').x[0] === null"))


def test_pointing_at_a_scene_shows_the_cell_in_all_other_pictures(rich):
    canvas = rich.page.locator("#p0c1-scene canvas").first
    canvas.scroll_into_view_if_needed()
    rich.get(plot("p0c1-scene", ".on('plotly_hover', ({ points: [at] }) => { window.at = at; })") + "; true")
    box = canvas.bounding_box()
    for step in range(40):  # from below, until the surface is met
        rich.page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * (0.75 - 0.01 * step))
        if rich.get("window.at?.data.meta === 'surface'"):
            break
        time.sleep(0.03)
    rich.until(plot("p0c0-scene", ".data.find((one) => one.meta === 'read').x[0] !== null"))
    x, y = rich.get("[window.at.x, window.at.y]")
    assert spots(rich, "p0c0")[0][:2] == [x, y]
    assert rich.page.inner_text("#p0-readout").startswith(f"At x = {x:g}, y = {y:g}:")
    assert all(f"x {x:.3f}y {y:.3f}"[:4] in text for text in labels(rich))
    rich.page.mouse.move(1, 1)
    rich.until(plot("p0c0-scene", ".data.find((one) => one.meta === 'read').x[0] === null"))


def test_arrow_keys_turn_all_scenes_and_one_button_resets_the_view(rich):
    eye = plot("p2c0-scene", ".layout.scene.camera.eye")
    rich.choose("camera", "free")
    before = np.array(rich.get(f"[{eye}.x, {eye}.y, {eye}.z]"))
    rich.page.focus("#p0c0-scene")
    rich.page.keyboard.press("ArrowRight")
    rich.until("location.hash.includes('eye=')")
    rich.until(f"{eye}.x !== {before[0]}")
    after = np.array(rich.get(f"[{eye}.x, {eye}.y, {eye}.z]"))
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before))
    cosine = after[:2] @ before[:2] / np.sum(before[:2] ** 2)
    assert np.degrees(np.arccos(cosine)) == pytest.approx(10)
    rich.page.keyboard.press("+")
    rich.until(f"Math.hypot({eye}.x, {eye}.y, {eye}.z) < {0.95 * np.linalg.norm(before)}")
    rich.page.click("#reset")
    rich.until(f"{eye}.x === {before[0]}")
    rich.drawn()
    assert rich.page.url.endswith("#")


def test_slices_go_along_the_diagonals_too(rich):
    rich.page.check("input[name=cut2][value=diagonals]")
    title = plot("p2-slices", ".layout.{}.title.text")
    rich.until(title.format("xaxis2") + " === 'x, on the diagonal from y = 1 to -1'")
    assert rich.get(title.format("xaxis")) == "x, on the diagonal from y = -1 to 1"
    curves = plot("p2-slices", "._fullData.filter((one) => one.mode === 'lines+markers')")
    x = np.linspace(-1, 1, 9)
    for n, y in enumerate((x, -x)):
        expected = 0.3 + 2 * ((x - 0.5) ** 2 + 0.5 * (y + 0.25) ** 2)
        np.testing.assert_allclose(rich.get(f"[...{curves}[{n}].y]"), expected, rtol=1e-6)
        assert rich.get(f"[...{curves}[{n}].x]") == x.tolist()
    assert rich.page.is_disabled("input[name=row2]")
    rich.page.check("input[name=cut2][value=axes]")
    rich.until(title.format("xaxis2") + ".includes('at x = 0')")


def test_differences_have_a_symlog_scale_and_raw_values_in_the_hover(rich):
    drawn = plot("difference-0", ".data[0]")
    x = np.linspace(-1, 1, 9)
    value = np.broadcast_to(0.1 + 5 * x**2, (9, 9))
    rich.page.check("input[name=difference][value=symlog]")
    rich.until(drawn + ".colorbar.title.text.includes('log beyond ±0.01')")  # a standard error of 0.025
    reach, knee = 10, 0.01
    bent = np.log10(1 + value / knee) / np.log10(1 + reach / knee) * reach
    np.testing.assert_allclose(rich.get(f"{drawn}.z"), bent, rtol=1e-5)
    hover = np.array(rich.get(f"{drawn}.customdata"))
    np.testing.assert_allclose(hover[..., 0], value, rtol=1e-5)
    assert rich.get(f"{drawn}.text[0][4]") == "difference +0.100 ± 0.025"
    assert rich.get(f"{drawn}.colorbar.ticktext") == ["-10", "-1", "-0.1", "0", "+0.1", "+1", "+10"]
    rich.page.check("input[name=difference][value=linear]")
    rich.until(f"!{drawn}.colorbar.title.text.includes('log')")
    np.testing.assert_allclose(rich.get(f"{drawn}.z"), value, rtol=1e-5)


def test_names_in_a_legend_are_switches_of_the_keyboard(rich):
    switch = rich.page.locator("#p0-slices .legendtoggle[aria-label='sgd']")
    shown = plot(
        "p0-slices", ".data.filter((one) => one.legendgroup === 'sgd').every((one) => one.visible !== 'legendonly')"
    )
    assert rich.get(shown)
    assert switch.get_attribute("aria-checked") == "true"
    switch.focus()
    rich.page.keyboard.press("Enter")
    rich.until(f"!{shown}")
    rich.until("document.activeElement.getAttribute('aria-label') === 'sgd'")
    assert switch.get_attribute("aria-checked") == "false"
    rich.page.keyboard.press(" ")
    rich.until(shown)


def test_what_is_switched_at_a_legend_stays_so_until_the_view_is_reset(rich):
    seen = """[...new Set(document.getElementById('p0-slices')._fullData.filter((one) => one.legendgroup)
        .map((one) => `${one.legendgroup} ${one.visible}`))]"""
    fresh = {"sgd true", "sam! true", "parabola of the second difference legendonly"}
    chosen = {"sgd legendonly", "sam! true", "parabola of the second difference true"}
    assert set(rich.get(seen)) == fresh
    for one in ("sgd legendonly", "parabola of the second difference true"):
        rich.page.locator(f"#p0-slices .legendtoggle[aria-label='{one.rpartition(' ')[0]}']").focus()
        rich.page.keyboard.press("Enter")
        rich.until(f"{seen}.includes('{one}')")
        time.sleep(0.5)  # two presses at once are a double click
    assert set(rich.get(seen)) == chosen
    rich.page.locator("input[name=row0]").fill("8")  # the bands and the parabola along x go
    rich.until(plot("p0-slices", ".layout.xaxis.title.text") + " === 'x, at y = 1'")
    assert set(rich.get(seen)) == chosen
    rich.page.locator("input[name=row0]").fill("4")
    rich.until(plot("p0-slices", ".layout.xaxis.title.text") + " === 'x, at y = 0'")
    scale = rich.get("document.querySelector('input[name=loss]:checked').value")
    rich.choose("loss", {"log": "linear", "linear": "log"}[scale])
    rich.page.emulate_media(color_scheme="dark")
    rich.drawn()
    rich.page.emulate_media(color_scheme="light")
    rich.drawn()
    assert set(rich.get(seen)) == chosen
    rich.page.click("#reset")
    rich.drawn()
    assert set(rich.get(seen)) == fresh


def test_the_tools_of_a_figure_are_one_stop_of_the_tab_key(rich):
    stops = (
        "[...document.querySelectorAll('.modebar')].map((bar) => bar.querySelectorAll('button[tabindex=\"0\"]').length)"
    )
    assert set(rich.get(stops)) == {1}
    tool = rich.page.locator("#p0c0-contour .modebar-btn").first
    tool.focus()
    rich.page.keyboard.press("ArrowRight")
    assert rich.get("document.activeElement.ariaLabel") != tool.get_attribute("aria-label")


def test_the_first_links_skip_to_a_section_and_keep_the_view(rich):
    rich.choose("scale", "own")
    links = "[...document.querySelectorAll('a, button, input, select, [tabindex=\"0\"]')].slice(0, 3)"
    assert rich.get(f"{links}.map((one) => one.textContent)")[0] == "To the surfaces"
    last = rich.page.locator(".skip a").nth(2)
    last.focus()
    assert last.bounding_box()["x"] >= 0
    rich.page.keyboard.press("Enter")
    assert rich.get("document.activeElement.id") == "section-table"
    assert "scale=own" in rich.page.url
    rich.choose("scale", "common")


def test_an_epoch_is_read_along_training_and_on_the_plane(rich):
    rich.page.focus("input[name=epoch1]")
    rich.page.keyboard.press("Home")
    rich.until("location.hash.includes('epoch1=0')")
    assert rich.page.inner_text("#epoch1-told") == "1: its own loss 4.00 ± 0.10, the plane’s 3.00, 0.300 off the plane"
    rich.until(plot("p1c0-scene", ".data.find((one) => one.meta === 'read').x[0] !== null"))
    np.testing.assert_allclose(spots(rich, "p1c0"), [[0.9, 0.5, on_axis(rich, 3.0)]], rtol=1e-6)
    label = rich.get(plot("p1c0-contour", ".querySelector('.hoverlayer').textContent"))
    assert "epoch 1its own loss 4.00 ± 0.10the plane's" in label
    for figure in ("p1-run", "curvature-trace"):
        assert rich.get(plot(figure, ".querySelectorAll('.hoverlayer .hovertext').length")) >= 2
    rich.page.click("#p1-play")  # less motion: one step
    rich.until("location.hash.includes('epoch1=1')")
    rich.page.locator("#p1-run .nsewdrag").first.hover(position={"x": 8, "y": 40})  # and by the mouse
    rich.until(plot("p1c0-scene", ".data.find((one) => one.meta === 'read').x[0] === 0.9"))
    rich.page.mouse.move(1, 1)
    rich.until(plot("p1c0-scene", ".data.find((one) => one.meta === 'read').x[0] === null"))


def seen_at(epochs):
    """A run whose losses are its epochs."""
    at = np.array(epochs, float)
    numbers = {"x": at / 10, "y": 0 * at, "distance": at / 100, "loss": at, "plane_loss": 2 * at}
    return Trajectory(epoch=np.array(epochs), standard_error=0.1 + 0 * at, explained_variance=0.9, **numbers)


def test_runs_of_different_epochs_are_read_at_the_epochs_of_both(browser, tmp_path):
    runs = {"long": [1, 2, 3, 5], "short": [2, 4]}
    write_report([around(name, trajectory=seen_at(epochs)) for name, epochs in runs.items()], tmp_path / "a.html")
    watched = Watched(
        browser, (tmp_path / "a.html").as_uri(), viewport={"width": 900, "height": 600}, reduced_motion="reduce"
    )
    told = "document.getElementById('epoch0-told').textContent"
    long, short = "its own loss {0}.00 ± 0.10, the plane’s {1}.00, 0.0{0}00 off the plane".format, "short not kept"
    assert watched.get(told) == f"5: long {long(5, '10').replace('10.00', '10.0')} · {short}"
    for epoch, said in (
        (1, f"1: long {long(1, 2)} · {short}"),
        (2, f"2: long {long(2, 4)} · short {long(2, 4)}"),
        (3, f"3: long {long(3, 6)} · {short}"),
        (4, f"4: long not kept · short {long(4, 8)}"),
    ):
        watched.page.click("#p0-play")
        watched.until(f"{told}.startsWith('{epoch}')")
        assert watched.get(told) == said
    watched.page.select_option("select[name=p0c0]", "1")
    watched.drawn()
    watched.until(f"{told} === '4: short {long(4, 8)} · short {long(4, 8)}'")
    watched.context.close()
    assert not watched.errors


def test_the_run_stands_off_its_plane_by_the_gap_of_their_losses(rich):
    z = rich.get(plot("p1c0-scene", ".data.find((one) => one.meta === 'gap').z"))
    ends = np.array([value for value in z if value is not None]).reshape(-1, 2)
    np.testing.assert_allclose(ends, [[on_axis(rich, v) for v in pair] for pair in ((4, 3), (2, 1), (0.3, 0.3))])


def test_the_fragment_restores_every_control(rich, browser):
    controls = "[...document.querySelectorAll('input, .picker select')]"
    other = """(one) => ({ range: one.min, number: "0.3", radio: one.value })[one.type] ??
        [...one.options].find((option) => !option.defaultSelected).value"""
    wanted = dict(rich.get(f"{controls}.filter((one) => !one.checked).map((one) => [one.name, ({other})(one)])"))
    names = {"scale", "loss", "camera", "clip", "ring", "plane0", "p0c0", "p0c1", "row0", "col0", "cut0", "epoch1"}
    assert names | {"difference"} <= set(wanted)
    address = rich.page.url.partition("#")[0] + "#" + "&".join("=".join(one) for one in wanted.items())
    watched = Watched(browser, address + "&eye=bad&unknown=1", viewport={"width": 900, "height": 600})
    shown = f"{controls}.filter((one) => one.type !== 'radio' || one.checked).map((one) => [one.name, one.value])"
    found = dict(watched.get(shown))
    assert {name: found[name] for name in wanted} == wanted
    watched.until(plot("p1c0-scene", ".data.find((one) => one.meta === 'read').x[0] === 0.9"))  # the epoch is shown
    assert not watched.errors
    watched.context.close()


@pytest.mark.parametrize("wrong", ["Infinity", "-1", "1e308"])
def test_a_fragment_that_no_control_can_have_still_draws_the_page(rich, browser, wrong):
    controls = "[...document.querySelectorAll('input, .picker select')]"
    names = rich.get(f"[...new Set({controls}.map((one) => one.name))]")
    fragment = "&".join(f"{name}={wrong}" for name in [*names, "loss"]) + f"&eye={wrong},{wrong},{wrong}"
    address = rich.page.url.partition("#")[0]
    shown = f"{controls}.filter((one) => one.type !== 'radio' || one.checked).map((one) => [one.name, one.value])"
    watched = Watched(browser, f"{address}#{fragment}", viewport={"width": 900, "height": 600})
    found = dict(watched.get(shown))
    eye = "(({ x, y, z }) => [x, y, z])(" + plot("p0c0-scene", "._fullLayout.scene.camera.eye") + ")"
    seen_from = watched.get(eye)
    watched.page.click("#reset")
    watched.drawn()
    usual, usually_from = dict(watched.get(shown)), watched.get(eye)
    watched.context.close()
    assert not watched.errors
    assert found == usual | ({"ring": wrong} if wrong == "1e308" else {})
    assert seen_from == ([-1, -1, -1] if wrong == "-1" else usually_from)


@pytest.mark.parametrize("error", ["uncertain", "exact"])
def test_numbers_of_the_page_have_the_digits_of_those_in_the_terminal(browser, error):
    script = (importlib.resources.files("landscape") / "page" / "numbers.js").read_text("utf-8")
    sizes = [3.7 * 10.0**power for power in range(-7, 8)] + [10.0**power for power in range(-5, 7)]
    values = [*sizes, -0.13, -1234.6, 0.0, 0.97968, 0.98, 9.9996, 0.5241, math.nan, math.inf, -math.inf]
    errors = [*sizes, 0.026, 0.0996, 1e-12] if error == "uncertain" else [0.0, math.nan, math.inf]
    page = browser.new_page()
    said = page.evaluate(
        f"([all, errors]) => {{ {script}; return all.map((v) => [short(v), ...errors.map((e) => plusMinus(v, e))]); }}",
        [values, errors],
    )
    page.close()
    assert said == [[short(value), *(plus_minus(value, error) for error in errors)] for value in values]


def test_clipping_cuts_heights_and_colours_and_leaves_the_hover(rich):
    rich.page.focus("input[name=clip]")
    for _ in range(5):
        rich.page.keyboard.press("PageDown")
    rich.until("location.hash.includes('clip=50')")
    rich.drawn()
    cut = rich.get("Number(document.getElementById('clip-told').textContent.split(':')[0])")
    log = rich.get("document.querySelector('input[value=log]').checked")
    surface = plot("p0c0-scene", ".data[0]")
    top = rich.get(f"Math.max(...{surface}.z.flat())")
    assert (10**top if log else top) == pytest.approx(cut, rel=1e-2)
    assert rich.get(f"{surface}.cmax") == pytest.approx(top)
    raw = np.array(rich.get(f"{surface}.customdata.map((row) => row.map((cell) => cell[0]))"))
    assert raw.max() == pytest.approx(3.3)
    told = rich.page.inner_text("#p0c0-clip")
    assert told == f"Clipped at {cut:g}: {(raw > cut).sum()} cells above."
    assert "≥" in rich.get(plot("p0c0-contour", ".data[0].colorbar.ticktext.at(-1)"))
    rich.page.keyboard.press("End")
    rich.until("document.getElementById('clip-told').textContent === 'nothing is clipped'")
    rich.drawn()
    assert rich.page.inner_text("#p0c0-clip") == ""


def test_eigenvectors_bring_their_quadratic_model_and_random_axes_only_on_request(rich):
    model = plot("{}", ".data.find((one) => one.meta?.[0] === 'quadratic')")
    assert rich.get(model.format("p2-slices") + ".visible") is True
    assert rich.get(model.format("p0-slices") + ".visible") == "legendonly"
    assert "kinks add curvature that the Hessian does not hold" in rich.page.inner_text("#surfaces")


def test_sliders_move_the_slices_to_another_row_and_column(rich):
    drawn = plot("p0-slices", "._fullData.filter((one) => one.mode === 'lines+markers')")
    before = rich.get(f"[...{drawn}[0].y]")
    rich.page.focus("input[name=row0]")
    rich.page.keyboard.press("End")
    rich.until("location.hash.includes('row0=8')")
    title = plot("p0-slices", ".layout.xaxis.title.text")
    rich.until(f"{title} === 'x, at y = 1'")
    assert rich.page.inner_text("#row0-told") == "1"
    np.testing.assert_allclose(rich.get(f"[...{drawn}[0].y]"), np.add(before, 1.0), rtol=1e-6)  # 2 * 0.5 * 1^2 more
    assert rich.get(f"{drawn}[0].text[4]") == "1.30 ± 0.13"
    bands = plot("p0-slices", "._fullData.filter((one) => one.fill === 'toself').map((one) => one.xaxis)")
    assert rich.get(bands) == ["x2", "x2"]
    rich.page.locator("input[name=row0]").fill("4")
    rich.until(f"{title} === 'x, at y = 0'")
    assert "row0" not in rich.page.url


def test_the_density_and_the_curvature_of_a_run_are_drawn(rich):
    assert rich.get(plot("density", ".querySelectorAll('.trace.scatter').length")) >= 2
    names = rich.get(plot("curvature-trace", ".data.map((one) => one.name)"))
    assert "sgd, stable up to here (full-batch theory)" in names


def test_layers_and_the_error_of_the_sample_are_drawn(rich):
    assert rich.get(plot("layers", ".querySelectorAll('.point').length")) == 5
    assert rich.get(plot("layers", ".querySelectorAll('.xerror').length")) == 5
    height = rich.get(plot("layers", ".getBoundingClientRect().height"))
    assert height == pytest.approx(130 + 3 * 20)
    np.testing.assert_allclose(rich.get(f"[...{trace('eigenvalues', 'sample')}.y]")[:5], [3.5, 4.5, np.nan, 0.9, 1.1])


def test_a_column_sorts_its_table_both_ways(rich):
    head = rich.page.locator("[aria-label='Flatness over planes'] th").nth(2)
    names = "[...document.querySelectorAll('[aria-label^=Flatness] tbody th')].map((one) => one.textContent)"
    head.locator("button").focus()
    rich.page.keyboard.press("Enter")
    assert (head.get_attribute("aria-sort"), rich.get(names)) == ("ascending", ["sgd", "sam!"])
    rich.page.keyboard.press("Enter")
    assert (head.get_attribute("aria-sort"), rich.get(names)) == ("descending", ["sam!", "sgd"])


def saved(watched, button, tmp_path):
    with watched.page.expect_download() as waiting:
        watched.page.click(button)
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_the_numbers_and_the_pictures_leave_the_page_as_files(rich, tmp_path):
    found = json.loads(saved(rich, "#save-json", tmp_path).read_text())
    assert found["surfaces"][0]["checkpoint"] == "sgd"
    assert found["surfaces"][0]["loss"][4][0] == pytest.approx(2.3)
    assert found["commands"] == ["landscape surface a.pt"]
    rows = saved(rich, "#save-csv", tmp_path).read_text().splitlines()
    assert rows[0] == "checkpoint,family,plane,data,data_hash,num_examples,x,y,loss,standard_error,accuracy,status"
    assert len(rows) == 1 + 8 * 81
    assert rows[1].endswith(",ok")
    names = rich.get("[...document.getElementById('figure').options].map((one) => one.textContent)")
    assert len(names) == len(set(names)) > 10
    rich.page.select_option("#figure", "p0-slices")
    picture = saved(rich, "#save-svg", tmp_path)
    assert picture.name == "landscape-p0-slices.svg"
    assert "mean loss" in picture.read_text()
    assert saved(rich, "#save-png", tmp_path).read_bytes().startswith(b"\x89PNG")
    rich.get("document.getElementById('copy-commands').closest('details').open = true")
    rich.page.click("#copy-commands")
    rich.until("document.querySelector('#copy-commands ~ [role=status]').textContent !== ''")
    rich.get("document.getElementById('copy-citation').closest('details').open = true")
    rich.page.click("#copy-citation")
    rich.until("document.querySelector('#copy-citation ~ [role=status]').textContent !== ''")
    assert "arXiv:2406.07107" in rich.page.text_content("#citation")
    rich.page.click("#copy-latex")
    rich.until("document.querySelector('#copy-latex ~ [role=status]').textContent !== ''")


@pytest.fixture(scope="module")
def fifty(browser, tmp_path_factory):
    path = tmp_path_factory.mktemp("fifty") / "report.html"
    write_report([around(f"epoch {n:02}" + "x" * n) for n in range(50)], path)
    watched = Watched(browser, path.as_uri(), viewport={"width": 1280, "height": 900})
    yield watched
    watched.context.close()


def test_fifty_checkpoints_have_three_pictures_with_pickers(fifty):
    assert fifty.get("document.querySelectorAll('div.contour').length") == 3
    assert fifty.get("document.querySelectorAll('.scene canvas').length") >= 3
    assert fifty.get("[...document.querySelectorAll('.column select')].map((one) => one.value)") == ["0", "24", "49"]
    fifty.page.select_option("select[name=p0c1]", "10")
    fifty.until("document.getElementById('p0c1-name').textContent.startsWith('epoch 10')")
    fifty.drawn()
    assert fifty.get(plot("p0c1-contour", ".data[0].customdata[4][4][0]")) == pytest.approx(1.8)
    assert "p0c1=10" in fifty.page.url
    named = plot("p0-slices", ".data.filter((one) => one.name.startsWith('epoch')).map((one) => one.name.slice(0, 8))")
    assert set(fifty.get(named)) == {"epoch 00", "epoch 10", "epoch 49"}


def test_play_goes_through_the_checkpoints_until_it_is_stopped(fifty):
    canvas = "document.querySelector('#p0c0-scene canvas')"
    fifty.get(f"{canvas}.dataset.mine = 'yes'")
    fifty.page.click("#p0-play")
    fifty.until("Number(document.querySelector('select[name=p0c0]').value) >= 2")
    fifty.page.click("#p0-play")
    fifty.until("document.getElementById('p0-play').textContent === 'Play'")
    assert fifty.get(f"{canvas}.dataset.mine") == "yes"
    fifty.page.select_option("select[name=p0c0]", "49")
    fifty.drawn()
    fifty.page.emulate_media(reduced_motion="reduce")
    fifty.until("document.getElementById('p0-play').textContent === 'Next'")
    fifty.page.click("#p0-play")  # one step, around the end
    fifty.until("document.querySelector('select[name=p0c0]').value === '0'")
    fifty.page.emulate_media(reduced_motion="no-preference")
    fifty.until("document.getElementById('p0-play').textContent === 'Play'")


AXE = (
    "4.14.1",
    "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
)  # of npm's axe-core: the version, and the digest of its archive


@pytest.fixture(scope="session")
def axe(request):
    """The script of axe-core, kept between runs in pytest's cache."""
    version, digest = AXE
    folder = request.config.cache.mkdir("axe-core")
    archive = folder / f"axe-core-{version}.tgz"
    if not archive.exists():
        npm = shutil.which("npm") or pytest.skip("npm is not installed, so axe-core cannot be had")
        command = [npm, "pack", f"axe-core@{version}", "--silent", "--pack-destination", str(folder)]
        try:
            subprocess.run(command, check=True, timeout=60, capture_output=True, cwd=folder)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"npm did not bring axe-core: {error}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == digest, f"{archive} is not the archive that was reviewed: {found}"
    with tarfile.open(archive) as opened:
        return opened.extractfile("package/axe.min.js").read().decode()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_nothing_on_the_page_is_seriously_inaccessible(rich, axe, width, scheme):
    rich.page.set_viewport_size({"width": width, "height": 800})
    rich.page.emulate_media(color_scheme=scheme)
    time.sleep(0.3)
    rich.drawn()
    rich.get("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    rich.get(f"(() => {{ {axe} }})()")
    violations = rich.get("axe.run({ resultTypes: ['violations'] }).then((found) => found.violations)")
    serious = {
        (one["id"], node["target"][0], node["failureSummary"])
        for one in violations
        for node in one["nodes"]
        if one["impact"] in ("serious", "critical")
    }
    assert not serious
    assert rich.get("document.documentElement.scrollWidth") <= width


def test_saved_surfaces_say_what_data_they_are_of_and_no_digit_that_is_not_known(browser, tmp_path):
    first = around("sgd", settings={"split": "test", "data_hash": "0123456789", "num_examples": 360})
    first.loss[0, 0] = 0.1 + 1e-12
    other = around("sgd", settings={"split": "test", "data_hash": "abcdefghij", "num_examples": 90})
    write_report([first, other], tmp_path / "a.html")
    watched = Watched(browser, (tmp_path / "a.html").as_uri(), viewport={"width": 900, "height": 600})
    found = json.loads(saved(watched, "#save-json", tmp_path).read_text())["surfaces"]
    said = [[one[name] for name in ("data", "data_hash", "num_examples")] for one in found]
    assert said == [["test, 01234567", "0123456789", 360], ["test, abcdefgh", "abcdefghij", 90]]
    assert found[0]["loss"][0][0] == 0.1
    np.testing.assert_allclose(found[0]["loss"], first.loss.T, rtol=1e-7)
    rows = list(csv.DictReader(io.StringIO(saved(watched, "#save-csv", tmp_path).read_text())))
    assert (rows[0]["data"], rows[0]["data_hash"], rows[0]["num_examples"]) == ("test, 01234567", "0123456789", "360")
    assert (rows[0]["loss"], rows[0]["accuracy"]) == ("0.1", "0.9")
    watched.context.close()
    assert not watched.errors


@pytest.mark.parametrize("size", [1e-30, 1e11, 1e30])
def test_a_loss_of_any_size_is_drawn(browser, tmp_path, size):
    one = around("sgd")
    grown = replace(one, loss=size * (one.loss + 1), standard_error=size * one.standard_error)
    write_report([grown], tmp_path / "a.html")
    watched = Watched(browser, (tmp_path / "a.html").as_uri(), viewport={"width": 900, "height": 600})
    assert watched.get(plot("p0c0-contour", ".querySelectorAll('.contourfill path').length")) > 3
    watched.context.close()
    assert not watched.errors


def test_a_figure_that_cannot_be_drawn_takes_no_other_with_it(browser, address):
    watched = Watched(browser, address, viewport={"width": 760, "height": 600})
    watched.get("""(() => {
        const react = Plotly.react;
        window.mended = () => { Plotly.react = react; };
        Plotly.react = (div, ...rest) => {
            if (["p0c0-contour", "p0c1-scene", "eigenvalues"].includes(div.id)) throw new TypeError("reading 'z'");
            return react(div, ...rest);
        };
    })()""")
    watched.page.emulate_media(color_scheme="dark")
    watched.until(plot("congruence", ".layout.font.color === '#e4e7eb'"))
    watched.drawn()
    for name in ("p0c0-contour", "p0c1-scene", "eigenvalues"):
        assert watched.page.inner_text(f"#{name}").startswith("This figure could not be drawn.")
        assert watched.page.locator(f"#figure option[value={name}]").count() == 0
    watched.page.focus("#p0c1-contour")
    watched.page.keyboard.press("Home")
    watched.until("document.getElementById('p0-readout').textContent.startsWith('At x')")
    watched.get("mended()")
    watched.page.emulate_media(color_scheme="light")
    watched.until(plot("eigenvalues", ".layout?.font.color === '#1f2328'"))
    watched.drawn()
    assert watched.get(plot("p0c0-contour", ".querySelectorAll('.contourfill path').length")) > 3
    watched.context.close()
    assert not watched.errors


def test_a_plane_without_this_data_has_nothing_to_read_or_to_copy(browser, tmp_path):
    write_report([around("sgd"), around("sgd", seed=1, settings={"split": "test"})], tmp_path / "a.html")
    watched = Watched(browser, (tmp_path / "a.html").as_uri(), viewport={"width": 900, "height": 600})
    watched.page.focus("#p0c0-contour")
    watched.page.keyboard.press("Home")
    watched.until("document.getElementById('p0-readout').textContent.startsWith('At x = 0, y = 0: sgd')")
    watched.page.select_option("select[name=plane0]", index=1)
    watched.drawn()
    assert watched.page.text_content("#p0-readout") == ""
    assert not watched.page.is_visible("#p0-copy")
    watched.page.select_option("select[name=plane0]", index=0)
    watched.until("document.getElementById('p0-readout').textContent.startsWith('At x = 0, y = 0: sgd')")
    assert watched.page.is_visible("#p0-copy")
    watched.context.close()
    assert not watched.errors
