"""Surfaces, lines and runs on a plane as tables: the loss at the centre and how it rises, with what failed a check."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from landscape.flatness import RADII, RISES, Flatness, flatness, mean_and_spread
from landscape.formatting import percent, plus_minus, short, signed
from landscape.grouping import PLANES, checkpoint_key
from landscape.paired import comparable, paired_difference, paired_rise
from landscape.readings import (
    barrier,
    centre,
    centre_cell,
    first_step,
    quadratic_models,
    ring_rise,
)
from landscape.results import (
    MISSING,
    Array,
    Line,
    Record,
    Surface,
    Trajectory,
)
from landscape.subjects import count_words, data_words, label, mode_words, number_of, plain_loop
from landscape.typesetting import Table


def surfaces_table(surfaces: Sequence[Surface]) -> Table:
    """Of one surface for each checkpoint, or over several planes of each."""
    several = len({_subject(one) for one in surfaces}) < len(surfaces)
    return flatness_table(surfaces) if several else surface_table(surfaces)


def surface_table(surfaces: Sequence[Surface]) -> Table:
    """Loss and accuracy at each centre, and the mean rise half way out and at the edge of the grid."""
    records = [_surface_record(s) for s in surfaces]
    settings = surfaces[0].settings
    ringed = any(math.isfinite(number_of(r["rise_at_edge"])) for r in records)
    rises = ("rise_half_way", "rise_at_edge") if ringed else ()
    rows = [
        [
            str(r["checkpoint"]),
            plus_minus(number_of(r["loss"]), number_of(r["loss_standard_error"])),
            percent(number_of(r["accuracy"]), number_of(r["accuracy_standard_error"])),
            *("" if math.isnan(number_of(r[name])) else short(number_of(r[name])) for name in rises),
            str(r["num_nonfinite"]),
        ]
        for r in records
    ]
    rise = "rise is the mean loss above the centre's on the square ring at half and at the whole extent"
    notes = [*([rise] if ringed else []), _centre_note(surfaces), *_missing_notes(surfaces), *_axes_notes(surfaces)]
    title = f"Loss on {_where('plane', settings)}, {settings.get('steps')} x {settings.get('steps')} points"
    title += f"{_early(settings)}, {_reach(settings)}, {data_words(settings)}{mode_words(settings)}"
    header = ["", "loss", "accuracy", *(["rise, half", "rise, edge"] if ringed else []), "not finite"]
    return Table(title, header, rows, notes, records)


def flatness_table(surfaces: Sequence[Surface]) -> Table:
    """For each checkpoint how flat the loss is on several planes: mean and standard deviation over the planes."""
    by_checkpoint: dict[tuple[str, str], list[Surface]] = {}
    for one in surfaces:
        by_checkpoint.setdefault(_subject(one), []).append(one)
    found = [(mine[0], flatness(mine)) for mine in by_checkpoint.values()]
    names = ("curvature", "radius_small", "radius_large", "rise_half", "rise_edge")
    rows = [
        [label(one), short(measures.loss), *(_over_planes(getattr(measures, n)) for n in names)]
        for one, measures in found
    ]
    records: list[Record] = [_flatness_record(one, measures) for one, measures in found]
    settings, counts = surfaces[0].settings, {len(measures.curvature) for _, measures in found}
    planes = " or ".join(map(str, sorted(counts)))
    title = (
        f"Flatness on {planes} {settings.get('directions')} planes, {settings.get('unit')}, "
        f"extent {settings.get('extent')}, {data_words(settings)}{mode_words(settings)}"
    )
    header = ["", "loss", "curvature", *(f"radius +{rise:g}" for rise in RISES), "rise, half", "rise, edge"]
    agree, what = all(one.checks.get("centre_ok") for one in surfaces), plain_loop(settings) or "the checkpoint's loss"
    notes = [
        "± is the standard deviation over planes. radius +d: the distance along an axis at which the loss has "
        "risen by d nats (inf: nowhere on some axis). rise: the mean on the square ring at half and at the whole "
        "extent. curvature: the second difference over one step of the grid, mean of both axes. Lengths are those of "
        "an axis",
        *_coarse_notes([measures for _, measures in found], first_step(surfaces[0])),
        f"the centre {'equals' if agree else 'DIFFERS from'} {what} on every plane",
    ]
    return Table(title, header, rows, notes, records)


def _coarse_notes(found: Sequence[Flatness], step: float) -> list[str]:
    """That a radius is less than the grid can tell, where one is."""
    near = [rise for rise, name in RADII.items() if any((getattr(one, name) < step).any() for one in found)]
    if not near:
        return []
    told = " and ".join(f"+{rise:g}" for rise in near)
    verb, mend = ("is", "measures it") if len(near) == 1 else ("are", "measures them")
    where = f"below one step of the grid ({short(step)}), where the loss is taken for a bowl"
    return [f"radius {told} {verb} {where}: a larger --steps {mend}"]


def paired_tables(surfaces: Sequence[Surface]) -> list[Table]:
    """A table of differences for each set of surfaces whose examples and grids are equal."""
    groups: list[list[Surface]] = []
    for one in surfaces:
        group = next((g for g in groups if comparable(g[0], one)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return [paired_table(group) for group in groups if len({_subject(one) for one in group}) == len(group) > 1]


def paired_table(surfaces: Sequence[Surface]) -> Table:
    """How each surface differs from the first one, example by example: at the centre, and in its rise."""
    first, rows, records = surfaces[0], [], []
    assert first.examples is not None
    cell = centre_cell(first)
    for one in surfaces[1:]:
        at_points = paired_difference(one, first)
        found = {
            "loss": (at_points.value[cell], at_points.standard_error[cell]) if cell else (math.nan, math.nan),
            **{
                name: (rise.value, rise.standard_error)
                for name, rise in (
                    ("rise_half_way", paired_rise(one, first, 0.5)),
                    ("rise_at_edge", paired_rise(one, first, 1.0)),
                )
            },
        }
        values = {name: (float(value), float(error)) for name, (value, error) in found.items()}
        rows.append([label(one), *(signed(*pair) if math.isfinite(pair[0]) else "" for pair in values.values())])
        record: Record = {"checkpoint": label(one), "less": label(first), "num_examples": at_points.num_examples}
        for name, (value, error) in values.items():
            record |= {name: value, f"{name}_standard_error": error}
        records.append(record)
    of = f"{count_words(first.settings, 'num_paired')} of the {data_words(first.settings)}"
    title = f"Differences to {label(first)}, {of}"
    title += f", seed {first.settings['seed']}" if "seed" in first.settings else ""
    notes = ["± is one standard error of the difference on the same examples; below 0: lower, or rising less"]
    return Table(title, ["", "loss", "rise, half", "rise, edge"], rows, notes, records)


def _subject(surface: Surface) -> tuple[str, str]:
    """Whose surface it is: two files may hold equal weights."""
    return label(surface), checkpoint_key(surface)


def _over_planes(values: Array) -> str:
    mean, spread = mean_and_spread(values)
    return plus_minus(mean, spread) if math.isfinite(spread) else short(mean)


def _flatness_record(surface: Surface, measures: Flatness) -> Record:
    values: Record = {}
    for name in ("curvature", "radius_small", "radius_large", "rise_half", "rise_edge"):
        mean, spread = mean_and_spread(getattr(measures, name))
        values |= {name: mean, f"{name}_standard_deviation": spread}
    return {
        "checkpoint": label(surface),
        "split": surface.settings.get("split"),
        "loss": measures.loss,
        "num_planes": len(measures.curvature),
        **values,
    }


def line_table(lines: Sequence[Line]) -> Table:
    """Loss and accuracy at each centre, the lowest and the highest loss on the line, and the barrier between ends."""
    records = [_line_record(one) for one in lines]
    settings, between = lines[0].settings, any(r["barrier"] is not None for r in records)
    rows = [
        [
            str(r["checkpoint"]),
            plus_minus(number_of(r["loss"]), number_of(r["loss_standard_error"])),
            percent(number_of(r["accuracy"]), number_of(r["accuracy_standard_error"])),
            *(short(number_of(r[name])) for name in ("lowest", "lowest_at", "highest", "highest_at")),
            *([short(number_of(r["barrier"]))] if between else []),
            str(r["num_nonfinite"]),
        ]
        for r in records
    ]
    notes = [_centre_note(lines), *_missing_notes(lines), *_axes_notes(lines)]
    if any(r["barrier"] is None and one.checks.get("landmarks") for r, one in zip(records, lines, strict=True)):
        notes.append(
            "no barrier: the line does not end at the other checkpoint's loss. --batch-norm recalibrated mends it"
        )
    if between:
        notes.append("barrier is the highest loss above the straight line from one checkpoint's loss to the other's")
    header = ["", "loss", "accuracy", "lowest", "at", "highest", "at", *(["barrier"] if between else []), "not finite"]
    title = (
        f"Loss on {_where('line', settings)}, {settings.get('steps')} points{_early(settings)}, {_reach(settings)}, "
    )
    title += f"{data_words(settings)}{mode_words(settings)}"
    return Table(title, header, rows, notes, records)


def trajectory_table(surface: Surface, found: Trajectory) -> Table:
    """Where each checkpoint of a run lies on a plane, how far from it, its own loss and the plane's."""
    names = ("epoch", "x", "y", "distance", "loss", "standard_error", "plane_loss")
    columns = [getattr(found, name).tolist() for name in names]
    records: list[Record] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    rows = [
        [
            str(r["epoch"]),
            *(short(number_of(r[name])) for name in ("x", "y", "distance")),
            plus_minus(number_of(r["loss"]), number_of(r["standard_error"])),
            short(number_of(r["plane_loss"])),
        ]
        for r in records
    ]
    share = f"{100 * found.explained_variance:.3g} % of its squared distances from the centre lie in it"
    run, mode = surface.settings.get("trajectory_of"), surface.settings.get("batch_norm")
    title = f"{'A run' if run is None else f'The run {run}'} seen from the plane of {label(surface)}; {share}"
    statistics = {"recalibrated": "recalibrated statistics", "train": "the statistics of each batch"}
    notes = [
        "distance is the checkpoint's from the plane; contours show the plane's loss at (x, y), not the checkpoint's. "
        "Where the two differ at distance 0, it is by BatchNorm: the plane has "
        f"{statistics.get(str(mode), 'the running statistics of its centre')}, the checkpoint its own running ones",
    ]
    return Table(title, ["epoch", "x", "y", "distance", "loss", "plane's loss"], rows, notes, records)


