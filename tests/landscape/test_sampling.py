import dataclasses

import numpy as np
import pytest
import torch
from problems import NETS, dense_hessian, objective_of
from torch import nn

from landscape.distributed import part_of
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import hessian, restricted
from landscape.results import load, save
from landscape.sampling import data_error, mean_and_error

VARIANCES = np.array([9.0, 4.0, *np.ones(10)])  # of the inputs; the Hessian of the squared error is 2 X'X / N


def draw(seed, num=400):
    return np.random.default_rng(seed).normal(size=(num, len(VARIANCES))) * VARIANCES**0.5


def linear(inputs, sizes):
    x = torch.as_tensor(inputs)
    net = nn.Linear(x.shape[1], 1, bias=False).double()
    return Objective(net, nn.MSELoss(), [(part, torch.zeros(len(part), 1).double()) for part in x.split(sizes)])


def measured(seed, sizes=50, **options):
    objective = linear(draw(seed), sizes)
    pairs = top_eigenpairs(hessian(objective), 2, tolerance=1e-6)
    return data_error(objective, pairs, **options), pairs


def dense_parts(objective, num, seed=0):
    """The Hessian of the sum of losses, and the number of targets, of each part."""
    parts = [part_of(objective, rank, num, seed=seed) for rank in range(num)]
    return [(part.denominator * dense_hessian_of(part), part.denominator) for part in parts]


def dense_hessian_of(part):
    return dense_hessian(dataclasses.replace(part, batches=list(part.batches)))


@pytest.mark.parametrize("name", NETS)
def test_errors_are_those_of_ratios_of_sums_over_uneven_parts(name):
    objective = objective_of(name)
    size = objective.theta.numel()
    pairs = top_eigenpairs(hessian(objective), size, max_matvecs=4 * size)
    found = data_error(objective, pairs, num_parts=5, num_probes=1, max_matvecs=60)
    parts, vectors = dense_parts(objective, 5), pairs.vectors
    counts = np.array([count for _, count in parts])
    forms = np.stack([np.einsum("kp,pq,kq->k", vectors, part.numpy(), vectors) for part, _ in parts])
    traces = np.array([part.trace().item() for part, _ in parts])
    np.testing.assert_allclose(found.values, pairs.values, atol=1e-9)
    for sums, error in ((forms, found.standard_error), (traces[:, None], found.trace_data_error)):
        rest = sums - np.outer(counts, sums.sum(0) / counts.sum())
        expected = np.sqrt(5 / 4 * (rest**2).sum(0)) / counts.sum()
        np.testing.assert_allclose(error, expected.squeeze(), rtol=1e-6, atol=1e-9)
    assert found.trace == pytest.approx(traces.sum() / counts.sum(), abs=1e-9)
    assert found.trace_standard_error == found.trace_data_error  # no vector is left for a probe


def test_with_equal_batches_the_error_is_that_of_a_mean():
    forms = np.random.default_rng(0).normal(size=(10, 3))
    mean, error = mean_and_error(7 * forms, np.full(10, 7.0))
    np.testing.assert_allclose(mean, forms.mean(0))
    np.testing.assert_allclose(error, forms.std(0, ddof=1) / 10**0.5)


def test_the_errors_are_the_spread_over_new_samples():
    """Of eigenvalue and trace, each in its theory: 2 sigma^2 sqrt(2 / N) for one direction of Gaussian inputs."""
    found = [measured(seed, num_parts=20)[0] for seed in range(6)]
    largest = [np.linalg.eigvalsh(2 * draw(seed).T @ draw(seed) / 400)[-1] for seed in range(100, 400)]
    assert np.mean([one.standard_error[0] for one in found]) == pytest.approx(np.std(largest), rel=0.25)
    trace = 2 * np.sqrt(2 * (VARIANCES**2).sum() / 400)
    assert np.mean([one.trace_standard_error for one in found]) == pytest.approx(trace, rel=0.25)


def test_the_error_of_the_trace_holds_that_of_its_probes(monkeypatch):
    """Against the trace of the population, over samples and probes: that of the data alone would be far too small."""
    monkeypatch.setattr("landscape.sampling._subsets", lambda *_: (np.array([200.0]), np.array([90.0]), 0, True))
    variances, scores, of_data = np.array([40.0, 20.0, 10.0, 5.0, *np.ones(20)]), [], []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(800, 24)) * variances**0.5
        objective = linear(x, 800)
        pairs = top_eigenpairs(hessian(objective), 1)
        found = data_error(objective, pairs, num_parts=8, num_probes=8, seed=seed)
        scores.append((found.trace - 2 * variances.sum()) / found.trace_standard_error)
        of_data.append(found.trace_data_error / found.trace_standard_error)
    assert 0.5 < np.sqrt(np.square(scores).mean()) < 2
    assert np.mean(of_data) < 0.5


