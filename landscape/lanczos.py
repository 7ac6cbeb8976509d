"""Extreme eigenvalues of a symmetric operator by Lanczos, each with a certificate.

Ritz pairs (lam, y) come from a Krylov basis (`landscape.krylov`), thickly restarted when it is full; at the end the
true residual ||Ay - lam y|| is measured by one more product for each pair, with lengths in float64. One start vector
cannot see the second copy of an eigenvalue: a fresh start orthogonal to what was found looks for more, and what it
finds beyond the last pair joins the basis, which goes on with both.

Legend: P size of the operator, K pairs, M basis vectors (rows), R start vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh
from torch import Tensor

from landscape.krylov import (
    Basis,
    Counted,
    Progress,
    extend,
    go_on_beside,
    join,
    length,
    put_first,
    random_like,
    restart,
    run_beside,
    started,
    symmetry_checks,
)
from landscape.operators import SymmetricOperator
from landscape.results import Array, Eigenpairs, Record

Which = Literal["largest", "smallest", "both"]

COMPLETENESS_MATVECS = 20
_MARGIN = 0.9  # the iteration stops a little below the tolerance, so that rounding does not fail the true residual


def top_eigenpairs(
    operator: SymmetricOperator,
    k: int = 5,
    *,
    which: Which = "largest",
    tolerance: float = 1e-3,
    seed: int = 0,
    start: Tensor | npt.NDArray[np.floating] | None = None,
    max_matvecs: int | None = None,
    basis_size: int | None = None,
    basis_device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Eigenpairs:
    """The k algebraically largest eigenvalues, descending, with vectors (k, P), true residuals and flags.

    `which` is largest, smallest (the most negative ones) or both: k at each end from one basis; values always descend.
    A pair is converged when ||Av - lam v|| <= tolerance * max|lam|: an eigenvalue then lies within that residual of
    lam. That none was seen to be missed is a second flag, `complete`: a fresh random start orthogonal to the found
    vectors finds nothing beyond the last one, at either end that was asked for, within the residual of what it finds.
    It takes 20 products above a bulk, and goes on inside one, where residuals are large, while there are products.

    `start` (R, P) are vectors whose sum to begin with, those of a neighbouring checkpoint, in place of a random one.

    Running out of `max_matvecs`, which bounds all products, is a result, flagged. `basis_size` bounds the vectors held
    (one more for each that was missed at first; where there is no room for it, the result is not complete),
    `basis_device` says where ("cpu" keeps them out of a GPU's memory), `progress` gets the number of products so far.

    Raises:
        ValueError: If `which` is unknown, k not in 1..size, tolerance not in (0, 1), basis_size or max_matvecs too
            small, or `start` not of the operator's size, not finite, or zero.
        FloatingPointError: If a product is not finite.

    Example:
        >>> matrix = torch.diag(torch.arange(10.0, dtype=torch.float64))
        >>> operator = SymmetricOperator(lambda v: matrix @ v, 10, torch.float64)
        >>> pairs = top_eigenpairs(operator, k=3)
        >>> pairs.values.round(6).tolist(), pairs.converged.all().item(), pairs.complete
        ([9.0, 8.0, 7.0], True, True)
    """
    ends = _ends(operator.size, k, which)
    basis_size = min(operator.size, max(40, 4 * ends.num) if basis_size is None else basis_size)
    max_matvecs = max(200, 20 * ends.num) if max_matvecs is None else max_matvecs
    _check(operator, k, which, tolerance, basis_size, max_matvecs)
    reserve = _certificate_matvecs(operator.size, ends)
    counted = Counted(operator, progress, basis_device)
    random = torch.Generator().manual_seed(seed)
    rows = counted.rows(basis_size)
    basis = started(rows, random_like(rows[0], random) if start is None else _sum_of(start, rows))
    while True:
        _iterate(basis, counted, random, ends, tolerance, max_matvecs - reserve)
        scale, found = basis.scale(), ends.of(basis.num)
        rough = basis.ritz_vectors(found)
        last = _Last.of(basis.ritz_values()[found], ends, tolerance * scale)
        beyond = _look_beyond(counted, rough, random, last, max_matvecs - ends.num)
        missed = beyond.missed(last)
        if missed is None or counted.count >= max_matvecs - reserve or not _has_room(basis, ends):
            break
        restart(basis, found)
        join(basis, missed)
    values, vectors, residuals = _true_pairs(counted, rough)
    scale = max(scale, float(np.abs(values).max()))
    converged = residuals <= tolerance * scale
    return Eigenpairs(
        values=values,
        vectors=vectors.numpy(force=True),
        residuals=residuals,
        converged=converged,
        complete=beyond.excluded(last),
        num_matvecs=counted.count,
        loss=operator.loss,
        checkpoint=operator.checkpoint,
        settings={
            **operator.settings,
            "k": k,
            "which": which,
            "tolerance": tolerance,
            "seed": seed,
            "num_starts": 0 if start is None else len(start),
            "basis_size": basis_size,
            "max_matvecs": max_matvecs,
        },
        checks={
            **operator.checks,
            **symmetry_checks(basis.asymmetry, scale, operator.dtype),
            "orthogonality": basis.orthogonality(),
            **beyond.record(ends),
        },
    )


def least_matvecs(size: int, k: int, which: Which = "largest") -> int:
    """The smallest `max_matvecs` for an operator of this size: enough to start, and to certify what is there."""
    ends = _ends(size, k, which)
    return min(ends.num + 2, size) + _certificate_matvecs(size, ends)


@dataclass(frozen=True)
class _Ends:
    """How many pairs are wanted at each end of the spectrum."""

    top: int
    bottom: int

    @property
    def num(self) -> int:
        return self.top + self.bottom

    def of(self, num_values: int) -> list[int]:
        """Their places among so many descending values."""
        return [*range(self.top), *range(num_values - self.bottom, num_values)]

    def wider(self, extra: int) -> _Ends:
        """So many more, at the ends that are wanted, in proportion."""
        top = extra * self.top // self.num
        return _Ends(self.top + top, self.bottom + extra - top)


def _ends(size: int, k: int, which: Which) -> _Ends:
    if which not in get_args(Which):
        raise ValueError(f"which must be one of {get_args(Which)}, got {which!r}")
    if not 1 <= k <= size:
        raise ValueError(f"k must be in 1..{size} (the operator's size), got {k}")
    top = k if which != "smallest" else 0
    return _Ends(top, min(k, size - top) if which != "largest" else 0)


def _certificate_matvecs(size: int, ends: _Ends) -> int:
    """Products that certify pairs once: their residuals, and the look for others."""
    return ends.num + min(COMPLETENESS_MATVECS, size - ends.num)


def _iterate(
    basis: Basis, matvec: Counted, random: torch.Generator, ends: _Ends, tolerance: float, max_matvecs: int
) -> None:
    while basis.num < basis.held:
        if basis.held == len(basis.vectors) < basis.vectors.shape[1]:
            restart(basis, ends.wider((basis.num - ends.num) // 2).of(basis.num))
        extend(basis, matvec, random)
        if basis.num < ends.num:
            continue
        if _converged(basis, ends, tolerance) or matvec.count >= max_matvecs:
            return
        put_first(basis, ends.of(basis.num))


def _converged(basis: Basis, ends: _Ends, tolerance: float) -> bool:
    return bool((basis.residual_estimates(ends.of(basis.num)) <= _MARGIN * tolerance * basis.scale()).all())


def _has_room(basis: Basis, ends: _Ends) -> bool:
    """Whether a basis of the pairs, the rows that wait and one that joins them can still grow, or holds everything."""
    num_waiting = basis.held - basis.num
    return ends.num + num_waiting + 1 < len(basis.vectors) or len(basis.vectors) == basis.vectors.shape[1]


def _true_pairs(matvec: Counted, vectors: Tensor) -> tuple[Array, Tensor, Array]:
    """Rayleigh-Ritz on the span of `vectors` (K, P) with fresh products, and the residuals these show.

    All in float64, with the Gram matrix of the vectors: in float32 the length of a long vector is off by more than the
    residual (7e-4 at P = 1e7), and an eigenvalue by as much.
    """
    products = matvec.many(vectors).double()
    vectors = vectors.double()
    projected, gram = ((vectors @ m.T).numpy(force=True) for m in (products, vectors))
    values, rotation = eigh((projected + projected.T) / 2, gram)
    rotation = torch.as_tensor(rotation[:, ::-1].T.copy(), device=vectors.device)
    vectors, products = rotation @ vectors, rotation @ products  # of unit length: rotation' gram rotation = I
    values = values[::-1].copy()
    residuals = products - torch.as_tensor(values, device=vectors.device)[:, None] * vectors
    return values, vectors.to(matvec.operator.dtype), residuals.norm(dim=1).numpy(force=True)


@dataclass(frozen=True)
class _Last:
    """The values beyond which none may lie; inf and -inf at an end that was not asked for."""

    highest: float
    lowest: float

    @classmethod
    def of(cls, values: Array, ends: _Ends, margin: float) -> _Last:
        """Beyond the last of the pairs (K,) at each end by `margin`."""
        highest = float(values[ends.top - 1]) + margin if ends.top else float("inf")
        return cls(highest, float(values[ends.top]) - margin if ends.bottom else float("-inf"))


@dataclass(frozen=True)
class _Beyond:
    """The ends of what a fresh start saw orthogonal to the pairs; -inf, inf and no vectors where nothing is left."""

    largest: float
    smallest: float
    residuals: Array  # of the largest and of the smallest
    vectors: Tensor

    def missed(self, last: _Last) -> Tensor | None:
        """A vector whose value lies beyond."""
        if self.largest > last.highest:
            return self.vectors[0]
        return self.vectors[1] if self.smallest < last.lowest else None

    def excluded(self, last: _Last) -> bool:
        """Whether none lies beyond, within the residuals too: inside a bulk these are large."""
        above, below = map(float, self.residuals)
        return self.largest + above <= last.highest and self.smallest - below >= last.lowest

    def record(self, ends: _Ends) -> Record:
        above, below = map(float, self.residuals)
        top: Record = {"largest_beyond": self.largest, "largest_beyond_residual": above}
        bottom: Record = {"smallest_beyond": self.smallest, "smallest_beyond_residual": below}
        return {**(top if ends.top else {}), **(bottom if ends.bottom else {})}


def _look_beyond(matvec: Counted, vectors: Tensor, random: torch.Generator, last: _Last, max_matvecs: int) -> _Beyond:
    """20 products, and on, in the memory of these, until one is seen beyond, or excluded, or products have run out."""
    if len(vectors) == vectors.shape[1]:
        return _Beyond(float("-inf"), float("inf"), np.zeros(2), vectors[:0])
    basis = run_beside(vectors, matvec, COMPLETENESS_MATVECS, random)
    while True:
        values, ends = basis.ritz_values(), [0, basis.num - 1]
        beyond = _Beyond(float(values[0]), float(values[-1]), basis.residual_estimates(ends), basis.ritz_vectors(ends))
        steps = min(COMPLETENESS_MATVECS // 2, max_matvecs - matvec.count)
        if (
            steps < 1
            or basis.num + len(vectors) == vectors.shape[1]
            or beyond.missed(last) is not None
            or beyond.excluded(last)
        ):
            return beyond
        restart(basis, _Ends(1, 1).wider(COMPLETENESS_MATVECS // 2 - 2).of(basis.num))
        go_on_beside(basis, vectors, matvec, steps, random)


def _sum_of(start: Tensor | npt.NDArray[np.floating], rows: Tensor) -> Tensor:
    found = torch.as_tensor(start)
    if found.ndim != 2 or found.shape[1] != rows.shape[1]:
        raise ValueError(f"start must be vectors as rows, (any number, {rows.shape[1]}), got {tuple(found.shape)}")
    total = found.to(rows).sum(0)
    if not 0 < length(total) < float("inf"):
        raise ValueError(f"start must have a finite sum that is not zero, got one of length {length(total)}")
    return total


def _check(
    operator: SymmetricOperator, k: int, which: Which, tolerance: float, basis_size: int, max_matvecs: int
) -> None:
    num, least = _ends(operator.size, k, which).num, least_matvecs(operator.size, k, which)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be above 0 and below 1, got {tolerance}")
    if basis_size < min(operator.size, num + 2):
        needed = "k" if num == k else "2 k"
        raise ValueError(f"basis_size must be at least {needed} + 2 = {num + 2} to restart with, got {basis_size}")
    if max_matvecs < least:
        raise ValueError(f"max_matvecs must be at least {least} for k = {k} ({which}), certified; got {max_matvecs}")
