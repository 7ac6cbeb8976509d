"""What the demo trains: three methods on digits with wrong labels, each with the radius that did best."""

from __future__ import annotations

from pathlib import Path

NOISE = 0.4  # of the training labels are wrong
# Chosen once by benchmarks/methods.py: the best mean accuracy on clean validation labels.
METHODS = {
    "sgd": ["--method", "sgd"],
    "sam": ["--method", "sam", "--rho", "0.8"],
    "agnostic-sam": ["--method", "agnostic-sam", "--rho1", "0.6", "--rho2", "0.3"],
}
STORY = """\
Digits (1,797 images of 8x8), 40 % of the training labels wrong, one network, three methods, one
seed. Each method has the radius that did best after 40 epochs on clean validation labels
(benchmarks/methods.md, 5 seeds). There, on test data, SAM has 95.4 ± 0.8 %, SAM on 70 % of each
batch 94.3 ± 0.3 %, Agnostic-SAM 95.3 ± 0.5 % and SGD 70.8 ± 2.0 %. The demo shows what a pit of
memorised labels looks like, not which SAM is better."""


def train_commands(out: Path, epochs: int) -> dict[str, list[str]]:
    """The command line of each run, by the folder that it makes in `out`."""
    noise = ["--label-noise", str(NOISE), "--epochs", str(epochs)]
    return {str(out / name): ["train", *options, *noise, "--out", str(out / name)] for name, options in METHODS.items()}
