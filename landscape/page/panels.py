"""The panels of the page as HTML: surfaces, spectrum, gradient congruence. What is missing is said in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from landscape.formatting import capital, percent, plus_minus, short, signed
from landscape.grouping import Checkpoint, Style, SurfaceGroup, spectrum_kind
from landscape.page.markup import escape, hidden, missing, numbers, radios, section, table
from landscape.page.sentences import change_sentence, curvature_sentence, slice_sentence, surface_sentence
from landscape.readings import centre, centre_cell, edge_median, measured, rise_distance
from landscape.results import Surface
from landscape.view import STATUS_NAMES


def surfaces_section(
    planes: Sequence[SurfaceGroup], splits: dict[str, tuple[str, str]], payload: dict[str, Any]
) -> str:
    """All surfaces, plane by plane, with the controls of the page."""
    if not planes:
        return section("Surfaces", "Loss around the checkpoints", missing("No surface", "landscape surface CKPT"))
    ids = list(splits.values())
    controls = [
        radios("split", "Data", ids, ids[0][0]),
        radios("camera", "Camera", [("free", "free"), ("top", "top"), ("side", "side")], "free"),
        radios("scale", "Colour and height range", [("common", "common"), ("own", "own")], "common"),
        radios(
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
        f'<span data-split="{key}"{hidden(key, ids)}>{escape(_first_sentence(planes, key, name))}</span>'
        for key, name in ids
    )
    return f'<section id="surfaces"><p class="eyebrow">Surfaces</p><h2>{titles}</h2>{body}</section>'


def spectrum_section(checkpoints: Sequence[Checkpoint]) -> str:
    """The top eigenvalues, and what is wrong with them."""
    pairs = [(c, one) for c in checkpoints for one in c.pairs]
    if not pairs:
        return section("Spectrum", "Curvature at the checkpoints", missing("No spectrum", "landscape hessian CKPT"))
    kinds = list(dict.fromkeys(spectrum_kind(one) for _, one in pairs))
    rows = []
    for c, one in pairs:
        for n, (value, residual) in enumerate(zip(one.values, one.residuals, strict=True)):
            rows.append(
                [
                    c.style.name,
                    spectrum_kind(one),
                    str(n + 1),
                    plus_minus(value, residual),
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
        f'<p class="note">Largest eigenvalues of: {escape("; ".join(kinds))}. Bars are the residual ‖Hv − λv‖: an '
        "eigenvalue lies within it. Open markers have not converged. Curvature falls with the loss itself, so read "
        "each beside its loss.</p>"
    )
    body += "".join(f'<p class="warn">{escape(text)}.</p>' for text in warnings)
    body += missing(f"No spectrum of {', '.join(lost)}", "landscape hessian CKPT") if lost else ""
    chart = '<div class="chart" id="eigenvalues" role="group" aria-label="Top eigenvalues with residual bars"></div>'
    body += f"<figure>{chart}</figure>" + numbers(
        table(["checkpoint", "of", "index", "eigenvalue", "converged"], rows, text=2)
    )
    sentence = curvature_sentence(checkpoints)
    return section("Spectrum", sentence or "Top eigenvalues; the loss they belong to was not recorded", body)


def congruence_section(checkpoints: Sequence[Checkpoint]) -> str:
    """Gradient congruence before and after a step, along training."""
    traces = [(c, one) for c in checkpoints for one in c.traces]
    if not traces:
        return section(
            "Gradient congruence", "Gradient congruence along training", missing("No trace", "landscape alignment RUN")
        )
    rows = []
    for c, one in traces:
        probed = np.flatnonzero(np.isfinite(one.change))
        for e in probed[np.unique(np.linspace(0, len(probed) - 1, min(6, len(probed))).astype(int))]:
            values = [
                plus_minus(one.cosine_b[e], one.cosine_b_standard_error[e]),
                plus_minus(one.cosine_a[e], one.cosine_a_standard_error[e]),
                signed(float(one.change[e]), float(one.change_standard_error[e])),
            ]
            rows.append([c.style.name, str(one.epoch[e]), *values, str(one.num_probes[e])])
    radii = {str(one.settings.get("radius")) for _, one in traces} - {"None"}
    radius = f" Probe radius {escape(' or '.join(sorted(radii)))}." if radii else ""
    mixed = " The radii differ, so these traces do not compare." if len(radii) > 1 else ""
    body = (
        '<p class="note">Cosine between the gradient on one part of a batch and the gradient on the other part, the '
        "latter at a point shifted uphill; before a step, after it on the same examples, and the difference. Train "
        f"mode, mean and band of ± one standard error over the probes of an epoch.{radius}{mixed}</p>"
        '<figure><div class="chart triple" id="congruence" role="group" aria-label="Gradient congruence per epoch">'
        "</div></figure>"
    )
    body += numbers(table(["checkpoint", "epoch", "before", "after", "change", "probes"], rows))
    return section("Gradient congruence", change_sentence(checkpoints), body)


def _first_sentence(planes: Sequence[SurfaceGroup], key: str, name: str) -> str:
    plane = next(plane for plane in planes if key in plane.sets)
    return surface_sentence(plane.sets[key], plane.columns, name)


def _plane_html(n: int, plane: SurfaceGroup, ids: Sequence[tuple[str, str]], *, alone: bool) -> str:
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
            html_sets.append(f'<div data-split="{key}"{hidden(key, ids)}>{missing(text, _surface_command(name))}</div>')
            continue
        html_sets.append(
            f'<div data-split="{key}"{hidden(key, ids)}>'
            f"<h3>{escape(slice_sentence(members, plane.columns, name))}</h3>"
            '<p class="note">The two lines through the centre of each slice. Bands are ± one standard error over the '
            "examples, cut at the axis where they reach zero; points are joined by straight lines.</p></div>"
        )
    told = "".join(
        f'<div data-split="{key}"{hidden(key, ids)}>{_surface_numbers(plane.sets[key], plane.columns)}</div>'
        for key, _ in ids
        if key in plane.sets
    )
    return (
        f'<div class="plane">{heading if not alone else ""}<p class="note">{escape(capital(plane.name))}.{shared}'
        " The marked point is the checkpoint; × (in 3-D a diamond on the floor) marks a cell "
        "left out: not finite, or not measured.</p>"
        f'<div class="columns">{columns}</div><p class="readout note" id="p{n}-readout">Point at a contour to read '
        f"the loss of every checkpoint at that place.</p>{numbers(told)}"
        f'<figure style="margin-top:26px"><figcaption>{"".join(html_sets)}</figcaption>'
        f'<div class="chart double" id="p{n}-slices" role="group" aria-label="Loss along the two axes"></div>'
        "</figure></div>"
    )


def _column_html(n: int, c: int, style: Style, plane: SurfaceGroup, ids: Sequence[tuple[str, str]]) -> str:
    name = escape(style.name)
    texts = []
    badges = []
    for key, data in ids:
        surface = next((one for column, one in plane.sets.get(key, []) if column == c), None)
        attributes = f'data-split="{key}"{hidden(key, ids)}'
        if surface is None:
            text = missing(f"No {data} surface yet", _surface_command(data))
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
    at = centre(surface)
    if not math.isfinite(at.loss):
        return (
            "the loss at the centre was not measured"
            if centre_cell(surface) is None
            else f"loss {at.loss} at the centre"
        )
    text = f"{escape(data)} loss <b>{plus_minus(at.loss, at.error)}</b>"
    return text + (
        f"<br>accuracy <b>{percent(at.accuracy, at.accuracy_error)}</b>" if math.isfinite(at.accuracy) else ""
    )


def _badge(surface: Surface) -> str:
    left_out = np.isnan(measured(surface))
    count = (
        f'<p class="badge warn">× {left_out.sum()} of {left_out.size} cells left out ({_statuses(surface)})</p>'
        if left_out.any()
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
    codes, counts = np.unique(surface.status[np.isnan(measured(surface))], return_counts=True)
    return ", ".join(f"{n} {STATUS_NAMES.get(int(code), 'unknown')}" for code, n in zip(codes, counts, strict=True))


def _surface_numbers(members: Sequence[tuple[int, Surface]], columns: Sequence[Style]) -> str:
    rows = []
    for column, surface in members:
        at = centre(surface)
        finite = measured(surface)
        finite = finite[np.isfinite(finite)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.nan, math.nan)
        read = [low, high, edge_median(surface), rise_distance(surface, 0.1), rise_distance(surface, 1.0)]
        loss = "—" if math.isnan(at.loss) else plus_minus(at.loss, at.error)
        rows.append([columns[column].name, loss, *map(_cell, read), str(surface.loss.size - finite.size)])
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
    return table(head, rows)


def _cell(value: float) -> str:
    if math.isnan(value):
        return "—"
    return "beyond" if math.isinf(value) else short(value)  # only a distance can be infinite


def _surface_command(split: str) -> str:
    name = split.split(",")[0]
    return "landscape surface CKPT" + ("" if name == "train" else f" --split {name}")
