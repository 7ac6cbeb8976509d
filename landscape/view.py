"""The part of a surface that is drawn: its range, its round levels and ticks, and the cells that are left out.

A cell that is not finite, is missing, or cannot lie on a log axis is left out of the surface and named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from landscape.readings import measured
from landscape.results import FAILED, MISSING, NAN, NEGATIVE_INFINITY, OK, POSITIVE_INFINITY, Array, Line, Surface

Scale = Literal["auto", "linear", "log"]
STATUS_NAMES = {
    MISSING: "missing",
    OK: "ok",
    NAN: "nan",
    POSITIVE_INFINITY: "+inf",
    NEGATIVE_INFINITY: "-inf",
    FAILED: "failed",
}
CELL_COLOR = "#E60049"  # of the marker of a cell that is left out: no colour of viridis comes near it

_LOG_RATIO = 10  # from here on a linear axis shows little but the edge


@dataclass(frozen=True)
class View:
    """The part of the loss axis that is drawn, in drawn units: log10 of the loss where `log`, else the loss."""

    log: bool
    low: float
    high: float
    step: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    @property
    def title(self) -> str:
        """The title of the loss axis, with its scale."""
        return f"mean loss, {'log' if self.log else 'linear'} scale"


def loss_view(surfaces: Sequence[Surface | Line], *, scale: Scale = "auto") -> View:
    """The range that holds every finite loss of `surfaces`, with round levels and ticks.

    "auto" is a log scale where all losses are positive and the largest is more than ten times the median.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {get_args(Scale)}, got {scale!r}")
    losses = np.concatenate([measured(surface).ravel() for surface in surfaces] or [np.zeros(0)])
    losses = losses[np.isfinite(losses)]
    if scale == "auto":
        wide = losses.size > 0 and losses.min() > 0 and losses.max() > _LOG_RATIO * np.median(losses)
        scale = "log" if wide else "linear"
    log = scale == "log"
    values = np.log10(losses[losses > 0]) if log else losses
    if values.size == 0:
        return View(log, 0.0, 1.0, 0.1, (0.0, 1.0), ("1", "10") if log else ("0", "1"))
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):  # a constant has no range of its own
        pad = 0.5 if log else max(abs(low) / 2, 1e-3)
        low, high = low - pad, high + pad
    step = round_step((high - low) / 20)
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    ticks = log_ticks(low, high) if log else _linear_ticks(low, high)
    return View(log, low, high, step, tuple(ticks), tuple(tick_label(10**t if log else t) for t in ticks))


def drawn(surface: Surface, view: View) -> Array:
    """The loss in the units of `view`, NaN where it is left out."""
    loss = measured(surface)
    if not view.log:
        return loss
    return np.log10(loss, where=loss > 0, out=np.full(loss.shape, np.nan))


def left_out_cells(surface: Surface, view: View) -> list[tuple[float, float, str]]:
    """The cells that are not part of the drawn surface: x, y and why."""
    finite = np.isfinite(measured(surface))
    return [
        (
            float(surface.x[i]),
            float(surface.y[j]),
            STATUS_NAMES.get(int(surface.status[i, j]), "status unknown")
            if not finite[i, j]
            else f"loss {surface.loss[i, j]:.5g}, not on a log scale",
        )
        for i, j in np.argwhere(np.isnan(drawn(surface, view)))
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between `low` and `high`, all in log10."""
    every = max(1, math.ceil((high - low) / 5))
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [n + math.log10(factor) for n in decades for factor in factors if factor > 1 or n % every == 0]
        ticks = [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]
        if len(ticks) >= 3:
            return ticks
    return [low, (low + high) / 2, high]


def tick_label(value: float) -> str:
    """A tick with three digits at most."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e+").replace("e+", "e")


def _linear_ticks(low: float, high: float) -> list[float]:
    step = round_step((high - low) / 4)
    return [step * n for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def round_step(size: float) -> float:
    """The round number next above `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size * (1 - 1e-9))
