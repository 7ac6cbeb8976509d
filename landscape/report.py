"""Results as one self-contained HTML page: the sentence first, how sure it is beside it, where it came from below.

The page holds plotly.js and asks the network for nothing (a content policy forbids it). Text comes before any script,
so that it reads without one. Equal results give equal bytes. Every sentence is computed from the numbers, and
claims no more than they carry: checkpoints, not methods; no curvature without the loss it was measured at; no
difference in accuracy within two standard errors.

Legend: n examples, p a fraction of them.
"""

from __future__ import annotations

import base64
import csv
import html
import importlib
import importlib.resources
import io
import json
import math
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.offline

from landscape import figures
from landscape.figures import Style, View
from landscape.results import OK, Array, Congruence, CongruenceTrace, Eigenpairs, Json, Record, Result, Surface
from landscape.results import write_atomically as _write_atomically

__all__ = ["write_report"]

Row = Sequence[str]
_PLANE = ("directions", "normalization", "seed", "unit", "batch_norm")
_DATA = ("split", "labels", "data", "data_hash", "num_examples")
_ORDER = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class _Checkpoint:
    style: Style
    record: Record
    surfaces: list[Surface]
    pairs: list[Eigenpairs]
    congruences: list[Congruence]
    traces: list[CongruenceTrace]

    def surface(self, split: str) -> Surface | None:
        mine = [one for one in self.surfaces if one.settings.get("split") == split]
        trained = [one for one in mine if "as trained" in str(one.settings.get("labels"))]
        return next(iter(trained or mine), None)


@dataclass(frozen=True)
class _Centre:
    """What a surface knows at the checkpoint itself; NaN for what it does not."""

    loss: float = math.nan
    error: float = math.nan
    accuracy: float = math.nan
    accuracy_error: float = math.nan


@dataclass(frozen=True)
class _Plane:
    """Surfaces that may share a scale: one column per checkpoint, one set per data they were measured on."""

    name: str
    columns: list[Style]
    sets: dict[str, list[tuple[int, Surface]]]  # data id -> (column, surface)


def write_report(
    results: Sequence[Result], path: str | Path, *, title: str = "Loss landscape", commands: Sequence[str] = ()
) -> None:
    """Write `results` as one HTML page that opens anywhere, offline.

    `commands` are the command lines that made the results; the page repeats them. What is missing is said in its place.
    """
    page = _page(list(results), title, commands).encode()
    _write_atomically(Path(path), lambda file: file.write(page))


def _page(results: list[Result], title: str, commands: Sequence[str]) -> str:
    known = figures.styles(results)
    checkpoints = [_checkpoint(key, style, results) for key, style in known.items()]
    splits = _data_sets(results)
    planes = _planes(results, known, splits)
    payload = _payload(planes, splits, checkpoints, known)
    payload["csv"] = _csv(checkpoints)
    provenance, told = _drawers(results, known, commands)
    folder = importlib.resources.files("landscape") / "page"
    css, js, template = ((folder / name).read_text("utf-8") for name in ("report.css", "report.js", "report.html"))
    return string.Template(template).substitute(
        title=_escape(title),
        css=css,
        js=js,
        plotly=plotly.offline.get_plotlyjs(),
        data=_json(payload),
        headline=_escape(_headline(checkpoints)),
        caveat=_escape(_caveat(checkpoints)),
        surfaces=_surfaces_section(planes, splits, payload),
        spectrum=_spectrum_section(checkpoints),
        congruence=_congruence_section(checkpoints),
        table=_table_section(checkpoints),
        provenance=provenance,
        commands=told,
        footer=_escape(_footer(results, checkpoints)),
    )


# What belongs together


def _checkpoint(key: str, style: Style, results: Sequence[Result]) -> _Checkpoint:
    mine = [one for one in results if figures.checkpoint_key(one) == key]
    return _Checkpoint(
        style,
        mine[0].checkpoint,
        [one for one in mine if isinstance(one, Surface)],
        [one for one in mine if isinstance(one, Eigenpairs)],
        [one for one in mine if isinstance(one, Congruence)],
        [one for one in mine if isinstance(one, CongruenceTrace)],
    )


def _data_sets(results: Sequence[Result]) -> dict[str, tuple[str, str]]:
    """For each data that surfaces were measured on: its id in the page and its name, train first."""
    settings = {_identity(one, _DATA): one.settings for one in results if isinstance(one, Surface)}
    keys = sorted(settings, key=lambda key: _ORDER.get(str(settings[key].get("split")), 3))
    found: dict[str, tuple[str, str]] = {}
    for key in keys:
        split = str(settings[key].get("split") or "data")
        same = [other for other in keys if str(settings[other].get("split") or "data") == split]
        name = split
        if len(same) > 1:
            parts = [str(settings[key].get(part) or "") for part in ("labels", "data_hash")]
            name = ", ".join([split, *(part[:40] for part in parts if part)])
        slug = "".join(c for c in split.lower() if c.isascii() and c.isalnum()) or "data"
        taken = [other for other, _ in found.values() if other.partition("-")[0] == slug]
        found[key] = (slug + (f"-{len(taken) + 1}" if taken else ""), name)
    return found


def _planes(results: Sequence[Result], known: dict[str, Style], splits: dict[str, tuple[str, str]]) -> list[_Plane]:
    grouped: dict[str, list[Surface]] = {}
    for one in results:
        if isinstance(one, Surface):
            grouped.setdefault(_identity(one, _PLANE) + repr(_grid(one)), []).append(one)
    return [_plane(surfaces, known, splits) for surfaces in grouped.values()]


