"""What a line or a plane through parameter space is: a centre, one or two axes, and what is known of their lengths.

Legend: P parameters, D axes (1 a line, 2 a plane).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from landscape.filters import OutputDims, filter_rows, nearest
from landscape.objective import Objective
from landscape.results import Json, Record

Interval = tuple[float, float]

PARALLEL = 1e-6  # sine of the angle between two axes below which they make no plane
_OF_AN_AXIS = ("axis_norms", "norm_ratios", "eigenvalues", "residuals", "explained_variance")  # lists, one value each


class ParametersDifferError(ValueError):
    """Two checkpoints whose parameters have other names or shapes: no direction is one of both."""


@dataclass(frozen=True, eq=False)
class Landmark:
    """A checkpoint that lies on a line or plane."""

    name: str
    coordinates: tuple[float, ...]
    model: nn.Module


@dataclass(frozen=True, eq=False)
class Plane:
    """Two axes (2, P) through a centre theta (P,), or one (1, P), a line; a coordinate of 1 is a step of one axis.

    `settings` says how the axes were made and what a step is (`unit`), their norms and cosine, and how far they move
    each parameter: the smallest and largest ||d_f|| / ||theta_f|| of its filters. `intervals` are the coordinates that
    are looked at unless others are asked for.
    """

    centre: Tensor
    axes: Tensor
    settings: Record = field(default_factory=dict)
    intervals: Sequence[Interval] = ()
    landmarks: Sequence[Landmark] = ()


def described(
    objective: Objective,
    axes: Tensor,
    settings: Record,
    *,
    layers: Sequence[str] = (),
    output_dims: OutputDims | None = None,
) -> Plane:
    """A plane along `axes`, or along their part in `layers`, with norms, cosine and norm ratios in its settings."""
    if layers:
        axes, settings = torch.where(layer_mask(objective, layers), axes, 0.0), {**settings, "layers": list(layers)}
    exact = axes.double()
    norms = exact.norm(dim=1)
    if not norms.all():
        raise ValueError(
            "no parameter moves: those that may are one-dimensional or zero (normalization='none' moves them), or the "
            "direction is zero there"
        )
    if not norms.isfinite().all():
        raise ValueError("a direction is not finite")
    if len(axes) == 2:
        unit = exact / norms[:, None]
        if float((unit[1] - (unit[0] @ unit[1]) * unit[0]).norm()) < PARALLEL:
            raise ValueError("the two directions are parallel: they make a line, not a plane")
        settings = {**settings, "axis_cosine": float(unit[0] @ unit[1])}
    lengths: Record = {
        "axis_norms": norms.tolist(),
        "theta_norm": float(objective.theta.double().norm()),
        "norm_ratios": [_norm_ratios(objective, axis, output_dims or {}) for axis in axes],
    }
    return Plane(objective.theta, axes, {**settings, **lengths})


def axis_line(plane: Plane, axis: int = 0) -> Plane:
    """The line along one axis of a plane, with what is known of that axis."""
    if not 0 <= axis < len(plane.axes):
        raise ValueError(f"axis must be in 0..{len(plane.axes) - 1}, got {axis}")

    def of_axis(name: str, value: Json) -> Json:
        return [value[axis]] if name in _OF_AN_AXIS and isinstance(value, list) else value

    left_out = ("axis_cosine", "landmarks")
    settings = {name: of_axis(name, value) for name, value in plane.settings.items() if name not in left_out}
    intervals = [plane.intervals[axis]] if plane.intervals else ()
    return Plane(plane.centre, plane.axes[axis : axis + 1], settings, intervals)


def moved(plane: Plane, objective: Objective) -> Plane:
    """The same displacements from another checkpoint of the same architecture.

    Raises:
        ValueError: If it has another number of parameters.
    """
    if objective.theta.shape != plane.centre.shape:
        sizes = f"{plane.centre.numel():,} parameters, this model has {objective.theta.numel():,}"
        raise ValueError(f"the plane is of {sizes}")
    settings = {name: value for name, value in plane.settings.items() if name != "landmarks"}
    return replace(described(objective, plane.axes, settings), intervals=plane.intervals)


def layers_of(objective: Objective, layers: Sequence[str]) -> set[str]:
    """The parameters that belong to the layers: names of modules or parameters, or patterns of these; all if none.

    Raises:
        ValueError: If a pattern fits no parameter; the message lists the nearest names.
    """
    if isinstance(layers, str):
        raise ValueError(f"layers must be a list of names, got the text {layers!r}: write [{layers!r}]")
    chosen = set() if layers else set(objective.shapes)
    for pattern in layers:
        found = {name for name in objective.shapes if _fits(name, pattern)}
        if not found:
            modules = [name for name, _ in objective.model.named_modules() if name]
            known = nearest(pattern, [*modules, *objective.shapes])
            raise ValueError(f"layers: no parameter is called or fits {pattern!r}{known}")
        chosen |= found
    return chosen


def layer_mask(objective: Objective, layers: Sequence[str]) -> Tensor:
    """Which entries (P,) of theta belong to the layers, as `layers_of` has them."""
    chosen = layers_of(objective, layers)
    sizes = [(name in chosen, shape.numel()) for name, shape in objective.shapes.items()]
    return torch.cat([torch.full((size,), keep) for keep, size in sizes]).to(objective.theta.device)


def require_same_parameters(
    objective: Objective, other: Objective, names: Sequence[str] = ("the first model", "the second")
) -> None:
    """Refuse two models that do not have the same parameters.

    Raises:
        ParametersDifferError: With the parameters that differ.
    """
    one, two = objective.shapes, other.shapes
    told = [
        *(f"{name} is only in {names[0]}" for name in one if name not in two),
        *(f"{name} is only in {names[1]}" for name in two if name not in one),
        *(
            f"{name} is {tuple(one[name])} and {tuple(two[name])}"
            for name in one
            if two.get(name, one[name]) != one[name]
        ),
    ]
    if told:
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        differing = f"{'; '.join(told[:5])}{more}"
        raise ParametersDifferError(f"{names[0]} and {names[1]} are of different architectures: {differing}")
    if list(one) != list(two):
        raise ParametersDifferError(f"{names[0]} and {names[1]} have their parameters in another order")


def _norm_ratios(objective: Objective, axis: Tensor, output_dims: OutputDims) -> Record:
    """For each parameter that moves, the smallest and largest ||d_f|| / ||theta_f|| over its filters."""
    found: Record = {}
    for (name, d), theta in zip(objective.named(axis).items(), objective.named(objective.theta).values(), strict=True):
        rows = [filter_rows(objective, name, one.double(), output_dims) for one in (d, theta)]
        moves, weights = (one.reshape(1, -1) if row is None else row for row, one in zip(rows, (d, theta), strict=True))
        lengths, of_weights = moves.double().norm(dim=1), weights.double().norm(dim=1)
        ratios = (lengths / of_weights)[(lengths > 0) | (of_weights > 0)]  # a filter of zeros that stays has no ratio
        if lengths.any():
            found[name] = [float(ratios.min()), float(ratios.max())]
    return found


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern)
