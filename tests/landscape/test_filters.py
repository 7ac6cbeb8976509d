import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from landscape.directions import random_plane
from landscape.filters import filter_groups, filters, groups_text
from landscape.objective import Objective


class Experts(nn.Module):
    """y = x W^T + b with W kept as (in, out), as GPT-2's Conv1D does; and one matrix for each of three experts."""

    def __init__(self):
        super().__init__()
        self.mixed = Conv1D(4, 5)
        self.experts = nn.Parameter(torch.randn(3, 5, 2))
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(torch.einsum("ni,eio->no", self.mixed(x), self.experts))


class Conv1D(nn.Module):
    def __init__(self, num_in, num_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_in, num_out))
        self.bias = nn.Parameter(torch.ones(num_out))

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.fixture
def experts():
    torch.manual_seed(0)
    return Objective(Experts().double(), nn.MSELoss(), [(torch.randn(2, 4).double(), torch.randn(2, 2).double())])


def test_an_output_dimension_overrides_by_type_of_module_and_by_name(experts):
    plane = random_plane(experts, output_dims={"Conv1D": 1, "experts": 0})
    theta, moved = experts.named(experts.theta), experts.named(plane.axes[0])
    torch.testing.assert_close(moved["mixed.weight"].norm(dim=0), theta["mixed.weight"].norm(dim=0))
    torch.testing.assert_close(moved["experts"].flatten(1).norm(dim=1), theta["experts"].flatten(1).norm(dim=1))
    assert not moved["mixed.bias"].any()
    assert plane.settings["output_dims"] == {"Conv1D": 1, "experts": 0}
    assert plane.settings["whole_tensors"] == []
    assert random_plane(experts).settings["whole_tensors"] == ["experts", "mixed.weight"]


def test_the_overridden_grouping_is_what_autograd_says(experts):
    layer = experts.model.mixed
    index = torch.arange(20).view(4, 5)
    rows = {frozenset(row.tolist()) for row in filters(layer, "weight", index, output_dim=1)}
    output = layer(torch.rand(1, 4).double() + 0.5)
    by_autograd = set()
    for channel in range(5):
        gradient = torch.autograd.grad(output[0, channel], layer.weight, retain_graph=True)[0]
        by_autograd.add(frozenset(gradient.flatten().nonzero().flatten().tolist()))
    assert rows == by_autograd


def test_an_override_that_fits_nothing_is_refused(experts):
    with pytest.raises(ValueError, match="no parameter or module type 'Conv1d'; the nearest: Conv1D"):
        random_plane(experts, output_dims={"Conv1d": 0})
    with pytest.raises(ValueError, match=r"experts of shape \(3, 5, 2\) has no dimension 3"):
        random_plane(experts, output_dims={"experts": 3})


def test_the_groups_say_how_each_parameter_is_cut_and_why():
    class Some(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 4, padding_idx=2)
            self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
            self.lstm = nn.LSTM(4, 3)
            self.up = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
            self.token = nn.Parameter(torch.ones(2, 1, 4))

        def forward(self, x):
            return x

    objective = Objective(Some(), nn.MSELoss(), [(torch.ones(1), torch.ones(1))])
    groups = {group["name"]: (group["num_filters"], group["rule"]) for group in filter_groups(objective)}
    assert groups["embedding.weight"] == (7, "Embedding: dimension 0, but row 2 (padding) does not move")
    assert groups["attention.in_proj_weight"] == (12, "MultiheadAttention: dimension 0")
    assert groups["attention.bias_k"] == (0, "bias_k of MultiheadAttention: does not move")
    assert groups["lstm.weight_hh_l0"] == (12, "LSTM: dimension 0")
    assert groups["lstm.bias_hh_l0"] == (0, "one-dimensional: does not move")
    assert groups["up.weight"] == (6, "ConvTranspose2d: one for each group and output channel")
    assert groups["token"] == (1, "of no known kind (Some): one filter")
    assert sum(1 for _ in groups) == len(objective.shapes)


