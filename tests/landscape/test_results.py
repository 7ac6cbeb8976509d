import dataclasses
import io
import json
import math
import os
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from landscape.results import (
    Congruence,
    CongruenceTrace,
    Density,
    Eigenpairs,
    Estimate,
    Line,
    ResultsError,
    Surface,
    Trajectory,
    load,
    load_file,
    problem_of,
    save,
    status_of,
    write_atomically,
)


def surface():
    x = np.linspace(-1, 1, 3)
    loss = np.array([[1.0, np.nan, 2.0], [np.inf, 0.5, -np.inf], [3.0, 4.0, 5.0]])
    return Surface(
        x=x,
        y=x,
        loss=loss,
        standard_error=loss / 10,
        accuracy=np.full((3, 3), np.nan),
        status=status_of(loss),
        checkpoint={"label": 'søren "><script>', "hash": "ab"},
        settings={"seed": 2**62, "axis_norms": [1.5, 2.5]},
        checks={"centre_ok": True, "centre_error": math.inf},
    )


def trajectory():
    at = np.array([1.5, 0.25, 0.0])
    return Trajectory(
        epoch=np.array([0, 1, 2]),
        x=at,
        y=-at,
        distance=2 * at,
        loss=at + 1,
        standard_error=at / 9,
        plane_loss=np.array([np.nan, np.inf, 1.0]),
        explained_variance=0.75,
    )


def line():
    one = surface()
    columns = {name: getattr(one, name)[0] for name in ("loss", "standard_error", "accuracy", "status")}
    return Line(x=one.x, **columns, checkpoint=one.checkpoint)


def pairs(vectors=None):
    one = np.arange(3.0)
    return Eigenpairs(
        values=one, vectors=vectors, residuals=one, converged=one > 1, complete=True, num_matvecs=7, loss=0.25
    )


def density():
    grid, runs = np.linspace(-1, 1, 5), np.array([[1.0, 0.5], [0.5, 0.0]])
    nan = np.full(5, np.nan)
    one = np.arange(3.0)
    shape = {"grid": grid, "mean": grid**2, "low": nan, "high": nan, "nodes": runs, "weights": 1 - runs}
    sure = {"sticks": one, "stick_residuals": one / 9}
    return Density(**shape, **sure, size=30, kernel_width=0.25, num_matvecs=4, note="no band")


def trace():
    columns = {
        f.name: np.array([0.5, np.nan])
        for f in dataclasses.fields(CongruenceTrace)
        if f.name not in ("epoch", "num_probes", "checkpoint", "settings", "checks")
    }
    return CongruenceTrace(epoch=np.array([1, 2]), num_probes=np.array([2, 0]), **columns)


def same(one, other):
    assert type(one) is type(other)
    for item in dataclasses.fields(one):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if isinstance(a, Trajectory):
            same(a, b)
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b or (a != a and b != b)


def test_a_result_is_told_by_its_shapes_and_not_by_its_numbers():
    grid = np.zeros((21, 21))
    one = Surface(
        x=grid[0],
        y=grid[0],
        loss=grid,
        standard_error=grid,
        accuracy=grid,
        status=grid.astype(np.uint8),
        checkpoint={"label": "sgd"},
    )
    assert repr(one).startswith("Surface('sgd', x (21,), y (21,), loss (21, 21), ")
    assert len(repr(one)) < 200
    trace = Estimate(quantity="trace", value=2.5, standard_error=0.5, num_samples=4, num_matvecs=4)
    assert repr(trace).startswith("Estimate(quantity='trace', value=2.5, standard_error=0.5, num_samples=4")


def test_what_is_saved_is_loaded_with_every_value_as_it_was(tmp_path):
    results = [
        surface(),
        dataclasses.replace(surface(), trajectory=trajectory()),
        line(),
        pairs(),
        pairs(np.eye(3, dtype=np.float32)),
        trace(),
        density(),
        Estimate(quantity="trace", value=1.5, standard_error=math.nan, num_samples=2, num_matvecs=2, note="few"),
        Congruence(value=math.nan, standard_error=0.1),
    ]
    save(results, tmp_path / "r.npz", plan={"command": "surface"}, run={"seconds": 1.5})
    for one, other in zip(results, load(tmp_path / "r.npz"), strict=True):
        same(one, other)
    file = load_file(tmp_path / "r.npz")
    assert (file.plan, file.run) == ({"command": "surface"}, {"seconds": 1.5})


