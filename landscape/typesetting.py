"""Tables as text: numbers aligned on the point, and nothing said twice where several tables follow each other.

A title ends in its subject (of which operator, over which data). Where a table above had the same one, the title says
so instead, and where all of the title is the same, that the data are others; a note that stands below a later table as
well stands there alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from landscape.results import Json, Record

_SAME = "same operator and data"
_OTHERS = ", other data"


@dataclass(frozen=True)
class Table:
    """A title, a header and rows of text, notes below, and the rows as records."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    records: Sequence[Record]
    subject: str = ""

    def text(self, width: int = 100) -> str:
        """The table as lines; title and notes keep to the width, rows are as wide as they are."""
        wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
        notes = [line for note in self.notes for line in wrapper.wrap(note)]
        return "\n".join([*wrapper.wrap(self.title), *aligned(self.header, self.rows), *notes])


def joined(tables: Sequence[Table], width: int = 100) -> str:
    """The text of tables below each other."""
    texts = []
    again = [any(other.title == table.title for other in tables[:n]) for n, table in enumerate(tables)]
    of_several = {table.subject for table, repeated in zip(tables, again, strict=True) if repeated}
    for n, table in enumerate(tables):
        later = {note for other in tables[n + 1 :] for note in other.notes}
        known = table.subject not in {"", *of_several}
        known = known and any(other.subject.startswith(table.subject) for other in tables[:n])
        title = table.title.removesuffix(table.subject) + _SAME if known else table.title
        title += _OTHERS if again[n] else ""
        notes = [note for note in table.notes if note not in later]
        texts.append(replace(table, title=title, notes=notes).text(width))
    return "\n\n".join(texts)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column flush left, the others aligned on their decimal points.

    Example:
        >>> aligned(["", "x"], [["a", "1.5"], ["bc", "10.25"]])
        ['      x', 'a    1.5', 'bc  10.25']
    """
    left = [max((len(_split(row[c])[0]) for row in rows), default=0) for c in range(len(header))]
    bodies = [
        [row[0], *(" " * (left[c] - len(_split(row[c])[0])) + row[c] for c in range(1, len(header)))] for row in rows
    ]
    widths = [max(len(line[c]) for line in [header, *bodies]) for c in range(len(header))]
    room = [min(max(left[c] + 1, len(header[c])), widths[c]) for c in range(len(header))]
    heads = [header[0].ljust(widths[0])]
    heads += [header[c].rjust(room[c]).ljust(widths[c]) for c in range(1, len(header))]
    lines = [heads, *([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in bodies)]
    return ["  ".join(line).rstrip() for line in lines]


def listed(record: Record) -> str:
    """What a record holds, a line for each name.

    Example:
        >>> print(listed({"batch_norm": "frozen", "seconds": {"eager": 0.01234}}))
        batch norm            frozen
        seconds               eager 0.0123
    """
    return "\n".join(f"{name.replace('_', ' '):<22}{_plain(value)}" for name, value in record.items())


def _plain(value: Json) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _split(cell: str) -> tuple[str, str]:
    number = cell.split(" ")[0]
    whole, point, rest = number.partition(".")
    return whole, point + rest
