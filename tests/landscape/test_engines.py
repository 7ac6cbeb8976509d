"""The engines of a product against each other and against dense Hessians, and what they do when they cannot."""

import copy

import pytest
import torch
from problems import NETS, build, dense_hessian, in_batches, objective_of
from torch import nn
from torch.func import functional_call

from landscape import engines
from landscape.engines import hessian_sum
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import gauss_newton, hessian
from landscape.products import DataSum, NotTwiceDifferentiableError, usual_cutting

ENGINES = ["retained", "recomputed", "forward-over-reverse"]


def columns(operator):
    return torch.stack([operator.matvec(e) for e in torch.eye(operator.size, dtype=operator.dtype)])


def data_sum(objective, engine="retained", memory_bytes=1 << 30, **options):
    cutting = usual_cutting(objective, batch_norm="frozen", **options)
    return hessian_sum(objective, engine, cutting=cutting, memory_bytes=memory_bytes)[0]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_exact_engine_gives_the_dense_hessian(name, engine):
    objective = objective_of(name)
    truth = dense_hessian(objective)
    assert (columns(hessian(objective, engine=engine)) - truth).abs().max() <= 1e-10 * truth.abs().max()


@pytest.mark.parametrize(("name", "tolerance"), [("conv_net", 1e-5), ("attention", 1e-5), ("group_norm_net", 1e-3)])
def test_exact_engines_agree_in_single_precision(name, tolerance):
    objective = objective_of(name, dtype=torch.float32)
    v = torch.randn(objective.theta.numel(), generator=torch.Generator().manual_seed(0))
    exact = [(inputs.double(), targets) for inputs, targets in objective.batches]
    exact = Objective(copy.deepcopy(objective.model).double(), nn.CrossEntropyLoss(), exact)
    truth = (dense_hessian(exact) @ v.double()).float()
    for engine in ENGINES:
        assert (hessian(objective, engine=engine).matvec(v) - truth).norm() <= tolerance * truth.norm()


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCEWithLogitsLoss()], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_exact_engine_knows_the_losses_of_numbers(loss, engine):
    net, inputs, targets = build("batch_norm_net")
    goals = nn.functional.one_hot(targets, 3).double()
    objective = Objective(net, loss, in_batches(inputs, goals))
    truth = dense_hessian(objective)
    assert (columns(hessian(objective, engine=engine)) - truth).abs().max() <= 1e-10 * truth.abs().max()


def test_a_loss_without_a_forward_rule_is_refused_with_what_to_take():
    net, inputs, targets = build("tied")
    objective = Objective(net, nn.HuberLoss(), in_batches(inputs, nn.functional.one_hot(targets, 3).double()))
    with pytest.raises(ValueError, match=r"no forward rule, take engine='retained': .*huber_loss"):
        hessian(objective, engine="forward-over-reverse")
    operator = hessian(objective, engine="timed")
    assert operator.checks["engine_seconds"]["forward-over-reverse"].startswith("no forward rule")
    assert operator.settings["engine"] == "retained"


@pytest.mark.parametrize("micro_batch", [0, 1, 2, 3, 5, 100])
def test_the_product_does_not_depend_on_the_micro_batch(micro_batch):
    objective = objective_of("conv_net")
    truth = dense_hessian(objective)
    operator = hessian(objective, micro_batch=micro_batch)
    assert (columns(operator) - truth).abs().max() <= 1e-10 * truth.abs().max()
    assert operator.settings["micro_batch"] == micro_batch


def test_as_many_graphs_are_kept_as_the_memory_holds_and_the_bits_are_the_same():
    objective = objective_of("conv_net")
    v = torch.randn(objective.theta.numel(), dtype=torch.float64)
    found = {memory: data_sum(objective, memory_bytes=memory) for memory in (0, 15_000, 1 << 30)}
    first = [one.matvec(v) for one in found.values()]
    again = [one.matvec(v) for one in found.values()]
    assert all(product.equal(first[0]) for product in first + again)
    none, some, every = (len(one.kept.graphs) for one in found.values())
    assert none == 0 < some < every == 3


