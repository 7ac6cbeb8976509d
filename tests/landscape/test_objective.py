import copy
import random
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from problems import NETS, build, in_batches, objective_of, whole_loss
from torch import nn
from torch.nn.utils.prune import l1_unstructured
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from landscape.alignment import gradient_congruence
from landscape.directions import random_plane
from landscape.evaluator import Engine, prepare
from landscape.lanczos import top_eigenpairs
from landscape.objective import NotRepeatableError, Objective
from landscape.operators import gauss_newton, hessian
from landscape.surface import loss_surface


@pytest.mark.parametrize("name", NETS)
def test_the_loss_is_that_of_all_data_in_one_batch(name):
    objective = objective_of(name)
    objective.model.eval()
    expected = whole_loss(objective)(objective.theta).item()
    assert objective.evaluate().loss == pytest.approx(expected, rel=1e-13)
    assert objective.reference().loss == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_is_that_of_all_data_in_one_batch(name):
    objective = objective_of(name)
    objective.model.eval()
    theta = objective.theta.clone().requires_grad_()
    expected = torch.autograd.grad(whole_loss(objective)(theta), theta)[0]
    torch.testing.assert_close(objective.gradient(), expected, rtol=1e-11, atol=1e-14)


def test_the_standard_error_is_that_of_the_mean_over_examples():
    objective = objective_of("tied")
    net, inputs, targets = build("tied")
    losses = nn.functional.cross_entropy(net(inputs), targets, reduction="none")
    assert objective.evaluate().standard_error == pytest.approx(losses.std().item() / 21**0.5, rel=1e-10)
    assert objective.evaluate().accuracy == (net(inputs).argmax(1) == targets).double().mean().item()


def test_the_standard_error_covers_the_true_mean():
    torch.manual_seed(0)
    net = nn.Linear(3, 1, bias=False).double()
    truth = net.weight.detach().square().sum().item()  # E[(w'x)^2] for standard normal x
    errors = []
    for _ in range(200):
        inputs = torch.randn(50, 3, dtype=torch.float64)
        found = Objective(net, nn.MSELoss(), in_batches(inputs, torch.zeros(50, 1).double(), [30, 20])).evaluate()
        errors.append((found.loss - truth) / found.standard_error)
    assert 0.85 < np.std(errors) < 1.25


def test_sums_give_the_same_loss_and_gradient_without_a_standard_error():
    net, inputs, targets = build("batch_norm_net")

    def sums(model, batch):
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum"), len(batch["y"])

    batches = [{"x": x, "y": y} for x, y in in_batches(inputs, targets)]
    by_sums, by_loss = Objective.from_sums(net, sums, batches), objective_of("batch_norm_net")
    assert by_sums.evaluate().loss == pytest.approx(by_loss.evaluate().loss, rel=1e-14)
    assert np.isnan(by_sums.evaluate().standard_error)
    torch.testing.assert_close(by_sums.gradient(), by_loss.gradient())
    torch.testing.assert_close(hessian(by_sums).matvec(by_sums.theta), hessian(by_loss).matvec(by_sums.theta))


