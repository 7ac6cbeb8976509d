"""The largest eigenvalues of a symmetric operator by Lanczos, each with a certificate.

Krylov basis V (M, P) with V V' = I, T = V A V'. Ritz pairs (lam, s) of T give y = V's with residual
||Ay - lam y|| = |beta s_M|, and at the end the true residual is measured by one more product for each pair, with
lengths in float64. One start vector cannot see the second copy of an eigenvalue: a fresh start orthogonal to what was
found looks for more, and what it finds above the last pair joins the basis.

Every new vector is orthogonalised against all others, twice (Giraud et al. 2005, doi:10.1007/s00211-005-0615-4: twice
is enough); without this, converged eigenvalues come back as copies. When the basis is full, the best Ritz vectors
start the next one (thick restart, Wu & Simon 2000, doi:10.1137/S0895479898334605).

Legend: P size of the operator, K pairs, M basis vectors (rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from landscape.operators import SymmetricOperator
from landscape.results import Array, Eigenpairs

COMPLETENESS_MATVECS = 20
SYMMETRY_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-10}
_MARGIN = 0.9  # the iteration stops a little below the tolerance, so that rounding does not fail the true residual

Progress = Callable[[int], None]
Matvec = Callable[[Tensor], Tensor]


def top_eigenpairs(
    operator: SymmetricOperator,
    k: int = 5,
    *,
    tolerance: float = 1e-3,
    seed: int = 0,
    max_matvecs: int | None = None,
    basis_size: int | None = None,
    progress: Progress | None = None,
) -> Eigenpairs:
    """The k algebraically largest eigenvalues, descending, with vectors (k, P), true residuals and flags.

    A pair is converged when ||Av - lam v|| <= tolerance * max|lam|: an eigenvalue then lies within that residual of
    lam. That none was missed is a second flag, `complete`: a fresh random start orthogonal to the found vectors
    finds nothing above the last one in 20 products. Running out of `max_matvecs`, which bounds all products, is a
    result, flagged. `basis_size` bounds the vectors held, `progress` gets the number of products so far.

    Raises:
        ValueError: If k is not in 1..size, tolerance not in (0, 1), or basis_size or max_matvecs too small.
        FloatingPointError: If a product is not finite.

    Example:
        >>> matrix = torch.diag(torch.arange(10.0, dtype=torch.float64))
        >>> operator = SymmetricOperator(lambda v: matrix @ v, 10, torch.float64)
        >>> pairs = top_eigenpairs(operator, k=3)
        >>> pairs.values.round(6).tolist(), pairs.converged.all().item(), pairs.complete
        ([9.0, 8.0, 7.0], True, True)
    """
    basis_size = min(operator.size, max(40, 4 * k) if basis_size is None else basis_size)
    max_matvecs = max(200, 20 * k) if max_matvecs is None else max_matvecs
    reserve = k + min(COMPLETENESS_MATVECS, operator.size - k)  # for the residuals and for completeness
    _check(operator, k, tolerance, basis_size, max_matvecs - reserve)
    counted = _Counted(operator, progress)
    random = torch.Generator().manual_seed(seed)
    start = _random_unit(operator, random)
    basis = _Basis(start.new_zeros(basis_size, operator.size), np.zeros((basis_size, basis_size)), start)
    while True:
        _iterate(basis, counted, random, k, tolerance, max_matvecs - reserve)
        values, vectors, residuals = _true_pairs(counted, basis.ritz_vectors(k))
        scale = max(np.abs(basis.ritz_values()).max(), np.abs(values).max())
        above, found = _largest_beyond(counted, vectors, random)
        complete = above <= values[-1] + tolerance * scale
        if complete or found is None or counted.count > max_matvecs - 2 * reserve:
            break
        _join(basis, found, keep=k)
    converged = residuals <= tolerance * scale
    asymmetry = float(basis.asymmetry / scale) if scale else basis.asymmetry
    return Eigenpairs(
        values=values,
        vectors=vectors.numpy(force=True),
        residuals=residuals,
        converged=converged,
        complete=bool(complete),
        num_matvecs=counted.count,
        loss=operator.loss,
        checkpoint=operator.checkpoint,
        settings={
            **operator.settings,
            "k": k,
            "tolerance": tolerance,
            "seed": seed,
            "basis_size": basis_size,
            "max_matvecs": max_matvecs,
        },
        checks={
            **operator.checks,
            "symmetry": asymmetry,
            "symmetric": not asymmetry > SYMMETRY_TOLERANCE[operator.dtype],
            "orthogonality": basis.orthogonality(),
            "largest_beyond": above,
        },
    )


class _Counted:
    """The operator's product, counted, and refused when it is not finite."""

    def __init__(self, operator: SymmetricOperator, progress: Progress | None) -> None:
        self.operator, self.progress, self.count = operator, progress, 0

    def __call__(self, v: Tensor) -> Tensor:
        product = self.operator.matvec(v)
        self.count += 1
        if self.progress is not None:
            self.progress(self.count)
        if not bool(product.isfinite().all()):
            raise FloatingPointError(f"product {self.count} with the operator is not finite (overflow, or NaN weights)")
        return product


