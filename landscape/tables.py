"""Results as tables: the numbers with their uncertainty, for the terminal and for --json.

Numbers are aligned on the point; an uncertainty has the decimals of what it qualifies. Each table also holds its rows
as plain records, so that what is printed and what a program reads are the same measurement.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from landscape.flatness import RISES, Flatness, flatness, mean_and_spread
from landscape.formatting import percent, plus_minus, short
from landscape.grouping import checkpoint_key
from landscape.readings import centre, mean_over_epochs, ring_rise
from landscape.results import Array, Congruence, CongruenceTrace, Eigenpairs, Record, Result, Surface

R = TypeVar("R", Surface, Eigenpairs, Congruence)


@dataclass(frozen=True)
class Table:
    """A title, a header and rows of text, notes below, and the rows as records."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    records: Sequence[Record]

    def text(self) -> str:
        """The table as lines of at most about 100 columns."""
        title = textwrap.wrap(self.title, 98)
        notes = [line for note in self.notes for line in textwrap.wrap(note, 98)]
        return "\n".join([*title, *aligned(self.header, self.rows), *notes])


def tables(results: Sequence[Result]) -> list[Table]:
    """One table for each kind of result that is there, and for each data that it was measured on."""
    traces = [r for r in results if isinstance(r, CongruenceTrace)]
    made = [
        *(_surfaces(same) for same in _on_same_data([r for r in results if isinstance(r, Surface)])),
        *(eigenpairs_table(same) for same in _on_same_data([r for r in results if isinstance(r, Eigenpairs)])),
        *(congruence_table(same) for same in _on_same_data([r for r in results if isinstance(r, Congruence)])),
    ]
    return [*made, trace_table(traces)] if traces else made


def _surfaces(surfaces: Sequence[Surface]) -> Table:
    several = len({checkpoint_key(one) for one in surfaces}) < len(surfaces)
    return flatness_table(surfaces) if several else surface_table(surfaces)


def _on_same_data(results: Sequence[R]) -> list[list[R]]:
    names = ("split", "data_hash", "steps", "extent", "directions", "normalization", "operator")
    groups: dict[str, list[R]] = {}
    for result in results:
        groups.setdefault(repr([result.settings.get(name) for name in names]), []).append(result)
    return list(groups.values())


def summary_table(results: Sequence[Result]) -> Table:
    """One row for each checkpoint: test accuracy, train loss, and the largest eigenvalue with that loss beside it."""
    rows: list[list[str]] = []
    records: list[Record] = []
    keys = list(dict.fromkeys(str(r.checkpoint.get("hash")) for r in results))
    for key in keys:
        mine = [r for r in results if str(r.checkpoint.get("hash")) == key]
        parts = {str(r.settings.get("split")): centre(r) for r in mine if isinstance(r, Surface)}
        pairs = next((r for r in mine if isinstance(r, Eigenpairs)), None)
        top = float(pairs.values[0]) if pairs else math.nan
        record: Record = {"checkpoint": _label(mine[0]), "lambda_1": top}
        for split, at in parts.items():
            record |= {f"{split}_loss": at.loss, f"{split}_accuracy": at.accuracy}
        records.append(record)
        test, train = parts.get("test"), parts.get("train")
        rows.append(
            [
                _label(mine[0]),
                percent(test.accuracy, test.accuracy_error) if test else "",
                plus_minus(train.loss, train.error) if train else "",
                plus_minus(top, float(pairs.residuals[0])) if pairs else "",
                f"{math.log(top):.2f}" if top > 0 else "",
                f"{math.log10(top):.2f}" if top > 0 else "",
            ]
        )
    title = "All checkpoints: accuracy on test data, loss on training data as labelled, curvature of that loss"
    header = ["", "test accuracy", "train loss", "lambda_1", "ln", "log10"]
    notes = ["lambda_1 means little without its loss: where labels were memorised, curvature falls with the loss"]
    return Table(title, header, rows, notes, records)


def surface_table(surfaces: Sequence[Surface]) -> Table:
    """Loss and accuracy at each centre, and the mean rise half way out and at the edge of the grid."""
    records = [_surface_record(s) for s in surfaces]
    settings = surfaces[0].settings
    rows = [
        [
            str(r["checkpoint"]),
            plus_minus(_number(r["loss"]), _number(r["loss_standard_error"])),
            percent(_number(r["accuracy"]), _number(r["accuracy_standard_error"])),
            "" if math.isnan(_number(r["rise_half_way"])) else short(_number(r["rise_half_way"])),
            short(_number(r["rise_at_edge"])),
            str(r["num_nonfinite"]),
        ]
        for r in records
    ]
    worst = max((_number(s.checks.get("centre_error")) for s in surfaces), default=math.nan)
    agree = all(s.checks.get("centre_ok") for s in surfaces)
    notes = [
        "rise is the mean loss above the centre's on the square ring at half and at the whole extent",
        f"the centre {'equals' if agree else 'DIFFERS from'} the checkpoint's loss (relative difference {worst:.1g})",
    ]
    steps, extent = settings.get("steps"), settings.get("extent")
    title = (
        f"Loss on a {settings.get('directions')} plane, {settings.get('unit')}, {steps} x {steps} points, "
        f"extent {extent}, {_data(settings)}"
    )
    header = ["", "loss", "accuracy", "rise, half", "rise, edge", "not finite"]
    return Table(title, header, rows, notes, records)


