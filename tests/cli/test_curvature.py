"""The hessian command: operators, one budget, other ends of the spectrum, blocks, another program beside it."""

import dataclasses

import numpy as np
import pytest
import torch

import cli
import landscape as ls
from train import checkpoint as checkpoints

SMALL = ("--split", "test", "--examples", 64, "--top", 2)


@pytest.fixture
def measured(landscape_json, trained, tmp_path):
    def run(*options, checkpoints=("sgd",)):
        out = tmp_path / "h.npz"
        done = landscape_json("hessian", *(trained / name for name in checkpoints), *SMALL, *options, "--out", out)
        assert done.code == 0, done.err
        return done.document["results"]["tables"], ls.load(out)

    return run


def test_one_budget_answers_everything(measured):
    tables, results = measured("--budget", 80, checkpoints=("sgd", "sam"))
    assert [type(one).__name__ for one in results] == 2 * ["Eigenpairs", "Density", "Estimate", "Estimate", "Estimate"]
    pairs, density, trace = results[0], results[1], results[2]
    assert pairs.num_matvecs + density.num_matvecs <= 80
    eigenvalues, whole, bulk = tables
    assert eigenvalues["rows"][0]["values"] == pairs.values.tolist()
    assert whole["rows"][0]["trace"] == trace.value
    assert whole["rows"][0]["effective_rank"] == pytest.approx(trace.value / pairs.values[0])
    assert bulk["rows"][0]["num_sticks"] == int(pairs.converged.sum())
    assert len(whole["rows"]) == len(bulk["rows"]) == 2


def test_a_call_from_python_has_the_same_options_and_finds_the_same(measured, trained):
    given = cli.app.commands["hessian"].make_context("hessian", ["last.pt"]).params
    names = [item.name for item in dataclasses.fields(ls.HessianOptions)]
    assert ls.HessianOptions(**{name: given[name] for name in names}) == ls.HessianOptions()
    _, (pairs, trace, _) = measured("--trace", "--examples", 360)
    model, splits = checkpoints.restore(checkpoints.read(trained / "sgd" / "last.pt"))
    inputs, targets = splits.test
    objective = ls.Objective(model, torch.nn.CrossEntropyLoss(), [(inputs[:], targets)])
    ours, estimate, _ = ls.hessian_analysis(objective, ls.HessianOptions(top=2, trace=True))
    np.testing.assert_allclose(ours.values, pairs.values, rtol=1e-4)
    assert estimate.value == pytest.approx(trace.value, rel=1e-3)


def test_density_and_trace_can_be_had_alone(measured):
    tables, (pairs, trace, rank) = measured("--trace")
    assert tables[1]["rows"][0]["trace_interval_95"] == pytest.approx(trace.interval())
    assert (trace.quantity, rank.quantity) == ("trace", "effective_rank")
    assert trace.settings["split"] == "test"
    assert pairs.vectors is None


def test_the_diagonal_is_kept_whole_and_told_by_tensor(measured):
    tables, (pairs, found) = measured("--diagonal")
    assert len(found.values) == pairs.settings["num_parameters"]
    rows = {row["tensor"]: row for row in tables[1]["rows"]}
    assert [*rows][-1] == "all"
    assert rows["all"]["trace"] == found.trace
    assert set(rows) - {"all"} == set(found.names)
    assert rows["head.weight"]["trace"] == pytest.approx(found.tensor("head.weight").sum(), rel=1e-5)


def test_the_largest_tensors_are_printed_and_the_others_summed(landscape, trained, tmp_path):
    done = landscape("hessian", trained / "sgd", *SMALL, "--diagonal", "--out", tmp_path / "d.npz")
    lines = done.out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("tensor "))
    names = [line.split("  ")[0] for line in lines[start + 1 :]]
    assert names[11:13] == ["18 others", "all"]
    assert len(set(names[:11])) == 11
    assert max(map(len, lines)) <= 100