@dataclass
class _Basis:
    """Orthonormal rows V[:num] with T = V A V', and what sticks out of the last product: beta * next.

    In A v = ... + beta next, a symmetric A has v' A next = beta too: `asymmetry` is the largest difference seen. For
    random vectors in place of v and next the same test would lose its power with the size of A.
    """

    vectors: Tensor  # (M, P)
    matrix: Array  # (M, M)
    next: Tensor  # (P,) unit
    num: int = 0
    beta: float = 0.0
    chained: bool = False  # `next` came out of the last product
    asymmetry: float = float("nan")  # until two neighbours were seen

    def ritz_values(self) -> Array:
        return self._decomposed()[0]

    def ritz_vectors(self, k: int) -> Tensor:
        rows = torch.as_tensor(self._decomposed()[1][:, :k].T.copy()).to(self.vectors)
        return rows @ self.vectors[: self.num]

    def residual_estimates(self, k: int) -> Array:
        return self.beta * np.abs(self._decomposed()[1][-1, :k])

    def orthogonality(self) -> float:
        """max |V V' - I|, summed in float64, a piece of the long dimension at a time."""
        pieces = (piece.double() for piece in torch.split(self.vectors[: self.num], 1 << 18, dim=1))
        gram = torch.stack([piece @ piece.T for piece in pieces]).sum(0)
        return float((gram - torch.eye(self.num).to(gram)).abs().max())

    def _decomposed(self) -> tuple[Array, Array]:
        values, vectors = eigh(self.matrix[: self.num, : self.num])
        return values[::-1], vectors[:, ::-1]


