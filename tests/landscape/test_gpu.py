"""The same measurements on a CUDA device as on the CPU, from the same directions."""

import numpy as np
import pytest
import torch
from problems import build, in_batches
from torch import nn

from landscape.alignment import gradient_congruence
from landscape.budget import curvature
from landscape.directions import random_plane
from landscape.entries import diagonal
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import fisher, gauss_newton, hessian
from landscape.spectrum import trace
from landscape.surface import loss_surface

pytestmark = pytest.mark.gpu


def objectives(name="conv_net", dtype=torch.float64):
    net, inputs, targets = build(name, dtype)
    batches = in_batches(inputs, targets)  # on the CPU: an objective moves them
    on_gpu = build(name, dtype)[0].cuda()
    return Objective(net, nn.CrossEntropyLoss(), batches), Objective(on_gpu, nn.CrossEntropyLoss(), batches)


def test_directions_are_those_of_the_cpu():
    cpu, gpu = objectives()
    torch.testing.assert_close(random_plane(gpu).axes.cpu(), random_plane(cpu).axes)


def test_the_surface_is_that_of_the_cpu():
    cpu, gpu = (loss_surface(o, random_plane(o), steps=5) for o in objectives())
    np.testing.assert_allclose(gpu.loss, cpu.loss, rtol=1e-10)
    assert gpu.checks["centre_ok"]


def test_the_eigenvalues_are_those_of_the_cpu():
    cpu, gpu = (top_eigenpairs(hessian(o), k=3, tolerance=1e-8, max_matvecs=400) for o in objectives())
    np.testing.assert_allclose(gpu.values, cpu.values, rtol=1e-8)
    assert gpu.converged.all()


@pytest.mark.parametrize("engine", ["retained", "recomputed", "forward-over-reverse", "compiled", "timed"])
def test_products_of_every_engine_are_those_of_the_cpu(engine):
    cpu, gpu = objectives()
    expected, operator = hessian(cpu).matvec(cpu.theta), hessian(gpu, engine=engine)
    torch.testing.assert_close(operator.matvec(gpu.theta).cpu(), expected, rtol=1e-8, atol=1e-10)
    assert engine == "timed" or operator.settings["engine"] == engine, operator.settings


@pytest.mark.parametrize("make", [gauss_newton, fisher])
def test_gauss_newton_and_fisher_are_those_of_the_cpu(make):
    cpu, gpu = objectives()
    expected = make(cpu).matvec(cpu.theta)
    torch.testing.assert_close(make(gpu).matvec(gpu.theta).cpu(), expected, rtol=1e-8, atol=1e-10)


def test_a_basis_in_the_memory_of_the_host_gives_the_same_numbers():
    _, gpu = objectives()
    near, far = (
        curvature(hessian(gpu), k=3, tolerance=1e-8, budget=400, basis_device=device) for device in (None, "cpu")
    )
    np.testing.assert_allclose(far.pairs.values, near.pairs.values, rtol=1e-8)
    np.testing.assert_allclose(far.density.nodes[:, 0], near.density.nodes[:, 0], rtol=1e-6)
    assert far.trace.value == pytest.approx(near.trace.value, rel=1e-8)


def test_the_trace_is_that_of_the_cpu():
    cpu, gpu = (trace(hessian(o), num_matvecs=20) for o in objectives())
    assert gpu.value == pytest.approx(cpu.value, rel=1e-8)


def test_the_diagonal_is_that_of_the_cpu():
    cpu, gpu = (
        diagonal(hessian(o), num_matvecs=20, pairs=top_eigenpairs(hessian(o), 2, tolerance=1e-8, max_matvecs=400))
        for o in objectives()
    )
    np.testing.assert_allclose(gpu.values, cpu.values, rtol=1e-6, atol=1e-9)
    assert gpu.trace == pytest.approx(cpu.trace, rel=1e-8)


def test_the_congruence_is_that_of_the_cpu():
    cpu, gpu = (gradient_congruence(o, o) for o in objectives())
    assert gpu.value == pytest.approx(cpu.value, rel=1e-10)


def test_measuring_leaves_the_random_state_of_the_device():
    before = torch.cuda.get_rng_state()
    _, gpu = objectives()
    loss_surface(gpu, random_plane(gpu), steps=3)
    assert torch.cuda.get_rng_state().equal(before)
