"""The loss on a line or a plane: every point from the untouched centre, with its standard error and a status.

Cost: S (line) or S^2 (plane) forward passes over the data, and about two more to choose an engine and to check it.
Points are visited coarse to fine, so that an early picture is a whole one. The value at the centre is held against a
plain loop over the model.

Legend: S steps along an axis, D axes, K points of a block; point k of S^D counts the last axis fastest.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from landscape.directions import Plane
from landscape.evaluator import Engine, backed_off, choose, prepare, reference_loss
from landscape.objective import NUM_SUMS, Objective, summarise
from landscape.results import MISSING, OK, Array, Record, Surface, status_of

# relative, against the plain loop; what a lower precision of the forward pass may lose is larger
CENTRE_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
PRECISION_TOLERANCE = {"tf32": 1e-2, "bf16": 5e-2}
_SECONDS_OF_A_BLOCK = 2.0
_COARSE = (3, 5, 11, 21)  # points along an axis of the first pictures


Sums = Sequence[float]  # the eight of landscape.objective


class Memory(Protocol):
    """Where measured points are kept while a surface runs, and found again by the one that goes on."""

    def known(self) -> Mapping[int, Sums]:
        """The points that are there already."""
        ...

    def add(self, points: Mapping[int, Sums], micro_batch: int) -> None:
        """Keep points, measured with that micro-batch; they are safe when this returns."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class SurfacePlan:
    """A surface before its first point: all that decides its numbers, so that any worker may measure any of them."""

    steps: int
    extent: float
    engine: Engine
    reference_loss: float
    checkpoint: Record
    settings: Record
    checks: Record = field(default_factory=dict)


