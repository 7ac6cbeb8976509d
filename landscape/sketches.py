"""Results as pictures in characters, for the terminal: contours of surfaces, curves of lines and runs, densities,
bars of layers and tensors.

A character of a map shows the loss at its place, linear between the points of the grid, on a log scale where all losses
are positive. What is not a finite number is marked and counted, never shaded. Maps of one plane and data share one
scale, which stands beside them.

Legend: R rows and C columns of characters.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from landscape.formatting import short
from landscape.grouping import (
    Style,
    checkpoint_key,
    data_sets,
    line_groups,
    readable,
    spectrum_kind,
    styles,
    surface_groups,
)
from landscape.ink import BLOCKS, Ink, columns, shaded
from landscape.readings import by_layer, landmarks, measured, shown_layers, shown_tensors, stick_height
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
from landscape.view import STATUS_NAMES, View, drawn, left_out_cells, loss_view

S = TypeVar("S", Eigenpairs, CurvatureTrace, Density)

_CENTRE, _OF_RUN, _LETTERS = "+", "o", "ABC"
_NARROWEST = 21  # columns of a map; with less room there are fewer beside each other
_ROWS, _WIDEST = 6, 61  # of a curve


@dataclass(frozen=True)
class _Row:
    """A curve of one line of text: what it is of, and its values in their order."""

    name: str
    quantity: str
    values: Array


def sketch(results: Sequence[Result], *, width: int = 100, height: int = 24, ink: Ink = BLOCKS) -> str:
    """Pictures of `results`, at most `width` columns wide, each at most `height` lines high; empty where none has one.

    A single number (a trace, the congruence at a checkpoint) has no picture.
    """
    known, splits = styles(results), data_sets(results)
    planes = [
        [(group.columns[column].name, one) for column, one in members]
        for group in surface_groups(results, known, splits)
        for members in group.sets.values()
    ]
    parts = [
        *(_maps(named, _plane(named[0][1]) if len(planes) > 1 else "", width, height, ink) for named in planes),
        *(_lines(group.lines, known, width, ink) for group in line_groups(results)),
        *(_eigenvalues(same, known, width, ink) for same in _of_a_kind(results, Eigenpairs)),
        *(_through_training(same, known, width, ink) for same in _of_a_kind(results, CurvatureTrace)),
        *(_densities(same, known, width, ink) for same in _of_a_kind(results, Density)),
        _layers([one for one in results if isinstance(one, Eigenpairs)], known, width, height, ink),
        _tensors([one for one in results if isinstance(one, Diagonal)], known, width, height, ink),
        _congruence([one for one in results if isinstance(one, CongruenceTrace)], known, width, ink),
    ]
    lines = "\n\n".join(part for part in parts if part).splitlines()
    return "\n".join(part.rstrip() for line in lines for part in _within(line, width))


def _within(line: str, width: int) -> list[str]:
    """A line that is too long goes on below."""
    return textwrap.wrap(line, width) if len(line) > width else [line]


def _maps(named: Sequence[tuple[str, Surface]], title: str, width: int, height: int, ink: Ink) -> str:
    """Surfaces on one plane and data, beside each other as far as there is room."""
    view = _positive_view([one for _, one in named])
    legend = _legend(view, [one for _, one in named], ink)
    room, first = width - max(map(len, legend)), named[0][1]
    abreast = max(1, min(len(named), room // (_NARROWEST + 2)))
    most = min((room // abreast - 1) // 2, height - 5, 2 * max(len(first.x), len(first.y)) - 1)
    size = max(most - 1 + most % 2, 1)  # odd, so that the centre has a character of its own
    blocks = [_map(name, one, view, size, ink) for name, one in named]
    rows = [blocks[n : n + abreast] for n in range(0, len(blocks), abreast)]
    rows[0].append(["", *legend])
    lines = [line for row in rows for line in _abreast(row)]
    return "\n".join([title, *lines] if title else lines)


def _map(name: str, surface: Surface, view: View, size: int, ink: Ink) -> list[str]:
    """Its name, `size` lines of 2 size - 1 characters, the reach of its axes, and what is left out, counted."""
    at_x, at_y = (np.linspace(at[0], at[-1], count) for at, count in ((surface.x, 2 * size - 1), (surface.y, size)))
    lines = [list(line) for line in shaded(_sampled(surface, view, at_x, at_y), view.low, view.high, ink)]
    left_out, run = left_out_cells(surface, view), surface.trajectory
    marks = [] if run is None else [(x, y, _OF_RUN) for x, y in zip(run.x, run.y, strict=True)]
    marks += [(x, y, ink.left_out) for x, y, _ in left_out]
    marks += [(at[0], at[1], letter) for letter, (_, at) in zip(_LETTERS, _others(surface), strict=False)]
    for x, y, mark in [*marks, (0.0, 0.0, _CENTRE)]:
        if at_x[0] <= x <= at_x[-1] and at_y[0] <= y <= at_y[-1]:
            lines[_nearest(at_y, y)][_nearest(at_x, x)] = mark
    counts = Counter(why if why in STATUS_NAMES.values() else "not above 0" for _, _, why in left_out)
    told = [f"{ink.left_out} {count:,} {why}" for why, count in counts.items()]
    columns_of_map, reach = 2 * size - 1, [_reach("x", surface.x), _reach("y", surface.y)]
    both = ", ".join(reach)
    return [
        name[: max(columns_of_map, _NARROWEST)],
        *("".join(line) for line in reversed(lines)),  # y upwards
        *([both] if len(both) <= max(columns_of_map, _NARROWEST) else reach),
        *told,
    ]


def _sampled(surface: Surface, view: View, at_x: Array, at_y: Array) -> Array:
    """The loss (R, C) in the units of `view`, linear between the points, and the nearest point's beside a gap."""
    loss = drawn(surface, view)
    i, j = (np.interp(at, grid, np.arange(len(grid))) for at, grid in ((at_x, surface.x), (at_y, surface.y)))
    rows = [f(i).astype(int) for f in (np.floor, np.ceil, np.rint)]
    cols = [f(j).astype(int) for f in (np.floor, np.ceil, np.rint)]
    a, b = (i - rows[0])[:, None], (j - cols[0])[None, :]
    near, far = ((1 - b) * loss[np.ix_(row, cols[0])] + b * loss[np.ix_(row, cols[1])] for row in rows[:2])
    between = (1 - a) * near + a * far
    return np.asarray(np.where(np.isnan(between), loss[np.ix_(rows[2], cols[2])], between).T)


