import dataclasses

import numpy as np
import pytest
import torch
from problems import NETS, dense_hessian, objective_of

from landscape.budget import curvature
from landscape.operators import SymmetricOperator, hessian
from landscape.results import load, save

VALUES = np.array([20.0, 15.0, 11.2, 8.4, 6.3, *np.linspace(-0.5, 1.0, 390), -3.0, -4.0])


def counting(values):
    """A diagonal operator, and a list that grows by its products."""
    values, calls = torch.as_tensor(np.asarray(values, dtype=np.float64)), []

    def matvec(v):
        calls.append(1)
        return values * v

    return SymmetricOperator(matvec, len(values), torch.float64), calls


@pytest.mark.parametrize("budget", [60, 100, 101, 250])
@pytest.mark.parametrize("which", ["largest", "both"])
def test_all_products_are_counted_and_within_the_budget(budget, which):
    operator, calls = counting(VALUES)
    seen = []
    found = curvature(operator, which=which, k=3, budget=budget, progress=seen.append)
    assert found.num_matvecs == found.pairs.num_matvecs + found.density.num_matvecs == len(calls) <= budget
    assert seen == [*range(1, len(calls) + 1)]
    assert found.trace.num_matvecs == found.frobenius_norm.num_matvecs == found.density.num_matvecs
    assert len(found.density.nodes) >= 4
    assert budget - len(calls) < found.density.nodes.shape[1] <= 40  # no probe more would fit


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("which", ["largest", "both"])
def test_one_budget_answers_all(seed, which):
    operator, _ = counting(VALUES)
    found = curvature(operator, which=which, k=5, budget=200, seed=seed)
    assert found.pairs.converged.all()
    assert found.pairs.complete
    np.testing.assert_allclose(found.pairs.values[:5], VALUES[:5], rtol=1e-3)
    np.testing.assert_array_equal(found.density.sticks, found.pairs.values)
    assert np.isfinite(found.density.low).all()
    assert np.trapezoid(found.density.mean, found.density.grid) == pytest.approx(
        1 - len(found.pairs.values) / len(VALUES), abs=1e-6
    )
    for estimate, truth in (
        (found.trace, VALUES.sum()),
        (found.frobenius_norm, np.linalg.norm(VALUES)),
        (found.effective_rank, VALUES.sum() / 20),
    ):
        assert abs(estimate.value - truth) < 6 * estimate.standard_error  # four samples or a few more


def test_the_standard_error_is_the_size_of_the_error():
    truth, scores = np.array([VALUES.sum(), np.linalg.norm(VALUES)]), []
    for seed in range(20):
        found = curvature(counting(VALUES)[0], budget=160, num_steps=5, seed=seed)
        assert found.trace.num_samples >= 20
        both = (found.trace, found.frobenius_norm)
        scores.append([(one.value - true) / one.standard_error for one, true in zip(both, truth, strict=True)])
    rms = np.sqrt((np.array(scores) ** 2).mean(0))
    assert ((rms > 0.5) & (rms < 2)).all()
    assert (np.abs(scores) <= 4).all()


