import numpy as np
import pytest
import torch
from problems import dense_hessian, objective_of
from torch import nn

import landscape as ls
from landscape.analysis import HessianOptions, chosen_operator, hessian_analysis, product_cost
from landscape.results import Density, Diagonal, Eigenpairs, Estimate


def analysed(name="tied", **options):
    return hessian_analysis(objective_of(name), HessianOptions(tolerance=1e-8, **options))


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
def test_eigenvalues_are_those_of_the_dense_hessian(which):
    (pairs,) = analysed(which=which, top=3)
    dense = torch.linalg.eigvalsh(dense_hessian(objective_of("tied"))).flip(0).numpy()
    wanted = {"largest": dense[:3], "smallest": dense[-3:], "both": np.concatenate([dense[:3], dense[-3:]])}[which]
    np.testing.assert_allclose(np.sort(pairs.values), np.sort(wanted), atol=1e-9)
    assert pairs.vectors is None


def test_all_that_is_asked_for_comes_in_one_order_and_is_true():
    asked = {"top": 2, "density": True, "trace": True, "diagonal": True, "per_layer": True, "save_vectors": True}
    pairs, density, trace, rank, diagonal, *blocks = analysed(**asked)
    dense = dense_hessian(objective_of("tied"))
    assert [type(one) for one in (pairs, density, trace, rank, diagonal)] == [
        *(Eigenpairs, Density, Estimate, Estimate, Diagonal),
    ]
    assert trace.value == pytest.approx(float(dense.trace()))  # of so small a matrix exact
    assert rank.value == pytest.approx(trace.value / pairs.values[0])
    np.testing.assert_allclose(diagonal.values, dense.diagonal(), atol=1e-12)
    residuals = dense.numpy() @ pairs.vectors.T - pairs.values * pairs.vectors.T
    assert np.abs(residuals).max() < 1e-6
    places, start = {}, 0
    for name, shape in objective_of("tied").shapes.items():
        places.setdefault(name.rpartition(".")[0], []).extend(range(start, start + shape.numel()))
        start += shape.numel()
    assert [one.settings["layer"] for one in blocks] == [*places]
    for one, rows in zip(blocks, places.values(), strict=True):
        values = torch.linalg.eigvalsh(dense[rows][:, rows]).flip(0)[:2]
        np.testing.assert_allclose(one.values, values, atol=1e-9)


def test_a_budget_bounds_all_products():
    pairs, *others = analysed(top=1, budget=90)
    assert [type(one) for one in others] == [Density, Estimate, Estimate, Estimate]
    assert pairs.num_matvecs + others[1].num_matvecs <= 90


def test_a_block_is_the_same_by_either_way():
    """The Hessian's block is made by itself, Gauss-Newton's is cut out of the whole: of a linear last layer, equal."""
    ours, theirs = (analysed(layers=("head",), top=2, operator=name)[0] for name in ("hessian", "gauss-newton"))
    np.testing.assert_allclose(ours.values, theirs.values, atol=1e-9)
    assert ours.settings["layers"] == theirs.settings["layers"] == ["head"]
    assert ours.settings["kept_hash"] == theirs.settings["kept_hash"]


def test_memory_for_few_vectors_finds_the_same():
    size = objective_of("tied").theta.nbytes / 1e9
    (ours,), (theirs,) = analysed(top=1, basis_memory=6 * size), analysed(top=1)
    np.testing.assert_allclose(ours.values, theirs.values, atol=1e-8)
    with pytest.raises(ValueError, match="`basis_memory` holds 2 vectors, `top` 1 needs 3"):
        analysed(top=1, basis_memory=2.5 * size)


def test_products_may_be_kept_by_somebody_else():
    made = []

    def replayed(operator):
        made.append(operator.size)
        return operator

    objective = objective_of("tied")
    hessian_analysis(objective, HessianOptions(top=1, per_layer=True, data_error=True), replayed=replayed)
    sizes = [operator.size for operator in ls.per_layer(objective).values()]
    assert made[0] == objective.theta.numel()
    assert made[-len(sizes) :] == sizes
    assert len(made) > 16  # parts of the data, too


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 50, "density": True}, "`budget` answers density and trace too: leave out `density` and `trace`"),
        ({"budget": 50, "diagonal": True}, "`budget` has no products for a diagonal"),
        ({"budget": 50, "which": "smallest"}, "need the largest eigenvalues: use `which='both'`"),
        ({"engine": "timed", "operator": "fisher"}, "`engine` is of the Hessian, not of fisher"),
        ({"protocol": "paper", "layers": ("head",)}, "is of the Hessian, its own parameters, in eval mode"),
        ({"protocol": "paper", "basis_memory": 1.0}, "is of the Hessian, its own parameters, in eval mode"),
        ({"per_layer": True, "batch_norm": "train"}, "`per_layer` is of the whole Hessian, in eval mode"),
        ({"data_error": True, "which": "smallest"}, "`data_error` is of the largest eigenvalues, in eval mode"),
        ({"data_error": True, "operator": "fisher"}, "draws no labels: use `operator='empirical-fisher'`"),
        ({"cross_check": True, "which": "smallest"}, "of largest magnitude: use `which='both'`"),
        ({"cross_check": True, "operator": "fisher"}, "`cross_check` is of the whole Hessian, in eval mode"),
        ({"operator": "hesian"}, "operator must be one of .*, got 'hesian'"),
        ({"protocol": "papers"}, "protocol must be one of .*, got 'papers'"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        HessianOptions(**options)


@pytest.mark.parametrize("of_the_paper", ["density", "trace", "diagonal", "save_vectors"])
def test_the_paper_s_matrix_may_be_asked_more_than_its_eigenvalues(of_the_paper):
    assert HessianOptions(protocol="paper", which="both", top=2, **{of_the_paper: True}).protocol == "paper"


def test_along_a_run_and_by_several_processes_less_can_be_asked():
    HessianOptions(top=2, tolerance=0.1, max_matvecs=9, seed=3).check_run()
    HessianOptions(budget=90, which="both", layers=("head",), operator="gauss-newton").check_shared()
    with pytest.raises(ValueError, match="a run is followed by the largest eigenvalues of its Hessian"):
        HessianOptions(trace=True).check_run()
    with pytest.raises(ValueError, match="`engine='timed'` is measured by one process: leave out torchrun"):
        HessianOptions(engine="timed").check_shared()


def test_too_few_examples_have_no_error_of_the_data():
    x = torch.ones(3, 2, dtype=torch.float64)
    objective = ls.Objective(nn.Linear(2, 2).double(), nn.CrossEntropyLoss(), [(x, torch.tensor([0, 1, 0]))])
    with pytest.raises(ValueError, match="`data_error` takes parts of the data: 3 examples are too few"):
        hessian_analysis(objective, HessianOptions(data_error=True))


def test_a_product_says_how_it_is_made():
    told = product_cost(objective_of("tied"), HessianOptions(engine="recomputed"))
    assert (told["operator"], told["engine"], told["repeatable"]) == ("hessian", "recomputed", True)
    assert told["size"] == chosen_operator(objective_of("tied"), HessianOptions()).size
    assert told["seconds_per_product"] > 0
