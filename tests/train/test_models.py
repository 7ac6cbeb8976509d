import copy
import functools
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from train import checkpoint as checkpoints
from train.checkpoint import Checkpoint, content_hash, read, restore, save
from train.config import MODELS, TrainConfig
from train.data import load
from train.models import build
from train.models.pyramidnet import PyramidBottleneck, pooled_and_padded
from train.models.resnet import strided_and_padded


@functools.cache
def built(name):
    return build(name, in_channels=1, num_classes=10, seed=5)


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return copy.deepcopy(built(name))


def images(name, num_images=4):
    size = 32 if name == "densenet121_imagenet_stem" else 8
    return torch.randn(num_images, 1, size, size, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    ("name", "in_channels", "num_classes", "expected"),
    [
        ("resnet8", 1, 10, 77_754),
        ("resnet8", 3, 10, 78_042),
        ("resnet20", 3, 10, 269_722),  # He et al. 2016, table 6: 0.27 M
        ("resnet32", 3, 10, 464_154),  # 0.46 M
        ("resnet56", 3, 10, 853_018),  # 0.85 M
        ("wrn16_4", 3, 10, 2_748_890),  # Zagoruyko & Komodakis 2016, table 4: 2.7 M
        ("wrn40_2", 3, 10, 2_243_546),  # 2.2 M
        ("wrn28_10", 3, 10, 36_479_194),  # 36.5 M
        ("wrn28_10", 3, 100, 36_536_884),
        ("pyramidnet101_64", 3, 100, 1_586_408),  # the authors' code: 1.59 M
        ("pyramidnet110_84", 3, 100, 3_913_536),  # 3.91 M
        ("pyramidnet110_270", 3, 100, 28_511_307),  # Han et al. 2017, table 4: 28.3 M and 28.5 M
        ("densenet121_imagenet_stem", 3, 1000, 7_978_856),  # torchvision's documentation
        ("densenet121_cifar_stem", 3, 1000, 7_978_856 - 64 * 3 * (49 - 9)),
    ],
)
def test_a_network_has_its_number_of_parameters(name, in_channels, num_classes, expected):
    with torch.device("meta"):
        model = build(name, in_channels=in_channels, num_classes=num_classes, seed=0)
    assert sum(param.numel() for param in model.parameters()) == expected


def test_one_training_pass_gives_logits_and_counts_one_batch_in_every_norm(name, model):
    assert all(module.training for module in model.modules())
    assert model(images(name)).shape == (4, 10)
    counters = [buffer.item() for key, buffer in model.named_buffers() if key.endswith("num_batches_tracked")]
    assert counters
    assert set(counters) == {1}


def test_the_gradient_reaches_every_parameter(name, model):
    model.eval()  # in train mode, a bias that only BatchNorm sees has none
    functional.cross_entropy(model(images(name)), torch.tensor([0, 1, 2, 3])).backward()
    assert [key for key, param in model.named_parameters() if not param.grad.any()] == []


