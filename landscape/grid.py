"""The points of a line or plane: where they are, and in which order they are visited.

Legend: S steps along an axis, D axes; point k of S^D counts the last axis fastest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from landscape.results import Array

_COARSE = (3, 5, 11, 21)  # points along an axis of the first pictures


def grid(steps: int, extent: float) -> Array:
    """`steps` equally spaced coordinates from -extent to extent, with an exact zero in the middle."""
    if steps < 1 or steps % 2 == 0:
        odd = steps + 1 if steps > 0 else 51
        raise ValueError(f"steps must be odd and positive: an even grid has no centre; got {steps}, try {odd}")
    if not math.isfinite(extent) or extent <= 0:
        raise ValueError(f"extent must be finite and positive, got {extent}")
    half = steps // 2
    return extent * np.arange(-half, half + 1) / max(half, 1)


def coordinates(steps: int, intervals: Sequence[Sequence[float]]) -> list[Array]:
    """Of each axis, ascending, from the first to the last of its interval; a zero among them is exact."""
    return [_axis(steps, low, high) for low, high in intervals]


def centre_point(steps: int, intervals: Sequence[Sequence[float]]) -> int | None:
    """The number of the point at the centre; None where the grid does not hold it."""
    places = [np.flatnonzero(at == 0.0) for at in coordinates(steps, intervals)]
    if not all(place.size for place in places):
        return None
    return int(np.ravel_multi_index([int(place[0]) for place in places], (steps,) * len(places)))


def coarse_to_fine(steps: int, num_axes: int) -> list[int]:
    """All points of a grid, each once: the centre, then the grids of 3, 5, 11, 21 points along an axis, then the rest.

    Example:
        >>> coarse_to_fine(5, 1)
        [2, 0, 4, 1, 3]
    """
    order: dict[int, None] = {}
    for marks in ([steps // 2], *coarse_grids(steps)):
        for place in itertools.product(marks, repeat=num_axes):
            order.setdefault(int(np.ravel_multi_index(place, (steps,) * num_axes)))
    return list(order)


def coarse_grids(steps: int) -> list[list[int]]:
    """The places along an axis of the grids of 3, 5, 11, 21 points that lie in one of `steps`, and of all of it.

    Example:
        >>> coarse_grids(5)
        [[0, 2, 4], [0, 1, 2, 3, 4]]
    """
    counts = [count for count in _COARSE if count < steps]
    return [*([round(i * (steps - 1) / (count - 1)) for i in range(count)] for count in counts), list(range(steps))]


def _axis(steps: int, low: float, high: float) -> Array:
    if low == -high and steps % 2:
        return grid(steps, high)
    at = np.linspace(low, high, steps)
    at[np.abs(at) < 1e-12 * (high - low)] = 0.0  # which linspace misses by a rounding
    return at
