"""An orthonormal basis that grows by one product at a time, and the operator as the basis sees it.

Rows V (M, P) with V V' = I. Of the `held` rows the first `num` were multiplied, A v_j = sum_i T_ij v_i over all that
are held: T[:num, :num] is V A V', and the rows that wait, one and one more for each direction that joined, hold what
sticks out of it. A Ritz pair (lam, s) of T[:num, :num] gives y = V's with residual
||Ay - lam y|| = ||T[num:held, :num] s||.

Every new row is orthogonalised against all others, twice (Giraud et al. 2005, doi:10.1007/s00211-005-0615-4: twice
is enough); without this, converged eigenvalues come back as copies. When the basis is full, the best Ritz vectors
start the next one (thick restart, Wu & Simon 2000, doi:10.1137/S0895479898334605).

Legend: P size of the operator, K pairs, M rows that the basis has room for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from landscape.operators import SymmetricOperator
from landscape.results import Array, Record

SYMMETRY_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-10}
_NEW = 1e-3  # the length of what is new in a unit vector, from which it is a direction of its own

Progress = Callable[[int], None]
Matvec = Callable[[Tensor], Tensor]


class Counted:
    """The operator's product when called, counted, and refused when it is not finite.

    Vectors come from and go to `device`, which may be another than the operator's: a basis in the host's memory.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        progress: Progress | None,
        device: torch.device | str | None = None,
        *,
        count: int = 0,
    ) -> None:
        self.operator, self.progress, self.count = operator, progress, count
        self.home = torch.empty(0, device=operator.device).device
        self.device = self.home if device is None else torch.device(device)

    def __call__(self, v: Tensor) -> Tensor:  # noqa: D102 - said by the class
        return self._counted(self.operator.matvec(v.to(self.home)))

    def many(self, vectors: Tensor) -> Tensor:
        """The products with the rows of `vectors` (K, P), in one pass where the operator has one for several."""
        if self.operator.matvecs is None:
            return torch.stack([self(v) for v in vectors])
        products = self.operator.matvecs(vectors.to(self.home))
        return torch.stack([self._counted(product) for product in products])

    def _counted(self, product: Tensor) -> Tensor:
        self.count += 1
        if self.progress is not None:
            self.progress(self.count)
        if not bool(product.isfinite().all()):
            raise FloatingPointError(f"product {self.count} with the operator is not finite (overflow, or NaN weights)")
        return product.to(self.device)

    def rows(self, num: int) -> Tensor:
        """Zeros (num, P), where vectors are kept."""
        return torch.zeros(num, self.operator.size, dtype=self.operator.dtype, device=self.device)


@dataclass
class Basis:
    """Orthonormal rows and the operator's projection on them: V and T of the module's docstring.

    A symmetric A has T_ij = T_ji, each known twice, from the products with v_j and v_i: `asymmetry` is the largest
    difference seen. For random vectors in place of the rows the same test would lose its power with the size of A.
    """

    vectors: Tensor  # (M, P)
    matrix: Array  # (M, M); NaN where not measured yet
    held: int
    num: int = 0
    asymmetry: float = float("nan")  # until an entry was known twice
    largest: float = 0.0  # |Ritz value| before the last restart

    def scale(self) -> float:
        """The largest |Ritz value| so far: a restart may drop its vector."""
        return max(self.largest, float(np.abs(self.ritz_values()).max()))

    def ritz_values(self) -> Array:
        """Eigenvalues (num,) of T, descending."""
        return self._decomposed()[0]

    def ritz_vectors(self, places: Sequence[int]) -> Tensor:
        """Of the Ritz values at these places, the vectors as rows."""
        rows = torch.as_tensor(self._decomposed()[1][:, places].T.copy()).to(self.vectors)
        return rows @ self.vectors[: self.num]

    def residual_estimates(self, places: Sequence[int]) -> Array:
        """||Ay - lam y|| of the Ritz pairs at these places, without a product."""
        return np.asarray(np.linalg.norm(self.outside(places), axis=0))

    def outside(self, places: Sequence[int]) -> Array:
        """Ay - lam y of the Ritz pairs at these places, in the rows that wait (held - num, K)."""
        return np.asarray(self.matrix[self.num : self.held, : self.num] @ self._decomposed()[1][:, places])

    def quadrature(self) -> tuple[Array, Array]:
        """Nodes and weights (num,): of f(A) the first row sees sum(weight * f(node)), and the weights sum to 1."""
        values, vectors = self._decomposed()
        return values, vectors[0] ** 2

    def orthogonality(self) -> float:
        """max |V V' - I| of the rows multiplied, summed in float64, a piece of the long dimension at a time."""
        pieces = (piece.double() for piece in torch.split(self.vectors[: self.num], 1 << 18, dim=1))
        gram = torch.stack([piece @ piece.T for piece in pieces]).sum(0)
        return float((gram - torch.eye(self.num).to(gram)).abs().max())

    def _decomposed(self) -> tuple[Array, Array]:
        values, vectors = eigh(self.matrix[: self.num, : self.num])
        return values[::-1], vectors[:, ::-1]


def started(rows: Tensor, direction: Tensor) -> Basis:
    """A basis in the memory of `rows` (M, P), in which `direction` waits."""
    basis = Basis(rows, np.full((len(rows), len(rows)), np.nan), held=0)
    wait(basis, direction)
    return basis


def wait(basis: Basis, direction: Tensor) -> None:
    """Let what is new in `direction`, to which no row multiplied is coupled, wait."""
    w, _ = orthogonalised(direction, basis.vectors[: basis.held])
    basis.vectors[basis.held] = w / length(w)
    basis.matrix[basis.held, : basis.num] = basis.matrix[: basis.num, basis.held] = 0.0
    basis.held += 1


