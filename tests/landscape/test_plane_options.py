import hashlib
from functools import partial

import numpy as np
import pytest
import torch
from problems import dense_hessian, objective_of

import landscape as ls
from landscape.evaluator import Engine, usual
from landscape.plane_options import NotConvergedError, PlaneOptions, parsed_output_dims, plane_of
from landscape.survey import Subject, one_engine


def moved_by(objective, size):
    """The same network with other weights."""
    net = objective_of("tied").model
    torch.manual_seed(int(10 * size))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(size * torch.randn_like(p))
    return ls.Objective(net, torch.nn.CrossEntropyLoss(), objective.batches)


def planes_of(kind, objective, others):
    """What the options ask for, and the same plane by its own function."""
    names = ["a", "b", "c"]
    if kind == "between":
        return plane_of(objective, PlaneOptions(directions=kind), others=others, names=names), ls.plane_through(
            objective, *others, names=names
        )
    if kind == "pca":
        run = [dict(one.named(one.theta)) for one in (objective, *others)]
        thetas = torch.stack([one.theta for one in (objective, *others)])
        return plane_of(objective, PlaneOptions(directions=kind), run=run), ls.pca_plane(objective, thetas)
    if kind == "eigenvectors":
        pairs = ls.top_eigenpairs(ls.hessian(objective), 2, seed=3)
        return plane_of(objective, PlaneOptions(directions=kind, seed=3)), ls.eigenvector_plane(objective, pairs)
    if kind == "random":
        options = PlaneOptions(seed=3, normalization="layer", layers=("head",), output_dims=("Linear=1",))
        direct = ls.random_plane(
            objective,
            seed=3,
            normalization="layer",
            layers=("head",),
            output_dims={"Linear": 1},
            normalize_by=others[0],
        )
        return plane_of(objective, options, normalize_by=others[0]), direct
    rho = {"gradient": None, "sam": 0.05}[kind]
    return plane_of(objective, PlaneOptions(directions=kind, seed=3)), ls.ascent_plane(objective, rho=rho, seed=3)


@pytest.mark.parametrize("kind", ["random", "between", "pca", "eigenvectors", "gradient", "sam"])
def test_a_kind_is_the_plane_of_its_function(kind):
    objective = objective_of("tied")
    found, direct = planes_of(kind, objective, [moved_by(objective, 0.1), moved_by(objective, 0.2)])
    assert torch.equal(found.axes, direct.axes)
    assert found.settings == direct.settings


def test_eigenvectors_of_some_layers_are_those_of_their_block():
    objective = objective_of("tied")
    plane = plane_of(objective, PlaneOptions(directions="eigenvectors", layers=("head",)))
    rows = torch.cat(
        [torch.full((shape.numel(),), name.startswith("head")) for name, shape in objective.shapes.items()]
    )
    values, vectors = torch.linalg.eigh(dense_hessian(objective)[rows][:, rows])
    assert not plane.axes[:, ~rows].any()
    assert abs(float(plane.axes[0, rows] @ vectors[:, -1])) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(plane.settings["eigenvalues"], values.flip(0)[:2], atol=1e-4)


def test_eigenvectors_that_do_not_converge_make_no_plane(monkeypatch):
    monkeypatch.setattr("landscape.lanczos.top_eigenpairs", partial(ls.top_eigenpairs, max_matvecs=26, tolerance=1e-6))
    with pytest.raises(NotConvergedError, match="did not converge, so no plane is drawn along them"):
        plane_of(objective_of("tied"), PlaneOptions(directions="eigenvectors"))


def test_a_line_is_the_first_axis():
    objective = objective_of("tied")
    line, plane = (plane_of(objective, PlaneOptions(directions="sam", line=line)) for line in (True, False))
    assert torch.equal(line.axes, plane.axes[:1])


@pytest.mark.parametrize(
    ("options", "num_checkpoints", "words"),
    [
        ({"directions": "betwen"}, 2, "no kind and no file 'betwen'; did you mean between?"),
        ({"directions": "?"}, 1, "no kind and no file '\\?'; choose one of random, pca"),
        ({"directions": "between"}, 4, "`directions='between'` takes two checkpoints or three, got 4"),
        ({"directions": "between", "line": True}, 3, "a line between checkpoints takes two, got 3"),
        ({"rho": 0.1}, 1, "`rho` is of `directions='sam'`"),
        ({"directions": "pca", "output_dims": ("a=1",)}, 1, "`output_dim` are of random directions"),
        ({"line": True, "trajectory": "runs"}, 1, "`trajectory` is drawn on a plane: leave out `line`"),
    ],
)
def test_what_does_not_go_together_is_refused(options, num_checkpoints, words):
    with pytest.raises(ValueError, match=words):
        PlaneOptions(**options).check(num_checkpoints)


def test_a_file_of_directions_is_recorded_by_its_content(tmp_path):
    file = tmp_path / "directions.pt"
    file.write_bytes(b"axes")
    options = PlaneOptions(directions=str(file))
    options.check(1)
    assert options.record()["directions"] == hashlib.sha256(b"axes").hexdigest()
    assert str(tmp_path) not in str(options.record())


def test_dimensions_are_numbers_with_a_name():
    assert parsed_output_dims(["Conv1D=1", "head.weight=0"]) == {"Conv1D": 1, "head.weight": 0}
    for word in ("Conv1D", "=1", "Conv1D=one"):
        with pytest.raises(ValueError, match="`output_dim` takes NAME=DIM"):
            parsed_output_dims([word])


def test_surfaces_have_one_engine_that_keeps_what_is_given():
    objective = objective_of("conv_net")
    subject = Subject(label="", objective=objective, plane=ls.random_plane(objective), checkpoint={}, settings={})
    assert one_engine([subject], steps=3) == usual(objective, Engine())
    given = one_engine([subject], steps=3, micro_batch=5, layout="contiguous", batch_norm="recalibrated")
    assert (given.micro_batch, given.layout, given.batch_norm) == (5, "contiguous", "recalibrated")
