"""Every choice of a training run, in one frozen object that is checked once, without torch.

A run folder keeps it as config.toml, a checkpoint as a dictionary of primitives.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

METHODS = ("sgd", "sam", "sam-subset", "asam", "agnostic-sam", "agnostic-sam-simple", "agnostic-sam-nonoverlap")
DATA = (
    *("digits", "digits32", "cifar10", "cifar100", "svhn", "mnist", "fashion-mnist", "kmnist"),
    *("flowers102", "stanford-cars", "aircraft", "pets", "imagenet"),
)
OWN_DATA = ("imagefolder", "npz")  # written imagefolder:PATH, npz:PATH
MODELS = (
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet56",
    "wrn16_4",
    "wrn40_2",
    "wrn28_10",
    "pyramidnet101_64",
    "pyramidnet110_84",
    "pyramidnet110_270",
    "densenet121_imagenet_stem",
    "densenet121_cifar_stem",
)
MODEL_LIBRARIES = ("torchvision:NAME", "timm:NAME")
DEVICES = ("auto", "cpu", "cuda")
AUGMENTATIONS = ("none", "paper")
PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("cosine", "step", "constant")
SYNCS = ("global", "local")

CHOICES = {
    "method": METHODS,
    "model": (*MODELS, *MODEL_LIBRARIES),
    "device": DEVICES,
    "augment": AUGMENTATIONS,
    "precision": PRECISIONS,
    "schedule": SCHEDULES,
    "sam_sync": SYNCS,
}
_SMALLEST = {"epochs": 1, "batch_size": 2, "m": 0, "probe_every": 0, "save_every": 0}
_LARGEST_SEED = 2**63  # seeds are hashed as decimal text, and stored as 64-bit integers


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of one run.

    `weights` is a file of pretrained weights to start from, or empty. `data` is a name, imagefolder:PATH or npz:PATH;
    `data_root` is the folder of those with a name ("": $LANDSCAPE_DATA, else ~/.cache/landscape/data). `augment`
    "paper" changes training images as arXiv:2406.07107 does. `val_fraction` of the training part, at most 10,000
    examples, is held out for validation where the data has no validation part of its own; 0 trains on all of it. Data
    in one piece is split 60/20/20, with 0 into 80/0/20.

    `lr` follows `schedule` after `warmup_epochs` of linear warm-up (train/schedule.py); `momentum`, `nesterov` and
    `weight_decay` are those of torch's SGD underneath every method. `label_smoothing` is of the training loss only;
    every loss that is reported is plain cross-entropy.

    `rho` is the radius of "sam", "sam-subset" and "asam" (whose paper takes 0.5), `eta` what "asam" adds to the size of
    a weight; `rho1`, `rho2` are the radii of the Agnostic-SAM methods. `split_ratio` is the share of a batch that is
    trained on where a method splits it. With `m` each chunk of m examples of a batch is perturbed by itself
    (m-sharpness; 0: the whole batch), on however many processes; without it `sam_sync` says whether several processes
    perturb together ("global", as one process would) or each by itself ("local"). With `same_rng` all passes of a step
    draw the same dropout masks. `label_noise` is the fraction of training labels that are changed. `data_seed`
    governs split and noise, `seed` the rest.

    `ema` is the decay per step of an average of the weights, kept as ema.pt and measured beside them (train/ema.py; 0:
    none). `precision` is that of the passes, by autocast; weights are float32. `channels_last` lays images and weights
    out with the channels innermost, `compile` compiles the passes of the steps (train/compiled.py): both change the
    last bits. The congruence probe runs every `probe_every` steps (0: about 160 probes a run, at least every 100 steps)
    at radius `probe_radius`. `save_every` epochs a checkpoint of its own is kept as epoch-0010.pt (0: none).

    Raises:
        ValueError: If a value is out of its range, of the wrong type, or not one of the choices.

    Example:
        >>> TrainConfig(method="sam", rho=0.1).rho
        0.1
        >>> TrainConfig(device="cude")
        Traceback (most recent call last):
        ValueError: device must be one of auto, cpu, cuda; got 'cude'. Did you mean 'cuda'?
    """

    method: str = "sgd"
    data: str = "digits"
    model: str = "resnet8"
    weights: str = ""
    epochs: int = 40
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    rho: float = 0.05
    rho1: float = 0.1
    rho2: float = 0.05
    eta: float = 0.01
    split_ratio: float = 0.7
    m: int = 0
    sam_sync: str = "global"
    same_rng: bool = False
    ema: float = 0.0
    data_root: str = ""
    val_fraction: float = 0.1
    augment: str = "none"
    label_noise: float = 0.0
    seed: int = 0
    data_seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    probe_every: int = 0
    probe_radius: float = 0.05
    save_every: int = 0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, _typed(item.name, str(item.type), getattr(self, item.name)))
        check_data(self.data)
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name, smallest in _SMALLEST.items():
            _check(name, getattr(self, name), getattr(self, name) >= smallest, f"at least {smallest}")
        for name in ("rho", "rho1", "rho2", "eta", "probe_radius", "weight_decay"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        for name in ("seed", "data_seed"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < _LARGEST_SEED, "at least 0 and below 2**63")
        for name in ("momentum", "label_noise", "label_smoothing", "val_fraction", "ema"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        _check("lr", self.lr, self.lr > 0, "above 0")
        _check("momentum", self.momentum, self.momentum > 0 or not self.nesterov, "above 0 with nesterov")
        wanted = f"at least 0 and below epochs ({self.epochs})"
        _check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs < self.epochs, wanted)
        _check(
            "m",
            self.m,
            self.m == 0 or self.method != "agnostic-sam-nonoverlap",
            "0 with agnostic-sam-nonoverlap, whose parts of a batch come from two sets",
        )
        _check("m", self.m, self.m <= self.batch_size, f"at most batch_size ({self.batch_size})")
        _check("split_ratio", self.split_ratio, 0 < self.split_ratio < 1, "above 0 and below 1")

    def to_dict(self) -> dict[str, str | int | float | bool]:
        """The settings as primitives."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> TrainConfig:
        """Settings from primitives; what is not given has its default.

        Raises:
            ValueError: If a key is unknown, or a value is refused.
        """
        names = [item.name for item in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise ValueError(
                    f"there is no setting {name!r}{_nearest(str(name), names)} The settings are {', '.join(names)}"
                )
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks each type

    def to_toml(self) -> str:
        """The settings as the text of a config.toml."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.to_dict().items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> TrainConfig:
        """Settings from the text of a config.toml; what is not given has its default.

        Raises:
            ValueError: If the text is not TOML, a key is unknown, or a value is refused.
        """
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"the settings are not TOML: {error}. Write lines such as: epochs = 40") from error
        return cls.from_dict(values)


