"""What stands at each picture: the loss at the checkpoint, and how far the picture can be believed."""

from __future__ import annotations

import math

import numpy as np

from landscape.formatting import percent, plus_minus, short
from landscape.page.markup import escape
from landscape.readings import centre, centre_cell, measured
from landscape.results import Line, Surface
from landscape.subjects import plain_loop
from landscape.view import STATUS_NAMES


def stat(surface: Surface, data: str) -> str:
    """Loss and accuracy at the checkpoint; of a run seen from the plane, how much of it the plane holds."""
    return f'<p class="stat">{_stat(surface, data)}</p>' + _run(surface)


def _stat(surface: Surface, data: str) -> str:
    at = centre(surface)
    if surface.loss.size == 1:
        value, error = float(surface.loss[0, 0]), float(surface.standard_error[0, 0])
        return f"a grid of one cell, nothing to draw: {escape(data)} loss <b>{plus_minus(value, error)}</b>"
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


def badge(surface: Surface | Line) -> str:
    """The check of the centre, and the cells that are left out."""
    left_out = np.isnan(measured(surface))
    what = "cells" if isinstance(surface, Surface) else "points"
    count = (
        f'<p class="badge warn">× {left_out.sum()} of {left_out.size} {what} left out ({_statuses(surface)})</p>'
        if left_out.any()
        else ""
    )
    error, passed = surface.checks.get("centre_error"), surface.checks.get("centre_ok")
    difference = (
        f" (relative difference {error:.1g})" if isinstance(error, int | float) and math.isfinite(error) else ""
    )
    against = f"that of {loop}" if (loop := plain_loop(surface.settings)) else "the checkpoint’s"
    if passed is True:
        return f'<p class="badge">✓ centre check: loss at the centre equals {against}{difference}</p>{count}'
    if passed is False:
        text = f"centre check FAILED: loss at the centre differs from {against}{difference}"
        return f'<p class="badge warn">✗ {text}</p>{count}'
    return f'<p class="badge">The centre was not checked against the checkpoint.</p>{count}'


def _statuses(surface: Surface | Line) -> str:
    codes, counts = np.unique(surface.status[np.isnan(measured(surface))], return_counts=True)
    return ", ".join(f"{n} {STATUS_NAMES.get(int(code), 'unknown')}" for code, n in zip(codes, counts, strict=True))


def no_surface(data: str) -> str:
    """That there is none on this data; the command that makes it stands once, below the pictures."""
    return f'<p class="missing">Not measured on {escape(data)}.</p>'


def surface_command(split: str, like: Surface | None = None, *, num_planes: int = 1) -> str:
    """The command that measures on this part of the data; where there is a surface already, one to go beside it."""
    name = {"validation": "val"}.get(split.split(",")[0], split.split(",")[0])
    parts = ["landscape surface CKPT", *([] if name == "train" else [f"--split {name}"])]
    if like is None:
        return " ".join(parts)
    settings = {**like.settings, "steps": len(like.x)}
    usual = {"directions": "random", "normalization": "filter", "seed": 0, "steps": 51, "extent": 1.0}
    usual |= {"batch_norm": "frozen", "precision": "fp32"}
    for option, default in usual.items():
        if (value := settings.get(option)) not in (None, default):
            parts.append(f"--{option.replace('_', '-')} {'FILE' if value == 'given' else value}")
    layers = settings.get("layers")
    parts += [f"--layers {layer}" for layer in layers] if isinstance(layers, list) else []
    parts += [f"--planes {num_planes}"] if num_planes > 1 else []
    return " ".join([*parts, f"--out surface-{name}.npz"])


def _run(surface: Surface) -> str:
    run = surface.trajectory
    if run is None or not run.epoch.size:
        return ""
    share, far = f"{100 * run.explained_variance:.3g} %", short(float(run.distance.max()))
    told = f"Epochs {run.epoch[0]} to {run.epoch[-1]} in white, dropped onto the plane"
    return (
        f'<p class="stat">{told}: it holds {share} of their squared distances; at most {far} off it. The contour is '
        "the loss of the plane, not of the run.</p>"
    )
