"""The whole spectrum, those of layers, the traces of tensors, and curvature through training, in plotly.

A density is drawn on a log axis, for its bulk holds nearly all eigenvalues and its outliers the rest: an outlier is a
stick as high as the kernel that smooths the bulk makes one eigenvalue, with a bar of its residual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from landscape.curves import as_text, epoch_axis, layout, log_axis, told, translucent
from landscape.formatting import short, shortened, told_apart
from landscape.grouping import Style, checkpoint_key, spectrum_kind, styles
from landscape.readings import (
    STABLE,
    beyond_figure,
    by_layer,
    layer_points,
    shown_layers,
    shown_tensors,
    stick_height,
)
from landscape.results import Array, CurvatureTrace, Density, Diagonal, Eigenpairs
from landscape.smoothing import of_one_width
from landscape.view import log_ticks, tick_labels

MOST_TENSORS = MOST_LAYERS = 30
PATTERNS = ("", "/", "x", ".", "-", "+", "|", "\\")  # of bars: never by colour alone
_ABOVE = 0.4  # decades above the curves, for the legend and the stability limit
_GRID = {"gridcolor": "#d9dce1", "zeroline": False}


def density(densities: Sequence[Density], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The density of the eigenvalues: the bulk with its band over probes, and a stick for each converged outlier.

    Drawn together they are smoothed by one Gaussian, the widest of theirs.
    """
    known, densities = known or styles(densities), of_one_width(densities)
    apart = told_apart([spectrum_kind(one) for one in densities])
    figure = go.Figure(layout=layout("Density of the eigenvalues", height=400))
    floors, tops = [0.0], [1.0]
    for one in densities:
        style = known[checkpoint_key(one)]
        name = as_text(style.name + (f", {apart[spectrum_kind(one)]}" if len(apart) > 1 else ""))
        stick = stick_height(one)
        floor = stick / 10
        floors.append(math.log10(floor))
        tops.append(math.log10(max(float(np.nanmax(one.mean, initial=0.0)), stick)))
        group: dict[str, Any] = {"name": name, "legendgroup": name}
        if np.isfinite(one.low).any():
            shown = one.high > floor
            edge = [*one.grid[shown], *one.grid[shown][::-1]]
            band = [*np.maximum(one.low, floor)[shown], *one.high[shown][::-1]]
            color = translucent(style.color)
            figure.add_scatter(
                x=edge, y=band, fill="toself", fillcolor=color, mode="none", hoverinfo="skip", showlegend=False, **group
            )
        figure.add_scatter(
            x=one.grid,
            y=np.where(one.mean > floor, one.mean, np.nan),
            mode="lines",
            line={"color": style.color, "width": 2, "dash": style.dash},
            hovertemplate="λ %{x:.4g}, density %{y:.2e}",
            **group,
        )
        if len(one.sticks):
            _add_sticks(figure, one, style, floor, stick, group)
    smoothed = f", smoothed by a Gaussian of σ = {densities[0].kernel_width:.2g}" if densities else ""
    figure.update_xaxes(title=f"eigenvalue{smoothed}", **_GRID)
    low, high = min(floors), max(tops)
    axis = {"type": "log", "range": [low, high + 0.3], "exponentformat": "power", "dtick": 1}
    figure.update_yaxes(title_text="density, log scale", title_standoff=8, **axis, **_GRID)
    return figure


