"""The spectrum as a whole, by random probes beside the eigenpairs that are known: density, trace, Frobenius norm.

Y (K, P) are converged Ritz vectors with values lam and residuals r, Q = I - Y'Y, n = P - K. A probe v is uniform on
the unit sphere of Q's range, and Lanczos from it on Q A Q has nodes x_j with weights w_j: sum_j w_j f(x_j) = v'f(QAQ)v
for polynomials f of a degree up to 2M - 1 (stochastic Lanczos quadrature: Golub & Welsch 1969; Lin, Saad & Yang 2016,
arXiv:1308.5467; with outliers apart: Papyan 2018, arXiv:1811.07062). With E the mean over probes

    density(x)  = (1 / P) sum_i delta(x - lam_i) + (n / P) E[sum_j w_j N(x; x_j, width^2)]
    trace A     = sum_i lam_i + n E[v'Av]
    ||A||_F^2   = sum_i (lam_i^2 + 2 r_i^2) + n E[||QAv||^2]

The second and third are exact in expectation, whatever Y is. Standard errors are over probes.

Legend: P size of the operator, K pairs, V probes, M Lanczos steps, G grid.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

from landscape.krylov import Counted, Progress
from landscape.operators import SymmetricOperator
from landscape.probes import Probes, known_pairs, lanczos_probes, product_probes, whole_matrix, xtrace_samples
from landscape.results import Array, Density, Eigenpairs, Estimate, Record
from landscape.smoothing import CONFIDENCE, MIN_SAMPLES, grid_of, smoothed, standard_error

TraceMethod = Literal["hutchinson", "xtrace"]


def spectral_density(
    operator: SymmetricOperator,
    *,
    num_probes: int = 4,
    num_steps: int = 80,
    seed: int = 0,
    pairs: Eigenpairs | None = None,
    kernel_width: float | None = None,
    basis_device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Density:
    """The density of the eigenvalues: converged `pairs` as sticks, the bulk smoothed, with a band over probes.

    Each probe makes `num_steps` products (P - K if that is less). `kernel_width` is the standard deviation of the
    Gaussian at each node: by default the range of the nodes divided by the steps, about their distance from each other.
    The vectors of one probe are held, on `basis_device`.

    Raises:
        ValueError: If num_probes or num_steps is below 1, kernel_width is not above 0 or too small for a grid, or pairs
            have no vectors or belong to another operator.
        FloatingPointError: If a product is not finite.

    Example:
        >>> operator = SymmetricOperator(lambda v: 2 * v, 50, torch.float64)
        >>> density = spectral_density(operator)
        >>> float(np.abs(density.nodes - 2).max()) < 1e-12, density.num_matvecs
        (True, 4)
    """
    _check_counts(num_probes=num_probes, num_steps=num_steps)
    if kernel_width is not None and not 0 < kernel_width < float("inf"):
        raise ValueError(f"kernel_width must be above 0 and finite, got {kernel_width}")
    counted = Counted(operator, progress, basis_device)
    probes = lanczos_probes(counted, known_pairs(operator, pairs), num_probes, num_steps, seed)
    return density_of(probes, {"seed": seed}, kernel_width=kernel_width)


def trace(
    operator: SymmetricOperator,
    *,
    num_matvecs: int = 60,
    seed: int = 0,
    pairs: Eigenpairs | None = None,
    method: TraceMethod | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """The trace with its standard error; converged `pairs` count exactly, and only the rest is estimated.

    hutchinson: one sample of v'Av for each product (Girard 1989; Hutchinson 1989), the default with pairs. xtrace: the
    trace on the range of half as many products, and that of the rest from each probe in turn (Epperly, Tropp & Webber
    2024, arXiv:2301.07825), with a jackknife error; it finds outliers by itself, and holds up to 2 num_matvecs vectors,
    the default without pairs; where eigenvalues decay fast its error is several times too large, never too small in
    expectation. Where P is no more than num_matvecs the diagonal is measured instead, and the error is 0, as it is
    where the pairs are all there are.

    Raises:
        ValueError: If method is unknown, num_matvecs below 1 (2 for xtrace), or pairs have no vectors or belong to
            another operator.
        FloatingPointError: If a product is not finite.

    Example:
        >>> operator = SymmetricOperator(lambda v: 2 * v, 50, torch.float64)
        >>> round(trace(operator, num_matvecs=20).value, 9)
        100.0
    """
    _check_counts(num_matvecs=num_matvecs)
    if method not in (None, *get_args(TraceMethod)):
        raise ValueError(f"method must be one of {get_args(TraceMethod)}, got {method!r}")
    counted, known = Counted(operator, progress), known_pairs(operator, pairs)
    method = method or ("hutchinson" if known.num else "xtrace")
    settings: Record = {"method": method, "max_matvecs": num_matvecs, "seed": seed, "num_deflated": known.num}
    if operator.size <= num_matvecs:
        matrix, checks = whole_matrix(counted)
        exact = {**settings, "method": "diagonal"}
        return _exact("trace", float(np.trace(matrix)), operator, counted.count, exact, checks)
    if method == "hutchinson" or known.num == operator.size:
        return trace_of(product_probes(counted, known, num_matvecs, seed), settings)
    if num_matvecs < 2:
        raise ValueError(f"xtrace needs num_matvecs of at least 2, got {num_matvecs}")
    samples, checks = xtrace_samples(counted, known, num_matvecs // 2, seed)
    return _estimate("trace", known.values.sum() + samples, operator, counted.count, settings, checks)


def frobenius_norm(
    operator: SymmetricOperator,
    *,
    num_matvecs: int = 60,
    seed: int = 0,
    pairs: Eigenpairs | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """sqrt(sum of squared eigenvalues) with its standard error; converged `pairs` count exactly.

    One sample of ||Av||^2 for each product; exact where P is no more than num_matvecs.

    Raises:
        ValueError: If num_matvecs is below 1, or pairs have no vectors or belong to another operator.
        FloatingPointError: If a product is not finite.
    """
    _check_counts(num_matvecs=num_matvecs)
    counted, known = Counted(operator, progress), known_pairs(operator, pairs)
    settings: Record = {"max_matvecs": num_matvecs, "seed": seed, "num_deflated": known.num}
    if operator.size <= num_matvecs:
        matrix, checks = whole_matrix(counted)
        return _exact("frobenius_norm", float(np.linalg.norm(matrix)), operator, counted.count, settings, checks)
    return frobenius_norm_of(product_probes(counted, known, num_matvecs, seed), settings)


def effective_rank(trace: Estimate, pairs: Eigenpairs) -> Estimate:
    """trace / lambda_max: how many eigenvalues as large as the largest would make the trace.

    The standard error is the trace's; lambda_max is off by no more than its residual, which is not in it.

    Raises:
        ValueError: If the pairs are the smallest ones only.
    """
    if pairs.settings.get("which") == "smallest":
        raise ValueError("the effective rank needs the largest eigenvalue, and these pairs are the smallest")
    top = float(pairs.values[0])
    return Estimate(
        quantity="effective_rank",
        value=trace.value / top if top else float("nan"),
        standard_error=trace.standard_error / abs(top) if top else float("nan"),
        num_samples=trace.num_samples,
        num_matvecs=trace.num_matvecs + pairs.num_matvecs,
        note=trace.note,
        loss=trace.loss,
        checkpoint=trace.checkpoint,
        settings=trace.settings,
        checks=trace.checks,
    )


def density_of(probes: Probes, settings: Record, *, kernel_width: float | None = None) -> Density:
    """The density that Lanczos probes saw."""
    operator, known = probes.operator, probes.known
    width = _usual_width(probes) if kernel_width is None else kernel_width
    left = probes.num_left
    grid = grid_of(probes.nodes if left else known.values, width)
    none = np.zeros_like(grid)
    bulk = smoothed(grid, probes.nodes, probes.weights, width, left / operator.size) if left else (none, none, none)
    mean, low, high = bulk
    return Density(
        grid=grid,
        mean=mean,
        low=low,
        high=high,
        nodes=probes.nodes,
        weights=probes.weights,
        sticks=known.values,
        stick_residuals=known.residuals,
        size=operator.size,
        kernel_width=float(width),
        num_matvecs=probes.num_matvecs,
        note=note_of(len(probes.nodes), "no band") if left else "every eigenvalue is a stick",
        loss=operator.loss,
        checkpoint=operator.checkpoint,
        settings={
            **operator.settings,
            **settings,
            "num_probes": len(probes.nodes),
            "num_steps": probes.nodes.shape[1],
            "num_deflated": known.num,
            "confidence": CONFIDENCE,
        },
        checks=probes.checks,
    )


def trace_of(probes: Probes, settings: Record) -> Estimate:
    """The trace by v'Av."""
    known = float(probes.known.values.sum())
    if not probes.num_left:
        return _exact("trace", known, probes.operator, 0, settings, probes.checks)
    samples = known + probes.num_left * probes.first
    return _estimate("trace", samples, probes.operator, probes.num_matvecs, settings, probes.checks)


