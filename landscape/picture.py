"""The matplotlib twins of the figures, for paper: lines, eigenvalues, densities, curvature, congruence; and all maps.

`width` is that of one column ("single") or of both ("double") of a two-column paper. Colours, marks and dashes are
those of the page: no checkpoint is told by colour alone. `known` gives the same look to several pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.arrangement import compared, planes
from landscape.formatting import counted, shortened, told_apart
from landscape.grouping import Style, checkpoint_key, spectrum_kind, styles
from landscape.maps import (
    difference_picture,
    needed,
    overview_picture,
    relief_picture,
    trajectory_picture,
)
from landscape.paper import (
    DASHES,
    LETTER,
    MARKS,
    Width,
    curve,
    empty_picture,
    epoch_axis,
    inches,
    labelled,
    legend,
    literal,
    log_axis,
    named,
    picture_bytes,
    save_picture,
)
from landscape.readings import (
    SAMPLE_BARS,
    STABLE,
    beyond_figure,
    by_layer,
    ends,
    landmarks,
    layer_points,
    measured,
    places_on_axis,
    sample_errors,
    shown_layers,
    shown_tensors,
    stick_height,
)
from landscape.results import (
    Array,
    CongruenceTrace,
    CurvatureTrace,
    DataSpread,
    Density,
    Diagonal,
    Eigenpairs,
    Line,
    Result,
)
from landscape.smoothing import of_one_width
from landscape.view import loss_view

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = [
    "Width",
    "compared",
    "congruence_picture",
    "curvature_picture",
    "density_picture",
    "diagonal_picture",
    "difference_picture",
    "layers_picture",
    "line_picture",
    "overview_picture",
    "picture_bytes",
    "planes",
    "relief_picture",
    "save_picture",
    "spectrum_picture",
    "trajectory_picture",
]

_HATCHES = ("", "///", "xxx", "...", "---", "+++", "|||")
_HEIGHT = {"single": 2.4, "double": 2.6}  # inches of a picture of one axes


def congruence_picture(
    results: Sequence[Result], *, width: Width = "double", known: Mapping[str, Style] | None = None
) -> Picture:
    """Gradient congruence before a step, after it, and the change, per epoch, each ± one standard error.

    The arrangement of Figure 1 of the Agnostic-SAM paper (arXiv:2406.07107).
    """
    traces = needed(results, CongruenceTrace, "congruence_picture", "alignment RUN")
    known = known or styles(results)
    picture = empty_picture(inches(width), 0.36 * inches(width) if width == "double" else 1.7 * inches(width))
    panels = picture.subplots(1, 3) if width == "double" else picture.subplots(3, 1, sharex=True)
    titles = {"cosine_b": "(a) cosine before a step", "cosine_a": "(b) cosine after it"}
    titles |= {"change": "(c) change, after − before"}
    panels[0].sharey(panels[1])  # before anything is drawn: the limits are to hold both
    for ax, (name, title) in zip(panels, titles.items(), strict=True):
        for trace in traces:
            value, error = getattr(trace, name), getattr(trace, f"{name}_standard_error")
            probed = np.isfinite(value)  # epochs between probes are no gap in the record
            at, style = trace.epoch[probed].astype(float), known[checkpoint_key(trace)]
            curve(ax, at, value[probed], error[probed], style, mark=probed.sum() < 15)
        labelled(ax, "epoch" if width == "double" or name == "change" else "", title)
        epoch_axis(ax)
    panels[2].axhline(0, color="#888888", linewidth=0.6, zorder=0)
    legend(picture, panels[0])
    return picture


def spectrum_picture(
    results: Sequence[Result], *, width: Width = "single", known: Mapping[str, Style] | None = None
) -> Picture:
    """The top eigenvalues, largest first, with bars of the residual; an open mark has not converged.

    A broad bar is one standard error that the sample of the data leaves, a lower bound. Spectra of single layers are
    left out.
    """
    pairs = needed(results, Eigenpairs, "spectrum_picture", "hessian CKPT")
    spreads, bars = [one for one in results if isinstance(one, DataSpread)], []
    pairs = [one for one in pairs if "layer" not in one.settings] or pairs
    known, apart = known or styles(results), told_apart([spectrum_kind(one) for one in pairs])
    picture = empty_picture(inches(width), _HEIGHT[width])
    ax = picture.subplots()
    places, ticks, labels = places_on_axis(pairs)
    for n, one in enumerate(pairs):
        style, shift = known[checkpoint_key(one)], (n - (len(pairs) - 1) / 2) * 0.5 / len(pairs)
        at, label = (
            np.array(places[n]) + shift,
            named(style) + (f", {apart[spectrum_kind(one)]}" if len(apart) > 1 else ""),
        )
        label += "" if one.complete else ", may have missed some"
        look: dict[str, Any] = {"marker": MARKS[style.symbol], "markersize": 4, "color": style.color}
        ax.errorbar(at, one.values, yerr=one.residuals, fmt="none", ecolor=style.color, elinewidth=0.8, capsize=2)
        bars.append((at, one.values, sample_errors(one, spreads), style.color))
        done = one.converged
        ax.plot(at[done], one.values[done], linestyle="none", label=label if done.any() else None, **look)
        if not done.all():
            told = "open: not converged" if done.any() else f"{label}, not converged"
            ax.plot(at[~done], one.values[~done], linestyle="none", markerfacecolor="none", label=told, **look)
    finite = np.concatenate([one.values[np.isfinite(one.values)] for one in pairs])
    if log := finite.size and finite.min() > 0:
        _hold_bars(ax, bars, finite.min() / 3)
    label = SAMPLE_BARS
    for at, values, errors, color in bars:
        if np.isfinite(errors).any():
            broad: dict[str, Any] = {"colors": color, "linewidth": 9, "alpha": 0.35, "zorder": 0}
            ax.vlines(at, values - errors, values + errors, label=label, **broad)
            label = ""  # one entry of the legend for all
    if log:
        log_axis(ax)
    every = -(-len(ticks) // 12)
    ax.set_xticks(ticks[::every], labels[::every])
    ax.set_xlim(min([*ticks, 1]) - 0.6, max([*ticks, 1]) + 0.6)
    labelled(ax, "eigenvalue, largest first", "eigenvalue of the mean loss")
    legend(picture, ax)
    return picture


def _hold_bars(ax: Axes, bars: Sequence[tuple[Array, Array, Array, str]], least: float) -> None:
    """A log axis that holds these bars, but of one that nearly reaches zero only what is above `least`."""
    ax.set_yscale("log")
    ends = np.concatenate([np.maximum(values + sign * e, least) for _, values, e, _ in bars for sign in (-1, 1)])
    if (ends := ends[np.isfinite(ends)]).size:
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, ends.min() / 1.1), max(high, ends.max() * 1.1))


def density_picture(
    results: Sequence[Result], *, width: Width = "single", known: Mapping[str, Style] | None = None
) -> Picture:
    """The bulk of each spectrum with its band over probes, on a log axis; sticks are eigenvalues found by themselves.

    Drawn together they are smoothed by one Gaussian, the widest of theirs; a stick is as high as it makes one
    eigenvalue.
    """
    densities = of_one_width(needed(results, Density, "density_picture", "hessian CKPT --density"))
    known, apart = known or styles(results), told_apart([spectrum_kind(one) for one in densities])
    picture = empty_picture(inches(width), _HEIGHT[width])
    ax = picture.subplots()
    heights = [stick_height(one) for one in densities]
    floor = min(heights) / 10
    for one, height in zip(densities, heights, strict=True):
        style = known[checkpoint_key(one)]
        low, high = np.maximum(one.low, floor), np.maximum(one.high, floor)
        ax.fill_between(one.grid, low, high, color=style.color, alpha=0.2, linewidth=0)
        look: dict[str, Any] = {"color": style.color, "linestyle": DASHES[style.dash], "linewidth": 1}
        label = named(style) + (f", {apart[spectrum_kind(one)]}" if len(apart) > 1 else "")
        ax.plot(one.grid, np.where(one.mean > floor, one.mean, np.nan), label=label, **look)
        ax.vlines(one.sticks, floor, height, color=style.color, linewidth=1)
        level = np.full(one.sticks.shape, height)
        ax.errorbar(
            one.sticks, level, xerr=one.stick_residuals, fmt=MARKS[style.symbol], color=style.color, markersize=3
        )
    ax.set_yscale("log")
    ax.set_ylim(bottom=floor)
    labelled(ax, "eigenvalue of the mean loss", f"density (kernel σ = {densities[0].kernel_width:.2g})")
    legend(picture, ax)
    return picture


def layers_picture(
    results: Sequence[Result], *, width: Width = "single", known: Mapping[str, Style] | None = None
) -> Picture:
    """The eigenvalues of each layer's own block, on a log axis, from input to output; the sharpest 20 where more.

    An open mark is not certified; the title of the axis counts those that are zero or below, and have no place on it.
    """
    groups = by_layer(needed(results, Eigenpairs, "layers_picture", "hessian CKPT --per-layer"))
    if not groups:
        raise ValueError("layers_picture needs spectra of layers, got none: landscape hessian CKPT --per-layer")
    known, names = known or styles(results), shown_layers(groups, 20)
    picture = empty_picture(inches(width), 0.8 + len(names) * max(0.14, 0.06 * len(groups)))
    ax, left_out = picture.subplots(), 0
    apart, opened = told_apart([spectrum_kind(group[0]) for group in groups]), False
    for n, group in enumerate(groups):
        style, one = known[checkpoint_key(group[0])], layer_points(group, names)
        at, value = (
            one.place + (n - (len(groups) - 1) / 2) * 0.6 / len(groups),
            np.where(one.value > 0, one.value, np.nan),
        )
        left_out += int(np.isnan(value).sum())
        ax.errorbar(value, at, xerr=one.residual, fmt="none", ecolor=style.color, elinewidth=0.8, capsize=1)
        look: dict[str, Any] = {
            "marker": MARKS[style.symbol],
            "markersize": 4,
            "color": style.color,
            "linestyle": "none",
            "zorder": 3,  # an open mark is white, above its bar
        }
        label = named(style) + (f", {apart[spectrum_kind(group[0])]}" if len(apart) > 1 else "")
        sure = one.certified
        ax.plot(value[sure], at[sure], label=label if sure.any() else None, **look)
        if not sure.all():
            told = ("" if opened else "open: not certified") if sure.any() else f"{label}, not certified"
            opened |= bool(sure.any())  # one entry of the legend for all
            ax.plot(value[~sure], at[~sure], markerfacecolor="white", label=told, **look)
    ax.set_xscale("log")
    labelled(ax, "eigenvalue of the layer's own block" + (f"; {left_out} not above 0" if left_out else ""), "")
    ax.set_yticks(range(len(names)), [literal(shortened(name, 32)) for name in names], fontsize=6)
    ax.set_ylim(len(names) - 0.4, -0.6)
    legend(picture, ax)
    return picture


def diagonal_picture(
    results: Sequence[Result], *, width: Width = "single", known: Mapping[str, Style] | None = None
) -> Picture:
    """The trace of each tensor with a bar of its standard error, from input to output; the largest 12 where more."""
    diagonals = needed(results, Diagonal, "diagonal_picture", "hessian CKPT --diagonal")
    known, names = known or styles(results), shown_tensors(diagonals, 12)
    picture = empty_picture(inches(width), 0.8 + 0.14 * len(names) * len(diagonals))
    ax = picture.subplots()
    height = 0.8 / len(diagonals)
    for n, one in enumerate(diagonals):
        style = known[checkpoint_key(one)]
        places = [place for place, name in enumerate(one.names) if name in names]
        at = np.array([names.index(one.names[place]) for place in places]) + (n + 0.5) * height - 0.4
        bars: dict[str, Any] = {"color": style.color, "hatch": _HATCHES[n % len(_HATCHES)], "edgecolor": "white"}
        ax.barh(at, one.tensor_traces[places], height, linewidth=0, label=named(style), **bars)
        errors = one.tensor_standard_errors[places]
        ax.errorbar(one.tensor_traces[places], at, xerr=errors, fmt="none", ecolor="#333333", elinewidth=0.8, capsize=1)
    labelled(ax, "trace of the tensor", "")
    ax.set_yticks(range(len(names)), [literal(shortened(name, 32)) for name in names], fontsize=6)
    ax.set_ylim(len(names) - 0.4, -0.6)
    legend(picture, ax)
    return picture


def curvature_picture(
    results: Sequence[Result], *, width: Width = "single", known: Mapping[str, Style] | None = None
) -> Picture:
    """The largest eigenvalues along a run, and dotted the largest curvature that is stable, by full-batch theory.

    The eigenvalues set the axis; the legend says where the dotted line leaves it.
    """
    traces = needed(results, CurvatureTrace, "curvature_picture", "hessian RUN")
    known = known or styles(results)
    picture = empty_picture(inches(width), _HEIGHT[width])
    ax = picture.subplots()
    for one in traces:
        style, at = known[checkpoint_key(one)], one.epoch.astype(float)
        for k in range(one.values.shape[1]):
            hidden = "" if k == 0 else "_"  # one entry of the legend for all of a run
            look = style if k == 0 else replace(style, dash="solid")
            curve(ax, at, one.values[:, k], one.residuals[:, k], look, mark=k == 0, label=hidden)
            ax.lines[-1].set_linewidth(1.2 if k == 0 else 0.6)
    values = np.concatenate([one.values[np.isfinite(one.values)] for one in traces])
    if values.size:
        pad = 0.08 * float(np.ptp(values)) or 1.0
        ax.set_ylim(values.min() - pad, values.max() + pad)
    for one in traces:
        if np.isfinite(one.stability_limit).any():
            style, beyond = known[checkpoint_key(one)], beyond_figure(one, ax.get_ylim()[1])
            label = f"{named(style)}: {STABLE}" + (f"; {beyond}" if beyond else "")
            dots: dict[str, Any] = {"color": style.color, "linestyle": (0, (1, 1.5)), "linewidth": 1}
            ax.plot(one.epoch, one.stability_limit, scaley=False, label=label, **dots)
    labelled(ax, "epoch", "largest eigenvalues")
    epoch_axis(ax)
    legend(picture, ax)
    return picture


def line_picture(
    results: Sequence[Result], *, width: Width = "single", known: Mapping[str, Style] | None = None
) -> Picture:
    """The loss along lines ± one standard error; checkpoints on a line are named where they lie.

    An open diamond is the loss that a checkpoint has with running statistics of its own.
    """
    lines = needed(results, Line, "line_picture", "surface CKPT --line")
    known, view = known or styles(results), loss_view(lines)
    picture = empty_picture(inches(width), _HEIGHT[width])
    ax = picture.subplots()
    own = "its loss with its own BatchNorm statistics"
    for one in lines:
        style, num = known[checkpoint_key(one)], len(one.x)
        curve(ax, one.x, measured(one), one.standard_error, style, mark=num <= 31)
        for end in ends(one):
            look: dict[str, Any] = {"color": style.color, "markerfacecolor": "none", "linestyle": "none"}
            ax.plot(end["x"], end["own_loss"], "D", markersize=5, label=f"{literal(end['name'])}, {own}", **look)
        if left_out := num - int(np.isfinite(measured(one)).sum()):
            ax.plot([], [], " ", label=f"{named(style)}: {counted(left_out, 'point')} left out, not finite or missing")
    if view.log:
        log_axis(ax)
    unit = str(lines[0].settings.get("unit") or "")
    labelled(ax, f"x ({literal(unit)})" if unit else "x", "mean loss" + (", log scale" if view.log else ""))
    ax.locator_params(axis="x", nbins=5 if width == "single" else 10)
    ax.xaxis.set_major_formatter("{x:g}")
    _name_places(ax, dict.fromkeys((name, at) for one in lines for name, (at,) in landmarks(one)), inches(width))
    legend(picture, ax)
    return picture


def _name_places(ax: Axes, places: Mapping[tuple[str, float], None], across: float) -> None:
    """Names of checkpoints above the line on which they lie, slanted where they would meet."""
    if not places:
        return
    at = [place for _, place in places]
    for place in at:
        ax.axvline(place, color="#888888", linewidth=0.6, linestyle=":", zorder=0)
    above = ax.secondary_xaxis("top")
    low, high = ax.get_xlim()
    room = min(np.diff(sorted(at)), default=high - low) / (high - low) * across
    wide = max(len(name) for name, _ in places) * LETTER
    slant: dict[str, Any] = {"rotation": 30, "ha": "left"} if wide > room else {}
    above.set_xticks(at, [literal(name) for name, _ in places], fontsize=7, **slant)
    above.tick_params(length=0, pad=1)
    above.spines["top"].set_visible(False)
