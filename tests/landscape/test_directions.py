import pytest
import torch
from problems import build, in_batches, objective_of
from torch import nn

from landscape.directions import random_plane
from landscape.filters import filters
from landscape.objective import Objective

LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, groups=2), (4, 9), 1),
    "conv2d": (nn.Conv2d(4, 6, 3), (4, 5, 5), 1),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 3, 3, 3), 1),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3, groups=2), (4, 5), 1),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3), (4, 4, 4), 1),
    "conv_transpose3d": (nn.ConvTranspose3d(4, 6, 2, groups=2), (4, 2, 2, 2), 1),
    "conv2d_depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 5, 5), 1),
    "linear": (nn.Linear(4, 6), (4,), 1),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_filter_is_what_one_output_channel_depends_on(kind):
    layer, shape, dim = LAYERS[kind]
    rows = filters(layer, "weight", torch.arange(layer.weight.numel()).view(layer.weight.shape))
    output = layer(torch.rand(1, *shape) + 0.5)
    by_autograd = set()
    for channel in range(output.shape[dim]):
        gradient = torch.autograd.grad(output.select(dim, channel).sum(), layer.weight, retain_graph=True)[0]
        by_autograd.add(frozenset(gradient.flatten().nonzero().flatten().tolist()))
    assert {frozenset(row.tolist()) for row in rows} == by_autograd


@pytest.mark.parametrize("kind", LAYERS)
def test_directions_have_the_filter_norms_of_the_weights(kind):
    """The filters by autograd: for each output channel, the weights on which it depends."""
    layer, shape, dim = LAYERS[kind]
    inputs = torch.rand(1, *shape) + 0.5
    output = layer(inputs)
    objective = Objective(layer, nn.MSELoss(), [(inputs, torch.zeros_like(output))])
    moved = objective.named(random_plane(objective, seed=1).axes[0])["weight"]
    for channel in range(output.shape[dim]):
        gradient = torch.autograd.grad(output.select(dim, channel).sum(), layer.weight, retain_graph=True)[0]
        own = gradient != 0
        assert float(moved[own].norm()) == pytest.approx(float(layer.weight.detach()[own].norm()), rel=1e-6)