def test_both_ends_and_their_vectors(measured):
    _, (pairs,) = measured("--which", "both", "--save-vectors")
    assert pairs.values.shape == (4,)
    assert (np.diff(pairs.values) <= 0).all()
    assert pairs.values[-1] < 0 < pairs.values[0]
    assert pairs.vectors.shape[0] == 4


@pytest.mark.parametrize(
    ("operator", "title"),
    [
        ("gauss-newton", "Gauss-Newton matrix of the mean cross-entropy"),
        ("fisher", "Fisher matrix (mc) of the mean cross-entropy"),
        ("empirical-fisher", "Fisher matrix (empirical) of the mean cross-entropy"),
    ],
)
def test_other_matrices_are_named(measured, operator, title):
    tables, (pairs,) = measured("--operator", operator)
    assert tables[0]["title"].startswith(title)
    assert (pairs.values > 0).all()  # positive semi-definite


def test_a_block_is_of_its_layers_alone(measured):
    tables, (pairs,) = measured("--layers", "head.weight")
    assert "the 640 parameters of head.weight" in tables[0]["title"]
    _, (whole,) = measured("--force")
    assert 0 < pairs.values[0] < whole.values[0]  # a block's largest is at most the whole's (Cauchy)


def test_another_program_finds_the_same(measured):
    tables, (pairs,) = measured("--cross-check")
    check = pairs.checks["pyhessian"]
    assert check["difference"] < 1e-3
    assert check["eigenvalue"] == pytest.approx(pairs.values[0], rel=1e-3)
    assert check["num_matvecs"] > 5
    assert tables[0]["rows"][0]["pyhessian"] == check


