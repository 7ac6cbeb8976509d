"""Several gloo processes against one process with all of the data, in float64."""

from functools import partial

import numpy as np
import pytest
import shared_cases as cases
import torch

from landscape.distributed import part_of, shared
from landscape.lanczos import top_eigenpairs
from landscape.operators import fisher, gauss_newton, hessian


@pytest.mark.parametrize("size", [2, 3])
def test_products_of_several_processes_are_those_of_one(size, tmp_path):
    torch.multiprocessing.start_processes(
        cases.everything, args=(size, str(tmp_path)), nprocs=size, start_method="spawn"
    )
    found = [torch.load(tmp_path / f"found-{rank}.pt", weights_only=True) for rank in range(size)]
    objective, vectors = cases.objective(), cases.vectors()
    truth = {
        "hessian": hessian(objective),
        "one by one": hessian(objective),
        "gauss-newton": gauss_newton(objective),
        "empirical fisher": fisher(objective, kind="empirical"),
        "sums": hessian(cases.objective(sums=True)),
        "a part without a valid target": hessian(cases.objective(num_ignored=60)),
    }
    for name, operator in truth.items():
        expected = operator.matvecs(vectors)
        for rank in found:
            assert (rank[name] - expected).norm() <= 1e-10 * expected.norm(), name
            assert rank[name].equal(found[0][name]), name
    elsewhere, unlabelled = 2 * objective.theta, cases.objective(num_ignored=60)
    gradients = {
        "gradient": objective.gradient(),
        "gradient elsewhere": objective.gradient(elsewhere),
        "gradient of sums": cases.objective(sums=True).gradient(),
        "gradient of a part without a valid target": unlabelled.gradient(),
    }
    for name, expected in gradients.items():
        for rank in found:
            assert (rank[name] - expected).norm() <= 1e-10 * expected.norm(), name
            assert rank[name].equal(found[0][name]), name
    pairs, alone = top_eigenpairs(hessian(objective), k=2), cases.through(hessian)
    for rank in found:
        assert rank["loss"] == pytest.approx(objective.evaluate().loss, rel=1e-12)
        assert rank["values"] == pytest.approx(pairs.values, rel=1e-10)
        assert rank["vectors"] == found[0]["vectors"]
        assert rank["settings"] == {"data_hash": objective.data_hash, "num_examples": 101, "num_processes": size}
        assert rank["examples in gradients"] == 2 * 2 * rank["own examples"]  # two at each checkpoint
        for one, expected_one in zip(rank["through"], alone, strict=True):
            np.testing.assert_allclose(one, expected_one, rtol=1e-6)
        assert rank["from the first"] == "process 0"
        assert rank["stopped"][1] is None
        assert rank["gone on"][1] == pytest.approx(pairs.values, rel=1e-10)
        assert rank["gone on"][1] == found[0]["gone on"][1]
        assert rank["stopped"][0] + rank["gone on"][0] == pairs.num_matvecs
    assert sum(rank["own examples"] for rank in found) == 101
    assert max(rank["own examples"] for rank in found) - min(rank["own examples"] for rank in found) == 1
    assert not (tmp_path / "journal").exists()


LAWS = [
    ("ValueError: process 1 has other weights and data than process 0", True),
    ("ValueError: BatchNorm in train mode measures the batches as they are", True),
    ("ValueError: labels are drawn by their place in all of the data", True),
    ("ValueError: the protocol sums the means of batches of 128", True),
    ("NotRepeatableError: process 1 came to other numbers than process 0", True),
    ("MemoryError: too large", False),
    ("ValueError: all 101 targets are ignored (ignore_index=3): the mean loss has no denominator", None),
    ("ValueError: all 101 targets are ignored (ignore_index=3): the mean loss has no denominator", True),
    ("NotRepeatableError: process 1 came to other numbers than process 0", True),
    ("MemoryError: too large", False),
]


def test_what_ends_one_process_ends_all(tmp_path):
    torch.multiprocessing.start_processes(cases.refusals, args=(2, str(tmp_path)), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"refused-{rank}.pt", weights_only=True) for rank in range(2))
    for (words, alike), one, two in zip(LAWS, first, second, strict=True):
        assert words in two
        assert words in one
        if alike is None:  # the first is told first
            assert two.startswith("ToldError: process 0 failed: ")
        else:
            assert one.startswith("ToldError: process 1 failed: ") != alike


@pytest.mark.parametrize("size", [1, 2, 7, 101])
def test_parts_are_all_of_the_data_in_order(size):
    objective = cases.objective()
    parts = [part_of(objective, rank, size) for rank in range(size)]
    inputs = torch.cat([inputs for part in parts for inputs, _ in part.read()])
    assert inputs.equal(torch.cat([inputs for inputs, _ in objective.batches]))
    assert max(part.num_examples for part in parts) - min(part.num_examples for part in parts) <= 1


def test_random_parts_hold_each_example_once_and_are_those_of_their_seed():
    objective = cases.objective()
    parts = [torch.cat([x for x, _ in part_of(objective, rank, 4, seed=1).read()]) for rank in range(4)]
    everything = torch.cat([inputs for inputs, _ in objective.batches])
    assert torch.cat(parts).sort(0).values.equal(everything.sort(0).values)
    assert {len(part) for part in parts} == {25, 26}
    again, other = (torch.cat([x for x, _ in part_of(objective, 0, 4, seed=seed).read()]) for seed in (1, 2))
    assert again.equal(parts[0])
    assert not other[:25].equal(parts[0][:25])


def test_batches_that_cannot_be_cut_are_dealt_out_whole():
    objective = cases.objective(sums=True)
    sizes = [[len(batch[1]) for batch in part_of(objective, rank, 2).read()] for rank in (0, 1)]
    assert sizes == [[40, 40], [21]]


def test_parts_of_an_objective_whose_model_has_changed_are_refused():
    objective = cases.objective()
    objective.evaluate()
    with torch.no_grad():
        objective.model[0].weight.add_(1)
    with pytest.raises(ValueError, match=r"the model has changed since .* \(0\.weight\)"):
        part_of(objective, 0, 2)


def test_more_processes_than_examples_are_refused():
    with pytest.raises(ValueError, match="102 parts of 101 examples: take at most 101"):
        part_of(cases.objective(), 0, 102)
    with pytest.raises(ValueError, match="4 parts of 3 batches: take at most 3"):
        part_of(cases.objective(sums=True), 0, 4)


def test_one_process_by_itself_shares_nothing():
    operator = shared(cases.objective(), partial(hessian, engine="recomputed"))
    assert operator.settings["engine"] == "recomputed"
    assert "num_processes" not in operator.settings
