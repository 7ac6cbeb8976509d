"""What is read off a result: the loss at the centre with its error, the rise towards the edge, the loss of a spectrum.

Legend: n examples, p a fraction of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from landscape.grouping import Checkpoint, checkpoint_key, conditions, data_identity, own, spectrum_kind
from landscape.results import (
    MISSING,
    OK,
    Array,
    CongruenceTrace,
    CurvatureTrace,
    DataSpread,
    Density,
    Diagonal,
    Eigenpairs,
    Line,
    Result,
    Surface,
)
from landscape.subjects import matrix_words

QUANTITIES = {"trace": "trace", "frobenius_norm": "Frobenius norm", "effective_rank": "trace / λmax"}

_SAME_LOSS = 1e-3  # relative: rounding is far below, the statistics of another checkpoint far above


@dataclass(frozen=True)
class Centre:
    """What a surface knows at the checkpoint itself; NaN for what it does not."""

    loss: float = math.nan
    error: float = math.nan
    accuracy: float = math.nan
    accuracy_error: float = math.nan


@dataclass(frozen=True)
class QuadraticModel:
    """L(0) + slope x + curvature x^2 / 2 along an axis; `slope` and `second_difference` are over one step of the grid.

    `curvature` is the Hessian's where the axis is an eigenvector of it (`of_hessian`), else the second difference.
    """

    loss: float
    slope: float
    curvature: float
    second_difference: float
    of_hessian: bool

    def at(self, x: Array) -> Array:
        """The model's loss at x."""
        return np.asarray(self.loss + self.slope * x + 0.5 * self.curvature * x**2)


def quadratic_models(surface: Surface, *, alone: bool) -> list[QuadraticModel | None]:
    """The model along x and along y; None where the grid has no centre with a finite neighbour on both sides.

    `alone` says that no other checkpoint was measured on this plane.
    """
    cell, eigenvalues = centre_cell(surface), axis_eigenvalues(surface, alone=alone)
    if cell is None:
        return [None, None]
    i, j = cell
    loss = measured(surface)
    models: list[QuadraticModel | None] = []
    for axis, (at, cut, n) in enumerate(((surface.x, loss[:, j], i), (surface.y, loss[i, :], j))):
        around = cut[n - 1 : n + 2]
        if n == 0 or around.size < 3 or not np.isfinite(around).all():
            models.append(None)
            continue
        step = float(at[n + 1] - at[n - 1]) / 2
        second = float(around[0] + around[2] - 2 * around[1]) / step**2
        curvature = eigenvalues[axis] if eigenvalues else second
        slope = float(around[2] - around[0]) / (2 * step)
        models.append(QuadraticModel(float(around[1]), slope, curvature, second, bool(eigenvalues)))
    return models


def axis_eigenvalues(surface: Surface, *, alone: bool) -> list[float]:
    """The Hessian's eigenvalues along both axes, where these are unit eigenvectors of it at this very checkpoint.

    Whose they are is known by the hash of theta. A surface of the command line has its file's hash instead: there the
    axes are this checkpoint's where it is `alone` on the plane, and unknown otherwise.
    """
    values, of = surface.settings.get("eigenvalues"), surface.settings.get("axes_of")
    record = surface.checkpoint
    own = of is not None and of in (record.get("hash"), record.get("theta_hash"))
    if not isinstance(values, list) or surface.settings.get("operator") != "hessian":
        return []
    return [float(str(value)) for value in values] if own or (alone and "label" in record) else []


def centre(surface: Surface | Line | None) -> Centre:
    """Loss and accuracy at the checkpoint itself, as far as they are known."""
    if surface is None:
        return Centre()
    cell = centre_cell(surface)
    if cell is None:
        apart = [surface.checks.get(f"centre_{name}") for name in ("loss", "standard_error", "accuracy")]
        loss, error, p = (float(value) if isinstance(value, int | float) else math.nan for value in apart)
        return Centre(loss, error, p, _binomial_error(p, num_examples(surface)))
    p = float(surface.accuracy[cell])
    return Centre(
        float(surface.loss[cell]), float(surface.standard_error[cell]), p, _binomial_error(p, num_examples(surface))
    )


