"""The panel of differences: checkpoints compared example by example, so that the spread of the examples cancels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from landscape.formatting import signed
from landscape.grouping import Style, checkpoint_key
from landscape.page.markup import escape, radios, section, table
from landscape.page.payload import MOST_DIFFERENCES
from landscape.paired import Difference, paired_difference, paired_rise
from landscape.readings import centre_cell
from landscape.results import Surface
from landscape.view import Scale, SignedView, difference_view

Sets = Sequence[tuple[str, Surface, list[Surface]]]


def differences_section(sets: Sets, known: dict[str, Style]) -> str:
    """Each checkpoint less the first one, where the losses of equal examples were kept; nothing where they were not."""
    if not sets:
        return ""
    pictured = [(data, first, one) for data, first, others in sets for one in others]
    figures = "".join(
        f'<article class="column"><h3>{escape(_names(one, first, known))}, {escape(data)}</h3><p class="stat">'
        f'{_share(one, first)}</p><div class="contour" id="difference-{n}" role="group" aria-label="Difference of the '
        f'losses, {escape(_names(one, first, known))}, {escape(data)}"></div></article>'
        for n, (data, first, one) in enumerate(pictured[:MOST_DIFFERENCES])
    )
    hidden = len(pictured) - MOST_DIFFERENCES
    views = [_view(one, first, "log") for _, first, one in pictured[:MOST_DIFFERENCES]]
    knees = " or ".join(f"±{knee:g}" for knee in sorted({view.linear for view in views if view.linear is not None}))
    note = (
        '<p class="note">The same examples at the same steps from each checkpoint: below zero (blue) the first named '
        "has the lower loss. ± is one standard error of the difference over these examples; a grey dot marks a point "
        "where the difference is within two of them. A symlog scale is linear up to "
        f"{knees}, near the median standard error, and logarithmic above; hover has the values. Rise: how much more "
        "the loss grows from the checkpoint to the square ring at half and at the whole extent. This is the error of "
        "the examples alone, not of other training "
        f"seeds.{f' The table has {hidden} more.' if hidden > 0 else ''}</p>"
    )
    rows = [_row(one, first, data, known) for data, first, one in pictured]
    head = ["difference", "on", "examples", "loss at the checkpoint", "rise, half way", "rise, edge"]
    wide = any(_view(one, first).linear is not None for _, first, one in pictured)
    names = [("linear", "linear"), ("symlog", "symlog")]
    scale = radios("difference", "Colours", names, "symlog" if wide else "linear")
    body = f'{note}<div class="planebar">{scale}</div><div class="columns">{figures}</div><div class="scroll" '
    body += f'tabindex="0" role="region" aria-label="Differences">{table(head, rows, text=2, sortable=True)}</div>'
    return section("Differences", _sentence(pictured[0], known), body)


def _view(one: Surface, first: Surface, scale: Scale = "auto") -> SignedView:
    found = paired_difference(one, first)
    return difference_view(found.value, found.standard_error, scale=scale)


def _names(one: Surface, first: Surface, known: dict[str, Style]) -> str:
    return f"{known[checkpoint_key(one)].name} less {known[checkpoint_key(first)].name}"


def _sentence(pictured: tuple[str, Surface, Surface], known: dict[str, Style]) -> str:
    data, first, one = pictured
    cell = centre_cell(one)
    found = paired_difference(one, first)
    names = _names(one, first, known)
    if cell is None or not math.isfinite(found.value[cell]):
        return f"Example by example, {names}: the difference of their {data} losses"
    value, error = float(found.value[cell]), float(found.standard_error[cell])
    verdict = "within two standard errors of none" if abs(value) <= 2 * error else "beyond two standard errors"
    return (
        f"Example by example, {names}: {data} loss {signed(value, error)} ({found.num_examples:,} examples), {verdict}"
    )


def _share(one: Surface, first: Surface) -> str:
    found = paired_difference(one, first)
    known = np.isfinite(found.value) & np.isfinite(found.standard_error)
    beyond = int((np.abs(found.value) > 2 * found.standard_error)[known].sum())
    return f"beyond two standard errors at {beyond:,} of {int(known.sum()):,} points"


def _row(one: Surface, first: Surface, data: str, known: dict[str, Style]) -> list[str]:
    at_points, cell = paired_difference(one, first), centre_cell(one)
    centre = (at_points.value[cell], at_points.standard_error[cell]) if cell else (math.nan, math.nan)
    cells = [_told(*centre), *(_told_rise(paired_rise(one, first, fraction)) for fraction in (0.5, 1.0))]
    return [_names(one, first, known), data, f"{at_points.num_examples:,}", *cells]


def _told_rise(found: Difference) -> str:
    return _told(float(found.value), float(found.standard_error))


def _told(value: float, error: float) -> str:
    return signed(float(value), float(error)) if math.isfinite(value) else "—"
