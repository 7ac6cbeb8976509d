"""What several seeds of one method say together, and whether two methods differ by more than their seeds do.

Checkpoints whose runs differ in nothing but their seeds are repeats of one method. Of a measure x, over the seeds of
two methods a and b (for eigenvalues x is ln lambda_max, so that exp of a difference is a ratio):

    d = mean(x_a) - mean(x_b)      s^2 = v_a + v_b,  v = variance(x) / n
    d +- t s                       t of Student, with s^4 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1)) degrees of freedom

(Welch 1947, Biometrika 34, 28.) The two differ by more than their seeds explain where that interval excludes 0. It is
of the means: with many seeds it excludes differences far smaller than the standard deviation. The intervals of one
sentence or column hold with 95 % together (Bonferroni). They hold what differs between seeds, so neither other data nor
other settings. Without a spread over the seeds there is no interval.

Legend: n seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from landscape.results import Array, Record

FEWEST_SEEDS = 3  # below, a spread says nothing
CONFIDENCE = 0.95

_SEEDS = ("seed", "data_seed")
_RADII = {"sgd": (), "sam": ("rho",), "sam-subset": ("rho",), "asam": ("rho",)}
_OF_SOME = {"rho", "rho1", "rho2", "eta", "split_ratio"}  # settings that not every method reads
_READ = {"asam": {"eta"}, "sam-subset": {"split_ratio"}}
_OF_STEPS = {"m", "sam_sync", "same_rng"}  # of perturbed steps; SGD has its BatchNorm by them, in processes on GPUs
_ASIDE = {  # how a run was made and watched, not what it is
    *("device", "data_root", "compile", "channels_last", "save_every", "probe_every", "probe_radius"),
    *_SEEDS,
}


@dataclass(frozen=True)
class Method:
    """Some checkpoints that are repeats of one method: its name, and which of all they are."""

    name: str
    members: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """A difference of two means over seeds with its interval; NaN where the seeds have no spread to hold it against."""

    difference: float
    low: float
    high: float

    @property
    def beyond_spread(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def methods(records: Sequence[Record]) -> list[Method]:
    """The methods with at least three seeds among the records of checkpoints: SGD first, the others as they appear.

    A method with a seed that stands twice is left out: which checkpoint is its own cannot be known.
    """
    keys = [method_key(record) for record in records]
    found: list[tuple[int, ...]] = []
    for key in dict.fromkeys(filter(None, keys)):
        members = tuple(n for n, other in enumerate(keys) if other == key)
        seeds = {_seeds(records[n]) for n in members}
        if len(seeds) == len(members) >= FEWEST_SEEDS:
            found.append(members)
    found.sort(key=lambda members: _config(records[members[0]]).get("method") != "sgd")
    runs = [record for record, key in zip(records, keys, strict=True) if key]
    return [Method(_named(records[members[0]], runs), members) for members in found]


def method_key(record: Record) -> str:
    """Equal for checkpoints that differ in nothing but their seeds; empty where a run's seed is not known."""
    return json.dumps(_described(record), sort_keys=True) if "seed" in _config(record) else ""


def method_told(record: Record) -> str:
    """The method of a run with its radii: "sam, rho 0.4"."""
    config = _config(record)
    method = str(record.get("method") or config.get("method") or "—")
    return ", ".join([method, *(f"{name} {config[name]}" for name in _radii(method) if config.get(name) is not None)])


def welch(a: Array, b: Array, *, comparisons: int = 1) -> Comparison:
    """The difference of the means of `a` and `b` with Welch's interval, 95 % for all `comparisons` together."""
    from scipy.special import stdtrit  # 0.15 s, which no --help should take

    difference = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2 or not np.isfinite([*a, *b]).all():
        return Comparison(difference, math.nan, math.nan)
    parts = [deviation(x) ** 2 / len(x) for x in (a, b)]
    if not sum(parts) > 0:
        return Comparison(difference, math.nan, math.nan)
    freedom = sum(parts) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(parts, (a, b), strict=True))
    half = float(stdtrit(freedom, 1 - (1 - CONFIDENCE) / 2 / comparisons)) * math.sqrt(sum(parts))
    return Comparison(difference, difference - half, difference + half)


def ratio(a: Array, b: Array, *, comparisons: int = 1) -> Comparison:
    """The ratio of the geometric means of `a` and `b`, as the exponential of `welch` of their logarithms, less 1.

    So that "beyond spread" says of it what it says of a difference. NaN where a value is not positive.
    """
    if not (np.asarray(a) > 0).all() or not (np.asarray(b) > 0).all():
        return Comparison(math.nan, math.nan, math.nan)
    found = welch(np.log(a), np.log(b), comparisons=comparisons)
    with np.errstate(over="ignore"):
        return Comparison(*(float(np.expm1(value)) for value in (found.difference, found.low, found.high)))


def deviation(values: Array) -> float:
    """The standard deviation over seeds; 0 where they differ by no more than rounding, NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    rounding = 8 * np.finfo(np.float64).eps * float(np.max(np.abs(values)))
    return 0.0 if np.ptp(values) <= rounding else float(np.std(values, ddof=1))


def _config(record: Record) -> Record:
    config = record.get("config")
    return config if isinstance(config, dict) else {}


def _described(record: Record) -> Record:
    """What makes a checkpoint of the method what it is: the settings that are read, and which one of the run it is."""
    config, file = _config(record), str(record.get("label") or "").rpartition("/")[2]
    method = str(config.get("method"))
    unread = _OF_SOME - {*_radii(method)} - _READ.get(method, {"split_ratio"} if "agnostic" in method else set())
    if method == "sgd":
        unread = unread | _OF_STEPS
    which: Record = {"file": file} if file in ("best.pt", "ema.pt") else {"epoch": record.get("epoch")}
    if method == "sgd" and config.get("device") != "cpu" and (config.get("m") or config.get("sam_sync") == "local"):
        which["sam_sync"] = "local"
    return which | {name: value for name, value in config.items() if name not in _ASIDE | unread}


def _radii(method: str) -> tuple[str, ...]:
    return _RADII.get(method, ("rho1", "rho2") if "agnostic" in method else ("rho", "rho1", "rho2"))


def _seeds(record: Record) -> tuple[str, ...]:
    return tuple(str(_config(record).get(name)) for name in _SEEDS)


def _named(record: Record, runs: Sequence[Record]) -> str:
    """Method and radii, and what else tells it from the others of these runs."""
    mine, told = _described(record), method_told({"config": _config(record)})
    same = [_described(other) for other in runs if method_told({"config": _config(other)}) == told]
    apart = [name for name in mine if any(other.get(name) != mine[name] for other in same)]
    if "epochs" in apart and mine.get("epoch") == mine["epochs"]:  # the last one of a run of so many
        apart.sort(key=lambda name: name == "epoch")
    needed = []
    for name in apart:  # until none of the others has the same name
        if any(other.get(name) != mine[name] for other in same):
            needed.append(name)
            same = [other for other in same if other.get(name) == mine[name]]
    method, *more = [*told.split(", "), *(f"{name} {mine[name]}" for name in needed)]
    return f"{method} ({', '.join(more)})" if more else method
