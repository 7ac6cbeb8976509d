"""The diagonal of an operator, by vectors of random signs beside the eigenpairs that are known.

With B = A - sum_i lam_i y_i y_i', what the pairs leave, and a vector v of independent random signs,

    diag(A)_j = sum_i lam_i y_ij^2 + E[v_j (Bv)_j]        variance of a sample = sum_{l != j} B_jl^2

(Bekas, Kokiopoulou & Saad 2007, doi:10.1016/j.apnum.2007.01.003, whose v_j^2 in the denominator is 1 here). That is
unbiased whatever the pairs are; converged ones take out the outliers, on which nearly all of the variance of a trained
network's Hessian rests. XDiag (Epperly, Tropp & Webber 2024, arXiv:2301.07825) finds outliers by itself, but holds as
many vectors as it makes products, and gains nothing where what is left decays slowly; here there are four vectors.

Legend: P size of the operator, K pairs, V probes, B tensors of theta.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from landscape.krylov import Counted, Progress, stream
from landscape.operators import SymmetricOperator
from landscape.probes import AT_ONCE, KnownPairs, dot, known_pairs, pair_differences, seen_symmetry, whole_matrix
from landscape.results import Array, Diagonal, Eigenpairs, Record
from landscape.smoothing import MIN_SAMPLES, standard_error
from landscape.spectrum import note_of


def diagonal(
    operator: SymmetricOperator,
    *,
    num_matvecs: int = 60,
    seed: int = 0,
    pairs: Eigenpairs | None = None,
    progress: Progress | None = None,
) -> Diagonal:
    """The diagonal, each entry with its standard error, and the trace of each tensor of theta with its own.

    One sample of all entries for each product. Converged `pairs` count exactly, and only the rest is estimated, which
    makes it sharper by far where there are outliers: take those of `top_eigenpairs` at both ends. Where P is no more
    than num_matvecs all entries are measured, and the errors are 0.

    Raises:
        ValueError: If num_matvecs is below 1, or pairs have no vectors or belong to another operator.
        FloatingPointError: If a product is not finite.

    Example:
        >>> values = torch.arange(1.0, 101.0, dtype=torch.float64)
        >>> found = diagonal(SymmetricOperator(lambda v: values * v, 100, torch.float64), num_matvecs=4)
        >>> found.values[:3].tolist(), found.trace  # of a diagonal operator, each sample is exact
        ([1.0, 2.0, 3.0], 5050.0)
    """
    if num_matvecs < 1:
        raise ValueError(f"num_matvecs must be at least 1, got {num_matvecs}")
    counted, known = Counted(operator, progress), known_pairs(operator, pairs)
    shapes = dict(operator.shapes) or {"all": (operator.size,)}
    sizes = [math.prod(shape) for shape in shapes.values()]
    settings: Record = {**operator.settings, "max_matvecs": num_matvecs, "seed": seed, "num_deflated": known.num}
    if operator.size <= num_matvecs:
        matrix, checks = whole_matrix(counted)
        values = np.diag(matrix)
        error, traces = np.zeros_like(values), np.array([_sums(values, sizes)])
        errors, total_error, note = np.zeros(len(sizes)), 0.0, "exact, but for rounding"
    else:
        values, error, traces, checks = _sampled(counted, known, sizes, num_matvecs, seed)
        errors, total_error = standard_error(traces), float(standard_error(traces.sum(1)))
        note = note_of(num_matvecs, "no standard error")
    entries = np.float32 if operator.dtype == torch.float32 else np.float64
    return Diagonal(
        values=values.astype(entries),
        standard_error=error.astype(entries),
        names=list(shapes),
        shapes=[list(shape) for shape in shapes.values()],
        tensor_traces=traces.mean(0),
        tensor_standard_errors=errors,
        trace=float(traces.sum(1).mean()),
        trace_standard_error=total_error,
        num_samples=counted.count,
        num_matvecs=counted.count,
        note=note,
        loss=operator.loss,
        checkpoint=operator.checkpoint,
        settings=settings,
        checks=checks,
    )


def _sampled(
    counted: Counted, known: KnownPairs, sizes: list[int], num_probes: int, seed: int
) -> tuple[Array, Array, Array, Record]:
    """The mean (P,) over probes and its error, the sum of each probe's sample over each tensor (V, B), and checks."""
    vectors = known.vectors.to(counted.device)
    values = torch.as_tensor(known.values).to(vectors)
    mean = torch.zeros(counted.operator.size, dtype=torch.float64, device=counted.device)
    deviations, random = torch.zeros_like(mean), stream(seed, "diagonal")
    sums, differences, squares = np.empty((num_probes, len(sizes))), list[float](), list[float]()
    for first in range(0, num_probes, AT_ONCE):
        probes = torch.stack([_signs(mean.to(vectors), random) for _ in range(min(AT_ONCE, num_probes - first))])
        products = counted.many(probes)
        differences += pair_differences(probes, products)
        for place, (v, product) in enumerate(zip(probes, products, strict=True), start=first):
            squares.append(dot(product, product))
            sample = (v * (product - (values * (vectors @ v)) @ vectors)).double()
            sums[place] = [float(part.sum()) for part in torch.split(sample, sizes)]
            change = sample - mean
            mean += change / (place + 1)
            deviations += change * (sample - mean)  # Welford 1962: no sample is held
    exact = torch.zeros_like(mean)
    for value, y in zip(known.values.tolist(), vectors, strict=True):
        exact += value * y.double() ** 2
    spread = torch.full_like(mean, torch.nan) if num_probes < MIN_SAMPLES else deviations / (num_probes - 1)
    checks = seen_symmetry(counted.operator, np.array(differences), np.array(squares), np.empty(0))
    whole = sums + _sums(exact.numpy(force=True), sizes)
    return (mean + exact).numpy(force=True), (spread / num_probes).sqrt().numpy(force=True), whole, checks


def _signs(like: Tensor, random: torch.Generator) -> Tensor:
    """Random signs, the same on every device."""
    return (2 * torch.randint(0, 2, like.shape, generator=random, dtype=torch.int8) - 1).to(like)


def _sums(values: Array, sizes: list[int]) -> Array:
    """Of each tensor's part of the entries."""
    return np.array([part.sum() for part in np.split(values, np.cumsum(sizes)[:-1])])