def layers(blocks: Sequence[Eigenpairs], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The eigenvalues of each layer's own block with bars of the residual, from input to output.

    Of more than 30 layers those of the largest eigenvalues. An open marker is not certified. On the log axis there is
    no place for an eigenvalue of zero or below: such ones are left out, and counted in its title.
    """
    known, groups = known or styles(blocks), by_layer(blocks)
    names, apart = shown_layers(groups, MOST_LAYERS), told_apart([spectrum_kind(group[0]) for group in groups])
    found = [layer_points(group, names) for group in groups]
    values = np.concatenate([one.value for one in found] or [np.zeros(0)])
    drawn = values[np.isfinite(values) & (values > 0)]
    figure = go.Figure(layout=layout("Eigenvalues of each layer's own block", height=layers_height(blocks)))
    for n, (group, one) in enumerate(zip(groups, found, strict=True)):
        style = known[checkpoint_key(group[0])]
        figure.add_scatter(
            x=np.where((one.value > 0) | (not drawn.size), one.value, np.nan),
            y=one.place + (n - (len(groups) - 1) / 2) * 0.6 / len(groups),
            error_x={"type": "data", "array": one.residual, "color": style.color, "thickness": 1.5, "width": 3},
            text=[
                f"{as_text(names[int(at)])}<br>λ {each}"
                for at, each in zip(one.place, told(one.value, one.residual), strict=True)
            ],
            mode="markers",
            marker={
                "color": style.color,
                "size": 8,
                "symbol": [style.symbol + ("" if sure else "-open") for sure in one.certified],
                "line": {"width": [0 if sure else 2 for sure in one.certified]},
            },
            name=as_text(style.name + (f", {apart[spectrum_kind(group[0])]}" if len(apart) > 1 else "")),
            hovertemplate="%{text}",
        )
    figure.update_layout(showlegend=True)
    left_out = int(np.sum(~(values > 0))) if drawn.size else 0
    told_out = f"; {left_out} not above 0 left out" if left_out else ""
    axis = log_axis(drawn) if drawn.size else {}
    figure.update_xaxes(title=f"eigenvalue{', log scale' if drawn.size else ''}{told_out}", **axis, **_GRID)
    labels = [as_text(shortened(name, 28)) for name in names]
    ends = {"tickvals": list(range(len(names))), "ticktext": labels, "range": [len(names) - 0.4, -0.6]}
    figure.update_yaxes(automargin=True, **ends, **_GRID)
    return figure


def layers_height(blocks: Sequence[Eigenpairs]) -> int:
    """Pixels that the figure of these layers needs."""
    groups = by_layer(blocks)
    return 130 + len(shown_layers(groups, MOST_LAYERS)) * max(20, 9 * len(groups))


def diagonal(diagonals: Sequence[Diagonal], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The trace of each tensor with a bar of its standard error, from input to output; the largest 30 where more."""
    known = known or styles(diagonals)
    apart = told_apart([spectrum_kind(one) for one in diagonals])
    names = shown_tensors(diagonals, MOST_TENSORS)
    figure = go.Figure(layout=layout("Trace of each tensor", height=140 + 18 * len(names) * max(len(diagonals), 1)))
    for n, one in enumerate(diagonals):
        style = known[checkpoint_key(one)]
        places = [place for place, name in enumerate(one.names) if name in names]
        figure.add_bar(
            orientation="h",
            x=one.tensor_traces[places],
            y=[as_text(one.names[place]) for place in places],
            error_x={"type": "data", "array": one.tensor_standard_errors[places], "thickness": 1.5, "width": 3},
            hovertext=told(one.tensor_traces[places], one.tensor_standard_errors[places]),
            marker={"color": style.color, "pattern": {"shape": PATTERNS[n % len(PATTERNS)]}},
            name=as_text(style.name + (f", {apart[spectrum_kind(one)]}" if len(apart) > 1 else "")),
            hovertemplate="%{y}: %{hovertext}",
        )
    order = {"categoryorder": "array", "categoryarray": [as_text(name) for name in names], "autorange": "reversed"}
    figure.update_layout(barmode="group", bargap=0.25, showlegend=True)
    figure.update_xaxes(title="sum of the diagonal over the tensor ± standard error", **_GRID)
    figure.update_yaxes(automargin=True, **order, **_GRID)
    return figure


def curvature_trace(traces: Sequence[CurvatureTrace], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The largest eigenvalue through training, curvature along the steps, and the largest that theory calls stable.

    The right panel has the share of the top space that was there at the checkpoint before.
    """
    known = known or styles(traces)
    figure = go.Figure(layout=layout("Curvature through training", height=400))
    curvatures = [each for one in traces for each in (one.values[:, 0], one.along_gradient, one.along_sam)]
    positive = np.concatenate(curvatures or [np.zeros(0)])
    positive = positive[np.isfinite(positive) & (positive > 0)]
    notes: list[str] = []
    low, high = (math.log10(positive.min()), math.log10(positive.max())) if positive.size else (-1.0, 1.0)
    for one in traces:
        style, epoch = known[checkpoint_key(one)], one.epoch.astype(float)
        curves: list[tuple[str, Array, dict[str, Any]]] = [
            ("λ1", one.values[:, 0], {"color": style.color, "width": 2.5, "dash": "solid"}),
            ("along the gradient", one.along_gradient, {"color": style.color, "width": 1.2, "dash": "dash"}),
            ("along SAM's step", one.along_sam, {"color": style.color, "width": 1.2, "dash": "dot"}),
        ]
        for what, values, line in curves:
            shown = np.where(values > 0, values, np.nan)
            error = one.residuals[:, 0] if what == "λ1" else None
            figure.add_scatter(
                x=epoch,
                y=shown,
                error_y=None if error is None else {"type": "data", "array": error},
                text=[short(v) for v in values] if error is None else told(values, error),
                mode="lines+markers",
                line=line,
                marker={"symbol": style.symbol, "size": 7 if what == "λ1" else 4, "color": style.color},
                name=as_text(f"{style.name}, {what}"),
                hovertemplate="%{text}",
            )
        limit = np.where(np.isfinite(one.stability_limit), one.stability_limit, np.nan)
        if np.isfinite(limit).any():
            beyond = beyond_figure(one, 10 ** (high + _ABOVE))
            notes += [f"{style.name}: stability limit {beyond}"] if beyond else []
            figure.add_scatter(
                x=epoch,
                y=limit,
                mode="lines",
                line={"color": "#888888", "width": 1.5, "dash": "longdash"},
                name=as_text(f"{style.name}, {STABLE}"),
                text=[short(v) for v in limit],
                hovertemplate="%{text}",
            )
        figure.add_scatter(
            x=epoch,
            y=one.overlap,
            xaxis="x2",
            yaxis="y2",
            mode="lines+markers",
            line={"color": style.color, "width": 2, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 6},
            name=as_text(style.name),
            showlegend=False,
            text=[short(v) for v in one.overlap],
            hovertemplate="%{text}",
        )
    figure.update_layout(margin_t=50 + 20 * math.ceil(len(figure.data) / 3))  # the legend's lines
    at = {"xref": "x domain", "yref": "y domain", "x": 0.99, "y": 0.99, "xanchor": "right", "yanchor": "top"}
    figure.add_annotation(
        text="<br>".join(map(as_text, notes)), showarrow=False, align="right", font_size=10, bgcolor="#ffffff", **at
    )
    ticks = log_ticks(low - 0.2, high + _ABOVE)
    epochs = {"title": {"text": "epoch"}, **epoch_axis([one.epoch for one in traces]), **_GRID}
    figure.update_layout(
        xaxis={"domain": [0, 0.6], "anchor": "y", **epochs},
        yaxis={
            **{"domain": [0, 1], "title": {"text": "curvature, log scale"}, "anchor": "x", "type": "log"},
            **{
                "range": [low - 0.2, high + _ABOVE],
                "tickvals": [10**t for t in ticks],
                "ticktext": tick_labels(10**t for t in ticks),
                **_GRID,
            },
        },
        xaxis2={"domain": [0.7, 1], "anchor": "y2", **epochs},
        yaxis2={
            **{"domain": [0, 1], "title": {"text": "top space kept"}, "anchor": "x2", "range": [0, 1.05]},
            **_GRID,
        },
        hovermode="x",
    )
    return figure


def _add_sticks(
    figure: go.Figure, one: Density, style: Style, floor: float, height: float, group: dict[str, Any]
) -> None:
    count = len(one.sticks)
    x, y = np.full(3 * count, np.nan), np.full(3 * count, np.nan)
    x[0::3] = x[1::3] = one.sticks
    y[0::3], y[1::3] = floor, height
    line = {"color": style.color, "width": 1.5}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, **group)
    figure.add_scatter(
        x=one.sticks,
        y=np.full(count, height),
        error_x={"type": "data", "array": one.stick_residuals, "color": style.color, "thickness": 1.5, "width": 4},
        text=told(one.sticks, one.stick_residuals),
        mode="markers",
        marker={"color": style.color, "symbol": style.symbol, "size": 7},
        hovertemplate="λ %{text}",
        showlegend=False,
        meta="sticks",
        **group,
    )
