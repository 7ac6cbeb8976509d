"""How flat the loss is around a checkpoint, as far as random planes can tell, and how much that depends on the plane.

    curvature      mean over both axes of (L(h) + L(-h) - 2 L(0)) / h^2, h the step of the grid
    radius (d)     mean over the four half-axes of the distance at which the loss first is d nats above the centre's
    rise (half)    mean loss above the centre's on the square ring at half the extent; rise (edge): at the extent

Between points of the grid a radius is that of a bowl (`landscape.readings.crossing`): on a bowl it does not depend on
the grid, and of anything else a radius below one step of the grid is a guess.

Lengths are in lengths of an axis, so of filter-normalized directions: comparable between checkpoints as such pictures
are. One plane is one draw: with K of them each measure has K values, and a spread. A half-axis that never rises by d
makes the radius infinite, which is what is known of it: more than the extent.

Legend: K planes, S steps of a grid, L the mean loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from landscape.readings import centre_cell, crossing, measured, ring_rise
from landscape.results import Array, Surface

RISES = (0.1, 1.0)  # nats, absolute: the same for every checkpoint
RADII = dict(zip(RISES, ("radius_small", "radius_large"), strict=True))


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatness:
    """The measures of one checkpoint on K planes, in the order of the surfaces; NaN where one is unknown."""

    loss: float  # at the centre, which all planes share
    curvature: Array  # (K,)
    radius_small: Array  # (K,) for a rise of 0.1 nats
    radius_large: Array  # (K,) for 1.0
    rise_half: Array  # (K,)
    rise_edge: Array  # (K,)


def flatness(surfaces: Sequence[Surface]) -> Flatness:
    """The measures on all planes of one checkpoint.

    Raises:
        ValueError: If the surfaces are of several checkpoints, or their grids differ or lack the centre.
    """
    if len({str(one.checkpoint.get("hash")) for one in surfaces}) != 1:
        raise ValueError("flatness is of the surfaces of one checkpoint: give one checkpoint's, at least one")
    if any(not np.array_equal(one.x, surfaces[0].x) or not np.array_equal(one.y, surfaces[0].y) for one in surfaces):
        raise ValueError("flatness is over planes with one grid: measure all with equal steps and extent")
    cells = [centre_cell(one) for one in surfaces]
    if None in cells:
        raise ValueError("a grid does not hold the centre: use an odd number of steps")
    half_axes = [_half_axes(one) for one in surfaces]
    with np.errstate(invalid="ignore"):  # an infinite loss leaves a measure unknown
        return _flatness(surfaces, float(measured(surfaces[0])[cells[0]]), half_axes)


def _flatness(surfaces: Sequence[Surface], loss: float, half_axes: Sequence[Sequence[tuple[Array, Array]]]) -> Flatness:
    return Flatness(
        loss=loss,
        curvature=np.array([_curvature(one) for one in surfaces]),
        radius_small=np.array([_radius(axes, RISES[0]) for axes in half_axes]),
        radius_large=np.array([_radius(axes, RISES[1]) for axes in half_axes]),
        rise_half=np.array([ring_rise(one, 0.5) for one in surfaces]),
        rise_edge=np.array([ring_rise(one, 1.0) for one in surfaces]),
    )


def mean_and_spread(values: Array) -> tuple[float, float]:
    """Mean and standard deviation over planes; the mean is infinite where one value is, the spread then unknown."""
    if not np.isfinite(values).all():
        return float(values.mean()), math.nan
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _curvature(surface: Surface) -> float:
    cell = centre_cell(surface)
    loss = measured(surface)
    assert cell is not None
    i, j = cell
    if not (0 < i < len(surface.x) - 1 and 0 < j < len(surface.y) - 1):
        return math.nan  # a step on one side only
    along_x = (loss[i + 1, j] + loss[i - 1, j] - 2 * loss[i, j]) / (surface.x[i + 1] - surface.x[i]) ** 2
    along_y = (loss[i, j + 1] + loss[i, j - 1] - 2 * loss[i, j]) / (surface.y[j + 1] - surface.y[j]) ** 2
    return float(along_x + along_y) / 2


def _half_axes(surface: Surface) -> list[tuple[Array, Array]]:
    """Distances from the centre and losses there, along x, -x, y, -y."""
    cell = centre_cell(surface)
    assert cell is not None
    i, j = cell
    return [
        (surface.x[i:], surface.loss[i:, j]),
        (-surface.x[i::-1], surface.loss[i::-1, j]),
        (surface.y[j:], surface.loss[i, j:]),
        (-surface.y[j::-1], surface.loss[i, j::-1]),
    ]


def _radius(half_axes: Sequence[tuple[Array, Array]], rise: float) -> float:
    """Over the four half-axes; NaN where the grid lacks one of them."""
    if any(len(at) < 2 for at, _ in half_axes):
        return math.nan
    return float(np.mean([crossing(at, loss, loss[0] + rise) for at, loss in half_axes]))