def extend(basis: Basis, matvec: Matvec, random: torch.Generator) -> bool:
    """One product, with the first row that waits; what is new in it waits last. False where nothing was new.

    Where no row waits then, a random one goes on, beside this invariant subspace.
    """
    place, held = basis.num, basis.held
    w = matvec(basis.vectors[place])
    size = length(w)
    w, coefficients = orthogonalised(w, basis.vectors[:held])
    differences = np.abs(coefficients[:place] - basis.matrix[place, :place])
    basis.asymmetry = float(np.fmax(basis.asymmetry, np.fmax.reduce(differences, initial=np.nan)))
    basis.matrix[:held, place] = basis.matrix[place, :held] = coefficients
    basis.num += 1
    beta = length(w)
    new = held < len(w) and beta > 10 * torch.finfo(w.dtype).eps * size
    if new:
        basis.vectors[held] = w / beta
        basis.matrix[held, : place + 1] = basis.matrix[: place + 1, held] = 0.0
        basis.matrix[held, place] = basis.matrix[place, held] = beta
        basis.held += 1
    elif basis.num == held < len(w):
        wait(basis, random_like(w, random))
    return new


def restart(basis: Basis, places: Sequence[int]) -> None:
    """Go on with the Ritz vectors at these places, and with the rows that wait."""
    kept, values, coupling = basis.ritz_vectors(places), basis.ritz_values()[places], basis.outside(places)
    waiting, basis.largest = basis.vectors[basis.num : basis.held].clone(), basis.scale()
    num, held = len(places), len(places) + len(waiting)
    basis.vectors[:num], basis.vectors[num:held] = kept, waiting
    basis.matrix[:] = np.nan
    basis.matrix[:num, :num] = np.diag(values)
    basis.matrix[num:held, :num], basis.matrix[:num, num:held] = coupling, coupling.T
    basis.num, basis.held = num, held


def join(basis: Basis, direction: Tensor) -> None:
    """Multiply next what the rows multiplied do not hold of a unit vector: to none of them is it coupled."""
    new, _ = orthogonalised(direction, basis.vectors[: basis.held])
    if length(new) > _NEW:
        wait(basis, new / length(new))
    _turn(basis, (basis.vectors[basis.num : basis.held] @ direction).double().numpy(force=True))


def put_first(basis: Basis, places: Sequence[int]) -> None:
    """Multiply next, of what the rows that wait hold, the largest residual of the Ritz pairs at these places."""
    outside = basis.outside(places)
    _turn(basis, outside[:, np.linalg.norm(outside, axis=0).argmax()])


def _turn(basis: Basis, direction: Array) -> None:
    """Reflect the rows that wait such that the first is along `direction`, in their coordinates (Householder)."""
    num, held = basis.num, basis.held
    if held <= num + 1 or not direction.any():
        return
    u = direction / np.linalg.norm(direction)
    u[0] += np.copysign(1.0, u[0])
    reflection = np.eye(held - num) - 2 / (u @ u) * np.outer(u, u)
    basis.vectors[num:held] = torch.as_tensor(reflection).to(basis.vectors) @ basis.vectors[num:held]
    basis.matrix[num:held, :num] = reflection @ basis.matrix[num:held, :num]
    basis.matrix[:num, num:held] = basis.matrix[num:held, :num].T


def run_beside(vectors: Tensor, matvec: Counted, steps: int, random: torch.Generator) -> Basis:
    """Lanczos from a random unit vector (uniform on the sphere) in the space orthogonal to `vectors` (K, P).

    That is on Q A Q, Q = I - Y'Y. It ends before `steps` products where the space that one vector reaches does.
    """
    size = vectors.shape[1]
    start, _ = orthogonalised(random_like(vectors.new_empty(size), random), vectors)
    basis = started(matvec.rows(min(steps + 1, size)), start)

    go_on_beside(basis, vectors, matvec, min(steps, size - len(vectors)), random)
    return basis


def go_on_beside(basis: Basis, vectors: Tensor, matvec: Counted, steps: int, random: torch.Generator) -> None:
    """So many products more of `run_beside`, fewer where nothing is new."""

    def deflated(v: Tensor) -> Tensor:
        return orthogonalised(matvec(v), vectors)[0]

    for _ in range(steps):
        if not extend(basis, deflated, random):
            break
        # rounding leaks the found vectors in, on which the deflated operator is 0: above any negative eigenvalue
        w, _ = orthogonalised(basis.vectors[basis.num], vectors)
        basis.vectors[basis.num] = w / length(w)


def symmetry_checks(asymmetry: float, scale: float, dtype: torch.dtype) -> Record:
    """How far from symmetric the operator was seen to be, relative to its size; where it was not seen NaN, no flag."""
    relative = asymmetry / scale if scale else asymmetry
    if math.isnan(relative):
        return {"symmetry": relative}
    return {"symmetry": relative, "symmetric": not relative > SYMMETRY_TOLERANCE[dtype]}


def orthogonalised(w: Tensor, v: Tensor) -> tuple[Tensor, Array]:
    """What is orthogonal to the rows of v (M, P) in w, and the coefficients (M,) of the rest, in two passes."""
    first = v @ w
    w = w - first @ v
    second = v @ w
    return w - second @ v, (first.double() + second.double()).numpy(force=True)


def length(v: Tensor) -> float:
    """The 2-norm, summed in float64."""
    return float(v.double().norm())


def random_like(like: Tensor, random: torch.Generator) -> Tensor:
    """Gaussian numbers, the same on every device."""
    return torch.randn(like.shape, generator=random, dtype=torch.float64).to(like.device, like.dtype)


def stream(seed: int, purpose: str) -> torch.Generator:
    """Random numbers of their own for each seed and purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
