import pytest
import torch
from problems import NETS, build, dense_hessian, in_batches, objective_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape import engines
from landscape.objective import Objective
from landscape.operators import SymmetricOperator, hessian, per_layer, restricted


def columns(operator):
    return torch.stack([operator.matvec(e) for e in torch.eye(operator.size, dtype=operator.dtype)])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["recomputed", "retained"])
def test_products_are_those_of_the_dense_hessian(name, memory):
    """Ragged last batch, BatchNorm in eval mode, attention, tied and unused weights included."""
    objective = objective_of(name)
    assert objective.theta.numel() <= 500
    truth = dense_hessian(objective)
    found = columns(hessian(objective, memory_bytes=memory))
    assert (found - truth).abs().max() <= 1e-8 * truth.abs().max()


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)),
    ],
    ids=str,
)
def test_the_loss_divides_by_its_own_denominators(loss):
    objective = objective_of("tied", loss)
    truth = dense_hessian(objective)
    assert (columns(hessian(objective)) - truth).abs().max() <= 1e-8 * truth.abs().max()


def test_mean_squared_error_of_a_linear_net_is_two_x_x_over_n():
    torch.manual_seed(0)
    inputs, targets = torch.randn(10, 3).double(), torch.randn(10, 1).double()
    net = nn.Linear(3, 1, bias=False).double()
    objective = Objective(net, nn.MSELoss(), in_batches(inputs, targets, [8, 2]))
    torch.testing.assert_close(columns(hessian(objective)), 2 / 10 * inputs.T @ inputs)


def test_a_loss_linear_in_theta_has_curvature_zero():
    net = nn.Linear(3, 1).double()
    objective = Objective(net, lambda o, t: (o * t).sum(), [(torch.ones(2, 3).double(),) * 2], reduction="sum")
    assert hessian(objective).matvec(objective.theta).count_nonzero() == 0


def test_the_operator_knows_its_loss_and_size():
    objective = objective_of("conv_net")
    operator = hessian(objective)
    assert operator.shape == (objective.theta.numel(),) * 2
    assert operator.loss == objective.evaluate().loss


def test_a_shuffling_loader_gives_the_same_product_whatever_is_kept():
    _, inputs, targets = build("conv_net")
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=True)
    truth = dense_hessian(objective_of("conv_net"))
    for memory in (0, 15_000, 30_000, 1 << 30):
        operator = hessian(Objective(build("conv_net")[0], nn.CrossEntropyLoss(), loader), memory_bytes=memory)
        torch.rand(3)
        assert (columns(operator) - truth).abs().max() <= 1e-8 * truth.abs().max()


def entries_of(objective, layer):
    """Which entries of theta belong to a module itself."""
    sizes = [(name.rpartition(".")[0] == layer, shape.numel()) for name, shape in objective.shapes.items()]
    return torch.cat([torch.full((size,), its) for its, size in sizes])


@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["recomputed", "retained"])
@pytest.mark.parametrize("name", NETS)
def test_the_blocks_of_the_layers_are_those_of_the_dense_hessian(name, memory):
    objective = objective_of(name)
    truth = dense_hessian(objective)
    blocks = per_layer(objective, memory_bytes=memory)
    assert sum(block.size for block in blocks.values()) == objective.theta.numel()
    for layer, block in blocks.items():
        inside = entries_of(objective, layer)
        expected = truth[inside][:, inside]
        assert (columns(block) - expected).abs().max() <= 1e-10 * truth.abs().max()
        assert block.settings["layer"] == layer
        assert block.loss == objective.evaluate().loss


def test_a_layer_is_a_module_with_parameters_of_its_own_in_the_order_of_theta():
    assert list(per_layer(objective_of("tied"))) == ["first", "second", "head"]
    assert list(per_layer(objective_of("attention"))) == ["attention", "attention.out_proj", "head"]


@pytest.mark.parametrize("engine", ["retained", "recomputed", "forward-over-reverse", "finite-differences"])
def test_the_block_of_some_parameters_is_that_of_the_dense_hessian(engine):
    objective = objective_of("attention")
    names = ["attention.out_proj.weight", "head.bias"]
    inside = torch.cat([torch.full((shape.numel(),), name in names) for name, shape in objective.shapes.items()])
    expected = dense_hessian(objective)[inside][:, inside]
    operator = hessian(objective, engine=engine, only=names)
    tolerance = 1e-5 if engine == "finite-differences" else 1e-10
    assert (columns(operator) - expected).abs().max() <= tolerance * expected.abs().max()
    assert operator.shape == expected.shape
    assert operator.settings["num_kept"] == int(inside.sum())