def loss_surface(
    objective: Objective,
    plane: Plane,
    *,
    steps: int = 51,
    extent: float = 1.0,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """Mean loss, standard error and accuracy at centre + a axis0 + b axis1, for a and b in [-extent, extent].

    `loss[i, j]` is at a = x[i], b = y[j]. A loss that is not finite is stored as it is, with a status. Without `engine`
    the fastest way to evaluate is looked for (`landscape.evaluator.choose`); it is stored, and the same one gives the
    same bits. `progress(done, total)` is called after each block of points. Cost: steps ** 2 forward passes over the
    data, and about two to choose the engine and to check the centre.

    Raises:
        ValueError: If steps is not odd and positive (an even grid has no centre), extent not finite and positive, or
            the engine does not suit the model.
        NotRepeatableError: If the model draws at random in eval mode, or the data changes from pass to pass.
    """
    plan = plan_surface(objective, plane, steps=steps, extent=extent, engine=engine)
    sums, micro_batches = measure(objective, plane, plan, progress=progress)
    return surface_of(plan, sums, micro_batches)


def plan_surface(
    objective: Objective, plane: Plane, *, steps: int = 51, extent: float = 1.0, engine: Engine | None = None
) -> SurfacePlan:
    """What `loss_surface` decides before it measures.

    Raises:
        ValueError: As `loss_surface`.
        NotRepeatableError: If the data changes from pass to pass.
    """
    grid(steps, extent)
    if extent > torch.finfo(plane.centre.dtype).max:
        raise ValueError(f"extent must be within the range of {plane.centre.dtype}, got {extent}")
    checks: Record = {}
    if engine is None:
        engine, chosen = choose(objective, Engine(), num_points=steps**2)
        if engine.compiled:
            checks["compiling"] = chosen["compile"]
    return SurfacePlan(
        steps=steps,
        extent=extent,
        engine=engine,
        reference_loss=reference_loss(objective, engine),
        checkpoint={"hash": objective.theta_hash},
        settings={**objective.describe(), **engine.record(), **plane.settings, "steps": steps, "extent": extent},
        checks=checks,
    )


def measure(
    objective: Objective,
    plane: Plane,
    plan: SurfacePlan,
    *,
    points: Sequence[int] | None = None,
    memory: Memory | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[int, Sums], list[int]]:
    """The sums of the points of a planned surface, or of some of its points, in the order given; by default all.

    Points that `memory` knows are not measured again. A device that runs out of memory is given half the micro-batch,
    and half of that; the second value lists the micro-batches that were used.

    Raises:
        NotRepeatableError: If the centre differs from the plain loop, because the model draws at random.
    """
    points = coarse_to_fine(plan.steps, 2) if points is None else points
    found = dict(memory.known()) if memory is not None else {}
    waiting = [point for point in points if point not in found]
    evaluator, coordinates = prepare(objective, plan.engine), grid(plan.steps, plan.extent)
    micro_batches = [plan.engine.micro_batch]
    size = 1 if evaluator.batches else plan.steps
    while waiting:
        block = waiting[:size]  # one wait for the device, and one line of a journal
        started = time.perf_counter()
        places = [[float(coordinates[i]) for i in np.unravel_index(point, (plan.steps,) * 2)] for point in block]
        try:
            rows = evaluator.sums(plane.centre, plane.axes, places).tolist()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            evaluator = prepare(objective, backed_off(objective, evaluator.engine))
            micro_batches.append(evaluator.engine.micro_batch)
            continue
        new = dict(zip(block, rows, strict=True))
        _refuse_noise(objective, plan, new)
        found |= new
        if memory is not None:
            memory.add(new, evaluator.engine.micro_batch)
        waiting = waiting[len(block) :]
        if evaluator.batches:  # data that is read anew is read for a whole row
            per_point = (time.perf_counter() - started) / len(block)
            size = min(plan.steps, max(1, int(_SECONDS_OF_A_BLOCK / per_point)))
        if progress is not None:
            progress(len(points) - len(waiting), len(points))
    return {point: found[point] for point in points}, micro_batches


def surface_of(plan: SurfacePlan, sums: Mapping[int, Sums], micro_batches: Sequence[int] = ()) -> Surface:
    """The surface of a plan from the sums of its points; a point without any is missing."""
    shape = (plan.steps, plan.steps)
    rows = np.full((plan.steps**2, NUM_SUMS), np.nan)
    for point, values in sums.items():
        rows[point] = values
    loss, standard_error, accuracy = (values.reshape(shape) for values in summarise(rows))
    status = status_of(loss)
    status[~np.isin(np.arange(plan.steps**2), list(sums)).reshape(shape)] = MISSING
    coordinates = grid(plan.steps, plan.extent)
    return Surface(
        x=coordinates,
        y=coordinates.copy(),
        loss=loss,
        standard_error=standard_error,
        accuracy=accuracy,
        status=status,
        checkpoint=plan.checkpoint,
        settings=plan.settings,
        checks={
            **plan.checks,
            **_checks(plan, loss),
            "num_nonfinite": int((status > OK).sum()),
            **({"micro_batches": list(micro_batches)} if len(micro_batches) > 1 else {}),
        },
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


def coarse_to_fine(steps: int, num_axes: int) -> list[int]:
    """All points of a grid, each once: the centre, then the grids of 3, 5, 11, 21 points along an axis, then the rest.

    Example:
        >>> coarse_to_fine(5, 1)
        [2, 0, 4, 1, 3]
    """
    order: dict[int, None] = {}
    for count in (1, *(count for count in _COARSE if count < steps), steps):
        marks = [round(i * (steps - 1) / (count - 1)) for i in range(count)] if count > 1 else [steps // 2]
        for place in itertools.product(marks, repeat=num_axes):
            order.setdefault(int(np.ravel_multi_index(place, (steps,) * num_axes)))
    return list(order)


def _checks(plan: SurfacePlan, loss: Array) -> Record:
    middle = plan.steps // 2
    value = float(loss[middle, middle])
    error = _relative(value, plan.reference_loss)
    return {
        "centre_loss": value,
        "reference_loss": plan.reference_loss,
        "centre_error": error,
        "centre_ok": error <= _tolerance(plan),
    }


def _tolerance(plan: SurfacePlan) -> float:
    lower = PRECISION_TOLERANCE.get(plan.engine.precision, 0.0)
    return max(lower, CENTRE_TOLERANCE[getattr(torch, str(plan.settings["dtype"]))])


def _relative(value: float, reference: float) -> float:
    if value == reference:
        return 0.0
    return abs(value - reference) / abs(reference) if reference else math.inf


def _refuse_noise(objective: Objective, plan: SurfacePlan, new: Mapping[int, Sums]) -> None:
    """Where the centre is not what the plain loop found, ask whether any two passes agree."""
    centre = plan.steps**2 // 2
    if centre in new and not _relative(new[centre][0] / new[centre][1], plan.reference_loss) <= _tolerance(plan):
        _ = objective.centre  # two passes; raises NotRepeatableError