def test_two_steps_lower_the_loss_and_leave_everything_finite(name, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    inputs, targets, losses = images(name), torch.tensor([0, 1, 2, 3]), []
    for _ in range(3):
        loss = functional.cross_entropy(model(inputs), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]
    assert checkpoints.nonfinite_names(model.state_dict()) == []


def test_images_in_colour_and_other_numbers_of_classes_are_taken(name):
    with torch.device("meta"):
        model = build(name, in_channels=3, num_classes=7, seed=0)
        assert model.eval()(torch.empty(2, 3, 32, 32)).shape == (2, 7)


def test_weights_follow_the_seed_and_leave_the_global_generator_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    same = build(name, in_channels=1, num_classes=10, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    first = built(name).state_dict()
    assert content_hash(same.state_dict()) == content_hash(first)


@pytest.mark.parametrize("name", ["resnet20", "wrn16_4", "pyramidnet101_64", "densenet121_cifar_stem"])
def test_another_seed_gives_other_weights(name):
    other = build(name, in_channels=1, num_classes=10, seed=6)
    pairs = zip(built(name).parameters(), other.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs if a.dim() > 1)


def test_a_checkpoint_of_any_network_reads_back(name, model, tmp_path):
    config = TrainConfig(model=name, seed=5)
    state = {
        key: tensor + 1 if tensor.dtype == torch.int64 else tensor * 1.5 for key, tensor in model.state_dict().items()
    }
    checkpoint = Checkpoint(
        config=config,
        model=state,
        optimizer={},
        schedule={},
        rng={},
        data=checkpoints.describe_data(config, load(config)),
        epoch=0,
        step=0,
        metrics={},
        versions=checkpoints.versions_here(config),
    )
    save(checkpoint, tmp_path / "last.pt")
    restored, _ = restore(read(tmp_path / "last.pt"))
    assert content_hash(restored.state_dict()) == content_hash(state)


def test_stages_halve_the_image_twice():
    model = copy.deepcopy(built("resnet8"))
    features = model.stem(torch.zeros(2, 1, 8, 8))
    shapes = []
    for stage in model.stages:
        features = stage(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet32", [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("wrn40_2", [(32, 32, 32), (64, 16, 16), (128, 8, 8)]),
        ("pyramidnet110_270", [(106, 32, 32), (196, 16, 16), (286, 8, 8)]),  # 16 + 5 k after k = 18, 36, 54 blocks
        ("pyramidnet101_64", [(4 * 37, 32, 32), (4 * 59, 16, 16), (4 * 80, 8, 8)]),  # 16 + 64 / 3 = 37.3, 58.7, 80
    ],
)
def test_stages_have_the_channels_of_the_papers(name, expected):
    with torch.device("meta"):
        model = build(name, in_channels=3, num_classes=10, seed=0)
        features = model.conv1(torch.empty(1, 3, 32, 32))
        shapes = []
        for stage in (model.layer1, model.layer2, model.layer3):
            features = stage(features)
            shapes.append(tuple(features.shape[1:]))
    assert shapes == expected


def test_the_shortcut_of_a_resnet_takes_every_second_pixel_between_channels_of_zeros():
    inputs = torch.arange(1.0, 33).reshape(1, 2, 4, 4)
    found = strided_and_padded(inputs, channels=4, stride=2)
    zero = [[0, 0], [0, 0]]
    assert found.tolist() == [[zero, [[1, 3], [9, 11]], [[17, 19], [25, 27]], zero]]
    assert torch.equal(strided_and_padded(inputs, channels=2, stride=1), inputs)


def test_the_shortcut_of_a_pyramidnet_averages_and_adds_zeros_as_the_last_channels():
    inputs = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    found = pooled_and_padded(inputs, channels=3, stride=2)
    zero = [[0, 0], [0, 0]]
    assert found.tolist() == [[[[3.5, 5.5], [11.5, 13.5]], zero, zero]]
    assert torch.equal(pooled_and_padded(inputs, channels=1, stride=1), inputs)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pyramid_block_whose_last_norm_is_zero_is_its_shortcut(stride):
    block = PyramidBottleneck(8, 3, stride)
    torch.nn.init.zeros_(block.bn4.weight)
    inputs = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(inputs), pooled_and_padded(inputs, channels=12, stride=stride))


@pytest.mark.parametrize("name", ["resnet20", "wrn16_4", "pyramidnet101_64"])
def test_convolutions_have_the_variance_of_he(name):
    model = copy.deepcopy(built(name))
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    largest = max(convolutions, key=lambda module: module.weight.numel())  # 36,864 draws or more: known to 0.4 %
    fan_out = largest.out_channels * largest.kernel_size[0] * largest.kernel_size[1]
    assert largest.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def test_the_draw_of_a_layer_depends_on_its_name_alone():
    shallow, deep = built("resnet20").state_dict(), built("resnet32").state_dict()
    shared = [key for key in shallow if key.endswith("weight") and shallow[key].dim() == 4]
    assert len(shared) == 19
    assert all(torch.equal(shallow[key], deep[key]) for key in shared)


def test_the_imagenet_stem_densenet_is_the_one_of_torchvision():
    from torchvision.models import densenet121

    with torch.random.fork_rng():
        theirs = densenet121(weights=None, num_classes=10).eval()
    ours = build("densenet121_imagenet_stem", in_channels=3, num_classes=10, seed=0).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(inputs), theirs(inputs))


def test_the_cifar_stem_keeps_the_size_of_the_image():
    with torch.device("meta"):
        shapes = {}
        for stem in ("imagenet", "cifar"):
            features = build(f"densenet121_{stem}_stem", in_channels=3, num_classes=10, seed=0).features
            shapes[stem] = features.pool0(features.conv0(torch.empty(2, 3, 32, 32))).shape[1:]
    assert shapes == {"imagenet": (64, 8, 8), "cifar": (64, 32, 32)}


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"model must be one of resnet8, .*timm:NAME; got 'wrn28x10'. .*'wrn28_10'"):
        build("wrn28x10", in_channels=1, num_classes=10, seed=0)


def test_the_digits_need_neither_torchvision_nor_timm():
    code = (
        "import sys, train.loop; from train.config import MODELS, TrainConfig; from train.data import load\n"
        "from train.models import build; load(TrainConfig())\n"
        "for name in MODELS:\n"
        "    if not name.startswith(('densenet', 'wrn28_10', 'pyramidnet110')):\n"
        "        build(name, in_channels=1, num_classes=10, seed=0)\n"
        "print([name for name in ('torchvision', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