def _legend(view: View, surfaces: Sequence[Surface], ink: Ink) -> list[str]:
    """The scale, high losses first, and the marks."""
    edges = [_loss(view, edge) for edge in np.linspace(view.low, view.high, len(ink.bands) + 1)]
    bands = [f"{ink.bands[n]} {edges[n]} to {edges[n + 1]}" for n in reversed(range(len(ink.bands)))]
    marks = [f"{letter} {name}" for letter, (name, _) in zip(_LETTERS, _others(surfaces[0]), strict=False)]
    if any(one.trajectory is not None for one in surfaces):
        marks.append(f"{_OF_RUN} the run, projected")
    unit = surfaces[0].settings.get("unit")
    axes = [f"x, y: {unit}"] if unit else []
    return [view.title, *bands, f"{_CENTRE} the checkpoint", *(mark[:26] for mark in marks), *axes]


def _lines(lines: Sequence[Line], known: Mapping[str, Style], width: int, ink: Ink) -> str:
    """Each line as columns, all on one scale."""
    view, texts = _positive_view(lines), []
    for one in lines:
        at = np.linspace(one.x[0], one.x[-1], min(_WIDEST, width - 38, 3 * len(one.x)))
        loss = np.log10(measured(one)) if view.log else measured(one)
        shown = columns(loss[[_nearest(one.x, x) for x in at]], view.low, view.high, _ROWS, ink)
        shown[0] += f"  {_loss(view, view.high)}"
        shown[-1] += f"  {_loss(view, view.low)}   {view.title}"
        marks, names = [" "] * len(at), [f"{_CENTRE} the checkpoint"]
        for letter, (name, place) in zip(_LETTERS, _others(one), strict=False):
            marks[_nearest(at, place[0])] = letter
            names.append(f"{letter} {name}")
        if at[0] <= 0 <= at[-1]:
            marks[_nearest(at, 0.0)] = _CENTRE
        count = int(np.isnan(loss).sum())
        told = [_reach("x", one.x), *names, *([f"{ink.left_out} {count:,} not finite or missing"] if count else [])]
        texts += [known[checkpoint_key(one)].name, *shown, "".join(marks).rstrip(), "; ".join(told)]
    return "\n".join(texts)


def _eigenvalues(same: Sequence[Eigenpairs], known: Mapping[str, Style], width: int, ink: Ink) -> str:
    whole = [one for one in same if "layer" not in one.settings and len(one.values) > 1]
    rows = [_Row(known[checkpoint_key(one)].name, "", one.values) for one in whole]
    return _curves("Eigenvalues, largest first, on one scale that holds 0", rows, width, ink, zero=True)


