"""The reference is written out here with torch.func, on dictionaries of tensors, without any of the package's code."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional

from train.methods import ASAM, SAM, AgnosticSAM, Descent, SubsetSAM, frozen_statistics

SGD = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}
RHO1, RHO2, NUM_FIRST = 0.2, 0.1, 14  # 14 = 0.7 of 20


def loss_of(model, batch):
    inputs, targets = batch
    return functional.cross_entropy(model(inputs), targets)


def sgd(model, **changes):
    return torch.optim.SGD(model.parameters(), **{**SGD, **changes})


def make_methods(model, optimizer, radius=0.1):
    return {
        "descent": lambda: Descent(model, optimizer),
        "sam": lambda: SAM(model, optimizer, rho=radius),
        "asam": lambda: ASAM(model, optimizer, rho=radius),
        "subset": lambda: SubsetSAM(model, optimizer, rho=radius),
        "full": lambda: AgnosticSAM(model, optimizer, rho1=2 * radius, rho2=radius),
        "simple": lambda: AgnosticSAM(model, optimizer, rho1=2 * radius, rho2=radius, variant="simple"),
    }


METHODS = ["descent", "sam", "asam", "subset", "full", "simple"]


def build(name, model, optimizer=None, radius=0.1):
    return make_methods(model, optimizer or sgd(model), radius)[name]()


def first(batch):
    return tuple(tensor[:NUM_FIRST] for tensor in batch)


def second(batch):
    return tuple(tensor[NUM_FIRST:] for tensor in batch)


def tensors(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a), [name for name in a if not torch.equal(a[name], b[name])]


def assert_close(a, b, tolerance=1e-12):
    for name in a:
        scale = max(1.0, float(b[name].double().abs().max()))
        assert float((a[name].double() - b[name].double()).abs().max()) <= tolerance * scale, name


def plain_steps(model, batches, optimizer=None):
    optimizer = optimizer or sgd(model)
    for batch in batches:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    return model


def unit(gradient):
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
    return {name: g / norm for name, g in gradient.items()}


def moved(theta, *terms):
    return {name: value + sum(radius * d[name] for radius, d in terms) for name, value in theta.items()}


def reference_steps(model, batches, gradient_at):
    """Heavy ball with weight decay, by hand: v = 0.9 v + (g + 0.01 theta); theta = theta - 0.3 v."""
    theta = {name: param.detach().clone() for name, param in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # train mode: do not enter the loss
    velocity = {name: torch.zeros_like(value) for name, value in theta.items()}

    def g(at, batch):
        return grad(
            lambda p: functional.cross_entropy(functional_call(model, (p, copy.deepcopy(buffers)), batch[0]), batch[1])
        )(at)

    for batch in batches:
        gradient = gradient_at(g, theta, batch)
        velocity = {name: 0.9 * velocity[name] + gradient[name] + 0.01 * theta[name] for name in theta}
        theta = {name: theta[name] - 0.3 * velocity[name] for name in theta}
    return theta


def sam_gradient(g, theta, batch):
    return g(moved(theta, (RHO1, unit(g(theta, batch)))), batch)


def asam_gradient(g, theta, batch):
    t = {n: value.abs() + 0.01 if "weight" in n else torch.ones_like(value) for n, value in theta.items()}
    gradient = g(theta, batch)
    length = math.sqrt(sum(float(((t[name] * gradient[name]) ** 2).sum()) for name in theta))
    return g({name: theta[name] + RHO1 * t[name] ** 2 * gradient[name] / length for name in theta}, batch)


def descent_gradient(g, theta, batch):
    return g(theta, batch)


def subset_gradient(g, theta, batch):
    return sam_gradient(g, theta, first(batch))


def full_gradient(g, theta, batch):
    theta_v = moved(theta, (RHO2, unit(g(theta, second(batch)))))
    u_t, u_v = unit(g(theta, first(batch))), unit(g(theta_v, second(batch)))
    return g(moved(theta, (RHO1, u_t), (-RHO2, u_v)), first(batch))


def simple_gradient(g, theta, batch):
    u_t, u_v = unit(g(theta, first(batch))), unit(g(theta, second(batch)))
    return g(moved(theta, (RHO1, u_t), (-RHO2, u_v)), first(batch))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_steps_equal_the_written_out_algorithm(make_net, batch, name, num_steps, batch_norm):
    batches = [batch, tuple(tensor.flip(0) for tensor in batch)][:num_steps]
    model = make_net(batch_norm=batch_norm)
    gradient_at = globals()[f"{name}_gradient"]
    start = tensors(model)
    expected = reference_steps(make_net(batch_norm=batch_norm), batches, gradient_at)
    method = build(name, model, radius=RHO2 if name in ("full", "simple") else RHO1)
    for each in batches:
        method.step(loss_of, each)
    found = {key: param.detach() for key, param in model.named_parameters()}
    assert_close(found, expected)
    assert all(not torch.equal(found[key], start[key]) for key in found)


def test_full_and_simple_differ(make_net, batch):
    results = []
    for name in ("full", "simple", "sam"):
        model = make_net()
        build(name, model).step(loss_of, batch)
        results.append(model.first.weight.detach())
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


def test_rho_zero_is_the_base_optimizer_bit_for_bit(make_net, batch):
    expected, model = plain_steps(make_net(), [batch] * 3), make_net()
    method = SAM(model, sgd(model), rho=0.0)
    for _ in range(3):
        method.step(loss_of, batch)
    assert_same_bits(tensors(model), tensors(expected))


def official_asam_step(model, optimizer, batch, rho, eta):
    """As the authors' repository has it: ascent_step, then descent_step."""
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    start = {name: param.detach().clone() for name, param in model.named_parameters()}
    with torch.no_grad():
        norms = []
        for name, param in model.named_parameters():
            if "weight" in name:
                param.grad.mul_(param.abs().add_(eta))
            norms.append(torch.norm(param.grad, p=2))
        norm = torch.norm(torch.stack(norms), p=2) + 1e-16
        for name, param in model.named_parameters():
            if "weight" in name:
                param.grad.mul_(param.abs().add_(eta))
            param.add_(param.grad * (rho / norm))
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(start[name])
    optimizer.step()