def _surface_record(surface: Surface) -> Record:
    at = centre(surface)
    return {
        "checkpoint": label(surface),
        "split": surface.settings.get("split"),
        "loss": at.loss,
        "loss_standard_error": at.error,
        "accuracy": at.accuracy,
        "accuracy_standard_error": at.accuracy_error,
        "rise_half_way": ring_rise(surface, 0.5),
        "rise_at_edge": ring_rise(surface, 1.0),
        **_metrics_record(surface),
        "num_nonfinite": surface.num_nonfinite,
        "centre_error": surface.checks.get("centre_error"),
        "centre_ok": surface.checks.get("centre_ok"),
    }


def _metrics_record(result: Surface | Line) -> Record:
    """The caller's own metrics at the centre."""
    cell, found = centre_cell(result), cast(Record, {})
    for name, metric in result.metrics.items() if cell is not None else ():
        found |= {name: float(metric.mean[cell]), f"{name}_standard_error": float(metric.standard_error[cell])}
    return found


def _line_record(line: Line) -> Record:
    at = centre(line)
    finite = np.where(np.isfinite(line.loss), line.loss, np.nan)
    known = bool(np.isfinite(finite).any())
    low, high = (int(np.nanargmin(finite)), int(np.nanargmax(finite))) if known else (0, 0)
    lowest, lowest_at = float(finite[low]), float(line.x[low])
    if not at.loss >= lowest and math.isfinite(at.loss):  # a grid need not hold the centre
        lowest, lowest_at = at.loss, 0.0
    return {
        "checkpoint": label(line),
        "split": line.settings.get("split"),
        "loss": at.loss,
        "loss_standard_error": at.error,
        "accuracy": at.accuracy,
        "accuracy_standard_error": at.accuracy_error,
        "lowest": lowest,
        "lowest_at": lowest_at,
        "highest": float(finite[high]),
        "highest_at": float(line.x[high]),
        **_metrics_record(line),
        "barrier": barrier(line),
        "num_nonfinite": line.num_nonfinite,
        "centre_error": line.checks.get("centre_error"),
        "centre_ok": line.checks.get("centre_ok"),
    }


