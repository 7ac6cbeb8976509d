"""Results as tables: the numbers with their uncertainty, for the terminal and for --json.

Numbers are aligned on the point; an uncertainty has the decimals of what it qualifies. Each table also holds its rows
as plain records, so that what is printed and what a program reads are the same measurement.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard, TypeVar, cast

import numpy as np

from landscape.flatness import RISES, Flatness, flatness, mean_and_spread
from landscape.formatting import percent, plus_minus, short, signed
from landscape.grouping import PLANES, checkpoint_key
from landscape.paired import comparable, paired_difference, paired_rise
from landscape.readings import (
    barrier,
    bulk_quantile,
    by_trace,
    centre,
    centre_cell,
    mean_over_epochs,
    quadratic_models,
    ring_rise,
)
from landscape.results import (
    MISSING,
    Array,
    Congruence,
    CongruenceTrace,
    CurvatureTrace,
    DataSpread,
    Density,
    Diagonal,
    Eigenpairs,
    Estimate,
    Line,
    Record,
    Result,
    Surface,
    Trajectory,
    t_factor,
)
from landscape.verdicts import hessian_verdict

R = TypeVar("R", Surface, Line, Eigenpairs, Density, Estimate, DataSpread, Congruence)


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
        *_paired([r for r in results if isinstance(r, Surface)]),
        *(trajectory_table(r, r.trajectory) for r in results if isinstance(r, Surface) and r.trajectory is not None),
        *(line_table(same) for same in _on_same_data([r for r in results if isinstance(r, Line)])),
        *(eigenpairs_table(same) for same in _on_same_data([r for r in results if _of_a_model(r)])),
        *_layer_tables([r for r in results if isinstance(r, Eigenpairs) and "layer" in r.settings]),
        *(data_spread_table(same) for same in _on_same_data([r for r in results if isinstance(r, DataSpread)])),
        *(curvature_trace_table(r) for r in results if isinstance(r, CurvatureTrace)),
        *(_whole_spectra(same) for same in _on_same_data([r for r in results if isinstance(r, Estimate)])),
        *(diagonal_table(r) for r in results if isinstance(r, Diagonal)),
        *(density_table(same) for same in _on_same_data([r for r in results if isinstance(r, Density)])),
        *(congruence_table(same) for same in _on_same_data([r for r in results if isinstance(r, Congruence)])),
    ]
    return [*made, trace_table(traces)] if traces else made


def _surfaces(surfaces: Sequence[Surface]) -> Table:
    several = len({_subject(one) for one in surfaces}) < len(surfaces)
    return flatness_table(surfaces) if several else surface_table(surfaces)


def _subject(surface: Surface) -> tuple[str, str]:
    """Whose surface it is: two files may hold equal weights."""
    return _label(surface), checkpoint_key(surface)


def _paired(surfaces: Sequence[Surface]) -> list[Table]:
    """A table of differences for each set of surfaces whose examples and grids are equal."""
    groups: list[list[Surface]] = []
    for one in surfaces:
        group = next((g for g in groups if comparable(g[0], one)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return [paired_table(group) for group in groups if len({_subject(one) for one in group}) == len(group) > 1]


def _on_same_data(results: Sequence[R]) -> list[list[R]]:
    names = (
        *("split", "data_hash", "steps", "extent", "intervals", "directions", "normalization", "layers"),
        *("operator", "kind", "batch_norm", "protocol"),
    )
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
            *(
                "" if math.isnan(_number(r[name])) else short(_number(r[name]))
                for name in ("rise_half_way", "rise_at_edge")
            ),
            str(r["num_nonfinite"]),
        ]
        for r in records
    ]
    ringed = any(math.isfinite(_number(r["rise_at_edge"])) for r in records)
    rise = "rise is the mean loss above the centre's on the square ring at half and at the whole extent"
    notes = [*([rise] if ringed else []), _centre_note(surfaces), *_missing_notes(surfaces), *_axes_notes(surfaces)]
    title = f"Loss on {_where('plane', settings)}, {settings.get('steps')} x {settings.get('steps')} points"
    title += f"{_early(settings)}, {_reach(settings)}, {_data(settings)}{_mode(settings)}"
    header = ["", "loss", "accuracy", "rise, half", "rise, edge", "not finite"]
    return Table(title, header, rows, notes, records)


def flatness_table(surfaces: Sequence[Surface]) -> Table:
    """For each checkpoint how flat the loss is on several planes: mean and standard deviation over the planes."""
    by_checkpoint: dict[tuple[str, str], list[Surface]] = {}
    for one in surfaces:
        by_checkpoint.setdefault(_subject(one), []).append(one)
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
        f"extent {settings.get('extent')}, {_data(settings)}{_mode(settings)}"
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


def paired_table(surfaces: Sequence[Surface]) -> Table:
    """How each surface differs from the first one, example by example: at the centre, and in its rise."""
    first, rows, records = surfaces[0], [], []
    assert first.examples is not None
    cell = centre_cell(first)
    for one in surfaces[1:]:
        at_points = paired_difference(one, first)
        found = {
            "loss": (at_points.value[cell], at_points.standard_error[cell]) if cell else (math.nan, math.nan),
            **{
                name: (rise.value, rise.standard_error)
                for name, rise in (
                    ("rise_half_way", paired_rise(one, first, 0.5)),
                    ("rise_at_edge", paired_rise(one, first, 1.0)),
                )
            },
        }
        values = {name: (float(value), float(error)) for name, (value, error) in found.items()}
        rows.append([_label(one), *(signed(*pair) if math.isfinite(pair[0]) else "" for pair in values.values())])
        record: Record = {"checkpoint": _label(one), "less": _label(first), "num_examples": at_points.num_examples}
        for name, (value, error) in values.items():
            record |= {name: value, f"{name}_standard_error": error}
        records.append(record)
    title = f"Differences to {_label(first)}, {_count(first.settings, 'num_paired')} of the {_data(first.settings)}"
    title += f", seed {first.settings['seed']}" if "seed" in first.settings else ""
    notes = ["± is one standard error of the difference on the same examples; below 0: lower, or rising less"]
    return Table(title, ["", "loss", "rise, half", "rise, edge"], rows, notes, records)


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


def line_table(lines: Sequence[Line]) -> Table:
    """Loss and accuracy at each centre, the lowest and the highest loss on the line, and the barrier between ends."""
    records = [_line_record(one) for one in lines]
    settings, between = lines[0].settings, any(r["barrier"] is not None for r in records)
    rows = [
        [
            str(r["checkpoint"]),
            plus_minus(_number(r["loss"]), _number(r["loss_standard_error"])),
            percent(_number(r["accuracy"]), _number(r["accuracy_standard_error"])),
            *(short(_number(r[name])) for name in ("lowest", "lowest_at", "highest", "highest_at")),
            *([short(_number(r["barrier"]))] if between else []),
            str(r["num_nonfinite"]),
        ]
        for r in records
    ]
    notes = [_centre_note(lines), *_missing_notes(lines), *_axes_notes(lines)]
    if any(r["barrier"] is None and one.checks.get("landmarks") for r, one in zip(records, lines, strict=True)):
        notes.append(
            "no barrier: the line does not end at the other checkpoint's loss. --batch-norm recalibrated mends it"
        )
    if between:
        notes.append("barrier is the highest loss above the straight line from one checkpoint's loss to the other's")
    header = ["", "loss", "accuracy", "lowest", "at", "highest", "at", *(["barrier"] if between else []), "not finite"]
    title = (
        f"Loss on {_where('line', settings)}, {settings.get('steps')} points{_early(settings)}, {_reach(settings)}, "
    )
    title += f"{_data(settings)}{_mode(settings)}"
    return Table(title, header, rows, notes, records)


def trajectory_table(surface: Surface, found: Trajectory) -> Table:
    """Where each checkpoint of a run lies on a plane, how far from it, its own loss and the plane's."""
    names = ("epoch", "x", "y", "distance", "loss", "standard_error", "plane_loss")
    columns = [getattr(found, name).tolist() for name in names]
    records: list[Record] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    rows = [
        [
            str(r["epoch"]),
            *(short(_number(r[name])) for name in ("x", "y", "distance")),
            plus_minus(_number(r["loss"]), _number(r["standard_error"])),
            short(_number(r["plane_loss"])),
        ]
        for r in records
    ]
    share = f"{100 * found.explained_variance:.3g} % of its squared distances from the centre lie in it"
    run, mode = surface.settings.get("trajectory_of"), surface.settings.get("batch_norm")
    title = f"{'A run' if run is None else f'The run {run}'} seen from the plane of {_label(surface)}; {share}"
    statistics = {"recalibrated": "recalibrated statistics", "train": "the statistics of each batch"}
    notes = [
        "distance is the checkpoint's from the plane; contours show the plane's loss at (x, y), not the checkpoint's. "
        "Where the two differ at distance 0, it is by BatchNorm: the plane has "
        f"{statistics.get(str(mode), 'the running statistics of its centre')}, the checkpoint its own running ones",
    ]
    return Table(title, ["epoch", "x", "y", "distance", "loss", "plane's loss"], rows, notes, records)