def _plane(surfaces: list[Surface], known: dict[str, Style], splits: dict[str, tuple[str, str]]) -> _Plane:
    """Equal checkpoint and data twice in one plane: the second gets a column of its own; nothing is dropped."""
    columns: list[tuple[str, int]] = []
    sets: dict[str, list[tuple[int, Surface]]] = {}
    seen: dict[tuple[str, str], int] = {}
    for one in surfaces:
        key, data = figures.checkpoint_key(one), splits[_identity(one, _DATA)][0]
        repeat = seen.get((key, data), 0)
        seen[key, data] = repeat + 1
        if (key, repeat) not in columns:
            columns.append((key, repeat))
        sets.setdefault(data, []).append((columns.index((key, repeat)), one))
    order = [key for key in known if any(key == other for other, _ in columns)]
    ranked = sorted(range(len(columns)), key=lambda c: (order.index(columns[c][0]), columns[c][1]))
    looks = [
        Style(style.name + (f" [{repeat + 1}]" if repeat else ""), style.color, style.symbol, style.dash)
        for style, repeat in ((known[columns[c][0]], columns[c][1]) for c in ranked)
    ]
    placed = {
        data: sorted(((ranked.index(c), one) for c, one in members), key=lambda item: item[0])
        for data, members in sets.items()
    }
    return _Plane(_plane_name(surfaces[0]), looks, placed)


def _plane_name(surface: Surface) -> str:
    settings = surface.settings
    directions = str(settings.get("directions") or "unnamed")
    parts = [f"{directions} directions"]
    if settings.get("normalization"):
        parts.append(f"{settings['normalization']}-normalized")
    if settings.get("seed") is not None:
        parts.append(f"seed {settings['seed']}")
    if settings.get("batch_norm"):
        parts.append(f"batch norm {settings['batch_norm']}")
    columns, left, right = _grid(surface)[0]
    return ", ".join([*parts, f"{columns} × {len(surface.y)} points from {left:g} to {right:g}"])


def _grid(surface: Surface) -> list[tuple[int, float, float]]:
    return [(len(at), float(at[0]), float(at[-1])) for at in (surface.x, surface.y)]


def _identity(result: Result, names: Iterable[str]) -> str:
    return json.dumps([result.settings.get(name) for name in names])


# Numbers


def _centre(surface: Surface | None) -> _Centre:
    if surface is None:
        return _Centre()
    cell = figures.centre_cell(surface)
    if cell is None:
        loss = surface.checks.get("centre_loss")
        return _Centre(loss=float(loss)) if isinstance(loss, int | float) else _Centre()
    p = float(surface.accuracy[cell])
    return _Centre(
        float(surface.loss[cell]), float(surface.standard_error[cell]), p, _binomial_error(p, _count(surface))
    )


def _count(result: Result) -> int:
    count = result.settings.get("num_examples")
    return count if isinstance(count, int) and count > 0 else 0


def _binomial_error(p: float, n: int) -> float:
    """sqrt(p (1 - p) / n); where all or none are right it would be 0, so one example, 1/n, stands in."""
    if not n or not math.isfinite(p):
        return math.nan
    return max(math.sqrt(max(p * (1 - p), 0.0) / n), 1 / n if p in (0.0, 1.0) else 0.0)


def _train_loss(checkpoint: _Checkpoint, pairs: Eigenpairs) -> float:
    """The loss that the eigenvalues belong to."""
    if math.isfinite(pairs.loss):
        return pairs.loss
    split = pairs.settings.get("split")
    return _centre(checkpoint.surface(split)).loss if isinstance(split, str) else math.nan


def _curvatures(checkpoints: Sequence[_Checkpoint]) -> list[tuple[_Checkpoint, Eigenpairs, float]]:
    """The first spectrum of each checkpoint that is of the same operator and data as the first of all."""
    kind = next((figures.spectrum_kind(pairs) for checkpoint in checkpoints for pairs in checkpoint.pairs), "")
    chosen = [
        (c, next((p for p in c.pairs if figures.spectrum_kind(p) == kind and len(p.values)), None)) for c in checkpoints
    ]
    return [(c, p, _train_loss(c, p)) for c, p in chosen if p is not None]


def _edge_median(surface: Surface) -> float:
    edge = np.ones(surface.loss.shape, dtype=bool)
    edge[1:-1, 1:-1] = False
    values = surface.loss[edge & (surface.status == OK) & np.isfinite(surface.loss)]
    return float(np.median(values)) if values.size else math.nan


def _rise_distance(surface: Surface, rise: float) -> float:
    """The smallest |x| on the line y = 0 at which the loss is `rise` above the centre's, linear between the points."""
    cell = figures.centre_cell(surface)
    if cell is None or not math.isfinite(surface.loss[cell]):
        return math.nan
    i, j = cell
    sides = ((surface.x[i:], surface.loss[i:, j]), (-surface.x[i::-1], surface.loss[i::-1, j]))
    return float(np.min([_crossing(at, loss, loss[0] + rise) for at, loss in sides]))  # NaN if a side is unknown


def _crossing(at: Array, loss: Array, level: float) -> float:
    above = np.flatnonzero(~(loss < level))
    if not above.size:
        return math.inf
    n = above[0]
    if n == 0 or not math.isfinite(loss[n]):  # 0: so large a loss that the level is lost in rounding
        return math.nan
    return float(at[n - 1] + (level - loss[n - 1]) / (loss[n] - loss[n - 1]) * (at[n] - at[n - 1]))