def frobenius_norm_of(probes: Probes, settings: Record) -> Estimate:
    """The Frobenius norm by ||Av||^2, with the error of the square carried over in first order."""
    known = float((probes.known.values**2 + 2 * probes.known.residuals**2).sum())
    if not probes.num_left:
        return _exact("frobenius_norm", known**0.5, probes.operator, 0, settings, probes.checks)
    squares = known + probes.num_left * probes.second
    root = np.sqrt(squares.sum() / max(len(squares), 1))
    linear = squares / (2 * root) + root / 2 if root else squares  # of mean root, and of the spread of the root
    return _estimate("frobenius_norm", linear, probes.operator, probes.num_matvecs, settings, probes.checks)


def _estimate(
    quantity: str, samples: Array, operator: SymmetricOperator, num_matvecs: int, settings: Record, checks: Record
) -> Estimate:
    return Estimate(
        quantity=quantity,
        value=float(samples.mean()) if len(samples) else float("nan"),
        standard_error=float(standard_error(samples)),
        num_samples=len(samples),
        num_matvecs=num_matvecs,
        note=note_of(len(samples), "no standard error"),
        loss=operator.loss,
        checkpoint=operator.checkpoint,
        settings={**operator.settings, **settings},
        checks=checks,
    )


def _exact(
    quantity: str, value: float, operator: SymmetricOperator, num_matvecs: int, settings: Record, checks: Record
) -> Estimate:
    return Estimate(
        quantity=quantity,
        value=value,
        standard_error=0.0,
        num_samples=operator.size,
        num_matvecs=num_matvecs,
        note="exact, but for rounding",
        loss=operator.loss,
        checkpoint=operator.checkpoint,
        settings={**operator.settings, **settings},
        checks=checks,
    )


def note_of(num_samples: int, missing: str) -> str:
    """That there are too few samples for an error, where there are."""
    few = num_samples < MIN_SAMPLES
    return f"{missing}: {num_samples} samples, fewer than {MIN_SAMPLES}" if few else ""


def _usual_width(probes: Probes) -> float:
    """The range of the nodes, or a thousandth of their size where they are (nearly) one number, over the steps."""
    nodes = probes.nodes if probes.num_left else probes.known.values
    largest = float(np.abs(nodes).max())
    return float(max(np.ptp(nodes), 1e-3 * largest or 1.0) / max(probes.nodes.shape[1], 1))


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