def test_sums_of_a_lower_precision_are_divided_by_their_whole_count():
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)

    def sums(model, batch):
        return model(batch).sum(), len(batch)

    objective = Objective.from_sums(net, sums, [torch.ones(1000, 1), torch.ones(259, 1)])  # 8 bits do not hold 259
    evaluator = prepare(objective, Engine(precision="bf16"))
    (row,) = evaluator.sums(objective.theta, objective.theta[None], [[0.0]]).tolist()
    assert row[1] == 1259

    def halves(model, batch):
        return sums(model, batch)[0].bfloat16(), torch.tensor(len(batch))

    gradient = Objective.from_sums(net, halves, [torch.ones(1000, 1), torch.ones(259, 1)]).gradient()
    assert gradient.tolist() == [1.0]


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda o, t: nn.functional.cross_entropy(o["logits"], t)])
def test_a_model_that_returns_no_tensor_is_refused_with_the_way_out(loss):
    class Dict(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    net, (_, inputs, targets) = Dict(5, 3).double(), build("tied")
    objective = Objective(net, loss, [(inputs, targets)], reduction=None if isinstance(loss, nn.Module) else "mean")
    for measure in (objective.evaluate, objective.gradient, objective.reference):
        with pytest.raises(TypeError, match=r"the model returned a dict, .* use Objective.from_sums"):
            measure()


Pair = namedtuple("Pair", "x y")


def measure_everything(objective):
    loss_surface(objective, random_plane(objective), steps=3)
    top_eigenpairs(hessian(objective), k=2)
    gradient_congruence(objective, objective)
    objective.reference()


def state_of(model):
    return {
        "parameters": [(p.data_ptr(), p.detach().clone(), p.requires_grad) for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "buffers": [(b.data_ptr(), b.clone()) for b in model.buffers()],
        "modes": [m.training for m in model.modules()],
        "random": (torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()),  # noqa: NPY002
        "children": [type(m) for m in model.modules()],
    }


def assert_same_state(before, after):
    for one, other in zip(
        before["parameters"] + before["buffers"], after["parameters"] + after["buffers"], strict=True
    ):
        assert one[0] == other[0]
        assert one[1].numpy().tobytes() == other[1].numpy().tobytes()
    assert [p[2] for p in before["parameters"]] == [p[2] for p in after["parameters"]]
    for one, other in zip(before["gradients"], after["gradients"], strict=True):
        assert (one is None and other is None) or one.equal(other)
    assert before["modes"] == after["modes"]
    assert before["children"] == after["children"]
    assert before["random"][0].equal(after["random"][0])
    assert before["random"][1:] == after["random"][1:]


def disturbed_model():
    """A model in a state that a careless measurement would change: mixed modes, gradients, a frozen parameter."""
    net, inputs, targets = build("batch_norm_net")
    net.train()
    net[2].eval()
    net[0].bias.requires_grad_(False)
    nn.functional.cross_entropy(net(inputs), targets).backward()
    net[4].weight.grad = None
    return net, in_batches(inputs, targets)


def test_measuring_leaves_the_model_byte_for_byte_as_it_was():
    net, batches = disturbed_model()
    before = state_of(net)
    measure_everything(Objective(net, nn.CrossEntropyLoss(), batches))
    assert_same_state(before, state_of(net))


@pytest.mark.parametrize("fail_at", [1, 2, 4, 9, 17, 30])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_the_model_as_it_was(fail_at, error):
    net, batches = disturbed_model()
    calls = 0

    def failing(output, target):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise error("in the middle")
        return nn.functional.cross_entropy(output, target)

    before = state_of(net)
    with pytest.raises(error, match="in the middle"):
        measure_everything(Objective(net, failing, batches, reduction="mean"))
    assert_same_state(before, state_of(net))


def test_a_module_that_writes_its_buffers_or_draws_numbers_in_eval_mode_is_put_back():
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            torch.rand(1)
            return self.linear(x)

    _, inputs, targets = build("tied", torch.float32)
    net = Restless()
    before = state_of(net)
    measure_everything(Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets)))
    assert_same_state(before, state_of(net))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda o, t: nn.functional.cross_entropy(o, t)])
def test_measuring_leaves_a_graph_of_the_callers_alive(loss):
    net, inputs, targets = build("batch_norm_net")
    net.eval()
    alive = nn.functional.cross_entropy(net(inputs), targets)
    reduction = None if isinstance(loss, nn.Module) else "mean"
    measure_everything(Objective(net, loss, in_batches(inputs, targets), reduction=reduction))
    alive.backward()  # raises where a tensor that it needs was written
    objective = Objective(net, loss, [(inputs, targets)], reduction=reduction)
    torch.testing.assert_close(torch.cat([p.grad.reshape(-1) for p in net.parameters()]), objective.gradient())