def _iterate(
    basis: _Basis, matvec: _Counted, random: torch.Generator, k: int, tolerance: float, max_matvecs: int
) -> None:
    while basis.num < len(basis.next):
        if basis.num == len(basis.vectors):
            _restart(basis, keep=k + (len(basis.vectors) - k) // 2)
        _extend(basis, matvec, random)
        if basis.num >= k and (_converged(basis, k, tolerance) or matvec.count >= max_matvecs):
            return


def _extend(basis: _Basis, matvec: Matvec, random: torch.Generator) -> None:
    """One product: the next vector joins the basis, and what is new in its product becomes the next vector."""
    basis.vectors[basis.num] = basis.next
    basis.num += 1
    v = basis.vectors[: basis.num]
    w = matvec(basis.next)
    size = _length(w)
    w, coefficients = _orthogonalised(w, v)
    if basis.chained:
        basis.asymmetry = float(np.fmax(basis.asymmetry, abs(float(coefficients[-2]) - basis.beta)))
    basis.matrix[: basis.num, basis.num - 1] = basis.matrix[basis.num - 1, : basis.num] = coefficients
    basis.beta = _length(w)
    basis.chained = basis.beta > 10 * torch.finfo(w.dtype).eps * size
    if not basis.chained:  # an invariant subspace: go on with a new direction
        basis.beta = 0.0
        w, _ = _orthogonalised(_random_like(w, random), v)
    if basis.num < len(w):
        basis.next = w / _length(w)


def _orthogonalised(w: Tensor, v: Tensor) -> tuple[Tensor, Array]:
    first = v @ w
    w = w - first @ v
    second = v @ w
    return w - second @ v, (first.double() + second.double()).numpy(force=True)


def _restart(basis: _Basis, keep: int) -> None:
    kept, values = basis.ritz_vectors(keep), basis.ritz_values()[:keep]
    basis.vectors[:keep] = kept
    basis.matrix[:] = 0.0
    basis.matrix[range(keep), range(keep)] = values  # the coupling to `next` comes out of its product
    basis.num, basis.chained = keep, False


def _join(basis: _Basis, found: Tensor, keep: int) -> None:
    """Go on from the `keep` best Ritz vectors and a direction that the basis had not seen."""
    _restart(basis, keep)
    w, _ = _orthogonalised(found, basis.vectors[:keep])
    basis.next, basis.beta = w / _length(w), 0.0


def _converged(basis: _Basis, k: int, tolerance: float) -> bool:
    scale = np.abs(basis.ritz_values()).max()
    return bool((basis.residual_estimates(k) <= _MARGIN * tolerance * scale).all())


def _true_pairs(matvec: _Counted, vectors: Tensor) -> tuple[Array, Tensor, Array]:
    """Rayleigh-Ritz on the span of `vectors` (K, P) with fresh products, and the residuals these show.

    All in float64, with the Gram matrix of the vectors: in float32 the length of a long vector is off by more than the
    residual (7e-4 at P = 1e7), and an eigenvalue by as much.
    """
    products = torch.stack([matvec(v) for v in vectors]).double()
    vectors = vectors.double()
    projected, gram = ((vectors @ m.T).numpy(force=True) for m in (products, vectors))
    values, rotation = eigh((projected + projected.T) / 2, gram)
    rotation = torch.as_tensor(rotation[:, ::-1].T.copy(), device=vectors.device)
    vectors, products = rotation @ vectors, rotation @ products  # of unit length: rotation' gram rotation = I
    values = values[::-1].copy()
    residuals = products - torch.as_tensor(values, device=vectors.device)[:, None] * vectors
    return values, vectors.to(matvec.operator.dtype), residuals.norm(dim=1).numpy(force=True)


def _largest_beyond(matvec: _Counted, vectors: Tensor, random: torch.Generator) -> tuple[float, Tensor | None]:
    """Largest Ritz value, with its vector, that a fresh start finds orthogonal to `vectors`; -inf where nothing is."""
    size = vectors.shape[1]
    steps = min(COMPLETENESS_MATVECS, size - len(vectors))
    if steps == 0:
        return float("-inf"), None
    start, _ = _orthogonalised(_random_like(vectors[0], random), vectors)

    def deflated(v: Tensor) -> Tensor:
        return _orthogonalised(matvec(v), vectors)[0]

    basis = _Basis(start.new_zeros(steps, size), np.zeros((steps, steps)), start / _length(start))
    for _ in range(steps):
        _extend(basis, deflated, random)
        if not basis.chained:
            break
        # rounding leaks the found vectors in, on which the deflated operator is 0: above any negative eigenvalue
        w, _ = _orthogonalised(basis.next, vectors)
        basis.next = w / _length(w)
    return float(basis.ritz_values()[0]), basis.ritz_vectors(1)[0]


def _length(v: Tensor) -> float:
    return float(v.double().norm())


def _random_unit(operator: SymmetricOperator, random: torch.Generator) -> Tensor:
    like = torch.empty(operator.size, dtype=operator.dtype, device=operator.device)
    w = _random_like(like, random)
    return w / _length(w)


def _random_like(like: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=random, dtype=torch.float64).to(like.device, like.dtype)


def _check(operator: SymmetricOperator, k: int, tolerance: float, basis_size: int, budget: int) -> None:
    if not 1 <= k <= operator.size:
        raise ValueError(f"k must be in 1..{operator.size} (the operator's size), got {k}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be above 0 and below 1, got {tolerance}")
    if basis_size < min(operator.size, k + 2):
        raise ValueError(f"basis_size must be at least k + 2 = {k + 2} to restart with, got {basis_size}")
    if budget < k + 2:
        needed = 2 * k + 2 + min(COMPLETENESS_MATVECS, operator.size - k)
        raise ValueError(f"max_matvecs must be at least {needed} for k = {k}: {k} + 2 to start, the rest to certify")
