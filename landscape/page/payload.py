"""What the script of the page draws, as JSON: figures without their arrays, and each array once, packed."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from landscape import figures
from landscape.grouping import Checkpoint, LineGroup, Style, SurfaceGroup
from landscape.page.captions import badge, no_surface, stat
from landscape.paired import comparable, paired_difference
from landscape.readings import centre, measured, num_examples
from landscape.results import Array, Json, Surface, Trajectory
from landscape.view import STATUS_NAMES, View, difference_view, loss_view

MOST_COLUMNS = 8  # pictures side by side; of more checkpoints
SLOTS = 3  # have a picture, each with a picker; of more than these that are seeds of few methods, one of each
MOST_DIFFERENCES = 7  # pictures of differences


def payload(
    planes: Sequence[Sequence[SurfaceGroup]],
    lines: Sequence[LineGroup],
    splits: dict[str, tuple[str, str]],
    checkpoints: Sequence[Checkpoint],
    known: dict[str, Style],
) -> dict[str, Any]:
    """All that is drawn; `planes` by family, `splits` are the `data_sets`, by the ids that the page uses."""
    surfaces = [one for family in planes for plane in family for members in plane.sets.values() for _, one in members]
    on_lines = [one for group in lines for one in group.lines]
    linear_only = any((measured(one) <= 0).any() for one in surfaces)
    sets = [[one for _, one in members] for family in planes for plane in family for members in plane.sets.values()]
    log = not linear_only and (any(loss_view(seen).log for seen in sets) or loss_view(on_lines).log)
    pairs = [one for c in checkpoints for one in c.pairs]
    spreads = [one for c in checkpoints for one in c.data_spreads]
    blocks = [one for c in checkpoints for one in c.layers]
    densities = [one for c in checkpoints for one in c.densities]
    curvatures = [one for c in checkpoints for one in c.curvature_traces]
    traces = [one for c in checkpoints for one in c.traces]
    pictured = [(first, one) for _, first, others in difference_sets(planes, splits) for one in others]
    return {
        "splits": {key: {"name": name, "hash": json.loads(data)[3]} for data, (key, name) in splits.items()},
        "loss": "log" if log else "linear",
        "linear_only": linear_only,
        "clip": _clip_range(surfaces),
        "camera": figures.CAMERA,
        "planes": [
            {"where": plane_named(n, len(planes)), **_family_payload(family, splits, known, log=not linear_only)}
            for n, family in enumerate(planes)
        ],
        "lines": [_line_payload(group, known) for group in lines],
        "differences": [_difference_payload(one, first) for first, one in pictured[:MOST_DIFFERENCES]],
        "eigenvalues": _figure_json(figures.eigenvalues(pairs, spreads, known=known)) if pairs else None,
        "layers": _figure_json(figures.layers(blocks, known=known)) if blocks else None,
        "density": _figure_json(figures.density(densities, known=known)) if densities else None,
        "curvature-trace": _figure_json(figures.curvature_trace(curvatures, known=known)) if curvatures else None,
        "congruence": _figure_json(figures.congruence(traces, known=known)) if traces else None,
    }


def difference_sets(
    planes: Sequence[Sequence[SurfaceGroup]], splits: dict[str, tuple[str, str]]
) -> list[tuple[str, Surface, list[Surface]]]:
    """On which data, the first surface, and those that can be compared with it example by example; of first planes."""
    found = []
    for family in planes:
        for key, name in splits.values():
            members = [one for _, one in family[0].sets.get(key, [])]
            others = [one for one in members[1:] if comparable(members[0], one)]
            if others:
                found.append((name, members[0], others))
    return found


def epochs_of(family: Sequence[SurfaceGroup]) -> list[int]:
    """The epochs that a run was seen at from one of these planes."""
    surfaces = [one for plane in family for members in plane.sets.values() for _, one in members]
    return sorted({int(epoch) for one in surfaces if one.trajectory for epoch in one.trajectory.epoch})


def plane_named(n: int, num_planes: int) -> str:
    """What tells the pictures of one family of planes from those of another."""
    return f", plane {n + 1}" if num_planes > 1 else ""


def slots(columns: Sequence[Style]) -> list[int]:
    """Which checkpoints have a picture at first: all; of many one of each method; of very many a few over all."""
    methods = [style.method or style.name for style in columns]
    found = [methods.index(name) for name in dict.fromkeys(methods)] if len(columns) > SLOTS else [*range(len(columns))]
    if len(found) <= MOST_COLUMNS:
        return found
    return [found[round(place)] for place in np.linspace(0, len(found) - 1, SLOTS)]


def json_in_html(value: object) -> str:
    """JSON that cannot end the script element it lies in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _family_payload(
    family: Sequence[SurfaceGroup], splits: dict[str, tuple[str, str]], known: dict[str, Style], *, log: bool
) -> dict[str, Any]:
    names = dict(splits.values())
    one = next(iter(family[0].sets.values()))[0][1]
    return {
        "x": one.x.tolist(),
        "y": one.y.tolist(),
        "epochs": epochs_of(family),
        "columns": [{"name": style.name, "color": style.color} for style in family[0].columns],
        "crowded": len(slots(family[0].columns)) < len(family[0].columns),
        "missing": {key: no_surface(name) for key, name in splits.values()},
        "members": [
            {
                key: _set_payload(members, plane.columns, names[key], known, log=log)
                for key, members in plane.sets.items()
            }
            for plane in family
        ],
    }


