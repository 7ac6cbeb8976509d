"""Surfaces on paper: contours, reliefs, differences, and a run on its plane.

What is not finite is hatched and counted, never filled. Panels keep the shape of their plane, and a bar is as high as
its panels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from landscape.arrangement import (
    LEFT,
    LINE,
    RIGHT,
    TICKS,
    TITLE,
    Block,
    axes_at,
    blocks_of,
    compared,
    fitted,
    letters_across,
    num_across,
    placed,
    room_of,
)
from landscape.formatting import counted, percent, short
from landscape.grouping import Style, checkpoint_key, data_identity, data_sets, styles
from landscape.paired import Difference, paired_difference
from landscape.paper import (
    GREY,
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
)
from landscape.readings import centre, centre_cell, landmarks
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
from landscape.view import (
    CELL_COLOR,
    Scale,
    SignedView,
    View,
    difference_view,
    drawn,
    left_out_cells,
    loss_view,
    round_levels,
    tick_labels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure as Picture

R = TypeVar("R", Surface, Line, Eigenpairs, Density, Diagonal, CurvatureTrace, CongruenceTrace)

_LEVELS = 80  # of the filling: steps that the eye does not see; lines are at the ticks of the bar


def overview_picture(
    results: Sequence[Result],
    *,
    width: Width | None = None,
    scale: Scale = "auto",
    clip: float | None = None,
    known: Mapping[str, Style] | None = None,
) -> Picture:
    """Contours for paper, checkpoints side by side, a colour bar for each plane and each data it was measured on.

    The arrangement of Figures 3 and 4 of the Agnostic-SAM paper (arXiv:2406.07107). More than four checkpoints, or two
    in a "single" column, go on below. Losses above `clip` have the last colour, and the bar says so. Without `width`
    each contour is 2.7 inches wide; lines are at the ticks of the bar.
    """
    surfaces = needed(results, Surface, "overview_picture", "surface CKPT")
    blocks = blocks_of(surfaces, known or styles(results), width)
    views = [loss_view(block.surfaces, scale=scale, clip=clip) for block in blocks]
    picture, panels, bars = placed(blocks, width, lines=_title_lines(blocks, views, width))
    for block, view, axes, place in zip(blocks, views, panels, bars, strict=True):
        filled = None
        for n, (ax, (style, one)) in enumerate(zip(axes, block.members, strict=True)):
            if one is None:
                _blank(ax, f"no {block.data} surface")
                continue
            filled = _contour(ax, one, view, style) or filled
            ax.set_title(_title(ax, one, view, style), fontsize=7, pad=3)
            if n == 0:
                ax.set_ylabel(literal(f"{', '.join(filter(None, [block.plane, block.data]))}: y"), fontsize=8)
        _bar(picture, place, filled, view, f"mean {block.data} loss")
    return picture


def relief_picture(
    results: Sequence[Result],
    *,
    width: Width | None = None,
    scale: Scale = "auto",
    clip: float | None = None,
    known: Mapping[str, Style] | None = None,
) -> Picture:
    """The surfaces in three dimensions, arranged as `overview_picture`: one loss axis and one colour bar for a block.

    The height is log10 of the loss where the scale is a log one; cells that are not finite are holes.
    """
    surfaces = needed(results, Surface, "relief_picture", "surface CKPT")
    blocks = blocks_of(surfaces, known or styles(results), width)
    views = [loss_view(block.surfaces, scale=scale, clip=clip) for block in blocks]
    picture, panels, bars = placed(blocks, width, lines=_title_lines(blocks, views, width), flat=False)
    for block, view, axes, place in zip(blocks, views, panels, bars, strict=True):
        filled = None
        for n, (ax, (style, one)) in enumerate(zip(axes, block.members, strict=True)):
            if one is None:
                ax.set_axis_off()
                ax.set_title(f"no {block.data} surface", fontsize=7)
                continue
            filled = _relief(ax, one, view)
            ax.set_title(_title(ax, one, view, style), fontsize=7, pad=0)
            if n == 0 and block.plane:
                ax.set_title(literal(f"{block.plane}, {block.data}"), loc="left", fontsize=7, y=-0.02)
        _bar(picture, place, filled, view, f"mean {block.data} loss")
    return picture


def difference_picture(
    results: Sequence[Result], *, width: Width | None = None, known: Mapping[str, Style] | None = None
) -> Picture:
    """The loss of each checkpoint less that of the first, example by example, on a diverging map centred at zero.

    A grey dot marks a point where the difference is within two of its standard errors. Where differences span decades,
    the map is linear up to about their error and logarithmic beyond, which the bar says.

    Raises:
        ValueError: If no two surfaces kept the losses of equal examples.
    """
    known, surfaces = known or styles(results), [one for one in results if isinstance(one, Surface)]
    names, pairs = data_sets(surfaces), compared(surfaces)
    if not pairs:
        raise ValueError(
            "difference_picture needs two surfaces that kept the losses of equal examples: "
            "landscape surface CKPT CKPT --paired 256"
        )
    blocks = [
        Block("", name, [(known[checkpoint_key(one)], one) for first, one in pairs if data_identity(one) == key])
        for key, (_, name) in names.items()
    ]
    blocks = [block for block in blocks if block.members]
    picture, panels, bars = placed(blocks, width, lines=2)
    for block, axes, place in zip(blocks, panels, bars, strict=True):
        firsts = [next(first for first, other in pairs if other is one) for one in block.surfaces]
        found = [paired_difference(one, first) for one, first in zip(block.surfaces, firsts, strict=True)]
        values, errors = (np.concatenate([x.ravel() for x in of]) for of in zip(*_parts(found), strict=True))
        view, filled = difference_view(values, errors), None
        for ax, one, first, (value, error) in zip(axes, block.surfaces, firsts, _parts(found), strict=True):
            both = [known[checkpoint_key(each)].name for each in (one, first)]
            filled = _difference(ax, one, value, error, view)
            ax.set_title(fitted(ax, [both[0], f"less {both[1]}"]), fontsize=7, pad=3)
        assert filled is not None
        bar = picture.colorbar(filled, cax=place, ticks=view.at(np.array(view.ticks)).tolist())
        bar.ax.set_yticklabels(view.labels, fontsize=7)
        told = "\n".join(filter(None, ["difference of mean losses", view.scale]))
        bar.set_label(told, fontsize=8, linespacing=1.0)
        axes[0].set_ylabel(literal(f"{block.data}: y"), fontsize=8)
    return picture


def trajectory_picture(
    results: Sequence[Result], *, width: Width = "double", known: Mapping[str, Style] | None = None
) -> Picture:
    """A run on its plane beside its own loss and the plane's below it; a row for each surface with a trajectory."""
    surfaces = [one for one in needed(results, Surface, "trajectory_picture", "surface CKPT") if one.trajectory]
    if not surfaces:
        raise ValueError(
            "trajectory_picture needs a run on its plane, got none: landscape surface CKPT --trajectory RUN"
        )
    known, across = known or styles(results), inches(width)
    panel = (across - 2 * LEFT - RIGHT - 0.2) / 2 if width == "double" else across - LEFT - RIGHT
    blocks = [Block("", "", [(known[checkpoint_key(one)], one)]) for one in surfaces]
    head, foot = 3 * LINE + 0.05, TICKS + TITLE
    heights = [(panel * block.shape, max(panel * block.shape, 1.4) if width == "double" else 1.4) for block in blocks]
    rows = [head + max(pair) + foot if width == "double" else sum(pair) + 2 * (head + foot) for pair in heights]
    picture = empty_picture(across, sum(rows), arranged=False)
    top = sum(rows)
    for one, (height, own_height), row in zip(surfaces, heights, rows, strict=True):
        style, view = known[checkpoint_key(one)], loss_view([one])
        left = axes_at(picture, LEFT, top - head - height, panel, height)
        place = axes_at(picture, LEFT + panel + 0.08, top - head - height, 0.1, height)
        filled = _contour(left, one, view, style)
        left.set_xlabel("x", fontsize=8)
        left.set_ylabel("y", fontsize=8)
        _bar(picture, place, filled, view, "mean loss")
        if width == "double":
            right = axes_at(picture, across - panel - 0.05, top - head - own_height, panel, own_height)
        else:
            right = axes_at(picture, LEFT, top - row + foot, panel + RIGHT - 0.1, own_height)
        _own_losses(picture, left, right, one, style, log=view.log)
        top -= row
    return picture