def test_one_result_is_loaded_as_a_list(tmp_path):
    save(surface(), tmp_path / "r.npz")
    assert [type(r) for r in load(tmp_path / "r.npz")] == [Surface]


def test_only_the_run_record_differs_between_equal_runs(tmp_path):
    save(surface(), tmp_path / "a.npz", run={"seconds": 1})
    save(surface(), tmp_path / "b.npz", run={"seconds": 2})
    with zipfile.ZipFile(tmp_path / "a.npz") as a, zipfile.ZipFile(tmp_path / "b.npz") as b:
        assert a.namelist() == b.namelist()
        assert [n for n in a.namelist() if a.read(n) != b.read(n)] == ["run.npy"]


def test_every_kind_of_value_has_its_status():
    assert status_of(np.array([1.0, np.nan, np.inf, -np.inf, -1.0, 0.0])).tolist() == [1, 2, 3, 4, 1, 1]


def damaged(tmp_path, change):
    save([surface(), pairs()], tmp_path / "r.npz")
    data = change((tmp_path / "r.npz").read_bytes())
    (tmp_path / "r.npz").write_bytes(data)
    return tmp_path / "r.npz"


@pytest.mark.parametrize(
    "change",
    [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b[:-10], lambda b: b"<html>" + b, lambda b: b"{}"],
    ids=["empty", "half", "without its end", "html before it", "json"],
)
def test_a_damaged_file_is_named(tmp_path, change):
    path = damaged(tmp_path, change)
    if path.read_bytes().startswith(b"<html>"):  # a zip may have anything before it
        same(surface(), load(path)[0])
        return
    with pytest.raises(ResultsError, match=r"r.npz is not a whole .npz file"):
        load(path)


def test_a_flipped_byte_is_found(tmp_path):
    path = damaged(tmp_path, lambda b: b)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("0.loss.npy")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 70] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ResultsError, match=r"r.npz"):
        load(path)


def write_members(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_pickled_objects_are_refused_unread(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    write_members(tmp_path / "r.npz", header=npy(np.array([Payload()], dtype=object)))
    with pytest.raises(ResultsError, match="holds pickled objects"):
        load(tmp_path / "r.npz")
    assert not (tmp_path / "hacked").exists()


def test_a_lie_about_the_size_is_refused_before_anything_is_allocated(tmp_path):
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(lying, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    write_members(tmp_path / "r.npz", header=lying.getvalue() + bytes(64))
    with pytest.raises(ResultsError, match=r"member header.npy .* lies about its size"):
        load(tmp_path / "r.npz")


def test_a_member_that_is_no_array_is_named(tmp_path):
    for content in (b"", b"text", npy(np.zeros(8)).replace(b"}", b" ")):
        write_members(tmp_path / "r.npz", header=content)
        with pytest.raises(ResultsError, match=r"r.npz: member header.npy is not an array"):
            load(tmp_path / "r.npz")


def test_a_bomb_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("landscape.results.MAX_BYTES", 1000)
    save(pairs(np.zeros((3, 1000))), tmp_path / "r.npz")
    with pytest.raises(ResultsError, match=r"would unpack to .* bytes, more than 1,000"):
        load(tmp_path / "r.npz")


def with_header(path, **changes):
    header = {"format": 1, "plan": {}, "results": [{}]} | changes
    write_members(path, header=npy(np.array(json.dumps({k: v for k, v in header.items() if v is not None}))))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format 99, made by a newer landscape; this one reads 1: upgrade"),
        ({"results": None}, "lacks format or results"),
        ({"format": 0}, "lacks format or results"),
        ({"format": True}, "lacks format or results"),
        ({"results": []}, "lacks format or results"),
        ({"results": [{"type": "Sculpture"}]}, "result 0 is of an unknown type"),
        ({"results": [{"type": "Surface"}]}, "result 0 is of an unknown type or lacks a part"),
    ],
)
def test_a_foreign_header_is_named(tmp_path, changes, message):
    with pytest.raises(ResultsError, match=message):
        load(with_header(tmp_path / "r.npz", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": np.zeros(3)},
        {"loss": np.zeros((3, 2))},
        {"loss": np.array([["a"] * 3] * 3)},
        {"x": np.array([0.0, np.nan, 1.0])},
        {"status": np.zeros((2, 2), np.uint8)},
        {"settings": None},
        {"checks": []},
    ],
    ids=str,
)
def test_a_result_of_a_wrong_shape_or_type_is_named(tmp_path, changes):
    save(dataclasses.replace(surface(), **changes), tmp_path / "r.npz")
    with pytest.raises(ResultsError, match=r"r.npz: result 0 is of an unknown type or lacks a part"):
        load(tmp_path / "r.npz")


@pytest.mark.parametrize(
    "changes",
    [
        {"low": np.zeros(4)},
        {"weights": np.zeros((2, 3))},
        {"nodes": np.zeros(2)},
        {"stick_residuals": np.zeros(2)},
    ],
    ids=str,
)
def test_a_density_of_a_wrong_shape_is_named(tmp_path, changes):
    save(dataclasses.replace(density(), **changes), tmp_path / "r.npz")
    with pytest.raises(ResultsError, match=r"r.npz: result 0 is of an unknown type or lacks a part"):
        load(tmp_path / "r.npz")


@pytest.mark.parametrize(
    ("settings", "place", "ratio"),
    [
        ({}, 5, 5.0),
        ({}, 6, np.inf),
        ({}, 7, np.nan),
        ({"which": "largest", "k": 6}, 2, 1.25),
        ({"which": "both", "k": 3}, 3, 5 / 3),
        ({"which": "both", "k": 3}, 5, np.nan),
        ({"which": "smallest", "k": 6}, 2, np.nan),
    ],
)
def test_the_ratio_is_of_the_largest_eigenvalues(settings, place, ratio):
    one = dataclasses.replace(pairs(), values=np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), settings=settings)
    np.testing.assert_equal(one.ratio(place), ratio)