def centre_measured(surface: Surface | Line) -> bool:
    """Whether the loss at the checkpoint was measured, be it finite or not."""
    cell = centre_cell(surface)
    return "centre_loss" in surface.checks if cell is None else bool(surface.status[cell] != MISSING)


def barrier(line: Line) -> float | None:
    """The highest loss between two checkpoints above the straight line from one's to the other's; None without two.

    None too where BatchNorm keeps the first one's statistics, so that the other's loss on the line is not its own: such
    a line does not lead to it. Recalibrated it does.

    (Frankle et al. 2020, arXiv:1912.05671, section 3.) At the points that were measured, and of both ends as they are
    on the line.
    """
    ends = line.checks.get("landmarks")
    if not isinstance(ends, list) or len(ends) != 1 or not isinstance(ends[0], dict):
        return None
    start, end, own = centre(line).loss, ends[0]["loss_on_plane"], ends[0]["own_loss"]
    assert isinstance(end, int | float)
    assert isinstance(own, int | float)
    frozen = line.settings.get("batch_norm", "frozen") == "frozen"
    if frozen and not abs(end - own) <= _SAME_LOSS * abs(own):
        return None
    inside = (line.x > 0) & (line.x < 1)  # at the ends it is 0 by definition
    with np.errstate(invalid="ignore"):  # a loss that is not finite makes the barrier unknown
        rises = (line.loss - (start + line.x * (end - start)))[inside]
    return float(np.max(rises, initial=0.0))


def ends(line: Line) -> list[dict[str, Any]]:
    """The other checkpoints on a line: name, loss_on_plane, own_loss and coordinate."""
    at = dict(landmarks(line))
    found: Any = line.checks.get("landmarks") or []
    return [{**one, "x": at[one["name"]][0]} for one in found if one.get("name") in at]


def landmarks(result: Surface | Line) -> list[tuple[str, list[float]]]:
    """The checkpoints that lie on a plane or line, and where."""
    found: Any = result.settings.get("landmarks") or []
    return [(str(one["name"]), list(one["coordinates"])) for one in found]


@overload
def centre_cell(surface: Surface) -> tuple[int, int] | None: ...
@overload
def centre_cell(surface: Line) -> tuple[int] | None: ...
def centre_cell(surface: Surface | Line) -> tuple[int, ...] | None:
    """The cell at the origin of the plane or line; None where the grid does not hold it."""
    if isinstance(surface, Line):
        i = nearest(surface.x)
        return (i,) if abs(surface.x[i]) <= 1e-9 * max(np.ptp(surface.x), 1e-300) else None
    i, j = nearest(surface.x), nearest(surface.y)
    step = max(np.ptp(surface.x), np.ptp(surface.y), 1e-300)
    if max(abs(surface.x[i]), abs(surface.y[j])) > 1e-9 * step:
        return None
    return i, j


def nearest(at: Array) -> int:
    """The index of the coordinate nearest to 0; of two equally near, always the first."""
    return int(np.argmin(np.round(np.abs(at), 12)))


def measured(surface: Surface | Line) -> Array:
    """The loss where it is a finite number, NaN elsewhere."""
    return np.where(np.isfinite(surface.loss) & (surface.status == OK), surface.loss, np.nan)


def num_examples(result: Result) -> int:
    """How many examples a result is over; 0 where that was not recorded."""
    count = result.settings.get("num_examples")
    return count if isinstance(count, int) and count > 0 else 0


def bulk_quantile(density: Density, share: float) -> float:
    """The value below which that share of the bulk's mass lies, over all probes; NaN without a bulk."""
    order = np.argsort(density.nodes, axis=None)
    nodes, weights = density.nodes.ravel()[order], density.weights.ravel()[order]
    if not nodes.size or not weights.sum() > 0:
        return math.nan
    return float(nodes[np.searchsorted(np.cumsum(weights), share * weights.sum())])


