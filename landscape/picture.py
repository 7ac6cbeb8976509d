"""The matplotlib twins of the figures, for paper: contours and reliefs, runs, lines, eigenvalues, congruence.

`width` is that of one column ("single") or of both ("double") of a two-column paper. Letters are of 7 and 8 points:
place pictures unscaled. Colours, marks and dashes are those of the page: no checkpoint is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np

from landscape.grouping import Style, checkpoint_key, split_order, styles
from landscape.readings import (
    centre,
    centre_cell,
    ends,
    landmarks,
    measured,
    places_on_axis,
    shown_tensors,
    stick_height,
)
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
)
from landscape.view import CELL_COLOR, View, drawn, left_out_cells, log_ticks, loss_view, tick_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure as Picture

Width = Literal["single", "double"]
WIDTHS = {"single": 3.25, "double": 6.75}  # inches, as in the styles of ICML and CVPR
R = TypeVar("R", Surface, Line, Eigenpairs, Density, Diagonal, CurvatureTrace, CongruenceTrace)

_DASHES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_DASHES |= {"longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 1, 3))}
_MARKS = {"circle": "o", "square": "s", "diamond": "D", "cross": "P", "triangle-up": "^", "triangle-down": "v"}
_MARKS |= {"pentagon": "p", "star": "*"}
_HATCHES = ("", "///", "xxx", "...", "---", "+++", "|||")


def overview_picture(results: Sequence[Result], *, width: Width | None = None) -> Picture:
    """Filled contours for paper: a row per split (train first), a column per checkpoint, one colour scale per row.

    Of several surfaces of one checkpoint and split the first is drawn; pass those of one plane. Without `width` each
    contour is 2.7 inches wide.
    """
    surfaces = _needed(results, Surface, "overview_picture", "surface CKPT")
    known = styles(results)
    splits = sorted({_split(one) for one in surfaces}, key=lambda split: (split_order(split), split))
    keys = [key for key in known if any(checkpoint_key(one) == key for one in surfaces)]
    across = 2.7 * len(keys) + 0.9 if width is None else _inches(width)
    picture = _picture(across, ((across - 0.9) / len(keys) + 0.05) * len(splits) + 0.25)
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


def relief_picture(results: Sequence[Result], *, width: Width | None = None) -> Picture:
    """The surfaces in three dimensions: a row per split, a column per checkpoint, one loss axis per row.

    Of several surfaces of one checkpoint and split the first is drawn. The height is log10 of the loss where the scale
    is a log one; cells that are not finite are holes.
    """
    surfaces = _needed(results, Surface, "relief_picture", "surface CKPT")
    known = styles(results)
    splits = sorted({_split(one) for one in surfaces}, key=lambda split: (split_order(split), split))
    keys = [key for key in known if any(checkpoint_key(one) == key for one in surfaces)]
    across = 3.2 * len(keys) if width is None else _inches(width)
    picture = _picture(across, 0.94 * across / len(keys) * len(splits))
    for row, split in enumerate(splits):
        shown = list({checkpoint_key(one): one for one in reversed(surfaces) if _split(one) == split}.values())
        view = loss_view(shown)
        for column, key in enumerate(keys):
            ax = picture.add_subplot(len(splits), len(keys), row * len(keys) + column + 1, projection="3d")
            for one in (one for one in shown if checkpoint_key(one) == key):
                x, y = np.meshgrid(one.x, one.y, indexing="ij")
                ax.plot_surface(
                    x, y, drawn(one, view), cmap="viridis", vmin=view.low, vmax=view.high, rcount=101, ccount=101
                )
                ax.set_title(f"{known[key].name}, {split}\n{_centre_text(one)}".replace("$", r"\$"), fontsize=8)
                ax.set_xticks([one.x[0], 0, one.x[-1]])
                ax.set_yticks([one.y[0], 0, one.y[-1]])
            ax.set_box_aspect((1, 1, 0.75), zoom=0.95)  # room for the label, which the layout does not see
            ax.set_zlabel("mean loss" + (", log scale" if view.log else ""), fontsize=7, labelpad=0)
            ax.set_zlim(view.low, view.high)
            ax.set_zticks(list(view.ticks), view.labels)
            ax.tick_params(labelsize=6)
    return picture


def congruence_picture(results: Sequence[Result], *, width: Width = "double") -> Picture:
    """Gradient congruence before a step, after it, and the change, per epoch, each ± one standard error.

    The arrangement of Figure 1 of the Agnostic-SAM paper (arXiv:2406.07107).
    """
    traces = _needed(results, CongruenceTrace, "congruence_picture", "alignment RUN")
    known = styles(results)
    picture = _picture(_inches(width), 0.36 * _inches(width) if width == "double" else 2.5 * _inches(width))
    panels = picture.subplots(1, 3) if width == "double" else picture.subplots(3, 1, sharex=True)
    titles = {"cosine_b": "cosine before a step", "cosine_a": "cosine after it", "change": "change (after − before)"}
    for ax, (name, title) in zip(panels, titles.items(), strict=True):
        for trace in traces:
            value, error = getattr(trace, name), getattr(trace, f"{name}_standard_error")
            probed = np.isfinite(value)  # epochs between probes are no gap in the record
            _curve(
                ax,
                trace.epoch[probed].astype(float),
                value[probed],
                error[probed],
                known[checkpoint_key(trace)],
                mark=False,
            )
        _labelled(ax, "epoch" if width == "double" or name == "change" else "", title)
    panels[2].axhline(0, color="#888888", linewidth=0.6, zorder=0)
    panels[0].sharey(panels[1])
    _legend(panels[0])
    return picture


def spectrum_picture(results: Sequence[Result], *, width: Width = "single") -> Picture:
    """The top eigenvalues, largest first, with bars of the residual; an open mark has not converged."""
    pairs = _needed(results, Eigenpairs, "spectrum_picture", "hessian CKPT")
    known = styles(results)
    picture = _picture(_inches(width), 2.3)
    ax = picture.subplots()
    places, ticks, labels = places_on_axis(pairs)
    for n, one in enumerate(pairs):
        style, shift = known[checkpoint_key(one)], (n - (len(pairs) - 1) / 2) * 0.5 / len(pairs)
        at = np.array(places[n]) + shift
        ax.errorbar(at, one.values, yerr=one.residuals, fmt="none", ecolor=style.color, elinewidth=0.8, capsize=2)
        for done, face in ((True, style.color), (False, "none")):
            mine = one.converged == done
            mark: dict[str, Any] = {
                "marker": _MARKS[style.symbol],
                "markersize": 4,
                "color": style.color,
                "markerfacecolor": face,
            }
            label = _name(style) if done == bool(one.converged.any()) else None
            ax.plot(at[mine], one.values[mine], linestyle="none", label=label, **mark)
    finite = np.concatenate([one.values[np.isfinite(one.values)] for one in pairs])
    if finite.size and finite.min() > 0:
        _log_axis(ax)
    ax.set_xticks(ticks, labels)
    _labelled(ax, "eigenvalue, largest first", "eigenvalue of the mean loss")
    _legend(ax)
    return picture


def density_picture(results: Sequence[Result], *, width: Width = "single") -> Picture:
    """The bulk of each spectrum with its band over probes, on a log axis; sticks are eigenvalues found by themselves.

    A stick is as high as the smoothing makes one eigenvalue.
    """
    densities = _needed(results, Density, "density_picture", "hessian CKPT --density")
    known = styles(results)
    picture = _picture(_inches(width), 2.3)
    ax = picture.subplots()
    heights = [stick_height(one) for one in densities]
    floor = min(heights) / 10
    for one, height in zip(densities, heights, strict=True):
        style = known[checkpoint_key(one)]
        low, high = np.maximum(one.low, floor), np.maximum(one.high, floor)
        ax.fill_between(one.grid, low, high, color=style.color, alpha=0.2, linewidth=0)
        look: dict[str, Any] = {"color": style.color, "linestyle": _DASHES[style.dash], "linewidth": 1}
        ax.plot(one.grid, np.where(one.mean > floor, one.mean, np.nan), label=_name(style), **look)
        ax.vlines(one.sticks, floor, height, color=style.color, linewidth=1)
        level = np.full(one.sticks.shape, height)
        ax.errorbar(
            one.sticks, level, xerr=one.stick_residuals, fmt=_MARKS[style.symbol], color=style.color, markersize=3
        )
    ax.set_yscale("log")
    ax.set_ylim(bottom=floor)
    _labelled(ax, "eigenvalue of the mean loss", "density")
    _legend(ax)
    return picture


def diagonal_picture(results: Sequence[Result], *, width: Width = "single") -> Picture:
    """The trace of each tensor with a bar of its standard error, from input to output; the largest 12 where more."""
    diagonals = _needed(results, Diagonal, "diagonal_picture", "hessian CKPT --diagonal")
    known, names = styles(results), shown_tensors(diagonals, 12)
    picture = _picture(_inches(width), 0.8 + 0.14 * len(names) * len(diagonals))
    ax = picture.subplots()
    height = 0.8 / len(diagonals)
    for n, one in enumerate(diagonals):
        style = known[checkpoint_key(one)]
        places = [place for place, name in enumerate(one.names) if name in names]
        at = np.array([names.index(one.names[place]) for place in places]) + (n + 0.5) * height - 0.4
        bars: dict[str, Any] = {"color": style.color, "hatch": _HATCHES[n % len(_HATCHES)], "edgecolor": "white"}
        ax.barh(at, one.tensor_traces[places], height, linewidth=0, label=_name(style), **bars)
        errors = one.tensor_standard_errors[places]
        ax.errorbar(one.tensor_traces[places], at, xerr=errors, fmt="none", ecolor="#333333", elinewidth=0.8, capsize=1)
    _labelled(ax, "trace of the tensor", "")
    ax.set_yticks(range(len(names)), [_literal(name) for name in names], fontsize=6)
    ax.set_ylim(len(names) - 0.4, -0.6)
    _legend(ax)
    return picture


def curvature_picture(results: Sequence[Result], *, width: Width = "single") -> Picture:
    """The largest eigenvalues along a run, and dotted the largest curvature that is stable, by full-batch theory."""
    traces = _needed(results, CurvatureTrace, "curvature_picture", "hessian RUN")
    known = styles(results)
    picture = _picture(_inches(width), 2.3)
    ax = picture.subplots()
    for one in traces:
        style, at = known[checkpoint_key(one)], one.epoch.astype(float)
        for k in range(one.values.shape[1]):
            hidden = "" if k == 0 else "_"  # one entry of the legend for all of a run
            _curve(ax, at, one.values[:, k], one.residuals[:, k], style, mark=k == 0, label=hidden)
    values = np.concatenate([one.values[np.isfinite(one.values)] for one in traces])
    if values.size:
        pad = 0.08 * float(np.ptp(values)) or 1.0
        ax.set_ylim(values.min() - pad, values.max() + pad)
    for one in traces:
        if np.isfinite(one.stability_limit).any():
            ax.plot(one.epoch, one.stability_limit, ":", color="#6b6b6b", linewidth=1, scaley=False)
    _labelled(ax, "epoch", "largest eigenvalues")
    _legend(ax)
    return picture


def line_picture(results: Sequence[Result], *, width: Width = "single") -> Picture:
    """The loss along lines ± one standard error; checkpoints on a line are named where they lie.

    An open diamond is the loss that a checkpoint has with running statistics of its own.
    """
    lines = _needed(results, Line, "line_picture", "surface CKPT --line")
    known, view = styles(results), loss_view(lines)
    picture = _picture(_inches(width), 2.3)
    ax = picture.subplots()
    for one in lines:
        style = known[checkpoint_key(one)]
        _curve(ax, one.x, measured(one), one.standard_error, style, mark=True)
        for end in ends(one):
            ax.plot(end["x"], end["own_loss"], "D", color=style.color, markerfacecolor="none", markersize=5)
    for name, at in dict.fromkeys((name, at) for one in lines for name, (at,) in landmarks(one)):
        ax.axvline(at, color="#888888", linewidth=0.6, linestyle=":", zorder=0)
        ax.annotate(_literal(name), (at, 1), (2, -2), xycoords=("data", "axes fraction"), **_NOTE)
    if view.log:
        _log_axis(ax)
    unit = str(lines[0].settings.get("unit") or "")
    _labelled(ax, f"x ({_literal(unit)})" if unit else "x", "mean loss")
    if len(lines) > 1 or not landmarks(lines[0]):
        _legend(ax)
    return picture


def trajectory_picture(results: Sequence[Result], *, width: Width = "double") -> Picture:
    """A run on its plane beside its own loss and the plane's below it; a row for each surface with a trajectory."""
    surfaces = [one for one in _needed(results, Surface, "trajectory_picture", "surface CKPT") if one.trajectory]
    if not surfaces:
        raise ValueError(
            "trajectory_picture needs a run on its plane, got none: landscape surface CKPT --trajectory RUN"
        )
    known = styles(results)
    picture = _picture(_inches(width), 0.4 * _inches(width) * len(surfaces))
    panels = picture.subplots(len(surfaces), 2, squeeze=False)
    for (left, right), one in zip(panels, surfaces, strict=True):
        run, style, view = one.trajectory, known[checkpoint_key(one)], loss_view([one])
        assert run is not None
        _paper_contour(left, one, view, style)
        left.set_title(f"{_name(style)}: holds {100 * run.explained_variance:.3g} % of squared distances", fontsize=8)
        left.set_xlabel("x", fontsize=8)
        left.set_ylabel("y", fontsize=8)
        _curve(right, run.epoch.astype(float), run.loss, run.standard_error, style, mark=True, label="its own loss")
        right.plot(
            run.epoch, run.plane_loss, color="#6b6b6b", linestyle="--", linewidth=1, label="the plane's, below it"
        )
        if view.log:
            _log_axis(right)
        _labelled(right, "epoch", "mean loss")
        _legend(right)
    return picture


_NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "va": "top"}


def _needed(results: Sequence[Result], kind: type[R], what: str, command: str) -> list[R]:
    found = [result for result in results if isinstance(result, kind)]
    if not found:
        article = "an" if kind is Eigenpairs else "a"
        raise ValueError(f"{what} needs {article} {kind.__name__}, got none: make one with: landscape {command}")
    return found


def _inches(width: Width) -> float:
    if width not in get_args(Width):
        raise ValueError(f"width must be one of {get_args(Width)}, got {width!r}")
    return WIDTHS[width]


def _picture(width: float, height: float) -> Picture:
    from matplotlib.figure import Figure as MatplotlibFigure

    return MatplotlibFigure(figsize=(width, height), dpi=150, layout="constrained")


def _curve(ax: Axes, at: Array, value: Array, error: Array, style: Style, *, mark: bool, label: str = "") -> None:
    ax.fill_between(at, value - error, value + error, color=style.color, alpha=0.2, linewidth=0)
    marked: dict[str, Any] = {"marker": _MARKS[style.symbol], "markersize": 2.5} if mark else {}
    ax.plot(
        at,
        value,
        color=style.color,
        linestyle=_DASHES[style.dash],
        linewidth=1.2,
        label=label or _name(style),
        **marked,
    )


def _labelled(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(color="#e3e5e8", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _log_axis(ax: Axes) -> None:
    ax.set_yscale("log")
    ticks = log_ticks(*(math.log10(value) for value in ax.get_ylim()))
    ax.set_yticks([10**tick for tick in ticks], [tick_label(10**tick) for tick in ticks])
    ax.minorticks_off()


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=7, frameon=False)


def _name(style: Style) -> str:
    """A name as matplotlib shows it: no mathematics, and not hidden for its underscore."""
    name = _literal(style.name)
    return f" {name}" if name.startswith("_") else name


def _literal(name: str) -> str:
    return name.replace("$", r"\$")


def _paper_contour(ax: Axes, surface: Surface, view: View, style: Style) -> QuadContourSet | None:
    if min(surface.loss.shape) < 2:
        ax.text(0.5, 0.5, "one line of cells", ha="center", va="center", fontsize=8, transform=ax.transAxes)
        return None
    loss = np.ma.masked_invalid(drawn(surface, view).T)
    filled = None
    levels = np.arange(round((view.high - view.low) / view.step) + 1) * view.step + view.low
    if loss.count():
        filled = ax.contourf(surface.x, surface.y, loss, levels=levels, cmap="viridis", vmin=view.low, vmax=view.high)
        lines = [level for level in levels[1:-1:2] if loss.min() < level < loss.max()]
        if lines:
            drawn_lines = ax.contour(
                surface.x, surface.y, loss, levels=lines, colors="white", linewidths=0.6, linestyles="solid"
            )
            ax.clabel(drawn_lines, fmt={t: tick_label(10**t if view.log else t) for t in lines}, fontsize=6)
    cells = left_out_cells(surface, view)
    if cells:
        ax.plot(
            [x for x, _, _ in cells],
            [y for _, y, _ in cells],
            "x",
            color=CELL_COLOR,
            markersize=4,
            linestyle="none",
            clip_on=False,
        )
    if surface.trajectory is not None:
        run = surface.trajectory
        ax.plot(run.x, run.y, ".-", color="white", markersize=4, linewidth=0.8, scalex=False, scaley=False)
    ax.plot(0, 0, "o", color=style.color, markeredgecolor="white", markersize=5)
    ax.set_aspect("equal")
    ax.locator_params(nbins=5)
    ax.tick_params(labelsize=7)
    ax.set_title(f"{style.name}\n{_centre_text(surface)}".replace("$", r"\$"), fontsize=8)
    return filled


def _centre_text(surface: Surface) -> str:
    at = centre(surface)
    if math.isnan(at.loss) and centre_cell(surface) is None:
        return "centre not on the grid"
    return f"loss {at.loss:.3g}" + (f", accuracy {at.accuracy:.1%}" if math.isfinite(at.accuracy) else "")


def _split(surface: Surface) -> str:
    return str(surface.settings.get("split") or "unnamed data")
