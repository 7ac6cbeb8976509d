"""What the script of the page draws, as JSON: figures without their arrays, and each array once, packed."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from landscape import figures
from landscape.grouping import Checkpoint, Style, SurfaceGroup
from landscape.readings import centre, measured
from landscape.results import Array, Json, Surface
from landscape.view import View, loss_view


def payload(
    planes: Sequence[SurfaceGroup],
    splits: dict[str, tuple[str, str]],
    checkpoints: Sequence[Checkpoint],
    known: dict[str, Style],
) -> dict[str, Any]:
    """All that is drawn; `splits` are the `data_sets`, by the ids that the page uses."""
    surfaces = [one for plane in planes for members in plane.sets.values() for _, one in members]
    linear_only = any((measured(one) <= 0).any() for one in surfaces)
    log = not linear_only and any(loss_view([one]).log for one in surfaces)
    pairs = [one for c in checkpoints for one in c.pairs]
    traces = [one for c in checkpoints for one in c.traces]
    return {
        "splits": [{"id": key, "name": name} for key, name in splits.values()],
        "loss": "log" if log else "linear",
        "linear_only": linear_only,
        "camera": figures.CAMERA,
        "planes": [_plane_payload(plane, known, log=not linear_only) for plane in planes],
        "eigenvalues": _figure_json(figures.eigenvalues(pairs, known=known)) if pairs else None,
        "congruence": _figure_json(figures.congruence(traces, known=known)) if traces else None,
    }


def json_in_html(value: object) -> str:
    """JSON that cannot end the script element it lies in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plane_payload(plane: SurfaceGroup, known: dict[str, Style], *, log: bool) -> dict[str, Any]:
    sets = {}
    for key, members in plane.sets.items():
        surfaces = [one for _, one in members]
        cuts = {"linear": _figure_json(figures.slices(surfaces, scale="linear", known=known))}
        if log:
            cuts["log"] = _figure_json(figures.slices(surfaces, scale="log", known=known))
        drawn = [_surface_payload(one, column, plane.columns[column], log=log) for column, one in members]
        sets[key] = {"views": _views(surfaces, log=log), "slices": cuts, "surfaces": drawn}
    return {"columns": [style.name for style in plane.columns], "sets": sets}


def _surface_payload(surface: Surface, column: int, style: Style, *, log: bool) -> dict[str, Any]:
    view = loss_view([surface], scale="linear")
    at = centre(surface).loss
    return {
        "column": column,
        "x": surface.x.tolist(),
        "y": surface.y.tolist(),
        "loss": _packed(surface.loss.T),
        "error": _packed(surface.standard_error.T),
        "accuracy": _packed(surface.accuracy.T),
        "cells": np.argwhere(np.isnan(measured(surface)).T).tolist(),
        "centre": at if math.isfinite(at) else None,
        "views": _views([surface], log=log),
        "scene": _figure_json(_without_arrays(figures.surface_3d(surface, view=view, style=style))),
        "contour": _figure_json(_without_arrays(figures.contour(surface, view=view, style=style))),
    }


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
    figure.data[0].customdata = None
    return figure


def _figure_json(figure: go.Figure) -> Any:  # noqa: ANN401 (plotly's own JSON)
    return json.loads(figure.to_json())


def _packed(values: Array) -> dict[str, Json]:
    """Rows as base64: float32, which keeps seven digits, unless a value would leave its range."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    fits = size.size == 0 or (size.max() < 1e38 and size.min() > 1e-37)
    data = np.ascontiguousarray(values, dtype="<f4" if fits else "<f8").tobytes()
    rows, columns = values.shape
    return {"type": "f4" if fits else "f8", "rows": rows, "columns": columns, "data": base64.b64encode(data).decode()}
