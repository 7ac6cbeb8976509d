"""The checkpoints of a run, and a plane: the one that holds most of them, and where they lie as seen from any plane.

Li et al. 2018 (arXiv:1712.09913, section 7): M = [theta_1 - theta_n; ...; theta_{n-1} - theta_n], its first two
principal directions are the axes, the last checkpoint the centre. Coordinates on any plane with axes A (2, P) are those
of the nearest point, argmin_c ||theta_k - centre - c A||: least squares in the plane's own axes, which need be neither
orthogonal nor of unit length. What is left over is the distance from the plane.

Legend: P parameters, T checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from landscape.evaluator import Engine, prepare
from landscape.objective import Objective
from landscape.plane import Plane, described, layer_mask, require_same_parameters
from landscape.results import Array, Record, Trajectory
from landscape.sums import summarise

About = Literal["centre", "mean"]

_PIECE = 1 << 18  # of the parameters, that are made float64 at a time
_FLAT = 1e-10  # share of the variance below which a second direction is rounding in float32


def pca_plane(objective: Objective, thetas: Tensor, *, about: About = "centre", layers: Sequence[str] = ()) -> Plane:
    """The plane through `objective.theta` along the two first principal directions of the checkpoints `thetas` (T, P).

    About the "centre" their differences to `objective.theta` are taken, which is the last of them in Li et al.; no
    other plane through it is nearer to all of them. About their "mean" the directions are those of their covariance,
    as the code of Li et al. has it (scikit-learn's PCA). The axes have unit length; what they explain is in `settings`,
    and `intervals` hold all checkpoints.

    Raises:
        ValueError: If there are fewer than 3 checkpoints, they lie on a line, or are of another number of parameters.

    Example:
        >>> objective = Objective(nn.Linear(3, 1, bias=False), nn.MSELoss(), [(torch.eye(3), torch.zeros(3, 1))])
        >>> steps = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
        >>> shares = pca_plane(objective, objective.theta + steps).settings["explained_variance"]
        >>> [round(share, 4) for share in shares]  # 9/13 and 4/13
        [0.6923, 0.3077]
    """
    if about not in get_args(About):
        raise ValueError(f"about must be one of {get_args(About)}, got {about!r}")
    if thetas.ndim != 2 or thetas.shape[1] != objective.theta.numel():
        raise ValueError(f"thetas must have shape (T, {objective.theta.numel()}), got {tuple(thetas.shape)}")
    if len(thetas) < 3:
        found = f"PCA needs 3 checkpoints of a run or more, got {len(thetas)}"
        raise ValueError(f"{found}: train with --save-every to keep some")
    thetas = thetas.to(objective.theta)
    origin = objective.theta if about == "centre" else thetas.double().mean(0).to(thetas)
    if layers:
        origin = torch.where(layer_mask(objective, layers), origin, thetas)  # as if the others did not differ
    gram = torch.stack([piece @ piece.T for piece in _differences(thetas, origin)]).sum(0)
    values, vectors = np.linalg.eigh(gram.numpy(force=True))
    variances = np.maximum(values[::-1], 0.0)  # of a Gram matrix: below zero by rounding alone
    if not variances[1] > _FLAT * variances[0]:
        raise ValueError("these checkpoints lie on a line: there is no second principal direction")
    rows = torch.from_numpy(vectors[:, :-3:-1].T.copy()).to(thetas.device)
    axes = torch.cat([rows @ piece for piece in _differences(thetas, origin)], dim=1)
    settings: Record = {
        "directions": "pca",
        "unit": "unit length",
        "about": about,
        "num_checkpoints": len(thetas),
        "explained_variance": (variances[:2] / variances.sum()).tolist(),
    }
    unit = (axes / axes.norm(dim=1, keepdim=True)).to(thetas)
    plane = described(objective, unit, settings, layers=layers)
    first, _ = project(plane, thetas[:1])
    signs = torch.from_numpy(np.where(first[0] < 0, -1.0, 1.0)).to(thetas)  # the run begins at positive coordinates
    plane = replace(plane, axes=plane.axes * signs[:, None])
    at, _ = project(plane, thetas)
    return replace(plane, intervals=_around(at))


def project(plane: Plane, thetas: Tensor) -> tuple[Array, Array]:
    """Coordinates (T, D) of the points of a plane nearest to `thetas` (T, P), and the distances (T,) to them."""

    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        axes = torch.split(plane.axes, _PIECE, dim=1)
        for axis, difference in zip(axes, _differences(thetas, plane.centre), strict=True):
            yield axis.double(), difference

    gram = torch.stack([axis @ axis.T for axis, _ in pieces()]).sum(0)
    products = torch.stack([axis @ difference.T for axis, difference in pieces()]).sum(0)
    at = torch.linalg.solve(gram, products).T  # (T, D)
    squares = torch.stack([(difference - at @ axis).square().sum(1) for axis, difference in pieces()]).sum(0)
    return at.numpy(force=True), squares.sqrt().numpy(force=True)


def project_run(
    objective: Objective,
    plane: Plane,
    checkpoints: Iterable[tuple[int, nn.Module]],
    *,
    engine: Engine | None = None,
) -> Trajectory:
    """Where checkpoints (epoch, model) of a run lie on a plane, how far from it, their loss and the plane's loss there.

    A checkpoint's own loss is that of its weights and its own buffers, over the data of `objective`; the plane's is at
    the nearest point of the plane, as a surface with this `engine` has it. Cost: two passes for each checkpoint.

    Raises:
        ParametersDifferError: If a checkpoint is of another architecture.
        ValueError: If `plane` is a line, or there is no checkpoint.
    """
    if len(plane.axes) != 2:
        raise ValueError("a trajectory is seen from a plane: this is a line")
    evaluator = prepare(objective, engine or Engine())
    rows: list[list[float]] = []
    for epoch, model in checkpoints:
        own = replace(objective, model=model)
        require_same_parameters(objective, own, ("the plane", f"epoch {epoch}"))
        at, distance = project(plane, own.theta.to(plane.centre)[None])
        sums = evaluator.sums(plane.centre, plane.axes, at.tolist()).numpy(force=True)
        found = own.evaluate()
        total = float((own.theta.to(plane.centre).double() - plane.centre.double()).square().sum())
        on_plane = float(summarise(sums)[0][0])
        rows.append([epoch, *at[0], distance[0], found.loss, found.standard_error, on_plane, total])
    if not rows:
        raise ValueError("there is no checkpoint in this trajectory")
    epoch_column, x, y, distance, loss, standard_error, plane_loss, squares = np.array(sorted(rows)).T
    return Trajectory(
        epoch=epoch_column.astype(np.int64),
        x=x,
        y=y,
        distance=distance,
        loss=loss,
        standard_error=standard_error,
        plane_loss=plane_loss,
        explained_variance=float(1 - (distance**2).sum() / squares.sum()) if squares.any() else 1.0,
    )


def _differences(thetas: Tensor, origin: Tensor) -> Iterator[Tensor]:
    """thetas - origin (T, P) in float64, a piece of the long dimension at a time."""
    pieces = (torch.split(one, _PIECE, dim=1) for one in (thetas, origin.expand_as(thetas)))
    for theta, start in zip(*pieces, strict=True):
        yield theta.double() - start.double()


def _around(at: Array) -> list[tuple[float, float]]:
    """Intervals that hold the coordinates and the centre, with a quarter of the longest span more on every side."""
    lowest, highest = np.minimum(at.min(0), 0.0), np.maximum(at.max(0), 0.0)
    margin = 0.25 * (highest - lowest).max()
    return [(float(low - margin), float(high + margin)) for low, high in zip(lowest, highest, strict=True)]