def _set_payload(
    members: Sequence[tuple[int, Surface]], columns: Sequence[Style], data: str, known: dict[str, Style], *, log: bool
) -> dict[str, Any]:
    surfaces = [one for _, one in members]
    runs = any(one.trajectory is not None for one in surfaces)
    scales: list[figures.Scale] = ["linear", "log"] if log else ["linear"]
    cuts = {scale: _figure_json(figures.slices(surfaces, scale=scale, known=known)) for scale in scales}
    run = {scale: _figure_json(figures.trajectory(surfaces, scale=scale, known=known)) for scale in scales if runs}
    drawn = [_surface_payload(one, column, columns[column], data, log=log) for column, one in members]
    return {"views": _views(surfaces, log=log), "slices": cuts, "run": run, "surfaces": drawn}


def _difference_payload(one: Surface, first: Surface) -> dict[str, Any]:
    """The look, and the values with their errors; `knee` is where the symlog scale turns to log, with its ticks."""
    found = paired_difference(one, first)
    figure = _figure_json(_without_arrays(figures.difference(one, first, scale="linear")))
    view = difference_view(found.value, found.standard_error, scale="log")
    return {
        "figure": figure,
        "value": _packed(found.value.T),
        "error": _packed(found.standard_error.T),
        "symlog": {"knee": view.linear, "ticks": view.ticks, "labels": view.labels, "told": view.scale},
    }


def _line_payload(group: LineGroup, known: dict[str, Style]) -> dict[str, Any]:
    positive = not any((measured(one) <= 0).any() for one in group.lines)
    scales: list[figures.Scale] = ["linear", "log"] if positive else ["linear"]
    return {scale: _figure_json(figures.line(group.lines, scale=scale, known=known)) for scale in scales}


def _clip_range(surfaces: Sequence[Surface]) -> dict[str, float] | None:
    """The lowest and the highest finite loss of all; None where there is nothing to clip."""
    losses = np.concatenate([measured(one).ravel() for one in surfaces] or [np.zeros(0)])
    losses = losses[np.isfinite(losses)]
    if not losses.size or losses.min() == losses.max():
        return None
    return {"low": float(losses.min()), "high": float(losses.max())}


def _surface_payload(surface: Surface, column: int, style: Style, data: str, *, log: bool) -> dict[str, Any]:
    view = loss_view([surface], scale="linear")
    at = centre(surface).loss
    return {
        "column": column,
        "x": surface.x.tolist(),
        "y": surface.y.tolist(),
        "loss": _packed(surface.loss.T),
        "error": _packed(surface.standard_error.T),
        "accuracy": _packed(surface.accuracy.T),
        "cells": [
            [j, i, STATUS_NAMES.get(int(surface.status[i, j]), "status unknown")]
            for j, i in np.argwhere(np.isnan(measured(surface)).T).tolist()
        ],
        "centre": at if math.isfinite(at) else None,
        "num_examples": num_examples(surface),
        "run": _run_payload(surface.trajectory),
        "views": _views([surface], log=log),
        "stat": stat(surface, data),
        "badge": badge(surface),
        "scene": _figure_json(_without_arrays(figures.surface_3d(surface, view=view, style=style))),
        "contour": _figure_json(_without_arrays(figures.contour(surface, view=view, style=style))),
    }


def _run_payload(found: Trajectory | None) -> dict[str, Any] | None:
    if found is None:
        return None
    names = ("epoch", "x", "y", "loss", "standard_error", "plane_loss", "distance")
    return {name: _finite(getattr(found, name)) for name in names}


def _views(surfaces: Sequence[Surface], *, log: bool) -> dict[str, Any]:
    views: dict[str, View] = {"linear": loss_view(surfaces, scale="linear")}
    if log:
        views["log"] = loss_view(surfaces, scale="log")
    return {
        name: {
            "low": view.low,
            "high": view.high,
            "step": view.step,
            "ticks": view.ticks,
            "labels": view.labels,
            "title": view.title,
        }
        for name, view in views.items()
    }


def _without_arrays(figure: go.Figure) -> go.Figure:
    """The look of a surface; its numbers travel once, packed, for both of its figures and both scales."""
    figure.data[0].z = None
    figure.data[0].customdata = figure.data[0].text = None
    return figure


def _figure_json(figure: go.Figure) -> Any:  # noqa: ANN401 (plotly's own JSON)
    return _seven_digits(json.loads(figure.to_json()))


def _seven_digits(value: Any) -> Any:  # noqa: ANN401 (plotly's own JSON)
    """Numbers and plotly's packed float64 with the digits of float32: a page is drawn, not computed with."""
    if isinstance(value, dict) and value.get("dtype") == "f8":
        array = np.frombuffer(base64.b64decode(value["bdata"]), "<f8")
        return value if not _fits(array) else {**value, "dtype": "f4", "bdata": _base64(array.astype("<f4"))}
    if isinstance(value, dict):
        return {name: _seven_digits(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_seven_digits(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _finite(values: Array) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _packed(values: Array) -> dict[str, Json]:
    """Rows as base64: float32, which keeps seven digits, unless a value would leave its range."""
    kind = "f4" if _fits(values) else "f8"
    rows, columns = values.shape
    packed = _base64(np.ascontiguousarray(values, dtype=f"<{kind}"))
    return {"type": kind, "rows": rows, "columns": columns, "data": packed}


def _fits(values: Array) -> bool:
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    return size.size == 0 or bool(size.max() < 1e38 and size.min() > 1e-37)


def _base64(values: npt.NDArray[np.floating]) -> str:
    return base64.b64encode(values.tobytes()).decode()
