"""Where to look: lines and planes through parameter space, and in which unit their coordinates are.

Random axes are Gaussian directions, filter-normalized (Li et al. 2018, arXiv:1712.09913; `landscape.filters`). Each
parameter has a random stream of its own, from (seed, axis, parameter name), drawn on the CPU in float64: the
checkpoints of one architecture share their raw directions on every device without storing them, and each is its own
centre with its own filters. All other axes are displacements, the same ones for whichever checkpoint they start from.

Legend: P parameters, D axes (1 a line, 2 a plane).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from landscape.filters import Normalization, OutputDims, check_output_dims, filter_groups, nearest, normalized
from landscape.objective import Objective
from landscape.plane import PARALLEL, Landmark, Plane, axis_line, described, layer_mask, require_same_parameters
from landscape.results import Eigenpairs, Json, Record

__all__ = [
    "Direction",
    "Normalization",
    "Plane",
    "along",
    "ascent_plane",
    "axis_line",
    "eigenvector_plane",
    "line_between",
    "plane_through",
    "random_line",
    "random_plane",
]

Direction = Tensor | Mapping[str, Tensor]

_KEPT = 0.999  # of an eigenvector's length must lie in the layers


def random_plane(
    objective: Objective,
    *,
    seed: int = 0,
    normalization: Normalization = "filter",
    layers: Sequence[str] = (),
    normalize_by: Objective | None = None,
    output_dims: OutputDims | None = None,
) -> Plane:
    """Two Gaussian directions through `objective.theta`, normalised by the model's own filters.

    The two are nearly but not exactly orthogonal; their cosine is in `settings`. With normalization "layer" a
    whole tensor is one filter; with "none" the direction stays Gaussian, biases included. `layers` are names or
    patterns (`layer1`, `*.weight`) of what moves. `normalize_by` lends its filters, so that several checkpoints move
    by the same displacement. `output_dims` says where a filter is not what its type of module says
    (`landscape.filters`): {"Conv1D": 1}, or by the name of a parameter.

    Raises:
        ValueError: If normalization is unknown, no parameter moves, or a name in layers or output_dims fits none.
        ParametersDifferError: If `normalize_by` has other parameters.
    """
    if normalization not in get_args(Normalization):
        raise ValueError(f"normalization must be one of {get_args(Normalization)}, got {normalization!r}")
    output_dims = output_dims or {}
    check_output_dims(objective, output_dims)
    by = objective if normalize_by is None else normalize_by
    require_same_parameters(objective, by)
    axes = torch.stack(
        [_random_axis(objective, by, seed, axis, normalization, output_dims) for axis in ("axis0", "axis1")]
    )
    settings: Record = {
        "directions": "random",
        "normalization": normalization,
        "unit": f"{normalization}-normalized" if normalization != "none" else "Gaussian",
        "seed": seed,
        "whole_tensors": _whole_tensors(objective, output_dims) if normalization == "filter" else [],
        **({"normalized_by": by.theta_hash} if normalize_by is not None else {}),
        **({"output_dims": dict(output_dims)} if output_dims else {}),
    }
    return described(objective, axes, settings, layers=layers, output_dims=output_dims)


def random_line(
    objective: Objective,
    *,
    seed: int = 0,
    normalization: Normalization = "filter",
    layers: Sequence[str] = (),
    normalize_by: Objective | None = None,
    output_dims: OutputDims | None = None,
) -> Plane:
    """The first axis of `random_plane` with the same arguments, as a line."""
    plane = random_plane(
        objective,
        seed=seed,
        normalization=normalization,
        layers=layers,
        normalize_by=normalize_by,
        output_dims=output_dims,
    )
    return axis_line(plane)


def line_between(
    objective: Objective, other: Objective, *, names: Sequence[str] = ("first", "second"), layers: Sequence[str] = ()
) -> Plane:
    """The straight line from one checkpoint, at coordinate 0, to another, at 1.

    (Goodfellow et al. 2015, arXiv:1412.6544, section 3.) With `layers` the other parameters stay those of the first
    checkpoint, and the second is not on the line. BatchNorm has the running statistics of the first: see `loss_line`.

    Raises:
        ParametersDifferError: If the two have other parameters.
        ValueError: If the two are equal.
    """
    require_same_parameters(objective, other, names)
    places = [(0.0,), (1.0,)]
    axes = _difference(other, objective)[None]
    if not axes.any():
        raise ValueError(f"{names[0]} and {names[1]} have equal parameters: there is no line between them")
    settings: Record = {"directions": "between", "unit": f"distance from {names[0]} to {names[1]}"}
    return _between(objective, [objective, other], axes, settings, names, places, layers)


def plane_through(
    objective: Objective,
    second: Objective,
    third: Objective,
    *,
    names: Sequence[str] = ("first", "second", "third"),
    layers: Sequence[str] = (),
) -> Plane:
    """The plane through three checkpoints (Garipov et al. 2018, arXiv:1802.10026, section 3 and A.2).

    The first is at (0, 0), the second at (1, 0). The axes are orthogonal and of one length, the distance between those
    two, so that distances and angles in the picture are those of parameter space; the third is where it lies.

    Raises:
        ParametersDifferError: If they have other parameters.
        ValueError: If they lie on a line.
    """
    for name, other in zip(names[1:], (second, third), strict=True):
        require_same_parameters(objective, other, (names[0], name))
    first_axis, to_third = (_difference(other, objective).double() for other in (second, third))
    length = first_axis.norm()
    along = float(first_axis @ to_third / length**2) if length > 0 else 0.0
    across = to_third - along * first_axis
    height = float(across.norm() / length) if length > 0 else 0.0
    if not height > PARALLEL * max(1.0, abs(along)):
        raise ValueError(f"{', '.join(names)} lie on a line: take three checkpoints that do not, or two for the line")
    axes = torch.stack([first_axis, across / height]).to(objective.theta)
    settings: Record = {"directions": "between", "unit": f"distance from {names[0]} to {names[1]}"}
    places = [(0.0, 0.0), (1.0, 0.0), (along, height)]
    return _between(objective, [objective, second, third], axes, settings, names, places, layers)


def eigenvector_plane(
    objective: Objective, pairs: Eigenpairs, *, which: tuple[int, int] = (0, 1), layers: Sequence[str] = ()
) -> Plane:
    """Two eigenvectors as axes of unit length, never normalised by filters: along them the curvature is the eigenvalue.

    `which` counts from the largest. Eigenvectors of the whole Hessian are none of a part of it: for some `layers`
    alone, the pairs are to be those of `landscape.operators.restricted`; their rounding outside is left out here.

    Raises:
        ValueError: If the pairs have no vectors, too few of them, are of another number of parameters, or move others
            than `layers`.
    """
    if pairs.vectors is None:
        raise ValueError("these eigenpairs were kept without their vectors: take them from top_eigenpairs itself")
    if len(pairs.vectors) <= max(which):
        raise ValueError(f"a plane of eigenvectors {which} needs {max(which) + 1} pairs, got {len(pairs.vectors)}")
    if pairs.vectors.shape[1] != objective.theta.numel():
        sizes = f"{pairs.vectors.shape[1]:,} parameters, this model has {objective.theta.numel():,}"
        raise ValueError(f"the eigenvectors are of {sizes}")
    chosen = torch.from_numpy(pairs.vectors[list(which)]).double()
    inside = torch.where(layer_mask(objective, layers).cpu(), chosen, 0.0)
    if (inside.norm(dim=1) < _KEPT * chosen.norm(dim=1)).any():
        raise ValueError("these eigenvectors move more than the layers: take those of landscape.operators.restricted")
    axes = (inside / inside.norm(dim=1, keepdim=True)).to(objective.theta)
    settings: Record = {
        "directions": "eigenvectors",
        "unit": "unit length",
        "eigenvalues": pairs.values[list(which)].tolist(),
        "residuals": pairs.residuals[list(which)].tolist(),
        "operator": pairs.settings.get("operator"),
        "axes_of": pairs.checkpoint.get("hash"),
    }
    return described(objective, axes, settings, layers=layers)


def ascent_plane(objective: Objective, *, rho: float | None = None, seed: int = 0, layers: Sequence[str] = ()) -> Plane:
    """The gradient g as first axis: of unit length, or with `rho` SAM's own step, rho g / ||g||, at coordinate 1.

    (Foret et al. 2021, arXiv:2010.01412, equation 2.) The second axis is a filter-normalized random direction, made
    orthogonal to the first and given its length. With `layers` it is their gradient alone. Cost: one gradient.

    Raises:
        ValueError: If rho is not positive, or the gradient is zero or not finite.
    """
    if rho is not None and not (math.isfinite(rho) and rho > 0):
        raise ValueError(f"rho must be finite and positive, got {rho}")
    gradient = torch.where(layer_mask(objective, layers), objective.gradient(), 0.0).double()
    length = float(gradient.norm())
    if not (math.isfinite(length) and length > 0):
        raise ValueError(f"the gradient has length {length:g} here: there is no direction of ascent")
    step = 1.0 if rho is None else rho
    first = step * gradient / length
    random = random_plane(objective, seed=seed, layers=layers).axes[1].double()
    random -= (random @ first) / (first @ first) * first
    axes = torch.stack([first, step * random / random.norm()]).to(objective.theta)
    settings: Record = {
        "directions": "gradient" if rho is None else "sam",
        "unit": "unit length" if rho is None else f"rho = {rho:g}",
        "seed": seed,
        "gradient_norm": length,
        **({} if rho is None else {"rho": rho}),
    }
    return described(objective, axes, settings, layers=layers)


def along(objective: Objective, *directions: Direction, layers: Sequence[str] = ()) -> Plane:
    """The line along a direction of one's own, or the plane along two: flat (P,), or tensors by parameter name.

    They are taken as they are, in length too; what is not named does not move.

    Raises:
        ValueError: If there are not one or two, or a name, a shape or a value does not fit.
    """
    if len(directions) not in (1, 2):
        raise ValueError(f"give one direction for a line, two for a plane; got {len(directions)}")
    axes = torch.stack([_flat(objective, direction) for direction in directions])
    return described(objective, axes, {"directions": "given", "unit": "as given"}, layers=layers)


def _between(
    objective: Objective,
    checkpoints: Sequence[Objective],
    axes: Tensor,
    settings: Record,
    names: Sequence[str],
    places: Sequence[tuple[float, ...]],
    layers: Sequence[str],
) -> Plane:
    """The plane with its landmarks, looked at with half a distance around them."""
    plane = described(objective, axes, settings, layers=layers)
    on_it = 1 if layers else len(places)  # with some layers at their place alone, the others are not there
    told: list[Json] = [
        {"name": name, "coordinates": list(at)} for name, at in zip(names, places[:on_it], strict=False)
    ]
    landmarks = [
        Landmark(name, at, other.model)
        for name, at, other in zip(names[1:on_it], places[1:on_it], checkpoints[1:on_it], strict=True)
    ]
    spans = [(min(at), max(at)) for at in zip(*places, strict=True)]
    intervals = [(low - 0.5, high + 0.5) for low, high in spans]
    settings = {**plane.settings, "landmarks": told}
    return replace(plane, settings=settings, intervals=intervals, landmarks=landmarks)


def _difference(to: Objective, start: Objective) -> Tensor:
    return to.theta.to(start.theta) - start.theta


def _flat(objective: Objective, direction: Direction) -> Tensor:
    if isinstance(direction, Tensor):
        if direction.shape != objective.theta.shape:
            raise ValueError(
                f"a flat direction must have shape {tuple(objective.theta.shape)}, got {tuple(direction.shape)}"
            )
        return direction.to(objective.theta)
    for name, tensor in direction.items():
        if name not in objective.shapes:
            raise ValueError(f"a direction names the unknown parameter {name!r}{nearest(name, objective.shapes)}")
        if tensor.shape != objective.shapes[name]:
            shapes = f"{tuple(objective.shapes[name])}, got {tuple(tensor.shape)}"
            raise ValueError(f"the direction of {name} must have its shape {shapes}")
    axis = torch.zeros_like(objective.theta)
    for name, view in objective.named(axis).items():
        if name in direction:
            view.copy_(direction[name])
    return axis


def _whole_tensors(objective: Objective, output_dims: OutputDims) -> list[Json]:
    """Names of the parameters that count as one filter because nothing is known of their kind."""
    groups = filter_groups(objective, output_dims=output_dims)
    one = [str(group["name"]) for group in groups if group["num_filters"] == 1]
    return [name for name in one if objective.shapes[name][0] > 1 and name not in output_dims]


def _random_axis(
    objective: Objective, by: Objective, seed: int, axis: str, normalization: Normalization, output_dims: OutputDims
) -> Tensor:
    pieces = []
    for name, tensor in by.named(by.theta).items():
        piece = _gaussian(tensor, seed, f"{axis}/{name}")
        if normalization != "none":
            theta = tensor.double().cpu()
            piece = normalized(piece, objective, name, theta, normalization, output_dims)
        pieces.append(piece.reshape(-1))
    return torch.cat(pieces).to(objective.theta)


def _gaussian(like: Tensor, seed: int, purpose: str) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)
