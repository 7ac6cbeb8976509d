"""Results as figures: plotly for the screen, one matplotlib twin for paper.

No measurement is altered. A cell that is not finite, is missing, or cannot lie on a log axis is left out of
the surface, drawn as a marker of its own, and counted in the figure's title. A caller's `View` may end before
the data does; nothing else is cut. `loss[i, j]` is at x[i], y[j]; plotly wants rows of y: arrays are transposed here.

Legend: X, Y grid steps, K eigenvalues, E epochs.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from landscape.results import (
    FAILED,
    MISSING,
    NAN,
    NEGATIVE_INFINITY,
    OK,
    POSITIVE_INFINITY,
    Array,
    CongruenceTrace,
    Eigenpairs,
    Result,
    Surface,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure as Picture

__all__ = [
    "Style",
    "View",
    "centre_cell",
    "checkpoint_key",
    "congruence",
    "contour",
    "eigenvalues",
    "loss_view",
    "overview_picture",
    "slices",
    "spectrum_kind",
    "styles",
    "surface_3d",
]

Scale = Literal["auto", "linear", "log"]

# Okabe and Ito 2008, ordered by contrast on white and on black; their black is grey here, so that it shows on both.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#F0E442")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "triangle-down", "pentagon", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
STATUS_NAMES = {
    MISSING: "missing",
    OK: "ok",
    NAN: "nan",
    POSITIVE_INFINITY: "+inf",
    NEGATIVE_INFINITY: "-inf",
    FAILED: "failed",
}
CAMERA = {  # high enough to see the bottom of a bowl over its rim; the centre makes room for the title on the left
    "eye": {"x": 1.3, "y": -1.4, "z": 1.3},
    "up": {"x": 0, "y": 0, "z": 1},
    "center": {"x": -0.06, "y": -0.06, "z": -0.15},
}

_GRID = "#d9dce1"
_CELLS = "#E60049"  # no colour of viridis comes near it
_LOG_RATIO = 10  # from here on a linear axis shows little but the edge


@dataclass(frozen=True)
class Style:
    """How one checkpoint looks in every figure: never by colour alone."""

    name: str
    color: str
    symbol: str
    dash: str


@dataclass(frozen=True)
class View:
    """The part of the loss axis that is drawn, in drawn units: log10 of the loss where `log`, else the loss."""

    log: bool
    low: float
    high: float
    step: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    @property
    def title(self) -> str:
        """The title of the loss axis, with its scale."""
        return f"mean loss, {'log' if self.log else 'linear'} scale"


def checkpoint_key(result: Result) -> str:
    """What makes two results belong to one checkpoint: its hash, or else its label."""
    return str(result.checkpoint.get("hash") or result.checkpoint.get("label") or "")


def styles(results: Sequence[Result]) -> dict[str, Style]:
    """One style per checkpoint, by `checkpoint_key`, in order of appearance."""
    first = {checkpoint_key(result): result.checkpoint for result in reversed(results)}
    keys = list(dict.fromkeys(checkpoint_key(result) for result in results))
    labels = [str(first[key].get("label") or first[key].get("method") or "unnamed checkpoint") for key in keys]
    names = [
        f"{label} ({key[:8]})" if labels.count(label) > 1 and key else label
        for key, label in zip(keys, labels, strict=True)
    ]
    return {
        key: Style(
            name, COLORS[n % len(COLORS)], SYMBOLS[n % len(SYMBOLS)], DASHES[(n + n // len(DASHES)) % len(DASHES)]
        )
        for n, (key, name) in enumerate(zip(keys, names, strict=True))
    }


def spectrum_kind(pairs: Eigenpairs) -> str:
    """Of which operator, over which data: spectra of different kinds do not compare."""
    parts = [str(pairs.settings[name]) for name in ("operator", "split", "labels") if pairs.settings.get(name)]
    count = pairs.settings.get("num_examples")
    return ", ".join([*parts, f"{count:,} examples"] if isinstance(count, int) else parts) or "unnamed operator"


def centre_cell(surface: Surface) -> tuple[int, int] | None:
    """The cell at the plane's origin; None where the grid does not hold it."""
    i, j = _nearest(surface.x), _nearest(surface.y)
    step = max(np.ptp(surface.x), np.ptp(surface.y), 1e-300)
    if max(abs(surface.x[i]), abs(surface.y[j])) > 1e-9 * step:
        return None
    return i, j