def test_products_for_several_vectors_are_the_products_one_by_one():
    objective = objective_of("tied")
    vectors = torch.randn(3, objective.theta.numel(), dtype=torch.float64)
    for engine in ENGINES:
        operator = hessian(objective, engine=engine)
        torch.testing.assert_close(operator.matvecs(vectors), torch.stack([operator.matvec(v) for v in vectors]))


def test_a_product_builds_no_graph_twice_for_several_vectors(monkeypatch):
    objective = objective_of("tied")
    counted = data_sum(objective, "recomputed")
    built = []
    monkeypatch.setattr(engines.DoubleBackward, "graph", graph_counting(engines.DoubleBackward.graph, built))
    counted.matvecs(torch.randn(4, objective.theta.numel(), dtype=torch.float64))
    assert len(built) == 3  # one for each batch


def graph_counting(graph, built):
    def counted(rule, piece):
        built.append(piece)
        return graph(rule, piece)

    return counted


def test_finite_differences_are_close_on_a_smooth_net_and_say_that_they_are_not_exact():
    objective = objective_of("conv_net")
    exact, operator = hessian(objective), hessian(objective, engine="finite-differences")
    v = torch.randn(objective.theta.numel(), dtype=torch.float64)
    for length in (1.0, 1e-6, 1e6):
        truth, found = exact.matvec(length * v), operator.matvec(length * v)
        assert (found - truth).norm() <= 1e-6 * truth.norm()
    assert operator.checks["exact"] is False
    assert operator.settings["finite_difference_step"] == engines.finite_difference_step(torch.float64)
    assert "exact" not in exact.checks
    assert operator.matvec(0 * v).count_nonzero() == 0


def test_finite_differences_in_single_precision_are_within_a_hundredth():
    objective = objective_of("conv_net", dtype=torch.float32)
    v = torch.randn(objective.theta.numel())
    truth = hessian(objective).matvec(v)
    assert (hessian(objective, engine="finite-differences").matvec(v) - truth).norm() <= 1e-2 * truth.norm()


def test_finite_differences_refuse_kinks_unless_told():
    objective = objective_of("group_norm_net")
    with pytest.raises(ValueError, match=r"kinks of this network \(Relu\).*'finite-differences-across-kinks'"):
        hessian(objective, engine="finite-differences")
    operator = hessian(objective, engine="finite-differences-across-kinks")
    assert operator.checks["exact"] is False
    assert operator.matvec(objective.theta).isfinite().all()


def test_an_unknown_engine_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"engine must be one of \('retained', .*, got 'fast'"):
        hessian(objective_of("tied"), engine="fast")


def test_timing_chooses_among_the_engines_and_says_what_it_saw():
    objective = objective_of("tied")
    operator = hessian(objective, engine="timed")
    assert operator.settings["engine"] in ENGINES
    assert set(operator.checks["engine_seconds"]) == {"retained", "forward-over-reverse"}
    assert all(seconds > 0 for seconds in operator.checks["engine_seconds"].values())


@pytest.mark.parametrize(("forward", "expected"), [(0.5, "forward-over-reverse"), (0.99, "retained"), (2, "retained")])
def test_timing_leaves_the_usual_engine_only_for_a_gain_that_is_no_noise(monkeypatch, forward, expected):
    seconds = {engines.DoubleBackward: 1.0, engines.ForwardOverReverse: forward}
    monkeypatch.setattr(engines, "_seconds", lambda found: seconds[type(found.rule)])
    assert hessian(objective_of("tied"), engine="timed").settings["engine"] == expected


def test_a_compiled_product_that_differs_is_not_used(monkeypatch):
    """The compiler itself is in test_a_compiled_product_is_the_same."""

    def off(function, **_):
        return lambda *args: {name: 1.01 * value for name, value in function(*args).items()}

    monkeypatch.setattr(torch, "compile", off)
    operator = hessian(objective_of("conv_net"), engine="compiled")
    assert operator.settings["engine"] == "retained"
    assert operator.settings["engine_reason"] == "a compiled product differs by 1.0e-02"


