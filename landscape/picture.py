"""The matplotlib twin of the surfaces, for paper: one picture of all checkpoints and splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from landscape.grouping import Style, checkpoint_key, split_order, styles
from landscape.readings import centre, centre_cell
from landscape.results import Result, Surface
from landscape.view import CELL_COLOR, View, drawn, left_out_cells, loss_view, tick_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure as Picture


def overview_picture(results: Sequence[Result]) -> Picture:
    """Filled contours for paper: a row per split (train first), a column per checkpoint, one colour scale per row.

    Of several surfaces of one checkpoint and split the first is drawn; pass those of one plane.
    """
    from matplotlib.figure import Figure as MatplotlibFigure

    surfaces = [result for result in results if isinstance(result, Surface)]
    if not surfaces:
        raise ValueError("overview_picture needs a Surface, got none: make one with: landscape surface CKPT")
    known = styles(results)
    splits = sorted({_split(one) for one in surfaces}, key=lambda split: (split_order(split), split))
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


def relief_picture(results: Sequence[Result]) -> Picture:
    """The surfaces in three dimensions: a row per split, a column per checkpoint, one loss axis per row.

    Of several surfaces of one checkpoint and split the first is drawn. The height is log10 of the loss where the scale
    is a log one; cells that are not finite are holes.
    """
    from matplotlib.figure import Figure as MatplotlibFigure

    surfaces = [result for result in results if isinstance(result, Surface)]
    if not surfaces:
        raise ValueError("relief_picture needs a Surface, got none: make one with: landscape surface CKPT")
    known = styles(results)
    splits = sorted({_split(one) for one in surfaces}, key=lambda split: (split_order(split), split))
    keys = [key for key in known if any(checkpoint_key(one) == key for one in surfaces)]
    picture = MatplotlibFigure(figsize=(3.2 * len(keys), 3.0 * len(splits)), dpi=150, layout="constrained")
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
            ax.set_zlabel("mean loss" + (", log scale" if view.log else ""), fontsize=7)
            ax.set_zlim(view.low, view.high)
            ax.set_zticks(list(view.ticks), view.labels)
            ax.tick_params(labelsize=6)
    return picture


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