def test_the_density_has_the_moments_of_the_trace_and_of_the_norm():
    found = curvature(counting(VALUES)[0])
    density, pairs = found.density, found.pairs
    left = density.size - len(density.sticks)
    first, second = ((density.weights * density.nodes**power).sum(1).mean() for power in (1, 2))
    assert density.sticks.sum() + left * first == pytest.approx(found.trace.value, rel=1e-9)
    square = (density.sticks**2 + 2 * pairs.residuals**2).sum() + left * second
    assert square**0.5 == pytest.approx(found.frobenius_norm.value, rel=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_a_network_is_answered_as_its_dense_hessian_does(name):
    objective = objective_of(name)
    dense = dense_hessian(objective)
    values = torch.linalg.eigvalsh(dense).flip(0).numpy()
    found = curvature(hessian(objective), k=3, budget=250, num_steps=5)
    assert found.pairs.converged.all()
    assert (np.abs(found.pairs.values - values[:3]) <= found.pairs.residuals).all()
    assert len(found.density.nodes) >= 20
    assert abs(found.trace.value - values.sum()) <= 4 * found.trace.standard_error
    assert abs(found.frobenius_norm.value - np.linalg.norm(values)) <= 4 * found.frobenius_norm.standard_error
    assert found.trace.loss == found.density.loss == found.pairs.loss == objective.centre.loss
    assert found.density.settings["operator"] == "hessian"


def test_a_budget_that_the_pairs_used_up_leaves_no_density_and_says_so(tmp_path):
    operator, calls = counting(np.linspace(0, 1, 300))
    found = curvature(operator, k=5, tolerance=1e-10, budget=32)
    assert not found.pairs.converged.any()
    assert found.num_matvecs == len(calls) == 32
    assert found.density is None
    for estimate in (found.trace, found.frobenius_norm, found.effective_rank):
        assert np.isnan(estimate.value)
        assert np.isnan(estimate.standard_error)
        assert estimate.note == "no standard error: 0 samples, fewer than 4"
    save(found.results, tmp_path / "r.npz")
    assert [type(one).__name__ for one in load(tmp_path / "r.npz")] == [
        "Eigenpairs",
        "Estimate",
        "Estimate",
        "Estimate",
    ]


def test_a_budget_for_few_probes_gives_values_without_errors():
    operator, _ = counting(VALUES)
    spent = curvature(operator, k=3).pairs.num_matvecs
    found = curvature(operator, k=3, budget=spent + 3)
    assert found.density.nodes.shape == (3, 1)
    assert np.isnan(found.density.low).all()
    assert np.isfinite(found.trace.value)
    assert np.isnan(found.trace.standard_error)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_small_operator_is_answered_exactly(size):
    values = np.arange(size, 0, -1.0)
    found = curvature(counting(values)[0], k=size)
    np.testing.assert_allclose(found.pairs.values, values)
    assert found.trace.value == pytest.approx(values.sum())
    assert found.frobenius_norm.value == pytest.approx(np.linalg.norm(values))
    assert found.trace.standard_error == 0
    assert found.density.note == "every eigenvalue is a stick"


def test_the_same_seed_gives_the_same_bits_and_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    one, other, third = (curvature(counting(VALUES)[0], seed=seed) for seed in (1, 1, 2))
    assert one.density.mean.tobytes() == other.density.mean.tobytes()
    assert one.trace.value == other.trace.value != third.trace.value
    assert torch.get_rng_state().equal(before)


def test_where_the_basis_is_held_and_how_much_of_it_is_the_callers_choice():
    one, other = (curvature(counting(VALUES)[0], basis_device=device) for device in (None, "cpu"))
    assert one.density.mean.tobytes() == other.density.mean.tobytes()
    small = curvature(counting(VALUES)[0], basis_size=8, budget=200)
    assert small.pairs.settings["basis_size"] == 8
    np.testing.assert_allclose(small.pairs.values, one.pairs.values, rtol=1e-3)


def test_all_of_it_is_saved(tmp_path):
    found = curvature(counting(VALUES)[0])
    save(found.results, tmp_path / "r.npz")
    names = [getattr(one, "quantity", type(one).__name__) for one in load(tmp_path / "r.npz")]
    assert names == ["Eigenpairs", "Density", "trace", "frobenius_norm", "effective_rank"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 5, "budget": 31}, r"budget must be at least 32 products for k = 5 \(largest\), certified; got 31"),
        ({"k": 5, "which": "both", "budget": 41}, r"budget must be at least 42 products for k = 5 \(both\)"),
        ({"which": "smallest"}, r"which must be one of \('largest', 'both'\), got 'smallest'"),
        ({"k": 0}, r"k must be in 1..397 .*got 0"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
    ],
)
def test_bad_options_are_refused_before_any_product(options, message):
    operator, calls = counting(VALUES)
    with pytest.raises(ValueError, match=message):
        curvature(operator, **options)
    assert not calls


def test_a_product_that_is_not_finite_is_an_error():
    operator, _ = counting(VALUES)
    with pytest.raises(FloatingPointError, match="product 1 with the operator is not finite"):
        curvature(dataclasses.replace(operator, matvec=lambda v: v * torch.nan))
