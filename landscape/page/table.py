"""Every measure at every checkpoint, and over the seeds of a method: the tables of the page, and what buttons copy."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import numpy as np

from landscape.formatting import counted, percent, plus_minus, short
from landscape.grouping import Checkpoint, data_identity, spectrum_kind
from landscape.methods import FEWEST_SEEDS, Comparison, deviation, method_told, ratio
from landscape.page.captions import surface_command
from landscape.page.markup import escape, missing, section, table
from landscape.page.sentences import MOST_NAMED, repeats
from landscape.readings import QUANTITIES, Centre, centre, centre_cell, largest, loss_of_spectrum, places
from landscape.results import Eigenpairs, Estimate, Surface
from landscape.verdicts import eigenvalues_over_seeds, mean_and_deviation, on_which_data, times

_ACTIONS = (
    '<div class="actions"><span>Table:</span> <button type="button" id="copy-csv">Copy as CSV</button> <button '
    'type="button" id="copy-latex">Copy as LaTeX</button> <span role="status" class="note"></span></div>'
    '<div class="actions"><span>Surfaces:</span> <button type="button" id="save-json">Save as JSON</button> <button '
    'type="button" id="save-csv">Save as CSV</button> <span role="status" class="note"></span></div>'
    '<div class="actions"><label>Figure: <select id="figure"></select></label> <button type="button" id="save-png">'
    'Save as PNG</button> <button type="button" id="save-svg">Save as SVG</button> <span role="status" class="note">'
    "</span></div>"
)
_LATEX = {"λ": r"$\lambda$", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "—": "---", "₂": "$_2$", "₃": "$_3$"}
_LATEX |= {"₄": "$_4$", "₅": "$_5$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {special: "\\" + special for special in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "|": "$|$", "[": "{[}"}

_RATIO = "λmax / that"
_ERRORS = (
    "± is the standard error over the examples for a loss, sqrt(p(1 − p)/n) for an accuracy, the residual for an "
    "eigenvalue, the standard error over random probes for a trace."
)
_OVER_SEEDS = "Over seeds: mean ± standard deviation"


def table_section(checkpoints: Sequence[Checkpoint]) -> str:
    """A row per checkpoint and spectrum, a column per measure."""
    if not checkpoints:
        return section("Table", "Nothing was measured", missing("No results", "landscape surface CKPT"))
    head, rows = _measures(checkpoints)
    body = _table_note(_kinds(checkpoints))
    if over := _over_seeds(checkpoints):
        kept = [name for name in _with_ratios(head, over) if any(row.get(name, "—") != "—" for row in over)]
        titles = [{"checkpoint": "method", "method, radii": "seeds"}.get(name, name) for name in kept]
        means = table(titles, [[row.get(name, "—") for name in kept] for row in over], text=2, sortable=True)
        body += f'<h3>{_OVER_SEEDS}</h3><div class="scroll" tabindex="0" role="region" '
        body += f'aria-label="Methods over seeds">{means}</div>{_pooled_note(checkpoints)}<h3>Each checkpoint</h3>'
    made = table(head, rows, text=2, sortable=True)
    body += f'<div class="scroll" tabindex="0" role="region" aria-label="All measures">{made}</div>'
    return section("Table", "Every measure at every checkpoint", f"{body}{_unmeasured(checkpoints)}{_ACTIONS}")


def table_latex(checkpoints: Sequence[Checkpoint]) -> str:
    """The tables as they stand on the page, as one LaTeX tabular with the rules of booktabs; methods at the end."""
    head, rows = _measures(checkpoints)
    over = _over_seeds(checkpoints)
    titles = _with_ratios(head, over)

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in cells) + r" \\"

    each = [dict(zip(head, row, strict=True)) for row in rows]
    means = [
        [f"{row[name]} seeds" if name == "method, radii" else row.get(name, "—") for name in titles] for row in over
    ]
    parts = [
        "\n".join(map(line, part)) for part in ([[row.get(n, "—") for n in titles] for row in each], means) if part
    ]
    columns = "ll" + "r" * (len(titles) - 2)
    notes = [_ERRORS, *([f"{_OVER_SEEDS}, in the rows at the end.", _pooled(checkpoints)] if over else [])]
    comments = "".join(f"% {note}\n" for note in notes if note)
    return (
        f"{comments}% \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(titles)}\n\\midrule\n"
        + "\n\\midrule\n".join(parts)
        + "\n\\bottomrule\n\\end{tabular}\n"
    )


def _with_ratios(head: Sequence[str], over: Sequence[dict[str, str]]) -> list[str]:
    """The columns, with the ratios of methods beside the eigenvalue that they are of."""
    ratios = dict.fromkeys(name for row in over for name in row if name.startswith(_RATIO))
    return [name for one in head for name in ([one, *ratios] if one == "λmax" else [one])]


def table_csv(checkpoints: Sequence[Checkpoint]) -> str:
    """The tables of the page in full precision, a column per number; `row` tells checkpoints from means over seeds."""
    records = [(c, _csv_record(c, one)) for c in checkpoints for one in c.pairs]
    records += [(c, _csv_record(c, None)) for c in checkpoints if not c.pairs]
    rows = [record for _, record in records] + _csv_over_seeds(checkpoints, records)
    head = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    head.sort(key=lambda name: name.startswith("lambda_"))  # as many as there are, at the end
    file = io.StringIO()
    writer = csv.DictWriter(file, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _raw(v) if isinstance(v, float) else v for name, v in row.items()} for row in rows)
    return file.getvalue()


def _csv_record(c: Checkpoint, one: Eigenpairs | None) -> dict[str, object]:
    """What is known of a checkpoint and of one of its spectra."""
    seed, data_seed = _seeds(c)
    found: dict[str, object] = {"checkpoint": c.style.name, "row": "checkpoint", "hash": c.record.get("hash") or ""}
    found |= {"method": method_told(c.record), "seed": seed, "data_seed": data_seed}
    for split in ("train", "test"):
        at = centre(c.surface(split))
        found |= {f"{split}_loss": at.loss, f"{split}_loss_se": at.error}
        found |= {f"{split}_accuracy": at.accuracy, f"{split}_accuracy_se": at.accuracy_error}
    for n, probe in enumerate(c.congruences):
        found |= {f"congruence_{n + 1}": probe.value, f"congruence_{n + 1}_se": probe.standard_error}
    if one is None:
        return found
    found |= {"spectrum_of": spectrum_kind(one), "at_loss": loss_of_spectrum(one, c), "matvecs": one.num_matvecs}
    found |= {"converged": bool(one.converged.all()), "complete": one.complete}
    for estimate in c.estimates:
        if _of(estimate, spectrum_kind(one)):
            found |= {estimate.quantity: estimate.value, f"{estimate.quantity}_se": estimate.standard_error}
    for n, (value, residual) in enumerate(zip(one.values.tolist(), one.residuals.tolist(), strict=True)):
        found |= {f"lambda_{n + 1}": value, f"lambda_{n + 1}_residual": residual}
    return found


def _csv_over_seeds(
    checkpoints: Sequence[Checkpoint], records: Sequence[tuple[Checkpoint, dict[str, object]]]
) -> list[dict[str, object]]:
    """Mean, standard deviation and number of seeds of each measure of each method, of the first kind of spectra."""
    kind, rows = next(iter(_kinds(checkpoints)), ""), []
    ratios = _ratios(checkpoints, kind)
    for method in repeats(checkpoints):
        members = [checkpoints[n] for n in method.members]
        mine = [r for c, r in records if any(c is one for one in members) and r.get("spectrum_of", kind) == kind]
        values: dict[str, list[float]] = {}
        for record in mine:
            for name, value in record.items():
                if isinstance(value, float) and math.isfinite(value) and not name.endswith(("_se", "_residual")):
                    values.setdefault(name, []).append(value)
        enough = {name: np.array(of) for name, of in values.items() if len(of) >= FEWEST_SEEDS}
        start: dict[str, object] = {"checkpoint": method.name, "spectrum_of": kind}
        rows += [
            start | {"row": "mean over seeds"} | {name: float(np.mean(of)) for name, of in enough.items()},
            start | {"row": "standard deviation over seeds"} | {name: deviation(of) for name, of in enough.items()},
            start | {"row": "number of seeds"} | {name: len(of) for name, of in enough.items()},
        ]
        if method.name in ratios:
            first, found = ratios[method.name]
            ends = {"": found.difference, "_low": found.low, "_high": found.high}
            rows[-3] |= {"ratio_to": first} | {f"lambda_1_ratio{end}": 1 + value for end, value in ends.items()}
    return rows


def _kinds(checkpoints: Sequence[Checkpoint]) -> list[str]:
    return list(dict.fromkeys(spectrum_kind(one) for c in checkpoints for one in c.pairs))


def _measures(checkpoints: Sequence[Checkpoint]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows."""
    several = len(_kinds(checkpoints)) > 1
    most = min(max((len(one.values) for c in checkpoints for one in c.pairs), default=1), 5)
    rows: list[dict[str, str]] = []
    for c in checkpoints:
        spectra = [_spectrum_cells(c, one, checkpoints, most, named=several) for one in c.pairs]
        spectra = spectra or [{"λmax": "—"}]
        rows += [{**_checkpoint_cells(c), **cells, **_congruence_cells(c)} for cells in spectra]
    head = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    return head, [[row.get(name, "—") for name in head] for row in rows]