def test_a_loss_that_is_refused_leaves_buffers_as_they_were():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(5, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    _, inputs, targets = build("tied", torch.float32)
    net = Counting()
    before = state_of(net)
    summed = Objective(net, nn.CrossEntropyLoss(reduction="sum").forward, [(inputs, targets)], reduction="mean")
    with pytest.raises(ValueError, match="is not a mean"):
        summed.evaluate()
    assert_same_state(before, state_of(net))


@pytest.mark.parametrize("shuffle", [False, True])
def test_reading_a_loader_leaves_the_random_state_as_it_was(shuffle):
    net, inputs, targets = build("batch_norm_net")
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=6, shuffle=shuffle)
    before = state_of(net)
    measure_everything(Objective(net, nn.CrossEntropyLoss(), loader))
    assert_same_state(before, state_of(net))


MEASUREMENTS = {
    "surface": lambda o: loss_surface(o, random_plane(o), steps=1),
    "hessian": hessian,
    "congruence": lambda o: gradient_congruence(o, o),
}


class FunctionalDropout(nn.Linear):
    """Random in eval mode, from torch's global generator."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5))


class PrivatelyRandom(nn.Linear):
    generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return super().forward(x + torch.rand(1, generator=self.generator).double())


@pytest.mark.parametrize("measure", MEASUREMENTS.values(), ids=MEASUREMENTS)
@pytest.mark.parametrize("kind", [FunctionalDropout, PrivatelyRandom])
def test_a_model_that_is_random_in_eval_mode_is_refused(measure, kind):
    _, inputs, targets = build("tied")
    objective = Objective(kind(5, 3).double(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    with pytest.raises(NotRepeatableError, match="two passes at the same weights gave"):
        measure(objective)


@pytest.mark.parametrize("measure", MEASUREMENTS.values(), ids=MEASUREMENTS)
def test_data_that_change_between_passes_are_refused(measure):
    class Growing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([(inputs * self.passes, targets)])

    net, inputs, targets = build("tied")
    with pytest.raises(NotRepeatableError, match=r"different batches|batches change"):
        measure(Objective(net, nn.CrossEntropyLoss(), Growing()))


def test_a_loader_with_a_generator_of_its_own_is_read_in_one_order_and_left_as_it_was():
    net, inputs, targets = build("tied")
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=6, shuffle=True, generator=generator)
    before = generator.get_state()
    objective = Objective(net, nn.CrossEntropyLoss(), loader)
    measure_everything(objective)
    assert generator.get_state().equal(before)
    first, second = ([batch[1].tolist() for batch in objective.read()] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("wrap", [lambda s: {"sampler": s}, lambda s: {"batch_sampler": BatchSampler(s, 6, False)}])
def test_a_sampler_with_a_generator_of_its_own_is_read_in_one_order_and_left_as_it_was(wrap):
    net, inputs, targets = build("tied")
    data, generator = TensorDataset(inputs, targets), torch.Generator().manual_seed(3)
    loader = DataLoader(data, **wrap(RandomSampler(data, generator=generator)))
    before = generator.get_state()
    objective = Objective(net, nn.CrossEntropyLoss(), loader)
    measure_everything(objective)
    assert generator.get_state().equal(before)
    first, second = (torch.cat([batch[1] for batch in objective.read()]) for _ in range(2))
    assert first.equal(second)
    assert not first.equal(targets)
    next(objective.read())
    assert generator.get_state().equal(before)


@pytest.mark.parametrize("draw", [random.random, lambda: np.random.rand()])  # noqa: NPY002
def test_data_that_draw_from_a_global_generator_are_one_set_and_leave_it_as_it_was(draw):
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return len(targets)

        def __getitem__(self, at):
            return inputs[at] + draw(), targets[at]

    net, inputs, targets = build("tied")
    objective = Objective(net, nn.CrossEntropyLoss(), DataLoader(Noisy(), batch_size=6))
    before = state_of(net)
    measure_everything(objective)
    assert_same_state(before, state_of(net))
    hashed = objective.data_hash
    draw()
    assert Objective(net, nn.CrossEntropyLoss(), objective.batches).data_hash == hashed
    noise = torch.cat([batch[0] for batch in objective.read()]) - inputs
    assert len(set(noise[:, 0].tolist())) == 21  # no two examples the same


def test_data_in_another_order_in_each_pass_is_refused():
    class Turning:
        turn = 0

        def __iter__(self):
            self.turn += 1
            order = torch.arange(21).roll(self.turn)
            return iter(in_batches(inputs[order], targets[order]))

    net, inputs, targets = build("tied")
    with pytest.raises(NotRepeatableError, match=r"gave different batches|two passes at the same weights"):
        hessian(Objective(net, nn.CrossEntropyLoss(), Turning()))


def test_a_little_randomness_is_refused_too():
    class Trembling(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1e-6 * torch.randn(len(x), 3)

    _, inputs, targets = build("tied", torch.float32)
    with pytest.raises(NotRepeatableError, match="two passes at the same weights"):
        hessian(Objective(Trembling(5, 3), nn.CrossEntropyLoss(), in_batches(inputs, targets)))


@pytest.mark.parametrize("wrap", [UserDict, dict, lambda d: Pair(**d)], ids=["UserDict", "dict", "named tuple"])
def test_batches_may_be_mappings_or_named_tuples_and_their_content_counts(wrap):
    net, inputs, targets = build("tied")

    def sums(model, batch):
        x, y = (batch.x, batch.y) if isinstance(batch, Pair) else (batch["x"], batch["y"])
        return nn.functional.cross_entropy(model(x), y, reduction="sum"), len(y)

    one, other = (Objective.from_sums(net, sums, [wrap({"x": x, "y": targets})]) for x in (inputs, 2 * inputs))
    assert one.evaluate().loss == pytest.approx(objective_of("tied").evaluate().loss)
    assert one.data_hash != other.data_hash


def test_a_batch_whose_content_cannot_be_hashed_is_refused():
    net, inputs, targets = build("tied")
    objective = Objective(net, nn.CrossEntropyLoss(), [(inputs, targets)])
    object.__setattr__(objective, "batches", [(inputs, object())])
    with pytest.raises(TypeError, match="a batch holds a object"):
        objective.data_hash  # noqa: B018


def test_theta_holds_a_tied_weight_once_and_moves_both_places():
    objective = objective_of("tied")
    assert objective.theta.numel() == sum(p.numel() for p in objective.model.parameters())
    moved = copy.deepcopy(objective.model)
    with torch.no_grad():
        moved.first.weight += 0.1
    direction = {
        name: torch.full(s, 0.1 * (name == "first.weight"), dtype=torch.float64) for name, s in objective.shapes.items()
    }
    theta = objective.theta + torch.cat([d.reshape(-1) for d in direction.values()])
    expected = Objective(moved, nn.CrossEntropyLoss(), objective.batches).evaluate().loss
    assert objective.evaluate(theta).loss == pytest.approx(expected, rel=1e-14)


def test_frozen_parameters_are_no_part_of_theta():
    net, inputs, targets = build("batch_norm_net")
    net[0].requires_grad_(False)
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    assert "0.weight" not in objective.shapes
    assert (
        hessian(objective).size
        == objective.theta.numel()
        == sum(p.numel() for p in net.parameters() if p.requires_grad)
    )


def test_a_model_without_trainable_parameters_is_refused():
    net, inputs, targets = build("tied")
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_measured_in_a_float32_copy_of_its_weights(dtype):
    net, inputs, targets = build("batch_norm_net")
    net = net.to(dtype)
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs.to(dtype), targets))
    whole = Objective(copy.deepcopy(net).float(), nn.CrossEntropyLoss(), in_batches(inputs.to(dtype).float(), targets))
    assert objective.theta.dtype == torch.float32
    assert objective.evaluate() == whole.evaluate()
    assert objective.gradient().equal(whole.gradient())
    for make in (hessian, gauss_newton):
        assert make(objective).matvec(objective.theta).equal(make(whole).matvec(whole.theta))
    settings = hessian(objective).settings
    assert (settings["dtype"], settings["stored_dtype"]) == ("float32", str(dtype).removeprefix("torch."))
    assert "stored_dtype" not in hessian(whole).settings
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert not net._forward_pre_hooks


def test_weights_of_two_precisions_are_refused_with_the_fix():
    net, inputs, targets = build("tied")
    net.head.float()
    with pytest.raises(ValueError, match=r"be float32 or float64, got torch.float32 on cpu, torch.float64"):
        Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_that_shortens_its_rows_is_refused_with_a_fix_that_keeps_the_loss(kind):
    model = nn.Sequential(kind(7, 4, max_norm=1.0), nn.Flatten(), nn.Linear(8 if kind is nn.Embedding else 4, 3))
    inputs, targets = torch.randint(0, 7, (6, 2)), torch.randint(0, 3, (6,))
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"^0 has max_norm=1: .*weight.renorm\(2, 0, 1\)\) in torch.no_grad"):
        Objective(model, nn.CrossEntropyLoss(), [(inputs, targets)])
    assert model[0].weight.equal(before)
    expected = nn.functional.cross_entropy(copy.deepcopy(model)(inputs), targets).item()
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.renorm(2, 0, 1))
    model[0].max_norm = None
    measured = Objective(model, nn.CrossEntropyLoss(), [(inputs, targets)])
    assert measured.evaluate().loss == pytest.approx(expected, rel=1e-6)


def test_batches_that_can_be_read_once_are_refused():
    net, inputs, targets = build("tied")
    with pytest.raises(TypeError, match="can be read only once"):
        Objective(net, nn.CrossEntropyLoss(), iter(in_batches(inputs, targets)))


def test_no_batches_are_refused():
    empty = Objective(build("tied")[0], nn.CrossEntropyLoss(), [])
    for measure in (empty.evaluate, empty.gradient):
        with pytest.raises(ValueError, match="batches is empty"):
            measure()


def summed_count(model, batch):
    return model(batch[0]).square().sum(), 0


NOTHING = {
    "ignored": (nn.CrossEntropyLoss(ignore_index=2), r"all 21 targets are ignored \(ignore_index=2\)"),
    "ignored by default": (nn.functional.cross_entropy, r"all 21 targets are ignored \(ignore_index=-100\)"),
    "class weights": (nn.CrossEntropyLoss(torch.tensor([1.0, 1.0, 0.0]).double()), "21 targets weigh nothing"),
    "sums": (None, "the counts of all batches add up to 0"),
}
MEASURES = {
    "loss": lambda objective: objective.evaluate(),
    "gradient": lambda objective: objective.gradient(),
    "plain loop": lambda objective: objective.reference(),
    "hessian": hessian,
    "gauss-newton": gauss_newton,
    "surface": lambda objective: loss_surface(objective, random_plane(objective), steps=3),
    "congruence": lambda objective: gradient_congruence(objective, objective, radius=0.1),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("case", NOTHING)
def test_targets_of_which_none_counts_are_named(case, measure):
    loss, told = NOTHING[case]
    net, inputs, targets = build("tied")
    batches = in_batches(inputs, torch.full_like(targets, -100 if case == "ignored by default" else 2))
    objective = Objective.from_sums(net, summed_count, batches) if loss is None else Objective(net, loss, batches)
    if loss is None and measure is gauss_newton:
        told = "this objective was made from sums"
    with pytest.raises(ValueError, match=told):
        measure(objective)


def test_a_batch_in_which_no_target_counts_adds_nothing():
    net, inputs, targets = build("tied")
    targets[:8] = -100
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    rest = Objective(net, nn.CrossEntropyLoss(), [(inputs[8:], targets[8:])])
    assert objective.evaluate().loss == pytest.approx(rest.evaluate().loss, rel=1e-12)
    torch.testing.assert_close(hessian(objective).matvec(objective.theta), hessian(rest).matvec(rest.theta))


class Renormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.Parameter(3 * torch.randn(7, 4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(nn.functional.embedding(x, self.rows, max_norm=1.0).mean(1))


class Constrained(nn.Module):
    """Writes its weights in one of the ways that are about; what it writes is what they hold, or not."""

    def __init__(self, write):
        super().__init__()
        self.body, self.head, self.write = nn.Embedding(7, 4), nn.Linear(4, 3), write

    def forward(self, x):
        self.write(self.head.weight)
        return self.head(self.body(x).mean(1))


@torch.no_grad()
def clamped(weight):
    weight.clamp_(-0.1, 0.1)


@torch.no_grad()
def written_anew(weight):
    weight.copy_(weight.clone())


def clamped_data(weight):
    weight.data.clamp_(-0.1, 0.1)


def other_data(weight):
    weight.data = weight.data.renorm(2, 0, 0.1)


WRITING = {
    "rows": Renormed,
    **{f.__name__: lambda f=f: Constrained(f) for f in (clamped, written_anew, clamped_data, other_data)},
}


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "plain loop"])  # in a copy of the model
@pytest.mark.parametrize("name", WRITING)
def test_a_forward_pass_that_writes_weights_is_refused_and_has_written_none(name, measure):
    model = WRITING[name]()
    before = copy.deepcopy(model.state_dict())
    objective = Objective(model, nn.CrossEntropyLoss(), [(torch.randint(0, 7, (6, 2)), torch.randint(0, 3, (6,)))])
    theta = objective.theta.clone()
    place = "rows" if name == "rows" else r"head\.weight"
    with pytest.raises(ValueError, match=rf"the forward pass writes parameters that are to be measured: {place} \("):
        MEASURES[measure](objective)
    assert all(model.state_dict()[name].equal(value) for name, value in before.items())
    assert objective.theta.equal(theta)


def trained(model):
    with torch.no_grad():
        model[0].weight.add_(0.1)


def trained_past_autograd(model):
    model[4].bias.data += 0.1


def run_in_train_mode(model):
    model(torch.randn(9, 5).double())


def trained_where_frozen(model):
    with torch.no_grad():
        model[0].bias.add_(0.1)


def trained_where_frozen_past_autograd(model):
    model[0].bias.data.mul_(3.0)


CHANGES = {
    trained: r"0\.weight",
    trained_past_autograd: r"4\.bias",
    run_in_train_mode: r"1\.running_mean, 1\.running_var",
    trained_where_frozen: r"0\.bias",
    trained_where_frozen_past_autograd: r"0\.bias",
}


def unfrozen_and_trained(model):
    model[0].requires_grad_(True)
    trained_where_frozen(model)


def with_a_weight_that_is_made(model):
    nn.utils.parametrizations.weight_norm(model[4])


def pruned(model):
    l1_unstructured(model[4], "weight", 0.5)


def with_a_module_more(model):
    model.append(nn.Linear(3, 3).double())


def with_a_module_of_statistics_less(model):
    model[2] = nn.Identity()


def with_a_module_of_statistics_more(model):
    model[3] = nn.BatchNorm1d(6, affine=False).double()


REBUILT = {
    unfrozen_and_trained: r"0\.bias",
    with_a_weight_that_is_made: r"4\.weight, 4\.parametrizations\.weight\.original0, .*original1",
    pruned: r"4\.weight, 4\.weight_orig",
    with_a_module_more: r"5\.weight, 5\.bias",
    with_a_module_of_statistics_less: r"2\.running_mean, 2\.running_var",
    with_a_module_of_statistics_more: r"3\.running_mean, 3\.running_var",
}


@pytest.mark.parametrize("rebuild", REBUILT)
def test_a_model_whose_parameters_or_statistics_are_gone_or_new_is_refused(rebuild):
    statistics = nn.BatchNorm1d(6, affine=False)
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), statistics, nn.Tanh(), nn.Linear(6, 3)).double()
    net[0].bias.requires_grad_(False)
    _, inputs, targets = build("batch_norm_net")
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    objective.evaluate()
    rebuild(net)
    with pytest.raises(ValueError, match=rf"the model has changed since .* read it \({REBUILT[rebuild]}\): make"):
        hessian(objective)
    Objective(net, nn.CrossEntropyLoss(), objective.batches).evaluate()


def test_a_parameter_frozen_or_unfrozen_since_the_model_was_read_is_the_same():
    net, inputs, targets = build("batch_norm_net")
    net[0].requires_grad_(False)
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    loss = objective.evaluate().loss
    net[0].requires_grad_(True)
    net[4].requires_grad_(False)
    assert objective.evaluate().loss == loss


def loaded_again(model):
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def elsewhere(model):
    for p in model.parameters():
        p.data = p.data.clone()


def in_another_layout(model):
    model.to(memory_format=torch.channels_last)


def converted_to_and_fro(model):
    model.double().float()


@pytest.mark.parametrize("change", [loaded_again, elsewhere, in_another_layout, converted_to_and_fro])
def test_a_model_whose_frozen_parameters_hold_the_same_bytes_is_the_same(change):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 4))
    net[0].requires_grad_(False)
    objective = Objective(net, nn.CrossEntropyLoss(), [(torch.randn(5, 2, 3, 3), torch.randint(0, 4, (5,)))])
    loss = objective.evaluate().loss
    change(net)
    assert objective.evaluate().loss == loss
    assert copy.deepcopy(objective).evaluate().loss == loss


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "plain loop"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_objective_whose_model_has_changed_is_refused(change, measure):
    net, inputs, targets = build("batch_norm_net")
    net[0].bias.requires_grad_(False)
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    MEASURES[measure](objective)
    change(net)
    with pytest.raises(
        ValueError, match=rf"the model has changed since .* read it \({CHANGES[change]}\): make a new objective"
    ):
        MEASURES[measure](objective)
    MEASURES[measure](Objective(net, nn.CrossEntropyLoss(), objective.batches))


class Remembering(nn.Module):
    """It counts its passes, keeps a mean of what it saw, and a table as long as its longest input."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("table", None, persistent=False)

    def forward(self, x):
        self.calls += 1
        self.seen.lerp_(x.mean((0, 1)), 0.5)
        if self.table is None or len(self.table) < x.shape[1]:
            self.table = torch.arange(x.shape[1]).cos()
        return self.head((x * self.table[: x.shape[1], None]).sum(1))


