"""Results as plotly figures, and the one public door to all that draws: names, styles, scales, the picture for paper.

No measurement is altered. A cell that is not finite, is missing, or cannot lie on a log axis is left out of
the surface, drawn as a marker of its own, and counted in the figure's title. A caller's `View` may end before
the data does; nothing else is cut. `loss[i, j]` is at x[i], y[j]; plotly wants rows of y: arrays are transposed here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from landscape.curves import (
    GRID,
    as_text,
    congruence,
    eigenvalues,
    layout,
    line,
    slices,
    told,
    trajectory,
    with_unit,
)
from landscape.formatting import percent, plus_minus, short, signed
from landscape.grouping import Style, checkpoint_key, spectrum_kind, styles
from landscape.notebook import html_of
from landscape.paired import paired_difference
from landscape.picture import (
    congruence_picture,
    curvature_picture,
    density_picture,
    diagonal_picture,
    difference_picture,
    layers_picture,
    line_picture,
    overview_picture,
    relief_picture,
    save_picture,
    spectrum_picture,
    trajectory_picture,
)
from landscape.readings import centre_cell, landmarks
from landscape.results import (
    Array,
    CongruenceTrace,
    CurvatureTrace,
    Density,
    Diagonal,
    Eigenpairs,
    Line,
    Result,
    Surface,
    Trajectory,
)
from landscape.spectra import curvature_trace, density, diagonal, layers
from landscape.view import (
    CELL_COLOR,
    Scale,
    View,
    difference_view,
    drawn,
    left_out_cells,
    loss_view,
)

__all__ = [
    "Scale",
    "Style",
    "View",
    "centre_cell",
    "checkpoint_key",
    "congruence",
    "congruence_picture",
    "contour",
    "curvature_picture",
    "curvature_trace",
    "density",
    "density_picture",
    "diagonal",
    "diagonal_picture",
    "difference",
    "difference_picture",
    "eigenvalues",
    "figure_of",
    "html_of",
    "layers",
    "layers_picture",
    "line",
    "line_picture",
    "loss_view",
    "overview_picture",
    "relief_picture",
    "save_picture",
    "slices",
    "spectrum_kind",
    "spectrum_picture",
    "styles",
    "surface_3d",
    "trajectory",
    "trajectory_picture",
]

CAMERA = {  # high enough to see the bottom of a bowl over its rim; the centre makes room for the title on the left
    "eye": {"x": 1.3, "y": -1.4, "z": 1.3},
    "up": {"x": 0, "y": 0, "z": 1},
    "center": {"x": -0.06, "y": -0.06, "z": -0.15},
}

_HOVER = "x %{x:.3~g}<br>y %{y:.3~g}<br>%{text}<extra></extra>"  # of a cell, whose coordinates are of a grid
_RUN_HOVER = "%{text}<extra></extra>"


def figure_of(result: Result) -> go.Figure:
    """The plotly figure of one result: contours, a line, eigenvalues, a trace; `result.plot()` is this.

    Raises:
        TypeError: If a result is a single number.
    """
    if isinstance(result, Surface):
        return contour(result)
    if isinstance(result, Line):
        return line([result])
    if isinstance(result, Eigenpairs):
        return eigenvalues([result])
    if isinstance(result, CongruenceTrace):
        return congruence([result])
    if isinstance(result, Density):
        return density([result])
    if isinstance(result, CurvatureTrace):
        return curvature_trace([result])
    if isinstance(result, Diagonal):
        return diagonal([result])
    raise TypeError(f"a {type(result).__name__} is a number and has no figure: print it")


def surface_3d(
    surface: Surface, *, scale: Scale = "auto", view: View | None = None, style: Style | None = None
) -> go.Figure:
    """The loss over the plane as a surface in three dimensions; `view` puts several on one scale."""
    view = view or loss_view([surface], scale=scale)
    style = style or styles([surface])[checkpoint_key(surface)]
    loss, cells = drawn(surface, view), left_out_cells(surface, view)
    figure = go.Figure(layout=layout(_title(style, view, cells), height=460))
    figure.add_surface(
        x=surface.x,
        y=surface.y,
        z=loss.T,
        customdata=_customdata(surface).swapaxes(
            0, 1
        ),  # plotly looks these up by [x, y] here, and by [y, x] in contours
        text=_texts(surface).T,
        hovertemplate=_HOVER,
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
            hovertemplate=_HOVER,
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
    if surface.trajectory is not None:
        _add_trajectory_3d(figure, surface.trajectory, style, view)
    axis = {"gridcolor": GRID, "showbackground": False, "zeroline": False, "nticks": 5}
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
    figure = go.Figure(layout=layout(_title(style, view, cells), height=460))
    figure.add_contour(
        x=surface.x,
        y=surface.y,
        z=loss.T,
        customdata=_customdata(surface),
        text=_texts(surface),
        hovertemplate=_HOVER,
        hoverongaps=False,
        colorscale="Viridis",
        zmin=view.low,
        zmax=view.high,
        autocontour=False,
        contours={**_levels(view), "coloring": "fill"},
        line={"smoothing": 0, "width": 0.6, "color": "rgba(255,255,255,0.55)"},
        colorbar={**_colorbar(view.title), "tickvals": view.ticks, "ticktext": view.labels},
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
            hovertemplate=_HOVER,
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
    _square_axes(figure, surface)
    return figure


def difference(a: Surface, b: Surface, *, scale: Scale = "auto") -> go.Figure:
    """The loss of `a` less that of `b`, example by example, on a diverging map centred at zero.

    A grey dot marks a point where the difference is within two of its standard errors. Where differences span decades,
    the map is linear up to about their error and logarithmic beyond, which the bar says; with a "linear" scale it never
    is.

    Raises:
        ValueError: If the losses of equal examples were not kept for both, or the grids differ.
    """
    known = styles([a, b])
    found = paired_difference(a, b)
    value, error = found.value, found.standard_error
    view = difference_view(value, error, scale=scale)
    edge = float(view.at(np.array(view.reach)))
    names = [known[checkpoint_key(one)].name for one in (a, b)]
    figure = go.Figure(layout=layout(f"{names[0]} less {names[1]}: difference of the mean losses", height=460))
    figure.add_contour(
        x=a.x,
        y=a.y,
        z=view.at(value).T,
        customdata=np.stack([value.T, error.T], axis=-1),
        text=[[f"difference {each}" for each in told(*row, signed)] for row in zip(value.T, error.T, strict=True)],
        hovertemplate=_HOVER,
        hoverongaps=False,
        colorscale="RdBu",
        reversescale=True,
        zmin=-edge,
        zmax=edge,
        autocontour=False,
        contours={"start": -edge, "end": edge, "size": edge / 10, "coloring": "fill"},
        line={"smoothing": 0, "width": 0.4, "color": "rgba(0,0,0,0.25)"},
        colorbar={
            **_colorbar(", ".join(filter(None, [f"mean loss of {names[0]} less {names[1]}", view.scale]))),
            "tickvals": view.at(np.array(view.ticks)),
            "ticktext": view.labels,
        },
        meta="difference",
    )
    doubtful = np.argwhere(np.abs(value) <= 2 * error)
    figure.add_scatter(
        x=a.x[doubtful[:, 0]],
        y=a.y[doubtful[:, 1]],
        mode="markers",
        marker={"size": 3, "color": "#6b6b6b"},
        hoverinfo="skip",
        meta="doubtful",
    )
    _square_axes(figure, a)
    return figure


def _add_trajectory(figure: go.Figure, found: Trajectory, style: Style) -> None:
    """The run as a line of points, in white so that it shows on the contours; its last one is the checkpoint."""
    figure.add_scatter(
        x=found.x,
        y=found.y,
        text=_of_run(found),
        mode="lines+markers",
        line={"color": "#ffffff", "width": 1.5},
        marker={"size": 6, "color": "#ffffff", "line": {"color": style.color, "width": 1.5}},
        hovertemplate=_RUN_HOVER,
        meta="trajectory",
    )


def _add_trajectory_3d(figure: go.Figure, found: Trajectory, style: Style, view: View) -> None:
    """The same on the surface, at the plane's loss."""
    loss = np.where((found.plane_loss > 0) | (not view.log), found.plane_loss, np.nan)
    figure.add_scatter3d(
        x=found.x,
        y=found.y,
        z=np.log10(loss) if view.log else loss,
        text=_of_run(found),
        mode="lines+markers",
        line={"color": "#ffffff", "width": 4},
        marker={"size": 3.5, "color": "#ffffff", "line": {"color": style.color, "width": 1}},
        hovertemplate=_RUN_HOVER,
        meta="trajectory",
    )