def words_of(settings: Mapping[str, object]) -> list[str]:
    """The options of `landscape train` that make these settings: of each that is not the default.

    Example:
        >>> words_of({"method": "sam", "epochs": 40, "nesterov": True, "save_every": 2})
        ['--method', 'sam', '--nesterov', '--save-every', '2']
    """
    defaults, words = TrainConfig().to_dict(), list[str]()
    for name, value in settings.items():
        option = name.replace("_", "-")
        if value != defaults.get(name):
            words += (
                [f"--{option}" if value else f"--no-{option}"]
                if isinstance(value, bool)
                else [f"--{option}", str(value)]
            )
    return words


def differences(a: TrainConfig, b: TrainConfig) -> list[str]:
    """The names of the settings in which `a` and `b` differ."""
    return [item.name for item in dataclasses.fields(a) if getattr(a, item.name) != getattr(b, item.name)]


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a `value` that is none of the `choices`, and name the nearest.

    A choice such as "timm:NAME" stands for all values that begin with "timm:", whatever follows.

    Raises:
        ValueError: If `value` is not among the choices.
    """
    prefixes = tuple(choice.partition(":")[0] + ":" for choice in choices if ":" in choice)
    if value not in choices and (not value.startswith(prefixes) or value in prefixes):
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}; got {value!r}{_nearest(value, choices)}".rstrip(".")
        )


def check_data(value: str) -> None:
    """Refuse what is neither the name of a data set nor imagefolder:PATH or npz:PATH, and name the nearest.

    Raises:
        ValueError: If it is neither.
    """
    kind, _, path = value.partition(":")
    if kind in OWN_DATA and path:
        return
    check_choice("data", kind if kind in OWN_DATA else value, (*DATA, *(f"{own}:PATH" for own in OWN_DATA)))


def _nearest(value: str, choices: Sequence[str]) -> str:
    found = difflib.get_close_matches(value, choices, n=2)
    return f". Did you mean {' or '.join(repr(name) for name in found)}?" if found else "."


def _typed(name: str, kind: str, value: object) -> object:
    accepted = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}[kind]
    if isinstance(value, bool) != (kind == "bool") or not isinstance(value, accepted):
        wanted = {"str": "text in quotes", "int": "a whole number", "float": "a number", "bool": "true or false"}[kind]
        choices = f", one of {', '.join(CHOICES[name])}" if name in CHOICES else ""
        raise ValueError(f"{name} must be {wanted}{choices}; got {value!r}")
    if kind == "float":
        value = float(value)  # type: ignore[arg-type]  # 1 and 1.0 are the same setting
        _check(name, value, math.isfinite(value), "finite")
    return value


def _check(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}; got {value!r}")
