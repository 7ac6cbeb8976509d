import dataclasses

import pytest
import torch

from train.config import TrainConfig
from train.data import batch_order, content_hash, flip_labels, load, num_held_out, splits_hash


def test_digits_have_their_sizes_shapes_and_range():
    splits = load(TrainConfig())
    assert [len(part[1]) for part in (splits.train, splits.validation, splits.test)] == [1078, 359, 360]
    for inputs, targets in (splits.train, splits.validation, splits.test):
        assert inputs.shape == (len(targets), 1, 8, 8)
        assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
        assert (inputs.min(), inputs.max()) == (-1, 1)
    assert splits.num_classes == 10


def test_the_split_uses_every_example_once_and_keeps_the_share_of_each_class():
    from sklearn.datasets import load_digits

    splits = load(TrainConfig())
    parts = [splits.train, splits.validation, splits.test]
    rows = torch.cat([inputs.flatten(1) for inputs, _ in parts])
    pixels = torch.tensor(load_digits().data / 8 - 1, dtype=torch.float32)
    assert sorted(rows.tolist()) == sorted(pixels.tolist())
    counts = torch.stack([targets.bincount(minlength=10) for _, targets in parts]).double()
    expected = counts.sum(0) * torch.tensor([[0.6], [0.2], [0.2]])
    assert (counts - expected).abs().max() <= 1.5


def test_without_validation_its_examples_are_trained_on_and_the_test_part_stays():
    given, whole = load(TrainConfig()), load(TrainConfig(val_fraction=0))
    assert [len(part[1]) for part in (whole.train, whole.validation, whole.test)] == [1437, 0, 360]
    assert whole.validation[0].shape == (0, 1, 8, 8)
    for before, now in zip(given.test, whole.test, strict=True):
        assert torch.equal(before, now)
    both = torch.cat([given.train[0], given.validation[0]]).flatten(1)
    assert sorted(both.tolist()) == sorted(whole.train[0].flatten(1).tolist())


def test_a_tenth_is_what_integer_division_gave_and_never_more_than_ten_thousand():
    sizes = [*range(1, 3000), 2040, 3680, 50_000, 60_000, 73_257, 99_999, 100_001, 1_281_167]
    assert [num_held_out(n, 0.1, one_piece=False) for n in sizes] == [min(n // 10, 10_000) for n in sizes]
    assert num_held_out(50_000, 0.5, one_piece=False) == 10_000


def test_data_in_one_piece_has_two_splits():
    with pytest.raises(ValueError, match=r"val_fraction must be 0\.1 \(split 60/20/20\) or 0 \(80/0/20\) .*; got 0\.3"):
        load(TrainConfig(val_fraction=0.3))


def test_data_seed_alone_decides_split_and_noise():
    config = TrainConfig(label_noise=0.4)
    assert splits_hash(load(config)) == splits_hash(load(dataclasses.replace(config, seed=9)))
    assert splits_hash(load(config)) != splits_hash(load(dataclasses.replace(config, data_seed=1)))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 0.999])
def test_label_noise_changes_exactly_the_stated_training_labels(fraction):
    clean, noisy = load(TrainConfig()), load(TrainConfig(label_noise=fraction))
    changed = (noisy.train[1] != clean.train[1]).nonzero().flatten()
    assert len(changed) == round(fraction * 1078)
    assert torch.equal(changed, noisy.noise_indices)
    assert torch.equal(noisy.clean_train_targets, clean.train[1])
    assert torch.equal(noisy.train[0], clean.train[0])
    for part in ("validation", "test"):
        assert torch.equal(getattr(noisy, part)[1], getattr(clean, part)[1])


def test_label_noise_is_symmetric():
    targets = torch.arange(10).repeat(1000)
    noisy, indices = flip_labels(targets, fraction=0.9, num_classes=10, seed=0)
    assert len(indices) == 9000
    shifts = ((noisy - targets) % 10).bincount(minlength=10)
    assert shifts[0] == 1000
    assert (shifts[1:] - 1000).abs().max() < 5 * (1000 * 8 / 9) ** 0.5  # five standard deviations of a count


def test_batch_order_is_a_function_of_seed_and_epoch_and_drops_the_ragged_batch():
    order = batch_order(0, 3, 1078, 128)
    assert order.shape == (8, 128)
    assert len(set(order.flatten().tolist())) == 1024
    torch.manual_seed(99)
    assert torch.equal(order, batch_order(0, 3, 1078, 128))
    assert not torch.equal(order, batch_order(0, 4, 1078, 128))
    assert not torch.equal(order, batch_order(1, 3, 1078, 128))


def test_content_hash_sees_values_shapes_and_dtypes_but_not_strides():
    a = torch.arange(6.0)
    others = [a + 1, a.reshape(2, 3), a.double(), a.to(torch.bfloat16)]
    assert len({content_hash(tensor) for tensor in [a, *others]}) == 5
    grid = a.reshape(2, 3)
    assert content_hash(grid) == content_hash(grid.t().contiguous().t())
    assert content_hash(torch.tensor(1.0)) != content_hash(torch.tensor(2.0))