def eigenpairs_table(results: Sequence[Eigenpairs]) -> Table:
    """The eigenvalue that was asked for raw, as ln, as log10 and relative to the first, with the loss it is at."""
    settings, lead = results[0].settings, 0
    which, k = settings.get("which", "largest"), min(len(r.values) for r in results)
    top = int(str(settings.get("k", k))) if which == "both" else k
    others = sorted({1, top - 1} - {0}) if top > 1 and which != "smallest" else []
    names = [f"lambda_{place + 1}" for place in others]
    if which == "smallest":
        lead = -1
    elif which == "both":
        others, names = [*others, -1], [*names, "lambda_min"]
    first = float(results[0].values[lead])
    records = [_eigenpairs_record(r, first, lead) for r in results]
    rows = [
        [
            str(record["checkpoint"]),
            short(result.loss),
            plus_minus(float(result.values[lead]), float(result.residuals[lead])) + _flag(result),
            *(_two_decimals(record[name]) for name in ("ln", "log10", "relative_to_first")),
            *(
                plus_minus(float(result.values[place]), float(result.residuals[place]))
                if place == -1
                else short(float(result.values[place]))
                for place in others
            ),
            str(result.num_matvecs),
        ]
        for record, result in zip(records, results, strict=True)
    ]
    leading = "lambda_1" if lead == 0 else "lambda_min"
    header = ["", "loss", leading, "ln", "log10", f"vs {_label(results[0])}", *names, "products"]
    notes = [_verdict(results), *_cross_checks(results), *filter(None, [hessian_verdict(results)])]
    return Table(_operator_title(settings), header, rows, notes, records)