@pytest.mark.parametrize("read_first", [True, False])
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_buffers_that_a_forward_pass_writes_are_measured_as_they_were_read(measure, read_first):
    model = Remembering()
    if read_first:
        model(torch.randn(4, 2, 3))
    objective = Objective(model, nn.CrossEntropyLoss(), [(torch.randn(6, 5, 3), torch.randint(0, 2, (6,)))])
    measure(objective)
    loss, name = objective.evaluate().loss, objective.theta_hash
    model(torch.randn(4, 9, 3))
    measure(objective)
    model.table = None
    measure(objective)
    assert objective.evaluate().loss == loss
    del objective.__dict__["theta_hash"]
    assert objective.theta_hash == name


class OnGraph(nn.Module):
    """One layer of a graph network."""

    def __init__(self, adjacency):
        super().__init__()
        self.head = nn.Linear(3, 2).double()
        self.register_buffer("adjacency", adjacency)

    def forward(self, x):
        return self.head(self.adjacency @ x)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
def test_a_sparse_buffer_is_measured_as_a_dense_one(layout):
    adjacency = (torch.rand(7, 7) < 0.4).double()
    data, loss = [(torch.randn(7, 3).double(), torch.randint(0, 2, (7,)))], nn.CrossEntropyLoss(reduction="sum")
    dense = OnGraph(adjacency)
    sparse, other = copy.deepcopy(dense), copy.deepcopy(dense)
    sparse.adjacency, other.adjacency = (matrix.to_sparse(layout=layout) for matrix in (adjacency, 2 * adjacency))
    objectives = [
        Objective.from_sums(model, lambda model, batch: (loss(model(batch[0]), batch[1]), len(batch[1])), data)
        for model in (dense, sparse, other)
    ]
    assert len({objective.theta_hash for objective in objectives}) == 3
    np.testing.assert_allclose(objectives[1].evaluate().loss, objectives[0].evaluate().loss, rtol=1e-12)
    expected, found = (hessian(objective).matvec(objective.theta) for objective in objectives[:2])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_an_operator_is_that_of_the_model_as_it_was():
    net, inputs, targets = build("batch_norm_net")
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    operator, theta = hessian(objective, memory_bytes=0), objective.theta
    before, loss, name = operator.matvec(theta), objective.evaluate(theta).loss, objective.theta_hash
    run_in_train_mode(net)
    trained(net)
    assert operator.matvec(theta).equal(before)
    assert objective.evaluate(theta).loss == loss
    assert objective.theta_hash == name


