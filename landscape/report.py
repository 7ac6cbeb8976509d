"""Results as one self-contained HTML page: the sentence first, how sure it is beside it, where it came from below.

The page holds plotly.js and asks the network for nothing (a content policy forbids it). Text comes before any script,
so that it reads without one. Equal results give equal bytes. Here the parts are put together; they are made in page/.
"""

from __future__ import annotations

import importlib.resources
import string
from collections.abc import Sequence
from pathlib import Path

import plotly.offline

from landscape.grouping import checkpoints, data_sets, families, line_groups, styles, surface_groups
from landscape.page.curvature import (
    blocks_section,
    density_section,
    following_section,
    sample_section,
    tensors_section,
)
from landscape.page.differences import differences_section
from landscape.page.lines import lines_section
from landscape.page.markup import escape
from landscape.page.panels import congruence_section, spectrum_section
from landscape.page.payload import difference_sets, json_in_html, payload
from landscape.page.provenance import footer, provenance, told_commands
from landscape.page.sentences import caveat, headline
from landscape.page.surfaces import surfaces_section
from landscape.page.table import table_csv, table_latex, table_section
from landscape.results import PAGE_MARK, Result, write_atomically

__all__ = ["write_report"]

SCRIPTS = ("state.js", "look.js", "surfaces.js", "reading.js", "table.js", "report.js")  # in this order, in one scope


def write_report(
    results: Sequence[Result], path: str | Path, *, title: str = "Loss landscape", commands: Sequence[str] = ()
) -> None:
    """Write `results` as one HTML page that opens anywhere, offline.

    `commands` are the command lines that made the results; the page repeats them. What is missing is said in its place.
    """
    page = _page(list(results), title, commands).encode(errors="replace")  # a folder's name need not be text
    write_atomically(Path(path), lambda file: file.write(page))


def _page(results: list[Result], title: str, commands: Sequence[str]) -> str:
    known, splits, measured = styles(results), data_sets(results), checkpoints(results)
    planes, lines = families(surface_groups(results, known, splits)), line_groups(results)
    drawn = payload(planes, lines, splits, measured, known)
    drawn |= {"csv": table_csv(measured), "latex": table_latex(measured), "commands": list(commands)}
    folder = importlib.resources.files("landscape") / "page"
    css, template = ((folder / name).read_text("utf-8") for name in ("report.css", "report.html"))
    js = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    return string.Template(template).substitute(
        mark=PAGE_MARK,
        title=escape(title),
        css=css,
        js=js,
        plotly=plotly.offline.get_plotlyjs(),
        data=json_in_html(drawn),
        headline=escape(headline(measured)),
        caveat=escape(caveat(measured)),
        surfaces=surfaces_section(planes, splits, drawn),
        lines=lines_section(lines, known),
        differences=differences_section(difference_sets(planes, splits), known),
        spectrum=spectrum_section(measured),
        density=density_section(measured),
        blocks=blocks_section(measured),
        tensors=tensors_section(measured),
        sample=sample_section(measured),
        following=following_section(measured),
        congruence=congruence_section(measured),
        table=table_section(measured),
        provenance=provenance(results, known),
        commands=told_commands(commands),
        footer=escape(footer(results, measured)),
    )