def _cross_checks(results: Sequence[Eigenpairs]) -> list[str]:
    """What PyHessian found on the same data."""
    found = [check for r in results if isinstance(check := r.checks.get("pyhessian"), dict)]
    if not found:
        return []
    values = ", ".join(short(_number(check["eigenvalue"])) for check in found)
    traces = ", ".join(plus_minus(_number(check["trace"]), _number(check["trace_standard_error"])) for check in found)
    differences = [_number(check["difference"]) for check in found]
    apart = any(math.isnan(one) for one in differences)
    worst = f"largest difference {100 * np.nanmax(differences):.2g} %" if not all(map(math.isnan, differences)) else ""
    other_end = "it found the other end of a spectrum, which does not compare" if apart else ""
    verdict = "; ".join(filter(None, [worst, other_end]))
    products = ", ".join(str(check["num_matvecs"]) for check in found)
    return [f"PyHessian on the same data: {values} ({verdict}), trace {traces}, in {products} products"]


def curvature_trace_table(trace: CurvatureTrace) -> Table:
    """The largest eigenvalues at each checkpoint of a run, what stayed of the top space, and where the steps go."""
    names = ("epoch", "loss", "overlap", "along_gradient", "along_sam", "learning_rate", "stability_limit")
    lists = ("values", "residuals", "converged", "complete", "num_matvecs")
    columns = [getattr(trace, name).tolist() for name in (*names, *lists)]
    records: list[Record] = [dict(zip((*names, *lists), row, strict=True)) for row in zip(*columns, strict=True)]
    num = trace.values.shape[1]
    others = sorted({1, num - 1} - {0}) if num > 1 else []
    sure = trace.converged.all(axis=1) & trace.complete
    rows = [
        [
            str(trace.epoch[t]),
            short(float(trace.loss[t])),
            plus_minus(float(trace.values[t, 0]), float(trace.residuals[t, 0])) + ("" if sure[t] else " (!)"),
            *(short(float(trace.values[t, place])) for place in others),
            *(
                "" if math.isnan(_number(records[t][name])) else short(_number(records[t][name]))
                for name in ("overlap", "along_gradient", "along_sam", "stability_limit")
            ),
            str(trace.num_matvecs[t]),
        ]
        for t in range(len(trace.epoch))
    ]
    notes = [
        _trace_verdict(trace),
        f"overlap: the share of the space of the top {num} eigenvectors that lies in that of the "
        "checkpoint before. g'Hg: curvature along the gradient, and along SAM's step at radius "
        f"{trace.settings.get('rho')}. limit: the largest stable curvature at the epoch's learning rate, by the theory "
        "of full batches",
    ]
    title = f"{_label(trace)} through training: {_operator_title(trace.settings)}"
    beside = [f"lambda_{place + 1}" for place in others]
    header = ["epoch", "loss", "lambda_1", *beside, "overlap", "g'Hg", "SAM's", "limit", "products"]
    return Table(title, header, rows, notes, records)


