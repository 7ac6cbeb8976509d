"""Results as plotly figures, and the one public door to all that draws: names, styles, scales, the picture for paper.

No measurement is altered. A cell that is not finite, is missing, or cannot lie on a log axis is left out of
the surface, drawn as a marker of its own, and counted in the figure's title. A caller's `View` may end before
the data does; nothing else is cut. `loss[i, j]` is at x[i], y[j]; plotly wants rows of y: arrays are transposed here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from landscape.grouping import Style, checkpoint_key, spectrum_kind, styles
from landscape.picture import overview_picture
from landscape.readings import centre_cell, measured, nearest
from landscape.results import Array, CongruenceTrace, Eigenpairs, Line, Surface, Trajectory
from landscape.view import CELL_COLOR, Scale, View, drawn, left_out_cells, log_ticks, loss_view, tick_label

__all__ = [
    "Style",
    "View",
    "centre_cell",
    "checkpoint_key",
    "congruence",
    "contour",
    "eigenvalues",
    "line",
    "loss_view",
    "overview_picture",
    "slices",
    "spectrum_kind",
    "styles",
    "surface_3d",
]

CAMERA = {  # high enough to see the bottom of a bowl over its rim; the centre makes room for the title on the left
    "eye": {"x": 1.3, "y": -1.4, "z": 1.3},
    "up": {"x": 0, "y": 0, "z": 1},
    "center": {"x": -0.06, "y": -0.06, "z": -0.15},
}

_GRID = "#d9dce1"
_CELL_HOVER = "x %{x:.3g}<br>y %{y:.3g}<br>%{text}<extra></extra>"


def surface_3d(
    surface: Surface, *, scale: Scale = "auto", view: View | None = None, style: Style | None = None
) -> go.Figure:
    """The loss over the plane as a surface in three dimensions; `view` puts several on one scale."""
    view = view or loss_view([surface], scale=scale)
    style = style or styles([surface])[checkpoint_key(surface)]
    loss, cells = drawn(surface, view), left_out_cells(surface, view)
    figure = go.Figure(layout=_layout(_title(style, view, cells), height=460))
    figure.add_surface(
        x=surface.x,
        y=surface.y,
        z=loss.T,
        customdata=_customdata(surface),
        hovertemplate=_hover(surface),
        colorscale="Viridis",
        cmin=view.low,
        cmax=view.high,
        showscale=False,
        # plotly traces lines around a hole in tens of seconds: a surface with holes has none; its contour figure does
        contours_x={"highlight": not cells},
        contours_y={"highlight": not cells},
        contours_z={"show": not cells, "highlight": not cells, **_levels(view), "color": "rgba(255,255,255,0.4)"},
        lighting={"ambient": 0.75, "diffuse": 0.5, "specular": 0.03, "roughness": 0.9},
        meta="surface",
    )
    if cells:
        x, y, text = zip(*cells, strict=True)
        figure.add_scatter3d(
            x=x,
            y=y,
            z=[view.low] * len(cells),
            text=text,
            mode="markers",
            # plotly's 3-D x needs a glyph that many fonts lack
            marker={"symbol": "diamond", "size": 3, "color": CELL_COLOR},
            hovertemplate=_CELL_HOVER,
            meta="cells",
        )
    centre = centre_cell(surface)
    if centre is not None and np.isfinite(loss[centre]):
        figure.add_scatter3d(  # with a stem: the point itself sinks into the surface
            x=[0.0, 0.0],
            y=[0.0, 0.0],
            z=[loss[centre], view.high],
            mode="lines+markers",
            line={"color": style.color, "width": 3},
            marker={"size": [7, 0], "color": style.color, "line": {"color": "#ffffff", "width": 0}},
            hovertemplate="the checkpoint<extra></extra>",
            meta="centre",
        )
    axis = {"gridcolor": _GRID, "showbackground": False, "zeroline": False, "nticks": 5}
    figure.update_layout(
        showlegend=False,
        scene={
            "xaxis": {**axis, "title": {"text": "x"}},
            "yaxis": {**axis, "title": {"text": "y"}},
            "zaxis": {
                **axis,
                "title": {"text": "loss (log scale)" if view.log else "loss"},
                "range": [view.low, view.high],
                "tickvals": view.ticks[1:],  # the lowest would lie on the labels of x
                "ticktext": view.labels[1:],
            },
            "aspectmode": "manual",
            "aspectratio": {"x": 1, "y": 1, "z": 0.75},
            "camera": CAMERA,
        },
    )
    return figure


def contour(
    surface: Surface, *, scale: Scale = "auto", view: View | None = None, style: Style | None = None
) -> go.Figure:
    """The loss over the plane as filled contours, without any smoothing of the lines."""
    view = view or loss_view([surface], scale=scale)
    style = style or styles([surface])[checkpoint_key(surface)]
    loss, cells = drawn(surface, view), left_out_cells(surface, view)
    figure = go.Figure(layout=_layout(_title(style, view, cells), height=460))
    figure.add_contour(
        x=surface.x,
        y=surface.y,
        z=loss.T,
        customdata=_customdata(surface),
        hovertemplate=_hover(surface),
        hoverongaps=False,
        colorscale="Viridis",
        zmin=view.low,
        zmax=view.high,
        autocontour=False,
        contours={**_levels(view), "coloring": "fill"},
        line={"smoothing": 0, "width": 0.6, "color": "rgba(255,255,255,0.55)"},
        colorbar={
            "orientation": "h",
            "y": -0.22,
            "yanchor": "top",
            "thickness": 10,
            "outlinewidth": 0,
            "len": 0.95,
            "title": {"text": view.title, "side": "bottom", "font": {"size": 11}},
            "tickvals": view.ticks,
            "ticktext": view.labels,
        },
        meta="surface",
    )
    if cells:
        x, y, text = zip(*cells, strict=True)
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            mode="markers",
            marker={"symbol": "x-thin", "size": 6, "line": {"color": CELL_COLOR, "width": 1.5}},
            hovertemplate=_CELL_HOVER,
            meta="cells",
        )
    figure.add_scatter(
        x=[0.0],
        y=[0.0],
        mode="markers",
        marker={"size": 9, "symbol": style.symbol, "color": style.color, "line": {"color": "#ffffff", "width": 1.5}},
        hoverinfo="skip",
        meta="centre",
    )
    if surface.trajectory is not None:
        _add_trajectory(figure, surface.trajectory, style)
    _add_landmarks(figure, surface)
    unit = str(surface.settings.get("unit") or "")
    axis = {"constrain": "domain", "showgrid": False, "zeroline": False, "ticks": "outside", "ticklen": 4, "nticks": 5}
    figure.update_xaxes(title=_with_unit("x", unit), range=_span(surface.x), **axis)
    figure.update_yaxes(title=_with_unit("y", unit), range=_span(surface.y), scaleanchor="x", **axis)
    figure.update_layout(showlegend=False)
    return figure


def line(lines: Sequence[Line], *, scale: Scale = "auto", known: Mapping[str, Style] | None = None) -> go.Figure:
    """The loss along lines, with bands of one standard error, and the checkpoints that lie on them."""
    known = known or styles(lines)
    view = loss_view(lines, scale=scale)
    figure = go.Figure(layout=_layout("Loss along a line", height=380))
    for one in lines:
        style, loss, error = known[checkpoint_key(one)], measured(one), one.standard_error
        drawable = np.isfinite(loss) & ((loss > 0) | (not view.log))
        floor = 10**view.low if view.log else -np.inf
        _add_band(figure, 0, style, one.x, np.maximum(loss - error, floor), loss + error, drawable)
        _add_line(figure, 0, style, one.x, np.where(drawable, loss, np.nan), error, digits=".5g", size=4)
        for name, (at,) in _landmarks(one):
            figure.add_vline(x=at, line={"dash": "dot", "color": "#888888"}, annotation_text=_text(name))
    unit = str(lines[0].settings.get("unit") or "") if lines else ""
    _side_by_side(figure, [_with_unit("x", unit)], ["mean loss"])
    figure.update_yaxes(type="log" if view.log else "linear", tickvals=_tick_values(view), ticktext=view.labels)
    figure.update_yaxes(range=[view.low - 0.3 * view.step, view.high + 0.3 * view.step])
    figure.update_layout(hovermode="x")
    return figure


def slices(
    surfaces: Sequence[Surface], *, scale: Scale = "auto", known: Mapping[str, Style] | None = None
) -> go.Figure:
    """The loss along x and along y through the centre, all checkpoints on one axis, with bands of one standard error.

    On a log axis a band that reaches zero is cut at the axis. A grid without the centre is cut at its nearest line.
    """
    known = known or styles(surfaces)
    view = loss_view(surfaces, scale=scale)
    figure = go.Figure(layout=_layout("Loss along the two axes through the centre", height=380))
    offsets: list[list[float]] = [[], []]
    for surface in surfaces:
        style = known[checkpoint_key(surface)]
        i, j = nearest(surface.x), nearest(surface.y)
        offsets[0].append(float(surface.y[j]))
        offsets[1].append(float(surface.x[i]))
        cuts = [
            (surface.x, measured(surface)[:, j], surface.standard_error[:, j]),
            (surface.y, measured(surface)[i, :], surface.standard_error[i, :]),
        ]
        for n, (at, loss, error) in enumerate(cuts):
            drawable = np.isfinite(loss) & ((loss > 0) | (not view.log))
            floor = 10**view.low if view.log else -np.inf
            _add_band(figure, n, style, at, np.maximum(loss - error, floor), loss + error, drawable)
            _add_line(figure, n, style, at, np.where(drawable, loss, np.nan), error, digits=".5g", size=4)
    unit = str(surfaces[0].settings.get("unit") or "") if surfaces else ""
    titles = [_cut_title("x", "y", unit, offsets[0]), _cut_title("y", "x", unit, offsets[1])]
    _side_by_side(figure, titles, ["mean loss", "mean loss"])
    figure.update_yaxes(type="log" if view.log else "linear", tickvals=_tick_values(view), ticktext=view.labels)
    figure.update_yaxes(range=[view.low - 0.3 * view.step, view.high + 0.3 * view.step])
    figure.update_layout(hovermode="x")
    return figure


def eigenvalues(pairs: Sequence[Eigenpairs], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The top eigenvalues of each checkpoint, largest first, with bars of the residual; log axis if all are positive.

    An open marker has not converged; a name with "may have missed some" is of a run that is not complete.
    """
    known = known or styles(pairs)
    kinds = list(dict.fromkeys(spectrum_kind(one) for one in pairs))
    figure = go.Figure(layout=_layout("Top eigenvalues with their residuals", height=400))
    finite = np.concatenate([one.values[np.isfinite(one.values)] for one in pairs] or [np.zeros(0)])
    log = finite.size > 0 and bool(finite.min() > 0)
    for n, one in enumerate(pairs):
        style = known[checkpoint_key(one)]
        name = style.name + (f", {spectrum_kind(one)}" if len(kinds) > 1 else "")
        name += "" if one.complete else ", may have missed some"
        shift = (n - (len(pairs) - 1) / 2) * 0.5 / max(len(pairs), 1)
        figure.add_scatter(
            x=np.arange(1, len(one.values) + 1) + shift,
            y=one.values,
            error_y={"type": "data", "array": one.residuals, "color": style.color, "thickness": 1.5, "width": 4},
            customdata=np.stack([one.residuals, one.converged.astype(float)], axis=-1),
            text=["converged" if done else "NOT converged" for done in one.converged],
            name=_text(name),
            mode="markers",
            marker={
                "color": style.color,
                "size": 11,
                "symbol": [style.symbol + ("" if done else "-open") for done in one.converged],
                "line": {"width": [0 if done else 2 for done in one.converged]},
            },
            hovertemplate="λ %{y:.5g} ± %{customdata[0]:.1g}<br>%{text}",
        )
    most = max((len(one.values) for one in pairs), default=1)
    figure.update_xaxes(title="eigenvalue, largest first", range=[0.4, most + 0.6], tickvals=list(range(1, most + 1)))
    axis: dict[str, Any] = {"title": f"eigenvalue of the mean loss{', log scale' if log else ''}"}
    if log:
        low, high = math.log10(finite.min()), math.log10(finite.max())
        pad = max(0.08 * (high - low), 0.08)
        ticks = log_ticks(low - pad, high + pad)
        axis |= {"type": "log", "range": [low - pad, high + pad]}
        axis |= {"tickvals": [10**t for t in ticks], "ticktext": [tick_label(10**t) for t in ticks]}
    figure.update_yaxes(**axis)
    return figure


