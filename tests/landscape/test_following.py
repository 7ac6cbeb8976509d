import dataclasses
import math

import numpy as np
import pytest
import torch
from problems import a_run, build, dense_hessian, in_batches
from torch import nn

import landscape as ls
from landscape.following import stability_limit
from landscape.results import problem_of
from landscape.tables import tables


def test_each_checkpoint_has_the_eigenvalues_of_its_own_hessian():
    run = a_run()
    trace = ls.curvature_trace(run, k=3, tolerance=1e-8)
    assert trace.epoch.tolist() == [2, 4, 6]
    for t, (_, objective) in enumerate(run):
        dense = torch.linalg.eigvalsh(dense_hessian(objective)).flip(0)[:3].numpy()
        np.testing.assert_allclose(trace.values[t], dense, rtol=1e-6)
        assert trace.loss[t] == pytest.approx(objective.evaluate().loss)
    assert trace.converged.all()
    assert trace.complete.all()


def test_curvature_along_the_steps_is_that_of_the_dense_hessian():
    ((epoch, objective),) = a_run(1)
    trace = ls.curvature_trace([(epoch, objective)], k=1, rho=0.3)
    dense, gradient = dense_hessian(objective), objective.gradient()
    perturbed = objective.gradient(objective.theta + 0.3 * gradient / gradient.norm())
    for found, v in ((trace.along_gradient[0], gradient), (trace.along_sam[0], perturbed)):
        assert found == pytest.approx(float(v @ dense @ v / (v @ v)), rel=1e-8)
    assert trace.along_gradient[0] != trace.along_sam[0]


def test_the_products_along_gradient_and_sam_are_counted_too():
    run, calls = a_run(1), 0

    def operator_of(one):
        operator = ls.hessian(one)

        def matvec(v):
            nonlocal calls
            calls += 1
            return operator.matvec(v)

        return dataclasses.replace(operator, matvec=matvec, matvecs=None)

    found = ls.curvature_trace(run, k=2, operator_of=operator_of)
    assert found.num_matvecs.tolist() == [calls]


def test_overlap_is_one_where_nothing_changes_and_a_share_elsewhere():
    run = a_run(2)
    same = ls.curvature_trace([run[0], (3, run[0][1]), run[1]], k=2, tolerance=1e-8)
    assert math.isnan(same.overlap[0])
    assert same.overlap[1] == pytest.approx(1.0, abs=1e-6)
    vectors = [torch.linalg.eigh(dense_hessian(o)).eigenvectors[:, -2:] for _, o in run]
    assert same.overlap[2] == pytest.approx(float((vectors[0].T @ vectors[1]).square().sum()) / 2, rel=1e-5)
    assert same.num_matvecs[1] < same.num_matvecs[0]  # a start from the vectors themselves


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.5)])
def test_the_limit_is_where_descent_on_a_quadratic_begins_to_diverge(momentum, nesterov, weight_decay):
    limit = stability_limit(0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    for factor, grows in ((0.99, False), (1.01, True)):
        x = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = torch.optim.SGD(
            [x], lr=0.1, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay
        )
        for _ in range(3000):
            optimizer.zero_grad()
            (factor * limit * x.square() / 2).sum().backward()
            optimizer.step()
        assert (abs(float(x.detach())) > 1) == grows


def test_a_trace_survives_its_file_and_says_what_did_not_converge(tmp_path):
    trace = ls.curvature_trace(a_run(2), k=2, learning_rates=[0.1, 0.05], stability_limits=[20.0, math.nan])
    trace.checkpoint["label"] = "run"
    ls.save(trace, tmp_path / "t.npz")
    (back,) = ls.load(tmp_path / "t.npz")
    for name in ("epoch", "values", "residuals", "converged", "overlap", "stability_limit", "learning_rate"):
        np.testing.assert_array_equal(getattr(back, name), getattr(trace, name))
    assert not problem_of(back)
    (table,) = tables([back])
    assert table.title.startswith("run through training: Hessian of the mean cross-entropy")
    assert [record["epoch"] for record in table.records] == [2, 4]
    back.converged[1, 1] = False
    assert problem_of(back) == "run: 1 eigenvalues did not converge; allow more products"
    back.complete[0] = False
    shown = " ".join(tables([back])[0].text().split())
    assert "(!) NOT converged, at epoch 4: 1; (!) possibly incomplete, at epoch 2" in shown
    assert shown.count("(!)") == 4


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(ValueError, match="a run needs at least one checkpoint"):
        ls.curvature_trace([])
    with pytest.raises(ValueError, match="rho must be finite and not negative, got nan"):
        ls.curvature_trace(a_run(1), rho=math.nan)
    other, inputs, targets = build("conv_net")
    odd = ls.Objective(other, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    with pytest.raises(ValueError, match="the checkpoints of a run must have equal parameters"):
        ls.curvature_trace([*a_run(1), (9, odd)])
