"""The panel of losses along lines: what lies between checkpoints, and what BatchNorm has to do with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from landscape.formatting import capital, plus_minus, short
from landscape.grouping import LineGroup, Style, checkpoint_key
from landscape.page.captions import badge
from landscape.page.markup import escape, numbers, section, table
from landscape.page.sentences import MOST_NAMED
from landscape.readings import barrier, centre, ends, measured
from landscape.results import Line


def lines_section(groups: Sequence[LineGroup], known: dict[str, Style]) -> str:
    """Each group of lines with its sentence, its figure and its numbers; nothing where there is no line."""
    if not groups:
        return ""
    title, *_ = [_sentence(group, known) for group in groups]
    return section("Lines", title, "".join(_group_html(n, groups, known) for n in range(len(groups))))


def _group_html(n: int, groups: Sequence[LineGroup], known: dict[str, Style]) -> str:
    group, which = groups[n], f"line {n + 1}" if len(groups) > 1 else "a line"
    title = f"<h3>{escape(_sentence(group, known))}</h3>" if n else ""
    badges = "".join(
        f'<div><p class="stat">{escape(known[checkpoint_key(one)].name)}</p>{badge(one)}</div>' for one in group.lines
    )
    return (
        f'<figure><figcaption>{title}<p class="note">{escape(capital(group.name))}, on {escape(group.data)}. Bands are '
        f"± one standard error over the examples.{escape(_statistics_note(group.lines))}</p></figcaption>"
        f'<div class="chart" id="line-{n}" role="group" aria-label="Loss along {which}, {escape(group.data)}"></div>'
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
    elsewhere = [
        f"from {known[checkpoint_key(one)].name} the line does not lead to {others[-1]['name']}: its {group.data} loss "
        f"is {short(others[-1]['loss_on_plane'])} on the line and {short(others[-1]['own_loss'])} by itself"
        for one, others, rise in told
        if others and rise is None
    ]
    if between or elsewhere:
        return _some([*between, *elsewhere], "; ")
    return f"The {group.data} loss along a line is lowest {_some([_lowest(one, known) for one in group.lines], ', ')}"


def _some(told: Sequence[str], joint: str) -> str:
    return joint.join(told[:MOST_NAMED]) + (f"{joint}…" if len(told) > MOST_NAMED else "")


def _lowest(line: Line, known: dict[str, Style]) -> str:
    """Where the loss is lowest on the line, beside that of the centre."""
    name, loss, at = known[checkpoint_key(line)].name, measured(line), centre(line)
    if not np.isfinite(loss).any():
        return f"nowhere for {name} (no point is finite)"
    n = int(np.nanargmin(loss))
    if math.isfinite(at.loss) and at.loss <= loss[n]:
        return f"at {name} itself ({plus_minus(at.loss, at.error)})"
    beside = f"{short(at.loss)} at the checkpoint" if math.isfinite(at.loss) else "at the checkpoint not measured"
    return f"{short(float(loss[n]))} at x = {line.x[n]:.3g} of {name} ({beside})"


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
