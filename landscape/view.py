"""The part of a surface that is drawn: its range, its round levels and ticks, and the cells that are left out.

A cell that is not finite, is missing, or cannot lie on a log axis is left out of the surface and named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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

_WIDE = 30  # differences that are so many times their error span decades
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
    clip: float | None = None  # the loss above which all is drawn as one

    @property
    def title(self) -> str:
        """The title of the loss axis, with its scale."""
        return f"mean loss, {self.scale}"

    @property
    def scale(self) -> str:
        """The scale in words, and where it is cut."""
        return f"{'log' if self.log else 'linear'} scale" + (
            f", cut at {tick_label(self.clip)}" if self.clip is not None else ""
        )


def loss_view(surfaces: Sequence[Surface | Line], *, scale: Scale = "auto", clip: float | None = None) -> View:
    """The range that holds every finite loss of `surfaces` up to `clip`, with round levels and ticks.

    "auto" is a log scale where all losses are positive and the largest is more than ten times the median.

    Raises:
        ValueError: If `scale` is unknown, or `clip` is not above the lowest loss.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {get_args(Scale)}, got {scale!r}")
    losses = np.concatenate([measured(surface).ravel() for surface in surfaces] or [np.zeros(0)])
    losses = losses[np.isfinite(losses)]
    if clip is not None and losses.size:
        if not clip > (lowest := float(losses.min())):
            raise ValueError(f"clip must be above the lowest loss, {lowest:.4g}, got {clip:.4g}")
        clip = clip if clip < losses.max() else None  # else it cuts nothing
        losses = np.minimum(losses, clip or np.inf)
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
    if clip is not None:
        high = float(values.max())
    ticks = log_ticks(low, high) if log else _linear_ticks(low, high)
    return View(log, low, high, step, tuple(ticks), tuple(tick_labels(10**t if log else t for t in ticks)), clip)


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
    """Round values between `low` and `high`, all in log10: below a decade those of a linear axis."""
    every = max(1, math.ceil((high - low) / 5))
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [n + math.log10(factor) for n in decades for factor in factors if factor > 1 or n % every == 0]
        ticks = [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]
        if len(ticks) >= 3:
            return ticks
    return [math.log10(value) for value in _linear_ticks(10**low, 10**high) if value > 0]


def round_levels(view: View, *, most: int = 8) -> list[float]:
    """As many round values as a contour map can label, in the units of `view`."""
    if not view.log:
        return _linear_ticks(view.low, view.high, parts=most - 1)
    decades = range(math.floor(view.low), math.ceil(view.high) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        levels = [n + math.log10(factor) for n in decades for factor in factors]
        levels = [level for level in levels if view.low - 1e-9 <= level <= view.high + 1e-9]
        if 3 <= len(levels) <= most:
            return levels
    return log_ticks(view.low, view.high)


def tick_labels(values: Iterable[float]) -> list[str]:
    """Ticks with three digits, or as many as tell them apart."""
    values = [*values]
    labels = [[tick_label(value, digits=digits) for value in values] for digits in range(3, 16)]
    return next((told for told in labels if len(set(told)) == len(set(values))), labels[0])


def tick_label(value: float, *, digits: int = 3) -> str:
    """A tick with that many digits at most."""
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e+").replace("e+", "e")


@dataclass(frozen=True)
class SignedView:
    """The scale of a map of differences from -reach to reach: logarithmic beyond ±`linear`, all linear where None."""

    reach: float
    linear: float | None
    ticks: tuple[float, ...]

    @property
    def labels(self) -> list[str]:
        """The ticks with their signs."""
        return [f"+{label}" if float(label) > 0 else label for label in tick_labels(self.ticks)]

    @property
    def scale(self) -> str:
        """What a reader has to know of it; "" where it is linear."""
        return "" if self.linear is None else f"log beyond ±{self.linear:g}"

    def at(self, values: Array) -> Array:
        """sign(v) log10(1 + |v| / linear), a line around zero and a log scale far from it; v where all is linear."""
        values = np.asarray(values, dtype=np.float64)
        return values if self.linear is None else np.sign(values) * np.log10(1 + np.abs(values) / self.linear)


def difference_view(values: Array, errors: Array, *, scale: Scale = "auto") -> SignedView:
    """The scale that holds every finite difference; it is linear up to their median error, as a power of ten.

    "auto" is logarithmic beyond that where differences are more than thirty such errors wide, "log" always.
    """
    size = np.abs(values[np.isfinite(values)])
    reach = round_step(float(np.max(size, initial=0.0)) or 1.0)
    noise = np.median(errors[np.isfinite(values) & np.isfinite(errors)]) if np.isfinite(errors).any() else 0.0
    if scale == "linear" or (scale == "auto" and not 0 < _WIDE * noise < np.max(size, initial=0.0)):
        return SignedView(reach, None, tuple(reach * part for part in (-1, -0.5, 0, 0.5, 1)))
    most = math.floor(math.log10(reach) + 1e-9)
    least = min(round(math.log10(noise)), most - 1) if noise > 0 else most - 3
    positive = [10.0**n for n in range(most, least, -math.ceil((most - least) / 4))]
    return SignedView(reach, 10.0**least, (*(-tick for tick in positive), 0.0, *reversed(positive)))


def _linear_ticks(low: float, high: float, *, parts: int = 4) -> list[float]:
    step = round_step((high - low) / parts)
    return [step * n for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def round_step(size: float) -> float:
    """The round number next above `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size * (1 - 1e-9))
