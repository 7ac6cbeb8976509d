"""The sentences of the page, computed from the numbers; they claim no more than these carry.

Checkpoints, not methods, unless there are three seeds of each; no curvature without the loss it was measured at; no
difference within the errors of what differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from landscape.formatting import capital, counted, percent, plus_minus, short, signed
from landscape.grouping import Checkpoint, Style, checkpoint_key, conditions, spectrum_kind, split_order
from landscape.methods import FEWEST_SEEDS, Method, methods
from landscape.readings import (
    Centre,
    centre,
    centre_measured,
    certified,
    edge_median,
    first_step,
    largest,
    loss_of_spectrum,
    mean_over_epochs,
    measured,
    num_examples,
    rise_distance,
    sample_errors,
    standing_spectra,
)
from landscape.results import CongruenceTrace, Eigenpairs, Estimate, Surface
from landscape.subjects import matrix_words, mode_words
from landscape.verdicts import (
    OverSeeds,
    accuracy_over_seeds,
    apart,
    changes_over_seeds,
    curvature_over_seeds,
    eigenvalues_over_seeds,
    mean_and_deviation,
    on_which_data,
)

MOST_NAMED = 4  # checkpoints in a sentence; of more the extremes


def headline(checkpoints: Sequence[Checkpoint]) -> str:
    """Test accuracy and curvature, of methods where there are seeds; else the train losses; else what there is."""
    sentences = [_accuracy_sentence(checkpoints), curvature_sentence(checkpoints)]
    if not any(sentences):
        sentences = [_loss_sentence(checkpoints)]
        trained = [one for c in checkpoints if (one := c.surface("train")) is not None and centre_measured(one)]
        lost = sum(not math.isfinite(centre(one).loss) for one in trained)
        sentences += [f"no finite train loss at {counted(lost, 'checkpoint')}"] if lost else []
    text = ". ".join(capital(sentence) for sentence in sentences if sentence)
    return text + "." if text else f"{counted(len(checkpoints), 'checkpoint')}, measured"


def caveat(checkpoints: Sequence[Checkpoint]) -> str:
    """How far the headline carries: slices, examples, checkpoints and runs."""
    surfaces = [one for c in checkpoints for one in c.surfaces]
    random = {one.settings.get("directions") for one in surfaces} == {"random"}
    parts = []
    if surfaces:
        parts.append(f"{'A random' if random else 'A'} 2-D slice through each checkpoint, not the whole landscape")
    if counts := _counts(checkpoints):
        parts.append(counts)
    if len(repeats(checkpoints)) < 2 and any(math.isfinite(centre(one).error) for one in surfaces):
        parts.append("± of a loss or an accuracy is the standard error of the examples")
    parts.append(counted(len(checkpoints), "checkpoint") + (f", {_runs(checkpoints)}" if len(checkpoints) > 1 else ""))
    return "; ".join(parts) + "."


def _counts(checkpoints: Sequence[Checkpoint]) -> str:
    """Over how many examples losses and accuracies are that stand for the checkpoints, and λmax where it differs."""
    splits = {str(one.settings.get("split")) for c in checkpoints for one in c.surfaces}
    standing = {split: [c.surface(split) for c in checkpoints] for split in sorted(splits, key=split_order)}
    told = [text for split, surfaces in standing.items() if (text := _count(surfaces, split))]
    spectra = [pairs for _, pairs, loss in _curvatures(checkpoints) if math.isfinite(loss)]
    of_spectra = _count(spectra, str(spectra[0].settings.get("split"))) if spectra else ""
    parts = [" and ".join(told) + " examples"] if told else []
    parts += [f"λmax over {of_spectra} examples"] if of_spectra and of_spectra not in told else []
    return ", ".join(parts)


def _count(results: Sequence[Surface | Eigenpairs | None], split: str) -> str:
    counts = sorted({count for one in results if one and (count := num_examples(one))})
    ends = dict.fromkeys([*counts[:1], *counts[-1:]])
    return f"{' to '.join(f'{count:,}' for count in ends)} {split}" if counts else ""


def _runs(checkpoints: Sequence[Checkpoint]) -> str:
    """From how many runs of what: which decides whether anything may be said of methods."""
    found = repeats(checkpoints)
    if len(found) > 1:
        told = ", ".join(f"{len(one.members)} seeds of {one.name}" for one in found[:MOST_NAMED])
        others = len(checkpoints) - sum(len(one.members) for one in found[:MOST_NAMED])
        told += f", {counted(others, 'other')}" if others else ""
        return told
    runs = {json.dumps(c.record.get("config") or c.style.name, sort_keys=True) for c in checkpoints}
    if len(runs) == len(checkpoints) > len({c.style.method or c.style.name for c in checkpoints}):
        return f"fewer than {FEWEST_SEEDS} seeds of two methods: this compares checkpoints, not methods"
    one_each = "one run each: this compares checkpoints, not methods"
    return one_each if len(runs) == len(checkpoints) else f"from {counted(len(runs), 'run')}"


def repeats(checkpoints: Sequence[Checkpoint]) -> list[Method]:
    """The methods that these are several seeds of."""
    return methods([c.record for c in checkpoints])


def surface_sentence(members: Sequence[tuple[int, Surface]], columns: Sequence[Style], split: str) -> str:
    """The loss at the centres and the edges of surfaces on one plane and split; of methods, over their seeds."""
    told, keys = [], set()  # a checkpoint may stand several times
    for column, surface in members:
        at, edge = centre(surface), edge_median(surface)
        if math.isfinite(at.loss) and math.isfinite(edge):
            keys.add(checkpoint_key(surface))
            told.append((columns[column].name, at, edge))
    if not told:
        values = np.concatenate([measured(surface).ravel() for _, surface in members])
        values = values[np.isfinite(values)]
        if not values.size:
            return f"No finite loss was measured on {split}"
        ends = " to ".join(dict.fromkeys(short(float(value)) for value in (values.min(), values.max())))
        return f"Loss on {split}: {ends}; not finite at the checkpoints, or not measured there"
    what = f"Loss on {split}, centre → edge of the slice (median)"
    if over := _over_seeds(members):
        each = [
            f"{name} {mean_and_deviation(np.array([centre(one).loss for one in mine]))} → "
            f"{mean_and_deviation(np.array([edge_median(one) for one in mine]))}"
            for name, mine in over
        ]
        return f"{what}, mean ± standard deviation over seeds: {', '.join(each)}"
    if len(told) <= 3:
        return f"{what}: " + ", ".join(f"{name} {short(at.loss)} → {short(edge)}" for name, at, edge in told)
    (lowest, low, _), (highest, high, _) = (end(told, key=lambda item: item[1].loss) for end in (min, max))
    if short(low.loss) == short(high.loss):
        return f"Loss on {split} at the centre: {short(low.loss)} at all {len(keys)} checkpoints"
    apart = high.loss - low.loss > 2 * math.hypot(low.error, high.error)
    ends = f"from {short(low.loss)} ({lowest}) to {short(high.loss)} ({highest})"
    return f"Loss on {split} at the centre: {ends}{'' if apart else ', within two standard errors of each other'}"


def slice_sentence(members: Sequence[tuple[int, Surface]], columns: Sequence[Style], split: str) -> str:
    """How far along x the loss has risen by 0.1, and whether that is less than the grid can tell."""
    read = [(rise_distance(one, 0.1), columns[column].name, centre(one).loss) for column, one in members]
    keys = {checkpoint_key(one) for (_, one), (at, *_) in zip(members, read, strict=True) if not math.isnan(at)}
    read, step = [one for one in read if not math.isnan(one[0])], first_step(members[0][1])
    if not read:
        return f"The {split} loss along the two axes"
    what = f"The {split} loss has risen by 0.1 along x"
    over = _over_seeds(members)
    distances = [rise_distance(one, 0.1) for _, mine in over for one in mine] or [distance for distance, *_ in read]
    coarse = any(distance < step for distance in distances)
    near = f"; below {short(step)}, one step of the grid, it is taken for a bowl" if coarse else ""
    if over:
        each = [
            f"{name} |x| = {mean_and_deviation(np.array([rise_distance(one, 0.1) for one in mine]))} (centre "
            f"{short(float(np.mean([centre(one).loss for one in mine])))})"
            for name, mine in over
        ]
        return f"{what}, mean ± standard deviation over seeds: {', '.join(each)}{near}"
    told = [f"{name} at {_place(distance)} (centre {short(loss)})" for distance, name, loss in read]
    if len(told) <= MOST_NAMED:
        return f"{what}: {', '.join(told)}{near}"
    soonest, latest = (end(range(len(read)), key=lambda n: read[n][0]) for end in (min, max))
    if _place(read[soonest][0]) == _place(read[latest][0]):
        losses = " to ".join(dict.fromkeys(short(end(loss for *_, loss in read)) for end in (min, max)))
        return f"{what} at all {len(keys)} checkpoints alike: {_place(read[soonest][0])} (centre {losses}){near}"
    return f"{what} soonest {told[soonest]} and latest {told[latest]}, of {len(keys)} checkpoints{near}"


def _place(distance: float) -> str:
    return f"|x| = {short(distance)}" if math.isfinite(distance) else "no point of the slice"


def _over_seeds(members: Sequence[tuple[int, Surface]]) -> list[tuple[str, list[Surface]]]:
    """The surfaces of each method, where there are two to four with seeds; the first one of each checkpoint."""
    surfaces = list({checkpoint_key(one): one for _, one in reversed(members)}.values())[::-1]
    found = methods([one.checkpoint for one in surfaces])
    if not 1 < len(found) <= MOST_NAMED:
        return []
    return [(method.name, [surfaces[n] for n in method.members]) for method in found]


def curvature_sentence(checkpoints: Sequence[Checkpoint]) -> str:
    """The top eigenvalues of methods over their seeds; of checkpoints the smallest and the largest, and their ratio.

    Each with its loss; empty where no loss is known. One that is not certified is told with its residual, in no ratio.
    """
    spectra = [(c, pairs, loss) for c, pairs, loss in _curvatures(checkpoints) if math.isfinite(loss)]
    if not spectra:
        return ""
    settings = spectra[0][1].settings
    split, symbol = str(settings.get("split") or "mean"), f"λmax{matrix_words(settings)}"
    found, lacking = methods_among(checkpoints, [c for c, _, _ in spectra])
    if len(found) > 1:
        mine = [[spectra[n] for n in method.members] for method in found]
        over = [
            eigenvalues_over_seeds(method.name, [pairs for _, pairs, _ in of], [loss for _, _, loss in of])
            for method, of in zip(found, mine, strict=True)
        ]
        return curvature_over_seeds(over, symbol=symbol, split=split) + (f" ({lacking})" if lacking else "")
    if lacking:
        return f"{symbol} of one kind is known for {lacking}: methods not compared"
    if differing := apart([conditions(pairs) for _, pairs, _ in spectra], split):
        return f"{symbol} of these {len(spectra)} checkpoints is {differing} and not compared"
    ranked = sorted(spectra, key=lambda item: largest(item[1]))

    def place(item: tuple[Checkpoint, Eigenpairs, float]) -> str:
        checkpoint, pairs, loss = item
        sure, unsure = short(largest(pairs)), f"{plus_minus(largest(pairs), pairs.residuals[0])}, not certified,"
        return f"{sure if certified(pairs) else unsure} at {checkpoint.style.name} ({split} loss {short(loss)})"

    if len(ranked) == 1:
        return f"{symbol} is {place(ranked[0])}{_other_data(checkpoints, spectra[0][1])}"
    low, high = ranked[0], ranked[-1]
    ends = f"{place(low)} {'to' if len(ranked) > 2 else 'and'} {place(high)}"
    if unsure := sum(not certified(pairs) for _, pairs, _ in ranked):
        verdict = f"not compared, for {unsure} {'is' if unsure == 1 else 'are'} not certified"
        return f"{symbol} of these {len(ranked)} checkpoints is {verdict}: {ends}"
    if _alike(low, high):
        within = f"within {'two ' if _errors(low, high)[0] != 'residuals' else 'both '}{_errors(low, high)[0]}"
        return f"{symbol} of these {len(ranked)} checkpoints is not told apart: {ends}, {within}"
    near = {
        "lowest": [item[0].style.name for item in ranked[1:-1] if _alike(low, item)],
        "highest": [item[0].style.name for item in ranked[1:-1] if _alike(item, high) and not _alike(low, item)],
    }
    ties = "".join(f"; {_named(names)} not told apart from the {end}" for end, names in near.items() if names)
    return f"{symbol} {'ranges from' if len(ranked) > 2 else 'is'} {ends}, {_ratio(low, high)}{ties}"


def _loss_sentence(checkpoints: Sequence[Checkpoint]) -> str:
    """The train loss of methods over their seeds, or else of checkpoints; empty where there is none."""
    surfaces = [(c, one) for c in checkpoints if (one := c.surface("train")) is not None]
    known = [(c, at, one) for c, one in surfaces if math.isfinite((at := centre(one)).loss)]
    if not known:
        return ""
    mode = mode_words(known[0][2].settings)
    found, lacking = methods_among(checkpoints, [c for c, _, _ in known])
    if len(found) > 1:
        nothing = np.full(1, np.nan)
        over = [
            OverSeeds(method.name, nothing, nothing, tuple(conditions(known[n][2]) for n in method.members))
            for method in found
        ]
        if (where := on_which_data(over)) is None:
            differing = apart([key for one in over for key in one.data], "train")
            return f"train losses are {differing}, so methods are not compared"
        means = [
            f"{method.name} {mean_and_deviation(np.array([known[n][1].loss for n in method.members]))}"
            for method in found[:MOST_NAMED]
        ]
        more = f" and {counted(len(found) - MOST_NAMED, 'other')}" if len(found) > MOST_NAMED else ""
        told = f"train loss: {', '.join(means)}{more} (± over seeds){where}{mode}"
        return told + (f" ({lacking})" if lacking else "")
    if lacking:
        return f"train loss is known for {lacking}: methods not compared"
    if differing := apart([conditions(one) for _, _, one in known], "train"):
        return f"train losses are {differing} and not compared"
    return _ranged("train loss", [(c.style.name, at.loss, at.error) for c, at, _ in known]) + mode


def rank_sentence(checkpoints: Sequence[Checkpoint]) -> str:
    """The trace relative to the largest eigenvalue, of methods over their seeds, else of checkpoints on one data."""
    ranks = _ranks(checkpoints)
    if not ranks:
        return "All eigenvalues, not only the largest"
    settings = ranks[0][1].settings
    symbol, split = f"trace / λmax{matrix_words(settings)}", str(settings.get("split") or "mean")
    found, lacking = methods_among(checkpoints, [c for c, _ in ranks])
    if len(found) > 1:
        over = [_ranks_over_seeds(method.name, [ranks[n][1] for n in method.members]) for method in found]
        return curvature_over_seeds(over, symbol=symbol, split=split) + (f" ({lacking})" if lacking else "")
    if lacking:
        return f"{symbol} of one kind is known for {lacking}: methods not compared"
    if differing := apart([conditions(one) for _, one in ranks], split):
        return f"{symbol} of these {len(ranks)} checkpoints is {differing} and not compared"
    told = [f"{c.style.name} {plus_minus(one.value, one.standard_error)}" for c, one in ranks]
    return f"{symbol}: {', '.join(told[:3])}" + (", …" if len(told) > 3 else "")


def _ranks(checkpoints: Sequence[Checkpoint]) -> list[tuple[Checkpoint, Estimate]]:
    """One of each checkpoint, all of the matrix that most have, on the data of the spectra that stand for them."""
    known = [[one for one in c.estimates if one.quantity == "effective_rank"] for c in checkpoints]
    kinds = [kind for mine in known for kind in dict.fromkeys(map(spectrum_kind, mine))]
    standing, found = standing_spectra(checkpoints), []
    told = {spectrum_kind(pairs) for pairs in standing if pairs}
    kind = max(kinds, key=lambda kind: (kinds.count(kind), kind in told), default="")
    for c, mine, pairs in zip(checkpoints, known, standing, strict=True):
        data, alike = conditions(pairs) if pairs else "", [one for one in mine if spectrum_kind(one) == kind]
        found += [(c, one) for one in sorted(alike, key=lambda one: conditions(one) != data)[:1]]
    return found


def _ranks_over_seeds(name: str, ranks: Sequence[Estimate]) -> OverSeeds:
    values, losses = np.array([one.value for one in ranks]), np.array([one.loss for one in ranks])
    low = int(np.sum(~(values > 0)))
    refused = f"{low} of {len(ranks)} are not positive" if low else ""
    return OverSeeds(name, values, losses, tuple(map(conditions, ranks)), refused)


def change_sentence(checkpoints: Sequence[Checkpoint]) -> str:
    """What one step does to gradient congruence, on average; of methods over their seeds, with their differences."""
    found = [(c, trace, *mean_over_epochs(trace, "change")) for c in checkpoints for trace in c.traces[:1]]
    probed = [one for one in found if math.isfinite(one[2])]
    if not probed:
        return "Gradient congruence along training: no epoch was probed"
    changes = "One step changes the congruence, on average over the probed epochs, by"
    seeds, lacking = methods_among(checkpoints, [c for c, *_ in probed])
    if len(seeds) > 1:
        nothing = np.full(1, np.nan)
        over = [
            OverSeeds(
                method.name,
                np.array([probed[n][2] for n in method.members]),
                nothing,
                tuple(_probed_data(probed[n][1]) for n in method.members),
            )
            for method in seeds
        ]
        return f"{changes} {changes_over_seeds(over)}" + (f" ({lacking})" if lacking else "")
    told = [(mean, f"{signed(mean, error)} ({c.style.name})") for c, _, mean, error in probed]
    if len(told) > MOST_NAMED:
        return f"{changes} {min(told)[1]} to {max(told)[1]}"
    return f"{changes} {', '.join(text for _, text in told)}"


def _probed_data(trace: CongruenceTrace) -> str:
    """As `conditions`: equal where runs trained on equal data and were probed with one radius."""
    config: Any = trace.checkpoint.get("config")
    data, noise, seed = (config.get(name) for name in ("data", "label_noise", "data_seed"))
    return json.dumps({"data": data, "labels": noise, "data_hash": seed, "radius": trace.settings.get("radius")})


def _ranged(what: str, values: Sequence[tuple[str, float, float]]) -> str:
    """Each value with its error and name; of many the lowest and the highest."""
    told = [f"{plus_minus(value, error)} at {name}" for name, value, error in values]
    if len(told) <= MOST_NAMED:
        return "; ".join(f"{what} {text}" for text in told)
    order = sorted(range(len(values)), key=lambda n: values[n][1])
    return f"{what} ranges from {told[order[0]]} to {told[order[-1]]}"


def methods_among(checkpoints: Sequence[Checkpoint], some: Sequence[Checkpoint]) -> tuple[list[Method], str]:
    """The methods that have enough seeds among `some`, by their places there, and of which seeds one was not measured.

    Fewer than two methods among all checkpoints, or no seed of any among `some`: none, and nothing is lacking.
    """
    found, lacking, every = [], [], repeats(checkpoints)
    for method in every:
        members = tuple(n for n, one in enumerate(some) if any(one is checkpoints[k] for k in method.members))
        if len(members) < len(method.members):
            count = f"{len(members)} of {len(method.members)} seeds" if members else "no seed"
            lacking.append((len(members), f"{count} of {method.name}"))
        if len(members) >= FEWEST_SEEDS:
            found.append(Method(method.name, members))
    if len(every) < 2 or (len(lacking) == len(every) and not any(count for count, _ in lacking)):
        return [], ""
    return found, _and([text for _, text in lacking])


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} others" if len(names) > MOST_NAMED else _and(names)


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _other_data(checkpoints: Sequence[Checkpoint], shown: Eigenpairs) -> str:
    """That the same was measured on other data too, of which the table has the values."""
    kind = spectrum_kind(shown)
    others = {conditions(p) for c in checkpoints for p in c.pairs if spectrum_kind(p) == kind} - {conditions(shown)}
    return f"; on {counted(len(others), 'other sample')} of the data as in the table" if others else ""


def _errors(*spectra: tuple[Checkpoint, Eigenpairs, float]) -> tuple[str, list[float]]:
    """Their name and values: the standard error of each λmax over new examples, or if one lacks that the residuals."""
    sampled = [float(sample_errors(pairs, c.data_spreads)[0]) for c, pairs, _ in spectra]
    if all(map(math.isfinite, sampled)):
        return "standard errors of the examples", sampled
    return "residuals", [float(pairs.residuals[0]) for _, pairs, _ in spectra]


def _alike(low: tuple[Checkpoint, Eigenpairs, float], high: tuple[Checkpoint, Eigenpairs, float]) -> bool:
    """Whether two eigenvalues may be one: within both residuals, or within two of the errors that are known."""
    apart, (_, errors) = largest(high[1]) - largest(low[1]), _errors(low, high)
    return apart <= float(low[1].residuals[0] + high[1].residuals[0]) or apart <= 2 * math.hypot(*errors)


def _ratio(low: tuple[Checkpoint, Eigenpairs, float], high: tuple[Checkpoint, Eigenpairs, float]) -> str:
    below, above, (what, errors) = largest(low[1]), largest(high[1]), _errors(low, high)
    if not below > 0:
        return f"{plus_minus(above - below, math.hypot(*errors))} apart (±: {what})"
    relative = math.hypot(errors[0] / below, errors[1] / above)
    return f"a ratio of {plus_minus(below / above, below / above * relative)} (±: {what})"


def _accuracy_sentence(checkpoints: Sequence[Checkpoint]) -> str:
    surfaces = [(c, one) for c in checkpoints if (one := c.surface("test")) is not None]
    tested = [(c, one, at) for c, one in surfaces if math.isfinite((at := centre(one)).accuracy_error)]
    if not tested:
        return ""
    mode = mode_words(tested[0][1].settings)
    found, lacking = methods_among(checkpoints, [c for c, _, _ in tested])
    if len(found) > 1:
        nothing = np.full(1, np.nan)
        over = [
            OverSeeds(
                method.name,
                np.array([tested[n][2].accuracy for n in method.members]),
                nothing,
                tuple(conditions(tested[n][1]) for n in method.members),
            )
            for method in found
        ]
        compared = on_which_data(over) is not None
        return accuracy_over_seeds(over) + (mode if compared else "") + (f" ({lacking})" if lacking else "")
    if lacking:
        return f"test accuracy is known for {lacking}: methods not compared"
    if differing := apart([conditions(surface) for _, surface, _ in tested], "test"):
        return f"Test accuracies are {differing} and not compared"
    ranked = sorted(tested, key=lambda item: -item[2].accuracy)
    (best, _, high), (worst, _, low) = ranked[0], ranked[-1]
    highest, lowest = (percent(at.accuracy, at.accuracy_error) for at in (high, low))
    if len(ranked) == 1:
        return f"test accuracy is {highest} at {best.style.name}{mode}"
    if _within_noise(low, high):
        every = f"test accuracies of these {len(ranked)} checkpoints are within noise"
        return f"{every} ({lowest} to {highest}){mode}"
    top = [c.style.name for c, _, at in ranked[1:] if _within_noise(at, high)]
    bottom = [c.style.name for c, _, at in ranked[:-1] if _within_noise(low, at) and c.style.name not in top]
    ties = f", {_named(top)} within noise of it" if top else ""
    ties += f"; {_named(bottom)} within noise of the lowest" if bottom else ""
    return f"test accuracy ranges from {lowest} at {worst.style.name} to {highest} at {best.style.name}{ties}{mode}"


def _within_noise(low: Centre, high: Centre) -> bool:
    return high.accuracy - low.accuracy <= 2 * math.hypot(high.accuracy_error, low.accuracy_error)


def _curvatures(checkpoints: Sequence[Checkpoint]) -> list[tuple[Checkpoint, Eigenpairs, float]]:
    """The spectra that stand for their checkpoints, with the losses they belong to."""
    standing = zip(checkpoints, standing_spectra(checkpoints), strict=True)
    return [(c, p, loss_of_spectrum(p, c)) for c, p in standing if p is not None and math.isfinite(largest(p))]
