import csv
import dataclasses
import functools
import io
import json
import math
from dataclasses import replace

import meshio
import numpy as np
import plain_results as plain
import pytest
from curvature_results import along_run, density, entries
from plain_results import valley

from landscape import export
from landscape.gallery import drawings, undrawn
from landscape.results import (
    Congruence,
    CongruenceTrace,
    DataSpread,
    Density,
    Eigenpairs,
    Estimate,
    Line,
    Metric,
    Surface,
    Trajectory,
    status_of,
)


def export_picture(results, stem, *, kind, **options):
    return export.picture_files(drawings(results, **options), stem, kind)


def surface(label="a", **changes):
    x, y = np.array([-1.0, 0.0, 1.0]), np.array([-0.5, 0.5])
    loss = np.array([[1 / 3, 2.0], [math.nan, math.inf], [-math.inf, 1e-300]])
    values = {
        "x": x,
        "y": y,
        "loss": loss,
        "standard_error": loss / 10,
        "accuracy": np.linspace(0, 1, 6).reshape(3, 2),
        "status": status_of(loss),
        "checkpoint": {"label": label},
        "settings": {"seed": 3},
        "checks": {"centre_error": math.nan},
    }
    return Surface(**(values | changes))


def pairs():
    return Eigenpairs(
        values=np.array([2.0, 1.0]),
        vectors=np.zeros((2, 5), np.float32),
        residuals=np.array([1e-4, 2e-4]),
        converged=np.array([True, False]),
        complete=True,
        num_matvecs=30,
    )


