import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from train.precision import survival, surviving_perturbation


def loss_of(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def gaussian(num, *, std, radius, seed=0):
    stream = torch.Generator().manual_seed(seed)
    theta = torch.randn(num, generator=stream) * std
    direction = torch.randn(num, generator=stream)
    return [theta], [direction * (radius / direction.norm())]


def test_nothing_is_lost_in_the_dtype_of_the_weights():
    found = survival(*gaussian(1000, std=0.05, radius=0.1), torch.float32)
    assert (found.norm_ratio, found.cosine) == (1.0, pytest.approx(1.0, abs=1e-12))


def test_bfloat16_moves_a_weight_of_one_in_steps_of_a_128th():
    one = [torch.ones(1)]
    assert survival(one, [torch.tensor([1 / 128])], torch.bfloat16) == survival(
        one, [torch.tensor([0.5])], torch.float16
    )
    found = survival(one, [torch.tensor([1 / 512])], torch.bfloat16)
    assert found.norm_ratio == 0.0
    assert math.isnan(found.cosine)
    assert survival(one, [torch.tensor([3 / 512])], torch.bfloat16).norm_ratio == pytest.approx(4 / 3)
    assert math.isnan(survival(one, [torch.zeros(1)], torch.bfloat16).norm_ratio)


@pytest.mark.parametrize("seed", range(3))
def test_bf16_destroys_what_fp16_keeps_at_the_size_of_a_wide_network(seed):
    """Radius over sqrt(P) as for WRN-28-10 at 0.1: 1.7e-5 a weight, of typical size 0.02."""
    num = 1_000_000
    theta, perturbation = gaussian(num, std=0.02, radius=1.7e-5 * num**0.5, seed=seed)
    bf16, fp16 = (survival(theta, perturbation, dtype) for dtype in (torch.bfloat16, torch.float16))
    assert bf16.cosine < 0.7
    assert bf16.norm_ratio > 1.4
    assert fp16.cosine > 0.9
    assert 1.0 < fp16.norm_ratio < 1.1


def test_the_perturbation_of_a_model_is_that_of_sam_on_what_autocast_rounds_and_leaves_it_as_it_was(make_net, batch):
    model = make_net().float()
    model.unused = nn.Parameter(torch.ones(2, 2))
    data = batch[0].float(), batch[1]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = surviving_perturbation(model, loss_of, data, radius=0.1, dtype=torch.bfloat16)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())
    loss_of(model, data).backward()
    grads = {name: param.grad for name, param in model.named_parameters() if param.grad is not None}
    norm = torch.cat([g.flatten() for g in grads.values()]).norm()
    names = ["first.weight", "second.weight"]
    expected = survival([state[n] for n in names], [0.1 * grads[n] / norm for n in names], torch.bfloat16)
    assert found.cosine == pytest.approx(expected.cosine, rel=1e-2)
    assert found.norm_ratio == pytest.approx(expected.norm_ratio, rel=1e-2)
