import os
import re

import pytest
import torch

import cli
from train.checkpoint import CheckpointError, UnsafeCheckpointError, content_hash, read, restore
from train.config import TrainConfig
from train.loop import train
from train.models import build
from train.weights import load_weights_


def net(*, num_classes=10, seed=0, name="resnet20"):
    return build(name, in_channels=1, num_classes=num_classes, seed=seed)


@pytest.fixture
def state():
    return net(seed=1).state_dict()


def write(content, path, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize(
    "wrap", [dict, lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("as_zip", [True, False])
def test_weights_of_the_usual_files_are_found(wrap, prefix, as_zip, state, tmp_path):
    content = wrap({prefix + name: tensor for name, tensor in state.items()})
    path = write(content, tmp_path / "a.pth", _use_new_zipfile_serialization=as_zip)
    model = net()
    assert load_weights_(model, path)
    assert content_hash(model.state_dict()) == content_hash(state)


def test_a_head_for_other_classes_stays_as_it_was_drawn(state, tmp_path):
    model, drawn = net(num_classes=7), net(num_classes=7).state_dict()
    assert not load_weights_(model, write(state, tmp_path / "a.pth"))
    found = model.state_dict()
    heads = {"linear.weight", "linear.bias"}
    assert all(torch.equal(found[name], drawn[name]) for name in heads)
    assert all(torch.equal(found[name], state[name]) for name in found.keys() - heads)


def test_counters_of_batches_may_be_missing_all_together(state, tmp_path):
    old = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    model = net()
    assert load_weights_(model, write(old, tmp_path / "a.pth"))
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    assert model.bn1.num_batches_tracked == 0


def test_names_of_torchvisions_densenet_file_are_understood(tmp_path):
    source = build("densenet121_imagenet_stem", in_channels=3, num_classes=1000, seed=1).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in source.items()
        if "num_batches" not in name
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    model = build("densenet121_imagenet_stem", in_channels=3, num_classes=10, seed=0)
    assert not load_weights_(model, write(old, tmp_path / "a.pth", _use_new_zipfile_serialization=False))
    layer = "features.denseblock4.denselayer16.conv2.weight"
    assert torch.equal(model.state_dict()[layer], source[layer])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b2", "mobilenet_v3_small", "squeezenet1_1"])
def test_the_head_of_a_classifier_of_torchvision_is_found(name, tmp_path):
    model = build(f"torchvision:{name}", in_channels=3, num_classes=9, seed=0)
    other = build(f"torchvision:{name}", in_channels=3, num_classes=8, seed=1).state_dict()
    assert not load_weights_(model, write(other, tmp_path / "a.pth"))
    kept = [key for key, tensor in model.state_dict().items() if tensor.shape != other[key].shape]
    assert len(kept) == 2
    assert all(torch.equal(tensor, other[key]) for key, tensor in model.state_dict().items() if key not in kept)


def test_auxiliary_heads_are_left_in_the_file(tmp_path):
    model = build("torchvision:googlenet", in_channels=3, num_classes=9, seed=0)
    content = model.state_dict() | {"aux1.fc1.weight": torch.zeros(3), "aux2.fc1.weight": torch.zeros(3)}
    assert load_weights_(model, write(content, tmp_path / "a.pth"))


def test_what_does_not_fit_is_named_and_the_model_stays_as_it_was(state, tmp_path):
    content = {name: tensor for name, tensor in state.items() if name != "bn1.bias"}
    content |= {"extra.weight": torch.zeros(2), "conv1.weight": torch.zeros(16, 3, 3, 3)}
    model, before = net(), content_hash(net().state_dict())
    expected = (
        r"a\.pth do not fit the model: missing bn1\.bias; unexpected extra\.weight; "
        r"wrong shape conv1\.weight is \(16, 3, 3, 3\), expected \(16, 1, 3, 3\)"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_weights_(model, write(content, tmp_path / "a.pth"))
    assert content_hash(model.state_dict()) == before


def test_weights_of_another_network_are_refused_in_one_short_line(tmp_path):
    path = write(net(name="resnet8").state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"missing conv1\.weight, .* and \d+ more; unexpected stem.* more"
    ) as caught:
        load_weights_(net(), path)
    assert len(str(caught.value)) < 500


def test_a_head_that_differs_in_more_than_its_classes_is_a_wrong_shape(state, tmp_path):
    content = state | {"linear.weight": torch.zeros(7, 65), "linear.bias": torch.zeros(7)}
    with pytest.raises(CheckpointError, match=r"wrong shape linear\.weight is \(7, 65\), expected \(10, 64\)"):
        load_weights_(net(), write(content, tmp_path / "a.pth"))


def test_weights_that_are_not_finite_are_refused(state, tmp_path):
    content = state | {"bn1.weight": torch.full((16,), torch.nan)}
    with pytest.raises(CheckpointError, match=r"holds weights that are not finite: bn1\.weight"):
        load_weights_(net(), write(content, tmp_path / "a.pth"))


@pytest.mark.parametrize("content", [{"epoch": 3, "args": "x"}, [1, 2], {}, {"model": {"a": 1}}])
def test_a_file_without_weights_is_refused(content, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no weights: .*; it has (epoch, args|list|dict|model)$"):
        load_weights_(net(), write(content, tmp_path / "a.pth"))


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_file_that_names_code_is_refused_and_nothing_runs(as_zip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write({"a": Command()}, tmp_path / "a.pth", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(UnsafeCheckpointError, match=r"a\.pth names code \(posix\.system\), which would run on loading"):
        load_weights_(net(), path)
    assert not (tmp_path / "ran").exists()


def test_damage_is_told_as_of_a_checkpoint(state, tmp_path):
    path = write(state, tmp_path / "a.pth")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_weights_(net(), path)


def test_a_run_starts_from_the_weights_and_needs_their_file_no_more(state, tmp_path):
    path = write(state, tmp_path / "a.pth")
    config = TrainConfig(model="resnet20", weights=str(path), epochs=1, batch_size=512, lr=1e-12)
    first = train(config, tmp_path / "run")
    path.unlink()
    model, _ = restore(read(tmp_path / "run"))
    assert torch.allclose(model.conv1.weight, state["conv1.weight"], rtol=0, atol=1e-9)
    again = train(config, tmp_path / "run", resume=True)
    assert again.already_finished
    assert again.metrics == first.metrics


def test_the_command_says_that_the_weights_are_not_there_and_leaves_nothing(tmp_path, capsys):
    assert cli.main(["train", "--weights", str(tmp_path / "no.pth"), "--out", str(tmp_path / "run")]) == 2
    assert f"weights: there is no file {tmp_path / 'no.pth'}" in capsys.readouterr().err
    assert list(tmp_path.glob("run/*")) == []


def test_images_that_the_network_does_not_take_are_one_line(tmp_path, capsys):
    arguments = ["train", "--model", "densenet121_imagenet_stem", "--out", str(tmp_path / "run")]
    assert cli.main(arguments) == 2
    expected = r"the network densenet121_imagenet_stem does not take images of 1x8x8: .*"
    assert re.search(expected, capsys.readouterr().err)
    assert list(tmp_path.glob("run/*")) == []