class Scaled(nn.Module):
    """Channel scales as in ConvNeXt, and a norm whose scales have the shape of an image."""

    def __init__(self):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.rand(6, 1, 1))
        self.norm = nn.LayerNorm([6, 4, 4])
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return self.norm(x) * self.layer_scale


@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_scales_do_not_move_whatever_their_shape(normalization):
    model = nn.Sequential(nn.Conv2d(2, 6, 3), Scaled(), nn.Flatten(), nn.Linear(96, 3))
    objective = Objective(model, nn.CrossEntropyLoss(), [(torch.randn(2, 2, 6, 6), torch.tensor([0, 1]))])
    plane = random_plane(objective, normalization=normalization)
    moving = {name for name, d in objective.named(plane.axes[0]).items() if d.any()}
    assert moving == {"0.weight", "3.weight"}
    assert plane.settings.get("whole_tensors") == []


PARAMETRIZED = {
    "weight_norm": (parametrizations.weight_norm, ".parametrizations.weight.original1"),
    "older weight_norm": (weight_norm, ".weight_v"),
    "spectral_norm": (parametrizations.spectral_norm, ".parametrizations.weight.original"),
    "older spectral_norm": (spectral_norm, ".weight_orig"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", PARAMETRIZED)
def test_a_parametrized_weight_has_the_filters_of_its_module_and_magnitudes_stay(kind):
    parametrized, leaf = PARAMETRIZED[kind]
    plain = nn.Sequential(nn.ConvTranspose2d(2, 6, 3, groups=2), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    inputs = torch.randn(2, 2, 4, 4)
    expected = {
        name.split(".")[0]: group["num_filters"]
        for group in filter_groups(Objective(plain, nn.CrossEntropyLoss(), [(inputs, torch.tensor([0, 1]))]))
        if (name := group["name"]).endswith("weight")
    }
    for at in (0, 1, 3):
        plain[at] = parametrized(plain[at])
    objective = Objective(plain, nn.CrossEntropyLoss(), [(inputs, torch.tensor([0, 1]))])
    found = {group["name"]: group["num_filters"] for group in filter_groups(objective) if group["num_filters"]}
    assert found == {f"{at}{leaf}": count for at, count in expected.items()}
    plane = random_plane(objective)
    assert plane.settings["whole_tensors"] == []
    for name in found:
        moved, weight = (objective.named(one)[name] for one in (plane.axes[0], objective.theta))
        norms = [
            rows.flatten(1).norm(dim=1)
            for rows in (filters(plain[int(name[0])], leaf[1:], tensor) for tensor in (moved, weight))
        ]
        torch.testing.assert_close(*norms, rtol=1e-6, atol=0)


def test_an_override_by_type_is_of_the_parametrized_weights_too():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixed = parametrizations.spectral_norm(Conv1D(4, 5))

        def forward(self, x):
            return self.mixed(x)

    objective = Objective(Mixing(), nn.MSELoss(), [(torch.randn(2, 4), torch.randn(2, 5))])
    groups = filter_groups(objective, output_dims={"Conv1D": 1})
    assert {group["name"]: (group["num_filters"], group["rule"]) for group in groups} == {
        "mixed.bias": (0, "one-dimensional: does not move"),
        "mixed.parametrizations.weight.original": (5, "dimension 1, as given"),
    }
    assert random_plane(objective).settings["whole_tensors"] == ["mixed.parametrizations.weight.original"]


def test_a_table_of_filters_has_a_row_for_each_parameter():
    objective = Objective(nn.Conv2d(1, 12, 3), nn.MSELoss(), [(torch.randn(2, 1, 4, 4), torch.randn(2, 12, 2, 2))])
    assert groups_text(filter_groups(objective)).splitlines() == [
        "parameter  shape     filters  rule",
        "weight     12x1x3x3       12  Conv2d: dimension 0",
        "bias       12              0  one-dimensional: does not move",
    ]