@pytest.mark.parametrize(("rho", "eta"), [(0.5, 0.01), (2.0, 0.0), (0.1, 1.0)])
def test_asam_is_the_official_code(make_net, batch, rho, eta):
    model, expected = make_net(batch_norm=False), make_net(batch_norm=False)
    method, optimizer = ASAM(model, sgd(model), rho=rho, eta=eta), sgd(expected)
    for _ in range(3):
        method.step(loss_of, batch)
        official_asam_step(expected, optimizer, batch, rho, eta)
    assert_close(tensors(model), tensors(expected))


class Unscaled(nn.Module):
    """A model none of whose parameters is named weight."""

    def __init__(self, net):
        super().__init__()
        self.matrix = nn.Parameter(net.first.weight.detach().clone())
        self.offset = nn.Parameter(net.first.bias.detach().clone())

    def forward(self, inputs):
        return torch.tanh(inputs @ self.matrix.T + self.offset)


def test_asam_with_unit_scaling_is_sam(make_net, batch):
    models = [Unscaled(make_net()) for _ in range(2)]
    asam, sam = ASAM(models[0], sgd(models[0]), rho=0.2), SAM(models[1], sgd(models[1]), rho=0.2)
    for _ in range(3):
        asam.step(loss_of, batch)
        sam.step(loss_of, batch)
    assert asam.scaled_names == []
    assert_same_bits(tensors(models[0]), tensors(models[1]))


def test_asam_with_weights_of_size_one_minus_eta_is_sam(make_net, batch):
    models = [make_net(batch_norm=False) for _ in range(2)]
    for model in models:
        with torch.no_grad():
            for name, param in model.named_parameters():
                if "weight" in name:
                    param.copy_(param.sign() * 0.75)
    ASAM(models[0], sgd(models[0]), rho=0.2, eta=0.25).step(loss_of, batch)
    SAM(models[1], sgd(models[1]), rho=0.2).step(loss_of, batch)
    assert_close(tensors(models[0]), tensors(models[1]))


