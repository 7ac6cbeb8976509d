"""Curvature through a training run: the top eigenvalues of each checkpoint, each from its neighbour's vectors.

Where the Hessian changes little from one checkpoint to the next, the eigenvectors of the one are nearly those of the
other, and an iteration that starts from them needs few products. Beside the eigenvalues: how much of the top space
stayed, the curvature v'Hv along the gradient and along SAM's step, and the largest curvature at which gradient descent
with the run's learning rate is stable (Cohen et al. 2021, arXiv:2103.00065): a theory of full batches.

Legend: T checkpoints, K eigenpairs, P parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from landscape.lanczos import top_eigenpairs
from landscape.ledger import Keep, Replayed, unkept
from landscape.objective import Objective
from landscape.operators import OperatorOf, SymmetricOperator, hessian
from landscape.results import CurvatureTrace, Eigenpairs, Record, Result

GradientOf = Callable[[Objective, Tensor], Tensor]

_BESIDE = ("overlap", "along_gradient", "along_sam")


def curvature_trace(
    run: Iterable[tuple[int, Objective]],
    *,
    k: int = 3,
    tolerance: float = 1e-3,
    seed: int = 0,
    max_matvecs: int | None = None,
    rho: float = 0.05,
    learning_rates: Iterable[float] | None = None,
    stability_limits: Iterable[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
    operator_of: OperatorOf = hessian,
    gradient_of: GradientOf = Objective.gradient,
    keep: Keep = unkept,
) -> CurvatureTrace:
    """The k largest eigenvalues of the Hessian at each (epoch, objective) of a run, in order of the epochs.

    `rho` is the radius of the SAM step whose direction is asked for. `learning_rates` and `stability_limits`, one for
    each checkpoint, are kept beside what is measured. `progress` gets the number of checkpoints done and the products
    of the one that is measured. `operator_of` makes the Hessian of an objective, `gradient_of` its gradient at a theta
    (both shared by several processes: landscape.distributed), and `keep` the steps of a run that may be stopped
    (landscape.ledger): of a checkpoint that is finished nothing is measured again.

    Raises:
        ValueError: If the run is empty or its checkpoints have different parameters, rho is negative or not finite, or
            an option of `top_eigenpairs` is wrong.
    """
    if not (math.isfinite(rho) and rho >= 0):
        raise ValueError(f"rho must be finite and not negative, got {rho}")
    epochs, found = [], list[Eigenpairs]()
    for epoch, objective in run:
        before = found[-1] if found else None
        if before is not None and before.vectors is not None and before.vectors.shape[1] != objective.theta.numel():
            raise ValueError("the checkpoints of a run must have equal parameters")
        find = partial(
            top_eigenpairs,
            k=k,
            tolerance=tolerance,
            seed=seed,
            max_matvecs=max_matvecs,
            start=None if before is None else before.vectors,
            progress=None if progress is None else partial(progress, len(found)),
        )
        epochs.append(epoch)
        make = partial(_measured, objective, before, operator_of, gradient_of, find, rho)
        found.append(cast(Eigenpairs, keep(f"epoch-{epoch}", make)[0]))
    if not found:
        raise ValueError("a run needs at least one checkpoint")
    overlap, along_gradient, along_sam = np.array([[pairs.checks[name] for name in _BESIDE] for pairs in found]).T
    settings = {**found[-1].settings, "rho": rho}
    unknown = np.full(len(found), math.nan)
    return CurvatureTrace(
        epoch=np.array(epochs, dtype=np.int64),
        values=np.stack([pairs.values for pairs in found]),
        residuals=np.stack([pairs.residuals for pairs in found]),
        converged=np.stack([pairs.converged for pairs in found]),
        complete=np.array([pairs.complete for pairs in found]),
        num_matvecs=np.array([pairs.num_matvecs for pairs in found], dtype=np.int64),
        loss=np.array([pairs.loss for pairs in found]),
        overlap=overlap,
        along_gradient=along_gradient,
        along_sam=along_sam,
        learning_rate=unknown if learning_rates is None else np.array([*learning_rates], dtype=np.float64),
        stability_limit=unknown if stability_limits is None else np.array([*stability_limits], dtype=np.float64),
        settings={name: value for name, value in settings.items() if name != "num_starts"},
        checks={
            **_worst(found, "symmetry", "symmetric"),
            **_worst(found, "gradient_change", "gradient_change_ok"),
        },
    )


def _worst(found: list[Eigenpairs], measure: str, flag: str) -> Record:
    """A check at the checkpoint where it is worst: NaN and no flag where none decided it, empty where none made it."""
    seen = [float(str(pairs.checks[measure])) for pairs in found if measure in pairs.checks]
    if not seen:
        return {}
    flags = [bool(pairs.checks[flag]) for pairs in found if flag in pairs.checks]
    return {measure: float(np.fmax.reduce(seen)), **({flag: all(flags)} if flags else {})}


def stability_limit(
    learning_rate: float, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> float:
    """The largest eigenvalue of a quadratic loss on which full-batch gradient descent does not diverge.

    (2 + 2 momentum) / learning_rate for heavy ball, 2 (1 + b) / (learning_rate (1 + 2 b)) for Nesterov's momentum b
    (Cohen et al. 2021, arXiv:2103.00065, equations 1 and 2), less the weight decay, which adds to every eigenvalue.

    Example:
        >>> stability_limit(0.5), stability_limit(0.5, momentum=0.5), stability_limit(0.0)
        (4.0, 6.0, inf)
    """
    if learning_rate == 0:
        return math.inf
    top = 2 * (1 + momentum) / (1 + 2 * momentum) if nesterov else 2 + 2 * momentum
    return top / learning_rate - weight_decay


def _measured(
    objective: Objective,
    before: Eigenpairs | None,
    operator_of: OperatorOf,
    gradient_of: GradientOf,
    find: Callable[[SymmetricOperator], Eigenpairs],
    rho: float,
    replayed: Replayed,
) -> list[Result]:
    """The eigenpairs at one checkpoint; among their checks, what is told beside them."""
    operator = replayed(operator_of(objective))
    pairs = find(operator)
    along = _along_steps(objective, operator, gradient_of, rho)
    checks = {**pairs.checks, **dict(zip(_BESIDE, [_overlap(before, pairs), *along], strict=True))}
    num_beside = sum(not math.isnan(one) for one in along)
    return [dataclasses.replace(pairs, num_matvecs=pairs.num_matvecs + num_beside, checks=checks)]


def _overlap(before: Eigenpairs | None, now: Eigenpairs) -> float:
    """||V W'||_F^2 / K: the share of the space of the top eigenvectors W that lies in that of those before, V."""
    if before is None or before.vectors is None or now.vectors is None:
        return math.nan
    cosines = before.vectors.astype(np.float64) @ now.vectors.T.astype(np.float64)
    return float((cosines**2).sum() / len(now.vectors))


def _along_steps(
    objective: Objective, operator: SymmetricOperator, gradient_of: GradientOf, rho: float
) -> tuple[float, float]:
    """v'Hv for v along the gradient, and along the gradient at SAM's perturbed point; NaN where there is none."""
    gradient = gradient_of(objective, objective.theta)
    length = float(gradient.double().norm())
    perturbed = gradient_of(objective, objective.theta + (rho / length) * gradient) if length > 0 else gradient
    return _along(operator, gradient), _along(operator, perturbed)


def _along(operator: SymmetricOperator, direction: Tensor) -> float:
    v = direction.double()
    length = float(v.norm())
    if not (math.isfinite(length) and length > 0):
        return math.nan
    v = (v / length).to(operator.dtype)
    with torch.no_grad():
        return float(v.double() @ operator.matvec(v).double())