def needed(results: Sequence[Result], kind: type[R], what: str, command: str) -> list[R]:
    """The results of that kind.

    Raises:
        ValueError: If there is none.
    """
    found = [result for result in results if isinstance(result, kind)]
    if not found:
        article = "an" if kind.__name__ == "Eigenpairs" else "a"
        raise ValueError(f"{what} needs {article} {kind.__name__}, got none: make one with: landscape {command}")
    return found


def _contour(ax: Axes, surface: Surface, view: View, style: Style) -> QuadContourSet | None:
    if min(surface.loss.shape) < 2:
        _blank(ax, "one line of cells")
        return None
    loss = np.ma.masked_invalid(drawn(surface, view).T)
    cells = left_out_cells(surface, view)
    _hatch(ax, cells)
    filled = None
    if loss.count():
        levels, beyond = np.linspace(view.low, view.high, _LEVELS + 1), "max" if view.clip is not None else "neither"
        filled = ax.contourf(surface.x, surface.y, loss, levels=levels, cmap="viridis", extend=beyond)
        filled.set_edgecolor("face")  # else a viewer of pdf shows seams between the levels
        lines = _lines(view, float(loss.min()), float(loss.max()))
        if lines:
            look: dict[str, Any] = {"colors": "white", "linewidths": 0.6, "linestyles": "solid"}
            found = ax.contour(surface.x, surface.y, loss, levels=lines, **look)
            names = tick_labels(10**line if view.log else line for line in lines)
            _label_lines(ax, found, dict(zip(lines, names, strict=True)), _noted(surface))
    if surface.trajectory is not None:
        run = surface.trajectory
        ax.plot(run.x, run.y, ".-", color="white", markersize=4, linewidth=0.8, scalex=False, scaley=False)
        for n, beside in ((0, min(1, len(run.epoch) - 1)), (len(run.epoch) - 1, max(len(run.epoch) - 2, 0))):
            ahead = (run.x[beside] - run.x[n], run.y[beside] - run.y[n])
            _note(ax, f"epoch {run.epoch[n]}", run.x[n], run.y[n], surface, ahead)
    for name, at in landmarks(surface):
        if any(at):
            ax.plot(*at, "o", color="white", markeredgecolor="black", markersize=4)
            _note(ax, literal(name), at[0], at[1], surface)
    ax.plot(0, 0, MARKS[style.symbol], color=style.color, markeredgecolor="white", markersize=5, clip_on=False)
    _as_plane(ax, surface)
    return filled


