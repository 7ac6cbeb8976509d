import dataclasses

import pytest

from train.config import MODELS, TrainConfig, differences
from train.meanings import MEANINGS
from train.models import CONSTRUCTORS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("method", "agnostic", r"method must be one of sgd, sam, .*got 'agnostic'.* mean 'agnostic-sam'"),
        ("model", "resnet9", r"model must be one of resnet8, .*NAME; got 'resnet9'\. Did you mean 'resnet8' or"),
        ("model", "wrn28x10", r"got 'wrn28x10'\. Did you mean 'wrn28_10'"),
        ("model", "torchvison:resnet18", r"got 'torchvison:resnet18'\. Did you mean 'torchvision:NAME'\?"),
        ("model", "timm:", r"got 'timm:'\. Did you mean 'timm:NAME'\?"),
        ("weights", 3, r"weights must be text in quotes; got 3"),
        ("data", "qqq", r"data must be one of digits, digits32, cifar10, .*npz:PATH; got 'qqq'$"),
        ("device", "gpu", r"device must be one of auto, cpu, cuda; got 'gpu'"),
        ("precision", "bf", r"precision must be one of fp32, bf16, fp16; got 'bf'. Did you mean 'bf16'"),
        ("eta", -0.01, r"eta must be at least 0; got -0\.01"),
        ("schedule", "cosin", r"schedule must be one of cosine, step, constant; got 'cosin'\. Did you mean 'cosine'"),
        ("warmup_epochs", 40, r"warmup_epochs must be at least 0 and below epochs \(40\); got 40"),
        ("warmup_epochs", -1, r"warmup_epochs must be at least 0 .*; got -1"),
        ("label_smoothing", 1, r"label_smoothing must be at least 0 and below 1; got 1\.0"),
        ("save_every", -1, "save_every must be at least 0; got -1"),
        ("epochs", 0, "epochs must be at least 1; got 0"),
        ("epochs", 2.5, r"epochs must be a whole number; got 2\.5"),
        ("epochs", True, "epochs must be a whole number; got True"),
        ("batch_size", 1, "batch_size must be at least 2; got 1"),
        ("lr", 0, r"lr must be above 0; got 0\.0"),
        ("lr", float("nan"), "lr must be finite; got nan"),
        ("lr", float("inf"), "lr must be finite; got inf"),
        ("lr", "0.1", "lr must be a number; got '0.1'"),
        ("rho", -0.1, r"rho must be at least 0; got -0\.1"),
        ("rho1", float("nan"), "rho1 must be finite; got nan"),
        ("rho2", -1, r"rho2 must be at least 0; got -1\.0"),
        ("probe_radius", -1.0, "probe_radius must be at least 0"),
        ("probe_every", -1, "probe_every must be at least 0; got -1"),
        ("split_ratio", 1, r"split_ratio must be above 0 and below 1; got 1\.0"),
        ("label_noise", 1.0, r"label_noise must be at least 0 and below 1; got 1\.0"),
        ("ema", 1.0, r"ema must be at least 0 and below 1; got 1\.0"),
        ("val_fraction", 1.0, r"val_fraction must be at least 0 and below 1; got 1\.0"),
        ("momentum", 1.0, "momentum must be at least 0 and below 1"),
        ("nesterov", 1, "nesterov must be true or false; got 1"),
        ("weight_decay", -1.0, "weight_decay must be at least 0"),
        ("seed", -1, r"seed must be at least 0 and below 2\*\*63; got -1"),
        ("data_seed", 2**63, r"data_seed must be at least 0 and below 2\*\*63"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(name, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig(**{name: value})
    assert "\n" not in str(caught.value)


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match=r"momentum must be above 0 with nesterov; got 0\.0"):
        TrainConfig(nesterov=True, momentum=0.0)


@pytest.mark.parametrize("name", [*MODELS, "torchvision:resnet18", "timm:vit_tiny_patch16_224"])
def test_a_model_is_one_of_ours_or_a_library_with_a_name(name):
    assert TrainConfig(model=name).model == name


def test_toml_and_dictionary_give_the_settings_back():
    config = TrainConfig(method="agnostic-sam", lr=1e-5, rho1=0.25, seed=2**63 - 1, label_noise=0.4, same_rng=True)
    assert TrainConfig.from_toml(config.to_toml()) == config
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert {type(value) for value in config.to_dict().values()} == {str, int, float, bool}


def test_a_whole_number_is_the_same_setting_as_its_float():
    assert TrainConfig(lr=1) == TrainConfig(lr=1.0)
    assert TrainConfig(lr=1).to_toml() == TrainConfig(lr=1.0).to_toml()


def test_toml_names_what_it_refuses():
    with pytest.raises(ValueError, match=r"no setting 'epoch'\. Did you mean 'epochs'\? The settings are method, data"):
        TrainConfig.from_toml("epoch = 3")
    with pytest.raises(ValueError, match=r"method must be text in quotes, one of sgd, sam.*; got 3"):
        TrainConfig.from_toml("method = 3")
    with pytest.raises(ValueError, match=r"not TOML: .*line 1"):
        TrainConfig.from_toml("epochs 3")


def test_differences_names_each_setting_that_differs():
    config = TrainConfig()
    assert differences(config, config) == []
    assert differences(config, dataclasses.replace(config, seed=1, lr=0.2)) == ["lr", "seed"]


def test_the_listed_models_are_the_ones_that_can_be_built():
    assert tuple(CONSTRUCTORS) == MODELS


def test_every_setting_has_a_meaning():
    assert sorted(MEANINGS) == sorted(TrainConfig().to_dict())
