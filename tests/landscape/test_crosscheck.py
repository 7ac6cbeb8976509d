import copy
import dataclasses

import pyhessian
import pytest
import torch
from problems import build, dense_hessian, in_batches, objective_of
from torch import nn

import landscape as ls
from landscape import ledger
from landscape.crosscheck import pyhessian_check
from landscape.operators import block, hessian


def test_pyhessian_finds_the_largest_in_magnitude_and_the_trace():
    objective = objective_of("tied", dtype=torch.float32)
    pairs = ls.top_eigenpairs(hessian(objective), 3)
    state = torch.get_rng_state()
    before = copy.deepcopy(objective.model.state_dict())
    found = pyhessian_check(objective, pairs)
    dense = dense_hessian(objective).double()
    values = torch.linalg.eigvalsh(dense)
    assert found["eigenvalue"] == pytest.approx(float(values[values.abs().argmax()]), rel=1e-3)
    assert found["difference"] < 1e-3
    assert abs(found["trace"] - float(dense.trace())) < 4 * found["trace_standard_error"] + 1e-4
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in objective.model.state_dict().items())
    assert all(p.grad is None for p in objective.model.parameters())


def test_a_check_that_was_stopped_makes_no_product_twice_and_ends_with_the_bits_of_one_that_was_not(
    tmp_path, monkeypatch
):
    objective = objective_of("tied", dtype=torch.float32)
    pairs, made, product = ls.top_eigenpairs(hessian(objective), 1), [], pyhessian.hessian.dataloader_hv_product
    expected = pyhessian_check(objective, pairs)

    def counted(found, v):
        if limits and len(made) == limits[0]:
            raise KeyboardInterrupt
        made.append(v)
        return product(found, v)

    def check(replayed):
        record = pyhessian_check(objective, pairs, replayed=replayed)
        return [dataclasses.replace(pairs, checks={**pairs.checks, "pyhessian": record})]

    def run():
        with ledger.opened(tmp_path / "journal", {"command": "hessian"}, anew=False) as kept:
            return kept.step("one", check)[0].checks["pyhessian"]

    monkeypatch.setattr(pyhessian.hessian, "dataloader_hv_product", counted)
    limits = [7, expected["num_matvecs"] - 3]  # in the power iteration, and in the trace
    while limits:
        with pytest.raises(KeyboardInterrupt):
            run()
        limits.pop(0)
    assert run() == expected
    assert len(made) == expected["num_matvecs"]


def test_what_pyhessian_cannot_measure_is_refused():
    net, inputs, targets = build("tied", torch.float32)
    batches = in_batches(inputs, targets)
    pairs = ls.top_eigenpairs(hessian(ls.Objective(net, nn.CrossEntropyLoss(), batches)), 1)
    weighted = ls.Objective(net, nn.CrossEntropyLoss(weight=torch.ones(3)), batches)
    with pytest.raises(ValueError, match="PyHessian needs a plain mean over the examples"):
        pyhessian_check(weighted, pairs)
    with pytest.raises(ValueError, match=r"PyHessian measures float32, and this model is torch\.float64"):
        pyhessian_check(objective_of("tied"), pairs)
    next(net.parameters()).requires_grad_(False)
    with pytest.raises(ValueError, match="some of these do not require a gradient"):
        pyhessian_check(ls.Objective(net, nn.CrossEntropyLoss(), batches), pairs)


def test_a_block_is_a_matrix_of_its_own_size():
    objective = objective_of("tied")
    keep = torch.zeros(objective.theta.numel(), dtype=torch.bool)
    keep[3:11] = True
    found = block(hessian(objective), keep)
    dense = dense_hessian(objective)[3:11, 3:11]
    assert found.shape == (8, 8)
    products = torch.stack([found.matvec(v) for v in torch.eye(8, dtype=torch.float64)])
    torch.testing.assert_close(products, dense, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.matvecs(torch.eye(8, dtype=torch.float64)), dense, rtol=1e-8, atol=1e-10)
