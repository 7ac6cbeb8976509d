"""Where the panels of a picture of surfaces lie: which share a block, a scale and a bar, and how many inches each has.

Surfaces of one plane and one data are a block; those of another plane, or of other data, are a block of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from landscape.formatting import shortened
from landscape.grouping import Style, data_sets, styles, surface_groups
from landscape.paired import comparable
from landscape.paper import LETTER, Width, empty_picture, inches, literal
from landscape.results import Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

LEFT, RIGHT, GAP = 0.58, 0.84, 0.17  # inches beside the panels, with the bar, and between them
TICKS, TITLE, LINE = 0.2, 0.18, 0.125  # inches of the ticks' labels, of an axis title, of a line of letters
_OWN_WIDTH = 2.7  # inches of a panel where no width is given
_WIDEST = 3.4
_MOST_ACROSS = {"single": 2, "double": 4}


@dataclass(frozen=True)
class Block:
    """What is drawn on one scale: a place for each checkpoint of a plane, empty where it was not measured on this data.

    `plane` names it among several, `data` is the split.
    """

    plane: str
    data: str
    members: list[tuple[Style, Surface | None]]

    @property
    def surfaces(self) -> list[Surface]:
        """Those that are there."""
        return [one for _, one in self.members if one is not None]

    @property
    def shape(self) -> float:
        """The height of the plane over its width; where one is a sliver of the other, a shape that can be read."""
        across, up = float(np.ptp(self.surfaces[0].x)), float(np.ptp(self.surfaces[0].y))
        return min(max(up / across, 0.4), 2.0) if across > 0 and up > 0 else 1.0


def planes(surfaces: Sequence[Surface]) -> list[tuple[str, list[Surface]]]:
    """The surfaces of each plane and grid, with its name."""
    groups = surface_groups(surfaces, styles(surfaces), data_sets(surfaces))
    return [(group.name, [one for members in group.sets.values() for _, one in members]) for group in groups]


def compared(surfaces: Sequence[Surface]) -> list[tuple[Surface, Surface]]:
    """Each surface that kept the losses of the same examples as one before it, after the first such one."""
    firsts = [next((first for first in surfaces[:n] if comparable(first, one)), None) for n, one in enumerate(surfaces)]
    return [(first, one) for first, one in zip(firsts, surfaces, strict=True) if first is not None]


def blocks_of(surfaces: Sequence[Surface], known: Mapping[str, Style], width: Width | None) -> list[Block]:
    """What is drawn on one scale, planes in order, train first."""
    most = _MOST_ACROSS[width or "double"]
    splits = data_sets(surfaces)
    groups, blocks = surface_groups(surfaces, dict(known), splits), []
    for n, group in enumerate(groups, 1):
        for data, name in splits.values():
            if data in group.sets:
                there = dict(group.sets[data])
                members = [(style, there.get(column)) for column, style in enumerate(group.columns)]
                if len(members) > most:  # several rows: there are no columns to keep
                    members = [pair for pair in members if pair[1] is not None]
                blocks.append(Block(f"plane {n}" if len(groups) > 1 else "", name, members))
    return blocks


def placed(
    blocks: Sequence[Block], width: Width | None, *, lines: int, flat: bool = True
) -> tuple[Picture, list[list[Axes]], list[Axes]]:
    """A picture with the axes of each block's panels and of its bar; `lines` of letters stand above each panel."""
    left, below = (LEFT, TICKS) if flat else (0.12, 0.08)
    num = num_across(blocks, width)
    across = _OWN_WIDTH * num + left + RIGHT if width is None else inches(width)
    panel = min((across - left - RIGHT - (num - 1) * GAP) / num, _WIDEST)
    left += (across - left - RIGHT - num * panel - (num - 1) * GAP) / 2
    shapes = [panel * (block.shape if flat else 0.9) for block in blocks]
    head, rows = lines * LINE + 0.08, [math.ceil(len(block.members) / num) for block in blocks]
    foot = TITLE if flat else 0.05
    total = sum(count * (head + height + below) + foot for count, height in zip(rows, shapes, strict=True))
    picture = empty_picture(across, total, arranged=False)
    panels: list[list[Axes]] = []
    bars: list[Axes] = []
    top = total
    for block, count, height in zip(blocks, rows, shapes, strict=True):
        axes = []
        for n in range(len(block.members)):
            row, column = divmod(n, num)
            bottom = top - row * (head + height + below) - head - height
            ax = axes_at(picture, left + column * (panel + GAP), bottom, panel, height, solid=not flat)
            if flat:
                ax.tick_params(labelsize=7, labelleft=column == 0)
                ax.set_xlabel("x" if n + num >= len(block.members) else "", fontsize=8, labelpad=2)
            axes.append(ax)
        bottom, high = top - count * (head + height + below) + below, count * (head + height + below) - head - below
        inset = 0.0 if flat else 0.15 * high
        beside = left + min(num, len(block.members)) * (panel + GAP) - GAP + (0.08 if flat else 0.16)
        bars.append(axes_at(picture, beside, bottom + inset, 0.1, high - 2 * inset))
        panels.append(axes)
        top -= count * (head + height + below) + foot
    return picture, panels, bars


def axes_at(picture: Picture, left: float, bottom: float, width: float, height: float, *, solid: bool = False) -> Axes:
    """Axes at so many inches from the left and from below."""
    across, up = picture.get_size_inches()
    place = (left / across, bottom / up, width / across, height / up)
    return picture.add_axes(place, projection="3d" if solid else None)


def num_across(blocks: Sequence[Block], width: Width | None) -> int:
    """How many panels stand side by side."""
    return min(max(len(block.members) for block in blocks), _MOST_ACROSS[width or "double"])


def fitted(ax: Axes, names: Sequence[str], told: Sequence[str] = ()) -> str:
    """Names, no wider than a panel and its gap, over lines that stay whole: a number that is cut is another number."""
    most = letters_across(ax)
    return "\n".join(literal(line) for line in [*(shortened(name, most) for name in names), *told])


def letters_across(ax: Axes) -> int:
    """How many letters of 7 points a line over a panel and its gap has room for."""
    return int((room_of(ax) + GAP) / LETTER)


def room_of(ax: Axes) -> float:
    """How many inches wide a panel is."""
    picture = ax.get_figure(root=True)
    assert picture is not None
    return float(ax.get_position().width * picture.get_figwidth())
