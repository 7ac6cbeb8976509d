"""The loss on a plane: every point computed from the untouched centre, with its standard error and a status.

Cost: S^2 forward passes over the data. The value at the centre is held against a plain loop over the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from landscape.directions import Plane
from landscape.objective import Objective, summarise
from landscape.results import Array, Record, Surface, status_of

CENTRE_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # relative, against the plain loop


def loss_surface(
    objective: Objective,
    plane: Plane,
    *,
    steps: int = 51,
    extent: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """Mean loss, standard error and accuracy at centre + a axis0 + b axis1, for a and b in [-extent, extent].

    `loss[i, j]` is at a = x[i], b = y[j]. A loss that is not finite is stored as it is, with a status.
    `progress(done, total)` is called after each row. Cost: steps ** 2 forward passes over the data.

    Raises:
        ValueError: If steps is not odd and positive (an even grid has no centre), or extent not finite and positive.
    """
    coordinates = grid(steps, extent)
    if extent > torch.finfo(plane.centre.dtype).max:
        raise ValueError(f"extent must be within the range of {plane.centre.dtype}, got {extent}")
    settings = {**objective.describe(), **plane.settings, "steps": steps, "extent": extent}  # refuses what is random
    rows = np.empty((steps, steps, 8))
    theta = torch.empty_like(plane.centre)
    for i, a in enumerate(coordinates):
        row = []
        for b in coordinates:
            torch.add(plane.centre, plane.axes[0], alpha=a, out=theta)
            row.append(objective.evaluation_sums(theta.add_(plane.axes[1], alpha=b)))
        rows[i] = torch.stack(row).numpy(force=True)  # the row's one wait for the device
        if progress is not None:
            progress((i + 1) * steps, steps * steps)
    loss, standard_error, accuracy = summarise(rows)
    return Surface(
        x=coordinates,
        y=coordinates.copy(),
        loss=loss,
        standard_error=standard_error,
        accuracy=accuracy,
        status=status_of(loss),
        checkpoint={"hash": objective.theta_hash},
        settings=settings,
        checks=_checks(objective, loss, plane.centre),
    )


def grid(steps: int, extent: float) -> Array:
    """`steps` equally spaced coordinates from -extent to extent, with an exact zero in the middle."""
    if steps < 1 or steps % 2 == 0:
        odd = steps + 1 if steps > 0 else 51
        raise ValueError(f"steps must be odd and positive: an even grid has no centre; got {steps}, try {odd}")
    if not math.isfinite(extent) or extent <= 0:
        raise ValueError(f"extent must be finite and positive, got {extent}")
    half = steps // 2
    return extent * np.arange(-half, half + 1) / max(half, 1)


def _checks(objective: Objective, loss: Array, centre: Tensor) -> Record:
    middle = len(loss) // 2
    value, reference = float(loss[middle, middle]), objective.reference_loss()
    error = 0.0 if value == reference else abs(value - reference) / abs(reference) if reference else math.inf
    return {
        "centre_loss": value,
        "reference_loss": reference,
        "centre_error": error,
        "centre_ok": error <= CENTRE_TOLERANCE[centre.dtype],
        "num_nonfinite": int((~np.isfinite(loss)).sum()),
    }