def _trace_verdict(trace: CurvatureTrace) -> str:
    """At which epochs an eigenvalue did not converge, or one may have been missed."""
    unmet = [f"{epoch}: {num}" for epoch, num in zip(trace.epoch, (~trace.converged).sum(axis=1), strict=True) if num]
    missed = [str(epoch) for epoch, complete in zip(trace.epoch, trace.complete, strict=True) if not complete]
    return "; ".join(
        [
            "± is the residual ||Hv - lambda v||",
            f"(!) NOT converged, at epoch {', '.join(unmet)}" if unmet else "all converged",
            f"(!) possibly incomplete, at epoch {', '.join(missed)}" if missed else "none missed",
            f"symmetry {_number(trace.checks.get('symmetry')):.0e}",
        ]
    )


def density_table(results: Sequence[Density]) -> Table:
    """Where the bulk of the eigenvalues lies, and how finely that was seen."""
    rows: list[list[str]] = []
    records: list[Record] = []
    for one in results:
        low, middle, high = (bulk_quantile(one, share) for share in (0.01, 0.5, 0.99))
        records.append(
            {
                "checkpoint": _label(one),
                "num_sticks": len(one.sticks),
                "bulk_quantiles": {"0.01": low, "0.5": middle, "0.99": high},
                "kernel_width": one.kernel_width,
                "num_probes": len(one.nodes),
            }
        )
        cells = ["" if math.isnan(value) else short(value) for value in (low, middle, high, one.kernel_width)]
        rows.append([_label(one), str(len(one.sticks)), *cells, str(len(one.nodes))])
    notes = [
        "quantiles of the bulk, without the outliers, which are the converged eigenvalues; eigenvalues nearer to each "
        "other than the resolution are one"
    ]
    title = f"Density of the eigenvalues, {_operator_title(results[0].settings)}"
    header = ["", "outliers", "1 %", "50 %", "99 %", "resolution", "probes"]
    return Table(title, header, rows, notes, records)


