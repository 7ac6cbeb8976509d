"""What the tables of the page hold, as numbers: rows of checkpoints and spectra, and each measure over the seeds.

What is of one matrix and of one data stands in one row. Over seeds there is one row for each checkpoint: that of the
spectrum which stands for it (`landscape.readings.standing_spectra`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from landscape.formatting import capital
from landscape.grouping import Checkpoint, conditions, spectrum_kind
from landscape.methods import FEWEST_SEEDS, Comparison, ratio
from landscape.page.sentences import repeats
from landscape.readings import centre, centre_measured, largest, loss_of_spectrum, places, standing_spectra
from landscape.results import Array, Eigenpairs, Estimate
from landscape.verdicts import apart, eigenvalues_over_seeds, on_which_data

_SMALLEST = ", smallest eigenvalues"

Measure = tuple[float, float]  # and its error, NaN where that is not known


@dataclass(frozen=True, eq=False)
class Row:
    """A checkpoint, one of its spectra, and the estimates of the same matrix and data, which `kind` names."""

    checkpoint: Checkpoint
    pairs: Eigenpairs | None = None
    estimates: tuple[Estimate, ...] = ()
    kind: str = ""


@dataclass(frozen=True, eq=False)
class Seeds:
    """A row for each seed of a method, and by measure the values of those seeds that have it."""

    name: str
    rows: list[Row]
    values: dict[str, Array]

    @property
    def spectra(self) -> list[Eigenpairs]:
        """Those that stand for the seeds."""
        return [row.pairs for row in self.rows if row.pairs is not None]


def rows_of(checkpoint: Checkpoint) -> list[Row]:
    """A row for each spectrum, one for estimates that are of none, and at least one."""
    found = [_row(checkpoint, one) for one in checkpoint.pairs]
    alone = [one for one in checkpoint.estimates if not any(_alike(one, pairs) for pairs in checkpoint.pairs)]
    for subject in dict.fromkeys(map(_of, alone)):
        mine = tuple(one for one in alone if _of(one) == subject)
        found.append(Row(checkpoint, None, mine, spectrum_kind(mine[0])))
    return _told_apart(found) or [Row(checkpoint)]


def measures(row: Row) -> dict[str, Measure]:
    """Each number of a row by its name; what was not measured is not there."""
    found: dict[str, Measure] = {}
    for split in ("train", "test"):
        surface = row.checkpoint.surface(split)
        if surface is not None and centre_measured(surface):
            at = centre(surface)
            found |= {f"{split}_loss": (at.loss, at.error), f"{split}_accuracy": (at.accuracy, at.accuracy_error)}
    for n, probe in enumerate(row.checkpoint.congruences):
        found[f"congruence_{n + 1}"] = (probe.value, probe.standard_error)
    if row.pairs is not None:
        found["at_loss"] = (loss_of_spectrum(row.pairs, row.checkpoint), math.nan)
    for one in row.estimates:
        again = sum(name.startswith(one.quantity) for name in found)
        name = f"{one.quantity}_{again + 1}" if again else one.quantity
        found[name] = (one.value, one.standard_error)
    if row.pairs is not None:
        for place, *value in zip(places(row.pairs), row.pairs.values, row.pairs.residuals, strict=True):
            found[_placed(place)] = (float(value[0]), float(value[1]))
    return found


def standing_rows(checkpoints: Sequence[Checkpoint]) -> list[Row]:
    """For each checkpoint the row of the spectrum that stands for it, or of estimates of the same kind."""
    standing = standing_spectra(checkpoints)
    kinds = [spectrum_kind(one).replace(_SMALLEST, "") for one in standing if one is not None]
    kinds = kinds or [row.kind for c in checkpoints for row in rows_of(c) if row.estimates]
    kind = max(kinds, key=kinds.count, default="")
    return [_standing_row(c, one, kind) for c, one in zip(checkpoints, standing, strict=True)]


def over_seeds(checkpoints: Sequence[Checkpoint]) -> list[Seeds]:
    """The methods with three seeds or more; of each measure the seeds that have it, where these are three or more.

    None where no measure has so many.
    """
    found, standing = [], standing_rows(checkpoints)
    for method in repeats(checkpoints):
        rows = [standing[n] for n in method.members]
        values: dict[str, list[float]] = {}
        for row in rows:
            for name, (value, _) in measures(row).items():
                values.setdefault(name, []).append(value)
        enough = {name: np.array(of) for name, of in values.items() if len(of) >= FEWEST_SEEDS}
        found.append(Seeds(method.name, rows, enough))
    return found if any(one.values for one in found) else []


def ratios(seeds: Sequence[Seeds]) -> dict[str, tuple[str, Comparison]]:
    """For each method, whose largest eigenvalue its own is held against, and the ratio."""
    tops = []
    for one in seeds:
        spectra = [pairs for pairs in one.spectra if math.isfinite(largest(pairs))]
        if len(spectra) >= FEWEST_SEEDS:
            tops.append(eigenvalues_over_seeds(one.name, spectra, [pairs.loss for pairs in spectra]))
    tops = [one for one in tops if not one.refused]
    if len(tops) < 2 or on_which_data(tops) is None:
        return {}
    first, *others = tops
    return {one.name: (first.name, ratio(one.values, first.values, comparisons=len(others))) for one in others}


def pooled(seeds: Sequence[Seeds]) -> str:
    """Which measures over seeds are of more than one data, or of more than one way of measuring."""
    rows = [row for one in seeds for row in one.rows]
    surfaces = {split: [row.checkpoint.surface(split) for row in rows] for split in ("train", "test")}
    keys = {split: [conditions(one) for one in of if one is not None] for split, of in surfaces.items()}
    keys["λ"] = [conditions(row.pairs) for row in rows if row.pairs is not None]
    told: dict[str, list[str]] = {}
    for name, of in keys.items():
        if why := apart(of, "").replace("  ", " "):
            told.setdefault(why, []).append(name)
    return "; ".join(capital(f"{why} from seed to seed: {', '.join(names)}") for why, names in told.items())


def _row(checkpoint: Checkpoint, one: Eigenpairs) -> Row:
    estimates = tuple(estimate for estimate in checkpoint.estimates if _alike(estimate, one))
    return Row(checkpoint, one, estimates, spectrum_kind(one))


def _standing_row(checkpoint: Checkpoint, one: Eigenpairs | None, kind: str) -> Row:
    """Of a checkpoint without that spectrum the estimates of its kind, or else no more than losses."""
    if one is not None:
        return _row(checkpoint, one)
    alone = (row for row in rows_of(checkpoint) if row.pairs is None and row.kind == kind)
    return next(alone, Row(checkpoint))


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """With the start of its hash where a checkpoint has the same matrix on other data too."""
    ones, data = [row.pairs or row.estimates[0] for row in rows], dict[str, set[str]]()
    for row, one in zip(rows, ones, strict=True):
        data.setdefault(row.kind, set()).add(conditions(one))
    return [
        replace(row, kind=f"{row.kind}, data {str(one.settings.get('data_hash') or 'unknown')[:8]}")
        if len(data[row.kind]) > 1
        else row
        for row, one in zip(rows, ones, strict=True)
    ]


def _alike(estimate: Estimate, pairs: Eigenpairs) -> bool:
    """Whether both are of one matrix and one data."""
    return _of(estimate) == _of(pairs)


def _of(result: Eigenpairs | Estimate) -> tuple[str, str]:
    return spectrum_kind(result).replace(_SMALLEST, ""), conditions(result)


def _placed(place: int) -> str:
    """lambda_1 for the largest, lambda_min for the smallest, lambda_min_2 for the one above it."""
    return f"lambda_{place}" if place > 0 else "lambda_min" + (f"_{-place}" if place < -1 else "")
