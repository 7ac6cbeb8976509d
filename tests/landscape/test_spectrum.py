import dataclasses

import numpy as np
import pytest
import torch
from problems import NETS, dense_hessian, objective_of

from landscape.lanczos import top_eigenpairs
from landscape.operators import SymmetricOperator, hessian
from landscape.results import Estimate, load, problem_of, save
from landscape.spectrum import effective_rank, frobenius_norm, spectral_density, trace


def diagonal(values, dtype=torch.float64, **fields):
    """Probes are uniform on a sphere: a diagonal operator is as good as any."""
    values = torch.as_tensor(np.asarray(values), dtype=dtype)
    return SymmetricOperator(lambda v: values * v, len(values), dtype, **fields)


def recorded(operator):
    """The operator, and the products that will have been made with it."""
    made = []

    def matvec(v):
        made.append((v.double(), operator.matvec(v).double()))
        return operator.matvec(v)

    return dataclasses.replace(operator, matvec=matvec), made


SPECTRA = {
    "outliers above a bulk": [20.0, 15.0, 11.2, 8.4, 6.3, *np.linspace(-0.5, 1.0, 395)],
    "outliers at both ends": [20.0, 15.0, 11.2, *np.linspace(-0.5, 1.0, 395), -6.0, -9.0],
    "power law": 10 * np.arange(1.0, 401.0) ** -0.5,
    "no outliers": np.linspace(-1.0, 2.0, 400),
}


def known(operator, **options):
    return top_eigenpairs(operator, 5, which="both", tolerance=1e-3, max_matvecs=400, **options)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("deflated", [False, True])
def test_bulk_and_sticks_have_the_mass_one(name, deflated):
    operator = diagonal(SPECTRA[name])
    pairs = known(operator) if deflated else None
    density = spectral_density(operator, pairs=pairs, num_steps=30)
    bulk = np.trapezoid(density.mean, density.grid)
    assert len(density.sticks) == (pairs.converged.sum() if deflated else 0)
    assert bulk + len(density.sticks) / density.size == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("deflated", [False, True])
def test_the_first_moment_of_each_probe_is_its_curvature(dtype, deflated):
    operator = diagonal(SPECTRA["outliers at both ends"], dtype)
    pairs = known(operator) if deflated else None
    counting, made = recorded(operator)
    density = spectral_density(counting, num_probes=5, num_steps=20, pairs=pairs)
    assert density.num_matvecs == len(made) == 100
    for (v, product), nodes, weights in zip(made[::20], density.nodes, density.weights, strict=True):
        assert weights @ nodes == pytest.approx((v @ product / (v @ v)).item(), rel=1e-5, abs=1e-6)
        for vector in torch.as_tensor(density.sticks).new_tensor(pairs.vectors if deflated else []):
            assert abs(v @ vector) < 1e-6


def test_the_first_moment_holds_for_a_long_float32_vector():
    operator = diagonal(np.linspace(0, 1, 3_000_000), torch.float32)
    counting, made = recorded(operator)
    density = spectral_density(counting, num_probes=1, num_steps=3)
    v, product = made[0]
    assert density.weights[0] @ density.nodes[0] == pytest.approx((v @ product / (v @ v)).item(), rel=1e-6)


def test_with_all_steps_the_quadrature_is_exact_for_any_function():
    values = np.linspace(-1, 2, 12)
    counting, made = recorded(diagonal(values))
    density = spectral_density(counting, num_probes=3, num_steps=80)
    assert density.nodes.shape == (3, 12)
    for (v, _), nodes, weights in zip(made[::12], density.nodes, density.weights, strict=True):
        for function in (np.exp, np.abs, np.sign):
            assert weights @ function(nodes) == pytest.approx(v.numpy() ** 2 @ function(values), rel=1e-9)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_density_is_that_of_the_eigenvalues(name):
    values = np.sort(np.asarray(SPECTRA[name]))
    operator = diagonal(values)
    density = spectral_density(operator, num_probes=20, num_steps=40, pairs=known(operator))
    probability = density.weights.ravel() / len(density.weights) * (1 - len(density.sticks) / density.size)
    at = np.r_[density.nodes.ravel(), density.sticks]
    mass = np.r_[probability, np.full(len(density.sticks), 1 / density.size)]
    order = np.argsort(at)
    found = np.interp(np.linspace(0, 1, 2001), np.cumsum(mass[order]), at[order])
    true = np.quantile(values, np.linspace(0, 1, 2001))
    assert np.abs(found - true).mean() < 0.02 * np.ptp(values)  # the Wasserstein distance