def _over_seeds(checkpoints: Sequence[Checkpoint]) -> list[dict[str, str]]:
    """Cells by column for each method with three seeds or more; of spectra those of the first kind."""
    kind, rows = next(iter(_kinds(checkpoints)), ""), []
    for method in repeats(checkpoints):
        members = [checkpoints[n] for n in method.members]
        values = {name: of for name, of in _seed_values(members, kind).items() if len(of) >= FEWEST_SEEDS}
        cells = {name: mean_and_deviation(np.array(of)) for name, of in values.items()}
        cells |= {name: f"{told} %" for name, told in cells.items() if "accuracy" in name and told != "—"}
        top = np.array(values.get("λmax", [math.nan]))
        if (top > 0).all():
            cells["ln, log10"] = f"{mean_and_deviation(np.log(top))}, {mean_and_deviation(np.log10(top))}"
        spectra = _spectra(members, kind)
        sure = sum(bool(p.converged.all() and p.complete) for p in spectra)
        cells |= {"converged": f"{sure} of {len(spectra)}"} if spectra else {}
        counts = sorted({len(of) for of in values.values()}) or [len(members)]
        count = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        whole = "" if counts == [len(members)] else f" of {len(members)}"
        cells |= {"checkpoint": method.name, "method, radii": count + whole, "spectrum of": kind}
        rows.append(cells)
    for name, (first, found) in _ratios(checkpoints, kind).items():
        cells = next(row for row in rows if row["checkpoint"] == name)
        cells[f"{_RATIO} of {first} (95 %)"] = "no spread" if math.isnan(found.low) else times(found)
    return rows


