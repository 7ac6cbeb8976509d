import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional

from train.probe import congruence


def loss_of(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def flat(gradient):
    return torch.cat([value.flatten() for value in gradient.values()])


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("radius", [0.0, 0.05, 0.5])
def test_congruence_equals_the_written_out_formula_in_train_mode(make_net, batch, batch_norm, radius):
    model = make_net(batch_norm=batch_norm)
    theta = {name: param.detach().clone() for name, param in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def g(at, part):
        return grad(
            lambda p: functional.cross_entropy(functional_call(model, (p, copy.deepcopy(buffers)), part[0]), part[1])
        )(at)

    first, second = tuple(t[:14] for t in batch), tuple(t[14:] for t in batch)
    g_v = g(theta, second)
    norm = flat(g_v).norm()
    theta_v = {name: value + radius * g_v[name] / norm for name, value in theta.items()}
    a, b = flat(g(theta, first)), flat(g(theta_v, second))
    expected = float(a @ b / (a.norm() * b.norm()))
    found = congruence(model.eval(), loss_of, batch, radius=radius)
    assert found == pytest.approx(expected, rel=1e-12)
    assert -1 < found < 1


def test_the_probe_leaves_everything_as_it_was(make_net, batch):
    model = make_net()
    model.train()
    model.norm.eval()
    model.first.bias.requires_grad_(False)
    for index, param in enumerate(model.parameters()):
        param.grad = torch.full_like(param, index) if param.requires_grad else None
    state = copy.deepcopy(model.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    pointers, rng = [p.data_ptr() for p in model.parameters()], torch.get_rng_state()
    assert math.isfinite(congruence(model, loss_of, batch))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    for param, before in zip(model.parameters(), grads, strict=True):
        assert param.grad is before if before is None else torch.equal(param.grad, before)
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert torch.equal(torch.get_rng_state(), rng)
    assert (model.training, model.first.training, model.norm.training) == (True, True, False)
    assert model.norm.track_running_stats
    assert not model.first.bias.requires_grad


def test_parameters_are_put_back_when_the_loss_fails(make_net, batch):
    model, calls = make_net().eval(), []
    before = copy.deepcopy(model.state_dict())

    def loss(model, batch):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of luck")
        return loss_of(model, batch)

    with pytest.raises(RuntimeError, match="out of luck"):
        congruence(model, loss, batch)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training


def test_dropout_draws_by_seed_alone(make_net, batch):
    model = nn.Sequential(nn.Dropout(0.5), make_net())
    torch.manual_seed(1)
    first = congruence(model, loss_of, batch, seed=7)
    torch.manual_seed(2)
    assert congruence(model, loss_of, batch, seed=7) == first
    assert congruence(model, loss_of, batch, seed=8) != first


def test_a_zero_gradient_has_no_direction(make_net, batch):
    assert math.isnan(congruence(make_net(), lambda model, batch: 0 * loss_of(model, batch), batch))


def test_equal_parts_without_radius_agree_entirely(make_net, batch):
    doubled = tuple(torch.cat([tensor, tensor]) for tensor in batch)
    assert congruence(make_net(), loss_of, doubled, split_ratio=0.5, radius=0.0) == pytest.approx(1, abs=1e-12)


def test_a_batch_too_small_to_split_is_refused(make_net, batch):
    with pytest.raises(ValueError, match="cannot be split"):
        congruence(make_net(), loss_of, tuple(tensor[:3] for tensor in batch))
