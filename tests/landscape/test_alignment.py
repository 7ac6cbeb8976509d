import json
import math

import numpy as np
import pytest
import torch
from problems import build, in_batches, objective_of, whole_loss
from torch import nn

from landscape.alignment import congruence_trace, gradient_congruence
from landscape.objective import Objective


def two_objectives(name="tied", shift=0.5):
    net, inputs, targets = build(name)
    train = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    return train, Objective(net, nn.CrossEntropyLoss(), in_batches(inputs.flip(0) + shift, targets))


def test_congruence_is_the_cosine_of_the_two_gradients_after_the_validation_ascent():
    train, validation = two_objectives()
    theta = train.theta.clone().requires_grad_()
    g_v = torch.autograd.grad(whole_loss(validation)(theta), theta)[0]
    theta_v = (train.theta + 0.3 * g_v / g_v.norm()).requires_grad_()
    g_vv = torch.autograd.grad(whole_loss(validation)(theta_v), theta_v)[0]
    g_t = torch.autograd.grad(whole_loss(train)(theta), theta)[0]
    expected = torch.cosine_similarity(g_t, g_vv, dim=0).item()
    assert gradient_congruence(train, validation, radius=0.3).value == pytest.approx(expected, rel=1e-12)


def test_the_same_data_without_a_radius_agree_completely():
    train, _ = two_objectives()
    assert gradient_congruence(train, train, radius=0.0).value == pytest.approx(1.0, abs=1e-14)


def test_a_zero_gradient_gives_nan_with_a_status():
    net = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    flat = Objective(net, nn.MSELoss(), [(torch.ones(3, 2).double(), torch.zeros(3, 1).double())])
    steep = Objective(net, nn.MSELoss(), [(torch.ones(3, 2).double(), torch.ones(3, 1).double())])
    for pair, which in (((flat, steep), "training"), ((steep, flat), "validation")):
        found = gradient_congruence(*pair)
        assert math.isnan(found.value)
        assert math.isnan(found.standard_error)
        assert found.status == f"the {which} gradient is zero"


def test_the_standard_error_matches_the_spread_over_fresh_data():
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(6, 1, bias=False).double()
    nn.init.constant_(net.weight, 0.3)
    teacher = torch.randn(6, 1, generator=generator, dtype=torch.float64)

    def draw():
        inputs = torch.randn(120, 6, generator=generator, dtype=torch.float64)
        targets = inputs @ teacher + 3 * torch.randn(120, 1, generator=generator, dtype=torch.float64)
        return Objective(net, nn.MSELoss(), in_batches(inputs, targets, [8] * 15))

    found = [gradient_congruence(draw(), draw(), radius=0.0) for _ in range(40)]
    spread = np.std([f.value for f in found], ddof=1)
    stated = np.sqrt(np.mean([f.standard_error**2 for f in found]))
    assert 0.5 < stated / spread < 2.0


def test_one_batch_shows_no_spread():
    net, inputs, targets = build("tied")
    one = Objective(net, nn.CrossEntropyLoss(), [(inputs, targets)])
    assert math.isnan(gradient_congruence(one, one).standard_error)


def test_two_different_models_are_refused():
    with pytest.raises(ValueError, match="different parameters"):
        gradient_congruence(objective_of("tied"), objective_of("unused"))


@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_bad_radius_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be finite and not negative"):
        gradient_congruence(objective_of("tied"), objective_of("tied"), radius=radius)


def line(epoch, **values):
    names = ("cosine_b", "cosine_a", "change")
    row = {"epoch": epoch, "learning_rate": 0.1, "num_probes": 2}
    row |= dict.fromkeys(names, 0.5) | {f"{n}_standard_error": 0.1 for n in names}
    return json.dumps(row | values)


def test_a_trace_is_read_from_metrics_with_null_as_nan():
    trace = congruence_trace([line(1), line(2, num_probes=0, cosine_b=None), line(3, cosine_b=0.25)])
    assert trace.epoch.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(trace.cosine_b, [0.5, np.nan, 0.25])
    assert trace.num_probes.tolist() == [2, 0, 2]


def test_metrics_of_something_else_are_refused():
    with pytest.raises(ValueError, match=r"the metrics have no .*cosine_a.*not a run of landscape train"):
        congruence_trace(['{"epoch": 1, "loss": 2.0}'])
    with pytest.raises(ValueError, match="no epoch yet"):
        congruence_trace([])
    with pytest.raises(ValueError, match="no epoch of this run was probed"):
        congruence_trace([line(1, num_probes=0), line(2, num_probes=None)])