def test_the_band_covers_the_smoothed_spectrum():
    """With all steps there is no quadrature error, and the mean over probes is the smoothed spectrum."""
    values = np.linspace(-1, 2, 30)
    scores = []
    for seed in range(20):
        density = spectral_density(diagonal(values), num_probes=20, num_steps=30, seed=seed, kernel_width=0.3)
        z = (density.grid[20:60:5, None] - values) / 0.3
        truth = np.exp(-(z**2) / 2).mean(1) / (0.3 * np.sqrt(2 * np.pi))
        half = (density.high - density.low)[20:60:5] / 2
        scores.append((density.mean[20:60:5] - truth) / half * 2.093)  # t quantile of 19 degrees of freedom
    assert 0.5 < np.sqrt((np.stack(scores) ** 2).mean()) < 2
    assert (np.abs(np.stack(scores)[:, 4]) <= 4).all()  # at one place: there are 20 independent ones


def test_a_pair_that_did_not_converge_stays_in_the_bulk():
    operator = diagonal(SPECTRA["no outliers"])
    pairs = top_eigenpairs(operator, 5, tolerance=1e-10, max_matvecs=60)
    assert not pairs.converged.any()
    density = spectral_density(operator, pairs=pairs, num_steps=10)
    assert density.sticks.size == 0
    assert np.trapezoid(density.mean, density.grid) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("num_probes", [1, 3, 4])
def test_too_few_probes_have_no_band_and_that_is_said(num_probes):
    density = spectral_density(diagonal(SPECTRA["power law"]), num_probes=num_probes, num_steps=10)
    assert np.isfinite(density.mean).all()
    if num_probes < 4:
        assert np.isnan(density.low).all()
        assert np.isnan(density.high).all()
        assert density.note == f"no band: {num_probes} samples, fewer than 4"
    else:
        assert (density.low <= density.mean).all()
        assert density.high.max() > density.mean.max()
        assert density.note == ""


def test_the_width_of_the_kernel_is_that_given_or_the_range_over_the_steps():
    operator = diagonal(np.linspace(0, 1, 400))
    density = spectral_density(operator, num_steps=25)
    assert density.kernel_width == np.ptp(density.nodes) / 25
    assert spectral_density(operator, num_steps=25, kernel_width=0.5).kernel_width == 0.5


def test_an_operator_that_is_not_symmetric_is_found_out():
    scale = torch.linspace(0, 1, 2000)
    bad, good = (
        spectral_density(SymmetricOperator(lambda v, s=s: scale * v + 0.3 * (v.roll(1) + s * v.roll(-1)), 2000))
        for s in (-1, 1)
    )
    assert bad.checks["symmetric"] is False
    assert problem_of(bad).startswith("checkpoint: the product is not symmetric (error")
    assert good.checks["symmetric"] is True
    assert problem_of(good) == ""
    assert good.checks["symmetry"] < 1e-5 < 1e-2 < bad.checks["symmetry"]


ESTIMATES = {
    "xtrace": (trace, {"method": "xtrace"}),
    "hutchinson": (trace, {"method": "hutchinson"}),
    "norm": (frobenius_norm, {}),
}


