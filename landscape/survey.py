"""Several surfaces as one piece of work: planned once, measured by any number of workers, put together at the end.

    plan     what was decided by the caller, and for each surface its SurfacePlan: landscape.journal keeps it
    shard    (i, n): from the i-th, every n-th point of each surface
    merge    the results, once every point is there

With the same plan the points have the same bits whoever measures them, so 1, 3 or 7 shards give equal arrays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from landscape import journal
from landscape.evaluator import BatchNorm, Engine, Layout, Precision, choose, compiled_for, usual
from landscape.grid import coarse_grids
from landscape.journal import JournalBusyError, JournalError
from landscape.objective import Objective
from landscape.outputs import OtherSettingsError, OutputExistsError
from landscape.plane import Interval, Plane
from landscape.results import MAX_BYTES, MISSING, Json, Line, Metric, Record, Surface, Trajectory
from landscape.surface import SurfacePlan, coarse_to_fine, line_of, measure, plan_surface, surface_of

_GRIDS = ("loss", "standard_error", "accuracy", "status")  # what a surface has at each point
_LARGEST = 0.9  # of what a results file may unpack to: the rest is for plan, settings, trajectories

R = TypeVar("R", Surface, Line)
Progress = Callable[[str, int, int], None]  # label, points done, points in all


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """One surface to be measured, and what is to be said of it besides its numbers."""

    label: str
    objective: Objective
    plane: Plane  # or a line
    checkpoint: Record
    settings: Record
    trajectory: Callable[[Engine], Trajectory] | None = None  # of a run, as the plane sees it


def one_engine(
    subjects: Sequence[Subject],
    *,
    steps: int,
    batch_norm: BatchNorm = "frozen",
    precision: Precision = "fp32",
    micro_batch: int | None = None,
    layout: Layout | None = None,
    tune: bool = False,
) -> Engine:
    """One engine for all surfaces: the usual one or, with `tune`, the fastest, but for the sizes that are given."""
    objective, num_points = subjects[0].objective, sum(steps ** len(one.plane.axes) for one in subjects)
    found = usual(objective, Engine(batch_norm=batch_norm, precision=precision))
    if tune:
        found, _ = choose(objective, found, num_points=num_points)
    found = dataclasses.replace(
        found, micro_batch=micro_batch or found.micro_batch, layout=found.layout if layout is None else layout
    )
    return found if tune else compiled_for(objective, found, num_points=num_points)


def plan_all(
    folder: Path,
    decided: Record,
    subjects: Sequence[Subject],
    *,
    steps: int,
    extent: float | None,
    interval: Interval | None,
    engine: Callable[[], Engine],
    paired: int = 0,
) -> list[SurfacePlan]:
    """The plans of all surfaces: those of the journal in `folder`, or new ones with `engine()`, then kept there.

    Raises:
        JournalError: If the journal is of other work; the message names what differs.
        ValueError: As `landscape.surface.plan_surface`, or if the results would be too large to be read back.
    """
    if (folder / "plan.json").exists():
        return read_all(folder, decided)
    _refuse_too_large(subjects, steps, paired)
    records: list[Json] = []
    chosen = engine()
    for one in subjects:
        plan = plan_surface(
            one.objective, one.plane, steps=steps, extent=extent, interval=interval, engine=chosen, paired=paired
        )
        settings = {**plan.settings, **one.settings}
        record = _record(dataclasses.replace(plan, checkpoint=one.checkpoint, settings=settings))
        if one.trajectory is not None:
            record["trajectory"] = _listed(one.trajectory(chosen))
        records.append(record)
    journal.write_plan(folder, {"decided": decided, "surfaces": records})
    return read_all(folder, decided)  # those of another worker, if it was first: all have the same


def read_all(folder: Path, decided: Record | None = None) -> list[SurfacePlan]:
    """The plans of a journal.

    Raises:
        JournalError: If it is damaged, or `decided` is given and not what it was made for.
    """
    content = journal.read_plan(folder)
    if decided is not None:
        journal.refuse_other_work(folder, decided)
    try:
        return [_plan(cast(dict[str, Any], record)) for record in cast(list[Json], content["surfaces"])]
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(
            f"{folder / 'plan.json'} is not a plan of surfaces ({error}): landscape surface --force starts anew"
        ) from error


def start_anew(folder: Path, decided: Record, shard: tuple[int, int] = (1, 1)) -> None:
    """Forget the points of one shard, of several for this work; of other work, or other shards, the whole journal.

    Raises:
        JournalBusyError: If another process writes what is to be forgotten; then nothing is.
    """
    others = [path for path in journal.shard_files(folder) if not path.stem.endswith(f"-of-{shard[1]}")]
    with contextlib.suppress(JournalError):
        if shard[1] > 1 and not others and read_all(folder, decided):  # a damaged plan is none
            journal.reset(folder, shard)
            return
    journal.remove(folder)


def begin(
    out: Path, decided: Record, shard: tuple[int, int] = (1, 1), *, force: bool = False, resume: bool = False
) -> Path:
    """The journal of a results file for one shard: empty, or one to go on with, by `resume`; `force` empties it.

    Raises:
        OtherSettingsError: If it was begun with other shards.
        OutputExistsError: If this shard was begun, and neither `force` nor `resume` is given.
        JournalBusyError: If another process writes what is to be emptied.
    """
    folder = journal.folder_of(out)
    begun = folder / f"{shard[0]}-of-{shard[1]}.jsonl"
    others = [path for path in journal.shard_files(folder) if not path.name.endswith(f"-of-{shard[1]}.jsonl")]
    if force:
        start_anew(folder, decided, shard)
    elif others:
        raise OtherSettingsError(f"{folder} was begun with other shards ({others[0].stem})", "--force starts anew")
    elif begun.exists() and not resume:
        raise OutputExistsError(f"{folder} holds a surface that was not finished", "--resume goes on, --force anew")
    return folder


def run_shard(
    folder: Path,
    plans: Sequence[SurfacePlan],
    subjects: Sequence[Subject],
    shard: tuple[int, int] = (1, 1),
    *,
    progress: Progress | None = None,
) -> None:
    """Measure the points of one shard that its file does not hold yet.

    Raises:
        JournalBusyError: If another process writes this shard, or began the journal anew with another plan.
        JournalError: If its file is damaged.
    """
    with journal.opened(folder, shard, len(plans)) as memories:
        if _text(read_all(folder)) != _text(plans):
            raise JournalBusyError(f"another process began {folder} anew meanwhile: wait for it")
        for one, plan, memory in zip(subjects, plans, memories, strict=True):
            points = coarse_to_fine(plan.steps, len(plan.intervals))[shard[0] - 1 :: shard[1]]
            told = None if progress is None else _labelled(progress, one.label)
            measure(one.objective, one.plane, plan, points=points, memory=memory, progress=told)


def merge(folder: Path, *, partial: bool = False) -> tuple[Record, list[Surface | Line]]:
    """What the caller decided, and the surfaces or lines, from the points of all shards.

    Points may be missing where `partial`. Of a surface that has all points of a coarser grid this one is given, an
    early picture; where there is none, what is missing stays missing. Surfaces without a point are left out.

    Raises:
        JournalError: If points are missing (the message says how many, and which shards are there), or shards disagree.
    """
    plans = read_all(folder)
    kept = journal.merged(folder, len(plans))
    wanted = sum(plan.steps ** len(plan.intervals) for plan in plans)
    there = sum(len(one.points) for one in kept)
    if there < wanted and not partial:
        shards = ", ".join(path.stem.replace("-of-", "/") for path in journal.shard_files(folder)) or "none"
        raise JournalError(f"{folder} has {there} of {wanted} points (shards begun: {shards}): run the others first")
    content = journal.read_plan(folder)
    records = cast(list[dict[str, Any]], content["surfaces"])
    if not there:
        raise JournalError(f"{folder} has no point yet")
    found: list[Surface | Line] = []
    for plan, one, record in zip(plans, kept, records, strict=True):
        if not one.points:
            continue
        if len(plan.intervals) == 1:
            found.append(_early(line_of(plan, one.points, one.micro_batches)))
            continue
        surface = surface_of(plan, one.points, one.micro_batches)
        found.append(_early(dataclasses.replace(surface, trajectory=_trajectory(record.get("trajectory")))))
    return cast(Record, content["decided"]), found


def _refuse_too_large(subjects: Sequence[Subject], steps: int, paired: int) -> None:
    """Before anything is measured: a results file that `load` would refuse is not begun."""
    size = 0
    for one in subjects:
        of_a_point = len(_GRIDS) * 8 + 2 * 8 * len(one.objective.metrics) + paired * one.objective.theta.element_size()
        size += max(steps, 0) ** len(one.plane.axes) * of_a_point
    if size > _LARGEST * MAX_BYTES:
        raise ValueError(
            f"the results would take {size / 2**20:,.0f} MiB, more than the {_LARGEST * MAX_BYTES / 2**20:,.0f} of a "
            "file that is read back: use a smaller --paired, --steps or --planes, or fewer checkpoints to a command"
        )


def _early(whole: R) -> R:
    """The finest grid in a surface or line of which no point is missing; of a whole one, itself."""
    steps, num_axes = len(whole.x), whole.loss.ndim
    if steps < 2 or not (whole.status == MISSING).any():
        return whole
    for marks in reversed(coarse_grids(steps)):
        places = np.ix_(*[marks] * num_axes)
        if (whole.status[places] != MISSING).all():
            break
    else:
        return whole
    arrays = {name: getattr(whole, name)[places] for name in _GRIDS}
    metrics = {
        name: Metric(mean=one.mean[places], standard_error=one.standard_error[places])
        for name, one in whole.metrics.items()
    }
    kept = whole.examples and dataclasses.replace(whole.examples, loss=whole.examples.loss[places])
    axes = {name: getattr(whole, name)[marks] for name in ("x", "y")[:num_axes]}
    settings = {**whole.settings, "steps": len(marks), "early_of": steps}
    return dataclasses.replace(whole, **arrays, **axes, metrics=metrics, examples=kept, settings=settings)


def _labelled(progress: Progress, label: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(label, done, total)


def _record(plan: SurfacePlan) -> Record:
    values = {item.name: getattr(plan, item.name) for item in dataclasses.fields(plan)}
    intervals = [list(interval) for interval in plan.intervals]
    sequences = {name: list(values[name]) for name in ("metrics", "examples", "denominators")}
    return {**values, **sequences, "intervals": intervals, "engine": plan.engine.record()}


def _text(plans: Sequence[SurfacePlan]) -> str:
    return json.dumps([_record(plan) for plan in plans])  # in which a NaN equals itself


def _plan(record: dict[str, Any]) -> SurfacePlan:
    known = {name: value for name, value in record.items() if name != "trajectory"}
    return SurfacePlan(**{**known, "engine": Engine(**record["engine"])})


def _listed(trajectory: Trajectory) -> Record:
    values = {item.name: getattr(trajectory, item.name) for item in dataclasses.fields(trajectory)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _trajectory(record: dict[str, Any] | None) -> Trajectory | None:
    if record is None:
        return None
    arrays: dict[str, Any] = {name: np.array(value) for name, value in record.items() if isinstance(value, list)}
    return Trajectory(**arrays, explained_variance=float(record["explained_variance"]))