def _where(what: str, settings: Record) -> str:
    kind = str(settings.get("directions"))
    place = f"a {what} {PLANES[kind]}" if kind in PLANES else f"a {kind} {what}"
    layers = settings.get("layers")
    moving = f", {', '.join(map(str, layers))} alone" if isinstance(layers, list) else ""
    return f"{place}, {settings.get('unit')}{moving}"


def _reach(settings: Record) -> str:
    intervals = settings.get("intervals")
    if not isinstance(intervals, list):
        return f"extent {settings.get('extent')}"
    told = [f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in zip("xy", intervals, strict=False)]  # type: ignore[misc, str-unpack]
    return ", ".join(told)


def _centre_note(results: Sequence[Surface | Line]) -> str:
    if any("centre_ok" not in one.checks for one in results):
        return "the centre is not measured yet, and not held against the checkpoint's loss"
    worst = max((number_of(one.checks.get("centre_error")) for one in results), default=math.nan)
    agree = all(one.checks.get("centre_ok") for one in results)
    verb = "equals" if agree else "DIFFERS from"
    what = plain_loop(results[0].settings) or "the checkpoint's loss"
    return f"the centre {verb} {what} (relative difference {worst:.1g})"


def _early(settings: Record) -> str:
    whole = settings.get("early_of")
    return f" (early, of {whole} along an axis)" if whole else ""


