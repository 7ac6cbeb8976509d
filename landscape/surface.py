"""The loss on a line or a plane: every point from the untouched centre, with its standard error and a status.

Cost: S (line) or S^2 (plane) forward passes over the data, and one more to check the centre.
Points are visited coarse to fine, so that an early picture is a whole one. The value at the centre is held against a
plain loop over the model; where the grid does not hold the centre, it is evaluated apart. So are the other checkpoints
that lie on a line or plane, each against its own loss: with BatchNorm the two differ, for a point has the weights of
its place and the running statistics of the centre.

Along with the mean, the losses of at most 1,024 examples may be kept at each point: `landscape.paired` compares
checkpoints with them example by example, which is far sharper than comparing means with their standard errors.

Legend: S steps along an axis, D axes, E examples whose losses are kept.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from landscape.directions import Plane
from landscape.evaluator import (
    Engine,
    backed_off,
    compiled_for,
    has_running_statistics,
    prepare,
    reference,
    usual,
)
from landscape.grid import centre_point, coarse_to_fine, coordinates, grid
from landscape.objective import Objective
from landscape.plane import Interval
from landscape.results import MISSING, OK, Array, ExampleLosses, Line, Metric, Record, Surface, status_of
from landscape.sums import NUM_SUMS, metric_means, summarise

__all__ = [
    "Memory",
    "StatisticsWarning",
    "SurfacePlan",
    "coarse_to_fine",
    "grid",
    "line_of",
    "loss_line",
    "loss_surface",
    "measure",
    "plan_surface",
    "surface_of",
]

# relative, against the plain loop; what a lower precision of the forward pass may lose is larger
CENTRE_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
PRECISION_TOLERANCE = {"tf32": 1e-2, "bf16": 5e-2}
_STATISTICS = 10.0  # times that, where statistics of batches, whose rounding depends on the layout, enter the loss
_ROUNDINGS = 10.0  # of its outputs that a network may have made by then (seen: up to 4)
MAX_PAIRED = 1024
_PAIRING_SEED = 0
_SECONDS_OF_A_BLOCK = 2.0


Sums = npt.NDArray[np.float64]  # of landscape.objective, and then the losses of the examples that are kept


class StatisticsWarning(UserWarning):
    """BatchNorm's running statistics are those of another checkpoint than the weights."""


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
    """A surface or line before its first point: all that decides its numbers, for any worker to measure any of them."""

    steps: int
    intervals: Sequence[Sequence[float]]  # for each axis, its first and last coordinate
    engine: Engine
    reference_loss: float
    checkpoint: Record
    settings: Record
    checks: Record = field(default_factory=dict)
    metrics: Sequence[str] = ()
    examples: Sequence[int] = ()  # places in the data, ascending, of those whose losses are kept
    denominators: Sequence[float] = ()  # theirs


