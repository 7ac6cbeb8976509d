from collections import namedtuple

import pytest
import torch
from torch import nn

from train.batches import MicroBatches, groups, nonoverlapping_order, part_sizes, split, weighted

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


@pytest.mark.parametrize(("total", "size"), [(1078, 128), (150, 15), (40, 20), (64, 64)])
def test_nonoverlapping_batches_have_two_fixed_sources_and_the_usual_sizes(total, size):
    first, second = part_sizes(size, 0.7)
    seen = [set(), set()]
    for epoch in range(20):
        rows = nonoverlapping_order(3, epoch, total, size, 0.7)
        assert rows.shape == (total // size, size)
        assert all(len(set(row.tolist())) == size for row in rows)
        for part, columns in zip(seen, rows.split([first, second], dim=1), strict=True):
            part |= set(columns.flatten().tolist())
    assert not seen[0] & seen[1]
    assert tuple(len(part) for part in seen) == part_sizes(total, 0.7)


def test_nonoverlapping_order_is_a_function_of_seed_and_epoch():
    first, again = (nonoverlapping_order(0, 1, 100, 10, 0.7) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, nonoverlapping_order(0, 2, 100, 10, 0.7))
    other = nonoverlapping_order(1, 1, 100, 10, 0.7)
    assert set(first[:, :7].flatten().tolist()) != set(other[:, :7].flatten().tolist())


def test_groups_are_what_shares_a_perturbation():
    pieces = [torch.arange(4), torch.arange(4, 9)]

    def sizes(batch, **options):
        return [[len(piece) for piece in group] for group in groups(batch, **options)]

    assert sizes(pieces[1]) == [[5]]
    assert sizes(pieces[1], m=2) == [[2], [2], [1]]
    assert sizes(MicroBatches(pieces)) == [[4, 5]]
    assert sizes(MicroBatches(pieces, "per-micro-batch")) == [[4], [5]]
    assert sizes(MicroBatches(pieces, "per-micro-batch"), m=3) == [[3], [1], [3], [2]]
    shares = weighted(groups(MicroBatches(pieces)))
    assert [share for _, share in shares[0]] == [4 / 9, 5 / 9]
    assert weighted([["anything"]]) == [[("anything", 1.0)]]


def test_bad_groups_are_refused():
    pieces = [torch.arange(4)]
    with pytest.raises(ValueError, match=r"accumulation must be one of \('exact', 'per-micro-batch'\), got 'mean'"):
        MicroBatches(pieces, "mean")
    with pytest.raises(ValueError, match="micro-batches are empty"):
        MicroBatches([])
    with pytest.raises(ValueError, match="m must be at least 1, got 0"):
        groups(pieces[0], m=0)
    with pytest.raises(ValueError, match="m perturbs chunks apart"):
        groups(MicroBatches(pieces), m=2)
