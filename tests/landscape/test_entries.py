"""Diagonals from random signs, against dense Hessians and matrices with known eigenvectors."""

import dataclasses

import numpy as np
import pytest
import torch
from problems import NETS, dense_hessian, objective_of

from landscape.entries import diagonal
from landscape.lanczos import top_eigenpairs
from landscape.operators import SymmetricOperator, block, gauss_newton, hessian, per_layer
from landscape.results import ResultsError, load, problem_of, save


def matrix(num_outliers=5, size=300, seed=0):
    """Symmetric, with a few large eigenvalues on vectors that spread over all entries, and a bulk."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(size, size)))[0]
    values = np.r_[20.0 / np.arange(1, num_outliers + 1), generator.uniform(-0.5, 1.0, size - num_outliers)]
    return (basis * values) @ basis.T


def operator_of(dense, **fields):
    dense = torch.as_tensor(dense)
    return SymmetricOperator(lambda v: dense @ v, len(dense), dense.dtype, **fields)


SHAPES = {"first.weight": (10, 20), "first.bias": (10,), "head.weight": (90,)}


@pytest.mark.parametrize("name", NETS)
def test_the_diagonal_of_a_network_is_that_of_the_dense_hessian_within_its_errors(name):
    objective = objective_of(name)
    truth = dense_hessian(objective).diagonal().numpy()
    found = diagonal(hessian(objective), num_matvecs=40)
    assert (np.abs(found.values - truth) <= 5 * found.standard_error + 1e-12).mean() > 0.995
    sums = [part.sum() for part in np.split(truth, np.cumsum([np.prod(s) for s in found.shapes])[:-1])]
    assert list(found.names) == list(objective.shapes)
    np.testing.assert_allclose(found.tensor_traces, [found.tensor(n).sum() for n in found.names], rtol=1e-9, atol=1e-12)
    assert (np.abs(found.tensor_traces - sums) <= 4 * found.tensor_standard_errors + 1e-12).all()
    assert abs(found.trace - truth.sum()) <= 4 * found.trace_standard_error + 1e-12
    assert found.checks["symmetric"] is True
    assert found.checks["symmetry"] < 1e-12


@pytest.mark.parametrize("deflated", [False, True])
def test_the_standard_errors_are_the_size_of_the_errors(deflated):
    """Of entries, of the sums over tensors and of the trace, over 20 seeds."""
    dense = matrix()
    operator = operator_of(dense, shapes=SHAPES)
    pairs = top_eigenpairs(operator, 5, tolerance=1e-4) if deflated else None
    truth = np.diag(dense)
    sums = np.array([truth[:200].sum(), truth[200:210].sum(), truth[210:].sum()])
    found = [diagonal(operator, num_matvecs=30, seed=seed, pairs=pairs) for seed in range(20)]
    scores = {
        "entries": [(one.values - truth) / one.standard_error for one in found],
        "tensors": [(one.tensor_traces - sums) / one.tensor_standard_errors for one in found],
        "trace": [(one.trace - truth.sum()) / one.trace_standard_error for one in found],
    }
    for each in scores.values():
        assert 0.5 < np.sqrt(np.square(each).mean()) < 2
    assert (np.abs(scores["tensors"]) <= 4).all()
    assert (np.abs(scores["trace"]) <= 4).all()
    assert (np.abs(scores["entries"]) <= 4).mean() > 0.998  # of 6,000 with 29 degrees of freedom


@pytest.mark.parametrize("tolerance", [3e-1, 1e-8])
def test_pairs_however_rough_leave_the_diagonal_unbiased(tolerance):
    dense = matrix()
    operator = operator_of(dense)
    pairs = top_eigenpairs(operator, 5, tolerance=tolerance)
    found = [diagonal(operator, num_matvecs=20, seed=seed, pairs=pairs) for seed in range(60)]
    mean = np.mean([one.values for one in found], axis=0)
    error = np.sqrt(np.mean([one.standard_error**2 for one in found], axis=0) / 60)
    scores = (mean - np.diag(dense)) / error
    assert 0.8 < np.sqrt((scores**2).mean()) < 1.2
    assert abs(scores.mean()) < 0.3


def test_known_pairs_make_the_diagonal_sharper():
    dense = matrix()
    operator = operator_of(dense)
    plain, deflated = (diagonal(operator, pairs=p) for p in (None, top_eigenpairs(operator, 5)))
    errors = [np.linalg.norm(one.values - np.diag(dense)) for one in (plain, deflated)]
    assert errors[1] < errors[0] / 2
    assert deflated.standard_error.mean() < plain.standard_error.mean() / 2


def test_the_error_of_a_sum_is_that_of_its_spread_and_not_of_independent_entries():
    """v'Av has twice the variance of the sum of independent entries: each pair of entries is in it twice."""
    found = diagonal(operator_of(matrix(size=500)), num_matvecs=400)
    alone = np.sqrt((found.standard_error**2).sum())
    assert found.tensor_standard_errors[0] == pytest.approx(2**0.5 * alone, rel=0.1)
    assert found.trace_standard_error == found.tensor_standard_errors[0]


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_a_small_operator_is_measured_whole(size):
    dense = np.atleast_2d(np.cov(np.random.default_rng(0).normal(size=(size, 3 * size))))
    found = diagonal(operator_of(dense))
    np.testing.assert_allclose(found.values, np.diag(dense), rtol=1e-14)
    assert not found.standard_error.any()
    assert (found.trace, found.trace_standard_error) == (pytest.approx(np.trace(dense)), 0.0)
    assert found.tensor_traces.tolist() == [pytest.approx(np.trace(dense))]
    assert found.num_matvecs == size
    assert (list(found.names), [*map(list, found.shapes)]) == (["all"], [[size]])