def test_parameters_that_are_not_numbers_are_not_taken_for_changed_ones():
    net, inputs, targets = build("batch_norm_net")
    with torch.no_grad():
        net[0].weight[0, 0] = torch.nan
    assert np.isnan(Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets)).evaluate().loss)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_weight_that_a_hook_makes_is_left_as_it_was(norm, measure):
    net, inputs, targets = build("tied")
    net.head = norm(net.head)
    weight, value = net.head.weight, net.head.weight.detach().clone()
    measure(Objective(net.double(), nn.CrossEntropyLoss(), in_batches(inputs, targets)))
    assert net.head.weight is weight
    assert weight.equal(value)


def test_an_empty_batch_is_refused():
    net, inputs, targets = build("tied")
    batches = [(inputs, targets), (inputs[:0], targets[:0])]
    for loss in (nn.CrossEntropyLoss(), nn.MSELoss()):
        goals = [(x, y if isinstance(loss, nn.CrossEntropyLoss) else net(x).detach()) for x, y in batches]
        with pytest.raises(ValueError, match="a batch holds no examples: leave empty batches out"):
            Objective(net, loss, goals).evaluate()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_model_is_refused():
    net, inputs, targets = build("batch_norm_net")
    with pytest.raises(ValueError, match=r"a model of torch\.jit takes no parameters but its own"):
        Objective(torch.jit.trace(net.eval(), inputs), nn.CrossEntropyLoss(), in_batches(inputs, targets))


