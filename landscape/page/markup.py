"""Pieces of HTML. All text goes through `escape`."""

from __future__ import annotations

import html
from collections.abc import Sequence

from landscape.formatting import capital

Row = Sequence[str]


def escape(text: str) -> str:
    """`text` as text, also inside an attribute."""
    return html.escape(text, quote=True)


def section(name: str, title: str, body: str) -> str:
    """A section with its small name and its title, a sentence."""
    title = capital(title)
    identity = f"section-{name.split()[-1].lower()}"
    return f'<section id="{identity}"><p class="eyebrow">{name}</p><h2>{escape(title)}</h2>{body}</section>'


def missing(what: str, command: str) -> str:
    """What is not there yet, and the command that makes it."""
    what = what if what.endswith("yet") else f"{what} yet"
    return f'<p class="missing">{escape(what)}: <code>{escape(command)}</code></p>'


def table(head: Row, rows: Sequence[Row], *, text: int = 1) -> str:
    """A table whose first `text` columns are words; so is a cell that says what is missing."""

    def kind(n: int, cell: str = "") -> str:
        return ' class="text"' if n < text or cell.startswith("No ") else ""

    top = "".join(f'<th scope="col"{kind(n)}>{escape(name)}</th>' for n, name in enumerate(head))
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td{kind(n, cell)}>{escape(cell)}</td>" for n, cell in enumerate(rest, 1))
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def numbers(table: str) -> str:
    """A table that is folded away below its figure."""
    return f'<details class="data"><summary>Numbers</summary><div class="scroll">{table}</div></details>'


def radios(
    name: str, legend: str, options: Sequence[tuple[str, str]], chosen: str, *, disabled: Sequence[str] = ()
) -> str:
    """A choice, as the script of the page reads it."""
    inputs = "".join(
        f'<label><input type="radio" name="{name}" value="{escape(value)}"{" checked" if value == chosen else ""}'
        f"{' disabled' if value in disabled else ''}>{escape(text)}</label>"
        for value, text in options
    )
    return f"<fieldset><legend>{escape(legend)}</legend>{inputs}</fieldset>"


def hidden(key: str, ids: Sequence[tuple[str, str]]) -> str:
    """The attribute of all data sets but the first."""
    return "" if key == ids[0][0] else " hidden"
