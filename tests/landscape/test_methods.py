from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_ind

from landscape.curvature_tables import eigenpairs_table
from landscape.methods import method_key, methods, ratio, welch
from landscape.results import Eigenpairs
from landscape.tables import tables
from landscape.verdicts import (
    OverSeeds,
    accuracy_over_seeds,
    curvature_over_seeds,
    hessian_verdict,
    mean_and_deviation,
    with_interval,
)

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


def test_plain_descent_is_one_method_whatever_the_settings_of_perturbed_steps():
    for other in ({"m": 32}, {"sam_sync": "local"}, {"same_rng": True}):
        assert method_key(record("sgd", **other)) == method_key(record("sgd"))
        assert method_key(record("sam", **other)) != method_key(record("sam"))
    gpu = {"device": "cuda", "sam_sync": "global", "m": 0}  # several processes there share BatchNorm's statistics
    assert method_key(record("sgd", **gpu)) == method_key(record("sgd"))
    assert method_key(record("sgd", **gpu | {"sam_sync": "local"})) != method_key(record("sgd"))
    assert method_key(record("sgd", **gpu | {"m": 32})) != method_key(record("sgd"))


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
    foreign = record("sgd", 5, epochs=8, weight_decay=0.1)
    assert [one.name for one in methods([*longer, foreign])] == ["sgd (epochs 9)"]  # one setting is enough


SGD = [pairs(8.0 + seed, record("sgd", seed)) for seed in range(3)]
SAM = [pairs(2.0 + seed / 10, record("sam", seed)) for seed in range(3)]


def test_the_verdict_of_the_terminal_is_of_methods_only_with_three_certified_seeds_each():
    told = hessian_verdict([*SAM, *SGD])
    assert told.startswith("over 3 seeds each (± standard deviation): lambda_1 of sam (rho 0.4) is 0.234 (95 %: 0.1")
    assert "times that of sgd, more than the seeds explain, at train losses 0.500 and 0.500" in told
    assert told in eigenpairs_table([*SAM, *SGD]).notes
    assert hessian_verdict([*SAM[:2], *SGD]) == ""


def test_only_the_method_that_is_not_certified_is_left_out():
    unsure = pairs(2.2, record("sam", 2), complete=False)
    assert "sam (rho 0.4) is not compared: 1 of 3 are not certified" in hessian_verdict([*SAM[:2], unsure, *SGD])
    others = [pairs(5.0 + seed, record("asam", seed)) for seed in range(3)]
    told = hessian_verdict([*SAM[:2], unsure, *SGD, *others])
    assert "lambda_1 of asam (rho 0.4) is 0.6" in told
    assert told.endswith("lambda_1 of sam (rho 0.4) is not compared: 1 of 3 are not certified")
    negative = pairs(-2.2, record("sam", 2))
    assert "sam (rho 0.4) is not compared: 1 of 3 are not positive" in hessian_verdict([*SAM[:2], negative, *SGD])


def on(data_hash, one):
    return replace(one, settings=one.settings | {"data_hash": data_hash})


def test_data_seeds_are_compared_each_on_its_own_split_and_other_data_are_not():
    own = [on(f"split {n % 3}", one) for n, one in enumerate([*SAM, *SGD])]
    assert hessian_verdict(own).endswith("each on its own split")
    made = tables(own)
    assert [hessian_verdict(own) in table.notes for table in made] == [False, False, True]
    confounded = [*(on("one", one) for one in SAM), *(on("other", one) for one in SGD)]
    assert hessian_verdict(confounded).endswith("is of different train data, so methods are not compared")


@pytest.mark.parametrize("values", [([355 / 360] * 3, [320 / 360] * 3), ([0.9] * 3, [0.8] * 3), ([0.1] * 3, [0.1] * 3)])
def test_seeds_without_a_spread_are_not_compared_whatever_their_rounding(values):
    measured = [OverSeeds(name, np.array(x), UNKNOWN) for name, x in zip("ab", values, strict=True)]
    assert np.isnan(welch(*(one.values for one in measured)).low)
    told = accuracy_over_seeds(measured)
    assert "points, with no spread over these seeds, so not compared" in told
    assert "±" not in told.replace("(± over seeds)", "")
    assert "with no spread over these seeds" in curvature_over_seeds(measured, symbol="λ", split="train")


def test_a_difference_is_told_with_its_interval():
    values = {"a": [0.91, 0.92, 0.93], "b": [0.915, 0.925, 0.935]}
    measured = [OverSeeds(name, np.array(x), UNKNOWN) for name, x in values.items()]
    assert "b is 1.005 (95 %: 0.981 to 1.030) times that of a, not more than the seeds explain" in curvature_over_seeds(
        measured, symbol="λ", split="train"
    )
    assert accuracy_over_seeds(measured).endswith(
        "b − a 0.5 points (95 %: −1.8 to 2.8), not more than the seeds explain, on this test set"
    )


def test_with_many_seeds_means_differ_by_less_than_the_deviation_of_a_seed():
    draw = np.random.default_rng(0).normal(size=100)
    found = welch(draw + 0.5, draw)
    assert found.beyond_spread
    assert found.difference < draw.std()


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((1.0, 0.9996, 1.0004), "1.0000 (0.9996 to 1.0004)"),
        ((-0.2, -6.0, 5.6), "−0.2 (−6.0 to 5.6)"),
        ((0.94, 0.62, 1.43), "0.94 (0.62 to 1.43)"),
        ((2e-7, 1e-7, 3e-7), "2.00e-07 (1.00e-07 to 3.00e-07)"),
        ((2.0, np.nan, np.nan), "2.00"),
    ],
)
def test_an_interval_has_equal_decimals(numbers, told):
    assert with_interval(*numbers) == told


def test_of_seeds_that_are_not_all_finite_it_is_told_how_many_are():
    assert mean_and_deviation(np.array([1.0, 3.0, np.inf])) == "2.0 ± 1.4 (2 of 3 finite)"
    assert mean_and_deviation(np.full(3, np.nan)) == "—"


def test_of_many_methods_it_is_told_how_many_differ():
    draw = np.random.default_rng(0)
    measured = [OverSeeds(f"m{n}", 10.0 ** (n > 3) * draw.uniform(1, 1.1, 3), UNKNOWN) for n in range(6)]
    assert curvature_over_seeds(measured, symbol="λmax", split="train") == (
        "λmax differs from that of m0 by more than the seeds explain for 2 of 5 methods"
    )
    assert "for none of 4 methods" in curvature_over_seeds(
        [OverSeeds(f"m{n}", draw.uniform(1, 9, 3), UNKNOWN) for n in range(5)], symbol="λmax", split="train"
    )
    assert accuracy_over_seeds(measured[:4]).count("(95 % together: ") == 3