# Sentences


def _headline(checkpoints: Sequence[_Checkpoint]) -> str:
    sentences = [_accuracy_sentence(checkpoints), _curvature_sentence(checkpoints)]
    if not any(sentences):
        losses = [(c, _centre(c.surface("train"))) for c in checkpoints]
        sentences = [
            "; ".join(
                f"train loss {_pm(at.loss, at.error)} at {c.style.name}" for c, at in losses if math.isfinite(at.loss)
            )
        ]
    text = ". ".join(_capital(sentence) for sentence in sentences if sentence)
    return text + "." if text else f"{_counted(len(checkpoints), 'checkpoint')}, measured"


def _accuracy_sentence(checkpoints: Sequence[_Checkpoint]) -> str:
    tested = [(c, c.surface("test"), _centre(c.surface("test"))) for c in checkpoints]
    tested = [(c, surface, at) for c, surface, at in tested if math.isfinite(at.accuracy_error)]
    if not tested:
        return ""
    if len({_identity(surface, _DATA) for _, surface, _ in tested if surface}) > 1:
        return "Test accuracies are of different test data and not compared"
    ranked = sorted(tested, key=lambda item: -item[2].accuracy)
    (best, _, high), (worst, _, low) = ranked[0], ranked[-1]
    if len(ranked) == 1:
        return f"test accuracy is {_percent(high)} at {best.style.name}"
    error = math.hypot(high.accuracy_error, low.accuracy_error)
    if high.accuracy - low.accuracy <= 2 * error:
        every = f"test accuracies of these {len(ranked)} checkpoints are within noise"
        return f"{every} ({_percent(low)} to {_percent(high)})"
    return f"test accuracy ranges from {_percent(low)} at {worst.style.name} to {_percent(high)} at {best.style.name}"


def _curvature_sentence(checkpoints: Sequence[_Checkpoint]) -> str:
    spectra = [(c, pairs, loss) for c, pairs, loss in _curvatures(checkpoints) if math.isfinite(loss)]
    if not spectra:
        return ""
    ranked = sorted(spectra, key=lambda item: -item[1].values[0])
    split = str(ranked[0][1].settings.get("split") or "mean")

    def place(item: tuple[_Checkpoint, Eigenpairs, float]) -> str:
        checkpoint, pairs, loss = item
        return f"{_short(float(pairs.values[0]))} at {checkpoint.style.name} ({split} loss {_short(loss)})"

    if len(ranked) == 1:
        return f"λmax is {place(ranked[0])}"
    between = "ranges from" if len(ranked) > 2 else "is"
    joint = "to" if len(ranked) > 2 else "and"
    return f"λmax {between} {place(ranked[-1])} {joint} {place(ranked[0])}"


def _caveat(checkpoints: Sequence[_Checkpoint]) -> str:
    surfaces = [one for c in checkpoints for one in c.surfaces]
    random = {one.settings.get("directions") for one in surfaces} == {"random"}
    parts = []
    if surfaces:
        parts.append(f"{'A random' if random else 'A'} 2-D slice through each checkpoint, not the whole landscape")
    counts = {str(one.settings.get("split")): _count(one) for one in surfaces if _count(one)}
    if counts:
        told = [f"{n:,} {split}" for split, n in sorted(counts.items(), key=lambda item: _ORDER.get(item[0], 3))]
        parts.append(" and ".join(told) + " examples")
    runs = {json.dumps(c.record.get("config") or c.style.name, sort_keys=True) for c in checkpoints}
    many = len(checkpoints) > 1
    each = (
        "one run each: this compares checkpoints, not methods"
        if len(runs) == len(checkpoints)
        else f"from {_counted(len(runs), 'run')}"
    )
    parts.append(_counted(len(checkpoints), "checkpoint") + (f", {each}" if many else ""))
    return "; ".join(parts) + "."


def _surface_sentence(members: Sequence[tuple[int, Surface]], columns: Sequence[Style], split: str) -> str:
    told = []
    for column, surface in members:
        at, edge = _centre(surface), _edge_median(surface)
        if math.isfinite(at.loss) and math.isfinite(edge):
            told.append((columns[column].name, at.loss, edge))
    if not told:
        return f"No finite loss was measured on {split}"
    if len(told) <= 3:
        return f"Loss on {split}, centre → edge of the slice (median): " + ", ".join(
            f"{name} {_short(loss)} → {_short(edge)}" for name, loss, edge in told
        )
    low, high = (min(told, key=lambda item: item[1]), max(told, key=lambda item: item[1]))
    return f"Loss on {split} at the centre: from {_short(low[1])} ({low[0]}) to {_short(high[1])} ({high[0]})"


def _slice_sentence(members: Sequence[tuple[int, Surface]], columns: Sequence[Style], split: str) -> str:
    told = []
    for column, surface in members:
        distance, at = _rise_distance(surface, 0.1), _centre(surface)
        if not math.isnan(distance):
            where = f"|x| = {distance:.2f}" if math.isfinite(distance) else "no point of the slice"
            told.append(f"{columns[column].name} at {where} (centre {_short(at.loss)})")
    if not told:
        return f"The {split} loss along the two axes"
    return f"The {split} loss has risen by 0.1 along x: " + ", ".join(told[:4]) + (", …" if len(told) > 4 else "")