def test_a_product_that_cannot_be_compiled_falls_back_with_the_reason(monkeypatch):
    def broken(function, **_):
        def fail(*_):
            raise NotImplementedError("no kernel for this")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    operator = hessian(objective_of("conv_net"), engine="compiled")
    assert operator.settings["engine_reason"] == "NotImplementedError: no kernel for this"
    truth = dense_hessian(objective_of("conv_net"))
    assert (columns(operator) - truth).abs().max() <= 1e-10 * truth.abs().max()


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1), "mean", "sums"], ids=str)
def test_what_is_compiled_is_the_same_sum_of_losses(monkeypatch, loss):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    net, inputs, targets = build("conv_net")
    batches = in_batches(inputs, targets)
    if loss == "mean":
        objective = Objective(net, lambda o, t: nn.CrossEntropyLoss()(o, t), batches, reduction="mean")
    elif loss == "sums":
        summed = nn.CrossEntropyLoss(reduction="sum")
        objective = Objective.from_sums(net, lambda model, b: (summed(model(b[0]), b[1]), len(b[1])), batches)
    else:
        objective = Objective(net, loss, batches)
    operator = hessian(objective, engine="compiled")
    assert operator.settings["engine"] == "compiled"
    assert operator.checks["compiled_difference"] <= 1e-12
    expected = hessian(objective).matvec(objective.theta)
    torch.testing.assert_close(operator.matvec(objective.theta), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_a_compiled_product_is_the_same():
    objective = objective_of("conv_net")
    operator = hessian(objective, engine="compiled", micro_batch=8)
    assert operator.settings["engine"] == "compiled", operator.settings
    truth = dense_hessian(objective)
    assert (operator.matvec(objective.theta) - truth @ objective.theta).norm() <= 1e-10 * truth.norm()


def scarce(rule, limit):
    """A rule on a device whose memory holds `limit` graphs, or the graph of `limit` examples."""

    class Scarce(type(rule)):
        def graph(self, piece):
            if self.room(piece) > limit:
                raise torch.OutOfMemoryError("no more")
            return super().graph(piece)

    return Scarce(rule.objective, rule.leaves)


def test_out_of_memory_gives_up_the_graphs_and_goes_on():
    objective = objective_of("conv_net")
    found = data_sum(objective)
    found.rule = scarce(found.rule, 1)
    type(found.rule).room = lambda _, piece: len(found.kept.graphs)
    truth = dense_hessian(objective)
    product = found.matvec(objective.theta)
    assert (product - truth @ objective.theta).norm() <= 1e-10 * truth.norm()
    assert found.checks == {"out_of_memory": "no graphs are kept"}
    assert not found.kept.graphs


def test_out_of_memory_halves_the_pieces_and_says_so():
    objective = objective_of("conv_net")
    found = data_sum(objective)
    found.rule = scarce(found.rule, 3)
    type(found.rule).room = lambda _, piece: len(piece.batch[1])
    truth = dense_hessian(objective)
    product = found.matvec(objective.theta)
    assert (product - truth @ objective.theta).norm() <= 1e-10 * truth.norm()
    assert found.checks == {
        "out_of_memory": "micro-batches of 2, no graphs are kept",
        "micro_batch_that_fits": 2,
    }


def test_out_of_memory_with_one_example_is_an_error():
    found = data_sum(objective_of("conv_net"))
    found.rule = scarce(found.rule, 0)
    type(found.rule).room = lambda *_: 1
    with pytest.raises(MemoryError, match="cannot be made smaller"):
        found.matvec(found.objective.theta)


def test_a_back_off_is_in_the_results_checks(monkeypatch):
    objective, real = objective_of("conv_net"), DataSum._pass
    calls = []

    def short(self, vectors):
        calls.append(None)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("no more")
        return real(self, vectors)

    monkeypatch.setattr(DataSum, "_pass", short)
    pairs = top_eigenpairs(hessian(objective), k=2)
    assert pairs.converged.all()
    assert pairs.checks["out_of_memory"] == "no graphs are kept"


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        factor = x.cos()
        product = gradient * factor
        factor.zero_()  # what the product's own derivative needs
        return product


class Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        with torch.no_grad():
            return gradient * ctx.saved_tensors[0].cos()


class CutLoss(torch.autograd.Function):
    """A fused loss: its gradient is made in the forward, and scaled in place."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(2 * x)
        return x.square().sum()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.saved_tensors[0].mul_(gradient.detach())


class Rounded(torch.autograd.Function):
    """Straight through, nothing to its second input, and a number nobody asked for: differentiable by its own rule."""

    @staticmethod
    def forward(ctx, x, scale, levels, name):
        ctx.save_for_backward(scale)
        return (x * levels / scale).round() * scale / levels

    @staticmethod
    def backward(ctx, gradient):
        return gradient, torch.zeros_like(ctx.saved_tensors[0]), torch.ones(1), None


def test_a_fused_loss_that_keeps_no_graph_is_named():
    _, inputs, targets = build("tied")
    net = nn.Linear(5, 3).double()
    sums = lambda model, batch: (CutLoss.apply(model(batch[0])), len(batch[1]))  # noqa: E731
    objective = Objective.from_sums(net, sums, in_batches(inputs, targets))
    with pytest.raises(NotTwiceDifferentiableError, match="CutLossBackward gives no graph of its own"):
        hessian(objective).matvec(objective.theta)


def test_a_straight_through_gradient_is_none_that_is_cut():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.scale = nn.Linear(5, 3), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return Rounded.apply(self.first(x), self.scale, torch.ones(1), "name")

    _, inputs, targets = build("tied")
    objective = Objective(Net().double(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    for make in (hessian, gauss_newton):
        found = make(objective).matvec(objective.theta)
        assert found[3:].abs().max() > 1e-3
        assert found[:3].count_nonzero() == 0  # of the scale


@pytest.mark.parametrize("make", [hessian, gauss_newton])
@pytest.mark.parametrize("function", [Once, InPlace, Cut])
def test_a_function_without_a_second_derivative_is_named(function, make):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.second(function.apply(self.first(x)))

    _, inputs, targets = build("tied")
    objective = Objective(Net().double(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    with pytest.raises(NotTwiceDifferentiableError, match=rf"no second derivative.*{function.__name__}Backward"):
        make(objective).matvec(objective.theta)


def test_batch_norm_in_train_mode_is_that_of_each_batch():
    """The partition is part of what is measured: the mean over batches of 8, 8 and 5 of what torch gives for each."""
    objective = objective_of("conv_net")
    operator = hessian(objective, batch_norm="train")
    net = copy.deepcopy(objective.model).train()

    def loss(theta):
        total = 0.0
        for inputs, targets in objective.batches:
            output = functional_call(net, objective.named(theta), (inputs,))
            total = total + nn.CrossEntropyLoss(reduction="sum")(output, targets)
        return total / 21

    truth = torch.autograd.functional.hessian(loss, objective.theta)
    assert (columns(operator) - truth).abs().max() <= 1e-10 * truth.abs().max()
    assert operator.loss == pytest.approx(float(loss(objective.theta)), rel=1e-12)
    assert operator.settings["batch_norm"] == "train"
    assert operator.settings["micro_batch"] == 0
    frozen = dense_hessian(objective)
    assert (truth - frozen).abs().max() > 1e-2 * frozen.abs().max()


def test_batch_norm_in_train_mode_leaves_the_model_as_it_was_and_no_batch_is_cut():
    objective = objective_of("batch_norm_net")
    before = copy.deepcopy(objective.model.state_dict())
    hessian(objective, batch_norm="train").matvec(objective.theta)
    assert all(objective.model.state_dict()[name].equal(value) for name, value in before.items())
    assert objective.model[3].training  # the dropout
    with pytest.raises(ValueError, match="of batch_norm='train' are part of what is measured"):
        hessian(objective, batch_norm="train", micro_batch=2)


def test_batches_of_sums_cannot_be_cut():
    net, inputs, targets = build("conv_net")
    summed = nn.CrossEntropyLoss(reduction="sum")
    objective = Objective.from_sums(
        net, lambda model, b: (summed(model(b[0]), b[1]), len(b[1])), in_batches(inputs, targets)
    )
    with pytest.raises(ValueError, match="cannot be cut: micro_batch must be 0, got 4"):
        hessian(objective, micro_batch=4)
    assert hessian(objective).settings["micro_batch"] == 0


def test_products_of_images_agree_in_both_layouts():
    objective = objective_of("conv_net")
    assert usual_cutting(objective, batch_norm="frozen").layout == "channels_last"
    assert usual_cutting(objective_of("tied"), batch_norm="frozen").layout == "contiguous"
    truth = dense_hessian(objective)
    assert (columns(hessian(objective)) - truth).abs().max() <= 1e-10 * truth.abs().max()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of torch, in passes without gradients
@pytest.mark.parametrize("make", [hessian, gauss_newton])
@pytest.mark.parametrize("place", [0, 1])
def test_reentrant_checkpointing_is_refused(make, place):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 3)])

        def forward(self, x):
            for index, block in enumerate(self.blocks):
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=True) if index == place else block(x)
            return x

    _, inputs, targets = build("tied")
    objective = Objective(Net().double(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    with pytest.raises(NotTwiceDifferentiableError, match="use_reentrant=False"):
        make(objective).matvec(objective.theta)


def test_a_compiled_model_is_measured_as_the_model_itself():
    _, inputs, targets = build("tied")
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    plain, compiled = (
        Objective(model, nn.CrossEntropyLoss(), in_batches(inputs, targets)) for model in (net, torch.compile(net))
    )
    assert plain.theta_hash == compiled.theta_hash
    assert torch.equal(hessian(plain).matvec(plain.theta), hessian(compiled).matvec(plain.theta))


@pytest.mark.parametrize("how", ["in place", "a child"])
def test_a_model_that_compiles_itself_is_measured_as_it_was_written(how):
    def backend(*_):
        raise AssertionError("compiled")

    net, inputs, targets = build("batch_norm_net")
    expected = Objective(copy.deepcopy(net), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    if how == "in place":
        net.compile(backend=backend)
    else:
        net[4] = torch.compile(net[4], backend=backend)
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    for make in (hessian, gauss_newton):
        assert make(objective).matvec(objective.theta).equal(make(expected).matvec(expected.theta))
    assert objective.gradient().equal(expected.gradient())
    assert objective.reference() == expected.reference()
    with torch.no_grad(), pytest.raises(Exception, match="compiled"):
        net(inputs)


@pytest.mark.parametrize("how", ["in place", "a child"])
def test_where_the_model_compiles_itself_passes_of_our_own_are_compiled_all_the_same(how):
    def theirs(*_):
        raise AssertionError("compiled")

    def ours(graph, _):
        graphs.append(graph)
        return graph.forward

    graphs, (net, inputs, targets) = [], build("batch_norm_net")
    if how == "in place":
        net[4].compile(backend=theirs)
    else:
        net[4] = torch.compile(net[4], backend=theirs)
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    with objective.undisturbed(), torch.no_grad():
        torch.compile(lambda x: net(x) + 1, backend=ours)(inputs)
    assert graphs


class OfEachExample(nn.Module):
    """A convolution under vmap, which our kernels do not know, with a weight that is normed."""

    def __init__(self):
        super().__init__()
        self.normed, self.head = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 3, 3)), nn.Linear(9, 3)

    def forward(self, x):
        return self.head(torch.func.vmap(lambda one: self.normed(one[None, None])[0])(x).tanh().flatten(1))


def test_without_our_convolutions_weight_norm_still_has_the_second_derivative_of_its_formula():
    _, inputs, targets = build("tied")
    torch.manual_seed(0)
    objective = Objective(OfEachExample().double(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    operator, v = hessian(objective), torch.randn(objective.theta.numel(), dtype=torch.float64)
    ends = [objective.gradient(objective.theta + step * v) for step in (1e-6, -1e-6)]
    product = operator.matvec(v)
    assert operator.checks["kernels"].startswith("torch's own")
    assert (product - (ends[0] - ends[1]) / 2e-6).norm() <= 1e-7 * product.norm()