@pytest.mark.parametrize("size", [300, 30_000])
@pytest.mark.parametrize("name", ESTIMATES)
def test_an_estimate_tells_how_far_from_symmetric_its_operator_is(name, size):
    """||A - A'||_F / ||A||_F is 0.02 here: found to within a factor, however long the vectors are."""
    call, options = ESTIMATES[name]
    scale, share = torch.full((size,), 0.1, dtype=torch.float64), 0.01 / 2**0.5
    found = {
        s: call(
            SymmetricOperator(lambda v, s=s: scale * v + s * (v.roll(1) - v.roll(-1)), size, torch.float64), **options
        )
        for s in (0.1 * share, 0.0)
    }
    bad, good = found.values()
    assert bad.checks["symmetry"] == pytest.approx(0.02, rel=0.5)
    assert bad.checks["symmetric"] is False
    assert problem_of(bad).startswith("checkpoint: the product is not symmetric (error")
    assert good.checks["symmetric"] is True
    assert good.checks["symmetry"] < 1e-12
    assert problem_of(good) == ""


def test_a_small_operator_that_is_not_symmetric_is_found_out():
    matrix = torch.eye(3, dtype=torch.float64) + 0.1 * torch.ones(3, 3, dtype=torch.float64).triu(1)
    for call in (trace, frobenius_norm):
        found = call(SymmetricOperator(lambda v: matrix @ v, 3, torch.float64))
        assert found.checks["symmetry"] == pytest.approx(np.sqrt(6 * 0.01 / 3.03))
        assert found.checks["symmetric"] is False


def test_where_the_pairs_are_all_there_is_rounding_is_not_taken_for_asymmetry():
    operator = diagonal([5.0, 3.0, -2.0, *np.zeros(497)], torch.float32)
    pairs = top_eigenpairs(operator, 2, which="both")
    for found in (trace(operator, pairs=pairs, method=m) for m in ("hutchinson", "xtrace")):
        assert found.checks["symmetric"] is True


def test_where_all_eigenvalues_are_sticks_the_bulk_is_empty():
    operator = diagonal([3.0, 2.0, 1.0])
    density = spectral_density(operator, pairs=top_eigenpairs(operator, 3))
    assert density.sticks.size == 3
    assert density.num_matvecs == 0
    assert not density.mean.any()
    assert density.note == "every eigenvalue is a stick"


@pytest.mark.parametrize("values", [[2.0], [0.0], [0.0] * 30, [5.0] * 30, [1.0, -1.0]], ids=str)
def test_small_and_degenerate_operators_have_a_density(values):
    density = spectral_density(diagonal(values))
    np.testing.assert_allclose(np.unique(density.nodes.round(9)), np.unique(values))
    assert np.trapezoid(density.mean, density.grid) == pytest.approx(1, abs=1e-6)


ESTIMATORS = {
    "xtrace": lambda operator, seed: trace(operator, seed=seed),
    "hutchinson": lambda operator, seed: trace(operator, seed=seed, method="hutchinson"),
    "deflated": lambda operator, seed: trace(operator, seed=seed, pairs=known(operator)),
    "deflated xtrace": lambda operator, seed: trace(operator, seed=seed, pairs=known(operator), method="xtrace"),
    "Frobenius norm": lambda operator, seed: frobenius_norm(operator, seed=seed),
    "deflated norm": lambda operator, seed: frobenius_norm(operator, seed=seed, pairs=known(operator)),
}


