from collections import namedtuple

import pytest
import torch
from torch import nn

from train.batches import part_sizes, split

LINEAR = nn.Linear(1, 1)
NORMED = nn.BatchNorm1d(1)


@pytest.mark.parametrize(
    ("num_examples", "ratio", "sizes"),
    [
        (128, 0.7, (90, 38)),
        (5, 0.5, (3, 2)),
        (10, 0.25, (3, 7)),
        (10, 0.01, (1, 9)),
        (10, 0.99, (9, 1)),
        (2, 0.5, (1, 1)),
    ],
)
def test_part_sizes_round_half_up_and_leave_no_part_empty(num_examples, ratio, sizes):
    assert part_sizes(num_examples, ratio) == sizes


@pytest.mark.parametrize(("num_examples", "smallest"), [(1, 1), (0, 1), (3, 2), (2, 2)])
def test_a_batch_too_small_to_split_is_refused(num_examples, smallest):
    with pytest.raises(ValueError, match=f"a batch of {num_examples} cannot be split at 0.5 .*use a larger batch"):
        part_sizes(num_examples, 0.5, smallest=smallest)


def test_batch_norm_needs_two_examples_in_each_part():
    assert [len(part) for part in split(torch.zeros(3, 1), 0.7, model=LINEAR)] == [2, 1]
    with pytest.raises(ValueError, match="BatchNorm needs 2"):
        split(torch.zeros(3, 1), 0.7, model=NORMED)


def test_every_kind_of_batch_is_split_along_its_examples():
    x, y = torch.arange(4), torch.arange(4) + 10
    pair = namedtuple("pair", "x y")
    for batch in [(x, y), [x, y], {"x": x, "y": y}, pair(x, y), ({"x": x}, [y])]:
        first, second = split(batch, 0.5, model=LINEAR)
        assert type(first) is type(second) is type(batch)
        assert _values(first) == [[0, 1], [10, 11]]
        assert _values(second) == [[2, 3], [12, 13]]


def test_a_batch_that_cannot_be_split_says_why():
    with pytest.raises(ValueError, match=r"same number of examples, got \[3, 4\]"):
        split((torch.zeros(3), torch.zeros(4)), 0.5, model=LINEAR)
    with pytest.raises(TypeError, match="tensors; got str in it"):
        split((torch.zeros(3), "names"), 0.5, model=LINEAR)


def _values(batch):
    if isinstance(batch, torch.Tensor):
        return batch.tolist()
    found = [_values(value) for value in (batch.values() if isinstance(batch, dict) else batch)]
    return [value[0] if value and isinstance(value[0], list) else value for value in found]
