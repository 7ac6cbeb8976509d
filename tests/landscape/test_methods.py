import numpy as np
import pytest
from scipy.stats import ttest_ind

from landscape.curvature_tables import eigenpairs_table
from landscape.methods import method_key, methods, ratio, welch
from landscape.results import Eigenpairs
from landscape.verdicts import OverSeeds, accuracy_over_seeds, curvature_over_seeds, hessian_verdict

UNKNOWN = np.full(3, np.nan)


def record(method="sam", seed=0, *, label="run", epoch=8, **settings):
    config = {"method": method, "rho": 0.4, "lr": 0.1, "seed": seed, "data_seed": 0, "device": "cpu", **settings}
    return {"label": label, "method": method, "epoch": epoch, "config": config}


def pairs(value, record, *, complete=True):
    return Eigenpairs(
        values=np.array([value]),
        vectors=None,
        residuals=np.array([0.001]),
        converged=np.array([True]),
        complete=complete,
        num_matvecs=9,
        loss=0.5,
        checkpoint=record,
        settings={"operator": "hessian", "split": "train"},
    )


@pytest.mark.parametrize(("count_a", "count_b"), [(3, 3), (3, 7), (20, 4)])
def test_the_interval_is_that_of_welch(count_a, count_b):
    draw = np.random.default_rng(count_a)
    a, b = draw.normal(1, 2, count_a), draw.normal(0, 0.5, count_b)
    found = welch(a, b)
    for comparisons in (1, 4):
        truth = ttest_ind(a, b, equal_var=False).confidence_interval(1 - 0.05 / comparisons)
        found = welch(a, b, comparisons=comparisons)
        np.testing.assert_allclose([found.low, found.high], [truth.low, truth.high], rtol=1e-10)
        assert found.beyond_spread == (ttest_ind(a, b, equal_var=False).pvalue < 0.05 / comparisons)


def test_equal_methods_are_called_different_in_one_of_twenty_comparisons():
    draw = np.random.default_rng(0)
    called = [welch(*draw.normal(size=(2, 3))).beyond_spread for _ in range(2000)]
    assert np.mean(called) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)  # Welch's is on the safe side for so few


def test_the_ratio_is_of_geometric_means():
    found = ratio(np.array([1.0, 4.0]), np.array([8.0, 8.0, 2.0, 2.0]))
    assert 1 + found.difference == pytest.approx(2 / 4)
    assert not ratio(np.array([1.0, -4.0]), np.array([8.0, 2.0])).beyond_spread


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0, 3.0]), ([1.0, 1.0], [2.0, 2.0]), ([np.nan, 1.0], [2.0, 3.0])])
def test_without_a_spread_nothing_is_beyond_it(a, b):
    assert not welch(np.array(a), np.array(b)).beyond_spread


def test_runs_that_differ_in_nothing_but_their_seeds_are_one_method():
    seeds = [record(seed=seed, data_seed=seed // 2, device=f"cuda:{seed}") for seed in range(3)]
    assert [one.members for one in methods(seeds)] == [(0, 1, 2)]
    assert methods(seeds[:2]) == []
    for other in ({"lr": 0.2}, {"rho": 0.1}, {"epoch": 4}, {"method": "asam"}):
        assert method_key(record(**other)) != method_key(record())
    assert method_key(record("sgd", rho=0.1)) == method_key(record("sgd", rho=0.4))  # SGD has no radius
    assert method_key({"label": "a checkpoint of one's own"}) == ""


def test_the_best_checkpoints_of_runs_are_one_method_at_any_epoch_and_never_the_last_ones():
    best = [record(seed=seed, epoch=seed, label=f"sam-{seed}/best.pt") for seed in range(3)]
    last = [record(seed=seed, label=f"sam-{seed}") for seed in range(3)]
    assert [one.members for one in methods([*best, *last])] == [(0, 1, 2), (3, 4, 5)]


def test_a_seed_that_stands_twice_makes_no_method():
    assert methods([record(seed=seed) for seed in (0, 1, 1, 2)]) == []


def test_methods_are_named_by_their_radii_and_by_what_else_tells_them_apart():
    runs = [
        record(method, seed, lr=lr) for method, lr in (("sam", 0.1), ("sam", 0.2), ("sgd", 0.1)) for seed in range(3)
    ]
    assert [one.name for one in methods(runs)] == ["sgd", "sam (rho 0.4, lr 0.1)", "sam (rho 0.4, lr 0.2)"]
    longer = [record("sgd", seed, epoch=9, epochs=9) for seed in range(3)]
    early = [record("sgd", seed, epoch=3, epochs=9) for seed in range(3)]
    assert [one.name for one in methods([*longer, record("sgd", 5, epochs=8)])] == ["sgd (epochs 9)"]
    assert [one.name for one in methods([*longer, *early])] == ["sgd (epoch 9)", "sgd (epoch 3)"]


def test_the_verdict_of_the_terminal_is_of_methods_only_with_three_certified_seeds_each():
    sgd = [pairs(8.0 + seed, record("sgd", seed)) for seed in range(3)]
    sam = [pairs(2.0 + seed / 10, record("sam", seed)) for seed in range(3)]
    told = hessian_verdict([*sam, *sgd])
    assert told.startswith(
        "over 3 seeds each (± standard deviation, 95 % interval): lambda_1 of sam (rho 0.4) is 0.234 ("
    )
    assert (
        "times that of sgd, a difference larger than the spread over seeds, at train losses 0.500 ± 0 and 0.500 ± 0"
        in told
    )
    assert told in eigenpairs_table([*sam, *sgd]).notes
    assert hessian_verdict([*sam[:2], *sgd]) == ""
    unsure = pairs(2.2, record("sam", 2), complete=False)
    assert hessian_verdict([*sam[:2], unsure, *sgd]).startswith("methods are not compared: 1 of 6")


def test_a_difference_within_the_spread_is_not_called_one():
    measured = [OverSeeds(name, np.array(x), UNKNOWN) for name, x in (("a", [1.0, 2.0, 3.0]), ("b", [1.5, 2.5, 3.5]))]
    assert "times that of a, a difference not larger than the spread over seeds" in curvature_over_seeds(
        measured, symbol="λ", split="train"
    )
    assert "not apart by more than the spread over seeds" in accuracy_over_seeds(measured)


def test_of_many_methods_it_is_told_how_many_differ():
    draw = np.random.default_rng(0)
    measured = [OverSeeds(f"m{n}", 10.0 ** (n > 3) * draw.uniform(1, 1.1, 3), UNKNOWN) for n in range(6)]
    assert curvature_over_seeds(measured, symbol="λmax", split="train") == (
        "λmax differs from that of m0 by more than the spread over seeds for 2 of 5 methods"
    )
    assert "for none of 4 methods" in curvature_over_seeds(
        [OverSeeds(f"m{n}", draw.uniform(1, 9, 3), UNKNOWN) for n in range(5)], symbol="λmax", split="train"
    )
    assert accuracy_over_seeds(measured[:4]).endswith("apart from m0 by more than the spread over seeds: none")


def test_an_eigenvalue_that_is_not_positive_has_no_ratio():
    measured = [OverSeeds(name, np.array([1.0, 2.0, value]), UNKNOWN) for name, value in (("a", 3.0), ("b", -3.0))]
    assert "not positive" in curvature_over_seeds(measured, symbol="λmax", split="train")