@pytest.mark.parametrize("name", ["outliers at both ends", "power law", "no outliers"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_standard_error_is_the_size_of_the_error(name, estimator):
    values = np.asarray(SPECTRA[name])
    truth = np.linalg.norm(values) if "norm" in estimator else values.sum()
    found = [ESTIMATORS[estimator](diagonal(values), seed) for seed in range(20)]
    scores = np.array([(one.value - truth) / one.standard_error for one in found])
    assert all(one.num_matvecs == 60 for one in found)
    assert 0.5 < np.sqrt((scores**2).mean()) < 2
    assert (np.abs(scores) <= 4).all()


@pytest.mark.parametrize("num_matvecs", [4, 8])
def test_the_interval_holds_the_truth_also_with_few_probes(num_matvecs):
    """In 95 of 100 runs; twice the standard error alone would in 86 of them with 4 probes."""
    values = np.asarray(SPECTRA["no outliers"])
    found = [trace(diagonal(values), method="hutchinson", num_matvecs=num_matvecs, seed=seed) for seed in range(300)]
    held = [one.interval()[0] <= values.sum() <= one.interval()[1] for one in found]
    assert 0.91 <= np.mean(held) <= 0.985
    low, high = found[0].interval(0.5)
    assert low + high == pytest.approx(2 * found[0].value)
    assert high - low < np.ptp(found[0].interval())


def test_an_exact_estimate_is_its_own_interval_and_one_without_an_error_has_none():
    assert trace(diagonal([3.0])).interval() == (3.0, 3.0)
    assert np.isnan(trace(diagonal(SPECTRA["power law"]), num_matvecs=3, method="hutchinson").interval()).all()


def test_known_pairs_make_an_estimate_sharper():
    operator = diagonal(SPECTRA["outliers above a bulk"])
    plain, deflated = (trace(operator, method="hutchinson", pairs=pairs) for pairs in (None, known(operator)))
    assert deflated.standard_error < plain.standard_error / 2
    plain, deflated = (frobenius_norm(operator, pairs=pairs) for pairs in (None, known(operator)))
    assert deflated.standard_error < plain.standard_error / 2


@pytest.mark.parametrize("tolerance", [1e-1, 1e-8])
def test_rough_pairs_leave_the_estimates_unbiased(tolerance):
    """trace A = trace YAY' + trace QAQ for any Y; and what a residual couples is counted twice in the norm."""
    values = np.asarray(SPECTRA["outliers at both ends"])
    pairs = top_eigenpairs(diagonal(values), 4, tolerance=tolerance, max_matvecs=400)
    found = [trace(diagonal(values), pairs=pairs, seed=seed) for seed in range(20)]
    norms = [frobenius_norm(diagonal(values), pairs=pairs, seed=seed) for seed in range(20)]
    for estimates, truth in ((found, values.sum()), (norms, np.linalg.norm(values))):
        error = np.mean([one.value for one in estimates]) - truth
        assert abs(error) <= 4 * np.mean([one.standard_error for one in estimates]) / 20**0.5


@pytest.mark.parametrize("method", ["xtrace", "hutchinson"])
@pytest.mark.parametrize("name", NETS)
def test_the_trace_of_a_network_is_that_of_the_dense_hessian(name, method):
    objective = objective_of(name)
    dense = dense_hessian(objective)
    found = trace(hessian(objective), method=method, num_matvecs=40)
    assert abs(found.value - dense.trace().item()) <= 4 * found.standard_error + 1e-9
    norm = frobenius_norm(hessian(objective), num_matvecs=40)
    assert abs(norm.value - dense.norm().item()) <= 4 * norm.standard_error + 1e-9


@pytest.mark.parametrize("values", [[5.0, 3.0, -2.0, *np.zeros(97)], np.zeros(100)], ids=["rank three", "zero"])
def test_xtrace_is_exact_where_the_rank_is_below_the_number_of_probes(values):
    found = trace(diagonal(values), num_matvecs=20)
    assert found.value == pytest.approx(np.sum(values), abs=1e-10)
    assert found.standard_error < 1e-10


def xtrace_by_definition(matrix, probes):
    """With the range of A times all probes but one made anew for each."""
    found = []
    for i in range(probes.shape[1]):
        q = np.linalg.qr(matrix @ np.delete(probes, i, 1))[0]
        u = probes[:, i] - q @ (q.T @ probes[:, i])
        found.append(np.trace(q.T @ matrix @ q) + (len(matrix) - q.shape[1]) * (u @ matrix @ u) / (u @ u))
    return np.mean(found)


def test_xtrace_and_its_jackknife_are_what_they_are_defined_as():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(30, 30))
    matrix = matrix + matrix.T
    dense = torch.as_tensor(matrix)
    operator = SymmetricOperator(lambda v: dense @ v, 30, torch.float64)
    counting, made = recorded(operator)
    found = trace(counting, num_matvecs=12, method="xtrace")
    probes = torch.stack([v for v, _ in made[:6]], 1).numpy()
    np.testing.assert_allclose((probes**2).sum(0), 30)
    assert found.value == pytest.approx(xtrace_by_definition(matrix, probes), rel=1e-9)
    without = np.array([xtrace_by_definition(matrix, np.delete(probes, i, 1)) for i in range(6)])
    assert found.standard_error == pytest.approx(np.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum()), rel=1e-9)


