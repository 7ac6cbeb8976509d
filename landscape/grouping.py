"""What belongs together: results of one checkpoint, surfaces that may share a scale, spectra that compare.

A checkpoint has one name and one look everywhere; the seeds of one method share a colour. Surfaces share a scale only
on the same plane, grid and data.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from landscape.methods import method_key
from landscape.results import (
    MISSING,
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
    taken_apart,
)

# Okabe and Ito 2008, ordered by contrast on white and on black; their black is grey here, so that it shows on both.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#F0E442")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "triangle-down", "pentagon", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")

PLANES = {  # what a line or plane is, by the kind of its directions
    "between": "through checkpoints",
    "pca": "of the principal directions of a run",
    "eigenvectors": "along Hessian eigenvectors",
    "gradient": "along the gradient",
    "sam": "along SAM's step",
    "given": "along given directions",
}

LONGEST_NAME = 48

_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_SPLITS = ("train", "validation", "test")
_PLANE = (
    *("directions", "normalization", "seed", "unit", "batch_norm", "layers", "axes_of", "normalized_by"),
    *("output_dims", "explained_variance", "landmarks"),
)
_DATA = ("split", "labels", "data", "data_hash", "num_examples")
_USUAL = {"batch_norm": "frozen", "precision": "fp32"}  # what measures the checkpoint itself


@dataclass(frozen=True)
class Style:
    """How one checkpoint looks in every figure: never by colour alone."""

    name: str
    color: str
    symbol: str
    dash: str
    method: str = ""  # equal for checkpoints that differ in nothing but their seeds; empty where that is not known


@dataclass(frozen=True)
class Checkpoint:
    """All that was measured at one checkpoint."""

    style: Style
    record: Record
    surfaces: list[Surface]
    shared: dict[str, int]  # of how many checkpoints there are surfaces under these `conditions`
    lines: list[Line]
    pairs: list[Eigenpairs]
    layers: list[Eigenpairs]  # of the blocks of single layers
    checked: list[Eigenpairs]  # those that another program was held against, also where longer ones stand in `pairs`
    densities: list[Density]
    estimates: list[Estimate]
    diagonals: list[Diagonal]
    data_spreads: list[DataSpread]
    curvature_traces: list[CurvatureTrace]
    congruences: list[Congruence]
    traces: list[CongruenceTrace]

    def surface(self, split: str) -> Surface | None:
        """The surface that stands for the checkpoint on `split`, of which every sentence and table speaks.

        Rather one that was measured at the checkpoint, then with the labels as trained, then with the checkpoint's own
        BatchNorm statistics in full precision, then on the data that most checkpoints have, then the one over most
        examples.
        """
        mine = [one for one in self.surfaces if one.settings.get("split") == split]
        return max(mine, key=lambda one: (*_standing(one), self.shared[conditions(one)], _count(one)), default=None)


@dataclass(frozen=True)
class SurfaceGroup:
    """Surfaces that may share a scale: one column per checkpoint, one set per data they were measured on."""

    name: str
    columns: list[Style]
    sets: dict[str, list[tuple[int, Surface]]]  # data id -> (column, surface)


@dataclass(frozen=True)
class LineGroup:
    """Lines along the same directions, on the same points and data."""

    name: str
    data: str
    lines: list[Line]


def checkpoint_key(result: Result) -> str:
    """What makes two results belong to one checkpoint: its hash, or else its label."""
    return str(result.checkpoint.get("hash") or result.checkpoint.get("label") or "")


def styles(results: Sequence[Result]) -> dict[str, Style]:
    """One style per checkpoint, by `checkpoint_key`, in order of appearance."""
    first = {checkpoint_key(result): result.checkpoint for result in reversed(results)}
    keys = list(dict.fromkeys(checkpoint_key(result) for result in results))
    labels = [_name(first[key].get("label") or first[key].get("method") or "unnamed checkpoint") for key in keys]
    names = [
        f"{label} ({key[:8]})" if labels.count(label) > 1 and key else label
        for key, label in zip(keys, labels, strict=True)
    ]
    methods = [method_key(first[key]) for key in keys]
    families = [method or key for method, key in zip(methods, keys, strict=True)]
    order, seen = list(dict.fromkeys(families)), dict.fromkeys(families, -1)
    found: dict[str, Style] = {}
    for key, name, method, family in zip(keys, names, methods, families, strict=True):
        seen[family] += 1
        found[key] = _style(name, order.index(family), seen[family], method)
    return found


def _style(name: str, n: int, seed: int, method: str) -> Style:
    """The first eight differ in colour, mark and dash; a colour's seeds and later rounds, mark and dash do."""
    turned = n + n // len(COLORS) + seed
    return Style(name, COLORS[n % len(COLORS)], SYMBOLS[turned % len(SYMBOLS)], DASHES[turned % len(DASHES)], method)