def test_the_error_of_the_trace_is_unknown_with_too_few_probes():
    found, _ = measured(0, num_probes=3)
    assert np.isnan(found.trace_standard_error)
    assert found.trace_data_error > 0


def test_the_trace_is_that_on_the_vectors_and_on_probes_beside_them():
    for seed in range(3):
        found, _ = measured(seed, num_probes=20)
        x = draw(seed)
        assert found.trace == pytest.approx(2 * (x**2).sum() / 400, rel=0.1)


def test_the_bias_is_how_much_too_large_the_largest_is_on_average():
    """In second order sum_i 2 lam_1 lam_i / (N (lam_1 - lam_i)), with the Hessian's population eigenvalues."""
    truth = 2 * sum(VARIANCES[0] * v / (VARIANCES[0] - v) for v in VARIANCES[1:]) / 400
    found = [measured(seed)[0] for seed in range(5)]
    assert np.mean([one.bias for one in found]) == pytest.approx(truth, rel=0.4)
    for one in found:
        assert one.subset_sizes.tolist() == [100.0] * 4 + [200.0] * 2 + [400.0]
        quarters, halves, whole = one.subset_values[:4], one.subset_values[4:6], one.subset_values[6]
        assert quarters.mean() > halves.mean() > whole  # convex in H, and these are averages of the parts


def test_subsets_are_disjoint_and_are_all_of_the_data():
    objective = linear(draw(0), sizes=150)
    found = data_error(objective, top_eigenpairs(hessian(objective), 2, tolerance=1e-8), seed=3)
    for num, start in ((4, 0), (2, 4)):
        parts = dense_parts(objective, num, seed=3)
        assert sum(count for _, count in parts) == 400
        for first, (part, count) in enumerate(parts):
            truth = torch.linalg.eigvalsh(part / count)[-1].item()
            assert found.subset_values[start + first] == pytest.approx(truth, rel=1e-5)


def test_the_order_of_the_data_does_not_matter():
    """Parts that are stored one after another would show what the examples were sorted by."""
    order = np.argsort(np.abs(draw(0)[:, 0]))
    found = []
    for x in (draw(0), draw(0)[order]):
        objective = linear(x, sizes=50)
        found.append(data_error(objective, top_eigenpairs(hessian(objective), 2)).standard_error[0])
    assert found[1] == pytest.approx(found[0], rel=0.5)  # of stored parts it would be several times larger


def test_the_cost_is_in_products_over_all_data():
    """The retained graphs of a part are made once; what is counted is each product, by its share of the data."""
    objective, shares = linear(draw(0), sizes=50), []

    def operator_of(part):
        operator = hessian(part)

        def matvec(v):
            shares.append(part.num_examples / 400)
            return operator.matvec(v)

        return dataclasses.replace(operator, matvec=matvec, matvecs=None)

    pairs = top_eigenpairs(hessian(objective), 2)
    found = data_error(objective, pairs, operator_of=operator_of, num_probes=3)
    assert found.num_matvecs == np.ceil(round(sum(shares), 9))


def test_an_operator_on_some_parameters_is_measured_as_such():
    objective = linear(draw(0), sizes=50)
    keep = torch.arange(len(VARIANCES)) > 0  # without the direction of the largest variance

    def operator_of(part):
        return restricted(hessian(part), keep)

    pairs = top_eigenpairs(operator_of(objective), 1, tolerance=1e-6)
    found = data_error(objective, pairs, operator_of=operator_of)
    x = draw(0)[:, 1:]
    assert found.values[0] == pytest.approx(np.linalg.eigvalsh(2 * x.T @ x / 400)[-1], rel=1e-9)


def test_batches_that_cannot_be_cut_are_the_parts():
    objective = linear(draw(0), sizes=(20, 80, 50, 150, 100))

    def sums(model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).sum(), len(batch[1])

    uncut = Objective.from_sums(objective.model, sums, objective.batches)
    pairs = top_eigenpairs(hessian(uncut), 2)
    found = data_error(uncut, pairs)
    counts = np.array([len(batch[1]) for batch in objective.batches])
    forms = np.stack([2 * ((batch[0].numpy() @ pairs.vectors.T) ** 2).sum(0) for batch in objective.batches])
    np.testing.assert_allclose(found.standard_error, mean_and_error(forms, counts)[1], rtol=1e-9)
    assert found.num_parts == 5