@pytest.mark.parametrize(("names", "told"), [(["head.weight", "haed.bias"], "got haed.bias"), ([], "got none")])
def test_a_block_of_unknown_parameters_is_refused(names, told):
    with pytest.raises(ValueError, match=f"only takes names of trainable parameters, {told}"):
        hessian(objective_of("tied"), only=names)


def test_all_layers_share_one_set_of_graphs(monkeypatch):
    built, graph = [], engines.DoubleBackward.graph
    monkeypatch.setattr(engines.DoubleBackward, "graph", lambda rule, piece: built.append(piece) or graph(rule, piece))
    for block in per_layer(objective_of("conv_net")).values():
        block.matvec(torch.ones(block.size, dtype=torch.float64))
        block.matvec(torch.ones(block.size, dtype=torch.float64))
    assert len(built) == 1 + 3  # one to see how much memory it takes, then one for each batch


def test_a_restricted_operator_is_the_block_with_zeros_around_it():
    objective = objective_of("tied")
    keep = entries_of(objective, "second")
    operator = restricted(hessian(objective), keep)
    expected = dense_hessian(objective) * keep * keep[:, None]
    assert (columns(operator) - expected).abs().max() <= 1e-10
    assert (operator.matvecs(torch.eye(len(keep), dtype=torch.float64)) - expected).abs().max() <= 1e-10
    assert operator.settings["num_kept"] == int(keep.sum())
    bare = SymmetricOperator(lambda v: 2 * v, 3, torch.float64)
    assert restricted(bare, torch.tensor([True, False, True])).matvecs is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    objective = objective_of("conv_net")
    with torch.no_grad():
        objective.model[4].bias[1] = value
    with pytest.raises(ValueError, match=r"hold NaN or infinities, there is no curvature: 4\.bias\. Take another"):
        hessian(objective)
    with torch.no_grad():
        for p in objective.model.parameters():
            p.fill_(value)
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias, 1\.weight, 1\.bias, 4\.weight and 1 more"):
        per_layer(Objective(objective.model, objective.loss, objective.batches))


def test_one_example_and_one_parameter_have_a_hessian():
    net = nn.Linear(1, 1, bias=False).double()
    objective = Objective(net, nn.MSELoss(), [(torch.full((1, 1), 3.0).double(), torch.ones(1, 1).double())])
    assert hessian(objective).matvec(torch.ones(1).double()).item() == pytest.approx(18.0)


def test_products_are_linear_and_symmetric():
    operator = hessian(objective_of("attention"))
    u, v = torch.randn(2, operator.size, dtype=torch.float64)
    torch.testing.assert_close(operator.matvec(2 * u - 3 * v), 2 * operator.matvec(u) - 3 * operator.matvec(v))
    assert float(u @ operator.matvec(v)) == pytest.approx(float(v @ operator.matvec(u)), rel=1e-10)


def test_measuring_leaves_everything_as_it_was_also_after_an_error(monkeypatch):
    objective = objective_of("batch_norm_net")
    model = objective.model.train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    operator = hessian(objective, engine="timed")
    operator.matvec(objective.theta)
    for rule in (engines.DoubleBackward, engines.ForwardOverReverse):
        monkeypatch.setattr(rule, "product", lambda *_: torch.ones(2) + torch.ones(3))
    with pytest.raises(RuntimeError, match="must match"):
        operator.matvec(objective.theta)
    assert all(model.state_dict()[name].equal(value) for name, value in state.items())
    assert model[0].weight.grad.equal(torch.ones_like(model[0].weight))
    assert model[4].weight.grad is None
    assert all(module.training for module in model.modules())
    assert torch.get_rng_state().equal(random)


def test_a_product_takes_vectors_of_its_own_size_alone():
    operator = hessian(objective_of("unused"))
    for wrong, told in (
        (torch.ones(3), r"\(3,\) of torch.float32"),
        (torch.ones(28).long(), r"\(28,\) of torch.int64"),
    ):
        with pytest.raises(ValueError, match=f"takes a vector of 28 floating-point numbers, got {told}"):
            operator.matvec(wrong)


def test_a_model_in_place_of_an_objective_is_refused():
    for make in (hessian, per_layer):
        with pytest.raises(TypeError, match=r"that of an objective, Objective\(model, loss, batches\), got a Linear"):
            make(nn.Linear(2, 1))


def test_an_embedding_with_sparse_gradients_is_named():
    net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(4, 3))
    objective = Objective(net, nn.CrossEntropyLoss(), [(torch.arange(9)[:, None], torch.arange(9) % 3)])
    with pytest.raises(ValueError, match=r"sparse gradients have no second derivative: set \.sparse = False on 0$"):
        hessian(objective)
