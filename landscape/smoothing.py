"""The bulk of a spectrum as a curve: Gaussians of one width at the nodes of each probe's quadrature.

With n of P eigenvalues in the bulk, E the mean over V probes and M weights w_j of each at nodes x_j

    density(x) = (n / P) E[sum_j w_j N(x; x_j, width^2)]

A wider Gaussian makes a lower and broader curve of the same nodes: densities are compared with one width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from landscape.results import Array, Density, t_factor

MIN_SAMPLES = 4  # for an error: the spread of fewer says little of it
CONFIDENCE = 0.95
_POINTS_PER_WIDTH = 4
_MAX_POINTS = 100_000


def grid_of(nodes: Array, width: float) -> Array:
    """Five widths beyond the nodes at either end, so that less than a millionth of the mass is cut off.

    Raises:
        ValueError: If that takes more than 100,000 points.
    """
    low, high = nodes.min() - 5 * width, nodes.max() + 5 * width
    num = int(np.ceil(_POINTS_PER_WIDTH * (high - low) / width)) + 1
    if num > _MAX_POINTS:
        raise ValueError(
            f"kernel_width {width:.3g} is too small for nodes from {nodes.min():.3g} to {nodes.max():.3g}: "
            f"the grid would have {num:,} points, at most {_MAX_POINTS:,}"
        )
    return np.linspace(low, high, num)


def smoothed(grid: Array, nodes: Array, weights: Array, width: float, share: float) -> tuple[Array, Array, Array]:
    """Mean over the probes on `grid`, and a Student-t interval for it (NaN with fewer than 4 probes)."""
    each = np.array([_gaussians(grid, x, w, width) for x, w in zip(nodes, weights, strict=True)])
    each = each.reshape(-1, len(grid)) * share
    half = t_factor(len(each), CONFIDENCE) * standard_error(each)
    mean = each.mean(0)
    return mean, mean - half, mean + half


def standard_error(samples: Array) -> Array:
    """Of the mean over the first axis; NaN where there are too few."""
    if len(samples) < MIN_SAMPLES:
        return np.full(samples.shape[1:], np.nan)
    return np.asarray(samples.std(0, ddof=1) / len(samples) ** 0.5)


def of_one_width(densities: Sequence[Density]) -> list[Density]:
    """The densities, smoothed again by the widest of their kernels where these differ: drawn together they compare."""
    width = max((one.kernel_width for one in densities), default=0.0)
    return [one if one.kernel_width == width else _of_width(one, width) for one in densities]


def _of_width(density: Density, width: float) -> Density:
    if not density.nodes.size:  # sticks alone
        return replace(density, kernel_width=width)
    grid = grid_of(density.nodes, width)
    share = (density.size - len(density.sticks)) / density.size
    mean, low, high = smoothed(grid, density.nodes, density.weights, width, share)
    return replace(density, grid=grid, mean=mean, low=low, high=high, kernel_width=width)


def _gaussians(grid: Array, nodes: Array, weights: Array, width: float) -> Array:
    z = (grid[:, None] - nodes) / width
    return np.asarray(np.exp(-(z**2) / 2) @ weights / (width * (2 * np.pi) ** 0.5))