def test_the_engine_changes_the_way_and_not_the_number(measured):
    _, (usual,) = measured()
    _, (other,) = measured("--engine", "recomputed", "--force")
    assert other.settings["engine"] == "recomputed"
    np.testing.assert_allclose(other.values, usual.values, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", 50, "--trace"], "--budget answers density and trace too"),
        (["--budget", 50, "--diagonal"], "--budget has no products for a diagonal"),
        (["--which", "smallest", "--trace"], "need the largest eigenvalues: use --which both"),
        (["--engine", "timed", "--operator", "fisher"], "--engine is of the Hessian, not of fisher"),
        (["--cross-check", "--layers", "head"], "--cross-check is of the whole Hessian"),
        (["--budget", 5], "--budget must be at least 32 products for --top 5 (largest), certified; got 5"),
        (["--budget", 90, "--max-matvecs", 200], "--budget bounds all products, and --max-matvecs those of the"),
        (["--layers", "haed"], "fits 'haed'; the nearest: head"),
        (["--engine", "finite-differences"], "would count the kinks of this network"),
        (["--engine", "finite-differences"], "take --engine retained, or --engine finite-differences-across-kinks"),
        (["--top", 700, "--layers", "head.weight", "--max-matvecs", 3000], "--top must be in 1..640"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(landscape, trained, tmp_path, options, words):
    done = landscape("hessian", trained / "sgd", "--split", "test", *options, "--out", tmp_path / "h.npz")
    assert done.code == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "h.npz").exists()


def test_a_run_is_followed_through_training(landscape, landscape_json, tmp_path):
    run = tmp_path / "run"
    assert landscape("train", "--epochs", 3, "--save-every", 1, "--momentum", 0.5, "--out", run).code == 0
    done = landscape_json("hessian", run, *SMALL)
    assert done.code == 0, done.err
    (trace,) = ls.load(run / "hessian.npz")
    assert trace.epoch.tolist() == [1, 2, 3]
    assert trace.checkpoint["method"] == "sgd"
    rates = [0.1, 0.075, 0.025]  # a cosine
    np.testing.assert_allclose(trace.learning_rate, rates)
    decay = trace.checkpoint["config"]["weight_decay"]
    np.testing.assert_allclose(trace.stability_limit, [3 / rate - decay for rate in rates])
    rows = done.document["results"]["tables"][0]["rows"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["converged"] for row in rows] == trace.converged.tolist()
    shown = landscape("hessian", run, *SMALL, "--resume").out
    assert "lambda_1" in shown
    assert "lambda_2" in shown
    assert "all converged; none seen beyond" in shown
    assert landscape("hessian", run / "last.pt", *SMALL, "--out", tmp_path / "last.npz").code == 0
    np.testing.assert_allclose(trace.values[-1], ls.load(tmp_path / "last.npz")[0].values, rtol=2e-3)
    refused = landscape("hessian", run, *SMALL, "--budget", 80, "--force")
    assert refused.code == 2
    assert "a run is followed by the largest eigenvalues of its Hessian" in refused.err
    assert landscape("hessian", run, *SMALL, "--resume").code == 0


def test_the_error_of_the_data_has_the_bias_beside_it(measured):
    tables, (pairs, spread) = measured("--data-error")
    assert spread.values == pytest.approx(pairs.values, rel=1e-3)
    assert (spread.standard_error > 0).all()
    assert spread.num_parts == 16
    row = tables[1]["rows"][0]
    assert row["bias"] == spread.bias
    assert row["examples_for_5_percent"] == spread.examples_for(0.05)
    assert row["subset_sizes"] == [16.0] * 4 + [32.0] * 2 + [64.0]


def test_each_layer_has_a_block_of_its_own(measured):
    tables, (whole, *blocks) = measured("--per-layer")
    layers = [one.settings["layer"] for one in blocks]
    assert layers[0] == "stem.0"
    assert "head" in layers
    assert all(one.values[0] <= whole.values[0] * 1.001 for one in blocks)  # Cauchy's interlacing
    assert [row["layer"] for row in tables[1]["rows"]] == layers
    alone = dict(zip(layers, blocks, strict=True))["head"]
    _, (head,) = measured("--layers", "head", "--force")
    np.testing.assert_allclose(alone.values, head.values, rtol=2e-3)


def test_the_papers_protocol_is_named_and_is_nearly_a_multiple(measured):
    tables, (paper,) = measured("--protocol", "paper")
    assert "(protocol paper)" in tables[0]["title"]
    assert paper.settings["num_batches"] == 1
    _, (clean,) = measured("--force")
    assert paper.values[0] == pytest.approx(clean.values[0], rel=0.2)  # one batch; without biases and norms
    assert paper.values[0] <= clean.values[0] * 1.001


def test_the_most_negative_eigenvalue_is_named_as_such(landscape, trained, tmp_path, measured):
    tables, (pairs,) = measured("--which", "both")
    assert tables[0]["rows"][0]["which"] == "both"
    words = ("hessian", trained / "sgd", *SMALL)
    both = landscape(*words, "--which", "both", "--out", tmp_path / "b.npz").out
    assert "lambda_min" in both
    assert "lambda_4" not in both
    smallest = landscape(*words, "--which", "smallest", "--out", tmp_path / "s.npz").out
    assert "lambda_min" in smallest
    assert "lambda_1" not in smallest
    assert ls.load(tmp_path / "s.npz")[0].values[-1] == pytest.approx(pairs.values[-1], rel=5e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data-error", "--operator", "fisher"], "--data-error draws no labels: use --operator empirical-fisher"),
        (["--data-error", "--examples", 3], "3 examples are too few"),
        (["--cross-check", "--which", "smallest"], "of largest magnitude: use --which both"),
    ],
)
def test_what_would_compare_unlike_things_is_refused_at_once(landscape, trained, tmp_path, options, words):
    done = landscape("hessian", trained / "sgd", "--split", "test", *options, "--out", tmp_path / "h.npz")
    assert done.code == 2
    assert words in done.err


def test_the_basis_holds_what_its_memory_allows(landscape, trained, tmp_path, measured):
    _, (usual,) = measured()
    _, (small,) = measured("--basis-memory", 6 * usual.settings["num_parameters"] * 4 / 1e9, "--force")
    assert small.settings["basis_size"] == 6
    np.testing.assert_allclose(small.values, usual.values, rtol=1e-3)
    words = ("hessian", trained / "sgd", *SMALL, "--basis-memory", 1e-6, "--out", tmp_path / "s.npz")
    refused = landscape(*words)
    assert refused.code == 2
    assert "--basis-memory holds 0 vectors, --top 2 needs 4" in refused.err