def _ratios(checkpoints: Sequence[Checkpoint], kind: str) -> dict[str, tuple[str, Comparison]]:
    """For each method, whose largest eigenvalue its own is held against, and the ratio."""
    tops = []
    for method in repeats(checkpoints):
        spectra = [p for p in _spectra([checkpoints[n] for n in method.members], kind) if math.isfinite(largest(p))]
        if len(spectra) >= FEWEST_SEEDS:
            tops.append(eigenvalues_over_seeds(method.name, spectra, [one.loss for one in spectra]))
    tops = [one for one in tops if not one.refused]
    if len(tops) < 2 or on_which_data(tops) is None:
        return {}
    first, *others = tops
    return {one.name: (first.name, ratio(one.values, first.values, comparisons=len(others))) for one in others}


def _spectra(members: Sequence[Checkpoint], kind: str) -> list[Eigenpairs]:
    """The first spectrum of that kind of each checkpoint that has one."""
    chosen = (next((p for p in c.pairs if spectrum_kind(p) == kind), None) for c in members)
    return [one for one in chosen if one is not None]


def _pooled(checkpoints: Sequence[Checkpoint]) -> str:
    """Which measures over seeds are of more than one data."""
    members = [checkpoints[n] for method in repeats(checkpoints) for n in method.members]
    kind = next(iter(_kinds(checkpoints)), "")
    parts = {
        split: {data_identity(surface) for c in members if (surface := c.surface(split))} for split in ("train", "test")
    }
    parts["λ"] = {data_identity(p) for c in members for p in c.pairs if spectrum_kind(p) == kind}
    told = [name for name, data in parts.items() if len(data) > 1]
    return f"Of different data from seed to seed: {', '.join(told)}" if told else ""


def _pooled_note(checkpoints: Sequence[Checkpoint]) -> str:
    told = _pooled(checkpoints)
    return f'<p class="note warn">{escape(told)}; ± holds the choice of the data too.</p>' if told else ""


def _seed_values(members: Sequence[Checkpoint], kind: str) -> dict[str, list[float]]:
    """By column, the values of those seeds that were measured."""
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for c in members:
        for split in ("train", "test"):
            if (surface := c.surface(split)) is not None:
                add(f"{split} loss", centre(surface).loss)
                add(f"{split} accuracy", 100 * centre(surface).accuracy)
        one = next((p for p in c.pairs if spectrum_kind(p) == kind), None)
        if one is None:
            continue
        add("at loss", loss_of_spectrum(one, c))
        for place, value in zip(places(one), one.values.tolist(), strict=True):
            add({1: "λmax", -1: "λmin"}.get(place, f"λ{chr(0x2080 + place)}" if place > 0 else ""), value)
        for estimate in c.estimates:
            if _of(estimate, kind):
                add(QUANTITIES.get(estimate.quantity, estimate.quantity), estimate.value)
    return found


