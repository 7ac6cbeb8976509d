"""Results as tables: the numbers with their uncertainty, for the terminal and for --json.

Numbers are aligned on the point; an uncertainty has the decimals of what it qualifies. Each table also holds its rows
as plain records, so that what is printed and what a program reads are the same measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard, TypeVar

from landscape.curvature_tables import (
    curvature_trace_table,
    data_spread_table,
    density_table,
    diagonal_table,
    eigenpairs_tables,
    layer_tables,
    whole_spectra,
)
from landscape.formatting import percent, plus_minus
from landscape.grouping import checkpoints
from landscape.readings import centre, largest, mean_over_epochs, standing_spectra
from landscape.results import (
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
)
from landscape.subjects import count_words, label, number_of
from landscape.surface_tables import line_table, paired_tables, surfaces_table, trajectory_table
from landscape.typesetting import Table

R = TypeVar("R", Surface, Line, Eigenpairs, Density, Estimate, DataSpread, Congruence)


def tables(results: Sequence[Result]) -> list[Table]:
    """One table for each kind of result that is there, and for each data that it was measured on."""
    traces = [r for r in results if isinstance(r, CongruenceTrace)]
    made = [
        *(surfaces_table(same) for same in _on_same_data([r for r in results if isinstance(r, Surface)])),
        *paired_tables([r for r in results if isinstance(r, Surface)]),
        *(trajectory_table(r, r.trajectory) for r in results if isinstance(r, Surface) and r.trajectory is not None),
        *(line_table(same) for same in _on_same_data([r for r in results if isinstance(r, Line)])),
        *eigenpairs_tables(_on_same_data([r for r in results if _of_a_model(r)])),
        *layer_tables([r for r in results if isinstance(r, Eigenpairs) and "layer" in r.settings]),
        *(data_spread_table(same) for same in _on_same_data([r for r in results if isinstance(r, DataSpread)])),
        *(curvature_trace_table(r) for r in results if isinstance(r, CurvatureTrace)),
        *(whole_spectra(same) for same in _on_same_data([r for r in results if isinstance(r, Estimate)])),
        *(diagonal_table(r) for r in results if isinstance(r, Diagonal)),
        *(density_table(same) for same in _on_same_data([r for r in results if isinstance(r, Density)])),
        *(congruence_table(same) for same in _on_same_data([r for r in results if isinstance(r, Congruence)])),
    ]
    return [*made, trace_table(traces)] if traces else made


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
    found = checkpoints(results)
    for c, pairs in zip(found, standing_spectra(found), strict=True):
        splits = dict.fromkeys(str(one.settings.get("split")) for one in c.surfaces)
        parts = {split: centre(c.surface(split)) for split in splits}
        top = largest(pairs) if pairs else math.nan
        record: Record = {"checkpoint": c.style.name, "lambda_1": top}
        for split, at in parts.items():
            record |= {f"{split}_loss": at.loss, f"{split}_accuracy": at.accuracy}
        records.append(record)
        test, train = parts.get("test"), parts.get("train")
        rows.append(
            [
                c.style.name,
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


def _of_a_model(result: Result) -> TypeGuard[Eigenpairs]:
    """Whether it is eigenvalues, and not those of one layer's block."""
    return isinstance(result, Eigenpairs) and "layer" not in result.settings


def congruence_table(results: Sequence[Congruence]) -> Table:
    """Gradient congruence at each checkpoint with its standard error."""
    records: list[Record] = [
        {
            "checkpoint": label(r),
            "cosine": r.value,
            "standard_error": r.standard_error,
            "status": r.status,
            "radius": r.settings.get("radius"),
        }
        for r in results
    ]
    failed = any(r.status != "ok" for r in results)
    rows = [
        [label(r), plus_minus(r.value, r.standard_error), *(["" if r.status == "ok" else r.status] if failed else [])]
        for r in results
    ]
    settings = results[0].settings
    title = (
        f"Cosine of the training and the validation gradient, eval mode, radius {settings.get('radius')}, "
        f"{count_words(settings, 'num_examples')} and {count_words(settings, 'num_validation_examples')} examples"
    )
    notes = ["± is one standard error, from leaving out each batch once"]
    return Table(title, ["", "cosine", *(["status"] if failed else [])], rows, notes, records)


def trace_table(traces: Sequence[CongruenceTrace]) -> Table:
    """Gradient congruence during training: means over all probes, with their standard errors over the probed epochs."""
    records: list[Record] = []
    rows = []
    for trace in traces:
        record: Record = {"checkpoint": label(trace), "num_probes": int(trace.num_probes.sum())}
        cells = []
        for name in ("cosine_b", "cosine_a", "change"):
            mean, error = mean_over_epochs(trace, name)
            record |= {name: mean, f"{name}_standard_error": error}
            cells.append(plus_minus(mean, error))
        records.append(record)
        rows.append([label(trace), *cells, str(trace.num_probes.sum())])
    header = ["", "cosine before a step", "after it", "change", "probes"]
    title = f"Gradient congruence during training, train mode, probe radius {traces[0].settings.get('radius')}"
    notes = ["means over the run's epochs; ± is one standard error, from the spread of the probes within each"]
    notes += [_changes(records)] if any(math.isfinite(number_of(r["change_standard_error"])) for r in records) else []
    return Table(title, header, rows, notes, records)


def _changes(records: Sequence[Record]) -> str:
    """Whether a step changes the congruence by more than the probes let one doubt."""
    told = []
    for verb, sign in (("raises", 1), ("lowers", -1)):
        sure = [r for r in records if sign * number_of(r["change"]) > 2 * number_of(r["change_standard_error"])]
        told += [f"{verb} it: {', '.join(str(r['checkpoint']) for r in sure)}"] if sure else []
    return "a step, by more than two standard errors, " + ("; ".join(told) or "changes it for none")
