"""Where the results came from: the drawers of the page with checkpoints, settings, checks and commands."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence

from landscape.formatting import counted
from landscape.grouping import Checkpoint, Style, checkpoint_key
from landscape.page.markup import escape
from landscape.results import Json, Record, Result


def provenance(results: Sequence[Result], known: dict[str, Style]) -> str:
    """A table of what each result was made from, with its settings and checks."""
    rows = []
    for result in results:
        settings = {
            name: value for name, value in result.settings.items() if name != "norm_ratios"
        }  # one per parameter
        described = {**settings, **{f"check {name}": value for name, value in result.checks.items()}}
        origin = {**result.checkpoint, "label": None}
        style = known[checkpoint_key(result)]
        rows.append([escape(type(result).__name__), escape(style.name), _flat(origin), _flat(described)])
    head = "".join(
        f'<th scope="col" class="text">{name}</th>'
        for name in ("result", "checkpoint", "made from", "settings and checks")
    )
    body = "".join(
        f'<tr><th scope="row">{a}</th><td class="text">{b}</td><td class="wide">{c}</td><td class="wide">{d}</td></tr>'
        for a, b, c, d in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Provenance"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def told_commands(commands: Sequence[str]) -> str:
    """The command lines that made the results."""
    if not commands:
        return '<p class="missing">The commands were not recorded.</p>'
    button = (
        '<div class="actions"><button type="button" id="copy-commands">Copy</button> <span role="status" class="note">'
    )
    return f'<pre tabindex="0">{escape(chr(10).join(commands))}</pre>{button}</span></div>'


def footer(results: Sequence[Result], checkpoints: Sequence[Checkpoint]) -> str:
    """The version of landscape, and the hashes of the checkpoints."""
    version = importlib.import_module("landscape").__version__  # an import statement would draw in torch
    hashes = [f"{c.style.name} {str(c.record['hash'])[:12]}" for c in checkpoints if c.record.get("hash")]
    return " · ".join(
        [f"landscape {version}", counted(len(results), "result"), *(hashes or ["no checkpoint hashes recorded"])]
    )


def _flat(record: Record) -> str:
    parts = []
    for name, value in record.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
            parts.append(f"{name}: {text}")
        elif value is not None:
            parts.append(f"{name} {_plain(value)}")
    return escape(" · ".join(parts)) or "—"


def _plain(value: Json) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
