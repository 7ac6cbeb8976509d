"""A result as a notebook shows it: its table, with what failed a check, and a small picture; no script, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import Any

from landscape.formatting import plus_minus
from landscape.grouping import readable
from landscape.picture import (
    congruence_picture,
    curvature_picture,
    density_picture,
    diagonal_picture,
    line_picture,
    overview_picture,
    picture_bytes,
    spectrum_picture,
)
from landscape.readings import places
from landscape.results import (
    CongruenceTrace,
    CurvatureTrace,
    Density,
    Diagonal,
    Eigenpairs,
    Line,
    Result,
    Surface,
    problem_of,
)
from landscape.subjects import label
from landscape.tables import tables
from landscape.typesetting import Table

_PICTURES: dict[type[Result], Callable[..., Any]] = {
    Surface: overview_picture,
    Line: line_picture,
    Eigenpairs: spectrum_picture,
    Density: density_picture,
    Diagonal: diagonal_picture,
    CurvatureTrace: curvature_picture,
    CongruenceTrace: congruence_picture,
}
_DOTS = 110  # of an inch: legible, and some tens of kilobytes
_MOST = 20  # eigenvalues in a table
_FIGURES = "padding:0 0.9em 0 0;font-variant-numeric:tabular-nums;white-space:nowrap"


def html_of(result: Result) -> str:
    """One result in a notebook: what it is, which check it failed, its numbers as in the terminal, and its picture."""
    title = html.escape(f"{type(result).__name__} at {readable(label(result))}")
    problem = problem_of(result)
    failed = f"<p><strong>{html.escape(problem)}</strong></p>" if problem else ""
    told = [*tables([result]), *([_eigenvalues(result)] if isinstance(result, Eigenpairs) else [])]
    return f"<p><strong>{title}</strong></p>{failed}{''.join(map(_table, told))}{_image(result, title)}"


def _eigenvalues(pairs: Eigenpairs) -> Table:
    """Each eigenvalue with its residual, up to twenty of them."""
    shown = list(zip(places(pairs), pairs.values, pairs.residuals, pairs.converged, strict=True))[:_MOST]
    rows = [[str(place), plus_minus(value, error), "yes" if done else "NO"] for place, value, error, done in shown]
    more = [f"and {len(pairs.values) - _MOST} more"] if len(pairs.values) > _MOST else []
    return Table("Each with its residual ||Hv - lambda v||", ["place", "eigenvalue", "converged"], rows, more, [])


def _table(table: Table) -> str:
    head, *rows = [table.header, *table.rows]
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    notes = "<br>".join(html.escape(note) for note in table.notes)
    return (
        f"<p>{html.escape(table.title)}</p><table><thead><tr>{_cells(head, 'th')}</tr></thead><tbody>{body}</tbody>"
        f"</table><p><small>{notes}</small></p>"
    )


def _cells(row: Sequence[str], kind: str) -> str:
    sides = ["left", *["right"] * (len(row) - 1)]
    return "".join(
        f'<{kind} style="text-align:{side};{_FIGURES}">{html.escape(cell)}</{kind}>'
        for side, cell in zip(sides, row, strict=True)
    )


def _image(result: Result, title: str) -> str:
    draw = _PICTURES.get(type(result))
    if draw is None:
        return ""
    content = picture_bytes(draw([result]), "png", dots=_DOTS)
    return f'<img alt="{title}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