def _through_training(same: Sequence[CurvatureTrace], known: Mapping[str, Style], width: int, ink: Ink) -> str:
    rows = [
        _Row(known[checkpoint_key(one)].name, name, values)
        for one in same
        for name, values in (
            ("lambda_1", one.values[:, 0]),
            ("g'Hg", one.along_gradient),
            ("SAM's", one.along_sam),
            ("overlap", one.overlap),
        )
    ]
    return _curves(f"Curvature through training, {_epochs(same)}; equal quantities share a scale", rows, width, ink)


def _congruence(same: Sequence[CongruenceTrace], known: Mapping[str, Style], width: int, ink: Ink) -> str:
    rows = [
        _Row(known[checkpoint_key(one)].name, name, values)
        for one in same
        for name, values in (("cosine before", one.cosine_b), ("after", one.cosine_a), ("change", one.change))
    ]
    return _curves(f"Gradient congruence, {_epochs(same)}; equal quantities share a scale", rows, width, ink)


def _densities(same: Sequence[Density], known: Mapping[str, Style], width: int, ink: Ink) -> str:
    """The bulk as columns, and each eigenvalue that was found by itself as a stick, on one pair of axes."""
    low = min(float(min(one.grid[0], *one.sticks, math.inf)) for one in same)
    high = max(float(max(one.grid[-1], *one.sticks, -math.inf)) for one in same)
    floor = math.log10(min(stick_height(one) for one in same) / 10)
    top = math.log10(max(max(float(np.nanmax(one.mean)), stick_height(one)) for one in same))
    edges = np.linspace(low, high, min(_WIDEST, width - 38) + 1)
    texts = []
    for one in same:
        inside = np.interp(np.linspace(edges[:-1], edges[1:], 9), one.grid, one.mean, left=0, right=0).max(axis=0)
        bulk = np.log10(np.maximum(inside, 10.0 ** (floor - 1)))  # below the floor, which is empty
        lines = [list(line) for line in columns(bulk, floor, top, _ROWS, ink)]
        reach = max(math.ceil((math.log10(stick_height(one)) - floor) / (top - floor) * _ROWS), 1)
        for column in np.clip(np.searchsorted(edges, one.sticks) - 1, 0, len(edges) - 2):
            for line in lines[_ROWS - reach :]:
                line[column] = ink.stick if line[column] == " " else line[column]
        shown = ["".join(line) for line in lines]
        shown[0] += f"  {short(10**top)}"
        lowest = short(10**floor)
        shown[-2] += f"  {'':{len(lowest)}}   density per unit of"
        shown[-1] += f"  {lowest}   eigenvalue, log scale"
        axis = f"eigenvalues from {short(low)} to {short(high)}; {ink.stick} each of {len(one.sticks)} that converged"
        texts += [known[checkpoint_key(one)].name, *shown, axis]
    return "\n".join(texts)


