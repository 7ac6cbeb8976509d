import torch

from train.data import Batches, sample

PART = (torch.arange(20.0).reshape(10, 2, 1, 1), torch.arange(10))


def test_batches_are_the_part_in_its_order_on_each_pass():
    batches = Batches(*PART, size=4)
    for _ in range(2):
        inputs, targets = zip(*batches, strict=True)
        assert [len(one) for one in targets] == [4, 4, 2]
        assert torch.equal(torch.cat(inputs), PART[0])
        assert torch.equal(torch.cat(targets), PART[1])


def test_a_sample_is_of_pairs_that_belong_together_and_of_its_seed():
    inputs, targets = sample(PART, 6, seed=3)
    assert torch.equal(inputs[:], PART[0][targets])
    assert torch.equal(targets, targets.unique())
    assert torch.equal(sample(PART, 6, seed=3)[1], targets)
    assert any(not torch.equal(sample(PART, 6, seed=seed)[1], targets) for seed in range(3))
    assert torch.equal(sample(PART, 10, seed=0)[1], PART[1])
