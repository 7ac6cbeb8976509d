"""The sentences of the page, computed from the numbers; they claim no more than these carry.

Checkpoints, not methods; no curvature without the loss it was measured at; no difference in accuracy within two
standard errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from landscape.formatting import capital, counted, percent, plus_minus, short, signed
from landscape.grouping import Checkpoint, Style, data_identity, spectrum_kind, split_order
from landscape.readings import (
    centre,
    edge_median,
    largest,
    loss_of_spectrum,
    mean_over_epochs,
    num_examples,
    rise_distance,
)
from landscape.results import Eigenpairs, Surface

MOST_NAMED = 4  # checkpoints in a sentence; of more the extremes


def headline(checkpoints: Sequence[Checkpoint]) -> str:
    """Test accuracy and curvature; else the train losses; else what there is."""
    sentences = [_accuracy_sentence(checkpoints), curvature_sentence(checkpoints)]
    if not any(sentences):
        losses = [(c.style.name, centre(c.surface("train"))) for c in checkpoints]
        sentences = [_ranged("train loss", [(n, at.loss, at.error) for n, at in losses if math.isfinite(at.loss)])]
    text = ". ".join(capital(sentence) for sentence in sentences if sentence)
    return text + "." if text else f"{counted(len(checkpoints), 'checkpoint')}, measured"


def caveat(checkpoints: Sequence[Checkpoint]) -> str:
    """How far the headline carries: slices, examples, checkpoints and runs."""
    surfaces = [one for c in checkpoints for one in c.surfaces]
    random = {one.settings.get("directions") for one in surfaces} == {"random"}
    parts = []
    if surfaces:
        parts.append(f"{'A random' if random else 'A'} 2-D slice through each checkpoint, not the whole landscape")
    counts = {str(one.settings.get("split")): num_examples(one) for one in surfaces if num_examples(one)}
    if counts:
        told = [f"{n:,} {split}" for split, n in sorted(counts.items(), key=lambda item: split_order(item[0]))]
        parts.append(" and ".join(told) + " examples")
    runs = {json.dumps(c.record.get("config") or c.style.name, sort_keys=True) for c in checkpoints}
    many = len(checkpoints) > 1
    each = (
        "one run each: this compares checkpoints, not methods"
        if len(runs) == len(checkpoints)
        else f"from {counted(len(runs), 'run')}"
    )
    parts.append(counted(len(checkpoints), "checkpoint") + (f", {each}" if many else ""))
    return "; ".join(parts) + "."


def surface_sentence(members: Sequence[tuple[int, Surface]], columns: Sequence[Style], split: str) -> str:
    """The loss at the centres and the edges of surfaces on one plane and split."""
    told = []
    for column, surface in members:
        at, edge = centre(surface), edge_median(surface)
        if math.isfinite(at.loss) and math.isfinite(edge):
            told.append((columns[column].name, at.loss, edge))
    if not told:
        return f"No finite loss was measured on {split}"
    if len(told) <= 3:
        return f"Loss on {split}, centre → edge of the slice (median): " + ", ".join(
            f"{name} {short(loss)} → {short(edge)}" for name, loss, edge in told
        )
    low, high = (min(told, key=lambda item: item[1]), max(told, key=lambda item: item[1]))
    return f"Loss on {split} at the centre: from {short(low[1])} ({low[0]}) to {short(high[1])} ({high[0]})"


def slice_sentence(members: Sequence[tuple[int, Surface]], columns: Sequence[Style], split: str) -> str:
    """How far along x the loss has risen by 0.1."""
    told = []
    for column, surface in members:
        distance, at = rise_distance(surface, 0.1), centre(surface)
        if not math.isnan(distance):
            where = f"|x| = {distance:.2f}" if math.isfinite(distance) else "no point of the slice"
            told.append((distance, f"{columns[column].name} at {where} (centre {short(at.loss)})"))
    if not told:
        return f"The {split} loss along the two axes"
    if len(told) > MOST_NAMED:
        between = f"{min(told)[1]} and latest {max(told)[1]}"
        return f"The {split} loss has risen by 0.1 along x soonest {between}, of {len(told)} checkpoints"
    return f"The {split} loss has risen by 0.1 along x: " + ", ".join(text for _, text in told)


def curvature_sentence(checkpoints: Sequence[Checkpoint]) -> str:
    """The smallest and the largest top eigenvalue, each with its loss; empty where no loss is known."""
    spectra = [(c, pairs, loss) for c, pairs, loss in _curvatures(checkpoints) if math.isfinite(loss)]
    if not spectra:
        return ""
    ranked = sorted(spectra, key=lambda item: -largest(item[1]))
    split = str(ranked[0][1].settings.get("split") or "mean")

    def place(item: tuple[Checkpoint, Eigenpairs, float]) -> str:
        checkpoint, pairs, loss = item
        return f"{short(largest(pairs))} at {checkpoint.style.name} ({split} loss {short(loss)})"

    if len(ranked) == 1:
        return f"λmax is {place(ranked[0])}"
    between = "ranges from" if len(ranked) > 2 else "is"
    joint = "to" if len(ranked) > 2 else "and"
    return f"λmax {between} {place(ranked[-1])} {joint} {place(ranked[0])}"


def change_sentence(checkpoints: Sequence[Checkpoint]) -> str:
    """What one step does to gradient congruence, on average."""
    told = []
    for checkpoint in checkpoints:
        for trace in checkpoint.traces:
            mean, error = mean_over_epochs(trace, "change")
            if math.isfinite(mean):
                told.append((mean, f"{signed(mean, error)} ({checkpoint.style.name})"))
    if not told:
        return "Gradient congruence along training: no epoch was probed"
    if len(told) > MOST_NAMED:
        told = [min(told), max(told)]
        return f"One step changes the congruence, on average over the probed epochs, by {told[0][1]} to {told[1][1]}"
    each = ", ".join(text for _, text in told)
    return f"One step changes the congruence, on average over the probed epochs, by {each}"


def _ranged(what: str, values: Sequence[tuple[str, float, float]]) -> str:
    """Each value with its error and name; of many the lowest and the highest."""
    told = [f"{plus_minus(value, error)} at {name}" for name, value, error in values]
    if len(told) <= MOST_NAMED:
        return "; ".join(f"{what} {text}" for text in told)
    order = sorted(range(len(values)), key=lambda n: values[n][1])
    return f"{what} ranges from {told[order[0]]} to {told[order[-1]]}"


def _accuracy_sentence(checkpoints: Sequence[Checkpoint]) -> str:
    tested = [(c, c.surface("test"), centre(c.surface("test"))) for c in checkpoints]
    tested = [(c, surface, at) for c, surface, at in tested if math.isfinite(at.accuracy_error)]
    if not tested:
        return ""
    if len({data_identity(surface) for _, surface, _ in tested if surface}) > 1:
        return "Test accuracies are of different test data and not compared"
    ranked = sorted(tested, key=lambda item: -item[2].accuracy)
    (best, _, high), (worst, _, low) = ranked[0], ranked[-1]
    highest, lowest = (percent(at.accuracy, at.accuracy_error) for at in (high, low))
    if len(ranked) == 1:
        return f"test accuracy is {highest} at {best.style.name}"
    error = math.hypot(high.accuracy_error, low.accuracy_error)
    if high.accuracy - low.accuracy <= 2 * error:
        every = f"test accuracies of these {len(ranked)} checkpoints are within noise"
        return f"{every} ({lowest} to {highest})"
    near = [
        c.style.name
        for c, _, at in ranked[1:]
        if high.accuracy - at.accuracy <= 2 * math.hypot(high.accuracy_error, at.accuracy_error)
    ]
    near = near if len(near) <= MOST_NAMED else [f"{len(near)} others"]
    others = f", {' and '.join(near)} within noise of it" if near else ""
    return f"test accuracy ranges from {lowest} at {worst.style.name} to {highest} at {best.style.name}{others}"


def _curvatures(checkpoints: Sequence[Checkpoint]) -> list[tuple[Checkpoint, Eigenpairs, float]]:
    """The first spectrum of each checkpoint that is of the same operator and data as the first of all."""
    known = [(c, p) for c in checkpoints for p in c.pairs if math.isfinite(largest(p))]
    kind = next((spectrum_kind(p) for _, p in known), "")
    chosen = [
        (c, next((p for owner, p in known if owner is c and spectrum_kind(p) == kind), None)) for c in checkpoints
    ]
    return [(c, p, loss_of_spectrum(p, c)) for c, p in chosen if p is not None]
