import importlib.metadata
import sys

import pytest
import torch
from torch.nn import functional

import cli
from train import checkpoint as checkpoints
from train.checkpoint import Checkpoint, CheckpointError, restore
from train.config import TrainConfig
from train.data import load
from train.models import LibraryError, build
from train.resume import not_bit_identical


@pytest.fixture
def without_torchvision(monkeypatch):
    """As in a process that has not imported torchvision yet."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # torchvision's documentation
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("wide_resnet50_2", 68_883_240),
        ("efficientnet_b2", 9_109_994),
        ("efficientnet_b3", 12_233_232),
        ("efficientnet_b4", 19_341_616),
    ],
)
def test_a_classifier_has_its_parameters_and_as_many_logits_as_classes(name, expected):
    with torch.device("meta"):
        whole = build(f"torchvision:{name}", in_channels=3, num_classes=1000, seed=0)
        small = build(f"torchvision:{name}", in_channels=3, num_classes=37, seed=0)
        assert small.eval()(torch.empty(2, 3, 64, 64)).shape == (2, 37)
    assert sum(param.numel() for param in whole.parameters()) == expected


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:efficientnet_b2"])
def test_weights_of_a_library_follow_the_seed_and_leave_the_global_generator_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(name, in_channels=3, num_classes=5, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same = build(name, in_channels=3, num_classes=5, seed=0)
    other = build(name, in_channels=3, num_classes=5, seed=1)
    for a, b, c in zip(first.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.dim() == 1 or not torch.equal(a, c)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnet18",
        "torchvision:efficientnet_b2",
        "torchvision:resnet50",
        "torchvision:wide_resnet50_2",
        "torchvision:efficientnet_b3",
        "torchvision:efficientnet_b4",
    ],
)
def test_two_steps_count_two_batches_and_gradients_reach_every_parameter(name):
    model = build(name, in_channels=3, num_classes=5, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for dropout
        for _ in range(2):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()
    assert [key for key, param in model.named_parameters() if param.grad is None] == []
    assert {buffer.item() for key, buffer in model.named_buffers() if "num_batches" in key} == {2}
    assert all(torch.isfinite(param).all() for param in model.parameters())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_with_auxiliary_heads_comes_without_them(name):
    with torch.device("meta"):
        model = build(f"torchvision:{name}", in_channels=3, num_classes=5, seed=0)
        assert model(torch.empty(2, 3, 299, 299)).shape == (2, 5)


def test_what_is_no_classifier_of_torchvision_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"torchvision has no classifier 'resnet81'\. Did you mean 'resnet18' or "):
        build("torchvision:resnet81", in_channels=3, num_classes=5, seed=0)
    with pytest.raises(ValueError, match="torchvision has no classifier 'fasterrcnn_resnet50_fpn'"):
        build("torchvision:fasterrcnn_resnet50_fpn", in_channels=3, num_classes=5, seed=0)


def test_torchvision_refuses_images_that_are_not_in_colour():
    with pytest.raises(ValueError, match="torchvision:resnet18 takes images of 3 channels; the data has 1: use data"):
        build("torchvision:resnet18", in_channels=1, num_classes=5, seed=0)


@pytest.mark.parametrize("model", ["torchvision:resnet18", "densenet121_cifar_stem"])
def test_a_torchvision_built_for_another_torch_is_one_line_with_the_fix(
    model, without_torchvision, tmp_path, monkeypatch
):
    (tmp_path / "torchvision").mkdir()
    source = "raise RuntimeError('operator torchvision::nms does not exist\\nmore lines')"
    (tmp_path / "torchvision/__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    expected = (
        r"torchvision does not fit torch \S+ \(operator torchvision::nms does not exist\)\. "
        r"The fix: pip install --force-reinstall torch torchvision"
    )
    with pytest.raises(LibraryError, match=expected) as caught:
        build(model, in_channels=3, num_classes=5, seed=0)
    assert "\n" not in str(caught.value)


def test_the_fix_for_a_torch_without_cuda_names_its_index(without_torchvision, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(torch, "__version__", "2.15.0+cpu")
    with pytest.raises(LibraryError, match=r"^torchvision is not installed: pip .*, both from the index that"):
        build("torchvision:resnet18", in_channels=3, num_classes=5, seed=0)


def test_without_timm_the_error_is_one_line_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(LibraryError, match=r"^timm is not installed: pip install timm$"):
        build("timm:resnet18", in_channels=3, num_classes=5, seed=0)


def test_a_library_whose_own_library_is_missing_says_which(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "timm.py").write_text("import not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LibraryError, match=r"timm needs not_there, which is missing: pip install timm"):
        build("timm:resnet18", in_channels=3, num_classes=5, seed=0)


def test_the_command_ends_with_code_5_and_leaves_nothing_when_a_library_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert cli.main(["train", "--model", "timm:resnet18", "--out", str(tmp_path / "run")]) == 5
    assert capsys.readouterr().err.splitlines()[-1] == "landscape: timm is not installed: pip install timm"
    assert list(tmp_path.glob("run/*")) == []


def test_the_command_ends_with_code_2_when_torchvision_does_not_take_the_data(tmp_path, capsys):
    assert cli.main(["train", "--model", "torchvision:resnet18", "--out", str(tmp_path / "run")]) == 2
    assert "takes images of 3 channels; the data has 1" in capsys.readouterr().err
    assert list(tmp_path.glob("run/*")) == []


def test_a_network_of_timm_follows_the_seed_and_takes_any_channels():
    pytest.importorskip("timm", reason="the extra timm is not installed")
    first, same, other = (build("timm:resnet18", in_channels=1, num_classes=7, seed=seed) for seed in (0, 0, 1))
    assert first.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert TrainConfig(model="timm:resnet18").model == "timm:resnet18"


@pytest.mark.parametrize("name", ["resnet81", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp"])
def test_timm_names_that_are_unknown_or_would_be_fetched_are_refused(name):
    pytest.importorskip("timm", reason="the extra timm is not installed")
    with pytest.raises(ValueError, match=f"timm has no network '{name}'"):
        build(f"timm:{name}", in_channels=3, num_classes=7, seed=0)


@pytest.mark.parametrize(
    ("model", "library"),
    [("torchvision:resnet18", "torchvision"), ("densenet121_imagenet_stem", "torchvision"), ("timm:resnet18", "timm")],
)
def test_a_checkpoint_knows_the_version_of_the_library_that_its_network_is_from(
    model, library, without_torchvision, monkeypatch
):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"1.0 of {name}")
    ours = {"torch", "numpy", "scikit-learn", "threads"}
    assert set(checkpoints.versions_here(TrainConfig())) == ours
    found = checkpoints.versions_here(TrainConfig(model=model))
    assert set(found) == ours | {library}
    assert found[library] == f"1.0 of {library}"
    assert "torchvision" not in sys.modules


def test_a_run_that_goes_on_under_another_torchvision_says_so():
    config = TrainConfig(model="torchvision:resnet18")
    now = checkpoints.versions_here(config)
    assert not_bit_identical(written_by(config, now)) == ""
    told = not_bit_identical(written_by(config, now | {"torchvision": "0.1"}))
    assert told.startswith(f"Continued with torchvision 0.1 then, {now['torchvision']} now: not bit for bit")


def written_by(config, versions):
    return Checkpoint(
        config=config,
        model={},
        optimizer={},
        schedule={},
        rng={},
        data={},
        epoch=0,
        step=0,
        metrics={},
        versions=versions,
    )


def test_a_checkpoint_whose_network_cannot_be_built_says_why():
    config = TrainConfig(model="torchvision:resnet81")
    data = checkpoints.describe_data(config, load(config))
    checkpoint = Checkpoint(
        config=config, model={}, optimizer={}, schedule={}, rng={}, data=data, epoch=0, step=0, metrics={}, versions={}
    )
    with pytest.raises(CheckpointError, match=r"the model 'torchvision:resnet81' of the checkpoint cannot be built: "):
        restore(checkpoint)
