from pathlib import Path

from train.config import TrainConfig, words_of
from train.demo import METHODS, NOISE, train_commands


def test_each_run_of_the_demo_differs_from_sgd_in_its_method_and_radii_alone():
    runs = train_commands(Path("runs/demo"), 40)
    assert [*runs] == ["runs/demo/sgd", "runs/demo/sam", "runs/demo/agnostic-sam"]
    sam = TrainConfig(method="sam", rho=0.8, label_noise=NOISE)
    agnostic = TrainConfig(method="agnostic-sam", rho1=0.6, rho2=0.3, label_noise=NOISE)
    for config, name in ((sam, "sam"), (agnostic, "agnostic-sam")):
        assert sorted([*words_of(config.to_dict()), "--epochs", "40"]) == sorted(runs[f"runs/demo/{name}"][1:-2])
    assert {name: options[1] for name, options in METHODS.items()} == {name: name for name in METHODS}