def edge_median(surface: Surface) -> float:
    """The median of the finite losses on the outermost cells."""
    edge = np.ones(surface.loss.shape, dtype=bool)
    edge[1:-1, 1:-1] = False
    values = measured(surface)[edge]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else math.nan


def ring_rise(surface: Surface, fraction: float) -> float:
    """Mean loss above the centre's on the square ring at a fraction of the extent; NaN where the grid has no centre.

    Between two rings of the grid their means are interpolated linearly.
    """
    cell = centre_cell(surface)
    return math.nan if cell is None else float(ring_mean(surface, surface.loss, fraction) - surface.loss[cell])


def ring_mean(surface: Surface, values: Array, fraction: float) -> Array:
    """The mean of `values` (S, S, ...) on that ring; NaN where the grid has none."""
    half = len(surface.x) // 2
    if centre_cell(surface) != (half, half) or surface.loss.shape != (2 * half + 1, 2 * half + 1):
        return np.full(values.shape[2:], np.nan)
    if half < 1:
        return np.full(values.shape[2:], np.nan)
    at = np.abs(surface.x[half:] / surface.x[-1])  # of each ring, in extents: an early grid is not quite regular
    high = int(np.searchsorted(at, fraction - 1e-9))
    low = high if abs(at[high] - fraction) <= 1e-9 else high - 1
    if low < 1:  # between the centre and the first ring nothing is known
        return np.full(values.shape[2:], np.nan)
    offsets = np.abs(np.arange(2 * half + 1) - half)
    ring = np.maximum.outer(offsets, offsets)
    below, above = (values[ring == distance].mean(axis=0) for distance in (low, high))
    share = (fraction - at[low]) / (at[high] - at[low]) if low < high else 0.0
    return np.asarray((1 - share) * below + share * above if low < high else below)


def rise_distance(surface: Surface, rise: float) -> float:
    """The smallest |x| on the line y = 0 at which the loss is `rise` above the centre's, as `crossing` has it."""
    cell = centre_cell(surface)
    if cell is None or not math.isfinite(surface.loss[cell]):
        return math.nan
    i, j = cell
    sides = ((surface.x[i:], surface.loss[i:, j]), (-surface.x[i::-1], surface.loss[i::-1, j]))
    return float(np.min([crossing(at, loss, loss[0] + rise) for at, loss in sides]))  # NaN if a side is unknown


def stick_height(density: Density) -> float:
    """As high as the kernel that smooths the bulk makes one eigenvalue."""
    width = math.sqrt(2 * math.pi) * density.kernel_width
    return 1 / (density.size * width) if width > 0 else 1 / density.size


def places(pairs: Eigenpairs) -> list[int]:
    """The place of each eigenvalue, from 1 for the largest; at the other end from -1 for the smallest."""
    count, which, k = len(pairs.values), pairs.settings.get("which"), pairs.settings.get("k")
    largest = 0 if which == "smallest" else k if which == "both" and isinstance(k, int) else count
    return [n + 1 if n < largest else n - count for n in range(count)]


def places_on_axis(pairs: Sequence[Eigenpairs]) -> tuple[list[list[int]], list[int], list[str]]:
    """Where on one axis the eigenvalues of each lie, and its ticks with their labels; a gap parts the two ends."""
    ranks = [place for one in pairs for place in places(one)]
    most, low = max([*ranks, 0]), -min([*ranks, 0])
    at = [[place if place > 0 else most + 2 + low + place for place in places(one)] for one in pairs]
    ticks = [*range(1, most + 1), *range(most + 2, most + 2 + low)]
    return at, ticks, [str(tick) if tick <= most else f"−{most + 2 + low - tick}" for tick in ticks]


def largest(pairs: Eigenpairs) -> float:
    """The largest eigenvalue; NaN where only the smallest ones were sought."""
    return float(pairs.values[0]) if 1 in places(pairs) else math.nan


