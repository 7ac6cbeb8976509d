"""What autograd's graph lacks is found out by finite differences, for every matrix that would be wrong without it."""

import math
from functools import partial

import pytest
import torch
from problems import NETS, build, in_batches, objective_of
from torch import nn
from torch.nn import functional as F  # noqa: N812

from landscape import differentiable
from landscape.distributed import part_of
from landscape.following import curvature_trace
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import fisher, gauss_newton, hessian, per_layer
from landscape.results import problem_of

EMPIRICAL = partial(fisher, kind="empirical")
MATRICES = {"hessian": hessian, "gauss-newton": gauss_newton, "fisher": fisher, "empirical": EMPIRICAL}


class Steeper(torch.autograd.Function):
    """sin(x) with another backward, which has a second derivative of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return 1.1 * gradient * ctx.saved_tensors[0].cos()


class Sine(torch.autograd.Function):
    """The same with its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class KeptInForward(torch.autograd.Function):
    """The same, whose derivative is kept: it has no second one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.cos())
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


def without_grad(x):
    with torch.no_grad():
        size = x.square().mean(1, keepdim=True)
    return x / (1 + size)


def written_without_grad(x):
    y = x * 1
    with torch.no_grad():
        y.mul_(x.abs())
    return y


CUTS = {
    "detach": lambda x: x * x.detach(),
    "data": lambda x: x * x.data,
    "item": lambda x: x * x.square().mean().item(),
    "float": lambda x: x * float(x.square().mean()),
    "no_grad": without_grad,
    "written under no_grad": written_without_grad,
}


def stable_softmax(x):
    return (x - x.detach().amax(1, True)).softmax(1)  # which does not depend on the maximum


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(5, 4), nn.Linear(4, 3), function

    def forward(self, x):
        return self.second(self.function(self.first(x)))


def objective_with(function, dtype=torch.float64, loss=None, **options):
    _, inputs, targets = build("tied")
    torch.manual_seed(0)
    batches = [(x.to(dtype), y) for x, y in in_batches(inputs, targets)]
    return Objective(Net(function).to(dtype), loss or nn.CrossEntropyLoss(), batches, **options)


def checked(make, objective):
    return top_eigenpairs(make(objective), k=1)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # of torch, at float
@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("function", [Steeper.apply, *CUTS.values()], ids=["backward", *CUTS])
def test_what_the_graph_lacks_is_found_out(function, make):
    pairs = checked(make, objective_with(function))
    assert pairs.checks["gradient_change_ok"] is False
    assert "not what finite differences see (off by" in problem_of(pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("function", [Sine.apply, stable_softmax])
def test_what_is_right_passes(function, make, dtype):
    pairs = checked(make, objective_with(function, dtype))
    assert pairs.checks["gradient_change"] < 1e-6
    assert pairs.checks["gradient_change_ok"] is True
    assert "finite differences" not in problem_of(pairs)


@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_units_that_are_given_exactly_zero_are_no_false_alarm(make):
    objective = objective_with(lambda x: Sine.apply(x.relu()))
    with torch.no_grad():
        objective.model.first.bias.zero_()  # as before training
    inputs, targets = objective.batches[0]
    dark = inputs * torch.tensor([0.0, 1, 1, 1, 0, 1, 1, 1]).double()[:, None]
    operator = make(Objective(objective.model, objective.loss, [(dark, targets)]))
    assert operator.checks["gradient_change"] < 1e-6


def test_a_second_derivative_that_is_not_there_matters_to_the_hessian_alone():
    objective = objective_with(KeptInForward.apply)
    found = {name: make(objective).checks["gradient_change_ok"] for name, make in MATRICES.items()}
    assert found == {"hessian": False, "gauss-newton": True, "fisher": True, "empirical": True}
    assert all(block.checks["gradient_change_ok"] is False for block in per_layer(objective).values())


def test_a_network_that_lets_go_of_all_of_its_graph_is_not_one_without_curvature():
    class Detached(Net):
        def forward(self, x):
            return super().forward(x).detach()

    _, inputs, targets = build("tied")
    objective = Objective(Detached(torch.tanh).double(), nn.CrossEntropyLoss(), in_batches(inputs, targets))
    for make in MATRICES.values():
        operator = make(objective)
        assert operator.checks["gradient_change_ok"] is False
        assert operator.matvec(objective.theta).count_nonzero() == 0


def test_a_run_that_is_undecided_everywhere_passes_no_check():
    undecided = objective_with(rounded)
    assert "gradient_change_ok" not in curvature_trace([(1, undecided)], k=1).checks
    trace = curvature_trace([(1, undecided), (2, objective_with(KeptInForward.apply))], k=1)
    assert trace.checks["gradient_change_ok"] is False


def test_a_run_is_told_of_the_checkpoint_where_it_is_worst():
    wrong, right = objective_with(KeptInForward.apply), objective_with(torch.sin)
    trace = curvature_trace([(1, right), (2, wrong), (3, right)], k=1)
    assert trace.checks["gradient_change"] == hessian(wrong).checks["gradient_change"]
    assert "not what finite differences see" in problem_of(trace)
    assert "gradient_change" not in curvature_trace([(1, right)], k=1).checks


@pytest.mark.parametrize(("kept", "right"), [(True, False), (False, True)])
def test_a_loss_of_ones_own_is_checked_with_the_outputs(kept, right):
    function = KeptInForward if kept else Sine

    def loss(output, target):
        return (output.square() / 2 - function.apply(output)).mean(1).mean()

    objective = objective_with(torch.tanh, loss=loss, reduction="mean")
    for make in (hessian, gauss_newton):
        assert make(objective).checks["gradient_change_ok"] is right


@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_a_loss_that_is_nearly_zero_is_no_false_alarm(make):
    objective = objective_with(Sine.apply)
    inputs = torch.cat([batch[0] for batch in objective.batches])
    with torch.no_grad():
        objective.model.second.weight.mul_(1e4)  # sure of every label, which are those it gives
    labels = objective.model(inputs).argmax(1)
    sure = Objective(objective.model, objective.loss, [(inputs, labels)])
    assert sure.evaluate().loss < 1e-9
    operator = make(sure)
    assert operator.checks["gradient_change"] < 1e-5


class Shifted(Net):
    """Logits less their largest, which cross-entropy does not see."""

    def forward(self, x):
        z = super().forward(x)
        return z - z.amax(1, keepdim=True).detach()


@pytest.mark.parametrize("sure", [1.0, 1e4])
@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_what_the_loss_does_not_see_is_no_false_alarm(make, sure):
    _, inputs, targets = build("tied")
    for function, right in ((torch.tanh, True), (CUTS["detach"], False)):
        model = Shifted(function).double()
        with torch.no_grad():
            model.second.weight.mul_(sure)
        labels = targets if sure == 1 else model(inputs).argmax(1)
        assert make(Objective(model, nn.CrossEntropyLoss(), [(inputs, labels)])).checks["gradient_change_ok"] is right


class SinglePrecision(Net):
    """Norm and attention as language models have them, in float32 whatever the weights are."""

    def forward(self, x):
        h = self.first(x)
        h = (h.to(torch.float32) * h.float().square().mean(-1, keepdim=True).add(1e-6).rsqrt()).to(h.dtype)
        h = self.function(h)
        return self.second(h * F.softmax(h, -1, dtype=torch.float32).to(h.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_parts_in_single_precision_hide_no_fault_and_make_none(make, dtype):
    _, inputs, targets = build("tied")
    harmless = lambda x: stable_softmax(x) + 0 * x.detach()  # noqa: E731
    for function, right in ((harmless, True), (CUTS["detach"], False), (Steeper.apply, False)):
        torch.manual_seed(0)
        objective = Objective(SinglePrecision(function).to(dtype), nn.CrossEntropyLoss(), [(inputs.to(dtype), targets)])
        assert make(objective).checks["gradient_change_ok"] is right


def rounded(x):
    numbers = x.detach().numpy()  # where no precision is asked for by torch
    return x + (torch.from_numpy((numbers + 256).astype("float32")).to(x) - 256 - x.detach())


@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_rounding_that_hides_the_difference_is_no_fault_but_undecided(make):
    operator = make(objective_with(rounded))
    assert math.isnan(operator.checks["gradient_change"])
    assert "gradient_change_ok" not in operator.checks
    assert operator.checks["gradient_change_undecided"] == "rounding or kinks hide the difference"
    assert "finite differences" not in problem_of(top_eigenpairs(operator, k=1))


def test_an_objective_is_checked_once_with_all_its_parts_and_blocks(monkeypatch):
    seen = []
    monkeypatch.setattr(differentiable, "distance", lambda product, change: seen.append(product) or 0.0)
    objective = objective_with(CUTS["detach"])
    parts = [part_of(objective, rank, 2) for rank in range(2)]
    for one in (parts[0], objective, part_of(parts[1], 1, 2)):
        hessian(one)
        per_layer(one)
        assert len(seen) == 3
        assert hessian(one).checks["gradient_change_ok"] is True
    for one in (*parts, objective):
        gauss_newton(one)
        assert len(seen) == 6


def test_a_part_has_the_check_of_the_whole_whatever_is_in_it():
    objective = objective_with(CUTS["detach"])
    found = {hessian(part_of(objective, rank, 3)).checks["gradient_change"] for rank in range(3)}
    assert found == {hessian(objective).checks["gradient_change"]}


@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_a_check_that_takes_most_of_the_memory_is_left_out_and_said_to_be(make, monkeypatch):
    monkeypatch.setattr(differentiable, "_memory", lambda theta: 24 * 8 * theta.numel() - 1)
    checks = make(objective_with(CUTS["detach"])).checks
    assert math.isnan(checks["gradient_change"])
    assert checks["gradient_change_undecided"].endswith("over half of the memory")
    assert "gradient_change_ok" not in checks
    monkeypatch.setattr(differentiable, "_memory", lambda theta: 24 * 8 * theta.numel())
    assert make(objective_with(CUTS["detach"])).checks["gradient_change_ok"] is False


@pytest.mark.parametrize("make", [hessian, EMPIRICAL])
def test_a_loss_that_is_linear_in_the_outputs_is_checked_too(make):
    for function, right in ((Sine.apply, True), (Steeper.apply, False)):
        objective = objective_with(lambda x, function=function: function(x).log_softmax(1), loss=nn.NLLLoss())
        assert make(objective).checks["gradient_change_ok"] is right


def test_a_weighted_loss_is_checked_in_float64_with_its_weights():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    objective = objective_with(Steeper.apply, torch.float32, loss)
    for make in MATRICES.values():
        assert make(objective).checks["gradient_change_ok"] is False
    assert loss.weight.dtype == torch.float32


@pytest.mark.parametrize("name", NETS)
def test_a_network_of_torchs_own_functions_is_not_looked_at_further(name):
    objective = objective_of(name)
    for make in MATRICES.values():
        assert "gradient_change" not in make(objective).checks


def test_a_part_that_is_left_out_by_detaching_it_belongs_to_no_derivative():
    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(F.gelu(self.body(x)).detach())

    _, inputs, targets = build("tied")
    model = Probe().double()
    objective = Objective(model, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    for make in MATRICES.values():
        assert make(objective).checks["gradient_change_ok"] is False
    model.body.requires_grad_(False)  # the way to say it
    for make in MATRICES.values():
        assert make(Objective(model, nn.CrossEntropyLoss(), objective.batches)).checks.get("gradient_change_ok", True)