def rows(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_csv_has_a_row_for_each_point_in_full_precision(tmp_path):
    one = surface()
    found = rows(export.export_csv([one], tmp_path / "s.npz")[tmp_path / "s.csv"])
    assert len(found) == 6
    for row, (i, j) in zip(found, np.ndindex(3, 2), strict=True):
        assert (float(row["x"]), float(row["y"])) == (one.x[i], one.y[j])
        np.testing.assert_equal(float(row["loss"]), one.loss[i, j])  # NaN and infinities too
        assert float(row["accuracy"]) == one.accuracy[i, j]
        assert int(row["status"]) == one.status[i, j]


def test_csv_of_eigenvalues_traces_and_single_values(tmp_path):
    trace = CongruenceTrace(
        epoch=np.arange(1, 3),
        **{n: np.array([0.25, math.nan]) for n in ("cosine_b", "cosine_a", "change", "learning_rate")},
        **{f"{n}_standard_error": np.zeros(2) for n in ("cosine_b", "cosine_a", "change")},
        num_probes=np.array([3, 0]),
    )
    congruence = Congruence(value=0.5, standard_error=0.1, status="ok")
    written = export.export_csv([pairs(), trace, congruence], tmp_path / "all.npz")
    names = ["all-0-eigenpairs.csv", "all-1-congruencetrace.csv", "all-2-congruence.csv", "all-about.json"]
    assert [path.name for path in written] == names
    values, epochs, single, _ = (rows(content) for content in written.values())
    assert [(float(row["values"]), row["converged"]) for row in values] == [(2.0, "True"), (1.0, "False")]
    assert [row["epoch"] for row in epochs] == ["1", "2"]
    assert [row["cosine_b"] for row in epochs] == ["0.25", "nan"]
    assert single == [{"value": "0.5", "standard_error": "0.1", "status": "ok"}]


def test_json_is_strict_and_has_everything(tmp_path):
    ((path, content),) = export.export_json([surface(), pairs()], tmp_path / "s.npz").items()
    assert path.name == "s.json"
    document = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    first, second = document["results"]
    assert (first["type"], first["checkpoint"], first["settings"]) == ("Surface", {"label": "a"}, {"seed": 3})
    assert first["checks"] == {"centre_error": None}
    assert first["loss"] == [[1 / 3, 2.0], [None, None], [None, 1e-300]]
    assert first["status"] == [[1, 1], [2, 3], [4, 1]]
    assert (second["values"], second["converged"]) == ([2.0, 1.0], [True, False])
    assert "vectors" not in second


def test_a_trajectory_is_in_json_and_csv_beside_its_surface(tmp_path):
    at = np.array([0.0, 0.25])
    run = Trajectory(
        epoch=np.array([1, 2]),
        x=at,
        y=-at,
        distance=at,
        loss=at,
        standard_error=at,
        plane_loss=np.array([math.nan, 1.0]),
        explained_variance=0.5,
    )
    (content,) = export.export_json([surface(trajectory=run)], tmp_path / "s.npz").values()
    (found,) = json.loads(content)["results"]
    assert found["trajectory"] == {"explained_variance": 0.5}
    assert (found["trajectory.x"], found["trajectory.plane_loss"]) == ([0.0, 0.25], [None, 1.0])
    assert found["x"] == [-1.0, 0.0, 1.0]
    one, two = surface(trajectory=run), surface("b", trajectory=run)
    assert [path.name for path in export.export_csv([one], tmp_path / "s.npz")] == [
        "s.csv",
        "s-trajectory.csv",
        "s-about.json",
    ]
    written = export.export_csv([one, two], tmp_path / "s.npz")
    assert list(written)[3] == tmp_path / "s-1-surface-b-trajectory.csv"
    table = rows(written[tmp_path / "s-1-surface-b-trajectory.csv"])
    assert [(row["epoch"], row["x"], row["y"], row["plane_loss"]) for row in table] == [
        ("1", "0.0", "-0.0", "nan"),
        ("2", "0.25", "-0.25", "1.0"),
    ]


def test_a_stem_keeps_a_dot_that_is_no_formats(tmp_path):
    def names(write, stem, *results):
        return [path.name for path in write(results, tmp_path / stem)]

    for stem, name in {"fig.v2": "fig.v2", "fig.npz": "fig", "fig.v2.JSON": "fig.v2", "fig.csv": "fig"}.items():
        assert names(export.export_json, stem, surface()) == [f"{name}.json"]
        assert names(export.export_vtk, stem, surface()) == [f"{name}.vtk"]
        assert names(export.export_csv, stem, surface(), pairs())[1] == f"{name}-1-eigenpairs.csv"
    picture = functools.partial(export_picture, kind="svg")
    assert names(picture, "fig.v2", surface()) == ["fig.v2.svg"]
    assert names(picture, "fig.v2", surface(), pairs()) == ["fig.v2-surface.svg", "fig.v2-spectrum.svg"]


def test_a_density_is_the_columns_of_its_grid_and_an_estimate_one_row(tmp_path):
    grid, nan = np.array([0.0, 1.0]), np.full(2, np.nan)
    runs, sticks = np.ones((1, 3)), np.array([9.0])
    density = Density(
        grid=grid,
        mean=grid + 1,
        low=nan,
        high=nan,
        nodes=runs,
        weights=runs / 3,
        sticks=sticks,
        stick_residuals=sticks / 100,
        size=40,
        kernel_width=0.5,
        num_matvecs=3,
    )
    trace = Estimate(quantity="trace", value=2.5, standard_error=0.5, num_samples=4, num_matvecs=4)
    first, sticks, nodes, second, _ = export.export_csv([density, trace], tmp_path / "s.npz").values()
    assert [(row["sticks"], row["stick_residuals"]) for row in rows(sticks)] == [("9.0", "0.09")]
    assert [(row["probe"], row["node"], row["nodes"]) for row in rows(nodes)] == [
        ("0", str(n), "1.0") for n in range(3)
    ]
    assert [(row["grid"], row["mean"], row["low"]) for row in rows(first)] == [
        ("0.0", "1.0", "nan"),
        ("1.0", "2.0", "nan"),
    ]
    (row,) = rows(second)
    assert (row["quantity"], row["value"], row["standard_error"]) == ("trace", "2.5", "0.5")
    (content,) = export.export_json([density, trace], tmp_path / "s.npz").values()
    found = json.loads(content)["results"][0]
    assert (found["sticks"], found["nodes"], found["low"]) == ([9.0], [[1.0, 1.0, 1.0]], [None, None])


def test_vtk_comes_back_through_another_reader(tmp_path):
    one = surface("ä \n label")
    ((path, content),) = export.export_vtk([pairs(), one], tmp_path / "s.npz").items()
    path.write_bytes(content)
    mesh = meshio.read(path)
    order = np.lexsort((mesh.points[:, 1], mesh.points[:, 0]))
    points = np.array([(a, b, 0.0) for a in one.x for b in one.y])
    np.testing.assert_array_equal(mesh.points[order], points)
    for name in ("loss", "standard_error", "accuracy", "status"):
        np.testing.assert_array_equal(mesh.point_data[name].ravel()[order], getattr(one, name).ravel())


def test_vtk_without_a_surface_is_refused(tmp_path):
    with pytest.raises(ValueError, match="VTK is for surfaces, and there is none"):
        export.export_vtk([pairs()], tmp_path / "s.npz")


def test_files_of_several_results_are_named_by_place_type_and_label(tmp_path):
    written = export.export_vtk([surface("runs/a b"), surface("../c")], tmp_path / "s.npz")
    assert [path.name for path in written] == ["s-0-surface-runs_a_b.vtk", "s-1-surface-c.vtk"]
    assert {path.parent for path in written} == {tmp_path}


def test_a_dataset_has_the_arrays_and_says_where_they_are_from():
    pytest.importorskip("xarray", reason="the extra xarray is not installed")
    one = surface()
    found = export.to_xarray(one)
    np.testing.assert_array_equal(found.loss.values, one.loss)
    np.testing.assert_array_equal(found.loss.sel(x=1.0).values, one.loss[2])
    assert json.loads(found.attrs["settings"]) == {"seed": 3}


@pytest.mark.parametrize("kind", export.PICTURES)
@pytest.mark.parametrize("relief", [False, True])
def test_pictures_are_the_same_bytes_each_time(tmp_path, kind, relief):
    made = [export_picture([surface()], tmp_path / "s.npz", kind=kind, relief=relief) for _ in range(2)]
    assert made[0] == made[1]
    ((path, content),) = made[0].items()
    assert path.name == f"s.{kind}"
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    if kind == "svg":
        assert b"a" in content
        assert "mean" in content.decode()


def test_each_kind_of_result_has_a_picture_and_the_same_bytes_each_time(tmp_path):
    run = Trajectory(
        **dict.fromkeys(("x", "y", "distance", "loss", "standard_error", "plane_loss"), np.array([0.5, 0.1])),
        epoch=np.array([1, 2]),
        explained_variance=0.9,
    )
    probes = dict.fromkeys(("cosine_b", "cosine_a", "change", "learning_rate"), np.array([0.1, 0.2]))
    errors = {f"{name}_standard_error": np.array([0.01, 0.02]) for name in ("cosine_b", "cosine_a", "change")}
    trace = CongruenceTrace(epoch=np.array([1, 2]), num_probes=np.array([3, 3]), **probes, **errors)
    row = dict.fromkeys(("x", "loss", "standard_error", "accuracy"), np.linspace(0.1, 1, 3))
    line = Line(**row, status=status_of(row["x"]))
    results = [dataclasses.replace(surface(), trajectory=run), pairs(), line, density(), entries(), along_run(), trace]
    results += plain.blocks()
    made = [export_picture(results, tmp_path / "s.npz", kind="pdf", width="single") for _ in range(2)]
    assert made[0] == made[1]
    kinds = ("surface", "run", "line", "spectrum", "layers", "density", "diagonal", "curvature", "congruence")
    assert [path.name for path in made[0]] == [f"s-{name}.pdf" for name in kinds]
    for content in made[0].values():
        assert b"/FontFile2" in content  # the letters travel with it
        assert b"/MediaBox [ 0 0 234 " in content  # 3.25 inches


def test_the_error_of_the_sample_is_drawn_where_its_eigenvalues_are():
    assert undrawn([plain.spectrum(), plain.sampled(), *plain.blocks()]) == ""
    assert undrawn([plain.spectrum(), plain.sampled("sam")]).startswith("not drawn: error of the sample (1)")


def test_without_anything_to_draw_there_is_no_picture(tmp_path):
    with pytest.raises(ValueError, match="there is nothing to draw"):
        export_picture([Congruence(value=0.1, standard_error=0.0)], tmp_path / "s.npz", kind="png")
    with pytest.raises(ValueError, match="--relief draws surfaces, and there is none"):
        export_picture([pairs()], tmp_path / "s.npz", kind="png", relief=True)
    with pytest.raises(ValueError, match=r"width must be one of \('single', 'double'\), got 'wide'"):
        export_picture([pairs()], tmp_path / "s.npz", kind="png", width="wide")


def every_type():
    spread = DataSpread(
        values=np.array([4.0, 1.0]),
        standard_error=np.array([0.5, 0.25]),
        trace=9.0,
        trace_standard_error=0.5,
        subset_sizes=np.array([25.0, 50.0, 100.0]),
        subset_values=np.array([6.0, 5.0, 4.5]),
        bias=0.5,
        num_examples=100.0,
        num_parts=4,
        num_matvecs=12,
    )
    estimate = Estimate(quantity="trace", value=2.5, standard_error=0.5, num_samples=4, num_matvecs=4)
    top2 = {"top2": Metric(mean=surface().accuracy / 3, standard_error=surface().accuracy / 7)}
    line = replace(valley(), metrics={})
    ahead = [surface(metrics=top2, trajectory=plain.run()), line, pairs(), along_run(), density(), spread, estimate]
    return [*ahead, entries(), Congruence(value=0.1, standard_error=0.01), plain.trace()]


def columns(content):
    """A table of numbers as numpy reads it, by the names of its columns."""
    table = np.genfromtxt(io.BytesIO(content), delimiter=",", names=True, dtype=None, encoding="utf-8", deletechars="")
    return {name: np.atleast_1d(table[name]) for name in table.dtype.names}


@pytest.mark.parametrize("one", every_type(), ids=lambda one: type(one).__name__)
def test_another_reader_finds_each_number_in_csv_and_what_it_means(one, tmp_path):
    written = {path.name: content for path, content in export.export_csv([one], tmp_path / "s.npz").items()}
    about = json.loads(written.pop("s-about.json"))
    assert about["status"]["3"] == "+inf"
    assert set(about["tables"]) == set(written)
    found = [value for content in written.values() for value in columns(content).values()]
    grid = ("x", "y") if isinstance(one, Surface) else ()  # of the two, each row has one: held above
    for name, array in export._arrays(one).items():
        if name in grid:
            continue
        wanted = array.T if name in ("values", "residuals", "converged") and array.ndim == 2 else [array.ravel()]
        for each in wanted:
            alike = [value for value in found if value.dtype.kind != "U"]
            assert any(np.array_equal(each, value, equal_nan=array.dtype.kind == "f") for value in alike), name
    for name, content in written.items():
        told = about["tables"][name]
        assert told["type"] == type(one).__name__
        assert told["checkpoint"] == one.checkpoint
        assert told["settings"] == one.settings
        assert {export._base(column) for column in columns(content)} <= {*told["columns"], *told}


@pytest.mark.parametrize("one", every_type(), ids=lambda one: type(one).__name__)
def test_another_reader_finds_each_number_in_json(one, tmp_path):
    (content,) = export.export_json([one], tmp_path / "s.npz").values()
    document = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (found,) = document["results"]
    assert document["status"]["1"] == "ok"
    for name, array in export._arrays(one).items():
        read = np.array(found[name], dtype=float)
        np.testing.assert_array_equal(read, np.where(np.isfinite(array), array, np.nan))
    assert found["settings"] == one.settings


def test_a_diagonal_is_a_row_for_each_entry_with_its_tensor(tmp_path):
    content, sums, _ = export.export_csv([entries()], tmp_path / "s.npz").values()
    assert sums.decode().splitlines()[1] == "in.weight,3.0,0.3"
    rows = content.decode().splitlines()
    assert rows[:2] == ["tensor,place,value,standard_error", "in.weight,0,0.5,0.1"]
    assert rows[7:9] == ["in.bias,0,-4.0,0.1", "in.bias,1,-4.0,0.1"]
    assert len(rows) == 13