def _layers(blocks: Sequence[Eigenpairs], known: Mapping[str, Style], width: int, height: int, ink: Ink) -> str:
    """A bar for the largest eigenvalue of each layer's own block, those of several checkpoints below each other."""
    groups = by_layer(blocks)
    names = shown_layers(groups, max((height - 1) // max(len(groups), 1), 1))
    rows = [
        _Row(name, known[checkpoint_key(one)].name, one.values[:1])
        for name in names
        for group in groups
        for one in group
        if one.settings["layer"] == name
    ]
    count = len({one.settings["layer"] for group in groups for one in group})
    return _bars(f"Largest eigenvalue of each layer's own block{_of(len(names), count)}", rows, width, ink)


def _tensors(diagonals: Sequence[Diagonal], known: Mapping[str, Style], width: int, height: int, ink: Ink) -> str:
    """A bar for the trace of each tensor, in the same way."""
    names = shown_tensors(diagonals, max((height - 1) // max(len(diagonals), 1), 1))
    rows = [
        _Row(name, known[checkpoint_key(one)].name, one.tensor_traces[[list(one.names).index(name)]])
        for name in names
        for one in diagonals
        if name in one.names
    ]
    count = len({name for one in diagonals for name in one.names})
    return _bars(f"Trace of each tensor{_of(len(names), count)}", rows, width, ink)


def _of(shown: int, count: int) -> str:
    return f", the {f'{shown} ' if shown > 1 else ''}largest of {count}" if shown < count else ""


def _bars(title: str, rows: Sequence[_Row], width: int, ink: Ink) -> str:
    """A line for each row of one value: a bar as long as its size, and the value."""
    if not rows:
        return ""
    sizes = [abs(float(row.values[0])) for row in rows]
    most = max([size for size in sizes if math.isfinite(size)], default=0.0) or 1.0
    left, middle = (min(max(map(len, names)), 28) for names in ([r.name for r in rows], [r.quantity for r in rows]))
    room, lines, last = width - left - middle - 14, [f"{title}; a bar is its size"], ""
    for row, size in zip(rows, sizes, strict=True):
        bar = ink.parts[-1] * round(size / most * room) if math.isfinite(size) else ink.left_out
        name = "" if row.name == last else readable(row.name)[-left:]
        lines.append(
            f"{name:<{left}}  {row.quantity[:middle]:<{middle}}  {bar}{' ' if bar else ''}{short(row.values[0])}"
        )
        last = row.name
    return "\n".join(lines)


def _curves(title: str, rows: Sequence[_Row], width: int, ink: Ink, *, zero: bool = False) -> str:
    """Rows of one line each; beside each its own lowest and highest value."""
    rows = [row for row in rows if np.isfinite(row.values).any()]
    if not rows:
        return ""
    names = [f"{row.name}  {row.quantity}".rstrip() for row in rows]
    left = min(max(map(len, names)), 34)
    room = min(width - left - 28, _WIDEST)
    curves = []
    for row in rows:
        alike = np.concatenate([one.values for one in rows if one.quantity == row.quantity] + [np.zeros(int(zero))])
        low, high = float(np.nanmin(alike)), float(np.nanmax(alike))
        curves.append(columns(_thinned(row.values, room), low, high, 1, ink)[0])
    right = max(map(len, curves))
    lines = [
        f"{name[:left]:<{left}}  {curve:<{right}}  {short(np.nanmin(row.values))} to {short(np.nanmax(row.values))}"
        for name, curve, row in zip(names, curves, rows, strict=True)
    ]
    gaps = f"; {ink.left_out} not measured" if any(ink.left_out in curve for curve in curves) else ""
    return "\n".join([title + gaps, *lines])


def _thinned(values: Array, room: int) -> Array:
    """Means of neighbouring values where there are more of them than room, else each value up to four times."""
    if len(values) <= room:
        return np.repeat(values, min(room // len(values), 4))
    parts = [part[np.isfinite(part)] for part in np.array_split(values, room)]
    return np.array([part.mean() if part.size else math.nan for part in parts])


def _of_a_kind(results: Sequence[Result], kind: type[S]) -> list[list[S]]:
    """The results of a type, those together that compare."""
    found: dict[str, list[S]] = {}
    for one in results:
        if isinstance(one, kind):
            found.setdefault(spectrum_kind(one), []).append(one)
    return list(found.values())


def _positive_view(results: Sequence[Surface | Line]) -> View:
    """The range of all losses, on a log scale where there is one."""
    losses = np.concatenate([measured(one).ravel() for one in results])
    losses = losses[np.isfinite(losses)]
    return loss_view(results, scale="log" if losses.size and losses.min() > 0 else "linear")


def _others(result: Surface | Line) -> list[tuple[str, list[float]]]:
    """The checkpoints on a plane or line that are not its centre."""
    return [(name, at) for name, at in landmarks(result) if any(at)]


def _plane(surface: Surface) -> str:
    """What tells one plane from others."""
    names = ("split", "directions", "seed", "batch_norm")
    settings = {name: surface.settings[name] for name in names if surface.settings.get(name) is not None}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())


def _abreast(blocks: Sequence[Sequence[str]]) -> list[str]:
    """Blocks of lines beside each other."""
    widths = [max(map(len, block)) for block in blocks]
    return [
        "  ".join(f"{line:<{width}}" for line, width in zip(lines, widths, strict=True)).rstrip()
        for lines in zip_longest(*blocks, fillvalue="")
    ]


def _loss(view: View, value: float) -> str:
    return short(10**value if view.log else value)


def _reach(name: str, at: Array) -> str:
    return f"{name} {at[0]:.3g} to {at[-1]:.3g}"


def _epochs(traces: Sequence[CurvatureTrace] | Sequence[CongruenceTrace]) -> str:
    epochs = [int(epoch) for one in traces for epoch in one.epoch]
    return f"epochs {min(epochs)} to {max(epochs)}" if epochs else "no epochs"


def _nearest(at: Array, value: float) -> int:
    return int(np.argmin(np.abs(at - value)))