def congruence(traces: Sequence[CongruenceTrace], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The cosine between the two gradients before a step, after it, and the change, per epoch, ± standard error."""
    known = known or styles(traces)
    figure = go.Figure(layout=_layout("Gradient congruence along training", height=360))
    for trace in traces:
        style = known[checkpoint_key(trace)]
        panels = [
            (trace.cosine_b, trace.cosine_b_standard_error),
            (trace.cosine_a, trace.cosine_a_standard_error),
            (trace.change, trace.change_standard_error),
        ]
        for n, (value, error) in enumerate(panels):
            at = trace.epoch.astype(float)
            probed = np.isfinite(value)  # epochs between probes are no gap in the record: join what was measured
            _add_band(figure, n, style, at, value - error, value + error, probed)
            size = 5 if probed.sum() < 15 else None
            _add_line(figure, n, style, at[probed], value[probed], error[probed], digits=".4f", size=size)
    _side_by_side(figure, ["epoch"] * 3, ["cosine before a step", "cosine after it", "change (after − before)"])
    figure.update_layout(hovermode="x", yaxis2_matches="y")
    figure.update_yaxes(selector={"anchor": "x3"}, zeroline=True, zerolinecolor="#888888", zerolinewidth=1)
    return figure


def _add_trajectory(figure: go.Figure, found: Trajectory, style: Style) -> None:
    """The run as a line of points, in white so that it shows on the contours; its last one is the checkpoint."""
    figure.add_scatter(
        x=found.x,
        y=found.y,
        customdata=np.stack([found.epoch, found.loss, found.plane_loss, found.distance], axis=-1),
        mode="lines+markers",
        line={"color": "#ffffff", "width": 1.5},
        marker={"size": 6, "color": "#ffffff", "line": {"color": style.color, "width": 1.5}},
        hovertemplate="epoch %{customdata[0]}<br>loss %{customdata[1]:.5g}, the plane's here %{customdata[2]:.5g}"
        "<br>%{customdata[3]:.3g} off the plane<extra></extra>",
        meta="trajectory",
    )


def _add_landmarks(figure: go.Figure, surface: Surface) -> None:
    places = [(name, at) for name, at in _landmarks(surface) if any(at)]  # the centre has a marker of its own
    if places:
        figure.add_scatter(
            x=[at[0] for _, at in places],
            y=[at[1] for _, at in places],
            text=[_text(name) for name, _ in places],
            mode="markers+text",
            textposition="top center",
            textfont={"color": "#ffffff"},
            marker={"size": 8, "color": "#ffffff", "line": {"color": "#1f2328", "width": 1.5}},
            hoverinfo="skip",
            meta="landmarks",
        )


def _landmarks(result: Surface | Line) -> list[tuple[str, list[float]]]:
    """The checkpoints that lie on a plane or line, and where."""
    found: Any = result.settings.get("landmarks") or []
    return [(str(one["name"]), list(one["coordinates"])) for one in found]


def _customdata(surface: Surface) -> Array:
    return np.stack([surface.loss.T, surface.standard_error.T, surface.accuracy.T], axis=-1)


def _hover(surface: Surface) -> str:
    accuracy = "<br>accuracy %{customdata[2]:.2%}" if np.isfinite(surface.accuracy).any() else ""
    loss = "loss %{customdata[0]:.5g} ± %{customdata[1]:.2g}"
    return f"x %{{x:.3g}}<br>y %{{y:.3g}}<br>{loss}{accuracy}<br>status ok<extra></extra>"


def _levels(view: View) -> dict[str, float]:
    return {"start": view.low, "end": view.high, "size": view.step}


def _title(style: Style, view: View, cells: Sequence[object]) -> str:
    return f"{style.name}: {view.title}" + (f"; {len(cells)} cells left out (×)" if cells else "")


def _layout(title: str, *, height: int) -> dict[str, Any]:
    return {
        # the default template weighs 7 kB in every figure and would hide the colours given here
        "template": go.layout.Template(),
        "title": {"text": _text(title), "font": {"size": 14}},
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 60, "b": 60},
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": "#1f2328"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"gridcolor": _GRID, "zeroline": False},
        "yaxis": {"gridcolor": _GRID, "zeroline": False},
    }


def _side_by_side(figure: go.Figure, xtitles: Sequence[str], ytitles: Sequence[str]) -> None:
    count = len(xtitles)
    gap = 0.09
    width = (1 - gap * (count - 1)) / count
    for n in range(count):
        left = n * (width + gap)
        number = str(n + 1) if n else ""
        look = {"gridcolor": _GRID, "zeroline": False}
        domain = [left, min(left + width, 1.0)]
        xaxis = {"domain": domain, "title": {"text": xtitles[n]}, "anchor": f"y{number}", **look}
        yaxis = {"title": {"text": ytitles[n]}, "anchor": f"x{number}", "domain": [0, 1], **look}
        figure.update_layout({f"xaxis{number}": xaxis, f"yaxis{number}": yaxis})


def _panel(n: int, style: Style) -> dict[str, str]:
    number = str(n + 1) if n else ""
    return {"xaxis": f"x{number}", "yaxis": f"y{number}", "legendgroup": style.name, "name": _text(style.name)}


def _add_line(
    figure: go.Figure, n: int, style: Style, at: Array, value: Array, error: Array, *, digits: str, size: int | None
) -> None:
    figure.add_scatter(
        x=at,
        y=value,
        customdata=error,
        mode="lines+markers" if size else "lines",
        line={"color": style.color, "width": 2, "dash": style.dash},
        marker={"symbol": style.symbol, "size": size},
        hovertemplate=f"%{{y:{digits}}} ± %{{customdata:.2g}}",
        showlegend=n == 0,
        **_panel(n, style),
    )


def _add_band(
    figure: go.Figure, n: int, style: Style, at: Array, low: Array, high: Array, known: npt.NDArray[np.bool_]
) -> None:
    """One closed outline per run of neighbouring known points, in one trace."""
    known = known & np.isfinite(low) & np.isfinite(high)
    runs = np.split(np.flatnonzero(known), np.flatnonzero(np.diff(np.flatnonzero(known)) > 1) + 1)
    x: list[float | None] = []
    y: list[float | None] = []
    for run in runs:
        if run.size > 1:
            x += [*at[run].tolist(), *at[run[::-1]].tolist(), None]
            y += [*low[run].tolist(), *high[run[::-1]].tolist(), None]
    if x:
        figure.add_scatter(
            x=x,
            y=y,
            fill="toself",
            fillcolor=_translucent(style.color),
            mode="none",
            hoverinfo="skip",
            showlegend=False,
            **_panel(n, style),
        )


def _translucent(color: str) -> str:
    red, green, blue = (int(color[n : n + 2], 16) for n in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"


def _span(at: Array) -> list[float]:
    low, high = float(at.min()), float(at.max())
    pad = 0.03 * (high - low) or 1.0  # room for the markers at the edge
    return [low - pad, high + pad]


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({_text(unit)})" if unit else name


def _cut_title(along: str, fixed: str, unit: str, offsets: Sequence[float]) -> str:
    values = sorted({round(offset, 6) + 0.0 for offset in offsets}) or [0.0]
    where = " or ".join(f"{value:.3g}" for value in values)
    return f"{_with_unit(along, unit)}, at {fixed} = {where}"


def _text(name: str) -> str:
    """A name as plotly shows it literally: its labels know a few HTML tags and templates."""
    return html.escape(name, quote=False).replace("%{", "%&#123;")


def _tick_values(view: View) -> list[float]:
    return [10**tick for tick in view.ticks] if view.log else list(view.ticks)
