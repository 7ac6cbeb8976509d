import numpy as np
import pytest
import torch
from problems import NETS, dense_hessian, objective_of

from landscape.krylov import Counted, extend, join, put_first, restart, run_beside, started
from landscape.lanczos import COMPLETENESS_MATVECS, top_eigenpairs
from landscape.objective import Objective
from landscape.operators import SymmetricOperator, hessian
from landscape.results import problem_of

d64 = torch.float64


def operator_with(values, seed=0, dtype=d64):
    """A dense symmetric operator with the given eigenvalues and random eigenvectors."""
    values = torch.as_tensor(np.array(values), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    matrix = ((basis * values) @ basis.T).to(dtype)
    return SymmetricOperator(lambda v: matrix @ v, len(values), dtype)


SPECTRA = {
    "outliers above a bulk": [20.0, 15.0, 11.2, 8.4, 6.3, *np.linspace(-0.5, 1.0, 295)],
    "power law": 10 * np.arange(1.0, 301.0) ** -0.5,
    "cluster at the edge": [20.0, 19.8, 19.5, 19.0, 18.0, *np.linspace(0, 2, 295)],
    "a large negative one": [5.0, 4.0, 3.0, 2.0, 1.5, *np.linspace(-1, 1, 294), -30.0],
    "all negative": -np.arange(1.0, 301.0),
    "rank three": [3.0, 2.0, 1.0, *np.zeros(297)],
    "multiple": [7.0, 7.0, 7.0, 5.0, 5.0, *np.linspace(0, 1, 295)],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("basis_size", [None, 14], ids=["no restart", "restarted"])
def test_an_eigenvalue_lies_within_each_residual_and_the_flags_tell_the_truth(name, basis_size):
    values = np.sort(np.asarray(SPECTRA[name]))[::-1]
    pairs = top_eigenpairs(operator_with(values), k=5, tolerance=1e-6, basis_size=basis_size, max_matvecs=2000)
    assert pairs.converged.all()
    nearest = np.abs(values[None] - pairs.values[:, None]).min(1)
    assert (nearest <= pairs.residuals + 1e-12).all()
    assert pairs.complete
    np.testing.assert_allclose(pairs.values, values[:5], atol=1e-5 * np.abs(values).max())


WANTED = {"largest": range(4), "smallest": range(-4, 0), "both": [*range(4), *range(-4, 0)]}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("which", ["smallest", "both"])
@pytest.mark.parametrize("basis_size", [None, 14], ids=["no restart", "restarted"])
def test_each_end_of_a_spectrum_is_found_and_values_descend(name, which, basis_size):
    values = np.sort(np.asarray(SPECTRA[name]))[::-1]
    options = {"tolerance": 1e-6, "basis_size": basis_size, "max_matvecs": 4000}
    pairs = top_eigenpairs(operator_with(values), k=4, which=which, **options)
    assert pairs.converged.all()
    assert pairs.complete
    assert (np.diff(pairs.values) <= 0).all()
    np.testing.assert_allclose(pairs.values, values[[*WANTED[which]]], atol=1e-5 * np.abs(values).max())
    assert set(pairs.checks) & {"largest_beyond", "smallest_beyond"} == (
        {"smallest_beyond"} if which == "smallest" else {"largest_beyond", "smallest_beyond"}
    )


def test_the_smallest_are_the_largest_of_the_negative():
    operator = operator_with(SPECTRA["power law"])
    negative = SymmetricOperator(lambda v: -operator.matvec(v), operator.size, operator.dtype)
    one, other = top_eigenpairs(operator, 3, which="smallest"), top_eigenpairs(negative, 3)
    np.testing.assert_allclose(one.values, -other.values[::-1], rtol=1e-6)
    assert one.num_matvecs == other.num_matvecs


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
def test_a_copy_at_either_end_that_there_was_no_budget_to_look_for_is_reported(which):
    values = [9.0, 9.0, 4.0, 3.0, *np.linspace(0, 1, 60), -4.0, -9.0, -9.0]
    few, many = (
        top_eigenpairs(operator_with(values), k=2, which=which, tolerance=1e-4, max_matvecs=n) for n in (50, 400)
    )
    assert few.converged.all()
    assert not few.complete
    assert few.num_matvecs <= 50
    assert many.complete
    np.testing.assert_allclose(many.values, [9, 9, -9, -9] if which == "both" else many.values.sum() / 2, atol=1e-3)


@pytest.mark.parametrize(("k", "size"), [(3, 5), (3, 6), (1, 1), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_both_ends_that_meet_are_the_whole_spectrum(k, size, dtype):
    values = np.linspace(2, -1, size)
    pairs = top_eigenpairs(operator_with(values, dtype=dtype), k, which="both")
    np.testing.assert_allclose(pairs.values, values, atol=1e-5 if dtype == torch.float32 else 1e-12)
    assert pairs.converged.all()
    assert pairs.complete


@pytest.mark.parametrize("name", ["outliers above a bulk", "power law", "cluster at the edge"])
@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_vectors_of_a_neighbour_save_products(name, noise):
    operator = operator_with(SPECTRA[name])
    cold = top_eigenpairs(operator, 5)
    generator = torch.Generator().manual_seed(1)
    noises = torch.randn(5, 300, generator=generator, dtype=torch.float64) / 300**0.5
    warm = top_eigenpairs(operator, 5, start=cold.vectors + noise * noises.numpy())
    assert warm.converged.all()
    assert warm.complete
    assert warm.num_matvecs < cold.num_matvecs
    assert warm.num_matvecs - 5 - COMPLETENESS_MATVECS <= 4 * 5
    assert (np.abs(warm.values - cold.values) <= warm.residuals + cold.residuals).all()


def test_exact_vectors_are_certified_in_one_product_each():
    operator = operator_with(SPECTRA["power law"])
    exact = top_eigenpairs(operator, 3, tolerance=1e-10, max_matvecs=900)
    again = top_eigenpairs(operator, 3, start=exact.vectors)
    assert again.num_matvecs == 3 + 3 + COMPLETENESS_MATVECS


def test_a_start_that_misses_the_top_does_not_hide_it():
    values = torch.tensor([9.0, 5.0, 4.0, 3.0, *np.linspace(0, 1, 60)], dtype=torch.float64)
    start = torch.eye(64, dtype=torch.float64)[1:3]
    pairs = top_eigenpairs(SymmetricOperator(lambda v: values * v, 64, torch.float64), 2, start=start, max_matvecs=200)
    assert pairs.complete
    np.testing.assert_allclose(pairs.values, [9, 5], atol=1e-2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_copy_of_an_eigenvalue_is_found(seed):
    values = [9.0, 9.0, 9.0, 4.0, 3.0, *np.linspace(0, 1, 60)]
    pairs = top_eigenpairs(operator_with(values), k=4, tolerance=1e-6, seed=seed, max_matvecs=400)
    np.testing.assert_allclose(pairs.values, [9, 9, 9, 4], atol=1e-6)
    assert pairs.converged.all()
    assert pairs.complete


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_copy_that_there_was_no_budget_to_look_for_is_reported_as_incomplete(seed):
    values = [9.0, 9.0, 4.0, 3.0, *np.linspace(0, 1, 60)]
    pairs = top_eigenpairs(operator_with(values), k=2, tolerance=1e-4, seed=seed, max_matvecs=45)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, [9, 4], atol=1e-2)  # one start vector sees one copy
    assert not pairs.complete
    assert pairs.num_matvecs <= 45


COPIES = {
    "pairs": [10.0, 10.0, 9.9, 9.9, *np.linspace(-1, 9.7, 196)],
    "eightfold": [10.0] * 8 + [*np.linspace(0, 9.5, 192)],
    "a large negative end": [1.0, 1.0, 0.9, *np.linspace(-10, 0, 197)],
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_a_symmetric_operator_is_never_called_unsymmetric_after_a_missed_copy_joined(name, tolerance, seed):
    values = np.sort(COPIES[name])[::-1]
    pairs = top_eigenpairs(operator_with(values, seed), k=3, tolerance=tolerance, seed=seed, max_matvecs=600)
    assert pairs.num_matvecs > 3 + COMPLETENESS_MATVECS  # more than one look
    assert pairs.checks["symmetry"] < 1e-13
    assert pairs.converged.all()
    assert pairs.complete
    np.testing.assert_allclose(pairs.values, values[:3], atol=tolerance * np.abs(values).max())


def test_the_rows_that_wait_keep_the_projection_exact_after_one_joined():
    values = np.sort(COPIES["pairs"])[::-1]
    product = Counted(operator_with(values), None)
    random = torch.Generator().manual_seed(3)
    basis = started(torch.zeros(40, 200, dtype=torch.float64), torch.randn(200, generator=random, dtype=torch.float64))
    for step in range(90):
        if basis.held == 40:
            restart(basis, range(12))
        if step in (20, 45):
            join(basis, run_beside(basis.vectors[: basis.num], product, 20, random).ritz_vectors([0])[0])
        extend(basis, product, random)
        put_first(basis, range(min(3, basis.num)))
    seen = product.many(basis.vectors[: basis.num])
    assert basis.held == basis.num + 3
    known = basis.matrix[: basis.held, : basis.num]
    np.testing.assert_allclose(basis.vectors[: basis.held] @ seen.T, known, atol=1e-12)
    for place, residual in enumerate(basis.residual_estimates(range(6))):
        y, value = basis.ritz_vectors([place])[0], basis.ritz_values()[place]
        assert float((product(y) - value * y).norm()) == pytest.approx(residual, abs=1e-12)


def test_inside_a_bulk_the_look_goes_on_until_it_excludes_what_it_did_not_see():
    """A look of 20 products alone saw nothing at all six, where four had missed one."""
    for seed in range(210, 216):
        values = np.sort(np.random.default_rng(seed).uniform(0, 1, 400))[::-1].copy()
        diagonal = torch.as_tensor(values)
        pairs = top_eigenpairs(SymmetricOperator(lambda v, d=diagonal: d * v, 400, d64), 5, seed=seed, max_matvecs=900)
        assert pairs.complete
        beyond = pairs.checks["largest_beyond"] + pairs.checks["largest_beyond_residual"]
        assert beyond <= pairs.values[-1] + 1.1e-3
        assert (values[:5] <= pairs.values + 1e-3).all()


def test_a_look_that_ran_out_of_products_inside_a_bulk_is_reported_as_incomplete():
    diagonal = torch.linspace(0, 1, 1000, dtype=d64)
    operator = SymmetricOperator(lambda v: diagonal * v, 1000, d64)
    enough = top_eigenpairs(operator, 2, seed=5, max_matvecs=900)
    few = top_eigenpairs(operator, 2, seed=5, max_matvecs=enough.num_matvecs - 10)
    assert enough.complete
    assert few.converged.all()
    assert not few.complete
    assert few.num_matvecs <= enough.num_matvecs - 10


def test_a_basis_without_room_for_a_missed_copy_is_reported_as_incomplete():
    values = [9.0, 9.0, 4.0, 3.0, *np.linspace(0, 1, 60)]
    small, larger = (top_eigenpairs(operator_with(values), k=2, basis_size=size, max_matvecs=900) for size in (4, 5))
    assert small.converged.all()
    assert not small.complete
    assert larger.complete
    np.testing.assert_allclose(larger.values, [9, 9], atol=1e-2)


def test_the_threefold_eigenvalues_of_a_linear_layer_are_found():
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3).double()
    data = [(torch.randn(9, 4).double(), torch.randn(9, 3).double())]
    objective = Objective(net, torch.nn.MSELoss(), data)
    truth = torch.linalg.eigvalsh(dense_hessian(objective)).flip(0).numpy()
    pairs = top_eigenpairs(hessian(objective), k=6, tolerance=1e-8)
    np.testing.assert_allclose(pairs.values, truth[:6], rtol=1e-7)
    assert pairs.complete


def test_a_long_float32_vector_does_not_shift_an_eigenvalue():
    """Its length in float32 is off by 7e-4 at this size: as a Rayleigh quotient 4 became 4.0027."""
    size = 3_000_000
    generator = torch.Generator().manual_seed(0)
    spread = torch.linalg.qr(torch.randn(size, 3, generator=generator, dtype=torch.float64))[0]
    values = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    factor = (spread * values.sqrt()).float()
    operator = SymmetricOperator(lambda v: (factor.double() @ (factor.double().T @ v.double())).float(), size)
    truth = torch.linalg.eigvalsh(factor.double().T @ factor.double()).flip(0).numpy()
    pairs = top_eigenpairs(operator, k=3, basis_size=6)
    np.testing.assert_allclose(pairs.values, truth, rtol=1e-6)
    assert (np.abs(pairs.values - truth) <= pairs.residuals + 1e-6).all()
    assert pairs.residuals.max() < 1e-4


@pytest.mark.parametrize("name", NETS)
def test_top_eigenvalues_of_a_network_are_those_of_the_dense_hessian(name):
    objective = objective_of(name)
    truth = torch.linalg.eigvalsh(dense_hessian(objective)).flip(0)[:5].numpy()
    pairs = top_eigenpairs(hessian(objective), k=5, tolerance=1e-8, max_matvecs=1000)
    np.testing.assert_allclose(pairs.values, truth, atol=1e-7 * truth[0])
    assert pairs.converged.all()
    assert pairs.complete


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_a_spectrum_below_zero_is_complete(dtype, k):
    diagonal = -torch.linspace(1, 2, 2000, dtype=dtype)
    pairs = top_eigenpairs(SymmetricOperator(lambda v: diagonal * v, 2000, dtype), k=k, tolerance=1e-3, max_matvecs=500)
    assert pairs.complete
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, -1, atol=2e-2)


def test_a_large_float32_operator_does_not_overflow():
    diagonal = torch.linspace(0, 1, 500) * 1e30
    pairs = top_eigenpairs(SymmetricOperator(lambda v: diagonal * v, 500), k=2, max_matvecs=600)
    assert pairs.values[0] == pytest.approx(1e30, rel=1e-3)
    assert pairs.converged.all()


def test_the_residual_is_the_true_one():
    operator = operator_with(SPECTRA["power law"])
    pairs = top_eigenpairs(operator, k=3, tolerance=1e-2)
    for value, vector, residual in zip(pairs.values, torch.as_tensor(pairs.vectors), pairs.residuals, strict=True):
        assert (operator.matvec(vector) - value * vector).norm().item() == pytest.approx(residual, rel=1e-6, abs=1e-12)
        assert vector.norm().item() == pytest.approx(1.0)


def test_restart_and_no_restart_agree_within_their_residuals():
    operator = operator_with(SPECTRA["power law"])
    one, other = (top_eigenpairs(operator, k=4, tolerance=1e-4, basis_size=n, max_matvecs=900) for n in (12, 200))
    assert one.converged.all()
    assert other.converged.all()
    assert (np.abs(one.values - other.values) <= one.residuals + other.residuals).all()


def test_float32_gives_no_ghosts_in_a_long_run():
    """Without reorthogonalisation the converged values come back as copies."""
    operator = operator_with([20.0, 15.0, 11.2, *np.linspace(0, 1, 397)], dtype=torch.float32)
    pairs = top_eigenpairs(operator, k=4, tolerance=1e-5, basis_size=200, max_matvecs=400)
    np.testing.assert_allclose(pairs.values[:3], [20.0, 15.0, 11.2], rtol=1e-5)
    assert 0.9 < pairs.values[3] <= 1.0001  # the edge of the bulk, no copy of an outlier
    assert pairs.checks["orthogonality"] < 1e-5


def test_every_product_is_counted():
    calls = 0
    dense = operator_with(SPECTRA["power law"])

    def counting(v):
        nonlocal calls
        calls += 1
        return dense.matvec(v)

    pairs = top_eigenpairs(SymmetricOperator(counting, 300, torch.float64), k=3)
    assert pairs.num_matvecs == calls


@pytest.mark.parametrize("budget", [40, 60])
def test_running_out_of_products_is_a_flagged_result(budget):
    pairs = top_eigenpairs(operator_with(np.linspace(0, 1, 300)), k=5, tolerance=1e-10, max_matvecs=budget)
    assert pairs.num_matvecs <= budget
    assert not pairs.converged.all()
    assert (pairs.residuals > 1e-10).any()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_all_pairs_of_a_small_operator(size):
    values = np.arange(size, 0, -1.0)
    pairs = top_eigenpairs(operator_with(values), k=size)
    np.testing.assert_allclose(pairs.values, values)
    assert pairs.converged.all()
    assert pairs.complete


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_smallest_budget_is_enough_for_a_small_operator(size):
    pairs = top_eigenpairs(operator_with(np.arange(size) + 1.0), k=size, max_matvecs=2 * size)
    assert pairs.num_matvecs == 2 * size
    assert pairs.converged.all()
    assert pairs.complete


def test_the_zero_operator_has_zeros():
    pairs = top_eigenpairs(SymmetricOperator(torch.zeros_like, 30, torch.float64), k=3)
    assert pairs.values.tolist() == [0.0, 0.0, 0.0]
    assert pairs.residuals.tolist() == [0.0, 0.0, 0.0]


def test_an_operator_that_is_not_symmetric_is_found_out():
    """Also a large one: the usual test u'Hv = v'Hu for random u and v loses its power as 1 / sqrt(P)."""
    size = 200_000
    diagonal = torch.linspace(0, 1, size)

    def skewed(v):
        return diagonal * v + 0.3 * (v.roll(1) - v.roll(-1))

    def symmetric(v):
        return diagonal * v + 0.3 * (v.roll(1) + v.roll(-1))

    bad, good = (top_eigenpairs(SymmetricOperator(f, size), k=1, max_matvecs=40) for f in (skewed, symmetric))
    assert bad.checks["symmetric"] is False
    assert good.checks["symmetric"] is True
    assert good.checks["symmetry"] < 1e-5 < 1e-2 < bad.checks["symmetry"]


def test_symmetry_that_nothing_was_seen_of_passes_no_check():
    pairs = top_eigenpairs(SymmetricOperator(lambda v: 2 * v, 1, torch.float64), k=1)
    assert np.isnan(pairs.checks["symmetry"])
    assert "symmetric" not in pairs.checks
    assert not problem_of(pairs)


def test_the_same_seed_gives_the_same_bits_and_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    one, other = (top_eigenpairs(operator_with(SPECTRA["power law"]), k=3, seed=5) for _ in range(2))
    assert one.values.tobytes() == other.values.tobytes()
    assert one.vectors.tobytes() == other.vectors.tobytes()
    assert torch.get_rng_state().equal(before)


def test_a_product_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="product 1 with the operator is not finite"):
        top_eigenpairs(SymmetricOperator(lambda v: v * torch.nan, 30, torch.float64), k=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k must be in 1..10 .*got 0"),
        ({"k": 11}, r"k must be in 1..10 .*got 11"),
        ({"k": 1, "tolerance": 0.0}, "tolerance must be above 0 and below 1"),
        ({"k": 1, "tolerance": float("nan")}, "tolerance must be above 0"),
        ({"k": 1, "tolerance": float("inf")}, "tolerance must be above 0"),
        ({"k": 5, "basis_size": 6}, r"basis_size must be at least k \+ 2 = 7"),
        ({"k": 3, "which": "both", "basis_size": 7}, r"basis_size must be at least 2 k \+ 2 = 8"),
        ({"k": 5, "max_matvecs": 10}, r"max_matvecs must be at least 17 for k = 5 \(largest\), certified; got 10"),
        ({"k": 1, "which": "top"}, r"which must be one of \('largest', 'smallest', 'both'\), got 'top'"),
        ({"k": 1, "start": np.ones(10)}, r"start must be vectors as rows, \(any number, 10\), got \(10,\)"),
        ({"k": 1, "start": np.ones((2, 9))}, r"start must be vectors as rows, .*got \(2, 9\)"),
        ({"k": 1, "start": np.zeros((1, 10))}, "start must have a finite sum that is not zero, got one of length 0"),
        ({"k": 1, "start": np.full((1, 10), np.nan)}, "start must have a finite sum .*got one of length nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        top_eigenpairs(operator_with(np.arange(10.0)), **options)
