"""Where the results came from: the drawers of the page with checkpoints, settings, checks and commands.

What all have in common is said once; the tables hold what differs.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence

from landscape.formatting import counted
from landscape.grouping import Checkpoint, Style, checkpoint_key, readable
from landscape.page.markup import escape, table
from landscape.page.sentences import MOST_NAMED
from landscape.results import Json, Record, Result

_LONG = ("norm_ratios", "axis_norms", "landmarks")  # a number for each parameter, or drawn elsewhere
_HASH_DIGITS = 12


def provenance(results: Sequence[Result], known: dict[str, Style]) -> str:
    """The checkpoints with the settings of their runs, and each kind of result with its settings and checks."""
    records = {checkpoint_key(one): one.checkpoint for one in reversed(results)}
    runs = [
        {"checkpoint": style.name, **_flat({**records[key], "label": _cut(records[key], style)})}
        for key, style in known.items()
    ]
    parts = [_part("Checkpoints", runs)] if runs else []
    kinds = dict.fromkeys(type(one) for one in results)
    for kind in kinds:
        mine = [
            {"checkpoint": known[checkpoint_key(one)].name, **_flat(one.settings), **_flat(one.checks, "check ")}
            for one in results
            if type(one) is kind
        ]
        parts.append(_part(kind.__name__, mine))
    return "".join(parts) or '<p class="missing">Nothing was measured.</p>'


def _part(title: str, rows: Sequence[dict[str, str]]) -> str:
    """What is equal in all rows as a sentence, what differs as a table."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "checkpoint"))
    shared = [name for name in names if len({row.get(name) for row in rows}) == 1] if len(rows) > 1 else []
    head = ["checkpoint", *(name for name in names if name not in shared)]
    common = " · ".join(f"{name} {rows[0][name]}" for name in shared)
    said = f'<p class="note">All: {escape(common)}</p>' if common else ""
    if len(rows) == 1:
        told = f"{rows[0]['checkpoint']}: " + " · ".join(f"{name} {rows[0][name]}" for name in names)
        return f'<h3>{escape(title)}</h3><p class="note">{escape(told)}</p>'
    if len(head) == 1:
        return f"<h3>{escape(f'{title} ({len(rows)})')}</h3>{said}"
    made = table(head, [[row.get(name, "—") for name in head] for row in rows])
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}: what differs">{made}</div>'
    return f"<h3>{escape(f'{title} ({len(rows)})')}</h3>{said}{scroll}"


def citation() -> str:
    """What a paper cites, in BibTeX: this software, and the method."""
    return (
        "@software{landscape,\n  title = {landscape: loss landscapes and {Hessians} of {PyTorch} checkpoints},\n"
        f"  author = {{{{The landscape contributors}}}},\n  version = {{{_version()}}}\n}}\n"
        "@article{nguyen2024agnostic,\n  title = {Agnostic Sharpness-Aware Minimization},\n  author = {Nguyen, Van-Anh "
        "and Tran, Quyen and Truong, Tuan and Do, Thanh-Toan and Phung, Dinh and Le, Trung},\n"
        "  journal = {arXiv:2406.07107},\n  year = {2024}\n}"
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
    """The version of landscape, and the hashes of the checkpoints where they are few."""
    version = _version()
    if len(checkpoints) > MOST_NAMED:
        return f"landscape {version} · {counted(len(results), 'result')} of {len(checkpoints)} checkpoints"
    hashes = [f"{c.style.name} {str(c.record['hash'])[:_HASH_DIGITS]}" for c in checkpoints if c.record.get("hash")]
    return " · ".join(
        [f"landscape {version}", counted(len(results), "result"), *(hashes or ["no checkpoint hashes recorded"])]
    )


def _cut(record: Record, style: Style) -> Json:
    """The whole name, where the page shows another."""
    label = readable(str(record.get("label") or ""))
    return label if len(label) > len(style.name) else None


def _flat(record: Record, prefix: str = "") -> dict[str, str]:
    """Names and values as text, those of an inner record by its names; without what is not set."""
    found: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name} " if name not in ("config", "versions") else prefix)
        elif value not in (None, "", []) and name not in _LONG:
            found[f"{prefix}{name}"] = _plain(value)
    return found


def _plain(value: Json) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = readable(text)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return f"{text[:_HASH_DIGITS]}…" if is_hash else text


def _version() -> str:
    return str(importlib.import_module("landscape").__version__)  # an import statement would draw in torch
