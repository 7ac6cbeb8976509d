import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from landscape.losses import check_reduction, check_stated_reduction, terms

CLASS_LOSSES = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), label_smoothing=0.2),
    nn.CrossEntropyLoss(ignore_index=1),
    nn.CrossEntropyLoss(reduction="sum"),
    F.cross_entropy,
]
ELEMENT_LOSSES = [
    nn.MSELoss(),
    nn.L1Loss(),
    nn.SmoothL1Loss(),
    nn.HuberLoss(delta=0.3),
    nn.BCEWithLogitsLoss(),
    F.mse_loss,
]


def name_of(loss):
    return getattr(loss, "__name__", None) or str(loss)


def mean_by_terms(loss, outputs, targets, sizes, reduction=None):
    found = [
        terms(loss, o, t, reduction=reduction) for o, t in zip(outputs.split(sizes), targets.split(sizes), strict=True)
    ]
    return sum(f.loss.sum() for f in found) / sum(f.denominator.sum() for f in found)


def as_mean(loss):
    return nn.CrossEntropyLoss() if isinstance(loss, nn.Module) and loss.reduction == "sum" else loss


@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=name_of)
@pytest.mark.parametrize("shape", [(), (4,)], ids=["one target", "targets at 4 places"])
def test_sums_over_ragged_batches_are_torchs_mean_over_all(loss, shape):
    torch.manual_seed(0)
    outputs = torch.randn(11, 3, *shape, dtype=torch.float64)
    targets = torch.randint(0, 3, (11, *shape))
    expected = as_mean(loss)(outputs, targets)
    torch.testing.assert_close(mean_by_terms(loss, outputs, targets, [5, 5, 1]), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ELEMENT_LOSSES, ids=name_of)
def test_elementwise_losses_divide_by_elements(loss):
    torch.manual_seed(0)
    outputs, targets = torch.randn(11, 3, dtype=torch.float64), torch.rand(11, 3, dtype=torch.float64)
    torch.testing.assert_close(mean_by_terms(loss, outputs, targets, [5, 5, 1]), loss(outputs, targets))


def test_class_probabilities_divide_by_the_number_of_targets():
    torch.manual_seed(0)
    outputs = torch.randn(11, 3, dtype=torch.float64)
    targets = torch.randn(11, 3, dtype=torch.float64).softmax(1)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    torch.testing.assert_close(mean_by_terms(loss, outputs, targets, [5, 6]), loss(outputs, targets))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_unknown_loss_with_its_reduction_given_is_weighted_by_examples(reduction):
    torch.manual_seed(0)
    outputs, targets = torch.randn(11, 3, dtype=torch.float64), torch.randn(11, 3, dtype=torch.float64)

    def loss(output, target):
        each = (output - target).abs().pow(3).sum(1)
        return each.mean() if reduction == "mean" else each.sum()

    check_reduction(loss, outputs, targets, reduction)
    expected = (outputs - targets).abs().pow(3).sum(1).mean()
    torch.testing.assert_close(mean_by_terms(loss, outputs, targets, [5, 6], reduction), expected)


def test_a_wrong_reduction_is_found_by_doubling_the_batch():
    outputs, targets = torch.ones(4, 3), torch.zeros(4, 3)
    with pytest.raises(ValueError, match="is not a mean: a batch gives 12, the same batch twice 24, expected 12"):
        check_reduction(lambda o, t: (o - t).abs().sum(), outputs, targets, "mean")


def test_a_mean_over_something_else_than_examples_is_found_out():
    def masked(output, target):
        return ((output - target) * (target > 0)).sum() / (target > 0).sum()

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="is not a mean over examples: two parts of a batch give"):
        check_reduction(masked, torch.randn(12, 3), torch.randn(12, 3), "mean")


@pytest.mark.parametrize(
    ("loss", "reduction", "message"),
    [
        (nn.MSELoss(), "foo", r"reduction must be one of \('mean', 'sum'\), got 'foo'"),
        (nn.MSELoss(), "sum", r"reduction='sum' contradicts MSELoss\(\), which has reduction='mean'"),
    ],
)
def test_a_stated_reduction_that_cannot_be_is_refused(loss, reduction, message):
    with pytest.raises(ValueError, match=message):
        check_stated_reduction(loss, reduction)


def test_an_unknown_reduction_must_be_given():
    with pytest.raises(ValueError, match=r"say reduction='mean' or 'sum' .got None."):
        check_reduction(lambda o, t: (o - t).sum(), torch.ones(4, 3), torch.zeros(4, 3), None)


def test_a_loss_for_each_example_must_be_reduced_first():
    with pytest.raises(ValueError, match="expected one number"):
        check_reduction(lambda o, t: (o - t).sum(1), torch.ones(4, 3), torch.zeros(4, 3), "mean")


def test_correct_predictions_leave_ignored_targets_out():
    outputs = torch.eye(3)
    found = terms(nn.CrossEntropyLoss(ignore_index=2), outputs, torch.tensor([0, 0, 2]), reduction=None)
    assert (int(found.correct), int(found.targets)) == (1, 2)
