"""What may be said of methods: their measures over seeds, and whether these differ by more than the seeds do.

Fewer than two methods with three seeds each: nothing, for then there are only checkpoints to speak of. The statistics
are those of `landscape.methods`; every other method is held against the first, which is SGD where SGD is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from landscape.formatting import plus_minus, short, signed
from landscape.grouping import conditions
from landscape.methods import Comparison, deviation, methods, ratio, welch
from landscape.readings import certified, largest, places
from landscape.results import Array, Eigenpairs

_WAYS = {"batch_norm": "BatchNorm", "precision": "precision"}
MOST_COMPARED = 3  # methods in a sentence, besides the one they are held against; of more only how many differ


@dataclass(frozen=True, eq=False)
class OverSeeds:
    """A measure of one method, a value for each seed, and the losses that it was measured at (NaN: not known).

    `data` has the `conditions` of each value; `refused` says why the values may not be held against others.
    """

    name: str
    values: Array
    losses: Array
    data: tuple[str, ...] = ()
    refused: str = ""


def eigenvalues_over_seeds(name: str, pairs: Sequence[Eigenpairs], losses: Sequence[float]) -> OverSeeds:
    """The largest eigenvalues of a method; refused where one of them is not certified, or not positive."""
    values, unsure = np.array([largest(one) for one in pairs]), sum(not certified(one) for one in pairs)
    low, refused = int(np.sum(~(values > 0))), ""
    if unsure or low:
        refused = f"{unsure or low} of {len(pairs)} are not {'certified' if unsure else 'positive'}"
    return OverSeeds(name, values, np.array(losses), tuple(conditions(one) for one in pairs), refused)


def curvature_over_seeds(measured: Sequence[OverSeeds], *, symbol: str, split: str) -> str:
    """The largest eigenvalue of each method relative to the first one's, with its interval and the losses beside it.

    A method that is refused is left out by name. Empty for fewer than two methods.
    """
    if len(measured) < 2:
        return ""
    refused = [f"{symbol} of {one.name} is not compared: {one.refused}" for one in measured if one.refused]
    measured = [one for one in measured if not one.refused]
    where = on_which_data(measured)
    if where is None:
        refused.append(f"{symbol} is {apart(_keys(measured), split)}, so methods are not compared")
    if len(measured) < 2 or where is None:
        return "; ".join(refused)
    first, *others = measured
    found = [ratio(one.values, first.values, comparisons=len(others)) for one in others]
    if len(others) > MOST_COMPARED:
        return "; ".join([f"{symbol} {_how_many(found, first)}{where}", *refused])
    told, what = [], _confidence(len(others))
    for one, comparison in zip(others, found, strict=True):
        known = np.isfinite(one.losses).any() or np.isfinite(first.losses).any()
        losses = f"{mean_and_deviation(one.losses)} and {mean_and_deviation(first.losses)}"
        told.append(
            f"{symbol} of {one.name} is {times(comparison, what)} times that of {first.name}"
            f"{_judged(comparison)}{f', at {split} losses {losses}' if known else ''}"
        )
    where += " (± over seeds)" if any("±" in one for one in told) else ""
    return "; ".join([*told, *refused]) + where


def accuracy_over_seeds(measured: Sequence[OverSeeds]) -> str:
    """Mean and standard deviation of each method's test accuracy, and by how much it differs from the first one's.

    Empty for fewer than two methods.
    """
    if len(measured) < 2:
        return ""
    where = on_which_data(measured)
    if where is None:
        return f"test accuracies are {apart(_keys(measured), 'test')}, so methods are not compared"
    first, *others = measured
    found = [welch(one.values, first.values, comparisons=len(others)) for one in others]
    where = where or ", on this test set"
    if len(others) > MOST_COMPARED:
        return f"test accuracy {_how_many(found, first)}{where}"
    what = _confidence(len(others))
    means = ", ".join(f"{one.name} {mean_and_deviation(100 * one.values)} %" for one in measured)
    told = [
        f"{_called(one, measured)} − {_called(first, measured)} {_points(comparison, what)}{_judged(comparison)}"
        for one, comparison in zip(others, found, strict=True)
    ]
    return f"test accuracy: {means} (± over seeds); {'; '.join(told)}{where}"


def changes_over_seeds(measured: Sequence[OverSeeds]) -> str:
    """Mean and standard deviation of each method's change of congruence, and by how much it differs from the first's.

    Empty for fewer than two methods.
    """
    if len(measured) < 2:
        return ""
    if on_which_data(measured) is None:
        return "of different data or probe radii, so methods are not compared"
    first, *others = measured
    found = [welch(one.values, first.values, comparisons=len(others)) for one in others]
    if len(others) > MOST_COMPARED:
        return f"a change that {_how_many(found, first)}"
    what = _confidence(len(others))
    means = ", ".join(f"{one.name} {signed(float(np.mean(one.values)), deviation(one.values))}" for one in measured)
    told = [
        f"{_called(one, measured)} − {_called(first, measured)} "
        f"{with_interval(change.difference, change.low, change.high, what)}{_judged(change)}"
        for one, change in zip(others, found, strict=True)
    ]
    return f"{means} (± over seeds); {'; '.join(told)}"


def hessian_verdict(results: Sequence[Eigenpairs]) -> str:
    """The sentence on the largest eigenvalues of several methods' checkpoints of one operator; empty without seeds."""
    results = [one for one in results if 1 in places(one)]
    found = methods([one.checkpoint for one in results])
    if len(found) < 2:
        return ""
    members = [[results[n] for n in method.members] for method in found]
    over = [
        eigenvalues_over_seeds(method.name, mine, [one.loss for one in mine])
        for method, mine in zip(found, members, strict=True)
    ]
    told = curvature_over_seeds(over, symbol="lambda_1", split=str(results[0].settings.get("split") or "mean"))
    counts = sorted({len(one.values) for one in over})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"over {seeds} seeds each: {told}"


