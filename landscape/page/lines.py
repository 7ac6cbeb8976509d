"""The panel of losses along lines: what lies between checkpoints, and what BatchNorm has to do with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from landscape.formatting import capital, plus_minus, short
from landscape.grouping import LineGroup, Style, checkpoint_key
from landscape.page.captions import badge
from landscape.page.markup import escape, numbers, section, table
from landscape.readings import barrier, centre, ends, measured
from landscape.results import Line


def lines_section(groups: Sequence[LineGroup], known: dict[str, Style]) -> str:
    """Each group of lines with its sentence, its figure and its numbers; nothing where there is no line."""
    if not groups:
        return ""
    title, *_ = [_sentence(group, known) for group in groups]
    return section("Lines", title, "".join(_group_html(n, group, known) for n, group in enumerate(groups)))


def _group_html(n: int, group: LineGroup, known: dict[str, Style]) -> str:
    title = f"<h3>{escape(_sentence(group, known))}</h3>" if n else ""
    badges = "".join(
        f'<div><p class="stat">{escape(known[checkpoint_key(one)].name)}</p>{badge(one)}</div>' for one in group.lines
    )
    return (
        f'<figure><figcaption>{title}<p class="note">{escape(capital(group.name))}, on {escape(group.data)}. Bands are '
        f"± one standard error over the examples.{escape(_statistics_note(group.lines))}</p></figcaption>"
        f'<div class="chart" id="line-{n}" role="group" aria-label="Loss along a line, {escape(group.data)}"></div>'
        f'</figure><div class="badges">{badges}</div>{numbers(_numbers(group, known))}'
    )


def _sentence(group: LineGroup, known: dict[str, Style]) -> str:
    told = [(one, ends(one), barrier(one)) for one in group.lines]
    between = [
        f"from {known[checkpoint_key(one)].name} to {others[-1]['name']} the {group.data} loss rises at most "
        f"{short(rise)} above the straight line between its ends"
        for one, others, rise in told
        if others and rise is not None and math.isfinite(rise)
    ]
    if between:
        return "; ".join(between)
    lows = [f"{known[checkpoint_key(one)].name} {short(centre(one).loss)}" for one in group.lines]
    return f"The {group.data} loss along a line, at the centre: {', '.join(lows[:4])}{', …' if len(lows) > 4 else ''}"


def _statistics_note(lines: Sequence[Line]) -> str:
    apart = [
        end
        for one in lines
        for end in ends(one)
        if not math.isclose(end["loss_on_plane"], end["own_loss"], rel_tol=1e-4)
    ]
    if not any(ends(one) for one in lines):
        return ""
    text = " Dotted lines stand where checkpoints lie."
    unknown = any(ends(one) and barrier(one) is None for one in lines)
    if apart:
        told = ", ".join(
            f"{end['name']} {short(end['loss_on_plane'])} on the line and {short(end['own_loss'])} by itself"
            for end in apart
        )
        text += (
            f" The loss of a checkpoint on the line (●) and its own (◇) differ: {told}. The parameters are the same; "
            "the difference is BatchNorm’s running statistics, which on the line are those of the centre (or "
            "recalibrated)."
            + (" A line to another loss has no barrier: --batch-norm recalibrated mends this." if unknown else "")
        )
    return text


def _numbers(group: LineGroup, known: dict[str, Style]) -> str:
    rows = []
    for one in group.lines:
        at, loss, rise = centre(one), measured(one), barrier(one)
        finite = loss[np.isfinite(loss)]
        start = "—" if math.isnan(at.loss) else plus_minus(at.loss, at.error)
        extremes = [short(float(value)) for value in (finite.min(), finite.max())] if finite.size else ["—", "—"]
        others = "; ".join(
            f"{end['name']}: {short(end['loss_on_plane'])} on the line, {short(end['own_loss'])} its own "
            f"(difference {end['loss_on_plane'] - end['own_loss']:+.2g})"
            for end in ends(one)
        )
        left_out = str(loss.size - finite.size)
        rows.append(
            [
                known[checkpoint_key(one)].name,
                start,
                *extremes,
                "—" if rise is None else short(rise),
                left_out,
                others or "—",
            ]
        )
    head = ["checkpoint", "centre loss", "lowest", "highest", "barrier", "points left out", "other ends"]
    return table(head, rows)