def _of_a_model(result: Result) -> TypeGuard[Eigenpairs]:
    """Whether it is eigenvalues, and not those of one layer's block."""
    return isinstance(result, Eigenpairs) and "layer" not in result.settings


def _layer_tables(results: Sequence[Eigenpairs]) -> list[Table]:
    """For each checkpoint the largest eigenvalue of each layer's block."""
    found = []
    for key in dict.fromkeys(checkpoint_key(r) for r in results):
        mine = [r for r in results if checkpoint_key(r) == key]
        records: list[Record] = [
            {"layer": r.settings["layer"], **_eigenpairs_record(r, float(r.values[0]))} for r in mine
        ]
        rows = [
            [
                str(r.settings["layer"]),
                f"{int(str(r.settings.get('num_kept', 0))):,}",
                plus_minus(float(r.values[0]), float(r.residuals[0])) + _flag(r),
                short(float(r.values[-1])),
                str(r.num_matvecs),
            ]
            for r in mine
        ]
        title = f"Each layer's own block at {_label(mine[0])}: {_operator_title(mine[0].settings, whole=True)}"
        head = ["layer", "parameters", "lambda_1", f"lambda_{max(len(r.values) for r in mine)}", "products"]
        note = "what lies between layers is in none of the blocks: the whole has a lambda_1 at least as large as each"
        found.append(Table(title, head, rows, [_verdict(mine), note], records))
    return found


def data_spread_table(results: Sequence[DataSpread]) -> Table:
    """What the largest eigenvalue owes to the sample of examples."""
    rows: list[list[str]] = []
    records: list[Record] = []
    for one in results:
        wanted = one.examples_for(0.05)
        records.append(
            {
                "checkpoint": _label(one),
                "values": one.values.tolist(),
                "standard_error": one.standard_error.tolist(),
                "bias": one.bias,
                "trace": one.trace,
                "trace_standard_error": one.trace_standard_error,
                "trace_standard_error_of_the_data": one.trace_data_error,
                "examples_for_5_percent": wanted,
                "subset_sizes": one.subset_sizes.tolist(),
                "subset_values": one.subset_values.tolist(),
                "num_matvecs": one.num_matvecs,
            }
        )
        rows.append(
            [
                _label(one),
                plus_minus(float(one.values[0]), float(one.standard_error[0])),
                signed(one.bias, math.nan),
                f"{wanted:,.0f}" if math.isfinite(wanted) else "",
                str(one.num_matvecs),
            ]
        )
    notes = [
        "± is one standard error over new draws of as many examples, at fixed vectors: a lower bound. bias: by how "
        "much the lambda_1 of so few examples is too large on average, from halves and quarters of them. for 5 %: "
        "examples that bring both below 5 % of lambda_1",
    ]
    title = f"What these numbers owe to the sample: {_operator_title(results[0].settings)}"
    return Table(title, ["", "lambda_1", "bias", "for 5 %", "products"], rows, notes, records)


def _whole_spectra(estimates: Sequence[Estimate]) -> Table:
    """Trace, Frobenius norm and effective rank of each checkpoint, with their standard errors over random probes."""
    names = {"trace": "trace", "frobenius_norm": "Frobenius norm", "effective_rank": "trace / lambda_1"}
    by_checkpoint: dict[str, dict[str, Estimate]] = {}
    for one in estimates:
        by_checkpoint.setdefault(checkpoint_key(one), {})[one.quantity] = one
    columns = [name for name in names if any(name in mine for mine in by_checkpoint.values())]
    rows: list[list[str]] = []
    records: list[Record] = []
    for mine in by_checkpoint.values():
        first = next(iter(mine.values()))
        record: Record = {"checkpoint": _label(first), "num_samples": first.num_samples}
        for name, one in mine.items():
            record |= {name: one.value, f"{name}_standard_error": one.standard_error, f"{name}_note": one.note}
            record[f"{name}_interval_95"] = list(one.interval())
        records.append(record)
        known = {name: one for name, one in mine.items() if not math.isnan(one.value)}
        cells = [plus_minus(known[name].value, known[name].standard_error) if name in known else "" for name in columns]
        rows.append([_label(first), *cells, str(first.num_samples)])
    uncertain = [one.num_samples for one in estimates if one.standard_error > 0]
    notes = [f"± is one standard error over the probes{_within(uncertain)}, beside the converged eigenvalues"]
    if any(math.isnan(one.value) for one in estimates):
        notes = ["no products were left for probes: a larger --budget has some"]
    notes += sorted({one.note for one in estimates if one.note})
    title = f"The whole spectrum, {_operator_title(estimates[0].settings)}"
    return Table(title, ["", *(names[name] for name in columns), "probes"], rows, notes, records)