def _change_sentence(checkpoints: Sequence[_Checkpoint]) -> str:
    told = []
    for checkpoint in checkpoints:
        for trace in checkpoint.traces:
            probed = np.isfinite(trace.change)
            if not probed.any():
                continue
            errors = trace.change_standard_error[probed]
            error = float(np.sqrt(np.sum(errors**2)) / probed.sum())  # NaN unless every epoch has one
            told.append(f"{_signed(float(trace.change[probed].mean()), error)} ({checkpoint.style.name})")
    if not told:
        return "Gradient congruence along training: no epoch was probed"
    return "One step changes the congruence, on average over the probed epochs, by " + ", ".join(told)


# Panels


def _surfaces_section(planes: Sequence[_Plane], splits: dict[str, tuple[str, str]], payload: dict[str, Any]) -> str:
    if not planes:
        return _section("Surfaces", "Loss around the checkpoints", _missing("No surface", "landscape surface CKPT"))
    ids = list(splits.values())
    controls = [
        _radios("split", "Data", ids, ids[0][0]),
        _radios("camera", "Camera", [("free", "free"), ("top", "top"), ("side", "side")], "free"),
        _radios("scale", "Colour and height range", [("common", "common"), ("own", "own")], "common"),
        _radios(
            "loss",
            "Loss",
            [("linear", "linear"), ("log", "log")],
            payload["loss"],
            disabled=("log",) if payload["linear_only"] else (),
        ),
    ]
    body = f'<div class="controls">{"".join(controls)}</div>'
    if payload["linear_only"]:
        body += '<p class="note">Some losses are zero or negative, so there is no log scale.</p>'
    if len(planes) > 1:
        body += (
            f'<p class="note warn">These surfaces lie on {len(planes)} different planes or grids. They are shown '
            "apart, each with its own range; heights of different planes do not compare.</p>"
        )
    body += "".join(_plane_html(n, plane, ids, alone=len(planes) == 1) for n, plane in enumerate(planes))
    titles = "".join(
        f'<span data-split="{key}"{_hidden(key, ids)}>{_escape(_first_sentence(planes, key, name))}</span>'
        for key, name in ids
    )
    return f'<section id="surfaces"><p class="eyebrow">Surfaces</p><h2>{titles}</h2>{body}</section>'


def _first_sentence(planes: Sequence[_Plane], key: str, name: str) -> str:
    plane = next(plane for plane in planes if key in plane.sets)
    return _surface_sentence(plane.sets[key], plane.columns, name)


def _plane_html(n: int, plane: _Plane, ids: Sequence[tuple[str, str]], *, alone: bool) -> str:
    columns = "".join(_column_html(n, c, style, plane, ids) for c, style in enumerate(plane.columns))
    heading = f'<p class="eyebrow">{"Plane" if alone else f"Plane {n + 1}"}</p>'
    shared = (
        " Each checkpoint is the centre of its own plane, along directions drawn from the same seed."
        if len(plane.columns) > 1 and "random" in plane.name
        else ""
    )
    html_sets = []
    for key, name in ids:
        members = plane.sets.get(key)
        if not members:
            text = f"No {name} surface on this plane yet"
            html_sets.append(
                f'<div data-split="{key}"{_hidden(key, ids)}>{_missing(text, _surface_command(name))}</div>'
            )
            continue
        html_sets.append(
            f'<div data-split="{key}"{_hidden(key, ids)}>'
            f"<h3>{_escape(_slice_sentence(members, plane.columns, name))}</h3>"
            '<p class="note">The two lines through the centre of each slice. Bands are ± one standard error over the '
            "examples, cut at the axis where they reach zero; points are joined by straight lines.</p></div>"
        )
    numbers = "".join(
        f'<div data-split="{key}"{_hidden(key, ids)}>{_surface_numbers(plane.sets[key], plane.columns)}</div>'
        for key, _ in ids
        if key in plane.sets
    )
    return (
        f'<div class="plane">{heading if not alone else ""}<p class="note">{_escape(_capital(plane.name))}.{shared}'
        " The marked point is the checkpoint; × (in 3-D a diamond on the floor) marks a cell "
        "left out: not finite, or not measured.</p>"
        f'<div class="columns">{columns}</div><p class="readout note" id="p{n}-readout">Point at a contour to read '
        f"the loss of every checkpoint at that place.</p>{_numbers(numbers)}"
        f'<figure style="margin-top:26px"><figcaption>{"".join(html_sets)}</figcaption>'
        f'<div class="chart double" id="p{n}-slices" role="group" aria-label="Loss along the two axes"></div>'
        "</figure></div>"
    )


def _column_html(n: int, c: int, style: Style, plane: _Plane, ids: Sequence[tuple[str, str]]) -> str:
    name = _escape(style.name)
    texts = []
    badges = []
    for key, data in ids:
        surface = next((one for column, one in plane.sets.get(key, []) if column == c), None)
        attributes = f'data-split="{key}"{_hidden(key, ids)}'
        if surface is None:
            text = _missing(f"No {data} surface yet", _surface_command(data))
            texts.append(f"<div {attributes}>{text}</div>")
            continue
        texts.append(f'<p class="stat" {attributes}>{_stat(surface, data)}</p>')
        badges.append(f"<div {attributes}>{_badge(surface)}</div>")
    swatch = f'<span class="swatch" style="--swatch:{style.color}"></span>'
    plots = "".join(
        f'<div class="{kind}" id="p{n}c{c}-{kind}" role="group" aria-label="{what} of the loss around {name}"></div>'
        for kind, what in (("scene", "3-D surface"), ("contour", "Contours"))
    )
    return f'<article class="column"><h3>{swatch}{name}</h3>{"".join(texts)}{plots}{"".join(badges)}</article>'