def _missing_notes(results: Sequence[Surface | Line]) -> list[str]:
    """How many points there are, where some are not measured yet."""
    there = [int((one.status != MISSING).sum()) for one in results]
    return [
        f"{label(one)}: {count:,} of {one.status.size:,} points are measured yet"
        for one, count in zip(results, there, strict=True)
        if count < one.status.size
    ]


def _axes_notes(results: Sequence[Surface | Line]) -> list[str]:
    """What is known of the axes, and of the checkpoints that lie on a line or plane."""
    settings, notes = results[0].settings, []
    whole = settings.get("whole_tensors")
    if isinstance(whole, list) and whole:
        names = ", ".join(str(name) for name in whole[:3]) + (f" and {len(whole) - 3} more" if len(whole) > 3 else "")
        notes.append(f"of no known kind, and so one filter each: {names} (output dimensions may be given)")
    shares, values = settings.get("explained_variance"), settings.get("eigenvalues")
    if isinstance(shares, list):
        told = " and ".join(f"{100 * number_of(share):.3g} %" for share in shares)
        notes.append(f"the axes hold {told} of the run's squared distances from its {settings.get('about')}")
    if isinstance(values, list):
        told = " and ".join(short(number_of(value)) for value in values)
        notes.append(
            f"the eigenvalues of the {settings.get('operator')} at {label(results[0])}, along the axes: {told}"
        )
        notes += _finite_step_notes([one for one in results if isinstance(one, Surface)])
    for one in results:
        ends = one.checks.get("landmarks")
        for end in ends if isinstance(ends, list) else []:
            assert isinstance(end, dict)
            on_it, own = number_of(end["loss_on_plane"]), number_of(end["own_loss"])
            notes.append(f"at {end['name']} the loss is {short(on_it)} here, its own {short(own)}")
    return notes


def _finite_step_notes(surfaces: Sequence[Surface]) -> list[str]:
    """The curvature of the grid along eigenvectors: it holds the kinks of a network, which eigenvalues do not."""
    notes = []
    for one in surfaces:
        models = [model for model in quadratic_models(one, alone=True) if model is not None]
        if len(models) == 2:
            step, told = one.x[1] - one.x[0], " and ".join(short(model.second_difference) for model in models)
            notes.append(
                f"{label(one)}: curvature over one step of the grid ({short(float(step))}) along them: {told}; it "
                "holds the kinks of ReLU, which eigenvalues do not"
            )
    return notes
