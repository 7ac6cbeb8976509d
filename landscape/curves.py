"""Results as curves in plotly, with their errors: lines and slices, a run on a plane, eigenvalues, congruence.

Bands are of one standard error; a point that is not finite or cannot lie on a log axis leaves a gap. A hover label has
the digits of `landscape.formatting`, as the tables and sentences beside it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from landscape.formatting import plus_minus, short, signed, told_apart
from landscape.grouping import Style, checkpoint_key, spectrum_kind, styles
from landscape.readings import (
    SAMPLE_BARS,
    ends,
    landmarks,
    measured,
    nearest,
    places_on_axis,
    quadratic_models,
    sample_errors,
)
from landscape.results import Array, CongruenceTrace, DataSpread, Eigenpairs, Line, Surface
from landscape.view import Scale, View, log_ticks, loss_view, round_step, tick_labels

GRID = "#d9dce1"


def line(lines: Sequence[Line], *, scale: Scale = "auto", known: Mapping[str, Style] | None = None) -> go.Figure:
    """The loss along lines, with bands of one standard error, and the checkpoints that lie on them."""
    known = known or styles(lines)
    view = loss_view(lines, scale=scale)
    figure = go.Figure(layout=layout("Loss along a line", height=380))
    for one in lines:
        style, loss, error = known[checkpoint_key(one)], measured(one), one.standard_error
        drawable = np.isfinite(loss) & ((loss > 0) | (not view.log))
        add_band(figure, 0, style, one.x, _lower(loss, error, view), loss + error, drawable)
        add_line(figure, 0, style, one.x, np.where(drawable, loss, np.nan), error, size=4)
        _add_own_losses(figure, one, style, log=view.log)
    for name, at in dict.fromkeys((name, at) for one in lines for name, (at,) in landmarks(one)):
        figure.add_vline(x=at, line={"dash": "dot", "color": "#888888", "width": 1}, annotation_text=as_text(name))
    unit = str(lines[0].settings.get("unit") or "") if lines else ""
    side_by_side(figure, [with_unit("x", unit)], ["mean loss"])
    own = [end["own_loss"] for one in lines for end in ends(one)]
    _loss_axis(figure, view, also=[math.log10(loss) if view.log else loss for loss in own if loss > 0 or not view.log])
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
    figure = go.Figure(layout=layout("Loss along the two axes through the centre", height=380))
    offsets: list[list[float]] = [[], []]
    _add_models(figure, surfaces, known, log=view.log)
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
            add_band(figure, n, style, at, _lower(loss, error, view), loss + error, drawable)
            add_line(figure, n, style, at, np.where(drawable, loss, np.nan), error, size=4)
    unit = str(surfaces[0].settings.get("unit") or "") if surfaces else ""
    titles = [_cut_title("x", "y", unit, offsets[0]), _cut_title("y", "x", unit, offsets[1])]
    side_by_side(figure, titles, ["mean loss", "mean loss"])
    _loss_axis(figure, view)
    figure.update_layout(hovermode="x")
    return figure


def trajectory(
    surfaces: Sequence[Surface], *, scale: Scale = "auto", known: Mapping[str, Style] | None = None
) -> go.Figure:
    """The checkpoints of each run against their epoch: their own loss and the plane's below them, and how far off it.

    The surfaces without a trajectory are left out.
    """
    known = known or styles(surfaces)
    seen = [(known[checkpoint_key(one)], one.trajectory) for one in surfaces if one.trajectory is not None]
    losses = np.concatenate([np.concatenate([run.loss, run.plane_loss]) for _, run in seen] or [np.zeros(0)])
    positive = losses.size > 0 and bool((losses[np.isfinite(losses)] > 0).all()) and bool(np.isfinite(losses).any())
    log = positive and (scale == "log" or (scale == "auto" and loss_view(surfaces).log))
    figure = go.Figure(layout=layout("A run, seen from the plane", height=360))
    for style, run in seen:
        at = run.epoch.astype(float)
        low = run.loss - run.standard_error
        low = np.where((low > 0) | (not log), low, run.loss / 10)
        add_band(figure, 0, style, at, low, run.loss + run.standard_error, np.isfinite(run.loss))
        plain, dashed = replace(style, dash="solid"), replace(style, dash="dash")
        own, plane = f"{style.name}, its own loss", f"{style.name}, the plane's loss there"
        add_line(figure, 0, plain, at, run.loss, run.standard_error, size=5, name=own)
        add_line(figure, 0, dashed, at, run.plane_loss, None, size=5, name=plane)
        add_line(figure, 1, plain, at, run.distance, None, size=5, name="off the plane")
    side_by_side(figure, ["epoch", "epoch"], ["mean loss", "distance off the plane"])
    figure.update_layout(hovermode="x")
    figure.update_xaxes(**epoch_axis([run.epoch for _, run in seen]))
    if log:
        figure.update_yaxes(selector={"anchor": "x"}, **log_axis(losses[np.isfinite(losses)]))
    return figure


def eigenvalues(
    pairs: Sequence[Eigenpairs], spreads: Sequence[DataSpread] = (), *, known: Mapping[str, Style] | None = None
) -> go.Figure:
    """The eigenvalues of each checkpoint, largest first, with bars of the residual; log axis if all are positive.

    Where `spreads` has what the sample of the data leaves to an eigenvalue, a broad bar is ± one standard error of it.

    Those of the other end are numbered from there: -1 is the smallest. An open marker has not converged; a name with
    "may have missed some" is of a run that is not complete.
    """
    known = known or styles(pairs)
    apart = told_apart([spectrum_kind(one) for one in pairs])
    figure = go.Figure(layout=layout("Top eigenvalues with their residuals", height=400))
    finite = np.concatenate([one.values[np.isfinite(one.values)] for one in pairs] or [np.zeros(0)])
    log = finite.size > 0 and bool(finite.min() > 0)
    at, ticks, labels = places_on_axis(pairs)
    ends = [finite]
    for n, one in enumerate(pairs):
        style = known[checkpoint_key(one)]
        name = style.name + (f", {apart[spectrum_kind(one)]}" if len(apart) > 1 else "")
        name += "" if one.complete else ", may have missed some"
        shift = (n - (len(pairs) - 1) / 2) * 0.5 / max(len(pairs), 1)
        errors = sample_errors(one, spreads)
        if np.isfinite(errors).any():
            least = finite.min(initial=np.inf) / 3  # a bar that nearly reaches zero does not set the axis
            ends += [np.maximum(one.values - errors, least), one.values + errors]
            _add_sample_bars(figure, np.array(at[n]) + shift, one.values, errors, style, log=log)
        sampled = [f"<br>± {short(error)} from the sample, at least" if error > 0 else "" for error in errors]
        figure.add_scatter(
            x=np.array(at[n]) + shift,
            y=one.values,
            error_y={"type": "data", "array": one.residuals, "color": style.color, "thickness": 1.5, "width": 4},
            text=[
                f"λ {value}{beside}<br>{'converged' if done else 'NOT converged'}"
                for value, beside, done in zip(told(one.values, one.residuals), sampled, one.converged, strict=True)
            ],
            name=as_text(name),
            mode="markers",
            marker={
                "color": style.color,
                "size": 11,
                "symbol": [style.symbol + ("" if done else "-open") for done in one.converged],
                "line": {"width": [0 if done else 2 for done in one.converged]},
            },
            hovertemplate="%{text}",
        )
    figure.update_xaxes(title="eigenvalue, largest first", tickvals=ticks, ticktext=labels)
    figure.update_xaxes(range=[min([*ticks, 1]) - 0.6, max([*ticks, 1]) + 0.6])
    axis: dict[str, Any] = {"title": f"eigenvalue of the mean loss{', log scale' if log else ''}"}
    if log:
        every = np.concatenate(ends)
        axis |= log_axis(every[np.isfinite(every) & (every > 0)])
    figure.update_yaxes(**axis)
    return figure


def _add_sample_bars(figure: go.Figure, at: Array, values: Array, errors: Array, style: Style, *, log: bool) -> None:
    """Broad bars behind the marks; on a log axis one that reaches zero goes on below it."""
    low = values - errors
    y = np.stack([np.where(low > 0, low, values / 1e6) if log else low, values + errors, np.full_like(at, np.nan)], 1)
    figure.add_scatter(
        x=np.repeat(at, 3),
        y=y.ravel(),
        mode="lines",
        line={"color": style.color, "width": 18},
        opacity=0.35,
        hoverinfo="skip",
        name=SAMPLE_BARS,
        legendgroup=SAMPLE_BARS,
        showlegend=not any(one.legendgroup == SAMPLE_BARS for one in figure.data),
        legendrank=2000,
        meta="sample",
    )


def congruence(traces: Sequence[CongruenceTrace], *, known: Mapping[str, Style] | None = None) -> go.Figure:
    """The cosine between the two gradients before a step, after it, and the change, per epoch, ± standard error.

    Where learning rates are known, the change is also drawn divided by them: a step changes less where it is short.
    """
    known = known or styles(traces)
    figure = go.Figure(layout=layout("Gradient congruence along training", height=360))
    titles = ["cosine before a step", "cosine after it", "change (after − before)"]
    rated = any((trace.learning_rate > 0).any() for trace in traces)
    for trace in traces:
        style = known[checkpoint_key(trace)]
        rate = np.where(trace.learning_rate > 0, trace.learning_rate, np.nan)
        panels = [
            (trace.cosine_b, trace.cosine_b_standard_error),
            (trace.cosine_a, trace.cosine_a_standard_error),
            (trace.change, trace.change_standard_error),
            *([(trace.change / rate, trace.change_standard_error / rate)] if rated else []),
        ]
        for n, (value, error) in enumerate(panels):
            at = trace.epoch.astype(float)
            probed = np.isfinite(value)  # epochs between probes are no gap in the record: join what was measured
            add_band(figure, n, style, at, value - error, value + error, probed)
            size = 5 if probed.sum() < 15 else None
            write = plus_minus if n < 2 else signed
            add_line(figure, n, style, at[probed], value[probed], error[probed], size=size, write=write)
    titles += ["change / learning rate"] if rated else []
    side_by_side(figure, ["epoch"] * len(titles), titles)
    figure.update_layout(hovermode="x", yaxis2_matches="y")
    figure.update_xaxes(**epoch_axis([trace.epoch for trace in traces]))
    for anchor in ("x3", "x4"):
        figure.update_yaxes(selector={"anchor": anchor}, zeroline=True, zerolinecolor="#888888", zerolinewidth=1)
    return figure


def layout(title: str, *, height: int) -> dict[str, Any]:
    """The look that all figures share."""
    return {
        # the default template weighs 7 kB in every figure and would hide the colours given here
        "template": go.layout.Template(),
        "title": {"text": as_text(title), "font": {"size": 14}, "y": 0.97, "yanchor": "top"},
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 60, "b": 60},
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": "#1f2328"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"gridcolor": GRID, "zeroline": False},
        "yaxis": {"gridcolor": GRID, "zeroline": False},
    }


def _lower(loss: Array, error: Array, view: View) -> Array:
    """The lower edge of a band; where it would reach zero on a log axis, far below the axis."""
    low = loss - error
    return np.where(low > 0, low, 10.0 ** (view.low - 1)) if view.log else low


def as_text(name: str) -> str:
    """A name as plotly shows it literally: its labels know a few HTML tags and templates."""
    return html.escape(name, quote=False).replace("%{", "%&#123;")


def with_unit(name: str, unit: str) -> str:
    """The title of an axis."""
    return f"{name} ({as_text(unit)})" if unit else name


def side_by_side(figure: go.Figure, xtitles: Sequence[str], ytitles: Sequence[str]) -> None:
    """Panels with these titles of their axes, in a row."""
    count = len(xtitles)
    gap = 0.09
    width = (1 - gap * (count - 1)) / count
    for n in range(count):
        left = n * (width + gap)
        number = str(n + 1) if n else ""
        look = {"gridcolor": GRID, "zeroline": False}
        domain = [left, min(left + width, 1.0)]
        xaxis = {"domain": domain, "title": {"text": xtitles[n]}, "anchor": f"y{number}", **look}
        yaxis = {"title": {"text": ytitles[n]}, "anchor": f"x{number}", "domain": [0, 1], **look}
        figure.update_layout({f"xaxis{number}": xaxis, f"yaxis{number}": yaxis})


def _panel(n: int, style: Style, name: str = "") -> dict[str, str]:
    number = str(n + 1) if n else ""
    name = name or style.name
    return {"xaxis": f"x{number}", "yaxis": f"y{number}", "legendgroup": name, "name": as_text(name)}


def epoch_axis(epochs: Sequence[npt.NDArray[np.int64]]) -> dict[str, Any]:
    """Ticks at whole epochs, some six of them."""
    span = max((int(np.ptp(each)) for each in epochs if each.size), default=0)
    return {"dtick": max(1, math.ceil(round_step(max(span, 1) / 6)))}


def log_axis(values: Array) -> dict[str, Any]:
    """A log axis that holds `values`, with round ticks."""
    low, high = (math.log10(value) for value in (values.min(), values.max()))
    pad = max(0.08 * (high - low), 0.08)
    ticks = log_ticks(low - pad, high + pad)
    labels = tick_labels(10**t for t in ticks)
    return {"type": "log", "range": [low - pad, high + pad], "tickvals": [10**t for t in ticks], "ticktext": labels}


def _loss_axis(figure: go.Figure, view: View, *, also: Sequence[float] = ()) -> None:
    """The y axis in the range of `view`, widened to hold `also`, which are in its units."""
    low, high = min(view.low, *also, view.high), max(view.high, *also, view.low)
    figure.update_yaxes(type="log" if view.log else "linear", tickvals=_tick_values(view), ticktext=view.labels)
    figure.update_yaxes(range=[low - 0.3 * view.step, high + 0.3 * view.step])


def _add_own_losses(figure: go.Figure, line: Line, style: Style, *, log: bool) -> None:
    """What each other checkpoint has with its own buffers: an open marker, joined to the loss on the line."""
    for end in ends(line):
        if end["own_loss"] > 0 or not log:
            figure.add_scatter(
                x=[end["x"]] * 2,
                y=[end["loss_on_plane"], end["own_loss"]],
                mode="lines+markers",
                line={"color": style.color, "width": 1, "dash": "dot"},
                marker={
                    "symbol": ["circle", "diamond-open"],
                    "size": [7, 12],
                    "color": style.color,
                    "opacity": 1,
                    "line": {"width": 2, "color": style.color},
                },
                text=[f"on the line {short(end['loss_on_plane'])}", f"its own loss {short(end['own_loss'])}"],
                hovertemplate="%{text}",
                name=as_text(f"{end['name']}: on the line ●, its own ◇"),
                meta="own loss",
            )


def _add_models(figure: go.Figure, surfaces: Sequence[Surface], known: Mapping[str, Style], *, log: bool) -> None:
    """L(0) + g x + 1/2 c x^2, c the eigenvalue along an eigenvector; else the second difference, and off at first."""
    for surface in surfaces:
        style = known[checkpoint_key(surface)]
        for n, found in enumerate(quadratic_models(surface, alone=len(surfaces) == 1)):
            if found is None:
                continue
            values = surface.x if n == 0 else surface.y
            at = np.linspace(values.min(), values.max(), 41)
            loss = found.at(at)
            what = "quadratic model of the Hessian" if found.of_hessian else "parabola of the second difference"
            figure.add_scatter(
                x=at,
                y=np.where((loss > 0) | (not log), loss, np.nan),
                mode="lines",
                line={"color": style.color, "width": 1.2, "dash": "4px,3px"},
                hoverinfo="skip",
                showlegend=n == 0 and surface is surfaces[0],
                visible=True if found.of_hessian else "legendonly",
                meta=["quadratic", style.name],
                legendrank=2000,
                **{**_panel(n, style), "name": what, "legendgroup": what},
            )


def add_line(
    figure: go.Figure,
    n: int,
    style: Style,
    at: Array,
    value: Array,
    error: Array | None,
    *,
    size: int | None,
    name: str = "",
    write: Callable[[float, float], str] = plus_minus,
) -> None:
    """A curve of one checkpoint in the n-th panel; its hover has the error, where there is one, as `write` has it."""
    figure.add_scatter(
        x=at,
        y=value,
        text=[short(v) for v in value] if error is None else told(value, error, write),
        mode="lines+markers" if size else "lines",
        line={"color": style.color, "width": 2, "dash": style.dash},
        marker={"symbol": style.symbol, "size": size},
        hovertemplate="%{text}",
        showlegend=n == 0,
        **_panel(n, style, name),
    )


def told(
    values: Iterable[float], errors: Iterable[float], write: Callable[[float, float], str] = plus_minus
) -> list[str]:
    """Each value with its uncertainty, as a reader sees it elsewhere."""
    return [write(float(value), float(error)) for value, error in zip(values, errors, strict=True)]


def add_band(
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
            fillcolor=translucent(style.color),
            mode="none",
            hoverinfo="skip",
            showlegend=False,
            **_panel(n, style),
        )


def translucent(color: str) -> str:
    """A colour of which a fifth shows: of bands."""
    red, green, blue = (int(color[n : n + 2], 16) for n in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"


def _cut_title(along: str, fixed: str, unit: str, offsets: Sequence[float]) -> str:
    values = sorted({round(offset, 6) + 0.0 for offset in offsets}) or [0.0]
    where = " or ".join(f"{value:.3g}" for value in values)
    return f"{with_unit(along, unit)}, at {fixed} = {where}"


def _tick_values(view: View) -> list[float]:
    return [10**tick for tick in view.ticks] if view.log else list(view.ticks)
