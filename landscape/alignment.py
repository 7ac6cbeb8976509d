"""Gradient congruence: do training and validation data ask for the same step?

c(theta) = cos(g_t(theta), g_v(theta_v)) with theta_v = theta + radius g_v(theta) / ||g_v(theta)||, for the gradients
g_t, g_v of the mean losses on training and validation data (Figure 1 of a later version of arXiv:2406.07107; the
caption is all that defines it, the rest is ours). Here in eval mode at one checkpoint; a training run records the
same quantity for mini-batches in train mode, before and after each step.

Legend: P parameters.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from landscape.objective import Objective
from landscape.results import Array, Congruence, CongruenceTrace, Json, Record


def gradient_congruence(
    train_objective: Objective, validation_objective: Objective, *, radius: float = 0.05
) -> Congruence:
    """c(theta) with its standard error, by the delete-one-batch jackknife over both data sets at fixed theta_v.

    A zero gradient has no direction: the value is NaN, and `status` says which gradient it was. One batch shows no
    spread: the standard error is NaN. Cost: two gradients of the training data and three of the validation data.

    Raises:
        ValueError: If the two objectives have different parameters, or radius is negative or not finite.
    """
    if train_objective.shapes != validation_objective.shapes or not train_objective.theta.equal(
        validation_objective.theta
    ):
        raise ValueError("the two objectives are at different parameters: make both from one model")
    if not math.isfinite(radius) or radius < 0:
        raise ValueError(f"radius must be finite and not negative, got {radius}")
    num_validation_examples = validation_objective.centre.num_examples  # refuses what draws at random, as the next does
    theta, _ = train_objective.theta, train_objective.centre
    g_v = validation_objective.gradient()
    norm = float(g_v.double().norm())
    theta_v = theta + radius * g_v / norm if norm else theta
    g_t, g_vv = train_objective.gradient(), validation_objective.gradient(theta_v)
    value, status = _cosine(g_t, g_vv)
    variance = _jackknife(train_objective, theta, g_t, g_vv) + _jackknife(validation_objective, theta_v, g_vv, g_t)
    return Congruence(
        value=value,
        standard_error=math.sqrt(variance) if status == "ok" else math.nan,
        status=status,
        checkpoint={"hash": train_objective.theta_hash},
        settings={
            **train_objective.describe(),
            "radius": radius,
            "num_validation_examples": num_validation_examples,
            "validation_hash": validation_objective.data_hash,
        },
        checks={"train_gradient_norm": float(g_t.double().norm()), "validation_gradient_norm": norm},
    )


def congruence_trace(
    metrics: Iterable[str], *, checkpoint: Record | None = None, settings: Record | None = None
) -> CongruenceTrace:
    """The trace that a training run recorded, from the lines of its metrics.jsonl.

    Raises:
        ValueError: If a line lacks one of the trace's fields, or no epoch was probed.
    """
    rows = _rows([line for line in metrics if line.strip()])
    missing = {name for name in _COLUMNS for row in rows if name not in row}
    if missing or not rows:
        lacks = f"no {', '.join(sorted(missing))}" if missing else "no epoch yet"
        raise ValueError(f"the metrics have {lacks}: not a run of landscape train, or an older one")
    columns = {name: _column(rows, name) for name in _COLUMNS}
    if not (columns["num_probes"] > 0).any():
        raise ValueError("no epoch of this run was probed: train with --probe-every")
    return CongruenceTrace(
        epoch=columns.pop("epoch").astype(np.int64),
        num_probes=np.nan_to_num(columns.pop("num_probes")).astype(np.int64),
        checkpoint=checkpoint or {},
        settings=settings or {},
        **columns,  # type: ignore[arg-type]
    )


def _rows(lines: Sequence[str]) -> list[Record]:
    """The lines as records; a last line that is being written, or was torn, is dropped."""
    rows: list[Any] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"line {number} is damaged ({error})") from error
        if not isinstance(row, dict) or not all(_is_number(row.get(name)) for name in _COLUMNS):
            raise ValueError(f"line {number} does not hold numbers: not a run of landscape train")
        if not (_is_count(row.get("epoch")) and row["epoch"] > (rows[-1]["epoch"] if rows else 0)):
            raise ValueError(f"line {number} has epoch {row.get('epoch')!r} out of its order")
        if not (row.get("num_probes") is None or _is_count(row["num_probes"])):
            raise ValueError(f"line {number} has {row['num_probes']!r} probes")
        rows.append(row)
    return rows


def _is_count(value: Json) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: Json) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


_COLUMNS = [f.name for f in dataclasses.fields(CongruenceTrace) if f.name not in ("checkpoint", "settings", "checks")]


def _column(rows: Sequence[Record], name: str) -> Array:
    return np.array([math.nan if row[name] is None else cast(float, row[name]) for row in rows])


def _cosine(a: Tensor, b: Tensor) -> tuple[float, str]:
    norms = float(a.double().norm()), float(b.double().norm())
    for name, norm in zip(("training", "validation"), norms, strict=True):
        if norm == 0:
            return math.nan, f"the {name} gradient is zero"
    value = float(a.double() @ b.double()) / (norms[0] * norms[1])
    return value, "ok" if math.isfinite(value) else "the gradient is not finite"


def _jackknife(objective: Objective, theta: Tensor, mean: Tensor, other: Tensor) -> float:
    """Variance of cos(mean, other) over which batches went into `mean`, each left out once (Miller 1974)."""
    rows: list[list[float]] = []
    for gradient, count in objective.batch_gradients(theta):
        g = gradient.double()
        rows.append([float(g @ mean.double()), float(g @ g), float(g @ other.double()), count])
    with_mean, squared, with_other, counts = np.array(rows).T
    if len(rows) < 2:
        return math.nan
    total = counts.sum()
    rest = total - counts
    m2, o2, mo = (float(torch.dot(a.double(), b.double())) for a, b in ((mean, mean), (other, other), (mean, other)))
    dot = (total * mo - with_other) / rest
    norm2 = (total**2 * m2 - 2 * total * with_mean + squared) / rest**2
    left_out: Array = dot / np.sqrt(np.maximum(norm2, 0.0) * o2) if o2 else np.full(len(rows), math.nan)
    return float((len(rows) - 1) / len(rows) * ((left_out - left_out.mean()) ** 2).sum())