def test_asam_scales_by_name_and_refuses_parameters_without_one(make_net, batch):
    model = make_net()
    method = ASAM(model, sgd(model))
    assert method.scaled_names == ["first.weight", "norm.weight", "second.weight"]
    with pytest.raises(
        ValueError, match=r"no name for 6 of the optimizer's parameters \(the first has shape \(7, 5\)\)"
    ):
        ASAM(make_net(), sgd(model))
    stranger = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    method = ASAM(model, optimizer := sgd(model))
    optimizer.add_param_group({"params": [stranger]})
    with pytest.raises(ValueError, match="no name for 1 of"):
        method.step(loss_of, batch)
    with pytest.raises(ValueError, match="eta must be finite and at least 0, got -1"):
        ASAM(model, sgd(model), eta=-1)


def test_descent_is_the_base_optimizer_bit_for_bit(make_net, batch):
    expected, model = plain_steps(make_net(), [batch] * 3), make_net()
    method = Descent(model, sgd(model))
    for _ in range(3):
        method.step(loss_of, batch)
    assert_same_bits(tensors(model), tensors(expected))


@pytest.mark.parametrize("variant", ["full", "simple"])
def test_agnostic_without_radii_is_the_base_optimizer_on_the_first_part(make_net, batch, variant):
    expected, model = plain_steps(make_net(), [first(batch)] * 3), make_net()
    method = AgnosticSAM(model, sgd(model), rho1=0.0, rho2=0.0, variant=variant)
    for _ in range(3):
        method.step(loss_of, batch)
    assert_same_bits(tensors(model), tensors(expected))


@pytest.mark.parametrize("variant", ["full", "simple"])
def test_agnostic_with_rho2_zero_is_sam_on_the_first_part_bit_for_bit(make_net, batch, variant):
    models = [make_net() for _ in range(3)]
    sam, subset = SAM(models[0], sgd(models[0]), rho=0.2), SubsetSAM(models[1], sgd(models[1]), rho=0.2)
    agnostic = AgnosticSAM(models[2], sgd(models[2]), rho1=0.2, rho2=0.0, variant=variant)
    for _ in range(3):
        values = sam.step(loss_of, first(batch)), subset.step(loss_of, batch), agnostic.step(loss_of, batch)
        assert values[0] == values[1] == values[2]
    assert_same_bits(tensors(models[0]), tensors(models[1]))
    assert_same_bits(tensors(models[0]), tensors(models[2]))


def test_simple_with_equal_parts_is_sam_with_the_difference_of_the_radii(make_net, batch):
    half = tuple(tensor[:10] for tensor in batch)
    doubled = tuple(torch.cat([tensor, tensor]) for tensor in half)
    models = [make_net(), make_net()]
    sam = SAM(models[0], sgd(models[0]), rho=0.3 - 0.1)
    simple = AgnosticSAM(models[1], sgd(models[1]), rho1=0.3, rho2=0.1, split_ratio=0.5, variant="simple")
    for _ in range(3):
        sam.step(loss_of, half)
        simple.step(loss_of, doubled)
    assert_close(tensors(models[1]), tensors(models[0]))


@pytest.mark.parametrize("name", METHODS)
def test_the_returned_loss_is_that_before_the_step(make_net, batch, name):
    model = make_net()
    trained = batch if name in ("descent", "sam", "asam") else first(batch)
    expected = loss_of(make_net(), trained)
    value = build(name, model).step(loss_of, batch)
    assert value == expected
    assert value.shape == ()
    assert not value.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_parameters_keep_their_storage(make_net, batch, name):
    model = make_net()
    before = [param.data_ptr() for param in model.parameters()]
    method = build(name, model)
    for _ in range(3):
        method.step(loss_of, batch)
    assert [param.data_ptr() for param in model.parameters()] == before


@pytest.mark.parametrize("name", METHODS)
def test_running_statistics_move_once_per_step_by_the_unperturbed_pass(make_net, batch, name):
    model, expected = make_net(), make_net()
    expected(batch[0] if name in ("descent", "sam", "asam") else first(batch)[0])
    method = build(name, model)
    method.step(loss_of, batch)
    assert int(model.norm.num_batches_tracked) == 1
    assert torch.equal(model.norm.running_mean, expected.norm.running_mean)
    assert torch.equal(model.norm.running_var, expected.norm.running_var)
    method.step(loss_of, batch)
    assert int(model.norm.num_batches_tracked) == 2