def readable(text: str) -> str:
    """Text without what turns the text around it: control characters, and marks of direction."""
    return "".join(c for c in text if unicodedata.category(c) != "Cc" and unicodedata.bidirectional(c) not in _TURNING)


def _name(label: object) -> str:
    """A readable name; a long one is cut inside."""
    name = readable(str(label)) or "unnamed checkpoint"
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[1 - LONGEST_NAME // 2 :]}"


def checkpoints(results: Sequence[Result]) -> list[Checkpoint]:
    """All that was measured, by checkpoint, in order of appearance."""
    results = without_copies(results)
    found = {(checkpoint_key(one), conditions(one)) for one in results if isinstance(one, Surface)}
    shared = dict(Counter(data for _, data in found))
    return [_checkpoint(key, style, results, shared) for key, style in styles(results).items()]


def without_copies(results: Sequence[Result]) -> list[Result]:
    """Without those that another is equal to, in kind, checkpoint, settings and every number."""
    kept: dict[tuple[str, ...], list[Result]] = {}
    found: list[Result] = []
    for one in results:
        settings = json.dumps(one.settings, sort_keys=True, default=str)
        alike = kept.setdefault((type(one).__name__, checkpoint_key(one), settings), [])
        if not any(_same_numbers(one, other) for other in alike):
            alike.append(one)
            found.append(one)
    return found


def _same_numbers(one: Result, other: Result) -> bool:
    (arrays, values), (others, other_values) = taken_apart(one), taken_apart(other)
    plain, other_plain = (
        repr({name: value for name, value in of.items() if name != "checkpoint"}) for of in (values, other_values)
    )
    return (
        plain == other_plain  # as text: NaN equals NaN
        and arrays.keys() == others.keys()
        and all(
            np.array_equal(array, others[name], equal_nan=array.dtype.kind == "f") for name, array in arrays.items()
        )
    )


def data_sets(results: Sequence[Result], kind: type[Surface] | type[Line] = Surface) -> dict[str, tuple[str, str]]:
    """For each data that surfaces (or lines) were measured on: its id in the page and its name, train first."""
    of_kind = [one for one in results if isinstance(one, kind)]
    settings = {data_identity(one): one.settings for one in of_kind}
    keys = sorted(settings, key=lambda key: split_order(str(settings[key].get("split"))))
    found: dict[str, tuple[str, str]] = {}
    for key in keys:
        split = str(settings[key].get("split") or "data")
        same = [other for other in keys if str(settings[other].get("split") or "data") == split]
        name = split
        if len(same) > 1:
            name = ", ".join([split, *_told_apart(key, same, of_kind)])
        slug = "".join(c for c in split.lower() if c.isascii() and c.isalnum()) or "data"
        taken = [other for other, _ in found.values() if other.partition("-")[0] == slug]
        found[key] = (slug + (f"-{len(taken) + 1}" if taken else ""), name)
    return found


def _told_apart(key: str, same: Sequence[str], results: Sequence[Result]) -> list[str]:
    """What is said of data beside their split: labels and the seed of the split, or else the start of their hash."""
    mine = next(one.settings for one in results if data_identity(one) == key)
    labels = str(mine.get("labels") or "")[:40]
    seeds = {other: {str(_data_seed(one)) for one in results if data_identity(one) == other} for other in same}
    known = [next(iter(found)) for found in seeds.values() if len(found) == 1 and "None" not in found]
    if len(set(known)) == len(same):
        return [*([labels] if labels else []), f"data seed {next(iter(seeds[key]))}"]
    return [part for part in (labels, str(mine.get("data_hash") or "")[:8]) if part]


def _data_seed(result: Result) -> object:
    config = result.checkpoint.get("config")
    return config.get("data_seed") if isinstance(config, dict) else None


def surface_groups(
    results: Sequence[Result], known: dict[str, Style], splits: dict[str, tuple[str, str]]
) -> list[SurfaceGroup]:
    """The surfaces, by plane and grid; `splits` are the `data_sets`."""
    grouped: dict[str, list[Surface]] = {}
    for one in results:
        if isinstance(one, Surface):
            grouped.setdefault(_identity(one, _PLANE) + repr(_grid(one)), []).append(one)
    return [_surface_group(surfaces, known, splits) for surfaces in grouped.values()]


def families(groups: Sequence[SurfaceGroup]) -> list[list[SurfaceGroup]]:
    """The groups, those together that differ in nothing but the seed of their directions: several planes, one look."""
    found: dict[str, list[SurfaceGroup]] = {}
    for group in groups:
        found.setdefault(plane_kind(group) + repr([style.name for style in group.columns]), []).append(group)
    first = [(-len(family[0].columns), "random" not in family[0].name) for family in found.values()]
    order = sorted(range(len(first)), key=lambda n: first[n])  # the comparison of most checkpoints comes first
    return [[*found.values()][n] for n in order]


def plane_kind(group: SurfaceGroup) -> str:
    """Equal for planes and grids that differ in nothing but the seed of their directions."""
    one = next(iter(group.sets.values()))[0][1]
    return _identity(one, [name for name in _PLANE if name != "seed"]) + repr(_grid(one))


def line_groups(results: Sequence[Result]) -> list[LineGroup]:
    """The lines, by direction, points and data; train first."""
    named = data_sets(results, Line)
    grouped: dict[tuple[str, str], list[Line]] = {}
    for one in results:
        if isinstance(one, Line):
            grouped.setdefault((data_identity(one), _identity(one, _PLANE) + repr(_grid(one))), []).append(one)
    groups = [LineGroup(_plane_name(lines[0]), named[data][1], lines) for (data, _), lines in grouped.items()]
    order = [name for _, name in named.values()]
    return sorted(groups, key=lambda group: order.index(group.data))


def data_identity(result: Result) -> str:
    """Equal for results on equal data: others do not compare."""
    return _identity(result, _DATA)


def conditions(result: Result) -> str:
    """Equal for results that compare: on equal data, with BatchNorm and precision alike."""
    data = {name: result.settings.get(name) for name in _DATA}
    return json.dumps(data | {name: result.settings.get(name) or usual for name, usual in _USUAL.items()})


def own(surface: Surface) -> bool:
    """Whether its centre is the checkpoint itself, with its own BatchNorm statistics and in full precision."""
    return all(surface.settings.get(name) in (None, usual) for name, usual in _USUAL.items())


def _standing(surface: Surface) -> tuple[bool, bool, bool]:
    centre = (surface.x == 0)[:, None] & (surface.y == 0) & (surface.status != MISSING)
    centred = bool(centre.any()) or "centre_loss" in surface.checks
    return centred, "as trained" in str(surface.settings.get("labels")), own(surface)


def _count(surface: Surface) -> int:
    return count if isinstance(count := surface.settings.get("num_examples"), int) else 0


def spectrum_kind(result: Eigenpairs | Density | Estimate | Diagonal | DataSpread | CurvatureTrace) -> str:
    """Of which operator, over which data, and which end: spectra of different kinds do not compare."""
    names = ("operator", "protocol", "kind", "split", "labels")
    parts = [str(result.settings[name]) for name in names if result.settings.get(name)]
    if isinstance(layers := result.settings.get("layers"), list):
        parts.insert(1, f"of {' '.join(map(str, layers))}")
    if result.settings.get("batch_norm") == "train":
        parts.append("BatchNorm in train mode")
    if result.settings.get("which") == "smallest":
        parts.append("smallest eigenvalues")
    count = result.settings.get("num_examples")
    return ", ".join([*parts, f"{count:,} examples"] if isinstance(count, int) else parts) or "unnamed operator"


def split_order(split: str) -> int:
    """Train, validation, test, then all others."""
    return _SPLITS.index(split) if split in _SPLITS else len(_SPLITS)


def _checkpoint(key: str, style: Style, results: Sequence[Result], shared: dict[str, int]) -> Checkpoint:
    mine = [one for one in results if checkpoint_key(one) == key]
    return Checkpoint(
        style,
        mine[0].checkpoint,
        [one for one in mine if isinstance(one, Surface)],
        shared,
        [one for one in mine if isinstance(one, Line)],
        _distinct([one for one in mine if isinstance(one, Eigenpairs) and "layer" not in one.settings]),
        [one for one in mine if isinstance(one, Eigenpairs) and "layer" in one.settings],
        [one for one in mine if isinstance(one, Eigenpairs) and isinstance(one.checks.get("pyhessian"), dict)],
        [one for one in mine if isinstance(one, Density)],
        [one for one in mine if isinstance(one, Estimate)],
        [one for one in mine if isinstance(one, Diagonal)],
        [one for one in mine if isinstance(one, DataSpread)],
        [one for one in mine if isinstance(one, CurvatureTrace)],
        [one for one in mine if isinstance(one, Congruence)],
        [one for one in mine if isinstance(one, CongruenceTrace)],
    )


def _distinct(pairs: Sequence[Eigenpairs]) -> list[Eigenpairs]:
    """Without those whose eigenvalues another of the same operator and data has too, within both residuals.

    One that is sure is not dropped for one that is not, nor one of smaller residuals for one that is not sure.
    """
    kept: list[Eigenpairs] = []
    for one in sorted(pairs, key=lambda one: -len(one.values)):
        if not any(_holds(other, one) for other in kept):
            kept.append(one)
    return [one for one in pairs if any(one is other for other in kept)]


def _holds(longer: Eigenpairs, one: Eigenpairs) -> bool:
    if (spectrum_kind(longer), data_identity(longer)) != (spectrum_kind(one), data_identity(one)):
        return False
    if _sure(one) and not _sure(longer):
        return False
    apart = np.abs(longer.values[:, None] - one.values)
    near = apart <= longer.residuals[:, None] + one.residuals
    if not _sure(longer):
        near &= longer.residuals[:, None] <= one.residuals
    return bool(near.any(axis=0).all())


def _sure(pairs: Eigenpairs) -> bool:
    return pairs.complete and bool(pairs.converged.all())


def _surface_group(
    surfaces: list[Surface], known: dict[str, Style], splits: dict[str, tuple[str, str]]
) -> SurfaceGroup:
    """Equal checkpoint and data twice in one plane: the second gets a column of its own; nothing is dropped."""
    sets: dict[str, list[tuple[tuple[str, int], Surface]]] = {}
    seen: dict[tuple[str, str], int] = {}
    for one in surfaces:
        key, data = checkpoint_key(one), splits[data_identity(one)][0]
        repeat = seen.get((key, data), 0)
        seen[key, data] = repeat + 1
        sets.setdefault(data, []).append(((key, repeat), one))
    order = list(known)
    columns = sorted({c for members in sets.values() for c, _ in members}, key=lambda c: (order.index(c[0]), c[1]))
    looks = [
        replace(known[key], name=known[key].name + (f" [{repeat + 1}]" if repeat else "")) for key, repeat in columns
    ]
    placed = {
        data: sorted(((columns.index(c), one) for c, one in members), key=lambda item: item[0])
        for data, members in sets.items()
    }
    return SurfaceGroup(_plane_name(surfaces[0]), looks, placed)


def _plane_name(result: Surface | Line) -> str:
    settings, what = result.settings, "plane" if isinstance(result, Surface) else "line"
    directions = str(settings.get("directions") or "unnamed")
    plain = f"{directions} direction" + ("s" if what == "plane" else "")
    parts = [f"{what} {PLANES[directions]}" if directions in PLANES else plain]
    if settings.get("normalization"):
        parts.append(f"{settings['normalization']}-normalized")
    if settings.get("seed") is not None:
        parts.append(f"seed {settings['seed']}")
    if settings.get("batch_norm"):
        parts.append(f"batch norm {settings['batch_norm']}")
    spans = _grid(result)
    reach = " and ".join(dict.fromkeys(f"from {low:.4g} to {high:.4g}" for _, low, high in spans))
    return ", ".join([*parts, f"{' × '.join(str(count) for count, _, _ in spans)} points {reach}"])


def _grid(result: Surface | Line) -> list[tuple[int, float, float]]:
    axes = (result.x, result.y) if isinstance(result, Surface) else (result.x,)
    return [(len(at), float(at[0]), float(at[-1])) for at in axes]


def _identity(result: Result, names: Iterable[str]) -> str:
    return json.dumps([result.settings.get(name) for name in names])
