"""The experiments of arXiv:2406.07107 as settings: one file of recipes/ each.

    [recipe]        what it reproduces, from which source, the numbers expected, what the paper states, what we chose
    [settings]      settings that all its methods share
    [method.NAME]   settings of one method: its radii

A recipe is the preset "paper". The preset "clean" is the same without label smoothing, which the paper does not state
but the public code of its baselines has.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from train.config import TrainConfig

Preset = Literal["paper", "clean"]
Settings = Mapping[str, str | int | float]

_FOLDER = Path(__file__).with_name("recipes")
_TABLES = ("recipe", "settings", "method")
_TEXTS = ("title", "reproduces", "source", "quantity", "stated", "chosen")
_KEYS = (*_TEXTS, "expected", "requires")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment. `expected` is what the paper has of `quantity`, by method, as printed there.

    `stated` says which settings the paper gives, `chosen` which are our choice. `requires` names settings that no
    recipe can know, such as a file of weights.
    """

    name: str
    title: str
    reproduces: str
    source: str
    quantity: str
    expected: Mapping[str, str]
    stated: str
    chosen: str
    requires: tuple[str, ...]
    settings: Settings
    methods: Mapping[str, Settings]

    def config(self, method: str, *, preset: Preset = "paper", changes: Settings | None = None) -> TrainConfig:
        """The settings of a run of `method`; `changes` win over all others.

        Raises:
            ValueError: If the recipe lacks the method, a required setting is not among `changes`, or one is refused.

        Example:
            >>> read("cifar100-wrn28x10").config("agnostic-sam", changes={"seed": 3}).rho1
            0.2
        """
        changes = changes or {}
        if preset not in get_args(Preset):
            raise ValueError(f"preset must be one of {', '.join(get_args(Preset))}; got {preset!r}")
        if method not in self.methods:
            raise ValueError(f"the recipe {self.name} has the methods {', '.join(self.methods)}; got {method!r}")
        missing = [f"--{name.replace('_', '-')}" for name in self.requires if not changes.get(name)]
        if missing:
            raise ValueError(f"the recipe {self.name} needs {', '.join(missing)} as well")
        clean = {"label_smoothing": 0.0} if preset == "clean" else {}
        return TrainConfig.from_dict(
            {**self.settings, **self.methods[method], **clean, **changes, "method": method}  # the later win
        )


def names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        ValueError: If there is none; the message has the nearest names.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f". Did you mean {' or '.join(map(repr, near))}?" if near else ": --list-recipes shows them all"
        raise ValueError(f"there is no recipe {name!r}{hint}")
    return parse(name, (_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Recipe:
    """The recipe in the text of a file, checked: each of its methods makes settings that can be used.

    Raises:
        ValueError: If a table, key, type or value is not what it has to be; the message names those that are.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the recipe {name} is not TOML: {error}") from error
    _check_keys(name, "the file", content, _TABLES, needed=_TABLES)
    for table in _TABLES:
        _check_table(name, table, content[table])
    about, settings, methods = (content[table] for table in _TABLES)
    _check_about(name, about, methods)
    for method, own in methods.items():
        _check_table(name, f"method.{method}", own)
        for table, values in (("settings", settings), (f"method.{method}", own)):
            if "method" in values:
                raise ValueError(f"recipe {name}, [{table}]: the method is the name of a table, [method.NAME]")
            _check_settings(name, table, {**values, "method": method})
        _check_settings(name, f"method.{method}", {**settings, **own, "method": method})
    return Recipe(
        name=name,
        **{key: about[key] for key in _TEXTS},
        expected=about["expected"],
        requires=tuple(about.get("requires", ())),
        settings=settings,
        methods=methods,
    )


def _check_about(name: str, about: Mapping[str, object], methods: Mapping[str, object]) -> None:
    _check_keys(name, "[recipe]", about, _KEYS, needed=(*_TEXTS, "expected"))
    for key in _TEXTS:
        _check_text(name, key, about[key])
    expected, requires = about["expected"], about.get("requires", [])
    _check_table(name, "recipe.expected", expected)
    assert isinstance(expected, dict)
    _check_keys(name, "[recipe.expected]", expected, tuple(methods), needed=())
    for method, value in expected.items():
        _check_text(name, f"expected.{method}", value)
    settings = tuple(TrainConfig().to_dict())
    if not isinstance(requires, list):
        raise ValueError(f"recipe {name}: requires must be a list of settings; got {requires!r}")
    _check_keys(name, "requires", dict.fromkeys(map(str, requires)), settings, needed=())


def _check_keys(
    name: str, where: str, found: Mapping[str, object], allowed: tuple[str, ...], *, needed: tuple[str, ...]
) -> None:
    unknown = [key for key in found if key not in allowed]
    if unknown:
        raise ValueError(f"recipe {name}: {where} has {unknown[0]!r}, which is none of {', '.join(allowed)}")
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(f"recipe {name}: {where} lacks {', '.join(missing)}")


def _check_table(name: str, table: str, value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"recipe {name}: {table} must be a table, [{table}]; got {value!r}")


def _check_text(name: str, key: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"recipe {name}: {key} must be text in quotes; got {value!r}")


def _check_settings(name: str, table: str, values: Mapping[str, object]) -> None:
    try:
        TrainConfig.from_dict(values)
    except ValueError as error:
        raise ValueError(f"recipe {name}, [{table}]: {error}") from error
