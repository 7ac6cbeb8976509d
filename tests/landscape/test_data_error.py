"""The sampling error of the data against linear regression, whose curvature is a mean over examples."""

import numpy as np
import pytest
import torch
from problems import dense_hessian, objective_of
from torch import nn

from landscape.data_error import data_error, largest_by_size
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import gauss_newton, hessian
from landscape.results import Eigenpairs


def regression(num_examples, seed, num_features=3, batch=16):
    """H = 2/N x'x, of which E is 2 I."""
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(num_examples, num_features, dtype=torch.float64, generator=stream)
    net = nn.Linear(num_features, 1, bias=False).double()
    batches = list(zip(x.split(batch), torch.zeros(num_examples, 1).double().split(batch), strict=True))
    return Objective(net, nn.MSELoss(), batches), x


def pairs_of(vectors):
    vectors = np.atleast_2d(np.asarray(vectors, dtype=float))
    k = len(vectors)
    return Eigenpairs(
        values=np.zeros(k),
        vectors=vectors,
        residuals=np.zeros(k),
        converged=np.ones(k, dtype=bool),
        complete=True,
        num_matvecs=0,
    )


def test_with_one_example_a_part_it_is_the_standard_error_of_a_mean():
    objective, x = regression(40, seed=0)
    vectors = np.eye(3)[:2]
    found = data_error(objective, pairs_of(vectors), num_parts=40)
    forms = 2 * (x @ torch.tensor(vectors).T).square()
    np.testing.assert_allclose(found.values, forms.mean(0))
    np.testing.assert_allclose(found.standard_errors, forms.std(0) / 40**0.5)
    assert (found.num_parts, found.num_examples) == (40, 40)


def test_parts_weigh_what_they_hold():
    """21 examples in 4 parts, of a loss with weights of classes: the value is the whole's."""
    objective = objective_of("tied", nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)))
    pairs = top_eigenpairs(hessian(objective), k=2, tolerance=1e-8)
    found = data_error(objective, pairs, num_parts=4)
    np.testing.assert_allclose(found.values, pairs.values, rtol=1e-10)
    assert (found.standard_errors > 0).all()


def test_a_part_without_a_valid_target_weighs_nothing():
    objective = objective_of("tied", nn.CrossEntropyLoss(ignore_index=1))
    pairs = top_eigenpairs(hessian(objective), k=1, tolerance=1e-8)
    found = data_error(objective, pairs, num_parts=21)
    np.testing.assert_allclose(found.values, pairs.values, rtol=1e-10)
    assert np.isfinite(found.standard_errors).all()


def test_the_standard_error_is_that_of_new_draws_at_a_fixed_vector():
    """20 fresh data sets of 320 examples: the error over its standard error is about 1, and never beyond 4."""
    found = [data_error(regression(320, seed=s)[0], pairs_of([0.6, 0.0, 0.8])) for s in range(1, 21)]
    ratios = np.array([(one.values[0] - 2.0) / one.standard_errors[0] for one in found])
    assert 0.5 <= np.sqrt((ratios**2).mean()) <= 2
    assert np.abs(ratios).max() <= 4


def test_data_in_some_order_has_the_standard_error_of_data_in_none():
    objective, x = regression(320, seed=0)
    x = x[x[:, 0].abs().argsort()]
    in_order = Objective(objective.model, nn.MSELoss(), [(x, torch.zeros(320, 1).double())])
    one, other = (data_error(o, pairs_of(np.eye(3)[0])).standard_errors[0] for o in (objective, in_order))
    assert 0.5 <= one / other <= 2


def test_the_recommended_examples_would_bring_the_error_down_to_a_share():
    objective, _ = regression(40, seed=0)
    found = data_error(objective, pairs_of(np.eye(3)[0]))
    needed = found.examples_for(0.1)[0]
    assert found.standard_errors[0] * (40 / needed) ** 0.5 == pytest.approx(0.1 * found.values[0], rel=0.01)


def test_too_few_parts_have_no_standard_error():
    objective, _ = regression(40, seed=0)
    assert np.isnan(data_error(objective, pairs_of(np.eye(3)), num_parts=3).standard_errors).all()
    summed = nn.MSELoss(reduction="sum")
    sums = Objective.from_sums(
        objective.model, lambda model, b: (summed(model(b[0]), b[1]), len(b[1])), objective.batches
    )
    found = data_error(sums, pairs_of(np.eye(3)))
    assert found.num_parts == 3  # batches, which cannot be cut
    np.testing.assert_allclose(found.values, np.diag(dense_hessian(objective)))


def test_other_matrices_have_their_own():
    objective = objective_of("conv_net")
    pairs = top_eigenpairs(gauss_newton(objective), k=1, tolerance=1e-8)
    found = data_error(objective, pairs, make=gauss_newton, num_parts=5)
    np.testing.assert_allclose(found.values, pairs.values, rtol=1e-10)


def test_the_largest_eigenvalue_falls_with_the_size_of_the_data():
    """It is convex: its mean over equal parts is at least the whole's."""
    objective, x = regression(64, seed=0, num_features=12)
    found = largest_by_size(objective, tolerance=1e-6)
    assert {size: len(values) for size, values in found.items()} == {16: 4, 32: 2, 64: 1}
    expected = torch.linalg.eigvalsh(2 / 64 * x.T @ x).max()
    assert found[64][0] == pytest.approx(float(expected), rel=1e-6)
    assert found[16].mean() > found[32].mean() > found[64].mean()


def test_what_cannot_be_measured_is_refused():
    objective, _ = regression(40, seed=0)
    bare = top_eigenpairs(hessian(objective), k=1)
    with pytest.raises(ValueError, match="the vectors have 2 entries, the model 3"):
        data_error(objective, pairs_of(np.eye(2)))
    with pytest.raises(ValueError, match="num_parts must be at least 2, got 1"):
        data_error(objective, bare, num_parts=1)
    without = Eigenpairs(**{**vars(bare), "vectors": None})
    with pytest.raises(ValueError, match="came without their vectors"):
        data_error(objective, without)
    with pytest.raises(ValueError, match="4 parts of 3 examples"):
        largest_by_size(regression(3, seed=0)[0])
