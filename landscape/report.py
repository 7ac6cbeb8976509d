"""Results as one self-contained HTML page: the sentence first, how sure it is beside it, where it came from below.

The page holds plotly.js, or shares a file of it with the pages beside it, and asks the network for nothing (a content
policy forbids it). Text comes before any script,
so that it reads without one. Equal results give equal bytes. Here the parts are put together; they are made in page/.
"""

from __future__ import annotations

import importlib.resources
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import plotly.offline

from landscape.grouping import checkpoints, data_sets, families, line_groups, styles, surface_groups, without_copies
from landscape.page.curvature import (
    blocks_section,
    density_section,
    following_section,
    sample_section,
    tensors_section,
)
from landscape.page.differences import differences_section
from landscape.page.lines import lines_section
from landscape.page.markup import escape, unbroken
from landscape.page.panels import congruence_section, spectrum_section
from landscape.page.payload import difference_sets, json_in_html, payload
from landscape.page.provenance import citation, footer, provenance, told_commands
from landscape.page.sentences import caveat, headline
from landscape.page.surfaces import surfaces_section
from landscape.page.table import table_csv, table_latex, table_section
from landscape.results import PAGE_MARK, Result, write_atomically

__all__ = ["write_report"]

_PLOTLY = b"plotly.js v"  # in the first lines of every release
PlotlyJs = Literal["embedded", "directory"]
_ALONE = """<script>
if (!window.Plotly) document.querySelector("header").append("No pictures: %s has to be beside this page.");
</script>"""

SCRIPTS = (
    "numbers.js",
    "state.js",
    "look.js",
    "surfaces.js",
    "reading.js",
    "table.js",
    "report.js",
)  # in this order, in one scope


def write_report(
    results: Sequence[Result],
    path: str | Path,
    *,
    title: str = "Loss landscape",
    commands: Sequence[str] = (),
    plotlyjs: PlotlyJs = "embedded",
) -> None:
    """Write `results` as one HTML page that opens anywhere, offline.

    `commands` are the command lines that made the results; the page repeats them. What is missing is said in its place.
    With `plotlyjs="directory"` the page, 5 MB smaller, reads plotly-VERSION.min.js beside it, which is written where no
    equal file is: pages of one folder share it, and those of another version keep theirs.

    Raises:
        ValueError: If `plotlyjs` is unknown.
        FileExistsError: If a file of plotly's name is there that is no plotly.js; it stays, and no page is written.
    """
    if plotlyjs not in get_args(PlotlyJs):
        raise ValueError(f"plotlyjs must be one of {get_args(PlotlyJs)}, got {plotlyjs!r}")
    script, policy = f"<script>{plotly.offline.get_plotlyjs()}</script>", "'unsafe-inline'"
    if plotlyjs == "directory":
        name = _shared_script(Path(path).parent)
        script, policy = f'<script src="{name}"></script>{_ALONE % name}', f"{policy} 'self' file:"
    text = _page(without_copies(results), title, commands, script, policy)
    page = text.encode(errors="replace")  # a folder's name need not be text
    write_atomically(Path(path), lambda file: file.write(page))


def _shared_script(folder: Path) -> str:
    """The name of plotly.js in a folder, where it takes the place of one that is damaged, and of nothing else."""
    name = f"plotly-{plotly.offline.get_plotlyjs_version()}.min.js"
    content = plotly.offline.get_plotlyjs().encode()
    there = (folder / name).read_bytes() if (folder / name).is_file() else None
    if there is not None and _PLOTLY not in there[:200]:
        raise FileExistsError(f"{folder / name} is no plotly.js: move it away, or leave out --plotlyjs directory")
    if there != content:
        write_atomically(folder / name, lambda file: file.write(content))
    return name


def _page(results: list[Result], title: str, commands: Sequence[str], script: str, policy: str) -> str:
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
        plotly=script,
        policy=policy,
        data=json_in_html(drawn),
        headline=unbroken(headline(measured)),
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
        citation=escape(citation()),
        footer=escape(footer(results, measured)),
    )