def test_a_budget_without_a_product_for_probes_says_so(landscape, trained, tmp_path):
    words = ("hessian", trained / "sgd", "--split", "test", "--examples", 64, "--top", 1, "--budget", 24)
    done = landscape(*words, "--tolerance", 1e-6, "--out", tmp_path / "b.npz")
    assert done.code == 4  # not converged, either
    assert "no products were left for probes: a larger --budget has some" in done.out
    assert "nan" not in done.out


def test_a_failed_check_has_its_numbers_in_json_too(landscape_json, trained, tmp_path):
    words = ("hessian", trained / "sgd", *SMALL, "--tolerance", 1e-8, "--out", tmp_path / "h.npz")
    done = landscape_json(*words)
    (pairs,) = ls.load(tmp_path / "h.npz")
    assert done.code == done.document["error"]["code"] == 4
    assert done.document["ok"] is False
    row = done.document["results"]["tables"][0]["rows"][0]
    assert (row["values"], row["converged"]) == (pairs.values.tolist(), pairs.converged.tolist())
    assert "float32 resolves no residual below about 1e-06, so take no tolerance of 1e-08" in done.err


def test_a_tolerance_that_float32_resolves_is_met(measured):
    _, (pairs,) = measured("--tolerance", 1e-6)
    assert (pairs.residuals <= 1e-6 * pairs.values[0]).all()


def test_what_cannot_be_measured_of_the_last_is_refused_before_the_first_is(landscape, trained, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert landscape("train", "--epochs", 1, "--val-fraction", 0, "--model", "resnet20", "--out", run).code == 0
    monkeypatch.setattr("landscape.analysis.top_eigenpairs", None)  # would raise, if called
    for paths, options, told in (
        ((trained / "sgd", run), ["--split", "val"], "was trained without a validation part"),
        ((trained / "sgd", run), ["--layers", "stages.0*"], "run: layers: no parameter is called or fits 'stages.0*'"),
        ((run, trained / "sgd"), ["--layers", "*.bias", "--top", 500], "sgd: --top must be in 1..346"),
        ((trained / "sgd", run), ["--basis-memory", 0.004], "run: --basis-memory holds 3 vectors"),
    ):
        done = landscape("hessian", *paths, *options, "--out", tmp_path / "h.npz")
        assert done.code == 2
        assert told in done.err
    assert not (tmp_path / "h.npz.journal").exists()


def test_the_caption_names_an_engine_that_is_not_the_usual_one(measured):
    tables, _ = measured("--engine", "forward-over-reverse")
    assert tables[0]["title"].endswith("float32, products by forward over reverse")
    tables, _ = measured("--force")
    assert tables[0]["title"].endswith("float32")


def test_explain_says_how_a_product_is_made_and_measures_nothing(landscape, landscape_json, trained, tmp_path):
    words = ("hessian", trained / "sgd", "--split", "test", "--examples", 64, "--explain", "--out", tmp_path / "e.npz")
    done = landscape(*words)
    assert done.code == 0, done.err
    assert "seconds per product" in done.out
    told = landscape_json(*words, "--engine", "recomputed").document["results"]
    assert (told["engine"], told["micro_batch"], told["num_examples"]) == ("recomputed", 64, 64)
    assert told["seconds_per_product"] > 0
    words = ("hessian", trained / "sgd", trained / "sam", trained / "sam", *words[2:])
    assert [line for line in landscape(*words).out.splitlines() if line.endswith(":")] == ["sgd:", "sam:"]
    each = landscape_json(*words).document["results"]["checkpoints"]
    assert [one["checkpoint"] for one in each] == ["sgd", "sam"]
    assert not (tmp_path / "e.npz").exists()


def test_a_network_that_draws_at_random_has_no_curvature(landscape, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda _, x: torch.dropout(x.relu(), 0.5, train=True))
    done = landscape("hessian", trained / "sgd", *SMALL, "--out", tmp_path / "h.npz")
    assert done.code == 4
    assert "two passes at the same weights gave" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "h.npz").exists()