def _stat(surface: Surface, data: str) -> str:
    at = _centre(surface)
    if not math.isfinite(at.loss):
        return (
            "the loss at the centre was not measured"
            if figures.centre_cell(surface) is None
            else f"loss {at.loss} at the centre"
        )
    text = f"{_escape(data)} loss <b>{_pm(at.loss, at.error)}</b>"
    return text + (f"<br>accuracy <b>{_percent(at)}</b>" if math.isfinite(at.accuracy) else "")


def _badge(surface: Surface) -> str:
    left_out = int((~(np.isfinite(surface.loss) & (surface.status == OK))).sum())
    count = (
        f'<p class="badge warn">× {left_out} of {surface.loss.size} cells left out ({_statuses(surface)})</p>'
        if left_out
        else ""
    )
    error, passed = surface.checks.get("centre_error"), surface.checks.get("centre_ok")
    difference = (
        f" (relative difference {error:.1g})" if isinstance(error, int | float) and math.isfinite(error) else ""
    )
    if passed is True:
        return f'<p class="badge">✓ centre check: loss at the centre equals the checkpoint’s{difference}</p>{count}'
    if passed is False:
        text = f"centre check FAILED: loss at the centre differs from the checkpoint’s{difference}"
        return f'<p class="badge warn">✗ {text}</p>{count}'
    return f'<p class="badge">The centre was not checked against the checkpoint.</p>{count}'


def _statuses(surface: Surface) -> str:
    codes, counts = np.unique(surface.status[(surface.status != OK) | ~np.isfinite(surface.loss)], return_counts=True)
    return ", ".join(
        f"{n} {figures.STATUS_NAMES.get(int(code), 'unknown')}" for code, n in zip(codes, counts, strict=True)
    )


def _surface_numbers(members: Sequence[tuple[int, Surface]], columns: Sequence[Style]) -> str:
    rows = []
    for column, surface in members:
        at = _centre(surface)
        finite = surface.loss[np.isfinite(surface.loss) & (surface.status == OK)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.nan, math.nan)
        spread = [_short(low), _short(high), _short(_edge_median(surface))]
        rises = [_distance(_rise_distance(surface, rise)) for rise in (0.1, 1.0)]
        rows.append(
            [columns[column].name, _pm(at.loss, at.error), *spread, *rises, str(surface.loss.size - finite.size)]
        )
    head = [
        "checkpoint",
        "centre loss",
        "lowest",
        "highest",
        "median at the edge",
        "|x| at +0.1",
        "|x| at +1",
        "cells left out",
    ]
    return _html_table(head, rows)


def _distance(value: float) -> str:
    return "beyond" if math.isinf(value) else _short(value)


def _spectrum_section(checkpoints: Sequence[_Checkpoint]) -> str:
    pairs = [(c, one) for c in checkpoints for one in c.pairs]
    if not pairs:
        return _section("Spectrum", "Curvature at the checkpoints", _missing("No spectrum", "landscape hessian CKPT"))
    kinds = list(dict.fromkeys(figures.spectrum_kind(one) for _, one in pairs))
    rows = []
    for c, one in pairs:
        for n, (value, residual) in enumerate(zip(one.values, one.residuals, strict=True)):
            rows.append(
                [
                    c.style.name,
                    figures.spectrum_kind(one),
                    str(n + 1),
                    _pm(value, residual),
                    "yes" if one.converged[n] else "NO",
                ]
            )
    warnings = []
    for c, one in pairs:
        if not one.converged.all():
            warnings.append(
                f"{c.style.name}: {int((~one.converged).sum())} of {len(one.values)} eigenvalues have not converged"
            )
        if not one.complete:
            warnings.append(
                f"{c.style.name}: larger eigenvalues may have been missed (the second search did not confirm)"
            )
        if one.checks.get("repeatable") is False:
            warnings.append(f"{c.style.name}: the loss is not repeatable, so its curvature is not either")
    lost = [c.style.name for c in checkpoints if not c.pairs]
    body = (
        f'<p class="note">Largest eigenvalues of: {_escape("; ".join(kinds))}. Bars are the residual ‖Hv − λv‖: an '
        "eigenvalue lies within it. Open markers have not converged. Curvature falls with the loss itself, so read "
        "each beside its loss.</p>"
    )
    body += "".join(f'<p class="warn">{_escape(text)}.</p>' for text in warnings)
    body += _missing(f"No spectrum of {', '.join(lost)}", "landscape hessian CKPT") if lost else ""
    chart = '<div class="chart" id="eigenvalues" role="group" aria-label="Top eigenvalues with residual bars"></div>'
    body += f"<figure>{chart}</figure>" + _numbers(
        _html_table(["checkpoint", "of", "index", "eigenvalue", "converged"], rows, text=2)
    )
    sentence = _curvature_sentence(checkpoints)
    return _section("Spectrum", sentence or "Top eigenvalues; the loss they belong to was not recorded", body)