def test_a_checkpoint_given_for_results_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "last.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(ResultsError, match="is a checkpoint, not results: measure it with landscape surface"):
        load(tmp_path / "last.pt")


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real.npz").write_bytes(b"old")
    (tmp_path / "link.npz").symlink_to(tmp_path / "real.npz")
    save(surface(), tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    same(surface(), load(tmp_path / "real.npz")[0])


def test_another_npz_is_no_results_file(tmp_path):
    np.savez(tmp_path / "r.npz", a=np.arange(3))
    with pytest.raises(ResultsError, match="is not a results file: it has no header"):
        load(tmp_path / "r.npz")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "r.npz"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.npz"]


def test_the_leftover_of_a_dead_process_is_removed_and_that_of_a_living_one_is_kept(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / f".r.npz.tmp-{process.pid}").write_bytes(b"dead")
    (tmp_path / f".r.npz.tmp-{os.getppid()}").write_bytes(b"alive")
    save(surface(), tmp_path / "r.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f".r.npz.tmp-{os.getppid()}", "r.npz"])


def test_a_full_disk_keeps_the_old_file(tmp_path):
    save(surface(), tmp_path / "r.npz")
    before = (tmp_path / "r.npz").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(pairs(np.random.default_rng(0).normal(size=(3, 1000))), tmp_path / "r.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "r.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.npz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": None}, "loss is no float, but None"),
        ({"loss": True}, "loss is no float, but True"),
        ({"complete": 1}, "complete is no bool, but 1"),
        ({"num_matvecs": "many"}, "num_matvecs is no int, but 'many'"),
        ({"checks": {"pyhessian": {}}}, "its cross-check lacks one of eigenvalue, difference, trace"),
    ],
)
def test_a_plain_value_of_a_wrong_type_is_named(tmp_path, changes, message):
    save(dataclasses.replace(pairs(), **changes), tmp_path / "r.npz")
    with pytest.raises(ResultsError, match=rf"r.npz: result 0 is of an unknown type or lacks a part \({message}"):
        load(tmp_path / "r.npz")


def test_a_trajectory_of_a_wrong_shape_is_refused(tmp_path):
    short = dataclasses.replace(trajectory(), x=np.zeros(2))
    save(dataclasses.replace(surface(), trajectory=short), tmp_path / "r.npz")
    with pytest.raises(
        ResultsError, match=r"result 0 is of an unknown type or lacks a part .its trajectory is of a wrong"
    ):
        load(tmp_path / "r.npz")


def test_a_line_with_many_cells_that_are_not_finite_is_a_problem():
    assert problem_of(line()) == 'søren "><script>: 1 of 3 points are not finite; try a smaller extent'
