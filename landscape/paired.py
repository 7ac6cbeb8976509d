"""How two checkpoints differ, example by example: the same examples, the same points, so that their spread cancels.

For a quantity q of an example's losses on the grid (its loss at a point; its mean rise on a ring) and examples e with
denominators w_e, the difference is sum_e (q_e(a) - q_e(b)) / sum_e w_e, a ratio of sums; its standard error is the
linearised one, from the spread of q_e(a) - q_e(b) - difference * w_e (Cochran 1977, Sampling Techniques, eq. 6.4). The
examples are those whose losses were kept, so a difference holds for them, and for data like them as far as they are
drawn from it at random.

Legend: S grid steps, E examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from landscape.readings import centre_cell, ring_mean
from landscape.results import Array, ExampleLosses, Line, Surface

R = TypeVar("R", Surface, Line)
_WHERE = (  # what makes equal coordinates of two planes equal steps
    *("directions", "normalization", "seed", "unit", "layers", "axes_of", "normalized_by", "output_dims"),
    *("batch_norm", "precision"),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Difference:
    """A difference of two means over the same examples, and its standard error; arrays, or numbers in them."""

    value: Array
    standard_error: Array
    num_examples: int


def paired_difference(a: R, b: R) -> Difference:
    """The mean loss of `a` less that of `b` at each point of their grid (S, S), of a line (S,).

    Where surfaces are each around their own checkpoint, equal points are equal steps from it.

    Raises:
        ValueError: If the losses of equal examples were not kept for both, or the grids or kinds of directions differ.
    """
    of_a, of_b = _comparable(a, b)
    return _difference(of_a.loss.astype(np.float64) - of_b.loss, of_a.denominator)


def paired_rise(a: Surface, b: Surface, fraction: float) -> Difference:
    """How much more the loss of `a` rises than that of `b`, from the centre to the ring at a fraction of the extent.

    As `landscape.readings.ring_rise`, for each example; below zero `a` is the flatter one there. NaN where the grid has
    no centre or no such ring.

    Raises:
        ValueError: As `paired_difference`.
    """
    of_a, of_b = _comparable(a, b)
    cell = centre_cell(a)
    if cell is None:
        return _difference(np.full(of_a.denominator.shape, np.nan), of_a.denominator)
    lower = of_a.loss.astype(np.float64) - of_b.loss
    return _difference(ring_mean(a, lower, fraction) - lower[cell], of_a.denominator)


def comparable(a: Surface | Line, b: Surface | Line) -> bool:
    """Whether `paired_difference` of the two means something."""
    try:
        _comparable(a, b)
    except ValueError:
        return False
    return True


def _comparable(a: Surface | Line, b: Surface | Line) -> tuple[ExampleLosses, ExampleLosses]:
    if a.examples is None or b.examples is None:
        raise ValueError("the losses of single examples were not kept: measure both with paired=1024 (--paired 1024)")
    if a.settings.get("paired_hash") != b.settings.get("paired_hash"):
        raise ValueError("the two were measured on different examples: measure both on one part, with equal paired")
    if type(a) is not type(b) or not _grids_equal(a, b):
        raise ValueError("the two have different grids: measure both with equal steps and extent")
    differing = [name for name in _WHERE if a.settings.get(name) != b.settings.get(name)]
    if differing:
        raise ValueError(f"the two lie on planes of different kinds ({', '.join(differing)}): measure both alike")
    return a.examples, b.examples


def _grids_equal(a: Surface | Line, b: Surface | Line) -> bool:
    names = ("x", "y") if isinstance(a, Surface) else ("x",)
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def _difference(losses: Array, denominator: Array) -> Difference:
    """From differences (..., E) of sums of losses."""
    count, total = len(denominator), denominator.sum()
    with np.errstate(invalid="ignore", over="ignore"):
        value = losses.sum(axis=-1) / total
        spread = ((losses - value[..., None] * denominator) ** 2).sum(axis=-1)
    return Difference(value=value, standard_error=np.sqrt(spread * count / (count - 1)) / total, num_examples=count)