def flatness_table(surfaces: Sequence[Surface]) -> Table:
    """For each checkpoint how flat the loss is on several planes: mean and standard deviation over the planes."""
    by_checkpoint: dict[str, list[Surface]] = {}
    for one in surfaces:
        by_checkpoint.setdefault(checkpoint_key(one), []).append(one)
    found = [(mine[0], flatness(mine)) for mine in by_checkpoint.values()]
    names = ("curvature", "radius_small", "radius_large", "rise_half", "rise_edge")
    rows = [
        [_label(one), short(measures.loss), *(_over_planes(getattr(measures, n)) for n in names)]
        for one, measures in found
    ]
    records: list[Record] = [_flatness_record(one, measures) for one, measures in found]
    settings, counts = surfaces[0].settings, {len(measures.curvature) for _, measures in found}
    planes = " or ".join(map(str, sorted(counts)))
    title = (
        f"Flatness on {planes} {settings.get('directions')} planes, {settings.get('unit')}, "
        f"extent {settings.get('extent')}, {_data(settings)}"
    )
    header = ["", "loss", "curvature", *(f"radius +{rise:g}" for rise in RISES), "rise, half", "rise, edge"]
    agree = all(one.checks.get("centre_ok") for one in surfaces)
    notes = [
        "± is the standard deviation over planes. radius +d: the distance along an axis at which the loss has "
        "risen by d nats (inf: nowhere on some axis). rise: the mean on the square ring at half and at the whole "
        "extent. curvature: the second difference over one step of the grid, mean of both axes. Lengths are those of "
        "an axis",
        f"the centre {'equals' if agree else 'DIFFERS from'} the checkpoint's loss on every plane",
    ]
    return Table(title, header, rows, notes, records)


def _over_planes(values: Array) -> str:
    mean, spread = mean_and_spread(values)
    return plus_minus(mean, spread) if math.isfinite(spread) else short(mean)


def _flatness_record(surface: Surface, measures: Flatness) -> Record:
    values: Record = {}
    for name in ("curvature", "radius_small", "radius_large", "rise_half", "rise_edge"):
        mean, spread = mean_and_spread(getattr(measures, name))
        values |= {name: mean, f"{name}_standard_deviation": spread}
    return {
        "checkpoint": _label(surface),
        "split": surface.settings.get("split"),
        "loss": measures.loss,
        "num_planes": len(measures.curvature),
        **values,
    }


def eigenpairs_table(results: Sequence[Eigenpairs]) -> Table:
    """The largest eigenvalue raw, as ln, as log10 and relative to the first, with the loss it was measured at."""
    first = float(results[0].values[0])
    records = [_eigenpairs_record(r, first) for r in results]
    others = sorted({1, min(len(r.values) for r in results) - 1} - {0} if len(results[0].values) > 1 else {})
    rows = [
        [
            str(record["checkpoint"]),
            short(result.loss),
            plus_minus(float(result.values[0]), float(result.residuals[0])) + _flag(result),
            *(_two_decimals(record[name]) for name in ("ln", "log10", "relative_to_first")),
            *(short(float(result.values[place])) for place in others),
            str(result.num_matvecs),
        ]
        for record, result in zip(records, results, strict=True)
    ]
    settings, relative = results[0].settings, f"vs {_label(results[0])}"
    header = ["", "loss", "lambda_1", "ln", "log10", relative, *(f"lambda_{i + 1}" for i in others), "products"]
    return Table(_operator_title(settings), header, rows, [_verdict(results)], records)


def _operator_title(settings: Record) -> str:
    """What is known of the operator; of a bare matvec, nothing is."""
    parameters, parts = (
        settings.get("num_parameters"),
        [f"Largest eigenvalues of {settings.get('operator', 'an operator')}"],
    )
    if "loss" in settings:
        parts = [f"Hessian of the mean {_loss_name(settings)}", _data(settings), f"{settings.get('mode')} mode"]
    if isinstance(parameters, int):
        parts += [f"all {parameters:,} parameters", str(settings.get("dtype"))]
    return ", ".join(parts)


def _two_decimals(value: object) -> str:
    number = _number(value)
    return "" if math.isnan(number) else f"{number:.2f}"


def congruence_table(results: Sequence[Congruence]) -> Table:
    """Gradient congruence at each checkpoint with its standard error."""
    records: list[Record] = [
        {
            "checkpoint": _label(r),
            "cosine": r.value,
            "standard_error": r.standard_error,
            "status": r.status,
            "radius": r.settings.get("radius"),
        }
        for r in results
    ]
    rows = [[_label(r), plus_minus(r.value, r.standard_error), "" if r.status == "ok" else r.status] for r in results]
    settings = results[0].settings
    title = (
        f"Cosine of the training and the validation gradient, eval mode, radius {settings.get('radius')}, "
        f"{settings.get('num_examples'):,} and {settings.get('num_validation_examples'):,} examples"
    )
    notes = ["± is one standard error, from leaving out each batch once"]
    return Table(title, ["", "cosine", "status"], rows, notes, records)


