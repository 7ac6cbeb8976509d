"""Augmentation is a pure function of (seed, epoch, row), and does by hand what it says."""

import pytest
import torch

from train.config import TrainConfig
from train.data import augment, augmented, load
from train.data.augment import crop_box, draws, jittered, shifted
from train.data.images import Files, Pixels


def drawn(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture
def pixels():
    values = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Pixels(values=values, mean=(0.0,) * 3, std=(1.0,) * 3, flips=True)


@pytest.fixture
def photographs(write):
    for n in range(5):
        write.jpg(write.folder / f"{n}.jpg", n, size=(300 + 40 * n, 260))
    return Files(folder=write.folder, names=tuple(f"{n}.jpg" for n in range(5)))


@pytest.fixture(autouse=True)
def folder(write, tmp_path):
    write.folder = tmp_path


@pytest.fixture(params=["pixels", "photographs", "digits"])
def images(request):
    if request.param == "digits":
        return load(TrainConfig()).train[0]
    return request.getfixturevalue(request.param)


def test_what_a_row_gets_depends_on_seed_epoch_and_row_alone(images):
    rows = torch.tensor([4, 0, 2])
    whole = augmented(images, rows, seed=1, epoch=3)
    torch.manual_seed(99)
    assert torch.equal(whole, augmented(images, rows, seed=1, epoch=3))
    assert torch.equal(whole[[2, 0]], augmented(images, rows[[2, 0]], seed=1, epoch=3))
    assert whole.shape == images[rows].shape
    assert whole.dtype == torch.float32


def test_other_seeds_epochs_and_rows_draw_other_numbers():
    rows = torch.arange(1000)
    samples = [draws(seed, epoch, rows, num=3) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    everything = torch.cat(samples).flatten()
    assert len(everything.unique()) == len(everything)
    assert everything.min() >= 0
    assert everything.max() < 1
    assert abs(everything.mean() - 0.5) < 4 * (1 / 12 / len(everything)) ** 0.5
    pairs = torch.corrcoef(torch.stack([column for sample in samples for column in sample.T]))
    assert (pairs - torch.eye(9)).abs().max() < 4.5 / 1000**0.5


def test_the_numbers_are_those_of_splitmix64():
    def mixed(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    key, golden = augment.derived_seed(5, "augmentation of epoch 2"), 0x9E3779B97F4A7C15
    state = mixed((8 * golden + key) % 2**64)
    expected = [(mixed((state + n * golden) % 2**64) >> 11) * 2.0**-53 for n in (1, 2, 3)]
    assert draws(5, 2, torch.tensor([7]), num=3)[0].tolist() == expected


def test_flip_and_crop_by_hand():
    image = torch.arange(32 * 32, dtype=torch.float64).view(1, 1, 32, 32)
    padded = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
    padded[..., 4:36, 4:36] = image
    mirrored = torch.zeros_like(padded)
    mirrored[..., 4:36, 4:36] = image.flip(3)
    assert torch.equal(shifted(image, drawn([0.9, 0.0, 0.999]), flips=True), padded[..., 0:32, 8:40])
    assert torch.equal(shifted(image, drawn([0.1, 0.999, 0.0]), flips=True), mirrored[..., 8:40, 0:32])
    assert torch.equal(shifted(image, drawn([0.1, 0.5, 0.5]), flips=True), image.flip(3))
    assert torch.equal(shifted(image, drawn([0.1, 0.5, 0.5]), flips=False), image)


def test_all_81_places_are_equally_likely_and_half_are_mirrored():
    sample = draws(0, 0, torch.arange(81_000), num=3)
    places = (sample[:, 1] * 9).long() * 9 + (sample[:, 2] * 9).long()
    assert (places.bincount(minlength=81) - 1000).abs().max() < 5 * 1000**0.5
    assert abs((sample[:, 0] < 0.5).double().mean() - 0.5) < 4 * 0.5 / 81_000**0.5


def test_padding_is_black_before_normalisation(pixels):
    white = Pixels(values=torch.full_like(pixels.values, 255), mean=(0.5,) * 3, std=(0.5,) * 3, flips=True)
    values = augmented(white, torch.arange(9), seed=0, epoch=0)
    assert set(values.unique().tolist()) == {-1.0, 1.0}


def test_digits_are_never_mirrored_and_padded_with_their_black():
    digits = load(TrainConfig()).train[0]
    rows = torch.arange(100)
    padded = torch.nn.functional.pad(digits[rows], (1, 1, 1, 1), value=-1.0)
    crops = torch.stack([padded[..., y : y + 8, x : x + 8] for y in range(3) for x in range(3)])
    found = augmented(digits, rows, seed=0, epoch=0)
    assert (crops == found).flatten(2).all(dim=2).any(dim=0).all()
    assert not load(TrainConfig(data="digits32")).train[0].flips


def test_a_crop_has_the_stated_share_and_sides():
    for sample in draws(0, 0, torch.arange(300), num=40).tolist():
        left, top, right, bottom = crop_box(500, 375, sample)
        assert 0 <= left < right <= 500
        assert 0 <= top < bottom <= 375
        assert 0.079 <= (right - left) * (bottom - top) / (500 * 375) <= 1.001
        assert 0.74 <= (right - left) / (bottom - top) <= 1.35


def test_where_no_attempt_fits_the_crop_is_central():
    assert crop_box(1000, 100, [0.999] * 40) == (433, 0, 566, 100)
    assert crop_box(100, 1000, [0.999] * 40) == (0, 433, 100, 566)


def test_a_photograph_is_cropped_as_torchvision_crops_the_same_box(photographs):
    from torchvision.transforms import functional

    rows = torch.tensor([3])
    numbers = draws(2, 1, rows, num=45)[0]
    left, top, right, bottom = crop_box(420, 260, numbers[5:].tolist())
    image = functional.resized_crop(photographs.decoded(3), top, left, bottom - top, right - left, [224, 224])
    image = functional.hflip(image) if numbers[0] < 0.5 else image
    tensor = functional.pil_to_tensor(image)[None]
    factors = 0.8 + 0.4 * numbers[3:5]
    tensor = functional.adjust_brightness(tensor, float(factors[0]))
    tensor = functional.adjust_contrast(tensor, float(factors[1]))
    tensor = functional.normalize(tensor / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    difference = (augmented(photographs, rows, seed=2, epoch=1) - tensor).abs()
    assert difference.max() <= 1 / 255 / 0.224 + 1e-4  # a level, where a product lies on a whole number
    assert (difference > 1e-4).double().mean() < 1e-3


def test_a_factor_of_one_changes_nothing(pixels):
    one = torch.ones(9)
    assert torch.equal(jittered(pixels.values, one, one), pixels.values)


@pytest.mark.gpu
def test_the_numbers_are_the_same_on_a_gpu(pixels):
    device, rows = torch.device("cuda"), torch.arange(9)
    assert torch.equal(draws(0, 1, rows.to(device), num=45).cpu(), draws(0, 1, rows, num=45))
    there = augmented(pixels.to(device), rows.to(device), seed=0, epoch=1)
    assert torch.equal(there.cpu(), augmented(pixels, rows, seed=0, epoch=1))