def _congruence_section(checkpoints: Sequence[_Checkpoint]) -> str:
    traces = [(c, one) for c in checkpoints for one in c.traces]
    if not traces:
        return _section(
            "Gradient congruence", "Gradient congruence along training", _missing("No trace", "landscape alignment RUN")
        )
    rows = []
    for c, one in traces:
        probed = np.flatnonzero(np.isfinite(one.change))
        for e in probed[np.unique(np.linspace(0, len(probed) - 1, min(6, len(probed))).astype(int))]:
            values = [
                _pm(one.cosine_b[e], one.cosine_b_standard_error[e]),
                _pm(one.cosine_a[e], one.cosine_a_standard_error[e]),
                _signed(float(one.change[e]), float(one.change_standard_error[e])),
            ]
            rows.append([c.style.name, str(one.epoch[e]), *values, str(one.num_probes[e])])
    radii = {str(one.settings.get("radius")) for _, one in traces} - {"None"}
    radius = f" Probe radius {_escape(' or '.join(sorted(radii)))}." if radii else ""
    mixed = " The radii differ, so these traces do not compare." if len(radii) > 1 else ""
    body = (
        '<p class="note">Cosine between the gradient on one part of a batch and the gradient on the other part, the '
        "latter at a point shifted uphill; before a step, after it on the same examples, and the difference. Train "
        f"mode, mean and band of ± one standard error over the probes of an epoch.{radius}{mixed}</p>"
        '<figure><div class="chart triple" id="congruence" role="group" aria-label="Gradient congruence per epoch">'
        "</div></figure>"
    )
    body += _numbers(_html_table(["checkpoint", "epoch", "before", "after", "change", "probes"], rows))
    return _section("Gradient congruence", _change_sentence(checkpoints), body)


def _table_section(checkpoints: Sequence[_Checkpoint]) -> str:
    if not checkpoints:
        return _section("Table", "Nothing was measured", _missing("No results", "landscape surface CKPT"))
    kinds = list(dict.fromkeys(figures.spectrum_kind(one) for c in checkpoints for one in c.pairs))
    most = min(max((len(one.values) for c in checkpoints for one in c.pairs), default=1), 5)
    rows: list[dict[str, str]] = []
    for c in checkpoints:
        spectra = [_spectrum_cells(c, one, checkpoints, most, named=len(kinds) > 1) for one in c.pairs]
        spectra = spectra or [{"λmax": "No spectrum yet: landscape hessian CKPT"}]
        rows += [{**_checkpoint_cells(c), **cells, **_congruence_cells(c)} for cells in spectra]
    head = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    body = _table_note(kinds)
    table = _html_table(list(head), [[row.get(name, "—") for name in head] for row in rows], text=2)
    body += f'<div class="scroll" tabindex="0" role="region" aria-label="All measures">{table}</div>'
    body += '<button type="button" id="copy">Copy as CSV</button> <span id="copied" role="status" class="note"></span>'
    return _section("Table", "Every measure at every checkpoint", body)


def _table_note(kinds: Sequence[str]) -> str:
    spectrum = f" λ are eigenvalues of: {kinds[0]}." if len(kinds) == 1 else ""
    return (
        '<p class="note">Losses and accuracies at the checkpoint itself, train with the labels as trained. ± is the '
        "standard error over the examples for a loss, sqrt(p(1 − p)/n) for an accuracy, the residual for an eigenvalue."
        f"{_escape(spectrum)}</p>"
    )


def _checkpoint_cells(checkpoint: _Checkpoint) -> dict[str, str]:
    train, test = _centre(checkpoint.surface("train")), _centre(checkpoint.surface("test"))
    missing = "No surface yet: landscape surface CKPT"
    return {
        "checkpoint": checkpoint.style.name,
        "method, radii": _method(checkpoint.record),
        "train loss": missing if math.isnan(train.loss) else _pm(train.loss, train.error),
        "train accuracy": _percent(train),
        "test loss": f"{missing} --split test" if math.isnan(test.loss) else _pm(test.loss, test.error),
        "test accuracy": _percent(test),
    }


def _spectrum_cells(
    c: _Checkpoint, one: Eigenpairs, checkpoints: Sequence[_Checkpoint], most: int, *, named: bool
) -> dict[str, str]:
    kind = figures.spectrum_kind(one)
    cells = {"spectrum of": kind} if named else {}
    cells["at loss"] = _short(_train_loss(c, one))
    top = float(one.values[0]) if len(one.values) else math.nan
    reference = next((p for p in checkpoints[0].pairs if figures.spectrum_kind(p) == kind and len(p.values)), None)
    comparable = reference is not None and reference.values[0] > 0
    cells["λmax"] = _pm(top, one.residuals[0]) if len(one.values) else "—"
    cells["ln, log10"] = f"{math.log(top):.2f}, {math.log10(top):.2f}" if top > 0 else "—"
    cells[f"vs {checkpoints[0].style.name}"] = f"{top / reference.values[0]:.2f}" if reference and comparable else "—"
    state = "yes" if one.converged.all() else f"NO ({int(one.converged.sum())} of {len(one.values)})"
    cells["converged"] = state + ("" if one.complete else ", not complete")
    cells["products"] = f"{one.num_matvecs:,}"
    for n in range(1, most):
        cells[f"λ{chr(0x2081 + n)}"] = _short(float(one.values[n])) if n < len(one.values) else "—"
    return cells


def _congruence_cells(checkpoint: _Checkpoint) -> dict[str, str]:
    told = [_pm(one.value, one.standard_error) if one.status == "ok" else one.status for one in checkpoint.congruences]
    return {"congruence, eval mode": "; ".join(told)} if told else {}