def test_a_part_without_a_valid_target_counts_for_nothing():
    x, y = torch.randn(12, 5).double(), torch.tensor([0, 1, 2, 0, 1, 2, *6 * [-100]])
    objective = Objective(nn.Linear(5, 3).double(), nn.CrossEntropyLoss(), [(x, y)])
    pairs = top_eigenpairs(hessian(objective), 2)
    found = data_error(objective, pairs, num_parts=12)
    np.testing.assert_allclose(found.values, pairs.values, rtol=1e-6)
    assert np.isfinite(found.standard_error).all()


def test_how_many_examples_bring_error_and_bias_below_a_share():
    found, _ = measured(0)
    tenth = found.examples_for(0.1)
    assert tenth == np.ceil(400 * (found.standard_error[0] / (0.1 * found.values[0])) ** 2)
    assert found.examples_for(0.05) == pytest.approx(4 * tenth, rel=0.01)
    biased = dataclasses.replace(found, standard_error=0 * found.values)
    assert biased.examples_for(0.01) == np.ceil(400 * found.bias / (0.01 * found.values[0]))
    assert np.isnan(dataclasses.replace(found, values=0 * found.values).examples_for(0.1))


@pytest.fixture(scope="module")
def samples():
    return [measured(seed, num_probes=1)[0] for seed in range(10)]


def test_the_interval_of_that_number_holds_the_one_of_the_population(samples):
    """2 sigma^2 sqrt(2 / N) is the error of an eigenvalue of Gaussian inputs: N = 2 / 0.05^2 for 5 % of 2 sigma^2."""
    intervals = np.array([one.examples_interval(0.05) for one in samples])
    assert ((intervals[:, 0] < 800) & (intervals[:, 1] > 800)).sum() >= 8
    assert all(low < one.examples_for(0.05) < high for one, (low, high) in zip(samples, intervals, strict=True))


def test_the_error_of_the_bias_is_its_spread_over_samples(samples):
    spread = np.std([one.bias for one in samples], ddof=1)
    assert 0.5 < np.sqrt(np.mean([one.bias_standard_error**2 for one in samples])) / spread < 2


def test_a_subset_that_ran_out_of_products_is_told():
    objective = linear(draw(0), 50)
    pairs = top_eigenpairs(hessian(objective), 1)
    few, many = (data_error(objective, pairs, max_matvecs=num) for num in (15, 100))
    assert few.checks["subsets_converged"] is False
    assert many.checks["subsets_converged"] is True


def test_it_is_saved_and_the_global_random_state_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    (one, pairs), (other, _) = measured(0), measured(0)
    assert one.trace == other.trace
    objective = linear(draw(0), 50)
    state = torch.get_rng_state()
    data_error(objective, top_eigenpairs(hessian(objective), 2))
    assert torch.get_rng_state().equal(state)
    assert not state.equal(before)  # by nn.Linear
    save(one, tmp_path / "r.npz")
    (found,) = load(tmp_path / "r.npz")
    np.testing.assert_array_equal(found.subset_values, one.subset_values)
    assert (found.bias, found.num_parts, found.checkpoint) == (one.bias, 16, pairs.checkpoint)


def test_what_cannot_be_measured_is_refused():
    objective = linear(draw(0), sizes=50)
    pairs = top_eigenpairs(hessian(objective), 2)
    few = linear(draw(0)[:3], sizes=2)
    with pytest.raises(ValueError, match="spread over parts of the data needs at least 4 of them, got 3"):
        data_error(few, top_eigenpairs(hessian(few), 2))
    with pytest.raises(ValueError, match="needs at least 4 of them, got 2"):
        data_error(objective, pairs, num_parts=2)
    with pytest.raises(ValueError, match="num_probes must be at least 1, got 0"):
        data_error(objective, pairs, num_probes=0)
    with pytest.raises(ValueError, match="kept without their vectors"):
        data_error(objective, dataclasses.replace(pairs, vectors=None))
    with pytest.raises(ValueError, match="of another operator"):
        data_error(linear(draw(1), sizes=50), pairs)
    with pytest.raises(ValueError, match="the bias is that of the largest eigenvalue"):
        data_error(objective, top_eigenpairs(hessian(objective), 2, which="smallest"))
