"""Scaling, micro-batches, m, dropout, optimizers, memory: what all methods share."""

import copy
import gc
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from train.batches import MicroBatches
from train.methods import ASAM, SAM, AgnosticSAM, Descent, SubsetSAM


def loss_of(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


CONSTRUCTORS = {
    "descent": lambda model, optimizer, **options: Descent(model, optimizer),
    "sam": lambda model, optimizer, **options: SAM(model, optimizer, rho=0.1, **options),
    "asam": lambda model, optimizer, **options: ASAM(model, optimizer, rho=0.5, **options),
    "subset": lambda model, optimizer, **options: SubsetSAM(model, optimizer, rho=0.1, **options),
    "full": lambda model, optimizer, **options: AgnosticSAM(model, optimizer, **options),
    "simple": lambda model, optimizer, **options: AgnosticSAM(model, optimizer, variant="simple", **options),
}
ALL = list(CONSTRUCTORS)
PERTURBED = ALL[1:]


def sgd(model, **changes):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01, **changes})


def tensors(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(a, b):
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def assert_close(a, b, tolerance=1e-12):
    for name in a:
        scale = max(1.0, float(b[name].double().abs().max()))
        assert float((a[name].double() - b[name].double()).abs().max()) <= tolerance * scale, name


def run(model, name, batches, optimizer=None, *, each=None, **options):
    method = CONSTRUCTORS[name](model, optimizer or sgd(model), **options)
    for batch in batches:
        method.step(loss_of, batch, **(each or {}))
    return method


def single(make_net, **options):
    return make_net(**options).float()


@pytest.fixture
def data(batch):
    return batch[0].float(), batch[1]


# Scaled losses


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_a_scale_that_is_a_power_of_two_changes_no_bit(make_net, data, name, max_grad_norm):
    plain, scaled = single(make_net), single(make_net)
    run(plain, name, [data] * 3, each={"max_grad_norm": max_grad_norm})
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    run(scaled, name, [data] * 3, each={"max_grad_norm": max_grad_norm, "scaler": scaler})
    if max_grad_norm is None:
        assert_same_bits(tensors(scaled), tensors(plain))
    assert_close(tensors(scaled), tensors(plain), 1e-6)
    assert scaler.get_scale() == 2.0**11  # it grew after two good steps


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_pass_that_is_not_finite_skips_the_step_and_the_scale_backs_off(make_net, data, name, fused, kind):
    num_passes = {"descent": 1, "full": 4, "simple": 3}.get(name, 2)
    for bad in range(1, num_passes + 1):
        model = single(make_net)
        optimizer = sgd(model, fused=fused)
        method = CONSTRUCTORS[name](model, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        method.step(loss_of, data, scaler=scaler)
        before, momenta = tensors(model), copy.deepcopy(optimizer.state_dict()["state"])
        calls = []

        def loss(model, batch, bad=bad, calls=calls):
            calls.append(1)
            return loss_of(model, batch) * (float(kind) if len(calls) == bad else 1.0)

        method.step(loss, data, scaler=scaler, max_grad_norm=1.0)
        assert len(calls) == num_passes
        assert_same_bits(before, tensors(model))
        assert method.num_skipped == 1
        assert scaler.get_scale() == 512.0
        after = optimizer.state_dict()["state"]
        assert all(torch.equal(after[key]["momentum_buffer"], momenta[key]["momentum_buffer"]) for key in momenta)
        method.step(loss_of, data, scaler=scaler)
        assert scaler.get_scale() == 512.0
        assert any(not torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_an_ascent_that_overflows_skips_even_if_the_last_gradient_is_finite():
    model = nn.Linear(1, 1, bias=False)
    calls = []

    def loss(model, batch):
        calls.append(1)
        value = model(batch).square().mean()
        return value * 1e30 * 1e30 if len(calls) == 1 else 0 * value + 1.0

    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    method = SAM(model, torch.optim.SGD(model.parameters(), lr=0.1))
    method.step(loss, torch.ones(2, 1), scaler=scaler)
    assert (method.num_skipped, scaler.get_scale()) == (1, 2.0)


def test_a_scaler_that_is_switched_off_is_none(make_net, data):
    plain, off = single(make_net), single(make_net)
    run(plain, "sam", [data] * 2)
    run(off, "sam", [data] * 2, each={"scaler": torch.amp.GradScaler("cpu", enabled=False)})
    assert_same_bits(tensors(plain), tensors(off))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_inside_autocast_is_the_step_with_autocast_in_the_loss(make_net, data, name, dtype):
    """Autocast keeps its casts of the weights for as long as it lasts: a perturbation must drop them."""

    def inner(model, batch):
        with torch.autocast("cpu", dtype=dtype):
            return loss_of(model, batch)

    inside, outside = single(make_net), single(make_net)
    for _ in range(2):
        CONSTRUCTORS[name](inside, sgd(inside)).step(inner, data)
        with torch.autocast("cpu", dtype=dtype):
            CONSTRUCTORS[name](outside, sgd(outside)).step(loss_of, data)
    assert_same_bits(tensors(inside), tensors(outside))
    plain = single(make_net)
    run(plain, name, [data] * 2)
    assert_close(tensors(inside), tensors(plain), 0.2)


# Micro-batches and m


def pieces_of(batch, *sizes):
    return list(zip(*(tensor.split(sizes) for tensor in batch), strict=True))


@pytest.mark.parametrize("name", ["descent", "sam", "asam"])
def test_exact_accumulation_is_the_whole_batch(make_net, batch, name):
    whole, pieces = make_net(batch_norm=False), make_net(batch_norm=False)
    values = run(whole, name, [batch] * 2).step(loss_of, batch)
    method = run(pieces, name, [MicroBatches(pieces_of(batch, 9, 4, 7))] * 2)
    assert method.step(loss_of, MicroBatches(pieces_of(batch, 9, 4, 7))).item() == pytest.approx(
        values.item(), rel=1e-12
    )
    assert_close(tensors(pieces), tensors(whole))


@pytest.mark.parametrize("name", ["subset", "full", "simple"])
def test_exact_accumulation_splits_each_piece(make_net, batch, name):
    whole, parts = make_net(batch_norm=False), make_net(batch_norm=False)
    pieces = pieces_of(batch, 10, 10)
    sorted_batch = tuple(torch.cat([a[:7], b[:7], a[7:], b[7:]]) for a, b in zip(*pieces, strict=True))
    run(whole, name, [sorted_batch] * 2)
    run(parts, name, [MicroBatches(pieces)] * 2)
    assert_close(tensors(parts), tensors(whole))


def second_gradients(make_net, name, model, pieces):
    """The step's gradient by definition: for each piece alone, with a fresh method, weighted by what is trained on."""
    grads, sizes = [], []
    for piece in pieces:
        alone = make_net(batch_norm=False)
        alone.load_state_dict(model.state_dict())
        run(alone, name, [piece], torch.optim.SGD(alone.parameters(), lr=1.0))
        grads.append([a - b for a, b in zip(model.parameters(), alone.parameters(), strict=True)])
        sizes.append(len(piece[0]) if name in ("sam", "asam") else math.floor(0.7 * len(piece[0]) + 0.5))
    return [sum(n * g for n, g in zip(sizes, each, strict=True)) / sum(sizes) for each in zip(*grads, strict=True)]


@pytest.mark.parametrize("name", PERTURBED)
@pytest.mark.parametrize("by", ["m", "micro-batches"])
def test_m_sharpness_is_its_definition(make_net, batch, name, by):
    model, start = make_net(batch_norm=False), make_net(batch_norm=False)
    pieces = pieces_of(batch, 8, 8, 4)
    expected = second_gradients(make_net, name, start, pieces)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    if by == "m":
        run(model, name, [batch], optimizer, m=8)
    else:
        run(model, name, [MicroBatches(pieces, "per-micro-batch")], optimizer)
    for before, after, gradient in zip(start.parameters(), model.parameters(), expected, strict=True):
        assert torch.allclose(before - after, gradient, rtol=0, atol=1e-12)
    whole = make_net(batch_norm=False)
    run(whole, name, [batch], torch.optim.SGD(whole.parameters(), lr=1.0))
    assert float((whole.first.weight - model.first.weight).detach().abs().max()) > 1e-6


@pytest.mark.parametrize("name", PERTURBED)
def test_m_of_the_whole_batch_and_one_micro_batch_are_the_plain_step_bit_for_bit(make_net, batch, name):
    models = [make_net() for _ in range(4)]
    run(models[0], name, [batch] * 2)
    run(models[1], name, [batch] * 2, m=20)
    run(models[2], name, [MicroBatches([batch])] * 2)
    run(models[3], name, [MicroBatches([batch], "per-micro-batch")] * 2)
    for model in models[1:]:
        assert_same_bits(tensors(model), tensors(models[0]))


@pytest.mark.parametrize("accumulation", ["exact", "per-micro-batch"])
@pytest.mark.parametrize("name", ALL)
def test_running_statistics_move_once_for_each_piece_and_a_bad_piece_skips_the_step(
    make_net, batch, name, accumulation
):
    model = make_net()
    pieces = MicroBatches(pieces_of(batch, 10, 10), accumulation)
    method = run(model, name, [pieces])
    assert int(model.norm.num_batches_tracked) == 2
    before, calls = tensors(model), []

    def loss(model, batch):
        calls.append(1)
        return loss_of(model, batch) * (math.nan if len(calls) == 2 else 1.0)

    method.step(loss, pieces)
    assert_same_bits(tensors(model), before)
    assert method.num_skipped == 1


def test_scaling_and_accumulation_go_together(make_net, data):
    plain, scaled = single(make_net), single(make_net)
    batch = MicroBatches(pieces_of(data, 12, 8), "per-micro-batch")
    run(plain, "full", [batch] * 2)
    run(scaled, "full", [batch] * 2, each={"scaler": torch.amp.GradScaler("cpu", init_scale=64.0)})
    assert_same_bits(tensors(scaled), tensors(plain))


# Dropout


class DropoutNet(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.masks = []

    def forward(self, inputs):
        mask = functional.dropout(torch.ones_like(inputs))
        self.masks.append(mask)
        return self.net(inputs * mask)


@pytest.mark.parametrize("name", PERTURBED)
def test_with_same_rng_all_passes_draw_the_same_masks_and_the_generator_ends_after_one_pass(make_net, batch, name):
    model = DropoutNet(make_net())
    with torch.random.fork_rng():
        torch.manual_seed(1)
        run(model, name, [batch], same_rng=True)
        ended = torch.get_rng_state()
        shapes = {len(mask) for mask in model.masks}
        for size in shapes:
            masks = [mask for mask in model.masks if len(mask) == size]
            assert len(masks) == (1 if (name, size) == ("simple", 6) else 2)
            assert all(torch.equal(mask, masks[0]) for mask in masks)
        torch.manual_seed(1)
        functional.dropout(torch.ones(14 if name in ("subset", "full", "simple") else 20, 5, dtype=torch.float64))
        assert torch.equal(torch.get_rng_state(), ended)
        model.masks.clear()
        run(model, name, [batch])
        assert not torch.equal(model.masks[0], model.masks[-1])


def test_rho_zero_is_the_base_optimizer_with_dropout_too(make_net, batch):
    plain, sam = DropoutNet(make_net()), DropoutNet(make_net())
    with torch.random.fork_rng():
        torch.manual_seed(1)
        run(plain, "descent", [batch] * 3)
        torch.manual_seed(1)
        method = SAM(sam, sgd(sam), rho=0.0, same_rng=True)
        for _ in range(3):
            method.step(loss_of, batch)
    assert_same_bits(tensors(sam), tensors(plain))


def test_same_rng_draws_anew_for_each_piece_but_not_for_each_pass(make_net, batch):
    pieces = pieces_of(batch, 10, 10)
    for accumulation, order in (("exact", [0, 1, 0, 1]), ("per-micro-batch", [0, 0, 1, 1])):
        model = DropoutNet(make_net())
        run(model, "sam", [MicroBatches(pieces, accumulation)], same_rng=True)
        same = [[torch.equal(a, b) for b in model.masks] for a in model.masks]
        assert same == [[i == j for j in order] for i in order]


# Optimizers


OPTIMIZERS = {
    "sgd fused": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True),
    "sgd foreach": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "adamw fused": lambda params: torch.optim.AdamW(params, lr=0.01, fused=True),
    "adamw foreach": lambda params: torch.optim.AdamW(params, lr=0.01, foreach=True),
    "adam loop": lambda params: torch.optim.Adam(params, lr=0.01, foreach=False),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_gets_the_gradient_and_skips_as_if_nothing_had_been(make_net, data, name, kind):
    def nan(model, batch):
        return loss_of(model, batch) * math.nan

    model, untouched = single(make_net), single(make_net)
    methods = [CONSTRUCTORS[name](net, OPTIMIZERS[kind](net.parameters())) for net in (model, untouched)]
    methods[0].step(nan, data)  # at the very first step, when there is no momentum yet
    assert_same_bits(tensors(model), tensors(untouched))
    for _ in range(2):
        for method in methods:
            method.step(loss_of, data)
        methods[0].step(nan, data, max_grad_norm=1.0)
    assert (methods[0].num_skipped, methods[1].num_skipped) == (3, 0)
    assert_same_bits(tensors(model), tensors(untouched))
    states = [method.state_dict()["optimizer"]["state"] for method in methods]
    for index, state in states[0].items():
        for key, value in state.items():
            assert value is states[1][index][key] is None or torch.equal(value, states[1][index][key]), key


def test_a_fused_step_is_the_fused_optimizers_own(make_net, data):
    model, expected = single(make_net), single(make_net)
    run(model, "descent", [data] * 3, OPTIMIZERS["sgd fused"](model.parameters()))
    optimizer = OPTIMIZERS["sgd fused"](expected.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(expected, data).backward()
        optimizer.step()
    assert_same_bits(tensors(model), tensors(expected))
    assert not hasattr(optimizer, "found_inf")


def test_a_fused_first_step_with_dampening_is_the_optimizers_own(make_net, data):
    models = [single(make_net) for _ in range(2)]
    for model, fused in zip(models, (True, False), strict=True):
        run(model, "sam", [data] * 3, sgd(model, dampening=0.5, fused=fused))
    assert_close(tensors(models[0]), tensors(models[1]), 1e-6)


class SyncCounter(torch.overrides.TorchFunctionMode):
    """Counts what would wait for a device: bool, item and float of a tensor."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        waits = (torch.Tensor.__bool__, torch.Tensor.item, torch.Tensor.__float__, torch.Tensor.__int__)
        self.count += function in waits
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALL)
def test_a_step_waits_once_and_never_with_a_fused_optimizer(make_net, data, name):
    for kind, expected in (("sgd foreach", 1), ("sgd fused", 0), ("adamw fused", 0)):
        model = single(make_net)
        method = CONSTRUCTORS[name](model, OPTIMIZERS[kind](model.parameters()))
        method.step(loss_of, data)
        with SyncCounter() as counter:
            method.step(loss_of, data, max_grad_norm=1.0)
        assert counter.count == expected
        scaler = torch.amp.GradScaler("cpu")
        method.step(loss_of, data, scaler=scaler)
        with SyncCounter() as counter:
            method.step(loss_of, data, max_grad_norm=1.0, scaler=scaler)
        assert counter.count <= 2 * expected


@pytest.mark.parametrize("name", ALL)
def test_parameter_groups_and_schedulers_are_those_of_the_base_optimizer(make_net, batch, name):
    def grouped(model):
        groups = [{"params": model.first.parameters(), "lr": 0.3}, {"params": [*model.norm.parameters()]}]
        return torch.optim.SGD([*groups, {"params": model.second.parameters(), "weight_decay": 0.1}], lr=0.05)

    model, one = make_net(), make_net()
    optimizer = grouped(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    method = CONSTRUCTORS[name](model, optimizer)
    start = tensors(model)
    method.step(loss_of, batch)
    scheduler.step()
    run(one, name, [batch], torch.optim.SGD(one.parameters(), lr=1.0))
    for key in start:  # one perturbation over all groups: the gradient is the same, each group has its rate
        if "running" in key or "num" in key:
            continue
        gradient = start[key] - one.state_dict()[key]
        rate, decay = (0.3, 0.0) if "first" in key else (0.05, 0.1 if "second" in key else 0.0)
        expected = start[key] - rate * (gradient + decay * start[key])
        assert torch.allclose(model.state_dict()[key], expected, rtol=0, atol=1e-12), key
    assert [group["lr"] for group in optimizer.param_groups] == [0.15, 0.025, 0.025]


@pytest.mark.parametrize("name", ALL)
def test_a_layer_frozen_in_the_middle_of_training_stays_where_it_is(make_net, batch, name):
    """Its last gradient is still there, and the optimizer would apply it again and again."""
    model = make_net()
    method = CONSTRUCTORS[name](model, torch.optim.SGD(model.parameters(), lr=0.1))
    method.step(loss_of, batch)
    model.first.requires_grad_(False)
    before = tensors(model)
    method.step(loss_of, batch)
    assert torch.equal(model.first.weight, before["first.weight"])
    assert not torch.equal(model.second.weight, before["second.weight"])


def test_parameters_of_two_dtypes_share_one_perturbation(make_net, batch):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = make_net().first.float()
            self.second = make_net().second

        def forward(self, inputs):
            return self.second(torch.tanh(self.first(inputs.float())).double())

    model, visited = Mixed(), []

    def loss(model, batch):
        visited.append(torch.cat([param.detach().double().flatten() for param in model.parameters()]))
        return loss_of(model, batch)

    SAM(model, sgd(model), rho=0.1).step(loss, batch)
    assert (visited[1] - visited[0]).norm().item() == pytest.approx(0.1, rel=1e-5)


# Memory


def extra_buffers(model, optimizer):
    """Bytes of the tensors shaped as a large parameter, in units of all of them; theirs and momentum aside."""
    mine = [*model.parameters(), *model.buffers()]
    mine += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    known = {tensor.untyped_storage().data_ptr() for tensor in mine}
    large = {param.shape for param in model.parameters() if param.numel() > 1000}
    found = {}
    for item in gc.get_objects():
        if type(item) in (torch.Tensor, nn.Parameter) and item.shape in large:
            found[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    total = sum(param.untyped_storage().nbytes() for param in model.parameters() if param.numel() > 1000)
    return sum(size for pointer, size in found.items() if pointer not in known) / total


@pytest.mark.parametrize(
    ("name", "allowed"), [("descent", 1), ("sam", 1), ("asam", 1), ("subset", 1), ("full", 2), ("simple", 2)]
)
def test_extra_memory_is_theta_and_for_agnostic_sam_one_gradient(name, allowed):
    """Counted before each pass; a pass makes one gradient, as in plain training."""
    gc.collect()
    model = nn.Sequential(nn.Linear(41, 67), nn.Tanh(), nn.Linear(67, 43))
    data = torch.randn(8, 41), torch.randint(0, 43, (8,))
    optimizer = sgd(model)
    seen = []

    def loss(model, batch):
        seen.append(extra_buffers(model, optimizer))
        return loss_of(model, batch)

    method = CONSTRUCTORS[name](model, optimizer)
    optimizer.register_step_pre_hook(lambda *_: seen.append(extra_buffers(model, optimizer) - 1))  # less the gradient
    for _ in range(2):
        method.step(loss, data)
    assert max(seen) <= allowed
    assert min(seen) >= 1


# Resuming


@pytest.mark.parametrize("kind", ["sgd fused", "adamw foreach"])
@pytest.mark.parametrize("name", ALL)
def test_a_resumed_method_goes_on_bit_for_bit_with_scaler_and_dropout(make_net, data, name, kind):
    def build(seed):
        model = DropoutNet(single(make_net, seed=seed))
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
        return model, CONSTRUCTORS[name](model, OPTIMIZERS[kind](model.parameters()), same_rng=True), scaler

    def steps(model, method, scaler, count):
        for _ in range(count):
            method.step(loss_of, data, scaler=scaler)

    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = build(0)
        steps(*whole, 5)
        torch.manual_seed(1)
        half = build(0)
        steps(*half, 3)
        saved = copy.deepcopy([part.state_dict() for part in half])
        state = torch.get_rng_state()
        torch.manual_seed(9)
        resumed = build(7)
        for part, value in zip(resumed, saved, strict=True):
            part.load_state_dict(value)
        torch.set_rng_state(state)
        steps(*resumed, 2)
    assert_same_bits(tensors(resumed[0]), tensors(whole[0]))
    assert resumed[2].get_scale() == whole[2].get_scale() == 64.0