def certified(pairs: Eigenpairs) -> bool:
    """Whether the largest eigenvalue is one: converged, and none was missed."""
    return 1 in places(pairs) and bool(pairs.converged[0]) and pairs.complete


def sample_errors(pairs: Eigenpairs, spreads: Sequence[DataSpread]) -> Array:
    """What the sample of the data leaves to each eigenvalue, one standard error, a lower bound; NaN where not measured.

    A spread has it that was measured at these very eigenvalues: v'Hv lies within the residual, but for rounding.
    """
    errors = np.full(len(pairs.values), np.nan)
    for one in spreads:
        if _of_whom(one) == _of_whom(pairs):
            apart = np.abs(pairs.values[:, None] - one.values)
            place = apart.argmin(axis=1)
            near = apart.min(axis=1) <= pairs.residuals + 1e-4 * np.abs(pairs.values)
            errors = np.where(near, one.standard_error[place], errors)
    return errors


def _of_whom(result: Eigenpairs | DataSpread) -> tuple[str, str, str]:
    return checkpoint_key(result), spectrum_kind(result), data_identity(result)


def by_layer(blocks: Sequence[Eigenpairs]) -> list[list[Eigenpairs]]:
    """The blocks of layers, those of one checkpoint and data together, in the order of the network."""
    found: dict[tuple[str, str, str], list[Eigenpairs]] = {}
    for one in blocks:
        if "layer" in one.settings and len(one.values):
            whose = checkpoint_key(one), data_identity(one), str(one.settings.get("operator"))
            found.setdefault(whose, []).append(one)
    return list(found.values())


def shown_layers(groups: Sequence[Sequence[Eigenpairs]], most: int) -> list[str]:
    """The `most` layers of the largest eigenvalues over all checkpoints, in the order of the network."""
    top: dict[str, float] = {}
    for one in (one for blocks in groups for one in blocks):
        name, value = str(one.settings["layer"]), float(np.nan_to_num(largest(one), nan=-np.inf))
        top[name] = max(top.get(name, value), value)
    chosen = sorted(top, key=lambda name: -top[name])[:most]
    return [name for name in top if name in chosen]


@dataclass(frozen=True, eq=False)
class LayerPoints:
    """The eigenvalues of one checkpoint's layers, to be drawn: `place` is that of the layer among those shown."""

    place: Array
    value: Array
    residual: Array
    certified: npt.NDArray[np.bool_]


def layer_points(blocks: Sequence[Eigenpairs], layers: Sequence[str]) -> LayerPoints:
    """The points of one checkpoint; an eigenvalue is certified where it converged and its block missed none."""
    shown = [one for one in blocks if one.settings["layer"] in layers]
    return LayerPoints(
        np.concatenate([np.full(len(one.values), float(layers.index(str(one.settings["layer"])))) for one in shown]),
        np.concatenate([one.values for one in shown]),
        np.concatenate([one.residuals for one in shown]),
        np.concatenate([one.converged & one.complete for one in shown]),
    )


def standing_spectra(checkpoints: Sequence[Checkpoint]) -> list[Eigenpairs | None]:
    """For each checkpoint the spectrum that stands for it, of which every sentence and table speaks; None without one.

    All are of one kind of matrix: that which most checkpoints have, then the whole Hessian, then the one over most
    examples. Of several a checkpoint's is on the data that most have, and rather a certified one.
    """
    spectra = [[(spectrum_kind(p), p) for p in c.pairs if len(p.values)] for c in checkpoints]
    kinds = {kind: p for mine in spectra for kind, p in reversed(mine)}

    def rank(kind: str) -> tuple[bool, int, bool, int]:
        one, count = kinds[kind], sum(any(kind == other for other, _ in mine) for mine in spectra)
        return math.isfinite(largest(one)), count, not matrix_words(one.settings), num_examples(one)

    kind = max(kinds, key=rank, default="")
    chosen = [[p for other, p in mine if other == kind] for mine in spectra]
    shared = Counter(key for mine in chosen for key in {conditions(p) for p in mine})
    return [max(mine, key=lambda p: (shared[conditions(p)], certified(p)), default=None) for mine in chosen]