def _of_run(found: Trajectory) -> list[str]:
    own = told(found.loss, found.standard_error)
    return [
        f"epoch {epoch}<br>its own loss {loss}<br>the plane's loss here {short(plane)}<br>{short(far)} off the plane"
        for epoch, loss, plane, far in zip(found.epoch, own, found.plane_loss, found.distance, strict=True)
    ]


def _add_landmarks(figure: go.Figure, surface: Surface) -> None:
    places = [(name, at) for name, at in landmarks(surface) if any(at)]  # the centre has a marker of its own
    if places:
        figure.add_scatter(
            x=[at[0] for _, at in places],
            y=[at[1] for _, at in places],
            text=[as_text(name) for name, _ in places],
            mode="markers+text",
            textposition="top center",
            textfont={"color": "#ffffff"},
            marker={"size": 8, "color": "#ffffff", "line": {"color": "#1f2328", "width": 1.5}},
            hoverinfo="skip",
            meta="landmarks",
        )


def _square_axes(figure: go.Figure, surface: Surface) -> None:
    unit = str(surface.settings.get("unit") or "")
    axis = {"constrain": "domain", "showgrid": False, "zeroline": False, "ticks": "outside", "ticklen": 4, "nticks": 5}
    standing = {"title_standoff": 6}  # off the labels of the ticks, however wide they are
    figure.update_xaxes(title_text=with_unit("x", unit), range=_span(surface.x), **axis)
    figure.update_yaxes(title_text=with_unit("y", unit), range=_span(surface.y), scaleanchor="x", **axis, **standing)
    figure.update_layout(showlegend=False)