def _within(num_samples: Sequence[int]) -> str:
    """How many of these standard errors an interval takes: more than two where probes are few."""
    factors = sorted({f"{t_factor(num):.1f}" for num in num_samples}, key=float)
    return f" (95 %: {' or '.join(factors)} of them)" if factors else ""


_TENSORS = 12  # in the table of a diagonal; --json has all


def diagonal_table(result: Diagonal) -> Table:
    """The trace of each tensor of theta with its standard error, those of most curvature first, and all in one line."""
    order = by_trace(result)
    sizes = [math.prod(shape) for shape in result.shapes]
    traces, errors = result.tensor_traces.tolist(), result.tensor_standard_errors.tolist()
    records: list[Record] = [
        {"checkpoint": _label(result), "tensor": name, "size": size, "trace": trace, "trace_standard_error": error}
        for name, size, trace, error in [
            *((result.names[n], sizes[n], traces[n], errors[n]) for n in order),
            ("all", sum(sizes), result.trace, result.trace_standard_error),
        ]
    ]
    shown = order if len(order) <= _TENSORS else order[: _TENSORS - 1]
    rows = [
        [result.names[n], f"{sizes[n]:,}", plus_minus(traces[n], errors[n]), short(traces[n] / sizes[n])] for n in shown
    ]
    notes = ["mean is the trace over the number of entries"]
    if result.trace_standard_error > 0:
        notes = [f"± is one standard error over the probes{_within([result.num_samples])}; {notes[0]}"]
    if left := order[len(shown) :]:
        count, rest = sum(sizes[n] for n in left), sum(traces[n] for n in left)
        rows.append([f"{len(left)} others", f"{count:,}", short(rest), short(rest / count)])
    count = sum(sizes)
    rows.append(
        ["all", f"{count:,}", plus_minus(result.trace, result.trace_standard_error), short(result.trace / count)]
    )
    title = f"Trace of each tensor at {_label(result)}, {result.num_samples} probes: {_operator_title(result.settings)}"
    notes += [result.note] if result.note else []
    return Table(title, ["tensor", "entries", "trace", "mean"], rows, notes, records)


def _operator_title(settings: Record, *, whole: bool = False) -> str:
    """What is known of the operator; of a bare matvec, nothing is."""
    parameters, parts = (
        settings.get("num_parameters"),
        [f"Largest eigenvalues of {settings.get('operator', 'an operator')}"],
    )
    if "loss" in settings:
        matrix = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton matrix", "fisher": "Fisher matrix"}
        kind = f" ({settings['kind']})" if "kind" in settings else ""
        name = matrix.get(str(settings.get("operator")), str(settings.get("operator"))) + kind
        mode = "BatchNorm in train mode" if settings.get("batch_norm") == "train" else f"{settings.get('mode')} mode"
        parts = [f"{name} of the mean {_loss_name(settings)}", _data(settings), mode]
    layers, kept = settings.get("layers"), settings.get("num_kept")
    if settings.get("protocol") == "paper":
        return (
            f"Sum of the Hessians of the mean cross-entropies of {settings.get('num_batches')} batches, "
            f"{_data(settings)}, eval mode, the {kept:,} parameters of two dimensions or more, "
            f"{settings.get('dtype')} (protocol paper)"
        )
    if isinstance(layers, list):
        parts += [f"the {kept:,} parameters of {', '.join(map(str, layers))}", str(settings.get("dtype"))]
    elif isinstance(parameters, int) and not whole:
        parts += [f"all {parameters:,} parameters", str(settings.get("dtype"))]
    return ", ".join([*parts, *_engine_words(settings)])