def loss_of_spectrum(pairs: Eigenpairs, checkpoint: Checkpoint) -> float:
    """The loss that the eigenvalues belong to."""
    if math.isfinite(pairs.loss):
        return pairs.loss
    alike = [one for one in checkpoint.surfaces if own(one) and conditions(one) == conditions(pairs)]
    return centre(alike[0]).loss if alike else math.nan


def _binomial_error(p: float, n: int) -> float:
    """sqrt(p (1 - p) / n); where all or none are right it would be 0, so one example, 1/n, stands in."""
    if not n or not math.isfinite(p):
        return math.nan
    return max(math.sqrt(max(p * (1 - p), 0.0) / n), 1 / n if p in (0.0, 1.0) else 0.0)


def crossing(at: Array, loss: Array, level: float) -> float:
    """Where the loss first reaches a level above its first; inf if it never does, NaN if that is unknown.

    Between two points it is that of a bowl around the first: there the square root of the rise is linear. Where the
    loss has dipped below the first one, the loss itself is taken for linear.
    """
    above = np.flatnonzero(~(loss < level))
    if not above.size:
        return math.inf
    n = above[0]
    if n == 0 or not math.isfinite(loss[n]):  # 0: so large a loss that the level is lost in rounding
        return math.nan
    low, high, wanted = (float(value - loss[0]) for value in (loss[n - 1], loss[n], level))
    if low >= 0:
        low, high, wanted = (math.sqrt(rise) for rise in (low, high, wanted))
    return float(at[n - 1] + (wanted - low) / (high - low) * (at[n] - at[n - 1]))


def first_step(surface: Surface) -> float:
    """How far the next point is from the checkpoint along x; NaN where the grid has no such two points."""
    cell = centre_cell(surface)
    return math.nan if cell is None or cell[0] + 1 >= len(surface.x) else float(surface.x[cell[0] + 1])


def mean_over_epochs(trace: CongruenceTrace, name: str) -> tuple[float, float]:
    """Mean of "cosine_b", "cosine_a" or "change" over the probed epochs, and the standard error its probes give it."""
    values, errors = getattr(trace, name), getattr(trace, f"{name}_standard_error")
    probed = np.isfinite(values)
    if not probed.any():
        return math.nan, math.nan
    error = float(np.sqrt(np.sum(errors[probed] ** 2)) / probed.sum())  # NaN unless every epoch has one
    return float(values[probed].mean()), error


SAMPLE_BARS = "broad bar: ± of the sample, a lower bound"
STABLE = "stable up to here (full-batch theory)"


def beyond_figure(trace: CurvatureTrace, top: float) -> str:
    """Where the line of the largest stable curvature lies above a figure that ends at `top`; "" where it does not."""
    above = trace.stability_limit > top
    if not above.any():
        return ""
    if above.all():
        return f"above the figure, {trace.stability_limit.min():.3g} and more"
    first = int(np.argmax(above))
    return (
        f"above the figure from epoch {trace.epoch[first]} on" if above[first:].all() else "at times above the figure"
    )


def by_trace(result: Diagonal) -> list[int]:
    """The places of the tensors, that of the trace of largest magnitude first; unknown ones last."""
    size = np.abs(result.tensor_traces)
    return [int(n) for n in np.argsort(-np.where(np.isnan(size), -1.0, size), kind="stable")]


def shown_tensors(diagonals: Sequence[Diagonal], most: int) -> list[str]:
    """The `most` tensors of the traces of largest magnitude over all diagonals, in the order of theta."""
    top: dict[str, float] = {}
    for one in diagonals:
        for name, value in zip(one.names, np.nan_to_num(np.abs(one.tensor_traces), nan=-1.0), strict=True):
            top[name] = max(top.get(name, -1.0), float(value))
    chosen = sorted(top, key=lambda name: -top[name])[:most]
    return [name for name in top if name in chosen]
