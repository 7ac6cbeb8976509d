"""Several surfaces as one piece of work: planned once, measured by any number of workers, put together at the end.

    plan     what was decided by the caller, and for each surface its SurfacePlan: landscape.journal keeps it
    shard    (i, n): from the i-th, every n-th point of each surface
    merge    the results, once every point is there

With the same plan the points have the same bits whoever measures them, so 1, 3 or 7 shards give equal arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from landscape import journal
from landscape.directions import Plane
from landscape.evaluator import Engine
from landscape.journal import JournalError
from landscape.objective import Objective
from landscape.results import Json, Record, Surface
from landscape.surface import SurfacePlan, coarse_to_fine, measure, plan_surface, surface_of

Progress = Callable[[str, int, int], None]  # label, points done, points in all


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """One surface to be measured, and what is to be said of it besides its numbers."""

    label: str
    objective: Objective
    plane: Plane
    checkpoint: Record
    settings: Record


def plan_all(
    folder: Path,
    decided: Record,
    subjects: Sequence[Subject],
    *,
    steps: int,
    extent: float,
    engine: Callable[[], Engine],
) -> list[SurfacePlan]:
    """The plans of all surfaces: those of the journal in `folder`, or new ones with `engine()`, then kept there.

    Raises:
        JournalError: If the journal is of other work; the message names what differs.
    """
    if (folder / "plan.json").exists():
        return read_all(folder, decided)
    plans, chosen = [], engine()
    for one in subjects:
        plan = plan_surface(one.objective, one.plane, steps=steps, extent=extent, engine=chosen)
        settings = {**plan.settings, **one.settings}
        plans.append(dataclasses.replace(plan, checkpoint=one.checkpoint, settings=settings))
    journal.write_plan(folder, {"decided": decided, "surfaces": [_record(plan) for plan in plans]})
    return read_all(folder, decided)  # those of another worker, if it was first: all have the same


def read_all(folder: Path, decided: Record | None = None) -> list[SurfacePlan]:
    """The plans of a journal.

    Raises:
        JournalError: If it is damaged, or `decided` is given and not what it was made for.
    """
    content = journal.read_plan(folder)
    there = cast(Record, content.get("decided", {}))
    if decided is not None:
        differing = [name for name in sorted({*decided, *there}) if decided.get(name) != there.get(name)]
        if differing:
            raise JournalError(f"{folder} is of other settings: {', '.join(differing)}. --force starts anew")
    try:
        return [_plan(cast(dict[str, Any], record)) for record in cast(list[Json], content["surfaces"])]
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(
            f"{folder / 'plan.json'} is not a plan of surfaces ({error}): --force starts anew"
        ) from error


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
        JournalBusyError: If another process writes this shard.
        JournalError: If its file is damaged.
    """
    with journal.opened(folder, shard, len(plans)) as memories:
        for one, plan, memory in zip(subjects, plans, memories, strict=True):
            points = coarse_to_fine(plan.steps, 2)[shard[0] - 1 :: shard[1]]
            told = None if progress is None else _labelled(progress, one.label)
            measure(one.objective, one.plane, plan, points=points, memory=memory, progress=told)


def merge(folder: Path, *, partial: bool = False) -> tuple[Record, list[Surface]]:
    """What the caller decided, and the surfaces, from the points of all shards; `partial`: with some of them missing.

    Raises:
        JournalError: If points are missing (the message says how many, and which shards are there), or shards disagree.
    """
    plans = read_all(folder)
    kept = journal.merged(folder, len(plans))
    wanted, there = sum(plan.steps**2 for plan in plans), sum(len(one.points) for one in kept)
    if there < wanted and not partial:
        shards = ", ".join(path.stem.replace("-of-", "/") for path in journal.shard_files(folder)) or "none"
        raise JournalError(f"{folder} has {there} of {wanted} points (shards begun: {shards}): run the others first")
    surfaces = [surface_of(plan, one.points, one.micro_batches) for plan, one in zip(plans, kept, strict=True)]
    return cast(Record, journal.read_plan(folder)["decided"]), surfaces


def _labelled(progress: Progress, label: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(label, done, total)


def _record(plan: SurfacePlan) -> Record:
    values = {item.name: getattr(plan, item.name) for item in dataclasses.fields(plan)}
    return {**values, "engine": plan.engine.record()}


def _plan(record: dict[str, Any]) -> SurfacePlan:
    return SurfacePlan(**{**record, "engine": Engine(**record["engine"])})