def test_inputs_of_another_precision_than_the_weights_are_named():
    net, inputs, targets = build("tied", torch.float32)
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs.double(), targets))
    for measure in MEASURES.values():
        with pytest.raises((ValueError, RuntimeError)) as caught:
            measure(objective)
        if measure is not MEASURES["plain loop"]:
            assert "the inputs are float64 and the model is float32" in str(caught.value)


def test_one_example_works():
    net, inputs, targets = build("batch_norm_net")
    found = Objective(net, nn.CrossEntropyLoss(), [(inputs[:1], targets[:1])]).evaluate()
    assert np.isfinite(found.loss)
    assert np.isnan(found.standard_error)


def test_the_data_hash_tells_other_data_apart():
    net, inputs, targets = build("tied")
    first = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    second = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs + 1e-6, targets))
    assert first.data_hash == Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets)).data_hash
    assert first.data_hash == Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets, (20, 1))).data_hash
    assert first.data_hash != second.data_hash


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (torch.ones(4, 5), "Tensor"),
        ((torch.ones(4, 5),), "tuple of 1"),
        ((torch.ones(4, 5), torch.ones(4), torch.ones(4)), "tuple of 3"),
        ({"x": torch.ones(4, 5), "y": torch.ones(4)}, "dict"),
    ],
    ids=["tensor", "one", "three", "mapping"],
)
def test_a_batch_of_another_shape_is_refused_with_the_way_out(batch, got):
    with pytest.raises(ValueError, match=rf"must be \(inputs, target\), got a {got}: use Objective.from_sums"):
        _ = Objective(nn.Linear(5, 1), nn.MSELoss(), [batch]).centre