def _colorbar(title: str) -> dict[str, object]:
    return {
        "orientation": "h",
        "y": -0.22,
        "yanchor": "top",
        "thickness": 10,
        "outlinewidth": 0,
        "len": 0.95,
        "title": {"text": as_text(title), "side": "bottom", "font": {"size": 11}},
    }


def _customdata(surface: Surface) -> Array:
    return np.stack([surface.loss.T, surface.standard_error.T, surface.accuracy.T], axis=-1)


def _texts(surface: Surface) -> npt.NDArray[np.str_]:
    """What is read at each cell, in rows of y, as the page reads it."""
    columns = (surface.loss.T, surface.standard_error.T, surface.accuracy.T)
    return np.array([[_text(*cell) for cell in zip(*row, strict=True)] for row in zip(*columns, strict=True)])


def _text(loss: float, error: float, accuracy: float) -> str:
    right = f"<br>accuracy {percent(accuracy, math.nan)}" if math.isfinite(accuracy) else ""
    return f"loss {plus_minus(loss, error)}{right}<br>status ok"


def _levels(view: View) -> dict[str, float]:
    return {"start": view.low, "end": view.high, "size": view.step}


def _title(style: Style, view: View, cells: Sequence[object]) -> str:
    return f"{style.name}: {view.title}" + (f"; {len(cells)} cells left out (×)" if cells else "")


def _span(at: Array) -> list[float]:
    low, high = float(at.min()), float(at.max())
    pad = 0.03 * (high - low) or 1.0  # room for the markers at the edge
    return [low - pad, high + pad]
