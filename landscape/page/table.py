"""Every measure at every checkpoint, and over the seeds of a method: the tables of the page, and what buttons copy."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import numpy as np

from landscape.formatting import counted, percent, plus_minus, short
from landscape.grouping import Checkpoint, conditions, spectrum_kind
from landscape.methods import deviation, method_told
from landscape.page.captions import surface_command
from landscape.page.markup import escape, missing, section, table
from landscape.page.measures import Row, Seeds, measures, over_seeds, pooled, ratios, rows_of
from landscape.page.sentences import MOST_NAMED
from landscape.readings import QUANTITIES, Centre, centre, centre_cell, largest, loss_of_spectrum, places
from landscape.results import Eigenpairs, Surface
from landscape.subjects import mode_words
from landscape.verdicts import mean_and_deviation, times

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
_CONGRUENCE = "congruence, eval mode"
_SPLITS = ("train", "test")
_OVER_SEEDS = "Over seeds: mean ± standard deviation"


def table_section(checkpoints: Sequence[Checkpoint]) -> str:
    """A row per checkpoint and spectrum, a column per measure."""
    if not checkpoints:
        return section("Table", "Nothing was measured", missing("No results", "landscape surface CKPT"))
    head, rows = _measures(checkpoints)
    body = _table_note(checkpoints)
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
    seeds = [f"{_OVER_SEEDS}, in the rows at the end.", pooled(over_seeds(checkpoints))] if over else []
    comments = "".join(f"% {note}\n" for note in [_ERRORS, _unusual(checkpoints), *seeds] if note)
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
    rows = [_csv_record(row) for c in checkpoints for row in rows_of(c)] + _csv_over_seeds(over_seeds(checkpoints))
    head = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    head.sort(key=lambda name: name.startswith("lambda_"))  # as many as there are, at the end
    file = io.StringIO()
    writer = csv.DictWriter(file, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _raw(v) if isinstance(v, float) else v for name, v in row.items()} for row in rows)
    return file.getvalue()


def _csv_record(row: Row) -> dict[str, object]:
    """What is known of a checkpoint and of one of its spectra."""
    c, one = row.checkpoint, row.pairs
    seed, data_seed = _seeds(c)
    found: dict[str, object] = {"checkpoint": c.style.name, "row": "checkpoint", "hash": c.record.get("hash") or ""}
    found |= {"method": method_told(c.record), "seed": seed, "data_seed": data_seed}
    found |= {f"{split}_mode": _mode(surface) for split in _SPLITS if (surface := c.surface(split)) and _mode(surface)}
    names = ("loss", "loss_se", "accuracy", "accuracy_se")
    found |= {f"{split}_{name}": "" for split in _SPLITS for name in names}  # also where none was measured
    found |= {"spectrum_of": row.kind} if row.kind else {}
    for name, (value, error) in measures(row).items():
        found |= {name: value}
        if name != "at_loss":
            found |= {f"{name}_{'residual' if name.startswith('lambda_') else 'se'}": error}
    if one is not None:
        found |= {"matvecs": one.num_matvecs, "converged": bool(one.converged.all()), "complete": one.complete}
    return found


def _csv_over_seeds(seeds: Sequence[Seeds]) -> list[dict[str, object]]:
    """Mean, standard deviation and number of seeds of each measure of each method, where it is a finite number."""
    rows, found = [], ratios(seeds)
    for one in seeds:
        finite = {name: of[np.isfinite(of)] for name, of in one.values.items() if np.isfinite(of).any()}
        start: dict[str, object] = {"checkpoint": one.name, "spectrum_of": _kind(one)}
        rows += [
            start | {"row": "mean over seeds"} | {name: float(np.mean(of)) for name, of in finite.items()},
            start | {"row": "standard deviation over seeds"} | {name: deviation(of) for name, of in finite.items()},
            start | {"row": "number of seeds"} | {name: len(of) for name, of in finite.items()},
        ]
        if one.name in found:
            first, ratio = found[one.name]
            ends = {"": ratio.difference, "_low": ratio.low, "_high": ratio.high}
            rows[-3] |= {"ratio_to": first} | {f"lambda_1_ratio{end}": 1 + value for end, value in ends.items()}
    return rows


def _kind(seeds: Seeds) -> str:
    return next(map(spectrum_kind, seeds.spectra), "") or next((row.kind for row in seeds.rows), "")


def _kinds(checkpoints: Sequence[Checkpoint]) -> list[str]:
    return list(dict.fromkeys(row.kind for c in checkpoints for row in rows_of(c) if row.kind))


def _measures(checkpoints: Sequence[Checkpoint]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows."""
    several = len(_kinds(checkpoints)) > 1
    most = min(max((len(one.values) for c in checkpoints for one in c.pairs), default=1), 5)
    rows = [
        {**_checkpoint_cells(c), **_spectrum_cells(row, checkpoints, most, named=several), **_congruence_cells(c)}
        for c in checkpoints
        for row in rows_of(c)
    ]
    head = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    return head, [[row.get(name, "—") for name in head] for row in rows]


