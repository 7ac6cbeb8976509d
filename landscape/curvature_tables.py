"""Eigenvalues, densities, traces and diagonals as tables: each number with its residual or error, and its flag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from landscape.formatting import plus_minus, short, signed
from landscape.grouping import checkpoint_key, spectrum_kind
from landscape.readings import (
    bulk_quantile,
    by_trace,
)
from landscape.results import (
    CurvatureTrace,
    DataSpread,
    Density,
    Diagonal,
    Eigenpairs,
    Estimate,
    Record,
    t_factor,
)
from landscape.subjects import label, number_of, operator_title
from landscape.typesetting import Table
from landscape.verdicts import hessian_verdict


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
            plus_minus(float(result.values[lead]), float(result.residuals[lead]))
            + _flag(bool(result.converged[lead]) and result.complete),
            *(_two_decimals(record[name]) for name in ("ln", "log10", "relative_to_first")),
            *(
                (
                    plus_minus(float(result.values[place]), float(result.residuals[place]))
                    if place == -1
                    else short(float(result.values[place]))
                )
                + _flag(bool(result.converged[place]))
                for place in others
            ),
            str(result.num_matvecs),
        ]
        for record, result in zip(records, results, strict=True)
    ]
    leading = "lambda_1" if lead == 0 else "lambda_min"
    header = ["", "loss", leading, "ln", "log10", f"vs {label(results[0])}", *names, "products"]
    notes = [_verdict(results), *_cross_checks(results), *filter(None, [hessian_verdict(results)])]
    title = operator_title(settings)
    return Table(title, header, rows, notes, records, subject=title)


def eigenpairs_tables(groups: Sequence[Sequence[Eigenpairs]]) -> list[Table]:
    """A table for each data; below the last of one operator, what its methods say over data seeds."""
    made = [eigenpairs_table(same) for same in groups]
    kinds = [spectrum_kind(same[0]) for same in groups]
    for kind in dict.fromkeys(kinds):
        alike = [n for n, other in enumerate(kinds) if other == kind]
        told = hessian_verdict([one for n in alike for one in groups[n]]) if len(alike) > 1 else ""
        if told:
            made[alike[-1]] = replace(made[alike[-1]], notes=[*made[alike[-1]].notes, told])
    return made


def _cross_checks(results: Sequence[Eigenpairs]) -> list[str]:
    """What PyHessian found on the same data."""
    found = [check for r in results if isinstance(check := r.checks.get("pyhessian"), dict)]
    if not found:
        return []
    values = ", ".join(short(number_of(check["eigenvalue"])) for check in found)
    traces = ", ".join(
        plus_minus(number_of(check["trace"]), number_of(check["trace_standard_error"])) for check in found
    )
    differences = [number_of(check["difference"]) for check in found]
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
                "" if math.isnan(number_of(records[t][name])) else short(number_of(records[t][name]))
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
    subject = operator_title(trace.settings)
    title = f"{label(trace)} through training: {subject}"
    beside = [f"lambda_{place + 1}" for place in others]
    header = ["epoch", "loss", "lambda_1", *beside, "overlap", "g'Hg", "SAM's", "limit", "products"]
    return Table(title, header, rows, notes, records, subject)


def _trace_verdict(trace: CurvatureTrace) -> str:
    """At which epochs an eigenvalue did not converge, or one may have been missed."""
    unmet = [f"{epoch}: {num}" for epoch, num in zip(trace.epoch, (~trace.converged).sum(axis=1), strict=True) if num]
    missed = [str(epoch) for epoch, complete in zip(trace.epoch, trace.complete, strict=True) if not complete]
    return "; ".join(
        [
            "± is the residual ||Hv - lambda v||",
            f"(!) NOT converged, at epoch {', '.join(unmet)}" if unmet else "all converged",
            f"(!) possibly incomplete, at epoch {', '.join(missed)}" if missed else "none seen beyond",
            f"symmetry {number_of(trace.checks.get('symmetry')):.0e}",
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
                "checkpoint": label(one),
                "num_sticks": len(one.sticks),
                "bulk_quantiles": {"0.01": low, "0.5": middle, "0.99": high},
                "kernel_width": one.kernel_width,
                "num_probes": len(one.nodes),
            }
        )
        cells = ["" if math.isnan(value) else short(value) for value in (low, middle, high, one.kernel_width)]
        rows.append([label(one), str(len(one.sticks)), *cells, str(len(one.nodes))])
    notes = [
        "quantiles of the bulk, without the outliers, which are the converged eigenvalues; eigenvalues nearer to each "
        "other than the resolution are one"
    ]
    subject = operator_title(results[0].settings)
    header = ["", "outliers", "1 %", "50 %", "99 %", "resolution", "probes"]
    return Table(f"Density of the eigenvalues, {subject}", header, rows, notes, records, subject)


def layer_tables(results: Sequence[Eigenpairs]) -> list[Table]:
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
                plus_minus(float(r.values[0]), float(r.residuals[0])) + _flag(bool(r.converged[0]) and r.complete),
                short(float(r.values[-1])) + _flag(bool(r.converged[-1])),
                str(r.num_matvecs),
            ]
            for r in mine
        ]
        subject = operator_title(mine[0].settings, whole=True)
        title = f"Each layer's own block at {label(mine[0])}: {subject}"
        head = ["layer", "parameters", "lambda_1", f"lambda_{max(len(r.values) for r in mine)}", "products"]
        note = "what lies between layers is in none of the blocks: the whole has a lambda_1 at least as large as each"
        found.append(Table(title, head, rows, [_verdict(mine), note], records, subject))
    return found


def data_spread_table(results: Sequence[DataSpread]) -> Table:
    """What the largest eigenvalue owes to the sample of examples."""
    rows: list[list[str]] = []
    records: list[Record] = []
    for one in results:
        wanted = one.examples_for(0.05)
        records.append(
            {
                "checkpoint": label(one),
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
                label(one),
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
    subject = operator_title(results[0].settings)
    title = f"What these numbers owe to the sample: {subject}"
    return Table(title, ["", "lambda_1", "bias", "for 5 %", "products"], rows, notes, records, subject)


def whole_spectra(estimates: Sequence[Estimate]) -> Table:
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
        record: Record = {"checkpoint": label(first), "num_samples": first.num_samples}
        for name, one in mine.items():
            record |= {name: one.value, f"{name}_standard_error": one.standard_error, f"{name}_note": one.note}
            record[f"{name}_interval_95"] = list(one.interval())
        records.append(record)
        known = {name: one for name, one in mine.items() if not math.isnan(one.value)}
        cells = [plus_minus(known[name].value, known[name].standard_error) if name in known else "" for name in columns]
        rows.append([label(first), *cells, str(first.num_samples)])
    uncertain = [one.num_samples for one in estimates if one.standard_error > 0]
    notes = [f"± is one standard error over the probes{_within(uncertain)}, beside the converged eigenvalues"]
    if any(math.isnan(one.value) for one in estimates):
        notes = ["no products were left for probes: a larger --budget has some"]
    notes += sorted({one.note for one in estimates if one.note})
    subject, header = operator_title(estimates[0].settings), ["", *(names[name] for name in columns), "probes"]
    return Table(f"The whole spectrum, {subject}", header, rows, notes, records, subject)


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
        {"checkpoint": label(result), "tensor": name, "size": size, "trace": trace, "trace_standard_error": error}
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
    subject = operator_title(result.settings)
    title = f"Trace of each tensor at {label(result)}, {result.num_samples} probes: {subject}"
    notes += [result.note] if result.note else []
    return Table(title, ["tensor", "entries", "trace", "mean"], rows, notes, records, subject)


def _two_decimals(value: object) -> str:
    number = number_of(value)
    return "" if math.isnan(number) else f"{number:.2f}" if abs(number) < 1e6 else f"{number:.3g}"


def _eigenpairs_record(result: Eigenpairs, first: float, lead: int = 0) -> Record:
    top = float(result.values[lead])
    return {
        "checkpoint": label(result),
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


def _flag(certified: bool) -> str:
    return "" if certified else " (!)"


def _verdict(results: Sequence[Eigenpairs]) -> str:
    unmet = {label(r): int((~r.converged).sum()) for r in results if not r.converged.all()}
    open_pairs = [f"{label}: {count}" for label, count in unmet.items()]
    missed = [label(r) for r in results if not r.complete]
    symmetry = max((number_of(r.checks.get("symmetry")) for r in results), default=math.nan)
    parts = [
        "± is the residual ||Hv - lambda v||",
        f"(!) NOT converged: {', '.join(open_pairs)}" if open_pairs else "all converged",
        f"(!) possibly incomplete: {', '.join(missed)}" if missed else "none seen beyond",
        f"symmetry {symmetry:.0e}",
    ]
    return "; ".join(parts)