def test_one_product_is_enough_for_one_parameter():
    found = trace(diagonal([3.0]), num_matvecs=1)
    assert (found.value, found.standard_error, found.num_matvecs) == (3.0, 0.0, 1)


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_a_small_operator_has_its_diagonal_measured(size):
    values = np.linspace(-1, 3, size)
    found, norm = trace(diagonal(values)), frobenius_norm(diagonal(values))
    assert found.value == pytest.approx(values.sum(), rel=1e-12)
    assert norm.value == pytest.approx(np.linalg.norm(values), rel=1e-12)
    assert found.standard_error == norm.standard_error == 0
    assert found.num_matvecs == size


def test_where_all_pairs_are_known_the_estimates_are_exact():
    operator = diagonal(np.arange(1.0, 71.0))
    pairs = top_eigenpairs(operator, 70)
    found, norm = trace(operator, pairs=pairs), frobenius_norm(operator, pairs=pairs)
    assert (found.value, norm.value) == pytest.approx((70 * 71 / 2, np.linalg.norm(np.arange(71.0))))
    assert found.num_matvecs == norm.num_matvecs == 0


@pytest.mark.parametrize(
    ("num_matvecs", "method"), [(1, "hutchinson"), (3, "hutchinson"), (2, "xtrace"), (7, "xtrace")]
)
def test_too_few_samples_have_no_standard_error_and_that_is_said(num_matvecs, method):
    found = trace(diagonal(SPECTRA["power law"]), num_matvecs=num_matvecs, method=method)
    assert np.isfinite(found.value)
    assert np.isnan(found.standard_error)
    assert found.note.startswith("no standard error: ")
    assert trace(diagonal(SPECTRA["power law"]), num_matvecs=8).note == ""


def test_effective_rank_is_the_trace_over_the_largest():
    operator = diagonal([4.0, 4.0, 2.0, *np.zeros(97)])
    pairs, found = top_eigenpairs(operator, 2), trace(operator)
    rank = effective_rank(found, pairs)
    assert rank.value == pytest.approx(2.5)
    assert rank.standard_error == found.standard_error / pairs.values[0]
    assert rank.quantity == "effective_rank"


def test_the_effective_rank_of_the_zero_operator_is_unknown():
    operator = diagonal(np.zeros(100))
    assert np.isnan(effective_rank(trace(operator), top_eigenpairs(operator, 1)).value)


def test_products_in_one_pass_are_those_one_by_one_and_are_counted_as_they_are():
    values, passes = torch.as_tensor(SPECTRA["outliers above a bulk"]), []

    def matvecs(vectors):
        passes.append(len(vectors))
        return values * vectors

    one = diagonal(values)
    many = dataclasses.replace(one, matvecs=matvecs)
    seen = []
    for call in (trace, lambda o, **k: trace(o, method="hutchinson", **k), frobenius_norm, top_eigenpairs):
        seen.clear()
        single, shared = call(one), call(many, progress=seen.append)
        assert single.num_matvecs == shared.num_matvecs == len(seen)
        for name in ("value", "values"):
            assert np.array_equal(getattr(single, name, 0), getattr(shared, name, 0))
    assert passes == [30, 30, *2 * [8, 8, 8, 8, 8, 8, 8, 4], 5]


def test_an_effective_rank_of_the_smallest_is_refused():
    operator = diagonal(np.arange(9.0))
    with pytest.raises(ValueError, match="needs the largest eigenvalue, and these pairs are the smallest"):
        effective_rank(trace(operator), top_eigenpairs(operator, 2, which="smallest"))


def test_the_same_seed_gives_the_same_bits_and_the_global_random_state_is_left_alone():
    before, operator = torch.get_rng_state(), diagonal(SPECTRA["power law"])
    one, other, third = (spectral_density(operator, num_steps=8, seed=seed) for seed in (5, 5, 6))
    assert one.mean.tobytes() == other.mean.tobytes()
    assert one.nodes.tobytes() != third.nodes.tobytes()
    assert trace(operator, seed=5).value == trace(operator, seed=5).value != trace(operator, seed=6).value
    assert torch.get_rng_state().equal(before)


