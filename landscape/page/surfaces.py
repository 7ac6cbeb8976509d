"""The surfaces of the page as HTML: controls, columns of pictures, slices, runs, flatness over several planes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from landscape.flatness import RISES, flatness, mean_and_spread
from landscape.formatting import capital, plus_minus, short
from landscape.grouping import Style, SurfaceGroup, checkpoint_key, plane_kind
from landscape.page.captions import badge, no_surface, stat, surface_command
from landscape.page.markup import escape, missing, numbers, picker, radios, section, shown_for, slider, table
from landscape.page.payload import epochs_of, plane_named, slots
from landscape.page.sentences import MOST_NAMED, slice_sentence, surface_sentence
from landscape.readings import (
    centre,
    centre_cell,
    edge_median,
    first_step,
    measured,
    nearest,
    quadratic_models,
    rise_distance,
)
from landscape.results import Array, Surface

Ids = Sequence[tuple[str, str]]  # of the data: in the page, and as it is called


def surfaces_section(
    planes: Sequence[Sequence[SurfaceGroup]], splits: dict[str, tuple[str, str]], payload: dict[str, Any]
) -> str:
    """All surfaces, family of planes by family, with the controls of the page."""
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
        f"<fieldset><legend>Clip</legend>{slider('clip', 'above', 1, 100, 100)}</fieldset>" if payload["clip"] else "",
        "<fieldset><legend>Ring</legend><label>where the loss is the centre’s + "
        '<input type="number" name="ring" min="0" step="0.05" value="1"></label></fieldset>',
        '<button type="button" id="reset">Reset view</button>',
    ]
    body = f'<div class="controls">{"".join(controls)}</div>'
    if payload["linear_only"]:
        body += '<p class="note">Some losses are zero or negative, so there is no log scale.</p>'
    if len(planes) > 1:
        body += (
            f'<p class="note warn">These surfaces lie on {len(planes)} different planes or grids. They are shown '
            "apart, each with its own range; heights of different planes do not compare.</p>"
        )
    alike: dict[str, list[SurfaceGroup]] = {}
    for family in planes:
        alike.setdefault(plane_kind(family[0]), []).extend(family)
    for n, family in enumerate(planes):  # all planes of a kind have one table, above the first of them
        of_kind = alike.pop(plane_kind(family[0]), [])
        flat = "".join(_flatness_html(of_kind, key, name, ids) for key, name in ids)
        body += _family_html(n, family, ids, plane_named(n, len(planes)), flat)
    titles = "".join(
        f"<span {shown_for(key, ids)}>{escape(_first_sentence(planes, key, name))}</span>" for key, name in ids
    )
    return f'<section id="surfaces"><p class="eyebrow">Surfaces</p><h2>{titles}</h2>{body}</section>'


def _first_sentence(planes: Sequence[Sequence[SurfaceGroup]], key: str, name: str) -> str:
    plane = next(plane for family in planes for plane in family if key in plane.sets)
    return surface_sentence(plane.sets[key], plane.columns, name)


def _family_html(n: int, family: Sequence[SurfaceGroup], ids: Ids, where: str, flat: str) -> str:
    first = family[0]
    heading = f'<p class="eyebrow">Plane {n + 1}</p>' if where else ""
    shared = (
        " Each checkpoint is the centre of its own plane, along directions drawn from the same seed."
        if len(first.columns) > 1 and "random" in first.name
        else ""
    )
    names = "".join(
        f"<span {shown_for('', ids, n, k)}>{escape(capital(plane.name))}.</span>" for k, plane in enumerate(family)
    )
    several = len(family) > 1
    choose = picker(f"plane{n}", "Plane", [f"{k + 1} of {len(family)}" for k in range(len(family))]) if several else ""
    pictured = slots(first.columns)
    many = f"all {len(first.columns)}" if len(first.columns) > 2 else "both"
    whole = {checkpoint_key(one) for members in first.sets.values() for _, one in members}
    what = "checkpoints" if len(whole) == len(first.columns) else "measurements"
    play = _play_html(n, f"through {many} {what}, in the first picture")
    play = play if len(first.columns) > 1 and not _runs(family) else ""
    columns = "".join(_column_html(n, c, first, ids, where) for c in pictured)
    pictures = (
        f'<div class="columns">{columns}</div><div class="actions readout"><p class="note" id="p{n}-readout" '
        'aria-live="polite">Point at a contour, or move over it with the arrow keys, to read the loss of every '
        f'checkpoint at that place.</p><button type="button" id="p{n}-copy" hidden>Copy as JSON</button> <span '
        'role="status" class="note"></span></div>'
    )
    told = "".join(_plane_texts(n, family, k, ids) for k in range(len(family)))
    return (
        f'<div class="plane">{heading}{flat}<div class="planebar">{choose}{play}</div><p class="note">{names}{shared}'
        " The marked point is the checkpoint, the open diamond the lowest cell; × (in 3-D a diamond on the floor) "
        f"marks a cell left out: not finite, or not measured.{_pictured(pictured, first.columns)}</p>{pictures}{told}"
        f'<figure><div class="planebar">{_cut_sliders(n, first)}</div><div class="chart double" id="p{n}-slices" '
        f'role="group" aria-label="Loss along the two axes{where}"></div></figure>{_runs_html(n, family, where)}</div>'
    )


def _pictured(which: Sequence[int], columns: Sequence[Style]) -> str:
    """Whose pictures these are, where not every checkpoint has one."""
    if len(which) == len(columns):
        return ""
    methods = {style.method or style.name for style in columns}
    whose = (
        "One checkpoint of each method has" if len(methods) == len(which) else f"{len(which)} of {len(columns)} have"
    )
    return f" {whose} a picture, and curves below it; the others are in the pickers and in the numbers."


def _column_html(n: int, c: int, plane: SurfaceGroup, ids: Ids, where: str) -> str:
    """A column as it is before any script; the script fills it for other data, planes and checkpoints."""
    slot = slots(plane.columns).index(c)
    style, (key, data) = plane.columns[c], ids[0]
    name, identity = escape(style.name), f"p{n}c{slot}"
    surface = next((one for column, one in plane.sets.get(key, []) if column == c), None)
    names = [one.name for one in plane.columns]
    choose = picker(identity, "Checkpoint", names, c) if len(names) > 1 else ""
    described = f' aria-describedby="p{n}-readout"'
    plots = "".join(
        f'<div class="{kind}" id="{identity}-{kind}" role="{role}" tabindex="0" aria-label="{what} of the loss around '
        f'{name}{where}"{described if kind == "contour" else ""}></div>'
        for kind, role, what in (("scene", "group", "3-D surface"), ("contour", "application", "Contours"))
    )
    return (
        f'<article class="column"><div class="title"><h3><span class="swatch" id="{identity}-swatch" style="--swatch:'
        f'{style.color}"></span><span id="{identity}-name">{name}</span></h3>{choose}</div>'
        f'<div id="{identity}-stat">{stat(surface, data) if surface else no_surface(data)}</div>{plots}'
        f'<p class="badge" id="{identity}-marks"></p><p class="badge" id="{identity}-clip"></p>'
        f'<div id="{identity}-badge">{badge(surface) if surface else ""}</div></article>'
    )


def _plane_texts(n: int, family: Sequence[SurfaceGroup], k: int, ids: Ids) -> str:
    plane, told, captions = family[k], "", ""
    like = next(iter(family[0].sets.values()))[0][1]
    for key, name in ids:
        members, attributes = plane.sets.get(key, []), shown_for(key, ids, n, k)
        there = {column for column, _ in members}
        lost = [style.name for column, style in enumerate(plane.columns) if column not in there]
        if lost:
            whose = ", ".join(lost) if len(lost) <= MOST_NAMED else f"{len(lost)} checkpoints"
            command = surface_command(name, like, num_planes=len(family))
            what = f"of {whose} on {'these planes' if len(family) > 1 else 'this plane'}"
            captions += f"<div {attributes}>{missing(f'No {name} surface {what}', command)}</div>"
        if not members:
            continue
        told += f"<div {attributes}>{numbers(_surface_numbers(members, plane.columns))}</div>"
        captions += (
            f'<div class="slices" {attributes}><h3>{escape(slice_sentence(members, plane.columns, name))}</h3>'
            f'<p class="note">The two lines {_through(members)} the centre of each slice. Bands are ± one '
            "standard error over the examples, cut at the axis where they reach zero; points are joined by straight "
            "lines. Elsewhere than through the centre the slices have neither band nor parabola: hover has the error."
            f"{escape(_model_note(members))}</p></div>"
        )
    return told + captions


def _through(members: Sequence[tuple[int, Surface]]) -> str:
    return "through" if all(centre_cell(one) is not None for _, one in members) else "nearest to"


def _cut_sliders(n: int, plane: SurfaceGroup) -> str:
    """Which row and which column of the grid the slices show: at first those through the centre."""
    surface = next(iter(plane.sets.values()))[0][1]
    sliders = "".join(
        slider(f"{name}{n}", f"Cut along {along}, at {across} =", 0, len(at) - 1, nearest(at))
        for name, along, across, at in (("row", "x", "y", surface.y), ("col", "y", "x", surface.x))
    )
    lines = [("axes", "the axes"), ("diagonals", "the diagonals")] if len(surface.x) == len(surface.y) > 1 else []
    return (radios(f"cut{n}", "Cut along", lines, "axes") if lines else "") + sliders


def _model_note(members: Sequence[tuple[int, Surface]]) -> str:
    """What the dashed parabolas are (Fine points: an eigenvalue is infinitesimal, a difference is not)."""
    models = [m for _, one in members for m in quadratic_models(one, alone=len(members) == 1) if m is not None]
    exact = [m for m in models if m.of_hessian]
    if exact:
        told = "; ".join(f"{short(m.curvature)} and {short(m.second_difference)}" for m in exact)
        return (
            " Dashed: L(0) + g x + ½ λ x², λ the Hessian’s eigenvalue along the axis, g the central difference over "
            f"one step of the grid. Eigenvalue and second difference over one step, axis by axis: {told}. The two "
            "need not agree: the second is over a finite step, and in a net with ReLU kinks add curvature that the "
            "Hessian does not hold."
        )
    if models:
        return (
            " A parabola with the second difference over one step of the grid can be switched on in the legend: the "
            "curvature of this slice over a finite step, not the Hessian’s (in a net with ReLU kinks add to it)."
        )
    return ""


def _play_html(n: int, what: str) -> str:
    return f'<p class="play"><button type="button" id="p{n}-play">Play</button> <span class="note">{what}</span></p>'


def _runs(family: Sequence[SurfaceGroup]) -> list[Surface]:
    """Those on which a run was dropped."""
    surfaces = [one for plane in family for members in plane.sets.values() for _, one in members]
    return [one for one in surfaces if one.trajectory is not None]


def _runs_html(n: int, family: Sequence[SurfaceGroup], where: str) -> str:
    seen = _runs(family)
    if not seen:
        return ""
    last = len(epochs_of(family)) - 1
    controls = slider(f"epoch{n}", "Epoch", 0, last, last) + _play_html(n, "through its epochs")
    return (
        "<figure><figcaption><h3>The run along its epochs: its own loss, and the loss of the plane below it</h3><p "
        f'class="note">{_parting(seen)} Where the two losses '
        "part, the contour does not show what the run went through.</p></figcaption>"
        f'<div class="planebar">{controls}</div><div class="chart double" id="p{n}-run" role="group" '
        f'aria-label="Own loss and plane’s loss against epoch{where}"></div></figure>'
    )


def _parting(seen: Sequence[Surface]) -> str:
    """Why a checkpoint's own loss is not the plane's below it."""
    text = "A checkpoint of the run is dropped onto the plane, and what is off the plane is lost."
    if all(one.settings.get("batch_norm", "frozen") == "frozen" for one in seen):
        text += " With BatchNorm the plane also has the running statistics of its centre, the checkpoint its own."
    return text


def _flatness_html(planes: Sequence[SurfaceGroup], key: str, name: str, ids: Ids) -> str:
    """Mean and spread over the planes: what one of the pictures alone cannot tell."""
    rows = []
    names = ("curvature", "radius_small", "radius_large", "rise_half", "rise_edge")
    of: dict[str, list[Surface]] = {}
    for plane in planes:
        for column, one in plane.sets.get(key, []):
            of.setdefault(plane.columns[column].name, []).append(one)
    for checkpoint, surfaces in of.items():
        if len(surfaces) < 2:  # without a spread
            continue
        try:
            found = flatness(surfaces)
        except ValueError:  # no centre on the grid
            continue
        cells = [_over_planes(getattr(found, measure)) for measure in names]
        rows.append([checkpoint, str(len(surfaces)), short(found.loss), *cells])
    if not rows:
        return ""
    radii = [f"radius +{rise:g}" for rise in RISES]
    head = ["checkpoint", "planes", "centre loss", "curvature", *radii, "rise, half way", "rise, edge"]
    step = first_step(next(iter(of.values()))[0])
    bowl = f"; below {short(step)}, one step of the grid, the loss is taken for a bowl" if math.isfinite(step) else ""
    text = (
        f"On {name}, over random planes of different seeds: mean ± standard deviation over the planes, which says how "
        "much one picture depends on its draw. Radius +d: the distance along an axis at which the loss has risen by d "
        f"nats (beyond: on some axis it never has){bowl}. "
        "Rise: the mean on the square ring at half and at the whole extent. "
        "Curvature: the second difference over one step of the grid."
    )
    made = table(head, rows, sortable=True)
    return (
        f'<div {shown_for(key, ids)}><h3>Flatness over several planes</h3><p class="note">{escape(text)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Flatness over planes">{made}</div></div>'
    )


def _over_planes(values: Array) -> str:
    mean, spread = mean_and_spread(values)
    return plus_minus(mean, spread) if math.isfinite(spread) else _cell(mean)


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
