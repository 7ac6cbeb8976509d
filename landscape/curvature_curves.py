"""Curvature as plotly figures: eigenvalues with their residuals, the density of all of them, and both along a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from landscape.curves import add_band, add_line, as_text, layout, log_axis, side_by_side
from landscape.grouping import Style, checkpoint_key, spectrum_kind, styles
from landscape.readings import DENSITY_DECADES, places_on_axis
from landscape.results import CurvatureTrace, Density, Eigenpairs


def eigenvalues(pairs: Sequence[Eigenpairs], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The eigenvalues of each checkpoint, largest first, with bars of the residual; log axis if all are positive.

    Those of the other end are numbered from there: -1 is the smallest. An open marker has not converged; a name with
    "may have missed some" is of a run that is not complete.
    """
    known = known or styles(pairs)
    kinds = list(dict.fromkeys(spectrum_kind(one) for one in pairs))
    figure = go.Figure(layout=layout("Top eigenvalues with their residuals", height=400))
    finite = np.concatenate([one.values[np.isfinite(one.values)] for one in pairs] or [np.zeros(0)])
    log = finite.size > 0 and bool(finite.min() > 0)
    at, ticks, labels = places_on_axis(pairs)
    for n, one in enumerate(pairs):
        style = known[checkpoint_key(one)]
        name = style.name + (f", {spectrum_kind(one)}" if len(kinds) > 1 else "")
        name += "" if one.complete else ", may have missed some"
        shift = (n - (len(pairs) - 1) / 2) * 0.5 / max(len(pairs), 1)
        figure.add_scatter(
            x=np.array(at[n]) + shift,
            y=one.values,
            error_y={"type": "data", "array": one.residuals, "color": style.color, "thickness": 1.5, "width": 4},
            customdata=np.stack([one.residuals, one.converged.astype(float)], axis=-1),
            text=["converged" if done else "NOT converged" for done in one.converged],
            name=as_text(name),
            mode="markers",
            marker={
                "color": style.color,
                "size": 11,
                "symbol": [style.symbol + ("" if done else "-open") for done in one.converged],
                "line": {"width": [0 if done else 2 for done in one.converged]},
            },
            hovertemplate="λ %{y:.5g} ± %{customdata[0]:.1g}<br>%{text}",
        )
    figure.update_xaxes(title="eigenvalue, largest first", tickvals=ticks, ticktext=labels)
    figure.update_xaxes(range=[min([*ticks, 1]) - 0.6, max([*ticks, 1]) + 0.6])
    axis: dict[str, Any] = {"title": f"eigenvalue of the mean loss{', log scale' if log else ''}"}
    if log:
        axis |= log_axis(finite)
    figure.update_yaxes(**axis)
    return figure


def density(densities: Sequence[Density], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The bulk of each spectrum with its band over probes, on a log axis, and as sticks what was found by itself.

    A stick is one of `size` eigenvalues, a mark at its place with the bar of its residual: its height means nothing.
    """
    known = known or styles(densities)
    figure = go.Figure(layout=layout("Density of the eigenvalues", height=400))
    tops = [float(np.nanmax(one.mean)) for one in densities if np.isfinite(one.mean).any()]
    top = max([*tops, 0.0]) or 1.0
    floor = top / 10**DENSITY_DECADES
    for n, one in enumerate(densities):
        style = known[checkpoint_key(one)]
        shown = np.isfinite(one.mean) & (one.mean > floor)
        add_band(figure, 0, style, one.grid, np.maximum(one.low, floor), one.high, shown)
        error = np.where(np.isfinite(one.high), one.high - one.mean, np.nan)
        mean = np.where(shown, one.mean, np.nan)
        add_line(figure, 0, style, one.grid, mean, error, digits=".3g", size=None, exact=not np.isfinite(error).any())
        figure.add_scatter(
            x=one.sticks,
            y=np.full(one.sticks.shape, floor * 10 ** (0.3 + 0.35 * n)),
            error_x={"type": "data", "array": one.stick_residuals, "color": style.color, "thickness": 1.5, "width": 3},
            mode="markers",
            marker={"symbol": "line-ns", "size": 16, "line": {"color": style.color, "width": 2}},
            hovertemplate="λ %{x:.5g}, one of " + f"{one.size:,}",
            name=as_text(f"{style.name}: found by themselves"),
            meta="sticks",
        )
    side_by_side(figure, ["eigenvalue of the mean loss"], ["density, log scale"])
    figure.update_yaxes(type="log", range=[np.log10(floor), np.log10(2 * top)], dtick=1, exponentformat="power")
    figure.update_yaxes(title_standoff=8)
    return figure


def curvature(traces: Sequence[CurvatureTrace], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The top eigenvalues along a run with their residuals, curvature along two steps, and how far the space turns.

    Dotted is the largest curvature at which full-batch descent is stable at the epoch's learning rate, in theory.
    """
    known = known or styles(traces)
    figure = go.Figure(layout=layout("Curvature along a run", height=400))
    drawn: list[float] = []
    for trace in traces:
        style, at = known[checkpoint_key(trace)], trace.epoch.astype(float)
        for k in range(trace.values.shape[1]):
            name = f"{style.name}, λ{chr(0x2081 + k) if k < 9 else k + 1}"
            look = replace(style, dash="solid" if k == 0 else "dash")
            size = 6 if k == 0 else 4
            add_line(figure, 0, look, at, trace.values[:, k], trace.residuals[:, k], digits=".4g", size=size, name=name)
        lines = (
            ("along the gradient", "dashdot", trace.along_gradient),
            ("along SAM's step", "longdashdot", trace.along_sam),
            ("stability limit, full-batch theory", "dot", trace.stability_limit),
        )
        for what, dash, value in lines:
            if np.isfinite(value).any():
                look, name = replace(style, dash=dash), f"{style.name}, {what}"
                add_line(figure, 0, look, at, value, 0 * at, digits=".4g", size=None, name=name, exact=True)
        drawn += [*trace.values.ravel(), *trace.along_gradient, *trace.along_sam]
        add_line(figure, 1, style, at, trace.overlap, 0 * at, digits=".3f", size=5, exact=True)
    side_by_side(figure, ["epoch", "epoch"], ["curvature of the mean loss", "overlap with the space before"])
    seen = np.array([value for value in drawn if np.isfinite(value)])
    if seen.size and seen.min() > 0:
        figure.update_yaxes(selector={"anchor": "x"}, **log_axis(seen))
    elif seen.size:  # the stability limit grows without bound where the learning rate ends
        pad = 0.08 * float(np.ptp(seen)) or 1.0
        figure.update_yaxes(selector={"anchor": "x"}, range=[float(seen.min()) - pad, float(seen.max()) + pad])
    figure.update_layout({"yaxis2.range": [0, 1.05]}, hovermode="x")
    return figure