@pytest.mark.parametrize("num_matvecs", [1, 3, 4])
def test_too_few_probes_have_no_error_and_that_is_said(num_matvecs):
    found = diagonal(operator_of(matrix()), num_matvecs=num_matvecs)
    assert found.num_matvecs == num_matvecs
    assert np.isfinite(found.values).all()
    for errors in (found.standard_error, found.tensor_standard_errors, found.trace_standard_error):
        assert np.isnan(errors).all() == (num_matvecs < 4)
    assert found.note == ("" if num_matvecs == 4 else f"no standard error: {num_matvecs} samples, fewer than 4")


def test_a_block_has_the_tensors_that_are_left_of_it():
    objective = objective_of("tied")
    dense = dense_hessian(objective).diagonal()
    layer = per_layer(objective)["head"]
    found = diagonal(layer, num_matvecs=layer.size)
    assert list(found.names) == ["head.weight", "head.bias"]
    np.testing.assert_allclose(found.tensor("head.weight").ravel(), dense[-18:-3], atol=1e-12)
    assert found.tensor("head.weight").shape == (3, 5)
    part = block(gauss_newton(objective), torch.arange(len(dense)) < 30)
    assert dict(part.shapes) == {"first.weight": (5, 5), "first.bias": (5,)}
    cut = block(part, torch.arange(30) > 26)
    assert dict(cut.shapes) == {"first.bias": (3,)}


def test_an_operator_that_is_not_symmetric_is_found_out():
    dense = matrix()
    bad, good = (diagonal(operator_of(dense + 0.01 * part)) for part in (np.triu(dense, 1), 0))
    assert problem_of(bad).startswith("checkpoint: the product is not symmetric (error")
    assert problem_of(good) == ""


def test_products_for_several_vectors_are_used_and_counted_and_give_the_same_bits():
    dense, passes, seen = torch.as_tensor(matrix()), [], []

    def matvecs(vectors):
        passes.append(len(vectors))
        return torch.stack([dense @ v for v in vectors])

    one = operator_of(dense)
    first = diagonal(one, num_matvecs=20)
    other = diagonal(dataclasses.replace(one, matvecs=matvecs), num_matvecs=20, progress=seen.append)
    assert first.values.tobytes() == other.values.tobytes()
    assert passes == [8, 8, 4]
    assert seen == list(range(1, 21))
    assert diagonal(one, num_matvecs=20, seed=1).values.tobytes() != first.values.tobytes()


def test_a_float32_operator_has_float32_entries_and_sums_in_float64():
    size = 200_000
    found = diagonal(SymmetricOperator(lambda v: 1.1 * v, size), num_matvecs=4)
    assert found.values.dtype == np.float32
    assert found.trace == pytest.approx(size * np.float32(1.1), rel=1e-7)


def test_a_diagonal_is_kept_whole_and_a_file_that_lies_is_refused(tmp_path):
    fields = {"loss": 0.25, "checkpoint": {"hash": "ab"}, "settings": {"operator": "hessian"}}
    found = diagonal(operator_of(matrix(), shapes=SHAPES, **fields), num_matvecs=8)
    save(found, tmp_path / "d.npz")
    (other,) = load(tmp_path / "d.npz")
    assert other.values.tobytes() == found.values.tobytes()
    assert (list(other.names), other.tensor("first.weight").shape) == (list(SHAPES), (10, 20))
    assert other.settings["operator"] == "hessian"
    assert len(repr(found)) < 400
    with pytest.raises(KeyError, match=r"no tensor is called head: first\.weight, first\.bias"):
        found.tensor("head")
    for wrong in ({"shapes": [[10], [10], [90]]}, {"names": ["one"]}, {"shapes": [[300]]}):
        save(dataclasses.replace(found, **wrong), tmp_path / "wrong.npz")
        with pytest.raises(ResultsError, match="result 0 is of an unknown type or lacks a part"):
            load(tmp_path / "wrong.npz")


def test_bad_options_are_refused():
    operator = operator_of(matrix())
    with pytest.raises(ValueError, match="num_matvecs must be at least 1, got 0"):
        diagonal(operator, num_matvecs=0)
    pairs = top_eigenpairs(operator, 2)
    with pytest.raises(ValueError, match="kept without their vectors"):
        diagonal(operator, pairs=dataclasses.replace(pairs, vectors=None))
    with pytest.raises(FloatingPointError, match="product 1 with the operator is not finite"):
        diagonal(SymmetricOperator(lambda v: v * torch.nan, 100, torch.float64))