def loss_view(surfaces: Sequence[Surface], *, scale: Scale = "auto") -> View:
    """The range that holds every finite loss of `surfaces`, with round levels and ticks.

    "auto" is a log scale where all losses are positive and the largest is more than ten times the median.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {get_args(Scale)}, got {scale!r}")
    losses = np.concatenate([_measured(surface).ravel() for surface in surfaces] or [np.zeros(0)])
    losses = losses[np.isfinite(losses)]
    if scale == "auto":
        wide = losses.size > 0 and losses.min() > 0 and losses.max() > _LOG_RATIO * np.median(losses)
        scale = "log" if wide else "linear"
    log = scale == "log"
    values = np.log10(losses[losses > 0]) if log else losses
    if values.size == 0:
        return View(log, 0.0, 1.0, 0.1, (0.0, 1.0), ("1", "10") if log else ("0", "1"))
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):  # a constant has no range of its own
        pad = 0.5 if log else max(abs(low) / 2, 1e-3)
        low, high = low - pad, high + pad
    step = _round_step((high - low) / 20)
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
    return View(log, low, high, step, tuple(ticks), tuple(_label(10**t if log else t) for t in ticks))


def surface_3d(
    surface: Surface, *, scale: Scale = "auto", view: View | None = None, style: Style | None = None
) -> go.Figure:
    """The loss over the plane as a surface in three dimensions; `view` puts several on one scale."""
    view = view or loss_view([surface], scale=scale)
    style = style or styles([surface])[checkpoint_key(surface)]
    cells = _cells(surface, view)
    figure = go.Figure(layout=_layout(_title(surface, style, view), height=460))
    figure.add_surface(
        x=surface.x,
        y=surface.y,
        z=_drawn(surface, view).T,
        customdata=_customdata(surface),
        hovertemplate=_hover(surface),
        colorscale="Viridis",
        cmin=view.low,
        cmax=view.high,
        showscale=False,
        # plotly traces lines around a hole in tens of seconds: a surface with holes has none; its contour figure does
        contours_x={"highlight": not cells},
        contours_y={"highlight": not cells},
        contours_z={
            "show": not cells,
            "highlight": not cells,
            "start": view.low,
            "end": view.high,
            "size": view.step,
            "color": "rgba(255,255,255,0.4)",
        },
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
            marker={
                "symbol": "diamond",
                "size": 3,
                "color": _CELLS,
            },  # plotly's 3-D x needs a glyph that many fonts lack
            hovertemplate="x %{x:.3g}<br>y %{y:.3g}<br>%{text}<extra></extra>",
            meta="cells",
        )
    centre = centre_cell(surface)
    if centre is not None and np.isfinite(_drawn(surface, view)[centre]):
        figure.add_scatter3d(  # with a stem: the point itself sinks into the surface
            x=[0.0, 0.0],
            y=[0.0, 0.0],
            z=[_drawn(surface, view)[centre], view.high],
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
    figure = go.Figure(layout=_layout(_title(surface, style, view), height=460))
    figure.add_contour(
        x=surface.x,
        y=surface.y,
        z=_drawn(surface, view).T,
        customdata=_customdata(surface),
        hovertemplate=_hover(surface),
        hoverongaps=False,
        colorscale="Viridis",
        zmin=view.low,
        zmax=view.high,
        autocontour=False,
        contours={"start": view.low, "end": view.high, "size": view.step, "coloring": "fill"},
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
    cells = _cells(surface, view)
    if cells:
        x, y, text = zip(*cells, strict=True)
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            mode="markers",
            marker={"symbol": "x-thin", "size": 6, "line": {"color": _CELLS, "width": 1.5}},
            hovertemplate="x %{x:.3g}<br>y %{y:.3g}<br>%{text}<extra></extra>",
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
    unit = str(surface.settings.get("unit") or "")
    pixels = {
        "constrain": "domain",
        "showgrid": False,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "nticks": 5,
    }
    figure.update_xaxes(title=_with_unit("x", unit), range=_span(surface.x), **pixels)
    figure.update_yaxes(title=_with_unit("y", unit), range=_span(surface.y), scaleanchor="x", **pixels)
    figure.update_layout(showlegend=False)
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
        i, j = _nearest(surface.x), _nearest(surface.y)
        offsets[0].append(float(surface.y[j]))
        offsets[1].append(float(surface.x[i]))
        cuts = [
            (surface.x, _measured(surface)[:, j], surface.standard_error[:, j], "x", "y"),
            (surface.y, _measured(surface)[i, :], surface.standard_error[i, :], "x2", "y2"),
        ]
        for n, (at, loss, error, xaxis, yaxis) in enumerate(cuts):
            drawable = np.isfinite(loss) & ((loss > 0) | (not view.log))
            floor = 10**view.low if view.log else -np.inf
            axes = {"xaxis": xaxis, "yaxis": yaxis, "legendgroup": style.name}
            _add_band(figure, at, np.maximum(loss - error, floor), loss + error, drawable, style, axes)
            figure.add_scatter(
                x=at,
                y=np.where(drawable, loss, np.nan),
                customdata=error,
                name=_text(style.name),
                mode="lines+markers",
                line={"color": style.color, "width": 2, "dash": style.dash},
                marker={"symbol": style.symbol, "size": 4},
                hovertemplate="%{y:.5g} ± %{customdata:.2g}",
                showlegend=n == 0,
                **axes,
            )
    unit = str(surfaces[0].settings.get("unit") or "") if surfaces else ""
    names = (("x", "y"), ("y", "x"))
    titles = [_cut_title(along, fixed, unit, offsets[n]) for n, (along, fixed) in enumerate(names)]
    _side_by_side(figure, titles, ["mean loss", "mean loss"])
    figure.update_yaxes(type="log" if view.log else "linear", tickvals=_tick_values(view), ticktext=view.labels)
    figure.update_layout(hovermode="x")
    figure.update_yaxes(range=[view.low - 0.3 * view.step, view.high + 0.3 * view.step])
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
        ticks = _log_ticks(low - pad, high + pad)
        axis |= {"type": "log", "range": [low - pad, high + pad]}
        axis |= {"tickvals": [10**t for t in ticks], "ticktext": [_label(10**t) for t in ticks]}
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
            axes = {
                "xaxis": f"x{n + 1}" if n else "x",
                "yaxis": f"y{n + 1}" if n else "y",
                "legendgroup": style.name,
            }
            at = trace.epoch.astype(float)
            _add_band(figure, at, value - error, value + error, np.isfinite(value) & np.isfinite(error), style, axes)
            probed = np.isfinite(value)  # epochs between probes are no gap in the record: join what was measured
            figure.add_scatter(
                x=at[probed],
                y=value[probed],
                customdata=error[probed],
                name=_text(style.name),
                mode="lines+markers" if probed.sum() < 15 else "lines",
                line={"color": style.color, "width": 2, "dash": style.dash},
                marker={"symbol": style.symbol, "size": 5},
                hovertemplate="%{y:.4f} ± %{customdata:.2g}",
                showlegend=n == 0,
                **axes,
            )
    _side_by_side(figure, ["epoch"] * 3, ["cosine before a step", "cosine after it", "change (after − before)"])
    figure.update_layout(hovermode="x", yaxis2_matches="y")
    figure.update_yaxes(selector={"anchor": "x3"}, zeroline=True, zerolinecolor="#888888", zerolinewidth=1)
    return figure


def overview_picture(results: Sequence[Result]) -> Picture:
    """Filled contours for paper: a row per split (train first), a column per checkpoint, one colour scale per row.

    Of several surfaces of one checkpoint and split the first is drawn; pass those of one plane.
    """
    from matplotlib.figure import Figure as MatplotlibFigure

    surfaces = [result for result in results if isinstance(result, Surface)]
    if not surfaces:
        raise ValueError("overview_picture needs a Surface, got none: make one with: landscape surface CKPT")
    known = styles(results)
    order = {"train": 0, "validation": 1, "test": 2}
    splits = sorted({_split(one) for one in surfaces}, key=lambda split: (order.get(split, 3), split))
    keys = [key for key in known if any(checkpoint_key(one) == key for one in surfaces)]
    size = (2.7 * len(keys) + 0.9, 2.75 * len(splits) + 0.25)
    picture = MatplotlibFigure(figsize=size, dpi=150, layout="constrained")
    axes = picture.subplots(len(splits), len(keys), squeeze=False)
    for row, split in enumerate(splits):
        shown = list({checkpoint_key(one): one for one in reversed(surfaces) if _split(one) == split}.values())
        view = loss_view(shown)
        filled = None
        for column, key in enumerate(keys):
            ax = axes[row][column]
            mine = [one for one in shown if checkpoint_key(one) == key]
            if not mine:
                ax.set_axis_off()
                ax.text(0.5, 0.5, f"no {split} surface", ha="center", va="center", fontsize=8, transform=ax.transAxes)
                continue
            filled = _paper_contour(ax, mine[0], view, known[key]) or filled
            ax.set_xlabel("x" if row == len(splits) - 1 else "", fontsize=8)
            ax.set_ylabel(f"{split}: y" if column == 0 else "", fontsize=8)
        if filled is not None:
            bar = picture.colorbar(filled, ax=list(axes[row]), ticks=list(view.ticks), pad=0.01, aspect=18)
            bar.ax.set_yticklabels(view.labels, fontsize=7)
            bar.set_label(f"mean {split} loss, {'log' if view.log else 'linear'} scale", fontsize=8)
    return picture


def _paper_contour(ax: Axes, surface: Surface, view: View, style: Style) -> QuadContourSet | None:
    if min(surface.loss.shape) < 2:
        ax.text(0.5, 0.5, "one line of cells", ha="center", va="center", fontsize=8, transform=ax.transAxes)
        return None
    drawn = np.ma.masked_invalid(_drawn(surface, view).T)
    filled = None
    levels = np.arange(round((view.high - view.low) / view.step) + 1) * view.step + view.low
    if drawn.count():
        filled = ax.contourf(surface.x, surface.y, drawn, levels=levels, cmap="viridis", vmin=view.low, vmax=view.high)
        lines = [level for level in levels[1:-1:2] if drawn.min() < level < drawn.max()]
        if lines:
            drawn_lines = ax.contour(surface.x, surface.y, drawn, levels=lines, colors="white", linewidths=0.6)
            ax.clabel(drawn_lines, fmt={t: _label(10**t if view.log else t) for t in lines}, fontsize=6)
    cells = _cells(surface, view)
    if cells:
        ax.plot(
            [x for x, _, _ in cells],
            [y for _, y, _ in cells],
            "x",
            color=_CELLS,
            markersize=4,
            linestyle="none",
            clip_on=False,
        )
    ax.plot(0, 0, "o", color=style.color, markeredgecolor="white", markersize=5)
    ax.set_aspect("equal")
    ax.tick_params(labelsize=7)
    ax.set_title(f"{style.name}\n{_centre_text(surface)}".replace("$", r"\$"), fontsize=8)
    return filled


def _centre_text(surface: Surface) -> str:
    cell = centre_cell(surface)
    if cell is None:
        return "centre not on the grid"
    text = f"loss {surface.loss[cell]:.3g}"
    return text + (f", accuracy {surface.accuracy[cell]:.1%}" if np.isfinite(surface.accuracy[cell]) else "")


def _split(surface: Surface) -> str:
    return str(surface.settings.get("split") or "unnamed data")


def _measured(surface: Surface) -> Array:
    return np.where(np.isfinite(surface.loss) & (surface.status == OK), surface.loss, np.nan)


def _drawn(surface: Surface, view: View) -> Array:
    loss = _measured(surface)
    if not view.log:
        return loss
    return np.log10(loss, where=loss > 0, out=np.full(loss.shape, np.nan))


def _cells(surface: Surface, view: View) -> list[tuple[float, float, str]]:
    """The cells that are not part of the drawn surface: x, y and why."""
    left_out = np.argwhere(np.isnan(_drawn(surface, view)))
    return [
        (
            float(surface.x[i]),
            float(surface.y[j]),
            STATUS_NAMES.get(int(surface.status[i, j]), "status unknown")
            if np.isnan(_measured(surface)[i, j])
            else f"loss {surface.loss[i, j]:.5g}, not on a log scale",
        )
        for i, j in left_out
    ]


def _customdata(surface: Surface) -> Array:
    return np.stack([surface.loss.T, surface.standard_error.T, surface.accuracy.T], axis=-1)


def _hover(surface: Surface) -> str:
    accuracy = "<br>accuracy %{customdata[2]:.2%}" if np.isfinite(surface.accuracy).any() else ""
    loss = "loss %{customdata[0]:.5g} ± %{customdata[1]:.2g}"
    return f"x %{{x:.3g}}<br>y %{{y:.3g}}<br>{loss}{accuracy}<br>status ok<extra></extra>"


def _title(surface: Surface, style: Style, view: View) -> str:
    left_out = len(_cells(surface, view))
    return f"{style.name}: {view.title}" + (f"; {left_out} cells left out (×)" if left_out else "")


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
        xaxis = {
            "domain": [left, min(left + width, 1.0)],
            "title": {"text": xtitles[n]},
            "anchor": f"y{number}",
            **look,
        }
        yaxis = {"title": {"text": ytitles[n]}, "anchor": f"x{number}", "domain": [0, 1], **look}
        figure.update_layout({f"xaxis{number}": xaxis, f"yaxis{number}": yaxis})


def _add_band(
    figure: go.Figure,
    at: Array,
    low: Array,
    high: Array,
    known: npt.NDArray[np.bool_],
    style: Style,
    axes: dict[str, str],
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
            name=_text(style.name),
            **axes,
        )


def _translucent(color: str) -> str:
    red, green, blue = (int(color[n : n + 2], 16) for n in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"


def _nearest(at: Array) -> int:
    return int(np.argmin(np.round(np.abs(at), 12)))  # of two equally near, always the first


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


def _round_step(size: float) -> float:
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size * (1 - 1e-9))


def _linear_ticks(low: float, high: float) -> list[float]:
    step = _round_step((high - low) / 4)
    return [step * n for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    every = max(1, math.ceil((high - low) / 5))
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [n + math.log10(factor) for n in decades for factor in factors if factor > 1 or n % every == 0]
        ticks = [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]
        if len(ticks) >= 3:
            return ticks
    return [low, (low + high) / 2, high]


def _tick_values(view: View) -> list[float]:
    return [10**tick for tick in view.ticks] if view.log else list(view.ticks)


def _label(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e+").replace("e+", "e")