def test_frozen_statistics_normalizes_by_the_batch_and_puts_everything_back_even_when_nested(make_net, batch):
    model, expected = make_net(), make_net()(batch[0])
    before = tensors(model)

    def fail():
        with frozen_statistics(model):
            with frozen_statistics(model):
                assert torch.equal(model(batch[0]), expected)
            assert not model.norm.track_running_stats
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert model.norm.track_running_stats
    assert model.norm.momentum == 0.1
    assert_same_bits(tensors(model), before)


class Failing:
    """A loss that turns bad at its n-th call."""

    def __init__(self, call, failure):
        self.call, self.failure, self.count = call, failure, 0

    def __call__(self, model, batch):
        self.count += 1
        value = loss_of(model, batch)
        if self.count != self.call:
            return value
        if self.failure == "error":
            raise RuntimeError("out of luck")
        return value * float(self.failure)


PASSES = [
    ("descent", 1),
    ("sam", 1),
    ("sam", 2),
    ("asam", 2),
    ("full", 1),
    ("full", 2),
    ("full", 3),
    ("full", 4),
    ("simple", 3),
]


@pytest.mark.parametrize(("name", "call"), PASSES)
@pytest.mark.parametrize("failure", ["nan", "inf", "error"])
def test_a_step_that_cannot_be_taken_leaves_all_as_it_was(make_net, batch, name, call, failure):
    model = make_net()
    method = build(name, model)
    method.step(loss_of, batch)  # so that there is momentum to spoil
    before, state = tensors(model), copy.deepcopy(method.state_dict())
    loss = Failing(call, failure)
    if failure == "error":
        with pytest.raises(RuntimeError, match="out of luck"):
            method.step(loss, batch)
    else:
        method.step(loss, batch)
    assert loss.count >= call
    assert_same_bits(tensors(model), before)
    assert model.norm.track_running_stats
    assert method.num_skipped == (0 if failure == "error" else 1)
    momenta = [entry["momentum_buffer"] for entry in method.state_dict()["optimizer"]["state"].values()]
    kept = [entry["momentum_buffer"] for entry in state["optimizer"]["state"].values()]
    assert len(momenta) == 6
    assert all(torch.equal(a, b) for a, b in zip(momenta, kept, strict=True))
    untouched = make_net()
    twin = build(name, untouched)
    for each in (method, twin):
        each.step(loss_of, batch)
    twin.step(loss_of, batch)
    assert_same_bits(tensors(model), tensors(untouched))  # as if the bad step had never been


@pytest.mark.parametrize("name", METHODS)
def test_state_dict_resumes_exactly_and_keeps_the_count(make_net, batch, name):
    straight, resumed = make_net(), make_net()
    method, start = build(name, straight), build(name, resumed)
    for each in (method, start):
        each.step(loss_of, batch)
        each.step(Failing(1, "nan"), batch)
        each.step(loss_of, batch)
    again = make_net(seed=5)
    again.load_state_dict(resumed.state_dict())
    other = build(name, again)
    other.load_state_dict(copy.deepcopy(start.state_dict()))
    assert other.num_skipped == 1
    for each in (method, other):
        each.step(loss_of, batch)
    assert_same_bits(tensors(again), tensors(straight))


@pytest.mark.parametrize("name", METHODS)
def test_any_optimizer_and_its_scheduler_can_be_the_base(make_net, batch, name):
    model, expected = make_net(), make_net()
    zero_radius = build(name, model, torch.optim.AdamW(model.parameters(), lr=0.01), radius=0.0)
    base = torch.optim.AdamW(expected.parameters(), lr=0.01)
    trained = batch if name in ("descent", "sam", "asam") else first(batch)
    for _ in range(3):
        zero_radius.step(loss_of, batch)
    plain_steps(expected, [trained] * 3, base)
    assert_same_bits(tensors(model), tensors(expected))
    assert zero_radius.state_dict()["optimizer"]["state"][0]["step"] == 3


