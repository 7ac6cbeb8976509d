import torch

from train.streams import derived_seed, generator, seeded


def test_streams_differ_by_seed_and_by_purpose():
    seeds = {derived_seed(seed, purpose) for seed in range(10) for purpose in ("split", "noise")}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_does_not_depend_on_the_global_generator():
    torch.manual_seed(1)
    first = torch.rand(3, generator=generator(0, "split"))
    torch.manual_seed(2)
    assert torch.equal(first, torch.rand(3, generator=generator(0, "split")))


def test_seeded_repeats_inside_and_leaves_no_trace():
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(5, torch.device("cpu")):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)