class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 8, padding_idx=0)
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True)
        self.lstm = nn.LSTM(8, 4, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.up = nn.ConvTranspose1d(4, 6, 3, groups=2)
        self.down = nn.Conv1d(6, 4, 3, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position
        x = self.attention(x, x, x, need_weights=False)[0]
        x = self.norm(self.lstm(x)[0]).transpose(1, 2)
        return self.head(self.down(self.up(x)).mean(2))


@pytest.fixture(scope="module")
def zoo():
    torch.manual_seed(0)
    net = Zoo()
    return Objective(net, nn.CrossEntropyLoss(), [(torch.randint(0, 7, (4, 5)), torch.tensor([0, 1, 2, 0]))])


def test_each_filter_has_the_norm_of_the_weights_own(zoo):
    checked = 0
    for axis in random_plane(zoo, seed=3).axes:
        for (name, moved), weight in zip(zoo.named(axis).items(), zoo.named(zoo.theta).values(), strict=True):
            owner, _, leaf = name.rpartition(".")
            rows = filters(zoo.model.get_submodule(owner), leaf, weight)
            if rows is None:
                assert moved.count_nonzero() == 0, name
                continue
            found = filters(zoo.model.get_submodule(owner), leaf, moved).norm(dim=1)
            torch.testing.assert_close(found, rows.norm(dim=1), rtol=1e-6, atol=0)
            checked += len(rows)
    assert checked == 2 * (7 + 1 + 24 + 8 + 16 + 16 + 6 + 4 + 3)  # embedding ... head


def test_what_has_no_filter_does_not_move(zoo):
    moved = zoo.named(random_plane(zoo).axes[0])
    still = {name for name, d in moved.items() if d.count_nonzero() == 0}
    one_dimensional = {name for name, shape in zoo.shapes.items() if len(shape) < 2}
    assert still == one_dimensional | {"attention.bias_k", "attention.bias_v"}


def test_the_padding_row_does_not_move_even_where_its_weights_are_not_zero():
    net = nn.Sequential(nn.Embedding(5, 4, padding_idx=1), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        net[0].weight[1] = 1.0
    objective = Objective(net, nn.CrossEntropyLoss(), [(torch.tensor([[0, 2]]), torch.tensor([1]))])
    moved = objective.named(random_plane(objective).axes[0])["0.weight"]
    assert moved[1].count_nonzero() == 0
    assert moved[0].count_nonzero() == 4


def test_a_tensor_of_unknown_kind_is_one_filter_and_named(zoo):
    assert random_plane(zoo).settings["whole_tensors"] == []  # position is (1, 5, 8): one filter anyway

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.Parameter(torch.randn(3, 4, 4))

        def forward(self, x):
            return x @ self.experts.sum(0)

    objective = Objective(Stack(), nn.MSELoss(), [(torch.randn(2, 4), torch.randn(2, 4))])
    assert random_plane(objective).settings["whole_tensors"] == ["experts"]


def test_a_plane_on_which_nothing_moves_is_refused():
    objective = Objective(nn.LayerNorm(4), nn.MSELoss(), [(torch.randn(2, 4), torch.randn(2, 4))])
    with pytest.raises(ValueError, match="no parameter moves"):
        random_plane(objective)


def test_filter_normalization_agrees_with_li_et_al_on_the_same_gaussian():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double()
    objective = Objective(net, nn.CrossEntropyLoss(), [(torch.randn(2, 1, 4, 4).double(), torch.tensor([0, 1]))])
    raw = objective.named(random_plane(objective, normalization="none", seed=5).axes[1])
    ours = objective.named(random_plane(objective, seed=5).axes[1])
    for name, weight in net.named_parameters():
        expected = torch.zeros_like(weight)
        if weight.dim() > 1:  # normalize_direction(..., 'filter'), ignore='biasbn'
            expected = raw[name].clone()
            for d, w in zip(expected, weight.detach(), strict=True):
                d.mul_(w.norm() / (d.norm() + 1e-10))
        torch.testing.assert_close(ours[name], expected, rtol=1e-9, atol=0)


def test_layer_normalization_gives_each_tensor_its_norm():
    objective = objective_of("conv_net")
    moved = objective.named(random_plane(objective, normalization="layer").axes[0])
    for name, weight in objective.named(objective.theta).items():
        assert moved[name].norm().item() == pytest.approx(weight.norm().item() if weight.dim() > 1 else 0.0)


def test_a_filter_of_norm_zero_does_not_move():
    net, inputs, targets = build("conv_net")
    with torch.no_grad():
        net[0].weight[1] = 0.0
    objective = Objective(net, nn.CrossEntropyLoss(), in_batches(inputs, targets))
    moved = objective.named(random_plane(objective).axes[0])["0.weight"]
    assert moved[1].count_nonzero() == 0
    assert moved.isfinite().all()


def test_a_tied_weight_moves_once():
    objective = objective_of("tied")
    plane = random_plane(objective)
    assert plane.axes.shape == (2, objective.theta.numel())
    assert "second.weight" not in objective.shapes


def test_directions_are_the_same_for_one_seed_whatever_the_random_state_and_dtype():
    first = random_plane(objective_of("conv_net"), seed=4)
    torch.rand(7)
    again = random_plane(objective_of("conv_net"), seed=4)
    single = random_plane(objective_of("conv_net", dtype=torch.float32), seed=4)
    assert first.axes.equal(again.axes)
    torch.testing.assert_close(single.axes.double(), first.axes, rtol=1e-5, atol=1e-7)
    assert not first.axes.equal(random_plane(objective_of("conv_net"), seed=5).axes)


def test_checkpoints_share_the_raw_directions_and_normalize_by_their_own_filters():
    one, other = objective_of("conv_net"), objective_of("conv_net")
    with torch.no_grad():
        for p in other.model.parameters():
            p.mul_(2.0)
    torch.testing.assert_close(random_plane(other).axes, 2 * random_plane(one).axes)
    assert random_plane(other, normalization="none").axes.equal(random_plane(one, normalization="none").axes)


def test_the_settings_say_what_the_axes_are():
    plane = random_plane(objective_of("conv_net"), seed=2)
    norms = plane.axes.norm(dim=1)
    assert plane.settings["axis_norms"] == pytest.approx(norms.tolist())
    assert plane.settings["axis_cosine"] == pytest.approx((plane.axes[0] @ plane.axes[1] / norms.prod()).item())


def test_an_unknown_normalization_names_the_choices():
    with pytest.raises(ValueError, match=r"one of \('filter', 'layer', 'none'\), got 'fliter'"):
        random_plane(objective_of("tied"), normalization="fliter")