def _lines(view: View, low: float, high: float) -> list[float]:
    """The round levels of the bar that a panel reaches; levels of its own where these are fewer than three."""
    shared = [level for level in round_levels(view) if low < level < high]
    if len(shared) >= 3 or not low < high:
        return shared
    return [level for level in round_levels(replace(view, low=low, high=min(high, view.high))) if low < level < high]


def _noted(surface: Surface) -> list[tuple[float, float]]:
    """Where names stand: the ends of a run, and checkpoints on the plane."""
    run = surface.trajectory
    ends = [(float(run.x[n]), float(run.y[n])) for n in (0, -1)] if run is not None and len(run.epoch) else []
    return [*ends, *((at[0], at[1]) for _, at in landmarks(surface) if any(at))]


def _label_lines(
    ax: Axes, found: QuadContourSet, names: Mapping[float, str], noted: Sequence[tuple[float, float]]
) -> None:
    """The losses on the lines, but where a label would be cut by the edge or lie on a name."""
    look: dict[str, Any] = {"fmt": names, "fontsize": 6}
    first = ax.clabel(found, inline=False, **look)
    into = ax.transData + ax.transAxes.inverted()
    places = [text.get_position() for text in first]
    beside = np.array([1.0, 0.35]) * 0.7 / room_of(ax)  # of the panel: as far as a name of some ten letters reaches
    inside = [
        place
        for place in places
        if np.all(np.abs(into.transform(place) - 0.5) < 0.44)
        and not any(np.all(np.abs(into.transform(place) - into.transform(at)) < beside) for at in noted)
    ]
    for text in first:
        text.remove()
    if inside:
        ax.clabel(found, manual=inside, inline_spacing=2, **look)


def _parts(found: Sequence[Difference]) -> list[tuple[Array, Array]]:
    return [(one.value, one.standard_error) for one in found]


def _difference(ax: Axes, surface: Surface, value: Array, error: Array, view: SignedView) -> QuadContourSet:
    missing = np.argwhere(~np.isfinite(value))
    _hatch(ax, [(float(surface.x[i]), float(surface.y[j]), "") for i, j in missing])
    edge = float(view.at(np.array(view.reach)))
    shown = np.ma.masked_invalid(view.at(value)).T
    filled = ax.contourf(surface.x, surface.y, shown, np.linspace(-edge, edge, _LEVELS + 1), cmap="RdBu_r")
    filled.set_edgecolor("face")
    doubtful = np.argwhere(np.abs(value) <= 2 * error)
    ax.plot(surface.x[doubtful[:, 0]], surface.y[doubtful[:, 1]], ".", color=GREY, markersize=2, clip_on=False)
    _as_plane(ax, surface)
    return filled


