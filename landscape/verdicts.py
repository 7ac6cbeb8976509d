"""What may be said of methods: their measures over seeds, and whether these differ by more than the seeds do.

Fewer than two methods with three seeds each: nothing, for then there are only checkpoints to speak of. The statistics
are those of `landscape.methods`; every other method is held against the first, which is SGD where SGD is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from landscape.formatting import plus_minus, short
from landscape.methods import Comparison, methods, ratio, welch
from landscape.readings import largest, places
from landscape.results import Array, Eigenpairs

MOST_COMPARED = 3  # methods in a sentence, besides the one they are held against; of more only how many differ


@dataclass(frozen=True, eq=False)
class OverSeeds:
    """A measure of one method, a value for each seed, and the losses that it was measured at (NaN: not known)."""

    name: str
    values: Array
    losses: Array


def curvature_over_seeds(measured: Sequence[OverSeeds], *, symbol: str, split: str) -> str:
    """The largest eigenvalue of each method relative to the first one's, with its interval and the losses beside it.

    Empty for fewer than two methods.
    """
    if len(measured) < 2:
        return ""
    first, *others = measured
    found = [ratio(one.values, first.values, comparisons=len(others)) for one in others]
    if any(np.isnan(one.low) for one in found):
        return f"{symbol} is not compared between methods: it is not positive, or has no spread, over some seeds"
    if len(others) > MOST_COMPARED:
        return f"{symbol} {_how_many(found, first)}"
    told = []
    for one, comparison in zip(others, found, strict=True):
        times, low, high = (short(1 + value) for value in (comparison.difference, comparison.low, comparison.high))
        losses = f"{mean_and_deviation(one.losses)} and {mean_and_deviation(first.losses)}"
        told.append(
            f"{symbol} of {one.name} is {times} ({low} to {high}) times that of {first.name}, "
            f"a difference {'' if comparison.beyond_spread else 'not '}larger than the spread over seeds, at {split} "
            f"losses {losses}"
        )
    return "; ".join(told)


def accuracy_over_seeds(measured: Sequence[OverSeeds]) -> str:
    """Mean and standard deviation of each method's test accuracy, and whether it differs from the first one's.

    Empty for fewer than two methods.
    """
    if len(measured) < 2:
        return ""
    first, *others = measured
    found = [welch(one.values, first.values, comparisons=len(others)) for one in others]
    if len(others) > MOST_COMPARED:
        return f"test accuracy {_how_many(found, first)}"
    told = ", ".join(f"{one.name} {mean_and_deviation(100 * one.values)} %" for one in measured)
    apart = " and ".join(one.name for one, comparison in zip(others, found, strict=True) if comparison.beyond_spread)
    if len(others) == 1:
        return f"test accuracy: {told}, {'' if apart else 'not '}apart by more than the spread over seeds"
    return f"test accuracy: {told}; apart from {first.name} by more than the spread over seeds: {apart or 'none'}"


def hessian_verdict(results: Sequence[Eigenpairs]) -> str:
    """The sentence on the largest eigenvalues of several methods' checkpoints, over one data; empty without seeds."""
    results = [one for one in results if 1 in places(one)]
    found = methods([one.checkpoint for one in results])
    measured = [(method.name, [results[n] for n in method.members]) for method in found]
    if len(measured) < 2:
        return ""
    if unsure := uncertified([one for _, members in measured for one in members]):
        return unsure
    over = [
        OverSeeds(name, np.array([largest(one) for one in members]), np.array([one.loss for one in members]))
        for name, members in measured
    ]
    told = curvature_over_seeds(over, symbol="lambda_1", split=str(results[0].settings.get("split") or "mean"))
    counts = sorted({len(one.values) for one in over})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"over {seeds} seeds each (± standard deviation, 95 % interval): {told}"


def uncertified(pairs: Sequence[Eigenpairs]) -> str:
    """Why these eigenvalues may not be held against each other; empty where they may."""
    count = sum(not (len(one.values) and one.converged[0] and one.complete) for one in pairs)
    return f"methods are not compared: {count} of {len(pairs)} largest eigenvalues are not certified" if count else ""


def mean_and_deviation(values: Array) -> str:
    """Mean ± standard deviation over seeds; a dash where a seed lacks the value."""
    if not len(values) or not np.isfinite(values).all():
        return "—"
    return plus_minus(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else np.nan)


def _how_many(found: Sequence[Comparison], first: OverSeeds) -> str:
    apart = sum(one.beyond_spread for one in found) or "none"
    return f"differs from that of {first.name} by more than the spread over seeds for {apart} of {len(found)} methods"