def on_which_data(measured: Sequence[OverSeeds]) -> str | None:
    """Nothing where all is of one data; that each seed has its own split; None where methods do not compare for it.

    Splits compare where every method has the same ones, or each of its seeds another, of one data set.
    """
    kinds = {json.dumps(json.loads(key) | {"data_hash": None}) for key in _keys(measured)}
    if len(set(_keys(measured))) <= 1:
        return ""
    alike = len({tuple(sorted(one.data)) for one in measured}) == 1
    different = all(len(set(one.data)) == len(one.data) for one in measured)
    return ", each on its own split" if len(kinds) == 1 and (alike or different) else None


def apart(keys: Sequence[str], split: str) -> str:
    """In words what keeps measures under these `conditions` from being compared; empty where nothing does."""
    found = [json.loads(key) for key in keys]
    words = {name: dict.fromkeys(str(one.get(key)) for one in found) for key, name in _WAYS.items()}
    ways = [f"{name} {' and '.join(told)}" for name, told in words.items() if len(told) > 1]
    if ways:
        return f"measured in different ways ({', '.join(ways)})"
    return f"of different {split} data" if len(set(keys)) > 1 else ""


def _keys(measured: Sequence[OverSeeds]) -> list[str]:
    return [key for one in measured for key in one.data]


def mean_and_deviation(values: Array) -> str:
    """Mean ± standard deviation over seeds, of those that are finite; the mean alone where there is no spread."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "—"
    error = deviation(finite)
    told = plus_minus(float(np.mean(finite)), error) if error > 0 else short(float(np.mean(finite)))
    return told if len(finite) == len(values) else f"{told} ({len(finite)} of {len(values)} finite)"


def times(found: Comparison, what: str = "") -> str:
    """A ratio with its interval."""
    return with_interval(1 + found.difference, 1 + found.low, 1 + found.high, what)


def with_interval(value: float, low: float, high: float, what: str = "") -> str:
    """A value and its interval with equal decimals: two digits of half the width, five of the larger end at most."""
    if not math.isfinite(high - low):
        return short(value) if math.isnan(low) else f"{short(value)} ({what}{short(low)} to {short(high)})"
    size = math.floor(math.log10(max(abs(low), abs(high))))
    if not -4 <= size < 6:
        return f"{value:.2e} ({what}{low:.2e} to {high:.2e})"
    decimals = max(min(1 - math.floor(math.log10((high - low) / 2)), 4 - size), 0)
    middle, *ends = (f"{round(one, decimals) + 0.0:.{decimals}f}".replace("-", "−") for one in (value, low, high))
    return f"{middle} ({what}{' to '.join(ends)})"


def _points(found: Comparison, what: str) -> str:
    """A difference of accuracies in percentage points."""
    if math.isnan(found.low):
        return f"{100 * found.difference:.2f} points".replace("-", "−")
    value, low, high = (100 * one for one in (found.difference, found.low, found.high))
    return with_interval(value, low, high, what).replace(" ", " points ", 1)


def _confidence(comparisons: int) -> str:
    return "95 % together: " if comparisons > 1 else "95 %: "


def _judged(found: Comparison) -> str:
    """Whether the interval excludes that there is no difference."""
    if math.isnan(found.low):
        return ", with no spread over these seeds, so not compared"
    return f", {'more' if found.beyond_spread else 'not more'} than the seeds explain"


def _called(one: OverSeeds, measured: Sequence[OverSeeds]) -> str:
    """Its method without the settings, where no other is of that method."""
    methods_alone = [other.name.partition(" (")[0] for other in measured]
    mine = one.name.partition(" (")[0]
    return mine if methods_alone.count(mine) == 1 else one.name


def _how_many(found: Sequence[Comparison], first: OverSeeds) -> str:
    apart = sum(one.beyond_spread for one in found) or "none"
    return f"differs from that of {first.name} by more than the seeds explain for {apart} of {len(found)} methods"