def _relief(axes: Axes, surface: Surface, view: View) -> ScalarMappable:
    ax: Any = axes  # in three dimensions, for which matplotlib has no types
    x, y = np.meshgrid(surface.x, surface.y, indexing="ij")
    height = np.minimum(drawn(surface, view), view.high)
    look: dict[str, Any] = {"cmap": "viridis", "vmin": view.low, "vmax": view.high, "rcount": 101, "ccount": 101}
    filled: ScalarMappable = ax.plot_surface(x, y, height, linewidth=0.1, antialiased=False, **look)
    ax.set_xticks([surface.x[0], 0, surface.x[-1]])
    ax.set_yticks([0, surface.y[-1]])  # the first would lie on the last of x
    ax.set_box_aspect((1, 1, 0.75), zoom=1.0)
    ax.set_zlim(view.low, view.high)
    ax.set_zticks(list(view.ticks), view.labels)
    ax.tick_params(labelsize=6, pad=-2)
    return filled


def _bar(picture: Picture, place: Axes, filled: ScalarMappable | None, view: View, what: str) -> None:
    if filled is None:
        place.set_axis_off()
        return
    levels = round_levels(view)
    bar = picture.colorbar(filled, cax=place, ticks=levels)
    bar.ax.set_yticklabels(tick_labels(10**level if view.log else level for level in levels), fontsize=7)
    bar.ax.minorticks_off()
    bar.set_label(f"{literal(' '.join(what.split()))}\n{view.scale}", fontsize=8, linespacing=1.0)


def _hatch(ax: Axes, cells: Sequence[tuple[float, float, str]]) -> None:
    """Hatches what is not filled, and a cross at each cell that is the reason."""
    if cells:
        ax.patch.set(hatch="//////", edgecolor="#b4b4b4", linewidth=0)
        x, y, _ = zip(*cells, strict=True)
        ax.plot(x, y, "x", color=CELL_COLOR, markersize=3.5, clip_on=False)


def _blank(ax: Axes, why: str) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, ha="center", va="center", fontsize=8, transform=ax.transAxes)


def _note(ax: Axes, text: str, x: float, y: float, surface: Surface, ahead: tuple[float, float] = (0.0, 0.0)) -> None:
    """A name beside a point, towards the middle of the plane, but not `ahead`, where the path from the point goes."""
    to_left, below = x > surface.x.mean(), y > surface.y.mean()
    if any(ahead) and (ahead[0] < 0) == to_left and (ahead[1] < 0) == below:
        far_x, far_y = (abs(v - at.mean()) / np.ptp(at) for v, at in ((x, surface.x), (y, surface.y)))
        to_left, below = (not to_left, below) if far_y > far_x else (to_left, not below)
    look: dict[str, Any] = {"ha": "right" if to_left else "left", "va": "top" if below else "bottom", "fontsize": 6}
    away = (-4 if to_left else 4, -4 if below else 4)
    ax.annotate(text, (x, y), away, textcoords="offset points", color="white", **look)


def _as_plane(ax: Axes, surface: Surface) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(surface.x.min(), surface.x.max())
    ax.set_ylim(surface.y.min(), surface.y.max())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4))
        axis.set_major_formatter("{x:g}")
    ax.tick_params(labelsize=7)


def _own_losses(picture: Picture, left: Axes, right: Axes, one: Surface, style: Style, *, log: bool) -> None:
    run = one.trajectory
    assert run is not None
    share = f"holds {100 * run.explained_variance:.3g} % of squared distances"
    left.set_title(fitted(left, [style.name], [share]), fontsize=7, pad=3)
    at = run.epoch.astype(float)
    curve(right, at, run.loss, run.standard_error, style, mark=True, label="its own loss")
    right.plot(at, run.plane_loss, color=GREY, linestyle="--", linewidth=1, label="the plane's, below it")
    if log:
        log_axis(right)
    epoch_axis(right)
    labelled(right, "epoch", "mean loss")
    legend(picture, right, room=room_of(right))


def _title_lines(blocks: Sequence[Block], views: Sequence[View], width: Width | None) -> int:
    holed = any(left_out_cells(one, view) for block, view in zip(blocks, views, strict=True) for one in block.surfaces)
    return 3 + holed if width and (width == "single" or num_across(blocks, width) > 2) else 2 + holed


def _title(ax: Axes, surface: Surface, view: View, style: Style) -> str:
    """Name, loss and accuracy at the centre, and how many cells are not drawn, in lines as wide as the panel."""
    at = centre(surface)
    accuracy = percent(at.accuracy, at.accuracy_error)
    called = "accuracy" if len(f"accuracy {accuracy}") <= letters_across(ax) else "acc."
    told = [f"loss {short(at.loss)}", *([f"{called} {accuracy}"] if math.isfinite(at.accuracy) else [])]
    if math.isnan(at.loss) and centre_cell(surface) is None:
        told = ["centre not on the grid"]
    told = [", ".join(told)] if len(", ".join(told)) * LETTER <= room_of(ax) else told
    count = len(left_out_cells(surface, view))
    return fitted(ax, [style.name], [*told, *([f"{counted(count, 'cell')} left out"] if count else [])])