def loss_surface(
    objective: Objective,
    plane: Plane,
    *,
    steps: int = 51,
    extent: float | None = None,
    interval: Interval | None = None,
    engine: Engine | None = None,
    paired: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """Mean loss, standard error and accuracy at centre + a axis0 + b axis1, on a grid of steps ** 2 points (a, b).

    a and b lie in [-extent, extent], or in `interval`; by default where the plane says: [-1, 1], or around the
    checkpoints that it was made from. `loss[i, j]` is at a = x[i], b = y[j]. A loss that is not finite is stored as it
    is, with a status. Without `engine` the usual one is taken; `landscape.evaluator.choose` finds a faster one by
    timing. It is stored, and the same one gives the same bits. The objective's metrics are measured too, and the losses
    of `paired` examples (at most 1,024, the same for equal data) are kept one by one. `progress(done, total)` is called
    after each block of points. Cost: steps ** 2 forward passes over the data, and one to check the centre; two more for
    each other checkpoint on the plane.

    Raises:
        ValueError: If `plane` is a line, steps not odd and positive (an even grid has no centre; an interval may have
            any number from 2), extent not finite and positive, interval not ascending, the plane is of another model,
            the engine does not suit, or `paired` is out of range or the loss does not show its examples.
        NotRepeatableError: If the model draws at random in eval mode, or the data changes from pass to pass.
    """
    if len(plane.axes) != 2:
        raise ValueError("loss_surface needs a plane, got a line: loss_line measures it")
    plan = plan_surface(objective, plane, steps=steps, extent=extent, interval=interval, engine=engine, paired=paired)
    sums, micro_batches = measure(objective, plane, plan, progress=progress)
    return surface_of(plan, sums, micro_batches)


def loss_line(
    objective: Objective,
    line: Plane,
    *,
    steps: int = 61,
    extent: float | None = None,
    interval: Interval | None = None,
    engine: Engine | None = None,
    paired: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Line:
    """Mean loss, standard error and accuracy at centre + a axis, for `steps` values of a; else as `loss_surface`.

    61 points of the line between two checkpoints have both of them among them. Cost: steps passes over the data. With
    BatchNorm "frozen" at the first one's running statistics the loss at the second is not its own: a StatisticsWarning
    says by how much, `checks` keep both, and an engine with batch_norm "recalibrated" mends it.

    Raises:
        ValueError: As `loss_surface`, and if `line` is a plane.
        NotRepeatableError: As `loss_surface`.
    """
    if len(line.axes) != 1:
        raise ValueError("loss_line needs a line, got a plane: loss_surface measures it, axis_line takes one axis")
    plan = plan_surface(objective, line, steps=steps, extent=extent, interval=interval, engine=engine, paired=paired)
    sums, micro_batches = measure(objective, line, plan, progress=progress)
    return line_of(plan, sums, micro_batches)


def plan_surface(
    objective: Objective,
    plane: Plane,
    *,
    steps: int = 51,
    extent: float | None = None,
    interval: Interval | None = None,
    engine: Engine | None = None,
    paired: int = 0,
) -> SurfacePlan:
    """What `loss_surface` or `loss_line` decides before it measures.

    Raises:
        ValueError: As `loss_surface`.
        NotRepeatableError: If the data changes from pass to pass, or the model draws at random.
    """
    _check_plane(objective, plane)
    intervals = _intervals(plane, steps, extent, interval)
    if engine is None:
        engine = compiled_for(objective, usual(objective, Engine()), num_points=steps ** len(intervals))
    reach = sorted({-low if low == -high else math.nan for low, high in intervals})
    where: Record = (
        {"extent": reach[0]}
        if len(reach) == 1 and reach[0] > 0
        else {"intervals": [[low, high] for low, high in intervals]}
    )
    examples = _paired_examples(objective, paired)
    pairing: Record = {"num_paired": paired, "paired_hash": _hash_of(objective, examples)} if examples else {}
    found = reference(objective, engine)
    plan = SurfacePlan(
        steps=steps,
        intervals=intervals,
        engine=engine,
        reference_loss=found.loss,
        checkpoint={"hash": objective.theta_hash},
        checks={"rounding": found.rounding},
        settings={**objective.describe(), **engine.record(), **plane.settings, "steps": steps, **where, **pairing},
        metrics=list(objective.metrics),
        examples=examples,
        denominators=objective.example_denominators()[examples].tolist() if examples else [],
    )
    return replace(plan, checks={**plan.checks, **_apart(objective, plane, plan)})


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
        ValueError: If the plane is of another model.
        NotRepeatableError: If the centre differs from the plain loop, because the model draws at random.
    """
    _check_plane(objective, plane)
    num_axes = len(plan.intervals)
    points = coarse_to_fine(plan.steps, num_axes) if points is None else points
    found = dict(memory.known()) if memory is not None else {}
    waiting = [point for point in points if point not in found]
    evaluator = prepare(objective, plan.engine, plan.examples)
    axes = coordinates(plan.steps, plan.intervals)
    micro_batches, middle = [plan.engine.micro_batch], centre_point(plan.steps, plan.intervals)
    size = 1 if evaluator.batches else plan.steps
    while waiting:
        block = waiting[:size]  # one wait for the device, and one line of a journal
        started = time.perf_counter()
        cells = [np.unravel_index(point, (plan.steps,) * num_axes) for point in block]
        places = [[float(at[i]) for at, i in zip(axes, cell, strict=True)] for cell in cells]
        try:
            rows = evaluator.sums(plane.centre, plane.axes, places).numpy(force=True)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            evaluator = prepare(objective, backed_off(objective, evaluator.engine), plan.examples)
            micro_batches.append(evaluator.engine.micro_batch)
            continue
        new = dict(zip(block, rows, strict=True))
        if (centre := new.get(-1 if middle is None else middle)) is not None:
            _refuse_noise(objective, plan, float(centre[0]) / float(centre[1]))
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
    x, y = coordinates(plan.steps, plan.intervals)
    arrays = _arrays(plan, sums)
    checks = _checks(plan, arrays.loss, arrays.status, micro_batches)
    return Surface(x=x, y=y, **vars(arrays), checkpoint=plan.checkpoint, settings=plan.settings, checks=checks)


def line_of(plan: SurfacePlan, sums: Mapping[int, Sums], micro_batches: Sequence[int] = ()) -> Line:
    """The line of a plan of one axis, as `surface_of`."""
    (x,) = coordinates(plan.steps, plan.intervals)
    arrays = _arrays(plan, sums)
    checks = _checks(plan, arrays.loss, arrays.status, micro_batches)
    return Line(x=x, **vars(arrays), checkpoint=plan.checkpoint, settings=plan.settings, checks=checks)


def _check_plane(objective: Objective, plane: Plane) -> None:
    objective.refuse_changed()
    theta = objective.theta
    for one in (plane.centre, *plane.axes):
        if one.shape != theta.shape:
            raise ValueError(
                f"the plane is of {one.numel():,} parameters, this model has {theta.numel():,}: make it from this one"
            )
        if (one.dtype, one.device) != (theta.dtype, theta.device):
            raise ValueError(
                f"the plane is {one.dtype} on {one.device}, the model {theta.dtype} on {theta.device}: make it from "
                "this model"
            )


def _intervals(plane: Plane, steps: int, extent: float | None, interval: Interval | None) -> list[Interval]:
    """The coordinates that were asked for, or else those of the plane, for each axis."""
    largest = torch.finfo(plane.centre.dtype).max
    if extent is not None and interval is not None:
        raise ValueError("give an extent or an interval, not both")
    if extent is None and interval is None and plane.intervals:
        found = list(plane.intervals)
    elif interval is not None:
        found = [(float(interval[0]), float(interval[1]))] * len(plane.axes)
    else:
        extent = 1.0 if extent is None else float(extent)
        grid(steps, extent)
        if extent > largest:
            raise ValueError(f"extent must be within the range of {plane.centre.dtype}, got {extent}")
        found = [(-extent, extent)] * len(plane.axes)
    for low, high in found:
        if not (low < high and -largest <= low and high <= largest):
            raise ValueError(f"an interval must go from a lower to a higher finite number, got {low} to {high}")
    least = 2 if any(low != -high for low, high in found) else 1
    if steps < least:
        raise ValueError(f"steps must be at least {least} for an interval, got {steps}")
    return found


def _apart(objective: Objective, plane: Plane, plan: SurfacePlan) -> Record:
    """What is measured off the grid: the centre where the grid misses it, and the other checkpoints of the plane."""
    origin = (0.0,) * len(plane.axes)
    places = [landmark.coordinates for landmark in plane.landmarks]
    places += [origin] if centre_point(plan.steps, plan.intervals) is None else []
    if not places:
        return {}
    sums = prepare(objective, plan.engine).sums(plane.centre, plane.axes, places)
    losses, errors, accuracies = (column.tolist() for column in summarise(sums.numpy(force=True)))
    found: Record = {}
    if len(places) > len(plane.landmarks):
        names = ("centre_loss", "centre_standard_error", "centre_accuracy")
        found |= dict(zip(names, (losses[-1], errors[-1], accuracies[-1]), strict=True))
        _refuse_noise(objective, plan, losses[-1])
    if plane.landmarks:
        ends: list[Record] = []
        for landmark, loss in zip(plane.landmarks, losses, strict=False):
            own = replace(objective, model=landmark.model).evaluate().loss
            ends.append({"name": landmark.name, "loss_on_plane": loss, "own_loss": own})
            _warn_of_statistics(objective, plan, landmark.name, loss, own)
        found["landmarks"] = [*ends]
    return found


def _warn_of_statistics(objective: Objective, plan: SurfacePlan, name: str, loss: float, own: float) -> None:
    if plan.engine.batch_norm != "frozen" or not has_running_statistics(objective.model):
        return
    warnings.warn(
        f"BatchNorm keeps the running statistics of the centre: at {name} the loss is {loss:.4g}, with the statistics "
        f"of its own {own:.4g}, a difference of {loss - own:+.2g}. --batch-norm recalibrated mends this",
        StatisticsWarning,
        stacklevel=4,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Arrays:
    """What is known of each point, in the shape of the grid."""

    loss: Array
    standard_error: Array
    accuracy: Array
    status: npt.NDArray[np.uint8]
    metrics: Mapping[str, Metric]
    examples: ExampleLosses | None


def _arrays(plan: SurfacePlan, sums: Mapping[int, Sums]) -> _Arrays:
    shape = (plan.steps,) * len(plan.intervals)
    num_sums = NUM_SUMS + 2 * len(plan.metrics)
    rows = np.full((math.prod(shape), num_sums + len(plan.examples)), np.nan)
    for point, values in sums.items():
        rows[point] = values
    loss, standard_error, accuracy = (values.reshape(shape) for values in summarise(rows))
    status = status_of(loss)
    status[~np.isin(np.arange(loss.size), list(sums)).reshape(shape)] = MISSING
    means = [(mean.reshape(shape), error.reshape(shape)) for mean, error in metric_means(rows[:, :num_sums])]
    kept = rows[:, num_sums:].reshape(*shape, len(plan.examples)).astype(str(plan.settings["dtype"]))
    return _Arrays(
        loss=loss,
        standard_error=standard_error,
        accuracy=accuracy,
        status=status,
        metrics={
            name: Metric(mean=mean, standard_error=error)
            for name, (mean, error) in zip(plan.metrics, means, strict=True)
        },
        examples=ExampleLosses(loss=kept, denominator=np.array(plan.denominators)) if plan.examples else None,
    )


def _paired_examples(objective: Objective, count: int) -> list[int]:
    """Places of the examples whose losses are kept: the same for every checkpoint and every run."""
    if count == 0:
        return []
    if not 2 <= count <= MAX_PAIRED:
        raise ValueError(f"paired must be 0, or in 2..{MAX_PAIRED} examples, got {count}")
    if not objective.per_example:
        raise ValueError("paired needs the loss of each example: use one of torch's losses, or paired=0")
    if count > objective.num_examples:
        raise ValueError(f"paired is {count}, but the data has {objective.num_examples} examples")
    stream = torch.Generator().manual_seed(_PAIRING_SEED)
    return sorted(torch.randperm(objective.num_examples, generator=stream)[:count].tolist())


def _hash_of(objective: Objective, examples: Sequence[int]) -> str:
    return hashlib.sha256(f"{objective.data_hash} {list(examples)}".encode()).hexdigest()


def _checks(plan: SurfacePlan, loss: Array, status: npt.NDArray[np.uint8], micro_batches: Sequence[int]) -> Record:
    centre = centre_point(plan.steps, plan.intervals)
    value = float(cast(float, plan.checks["centre_loss"]) if centre is None else loss.flat[centre])
    error = _relative(value, plan.reference_loss)
    measured = centre is None or status.flat[centre] != MISSING
    return {
        **plan.checks,
        "centre_loss": value,
        "reference_loss": plan.reference_loss,
        **({"centre_error": error, "centre_ok": error <= _tolerance(plan)} if measured else {}),
        "num_nonfinite": int((status > OK).sum()),
        **({"micro_batches": list(micro_batches)} if len(micro_batches) > 1 else {}),
    }


def _tolerance(plan: SurfacePlan) -> float:
    lower = PRECISION_TOLERANCE.get(plan.engine.precision, 0.0)
    rounding = CENTRE_TOLERANCE[getattr(torch, str(plan.settings["dtype"]))]
    of_outputs = _ROUNDINGS * cast(float, plan.checks.get("rounding", 0.0))
    return max(lower, of_outputs, rounding if plan.engine.batch_norm == "frozen" else _STATISTICS * rounding)


def _relative(value: float, reference: float) -> float:
    if value == reference:
        return 0.0
    return abs(value - reference) / abs(reference) if reference else math.inf


def _refuse_noise(objective: Objective, plan: SurfacePlan, centre: float) -> None:
    """Where the centre is not what the plain loop found, ask whether any two passes agree."""
    if not _relative(centre, plan.reference_loss) <= _tolerance(plan):
        _ = objective.centre  # two passes; raises NotRepeatableError