def test_what_is_measured_is_in_the_result_and_its_file(tmp_path):
    fields = {"loss": 0.25, "checkpoint": {"hash": "ab"}, "settings": {"operator": "hessian"}, "checks": {"ok": True}}
    operator = diagonal(SPECTRA["power law"], **fields)
    results = [
        spectral_density(operator, pairs=known(operator), num_steps=8),
        trace(operator),
        frobenius_norm(operator),
    ]
    save(results, tmp_path / "r.npz")
    for one, other in zip(results, load(tmp_path / "r.npz"), strict=True):
        assert type(one) is type(other)
        assert (other.loss, other.checkpoint, other.checks["ok"]) == (0.25, {"hash": "ab"}, True)
        assert other.settings["operator"] == "hessian"
        assert other.settings["seed"] == 0
    assert [one.quantity for one in results if isinstance(one, Estimate)] == ["trace", "frobenius_norm"]


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (spectral_density, {"num_probes": 0}, "num_probes must be at least 1, got 0"),
        (spectral_density, {"num_steps": 0}, "num_steps must be at least 1, got 0"),
        (spectral_density, {"kernel_width": 0.0}, "kernel_width must be above 0 and finite, got 0.0"),
        (spectral_density, {"kernel_width": float("nan")}, "kernel_width must be above 0 and finite, got nan"),
        (spectral_density, {"kernel_width": 1e-9}, "kernel_width 1e-09 is too small .*at most 100,000"),
        (trace, {"num_matvecs": 0}, "num_matvecs must be at least 1, got 0"),
        (trace, {"num_matvecs": 1}, "xtrace needs num_matvecs of at least 2, got 1"),
        (trace, {"method": "hutch"}, r"method must be one of \('hutchinson', 'xtrace'\), got 'hutch'"),
        (frobenius_norm, {"num_matvecs": 0}, "num_matvecs must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(call, options, message):
    with pytest.raises(ValueError, match=message):
        call(diagonal(SPECTRA["power law"]), **options)


@pytest.mark.parametrize("call", [spectral_density, trace, frobenius_norm])
def test_pairs_that_do_not_fit_are_refused(call):
    settings = {"operator": "hessian", "data_hash": "d"}
    operator = diagonal(SPECTRA["power law"], checkpoint={"hash": "a"}, settings=settings)
    pairs = top_eigenpairs(operator, 2)
    with pytest.raises(ValueError, match="kept without their vectors: take them from top_eigenpairs"):
        call(operator, pairs=dataclasses.replace(pairs, vectors=None))
    others = {
        "size": diagonal(np.ones(399), checkpoint={"hash": "a"}),
        "hash": dataclasses.replace(operator, checkpoint={"hash": "b"}),
        "operator": dataclasses.replace(operator, settings={"operator": "fisher"}),
        "data_hash": dataclasses.replace(operator, settings={"data_hash": "e"}),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"of another operator, they differ in: {name}$"):
            call(other, pairs=pairs)


@pytest.mark.parametrize("call", [spectral_density, trace, frobenius_norm])
def test_a_product_that_is_not_finite_is_an_error(call):
    with pytest.raises(FloatingPointError, match="product 1 with the operator is not finite"):
        call(SymmetricOperator(lambda v: v * torch.nan, 100, torch.float64))


@pytest.mark.parametrize("method", ["hutchinson", "xtrace"])
def test_the_trace_is_the_sum_of_the_pairs_where_these_are_all_there_are(method):
    values = torch.arange(1.0, 13.0, dtype=torch.float64)
    operator = SymmetricOperator(lambda v: values * v, 12, torch.float64)
    found = trace(operator, pairs=top_eigenpairs(operator, 12), num_matvecs=5, method=method)
    assert (found.value, found.standard_error) == (pytest.approx(78.0), 0.0)
    assert found.num_matvecs == 0