def _engine_words(settings: Record) -> list[str]:
    """How the products were made, where not in the usual way."""
    engine = settings.get("engine", "retained")
    processes = settings.get("num_processes")
    return [
        *([f"products by {str(engine).replace('-', ' ')}"] if engine != "retained" else []),
        *(["products as usual, for compiling failed"] if "engine_reason" in settings else []),
        *([f"{processes} processes"] if isinstance(processes, int) else []),
    ]


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
        f"{_count(settings, 'num_examples')} and {_count(settings, 'num_validation_examples')} examples"
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
        **_metrics_record(surface),
        "num_nonfinite": surface.num_nonfinite,
        "centre_error": surface.checks.get("centre_error"),
        "centre_ok": surface.checks.get("centre_ok"),
    }


def _metrics_record(result: Surface | Line) -> Record:
    """The caller's own metrics at the centre."""
    cell, found = centre_cell(result), cast(Record, {})
    for name, metric in result.metrics.items() if cell is not None else ():
        found |= {name: float(metric.mean[cell]), f"{name}_standard_error": float(metric.standard_error[cell])}
    return found


def _line_record(line: Line) -> Record:
    at = centre(line)
    finite = np.where(np.isfinite(line.loss), line.loss, np.nan)
    known = bool(np.isfinite(finite).any())
    low, high = (int(np.nanargmin(finite)), int(np.nanargmax(finite))) if known else (0, 0)
    lowest, lowest_at = float(finite[low]), float(line.x[low])
    if not at.loss >= lowest and math.isfinite(at.loss):  # a grid need not hold the centre
        lowest, lowest_at = at.loss, 0.0
    return {
        "checkpoint": _label(line),
        "split": line.settings.get("split"),
        "loss": at.loss,
        "loss_standard_error": at.error,
        "accuracy": at.accuracy,
        "accuracy_standard_error": at.accuracy_error,
        "lowest": lowest,
        "lowest_at": lowest_at,
        "highest": float(finite[high]),
        "highest_at": float(line.x[high]),
        **_metrics_record(line),
        "barrier": barrier(line),
        "num_nonfinite": line.num_nonfinite,
        "centre_error": line.checks.get("centre_error"),
        "centre_ok": line.checks.get("centre_ok"),
    }


def _where(what: str, settings: Record) -> str:
    kind = str(settings.get("directions"))
    place = f"a {what} {PLANES[kind]}" if kind in PLANES else f"a {kind} {what}"
    layers = settings.get("layers")
    moving = f", {', '.join(map(str, layers))} alone" if isinstance(layers, list) else ""
    return f"{place}, {settings.get('unit')}{moving}"


def _reach(settings: Record) -> str:
    intervals = settings.get("intervals")
    if not isinstance(intervals, list):
        return f"extent {settings.get('extent')}"
    told = [f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in zip("xy", intervals, strict=False)]  # type: ignore[misc, str-unpack]
    return ", ".join(told)


def _centre_note(results: Sequence[Surface | Line]) -> str:
    if any("centre_ok" not in one.checks for one in results):
        return "the centre is not measured yet, and not held against the checkpoint's loss"
    worst = max((_number(one.checks.get("centre_error")) for one in results), default=math.nan)
    agree = all(one.checks.get("centre_ok") for one in results)
    verb = "equals" if agree else "DIFFERS from"
    own = {
        "recalibrated": "a plain loop with recalibrated statistics",
        "train": "a plain loop with the statistics of each batch",
    }
    what = own.get(str(results[0].settings.get("batch_norm")), "the checkpoint's loss")
    return f"the centre {verb} {what} (relative difference {worst:.1g})"


