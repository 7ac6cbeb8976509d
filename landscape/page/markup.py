"""Pieces of HTML. All text goes through `escape`."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from landscape.formatting import capital

Row = Sequence[str]


def escape(text: str) -> str:
    """`text` as text, also inside an attribute."""
    return html.escape(text, quote=True)


def breakable(text: str) -> str:
    """A name that may go on in a new line after a dot, a slash or an underscore, and not within a word."""
    return re.sub("([./_])", r"\1<wbr>", escape(text))


def unbroken(text: str) -> str:
    """A sentence in which no line ends between a value and its uncertainty."""
    return escape(text).replace(" ± ", "\u00a0±\u00a0")


def section(name: str, title: str, body: str) -> str:
    """A section with its small name and its title, a sentence."""
    title = capital(title)
    identity = f"section-{name.split()[-1].lower()}"
    return f'<section id="{identity}"><p class="eyebrow">{name}</p><h2>{unbroken(title)}</h2>{body}</section>'


def missing(what: str, command: str) -> str:
    """What is not there yet, and the command that makes it."""
    what = what if what.endswith("yet") else f"{what} yet"
    return f'<p class="missing">{escape(what)}: <code>{escape(command)}</code></p>'


def table(head: Row, rows: Sequence[Row], *, text: int = 1, sortable: bool = False) -> str:
    """A table whose first `text` columns are words; so is a cell that says what is missing.

    Where it is `sortable`, the script sorts it by the column whose name is pressed.
    """

    def kind(n: int, cell: str = "") -> str:
        return ' class="text"' if n < text or cell.startswith("No ") else ""

    def title(name: str) -> str:
        return f'<button type="button">{escape(name)}</button>' if sortable else escape(name)

    top = "".join(f'<th scope="col"{kind(n)}>{title(name)}</th>' for n, name in enumerate(head))
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td{kind(n, cell)}>{escape(cell)}</td>" for n, cell in enumerate(rest, 1))
        body += f'<tr><th scope="row">{breakable(first)}</th>{cells}</tr>'
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def numbers(table: str, title: str = "Numbers") -> str:
    """A table that is folded away below its figure."""
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">{table}</div>'
    return f'<details class="data"><summary>{title}</summary>{region}</details>'


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


def picker(name: str, label: str, options: Sequence[str], chosen: int = 0) -> str:
    """One of many, by its index, as the script of the page reads it."""
    inside = "".join(
        f'<option value="{n}"{" selected" if n == chosen else ""}>{escape(text)}</option>'
        for n, text in enumerate(options)
    )
    return f'<label class="picker">{escape(label)} <select name="{name}">{inside}</select></label>'


def slider(name: str, label: str, low: int, high: int, at: int) -> str:
    """A whole number, as the script of the page reads it; what it stands for is said beside it."""
    return (
        f'<label>{escape(label)} <input type="range" name="{name}" min="{low}" max="{high}" value="{at}"></label>'
        f'<output id="{name}-told" class="note"></output>'
    )


def shown_for(key: str, ids: Sequence[tuple[str, str]], family: int = -1, member: int = 0) -> str:
    """The attributes of what is shown for one data (all, where the key is empty) and, of a family, one plane."""
    seen = key in ("", ids[0][0]) and member == 0
    attributes = f'data-split="{key}"' if key else ""
    attributes += f' data-family="{family}" data-member="{member}"' if family >= 0 else ""
    return attributes.strip() + ("" if seen else " hidden")