def _csv(checkpoints: Sequence[_Checkpoint]) -> str:
    """The table in full precision, a column per number."""
    most = max((len(one.values) for c in checkpoints for one in c.pairs), default=0)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["checkpoint", "hash", "method"]
    for split in ("train", "test"):
        head += [f"{split}_loss", f"{split}_loss_se", f"{split}_accuracy", f"{split}_accuracy_se"]
    head += ["spectrum_of", "at_loss", "matvecs", "converged", "complete"]
    writer.writerow(head + [f"lambda_{n + 1}{part}" for n in range(most) for part in ("", "_residual")])
    for c in checkpoints:
        start: list[object] = [c.style.name, c.record.get("hash") or "", _method(c.record)]
        for at in (_centre(c.surface("train")), _centre(c.surface("test"))):
            start += [_raw(value) for value in (at.loss, at.error, at.accuracy, at.accuracy_error)]
        for one in c.pairs:
            row = [
                figures.spectrum_kind(one),
                _raw(_train_loss(c, one)),
                one.num_matvecs,
                bool(one.converged.all()),
                one.complete,
            ]
            values = [_raw(float(v)) for pair in zip(one.values, one.residuals, strict=True) for v in pair]
            writer.writerow([*start, *row, *values])
        if not c.pairs:
            writer.writerow(start)
    return file.getvalue()


def _raw(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _method(record: Record) -> str:
    config = record.get("config")
    config = config if isinstance(config, dict) else {}
    method = str(record.get("method") or config.get("method") or "—")
    radii = {"sgd": (), "sam": ("rho",), "asam": ("rho",)}.get(
        method, ("rho1", "rho2") if "agnostic" in method else ("rho", "rho1", "rho2")
    )
    return ", ".join([method, *(f"{name} {config[name]}" for name in radii if config.get(name) is not None)])


# Drawers


def _drawers(results: Sequence[Result], known: dict[str, Style], commands: Sequence[str]) -> tuple[str, str]:
    """The provenance table, and the commands."""
    rows = []
    for result in results:
        described = {**result.settings, **{f"check {name}": value for name, value in result.checks.items()}}
        origin = {**result.checkpoint, "label": None}
        style = known[figures.checkpoint_key(result)]
        rows.append([_escape(type(result).__name__), _escape(style.name), _flat(origin), _flat(described)])
    head = "".join(
        f'<th scope="col" class="text">{name}</th>'
        for name in ("result", "checkpoint", "made from", "settings and checks")
    )
    body = "".join(
        f'<tr><th scope="row">{a}</th><td class="text">{b}</td><td class="wide">{c}</td><td class="wide">{d}</td></tr>'
        for a, b, c, d in rows
    )
    provenance = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Provenance"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    told = (
        f"<pre>{_escape(chr(10).join(commands))}</pre>"
        if commands
        else '<p class="missing">The commands were not recorded.</p>'
    )
    return provenance, told


def _flat(record: Record) -> str:
    parts = []
    for name, value in record.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
            parts.append(f"{name}: {text}")
        elif value is not None:
            parts.append(f"{name} {_plain(value)}")
    return _escape(" · ".join(parts)) or "—"


def _plain(value: Json) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _footer(results: Sequence[Result], checkpoints: Sequence[_Checkpoint]) -> str:
    version = getattr(importlib.import_module(__name__.partition(".")[0]), "__version__", "")
    hashes = [f"{c.style.name} {str(c.record['hash'])[:12]}" for c in checkpoints if c.record.get("hash")]
    return " · ".join(
        [f"landscape {version}", _counted(len(results), "result"), *(hashes or ["no checkpoint hashes recorded"])]
    )


# What the script draws


def _payload(
    planes: Sequence[_Plane],
    splits: dict[str, tuple[str, str]],
    checkpoints: Sequence[_Checkpoint],
    known: dict[str, Style],
) -> dict[str, Any]:
    surfaces = [one for plane in planes for members in plane.sets.values() for _, one in members]
    measured = [one.loss[np.isfinite(one.loss) & (one.status == OK)] for one in surfaces]
    linear_only = any(losses.size and losses.min() <= 0 for losses in measured)
    log = not linear_only and any(figures.loss_view([one]).log for one in surfaces)
    pairs = [one for c in checkpoints for one in c.pairs]
    traces = [one for c in checkpoints for one in c.traces]
    return {
        "splits": [{"id": key, "name": name} for key, name in splits.values()],
        "loss": "log" if log else "linear",
        "linear_only": bool(linear_only),
        "camera": figures.CAMERA,
        "planes": [_plane_payload(plane, known, log=not linear_only) for plane in planes],
        "eigenvalues": _figure_json(figures.eigenvalues(pairs, known=known)) if pairs else None,
        "congruence": _figure_json(figures.congruence(traces, known=known)) if traces else None,
    }


def _plane_payload(plane: _Plane, known: dict[str, Style], *, log: bool) -> dict[str, Any]:
    sets = {}
    for key, members in plane.sets.items():
        surfaces = [one for _, one in members]
        cuts = {"linear": _figure_json(figures.slices(surfaces, scale="linear", known=known))}
        if log:
            cuts["log"] = _figure_json(figures.slices(surfaces, scale="log", known=known))
        drawn = [_surface_payload(one, column, plane.columns[column], log=log) for column, one in members]
        sets[key] = {"views": _views(surfaces, log=log), "slices": cuts, "surfaces": drawn}
    return {"columns": [style.name for style in plane.columns], "sets": sets}