def _mode(settings: Record) -> str:
    """How the loss was measured, where it was not in the usual way."""
    statistics = {"recalibrated": ", BatchNorm recalibrated at each point", "train": ", BatchNorm in train mode"}
    precision = settings.get("precision", "fp32")
    told = statistics.get(str(settings.get("batch_norm")), "")
    return told + ("" if precision == "fp32" else f", forward pass in {precision}")


def _early(settings: Record) -> str:
    whole = settings.get("early_of")
    return f" (early, of {whole} along an axis)" if whole else ""


def _missing_notes(results: Sequence[Surface | Line]) -> list[str]:
    """How many points there are, where some are not measured yet."""
    there = [int((one.status != MISSING).sum()) for one in results]
    return [
        f"{_label(one)}: {count:,} of {one.status.size:,} points are measured yet"
        for one, count in zip(results, there, strict=True)
        if count < one.status.size
    ]


def _axes_notes(results: Sequence[Surface | Line]) -> list[str]:
    """What is known of the axes, and of the checkpoints that lie on a line or plane."""
    settings, notes = results[0].settings, []
    whole = settings.get("whole_tensors")
    if isinstance(whole, list) and whole:
        names = ", ".join(str(name) for name in whole[:3]) + (f" and {len(whole) - 3} more" if len(whole) > 3 else "")
        notes.append(f"of no known kind, and so one filter each: {names} (output dimensions may be given)")
    shares, values = settings.get("explained_variance"), settings.get("eigenvalues")
    if isinstance(shares, list):
        told = " and ".join(f"{100 * _number(share):.3g} %" for share in shares)
        notes.append(f"the axes hold {told} of the run's squared distances from its {settings.get('about')}")
    if isinstance(values, list):
        told = " and ".join(short(_number(value)) for value in values)
        notes.append(
            f"the eigenvalues of the {settings.get('operator')} at {_label(results[0])}, along the axes: {told}"
        )
        notes += _finite_step_notes([one for one in results if isinstance(one, Surface)])
    for one in results:
        ends = one.checks.get("landmarks")
        for end in ends if isinstance(ends, list) else []:
            assert isinstance(end, dict)
            on_it, own = _number(end["loss_on_plane"]), _number(end["own_loss"])
            notes.append(f"at {end['name']} the loss is {short(on_it)} here, its own {short(own)}")
    return notes


def _finite_step_notes(surfaces: Sequence[Surface]) -> list[str]:
    """The curvature of the grid along eigenvectors: it holds the kinks of a network, which eigenvalues do not."""
    notes = []
    for one in surfaces:
        models = [model for model in quadratic_models(one, alone=True) if model is not None]
        if len(models) == 2:
            step, told = one.x[1] - one.x[0], " and ".join(short(model.second_difference) for model in models)
            notes.append(
                f"{_label(one)}: curvature over one step of the grid ({short(float(step))}) along them: {told}; it "
                "holds the kinks of ReLU, which eigenvalues do not"
            )
    return notes


def _eigenpairs_record(result: Eigenpairs, first: float, lead: int = 0) -> Record:
    top = float(result.values[lead])
    return {
        "checkpoint": _label(result),
        "loss": result.loss,
        "which": result.settings.get("which", "largest"),
        "k": result.settings.get("k"),
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
        "pyhessian": result.checks.get("pyhessian"),
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
    known = _count(settings, "num_examples")
    return " ".join(filter(None, [known, str(settings.get("split") or ""), f"examples{noise}"]))


def _count(settings: Record, name: str) -> str:
    count = settings.get(name)
    return f"{count:,}" if isinstance(count, int) else "an unknown number of"


def _loss_name(settings: Record) -> str:
    name = str(settings.get("loss"))
    return "cross-entropy" if name in ("CrossEntropyLoss", "cross_entropy") else name


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