def _of(estimate: Estimate, kind: str) -> bool:
    """Whether it is of the operator and the data that eigenvalues of that kind are of."""
    return spectrum_kind(estimate) == kind.replace(", smallest eigenvalues", "")


def _unmeasured(checkpoints: Sequence[Checkpoint]) -> str:
    """Which surfaces the columns of losses lack, once, and the command that makes them."""
    told = ""
    for split in ("train", "test"):
        lost = [c.style.name for c in checkpoints if c.surface(split) is None]
        like = next((one for c in checkpoints for one in c.surfaces), None)
        if lost:
            whose = ", ".join(lost) if len(lost) <= MOST_NAMED else counted(len(lost), "checkpoint")
            told += missing(f"No {split} surface of {whose}", surface_command(split, like))
    return told


def _table_note(kinds: Sequence[str]) -> str:
    spectrum = f" λ are eigenvalues of: {kinds[0]}." if len(kinds) == 1 else ""
    return (
        f'<p class="note">Losses and accuracies at the checkpoint itself, train with the labels as trained. {_ERRORS}'
        f"{escape(spectrum)}</p>"
    )


def _checkpoint_cells(checkpoint: Checkpoint) -> dict[str, str]:
    train, test = centre(checkpoint.surface("train")), centre(checkpoint.surface("test"))
    return {
        "checkpoint": checkpoint.style.name,
        "method, radii": method_told(checkpoint.record),
        "train loss": _loss(checkpoint.surface("train"), train),
        "train accuracy": percent(train.accuracy, train.accuracy_error),
        "test loss": _loss(checkpoint.surface("test"), test),
        "test accuracy": percent(test.accuracy, test.accuracy_error),
    }


def _loss(surface: Surface | None, at: Centre) -> str:
    """The loss at the checkpoint, also where it is not a finite number; a dash where it was not measured."""
    if surface is None or (math.isnan(at.loss) and centre_cell(surface) is None):
        return "—"
    return plus_minus(at.loss, at.error)


def _spectrum_cells(
    c: Checkpoint, one: Eigenpairs, checkpoints: Sequence[Checkpoint], most: int, *, named: bool
) -> dict[str, str]:
    kind = spectrum_kind(one)
    cells = {"spectrum of": kind} if named else {}
    loss = loss_of_spectrum(one, c)
    cells["at loss"] = "—" if math.isnan(loss) else short(loss)
    top = largest(one) if len(one.values) else math.nan
    first = next((p for p in checkpoints[0].pairs if spectrum_kind(p) == kind and len(p.values)), None)
    reference = largest(first) if first else math.nan
    relative = f"{top / reference:.2f}" if reference > 0 else "—"
    relative = "other data" if first and data_identity(first) != data_identity(one) else relative
    cells["λmax"] = plus_minus(top, one.residuals[0]) if math.isfinite(top) else "—"
    cells["ln, log10"] = f"{math.log(top):.2f}, {math.log10(top):.2f}" if top > 0 else "—"
    cells[f"vs {checkpoints[0].style.name}"] = relative
    state = "yes" if one.converged.all() else f"NO ({int(one.converged.sum())} of {len(one.values)})"
    cells["converged"] = state + ("" if one.complete else ", not complete")
    cells["products"] = f"{one.num_matvecs:,}"
    at = places(one)
    for n in range(1, most):
        cells[f"λ{chr(0x2081 + n)}"] = short(float(one.values[n])) if at[n : n + 1] == [n + 1] else "—"
    if -1 in at:
        cells["λmin"] = plus_minus(float(one.values[-1]), one.residuals[-1])
    for estimate in c.estimates:
        if _of(estimate, kind):
            cells[QUANTITIES.get(estimate.quantity, estimate.quantity)] = plus_minus(
                estimate.value, estimate.standard_error
            )
    return cells


def _congruence_cells(checkpoint: Checkpoint) -> dict[str, str]:
    told = [
        plus_minus(one.value, one.standard_error) if one.status == "ok" else one.status
        for one in checkpoint.congruences
    ]
    return {"congruence, eval mode": "; ".join(told)} if told else {}


def _raw(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _seeds(checkpoint: Checkpoint) -> list[object]:
    config = checkpoint.record.get("config")
    return [config.get(name, "") for name in ("seed", "data_seed")] if isinstance(config, dict) else ["", ""]