def _surface_payload(surface: Surface, column: int, style: Style, *, log: bool) -> dict[str, Any]:
    view = figures.loss_view([surface], scale="linear")
    left_out = ~(np.isfinite(surface.loss) & (surface.status == OK))
    at = _centre(surface).loss
    return {
        "column": column,
        "x": surface.x.tolist(),
        "y": surface.y.tolist(),
        "loss": _packed(surface.loss.T),
        "error": _packed(surface.standard_error.T),
        "accuracy": _packed(surface.accuracy.T),
        "cells": np.argwhere(left_out.T).tolist(),
        "centre": at if math.isfinite(at) else None,
        "views": _views([surface], log=log),
        "scene": _figure_json(_without_arrays(figures.surface_3d(surface, view=view, style=style))),
        "contour": _figure_json(_without_arrays(figures.contour(surface, view=view, style=style))),
    }


def _views(surfaces: Sequence[Surface], *, log: bool) -> dict[str, Any]:
    views: dict[str, View] = {"linear": figures.loss_view(surfaces, scale="linear")}
    if log:
        views["log"] = figures.loss_view(surfaces, scale="log")
    return {
        name: {
            "low": view.low,
            "high": view.high,
            "step": view.step,
            "ticks": view.ticks,
            "labels": view.labels,
            "title": view.title,
        }
        for name, view in views.items()
    }


def _without_arrays(figure: go.Figure) -> go.Figure:
    """The look of a surface; its numbers travel once, packed, for both of its figures and both scales."""
    figure.data[0].z = None
    figure.data[0].customdata = None
    return figure


def _figure_json(figure: go.Figure) -> Any:  # noqa: ANN401 (plotly's own JSON)
    return json.loads(figure.to_json())


def _packed(values: Array) -> dict[str, Json]:
    """Rows as base64: float32, which keeps seven digits, unless a value would leave its range."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    fits = size.size == 0 or (size.max() < 1e38 and size.min() > 1e-37)
    data = np.ascontiguousarray(values, dtype="<f4" if fits else "<f8").tobytes()
    rows, columns = values.shape
    return {"type": "f4" if fits else "f8", "rows": rows, "columns": columns, "data": base64.b64encode(data).decode()}


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


# Pieces of HTML


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _section(name: str, title: str, body: str) -> str:
    title = _capital(title)
    identity = f"section-{name.split()[-1].lower()}"
    return f'<section id="{identity}"><p class="eyebrow">{name}</p><h2>{_escape(title)}</h2>{body}</section>'


def _capital(text: str) -> str:
    return text if text.startswith("λ") else text[:1].upper() + text[1:]


def _missing(what: str, command: str) -> str:
    what = what if what.endswith("yet") else f"{what} yet"
    return f'<p class="missing">{_escape(what)}: <code>{_escape(command)}</code></p>'


def _surface_command(split: str) -> str:
    name = split.split(",")[0]
    return "landscape surface CKPT" + ("" if name == "train" else f" --split {name}")


def _hidden(key: str, ids: Sequence[tuple[str, str]]) -> str:
    return "" if key == ids[0][0] else " hidden"


def _radios(
    name: str, legend: str, options: Sequence[tuple[str, str]], chosen: str, *, disabled: Sequence[str] = ()
) -> str:
    inputs = "".join(
        f'<label><input type="radio" name="{name}" value="{_escape(value)}"{" checked" if value == chosen else ""}'
        f"{' disabled' if value in disabled else ''}>{_escape(text)}</label>"
        for value, text in options
    )
    return f"<fieldset><legend>{_escape(legend)}</legend>{inputs}</fieldset>"


def _numbers(table: str) -> str:
    return f'<details class="data"><summary>Numbers</summary><div class="scroll">{table}</div></details>'


def _html_table(head: Row, rows: Sequence[Row], *, text: int = 1) -> str:
    """A table whose first `text` columns are words; so is a cell that says what is missing."""

    def kind(n: int, cell: str = "") -> str:
        return ' class="text"' if n < text or cell.startswith("No ") else ""

    top = "".join(f'<th scope="col"{kind(n)}>{_escape(name)}</th>' for n, name in enumerate(head))
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td{kind(n, cell)}>{_escape(cell)}</td>" for n, cell in enumerate(rest, 1))
        body += f'<tr><th scope="row">{_escape(first)}</th>{cells}</tr>'
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _short(value: float) -> str:
    """Three significant digits."""
    if not math.isfinite(value):
        return "—" if math.isnan(value) else str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0) if value else 0}f}"


def _pm(value: float, error: float) -> str:
    """A value and its uncertainty, with equal decimals: two digits of the latter, five of the former at most."""
    value, error = float(value), float(error)
    if not math.isfinite(value) or not math.isfinite(error) or error <= 0:
        return _short(value) + (" ± 0" if error == 0 and math.isfinite(value) else "")
    size = math.floor(math.log10(max(abs(value), error)))
    if not -4 <= size < 6:
        return f"{value:.2e} ± {error:.1e}"
    decimals = min(max(1 - math.floor(math.log10(error)), 0), max(4 - size, 0))
    rounded = f"{error:.{decimals}f}"
    return f"{value:.{decimals}f} ± " + (rounded if float(rounded) else f"<{10.0**-decimals:.{decimals}f}")


def _signed(value: float, error: float) -> str:
    text = _pm(value, error)
    return text.replace("-", "−", 1) if value < 0 else f"+{text}"


def _percent(at: _Centre) -> str:
    if not math.isfinite(at.accuracy):
        return "—"
    if not math.isfinite(at.accuracy_error):
        return f"{100 * at.accuracy:.1f} %"
    return f"{100 * at.accuracy:.1f} ± {100 * at.accuracy_error:.1f} %"
