"""Where `landscape surface` looks: every kind of direction, trajectories, --explain, and what does not go together."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch

import landscape as ls
from landscape.results import load_file

SMALL = ("--steps", 3)


@pytest.fixture(scope="module")
def kept(landscape, tmp_path_factory):
    """Two runs that keep every epoch, and one of another network: never written to."""
    folder = tmp_path_factory.mktemp("kept")
    for name, *options in (("sgd",), ("sam", "--method", "sam"), ("other", "--model", "resnet20")):
        epochs = 1 if name == "other" else 3
        done = landscape("train", "--epochs", epochs, "--save-every", 1, "--out", folder / name, *options)
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def surface(landscape, kept, tmp_path):
    """Run `landscape surface` on checkpoints of the runs: the results, and what was printed."""

    def run(checkpoints, *options, code=0):
        out = tmp_path / "out.npz"
        paths = [kept / (name if name.endswith(".pt") else f"{name}/last.pt") for name in checkpoints]
        done = landscape("surface", *paths, *options, "--out", out)
        assert done.code == code, done.err
        return (ls.load(out) if code == 0 else []), done

    return run


def weights(path):
    state = torch.load(path, weights_only=True)["model"]
    return torch.cat(
        [t.reshape(-1).double() for name, t in state.items() if "running" not in name and "num_b" not in name]
    )


@pytest.mark.filterwarnings("always::landscape.surface.StatisticsWarning")
def test_between_two_checkpoints_is_a_line_and_batch_norm_is_warned_of(surface):
    (line,), done = surface(["sgd", "sam"], "--directions", "between", "--steps", 5)
    assert isinstance(line, ls.Line)
    assert line.x.tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    end = line.checks["landmarks"][0]
    assert end["name"] == "sam"
    assert line.loss[3] == pytest.approx(end["loss_on_plane"], rel=1e-6)
    assert "landscape: warning: BatchNorm keeps the running statistics of the centre: at sam the loss is" in done.err
    assert "--batch-norm recalibrated mends this" in done.err
    assert "at sam the loss is" in done.out
    assert "barrier" in done.out


@pytest.mark.filterwarnings("always::landscape.surface.StatisticsWarning")
def test_between_three_is_a_plane(surface):
    (found,), _ = surface(["sgd", "sam/epoch-0001.pt", "sam"], "--directions", "between", *SMALL)
    assert [one["name"] for one in found.settings["landmarks"]] == ["sgd", "sam/epoch-0001.pt", "sam"]
    assert found.checks["centre_ok"]
    assert found.checkpoint["label"] == "sgd"


def test_pca_is_of_the_checkpoints_own_run_which_is_drawn(surface, kept):
    (found,), done = surface(["sgd"], "--directions", "pca", *SMALL)
    run = found.trajectory
    assert run.epoch.tolist() == [1, 2, 3]
    assert run.distance == pytest.approx([0, 0, 0], abs=1e-4)  # three checkpoints lie on one plane
    at = [weights(kept / f"sgd/epoch-000{n}.pt") for n in (1, 2, 3)]
    assert np.hypot(run.x[0], run.y[0]) == pytest.approx(float((at[0] - at[2]).norm()), rel=1e-4)
    lines = [json.loads(line) for line in (kept / "sgd/metrics.jsonl").read_text().splitlines()]
    assert run.loss == pytest.approx([line["train_loss"] for line in lines], rel=1e-4)
    assert "the axes hold" in done.out
    assert "The run sgd seen from the plane of sgd; 100 %" in done.out


def test_a_trajectory_is_seen_from_any_plane(surface, kept):
    (one, other), done = surface(["sgd", "sam"], "--trajectory", kept / "sam", *SMALL)
    np.testing.assert_array_equal(one.trajectory.loss, other.trajectory.loss)
    assert other.trajectory.distance[-1] == pytest.approx(0.0, abs=1e-4)
    assert one.trajectory.distance[-1] > 0.1
    assert "The run sam seen from the plane of sam" in done.out


def test_eigenvectors_are_the_first_checkpoints_and_one_displacement_for_all(surface, tmp_path):
    (one, other), done = surface(
        ["sgd", "sam"], "--directions", "eigenvectors", "--split", "val", *SMALL, "--save-directions"
    )
    assert one.settings["eigenvalues"] == other.settings["eigenvalues"]
    assert one.settings["axis_norms"] == pytest.approx([1.0, 1.0])
    assert "the eigenvalues of the hessian at sgd" in done.out
    assert [path.name for path in tmp_path.glob("*.pt")] == ["out.directions.pt"]


def test_eigenvectors_that_do_not_converge_exit_4(surface, monkeypatch):
    monkeypatch.setattr("landscape.lanczos.top_eigenpairs", partial(ls.top_eigenpairs, max_matvecs=26, tolerance=1e-6))
    _, done = surface(["sgd"], "--directions", "eigenvectors", *SMALL, code=4)
    assert "the eigenvectors did not converge, so no plane is drawn along them" in done.err


def test_saved_directions_are_read_again(surface, tmp_path):
    (first,), _ = surface(["sgd"], "--directions", "sam", "--rho", "0.2", *SMALL, "--save-directions")
    saved = tmp_path / "mine.pt"
    shutil.move(tmp_path / "out.directions.pt", saved)
    (again,), _ = surface(["sgd"], "--directions", saved, *SMALL, "--force")
    np.testing.assert_allclose(first.loss, again.loss, rtol=1e-5)  # the engine is chosen by timing
    assert again.settings["axis_norms"] == pytest.approx([0.2, 0.2])
    (line,), _ = surface(["sgd"], "--directions", saved, "--line", *SMALL, "--force")
    np.testing.assert_allclose(line.loss, first.loss[:, 1], rtol=1e-5)


def test_random_directions_are_saved_for_each_checkpoint(surface, tmp_path):
    surface(["sgd", "sam"], *SMALL, "--save-directions")
    one, other = (torch.load(tmp_path / f"out.directions-{n}.pt", weights_only=True) for n in (1, 2))
    assert one.keys() == other.keys() == {"axis0", "axis1"}
    assert not one["axis0"]["head.weight"].equal(other["axis0"]["head.weight"])


def test_the_filters_of_one_checkpoint_may_serve_all(surface, kept):
    (one, other), _ = surface(["sgd", "sam"], "--normalize-by", kept / "sgd/last.pt", "--layers", "head", *SMALL)
    assert one.settings["axis_norms"] == other.settings["axis_norms"]
    assert set(one.settings["norm_ratios"][0]) == {"head.weight"}


def test_an_interval_and_a_line_are_kept_in_the_plan(surface, tmp_path):
    (line,), _ = surface(["sgd"], "--line", "--interval", "0", "2", "--steps", 5)
    assert line.x.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    plan = load_file(tmp_path / "out.npz").plan
    assert (plan["interval"], plan["line"], plan["directions"]) == ([0.0, 2.0], True, "random")


def test_explain_prints_the_filters_and_measures_nothing(landscape, landscape_json, kept, tmp_path):
    done = landscape("surface", kept / "sgd/last.pt", "--explain", "--out", tmp_path / "x.npz", "--layers", "head")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["parameter", "shape", "filters", "rule"]
    assert ["head.weight", "10x64", "10", "Linear:", "dimension", "0"] in rows
    assert "not among --layers: does not move" in done.out
    assert not list(tmp_path.iterdir())
    whole = landscape_json("surface", kept / "sgd/last.pt", "--explain", "--output-dim", "Linear=1").document
    groups = {group["name"]: group for group in whole["results"]["groups"]}
    assert groups["head.weight"]["num_filters"] == 64
    both = landscape("surface", kept / "sgd/last.pt", kept / "sam/last.pt", "--explain").out.splitlines()
    assert [line for line in both if line.endswith(":")] == ["sgd:", "sam:"]


@pytest.mark.parametrize(
    ("checkpoints", "options", "code", "words"),
    [
        (["sgd"], ["--directions", "pac"], 2, "no kind and no file 'pac'; did you mean pca?"),
        (["sgd"], ["--directions", "between"], 2, "takes two checkpoints or three, got 1"),
        (["sgd", "sam", "sgd/epoch-0001.pt"], ["--directions", "between", "--line"], 2, "takes two, got 3"),
        (
            ["sgd", "sgd/epoch-0003.pt"],
            ["--directions", "between"],
            2,
            "epoch-0003.pt have equal parameters",
        ),
        (["sgd"], ["--rho", "0.1"], 2, "--rho is of --directions sam"),
        (["sgd"], ["--directions", "gradient", "--output-dim", "Linear=1"], 2, "are of random directions"),
        (["sgd"], ["--output-dim", "Linear"], 2, "takes NAME=DIM"),
        (["sgd"], ["--layers", "haed"], 2, "fits 'haed'; the nearest: head"),
        (["sgd"], ["--line", "--trajectory", "x"], 2, "drawn on a plane"),
        (["sgd"], ["--trajectory", "x"], 2, "x is not the folder of a run"),
        (["sgd"], ["--extent", "nan"], 2, "extent must be finite"),
        (["sgd"], ["--interval", "1", "0"], 2, "from a lower to a higher"),
        (["sgd"], ["--interval", "-1", "1", "--steps", "-4"], 2, "steps must be at least 1 for an interval, got -4"),
        (
            ["other"],
            ["--directions", "pca"],
            2,
            "PCA needs 3 checkpoints of a run or more, got 1: train with --save-every",
        ),
        (["sgd", "other"], [], 3, "sgd and other are of different architectures: stem.0.weight is only in sgd"),
        (
            ["sgd"],
            ["--trajectory", "{kept}/other"],
            3,
            "another architecture than the checkpoint: missing stem.0.weight",
        ),
        (["sgd"], ["--normalize-by", "{kept}/other/last.pt"], 3, "are of different architectures"),
        (["sgd"], ["--directions", "{kept}/sgd/last.pt"], 3, "holds no directions"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(surface, kept, tmp_path, checkpoints, options, code, words):
    options = [str(option).replace("{kept}", str(kept)) for option in options]
    _, done = surface(checkpoints, *SMALL, *options, code=code)
    assert words in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not (tmp_path / "out.npz").exists()