def _over_seeds(checkpoints: Sequence[Checkpoint]) -> list[dict[str, str]]:
    """Cells by column for each method with three seeds or more."""
    rows, seeds = [], over_seeds(checkpoints)
    for one in seeds:
        cells = {_title(name): mean_and_deviation(of) for name, of in one.values.items()}
        for name in ("train_accuracy", "test_accuracy"):
            told = mean_and_deviation(100 * one.values.get(name, np.full(1, np.nan)))
            cells[_title(name)] = told if told == "—" else f"{told} %"
        top = one.values.get("lambda_1", np.full(1, np.nan))
        if (top > 0).all():
            cells["ln, log10"] = f"{mean_and_deviation(np.log(top))}, {mean_and_deviation(np.log10(top))}"
        sure = sum(bool(p.converged.all() and p.complete) for p in one.spectra)
        cells |= {"converged": f"{sure} of {len(one.spectra)}"} if one.spectra else {}
        counts = sorted({len(of) for of in one.values.values()}) or [len(one.rows)]
        count = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        whole = "" if counts == [len(one.rows)] else f" of {len(one.rows)}"
        cells |= {"checkpoint": one.name, "method, radii": count + whole, "spectrum of": _kind(one)}
        rows.append(cells)
    for name, (first, found) in ratios(seeds).items():
        cells = next(row for row in rows if row["checkpoint"] == name)
        cells[f"{_RATIO} of {first} (95 %)"] = "no spread" if math.isnan(found.low) else times(found)
    return rows


def _title(name: str) -> str:
    """The column of the page that a measure stands in."""
    place = name.removeprefix("lambda_")
    if place.isdecimal():
        return "λmax" if place == "1" else f"λ{chr(0x2080 + int(place))}"
    titles = QUANTITIES | {"lambda_min": "λmin", "congruence_1": _CONGRUENCE}
    return titles.get(name, name.replace("_", " "))


def _pooled_note(checkpoints: Sequence[Checkpoint]) -> str:
    told = pooled(over_seeds(checkpoints))
    return f'<p class="note warn">{escape(told)}; ± holds that too.</p>' if told else ""


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


def _table_note(checkpoints: Sequence[Checkpoint]) -> str:
    kinds, unusual = _kinds(checkpoints), _unusual(checkpoints)
    spectrum = f" λ are eigenvalues of: {kinds[0]}." if len(kinds) == 1 else ""
    warning = f'<p class="note warn">{escape(unusual)}</p>' if unusual else ""
    return (
        f'<p class="note">Losses and accuracies at the checkpoint itself, train with the labels as trained. {_ERRORS}'
        f"{escape(spectrum)}</p>{warning}"
    )


def _unusual(checkpoints: Sequence[Checkpoint]) -> str:
    """Whose losses are not those of the checkpoint itself."""
    found: dict[str, list[str]] = {}
    for split in _SPLITS:
        for c in checkpoints:
            if (surface := c.surface(split)) is not None and (mode := _mode(surface)):
                found.setdefault(f"{split}: {mode}", []).append(c.style.name)
    told = [
        f"{how} at {', '.join(names[:MOST_NAMED])}{' …' * (len(names) > MOST_NAMED)}" for how, names in found.items()
    ]
    return f"Not the checkpoint itself, {'; '.join(told)}." if told else ""


def _mode(surface: Surface) -> str:
    return mode_words(surface.settings).removeprefix(", ")


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


def _spectrum_cells(row: Row, checkpoints: Sequence[Checkpoint], most: int, *, named: bool) -> dict[str, str]:
    cells = {"spectrum of": row.kind or "—"} if named else {}
    cells |= {"λmax": "—"} if row.pairs is None else _eigenvalue_cells(row.pairs, row.checkpoint, checkpoints, most)
    for estimate in row.estimates:
        name = QUANTITIES.get(estimate.quantity, estimate.quantity)
        told = plus_minus(estimate.value, estimate.standard_error)
        cells[name] = f"{cells[name]}; {told}" if name in cells else told
    return cells


def _eigenvalue_cells(one: Eigenpairs, c: Checkpoint, checkpoints: Sequence[Checkpoint], most: int) -> dict[str, str]:
    kind, loss = spectrum_kind(one), loss_of_spectrum(one, c)
    cells = {"at loss": "—" if math.isnan(loss) else short(loss)}
    top = largest(one) if len(one.values) else math.nan
    firsts = [p for p in checkpoints[0].pairs if spectrum_kind(p) == kind and len(p.values)]
    first = max(firsts, key=lambda p: conditions(p) == conditions(one), default=None)
    reference = largest(first) if first else math.nan
    relative = f"{top / reference:.2f}" if reference > 0 else "—"
    relative = "other data" if first and conditions(first) != conditions(one) else relative
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
    return cells


def _congruence_cells(checkpoint: Checkpoint) -> dict[str, str]:
    told = [
        plus_minus(one.value, one.standard_error) if one.status == "ok" else one.status
        for one in checkpoint.congruences
    ]
    return {_CONGRUENCE: "; ".join(told)} if told else {}


def _raw(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _seeds(checkpoint: Checkpoint) -> list[object]:
    config = checkpoint.record.get("config")
    return [config.get(name, "") for name in ("seed", "data_seed")] if isinstance(config, dict) else ["", ""]