def trace_table(traces: Sequence[CongruenceTrace]) -> Table:
    """Gradient congruence during training: means over all probes, with their standard errors over the probed epochs."""
    records: list[Record] = []
    rows = []
    for trace in traces:
        record: Record = {"checkpoint": _label(trace), "num_probes": int(trace.num_probes.sum())}
        cells = []
        for name in ("cosine_b", "cosine_a", "change"):
            mean, error = mean_over_epochs(trace, name)
            record |= {name: mean, f"{name}_standard_error": error}
            cells.append(plus_minus(mean, error))
        records.append(record)
        rows.append([_label(trace), *cells, str(trace.num_probes.sum())])
    header = ["", "cosine before a step", "after it", "change", "probes"]
    title = f"Gradient congruence during training, train mode, probe radius {traces[0].settings.get('radius')}"
    notes = ["means over the run's epochs; ± is one standard error, from the spread of the probes within each"]
    return Table(title, header, rows, notes, records)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column flush left, the others aligned on their decimal points.

    Example:
        >>> aligned(["", "x"], [["a", "1.5"], ["bc", "10.25"]])
        ['      x', 'a    1.5', 'bc  10.25']
    """
    left = [max((len(_split(row[c])[0]) for row in rows), default=0) for c in range(len(header))]
    bodies = [
        [row[0], *(" " * (left[c] - len(_split(row[c])[0])) + row[c] for c in range(1, len(header)))] for row in rows
    ]
    widths = [max(len(line[c]) for line in [header, *bodies]) for c in range(len(header))]
    room = [min(max(left[c] + 1, len(header[c])), widths[c]) for c in range(len(header))]
    heads = [header[0].ljust(widths[0])]
    heads += [header[c].rjust(room[c]).ljust(widths[c]) for c in range(1, len(header))]
    lines = [heads, *([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in bodies)]
    return ["  ".join(line).rstrip() for line in lines]


def _split(cell: str) -> tuple[str, str]:
    number = cell.split(" ")[0]
    whole, point, rest = number.partition(".")
    return whole, point + rest


def _surface_record(surface: Surface) -> Record:
    at = centre(surface)
    return {
        "checkpoint": _label(surface),
        "split": surface.settings.get("split"),
        "loss": at.loss,
        "loss_standard_error": at.error,
        "accuracy": at.accuracy,
        "accuracy_standard_error": at.accuracy_error,
        "rise_half_way": ring_rise(surface, 0.5),
        "rise_at_edge": ring_rise(surface, 1.0),
        "num_nonfinite": surface.num_nonfinite,
        "centre_error": surface.checks.get("centre_error"),
        "centre_ok": surface.checks.get("centre_ok"),
    }


def _eigenpairs_record(result: Eigenpairs, first: float) -> Record:
    top = float(result.values[0])
    return {
        "checkpoint": _label(result),
        "loss": result.loss,
        "values": result.values.tolist(),
        "residuals": result.residuals.tolist(),
        "converged": result.converged.tolist(),
        "complete": result.complete,
        "ln": math.log(top) if top > 0 else math.nan,
        "log10": math.log10(top) if top > 0 else math.nan,
        "relative_to_first": top / first if first else math.nan,
        "num_matvecs": result.num_matvecs,
        "symmetry": result.checks.get("symmetry"),
        "repeatable": result.checks.get("repeatable"),
    }


def _flag(result: Eigenpairs) -> str:
    return "" if result.converged.all() and result.complete else " (!)"


def _verdict(results: Sequence[Eigenpairs]) -> str:
    unmet = {_label(r): int((~r.converged).sum()) for r in results if not r.converged.all()}
    open_pairs = [f"{label}: {count}" for label, count in unmet.items()]
    missed = [_label(r) for r in results if not r.complete]
    symmetry = max((_number(r.checks.get("symmetry")) for r in results), default=math.nan)
    parts = [
        "± is the residual ||Hv - lambda v||",
        f"(!) NOT converged: {', '.join(open_pairs)}" if open_pairs else "all converged",
        f"(!) possibly incomplete: {', '.join(missed)}" if missed else "none missed",
        f"symmetry {symmetry:.0e}",
    ]
    return "; ".join(parts)


def _label(result: Result) -> str:
    return str(result.checkpoint.get("label") or str(result.checkpoint.get("hash", ""))[:8] or "checkpoint")


def _data(settings: Record) -> str:
    labels = settings.get("labels")
    noise = f", labels {labels}" if labels and labels != "clean" else ""
    count = settings.get("num_examples")
    known = f"{count:,}" if isinstance(count, int) else "unknown"
    return " ".join(filter(None, [known, str(settings.get("split") or ""), f"examples{noise}"]))


def _loss_name(settings: Record) -> str:
    name = str(settings.get("loss"))
    return "cross-entropy" if name in ("CrossEntropyLoss", "cross_entropy") else name


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
