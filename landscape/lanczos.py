"""The largest eigenvalues of a symmetric operator by Lanczos, each with a certificate.

Krylov basis V (M, P) with V V' = I, T = V A V'. Ritz pairs (lam, s) of T give y = V's with residual
||Ay - lam y|| = |beta s_M|, and at the end the true residual is measured by one more product for each pair.
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
from landscape.results import Array, Eigenpairs, Record

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
    finds nothing above the last one in 20 products (one start vector cannot see an eigenvalue's second copy).
    Running out of `max_matvecs`, which bounds all products, is a result, flagged. `basis_size` bounds the vectors
    held, `progress` gets the number of products so far.

    Raises:
        ValueError: If k is not in 1..size, tolerance not positive, or basis_size or max_matvecs too small.
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
    checks = _symmetry(counted, start, _random_unit(operator, random))
    basis = _iterate(counted, start, random, k, tolerance, max_matvecs - reserve, basis_size)
    values, vectors, residuals = _true_pairs(counted, basis.ritz_vectors(k))
    scale = max(np.abs(basis.ritz_values()).max(), np.abs(values).max())
    converged = residuals <= tolerance * scale
    above = _largest_beyond(counted, vectors, random)
    return Eigenpairs(
        values=values,
        vectors=vectors.numpy(force=True),
        residuals=residuals,
        converged=converged,
        complete=bool(above <= values[-1] + tolerance * scale),
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
        checks={**operator.checks, **checks, "orthogonality": basis.orthogonality(), "largest_beyond": above},
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
    """Orthonormal rows V[:num] with T = V A V', and what sticks out of the last product: beta * next."""

    vectors: Tensor  # (M, P)
    matrix: Array  # (M, M)
    num: int
    next: Tensor  # (P,) unit
    beta: float

    def ritz_values(self) -> Array:
        return self._decomposed()[0]

    def ritz_vectors(self, k: int) -> Tensor:
        rows = torch.as_tensor(self._decomposed()[1][:, :k].T.copy()).to(self.vectors)
        return rows @ self.vectors[: self.num]

    def residual_estimates(self, k: int) -> Array:
        return self.beta * np.abs(self._decomposed()[1][-1, :k])

    def orthogonality(self) -> float:
        """max |V V' - I|."""
        v = self.vectors[: self.num]
        return float((v @ v.T - torch.eye(self.num).to(v)).abs().max())

    def _decomposed(self) -> tuple[Array, Array]:
        values, vectors = eigh(self.matrix[: self.num, : self.num])
        return values[::-1], vectors[:, ::-1]


def _iterate(
    matvec: _Counted,
    start: Tensor,
    random: torch.Generator,
    k: int,
    tolerance: float,
    max_matvecs: int,
    basis_size: int,
) -> _Basis:
    basis = _Basis(start.new_zeros(basis_size, len(start)), np.zeros((basis_size, basis_size)), 0, start, 0.0)
    while True:
        _extend(basis, matvec, random)
        done = basis.num >= k and _converged(basis, k, tolerance)
        if done or matvec.count >= max_matvecs or basis.num == len(start):
            return basis
        if basis.num == basis_size:
            _restart(basis, keep=k + (basis_size - k) // 2)


def _extend(basis: _Basis, matvec: Matvec, random: torch.Generator) -> None:
    """One product: the next vector joins the basis, and what is new in its product becomes the next vector."""
    basis.vectors[basis.num] = basis.next
    basis.num += 1
    v = basis.vectors[: basis.num]
    w = matvec(basis.next)
    size = float(w.norm())
    w, coefficients = _orthogonalised(w, v)
    basis.matrix[: basis.num, basis.num - 1] = basis.matrix[basis.num - 1, : basis.num] = coefficients
    basis.beta = float(w.double().norm())
    if basis.beta <= 10 * torch.finfo(w.dtype).eps * size:  # an invariant subspace: go on with a new direction
        basis.beta = 0.0
        w, _ = _orthogonalised(_random_like(w, random), v)
    if basis.num < len(w):
        basis.next = w / w.norm()


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
    basis.num = keep


def _converged(basis: _Basis, k: int, tolerance: float) -> bool:
    scale = np.abs(basis.ritz_values()).max()
    return bool((basis.residual_estimates(k) <= _MARGIN * tolerance * scale).all())


def _true_pairs(matvec: _Counted, vectors: Tensor) -> tuple[Array, Tensor, Array]:
    """Rayleigh-Ritz on the span of `vectors` (K, P) with fresh products, and the residuals these show."""
    vectors = torch.linalg.qr(vectors.T)[0].T
    products = torch.stack([matvec(v) for v in vectors])
    projected = (vectors.double() @ products.double().T).numpy(force=True)
    values, rotation = eigh((projected + projected.T) / 2)
    rotated = torch.as_tensor(rotation[:, ::-1].T.copy()).to(vectors)
    vectors, products = rotated @ vectors, rotated @ products
    values = values[::-1].copy()
    residuals = products.double() - torch.as_tensor(values).to(vectors.device)[:, None] * vectors.double()
    return values, vectors, residuals.norm(dim=1).numpy(force=True)


def _largest_beyond(matvec: _Counted, vectors: Tensor, random: torch.Generator) -> float:
    """Largest Ritz value that a fresh start finds orthogonal to `vectors`; -inf where nothing is left."""
    size = vectors.shape[1]
    steps = min(COMPLETENESS_MATVECS, size - len(vectors))
    if steps == 0:
        return float("-inf")
    start, _ = _orthogonalised(_random_like(vectors[0], random), vectors)

    def deflated(v: Tensor) -> Tensor:
        return _orthogonalised(matvec(v), vectors)[0]

    basis = _Basis(start.new_zeros(steps, size), np.zeros((steps, steps)), 0, start / start.norm(), 0.0)
    for _ in range(steps):
        _extend(basis, deflated, random)
        if basis.beta == 0.0:
            break
    return float(basis.ritz_values()[0])


def _symmetry(matvec: _Counted, u: Tensor, v: Tensor) -> Record:
    hu, hv = matvec(u).double(), matvec(v).double()
    scale = float(torch.maximum(hu.norm(), hv.norm()))
    difference = abs(float(u.double() @ hv - v.double() @ hu))
    error = difference / scale if scale else 0.0
    return {"symmetry": error, "symmetric": error <= SYMMETRY_TOLERANCE[u.dtype]}


def _random_unit(operator: SymmetricOperator, random: torch.Generator) -> Tensor:
    like = torch.empty(operator.size, dtype=operator.dtype, device=operator.device)
    w = _random_like(like, random)
    norm: Tensor = w.norm()
    return w / norm


def _random_like(like: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=random, dtype=torch.float64).to(like.device, like.dtype)


def _check(operator: SymmetricOperator, k: int, tolerance: float, basis_size: int, budget: int) -> None:
    if not 1 <= k <= operator.size:
        raise ValueError(f"k must be in 1..{operator.size} (the operator's size), got {k}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    if basis_size < min(operator.size, k + 2):
        raise ValueError(f"basis_size must be at least k + 2 = {k + 2} to restart with, got {basis_size}")
    if budget < k + 2:
        needed = 2 * k + 2 + min(COMPLETENESS_MATVECS, operator.size - k)
        raise ValueError(f"max_matvecs must be at least {needed} for k = {k}: {k} + 2 to start, the rest to certify")