@pytest.mark.parametrize("name", METHODS)
def test_frozen_and_unused_parameters_are_left_alone(make_net, batch, name):
    model = make_net()
    model.second.bias.requires_grad_(False)
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    before = tensors(model)
    method = build(name, model)
    method.step(loss_of, batch)
    assert torch.equal(model.second.bias, before["second.bias"])
    assert torch.equal(model.unused, before["unused"])
    assert not torch.equal(model.second.weight, before["second.weight"])
    model.second.bias.requires_grad_(True)  # unfrozen in the middle of training
    method.step(loss_of, batch)
    assert not torch.equal(model.second.bias, before["second.bias"])


@pytest.mark.parametrize("name", METHODS)
def test_batches_may_be_dictionaries_and_lists(make_net, batch, name):
    results = []
    for kind in ("tuple", "list", "dict"):
        model = make_net()
        given = {"tuple": batch, "list": list(batch), "dict": {"x": batch[0], "y": batch[1]}}[kind]

        def loss(model, batch):
            return loss_of(model, (batch["x"], batch["y"]) if isinstance(batch, dict) else batch)

        build(name, model).step(loss, given)
        results.append(tensors(model))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@pytest.mark.parametrize("name", METHODS)
def test_clipping_concerns_the_last_gradient_only(make_net, batch, name):
    def change(max_grad_norm):
        model = make_net(batch_norm=False)
        start = torch.cat([param.detach().flatten().clone() for param in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        build(name, model, optimizer).step(loss_of, batch, max_grad_norm=max_grad_norm)
        return torch.cat([param.detach().flatten() for param in model.parameters()]) - start

    free, clipped = change(None), change(0.01)
    assert free.norm() > 0.02
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)  # torch's clipping adds 1e-6 to the norm
    assert torch.dot(free, clipped).item() == pytest.approx((free.norm() * clipped.norm()).item(), rel=1e-9)
    assert torch.equal(change(1e6), free)


@pytest.mark.parametrize("name", ["sam", "asam", "full", "simple"])
def test_a_zero_gradient_does_not_move_the_parameters(make_net, batch, name):
    model = make_net()
    before = tensors(model)
    method = build(name, model, torch.optim.SGD(model.parameters(), lr=1.0))
    method.step(lambda model, batch: 0.0 * loss_of(model, batch), batch)
    assert method.num_skipped == 0
    assert_same_bits(
        {key: param.detach() for key, param in model.named_parameters()},
        {key: before[key] for key, _ in model.named_parameters()},
    )


def test_the_global_generator_is_not_drawn_from(make_net, batch):
    model = make_net()
    before = torch.get_rng_state()
    build("full", model).step(loss_of, batch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_a_bad_radius_is_refused(make_net, bad):
    model = make_net()
    with pytest.raises(ValueError, match="rho must be finite and at least 0, got"):
        SAM(model, sgd(model), rho=bad)
    with pytest.raises(ValueError, match="rho1 must be finite"):
        AgnosticSAM(model, sgd(model), rho1=bad)
    with pytest.raises(ValueError, match="rho2 must be finite"):
        AgnosticSAM(model, sgd(model), rho2=bad)


def test_other_bad_arguments_are_refused(make_net, batch):
    model = make_net()
    for ratio in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="split_ratio must be above 0 and below 1"):
            AgnosticSAM(model, sgd(model), split_ratio=ratio)
        with pytest.raises(ValueError, match="split_ratio must be above 0 and below 1"):
            SubsetSAM(model, sgd(model), split_ratio=ratio)
    with pytest.raises(ValueError, match=r"variant must be one of \('full', 'simple'\), got 'quick'"):
        AgnosticSAM(model, sgd(model), variant="quick")
    with pytest.raises(ValueError, match="max_grad_norm must be above 0, got 0"):
        SAM(model, sgd(model)).step(loss_of, batch, max_grad_norm=0)
    with pytest.raises(ValueError, match="BatchNorm needs 2"):
        AgnosticSAM(model, sgd(model)).step(loss_of, tuple(tensor[:3] for tensor in batch))
    optimizer = sgd(model)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        SAM(model, optimizer).step(loss_of, batch)
