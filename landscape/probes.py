"""Random probes of an operator beside the eigenpairs that are known: what they see of it.

Y (K, P) are converged Ritz vectors, Q = I - Y'Y, n = P - K. A probe v is uniform on the unit sphere of Q's range, so
that n v'Av has the mean trace(QAQ), and n ||QAv||^2 the mean ||QAQ||_F^2. Of two of them, n^2 (u'Av - v'Au)^2 has the
mean ||Q(A - A')Q||_F^2: whether A is symmetric, relative to ||A||_F, costs no product.

Legend: P size of the operator, K pairs, V probes, M Lanczos steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.krylov import Counted, length, orthogonalised, random_like, run_beside, stream, symmetry_checks
from landscape.operators import SymmetricOperator
from landscape.results import Array, Eigenpairs, Record

AT_ONCE = 8  # probes whose products share a pass, where the operator has one for several


@dataclass(frozen=True, eq=False)
class KnownPairs:
    """The converged pairs that probes are orthogonal to."""

    values: Array  # (K,)
    residuals: Array  # (K,)
    vectors: Tensor  # (K, P)

    @property
    def num(self) -> int:
        """K."""
        return len(self.values)


def known_pairs(operator: SymmetricOperator, pairs: Eigenpairs | None) -> KnownPairs:
    """The converged ones of `pairs`.

    Raises:
        ValueError: If they have no vectors, or are those of another operator.
    """
    empty = torch.empty(0, operator.size, dtype=operator.dtype)
    if pairs is None:
        return KnownPairs(np.empty(0), np.empty(0), empty)
    kept = np.flatnonzero(pairs.converged)
    vectors = torch.as_tensor(vectors_of(operator, pairs)[kept]).to(empty)
    return KnownPairs(pairs.values[kept], pairs.residuals[kept], vectors)


def vectors_of(operator: SymmetricOperator, pairs: Eigenpairs) -> npt.NDArray[np.floating]:
    """The vectors (K, P) of pairs that are the operator's.

    Raises:
        ValueError: If they have no vectors, or are those of another operator.
    """
    if pairs.vectors is None:
        raise ValueError("these pairs were kept without their vectors: take them from top_eigenpairs itself")
    differing = [] if pairs.vectors.shape[1] == operator.size else ["size"]
    for name in ("hash", "operator", "kind", "seed_of_labels", "batch_norm", "data_hash", "kept_hash"):
        found = [{**one.checkpoint, **one.settings}.get(name) for one in (pairs, operator)]
        differing += [name] if None not in found and found[0] != found[1] else []
    if differing:
        raise ValueError(f"these pairs are of another operator, they differ in: {', '.join(differing)}")
    return pairs.vectors


@dataclass(frozen=True, eq=False)
class Probes:
    """What V probes saw: v'Av and ||QAv||^2 and, of Lanczos runs, nodes and weights."""

    counted: Counted
    known: KnownPairs
    first: Array  # (V,)
    second: Array  # (V,)
    nodes: Array  # (V, M)
    weights: Array  # (V, M)
    num_matvecs: int  # of the probes alone
    checks: Record  # the operator's, and whether it is symmetric

    @property
    def operator(self) -> SymmetricOperator:
        """What was probed."""
        return self.counted.operator

    @property
    def num_left(self) -> int:
        """n, the dimensions beside the pairs."""
        return self.operator.size - self.known.num


def lanczos_probes(counted: Counted, known: KnownPairs, num_probes: int, num_steps: int, seed: int) -> Probes:
    """Probes of `num_steps` products each; where a run ends early, its last node is repeated with weight 0."""
    vectors, random, before = known.vectors.to(counted.device), stream(seed, "density"), counted.count
    num_left = counted.operator.size - known.num
    num_steps, num_probes = min(num_steps, num_left), num_probes if num_left else 0
    moments, asymmetry = np.empty((num_probes, 2)), float("nan")
    nodes, weights = np.empty((num_probes, num_steps)), np.zeros((num_probes, num_steps))
    for place in range(num_probes):
        basis = run_beside(vectors, counted, num_steps, random)
        column = basis.matrix[: basis.held, 0]  # the product with the probe, as the basis sees it
        moments[place] = column[0], column @ column
        asymmetry = float(np.fmax(asymmetry, basis.asymmetry))
        found, share = basis.quadrature()
        nodes[place] = np.pad(found, (0, num_steps - basis.num), mode="edge")
        weights[place, : basis.num] = share
    scale = float(np.abs([*nodes.ravel(), *known.values]).max(initial=0.0))
    checks = {**counted.operator.checks, **symmetry_checks(asymmetry, scale, counted.operator.dtype)}
    used = counted.count - before
    return Probes(counted, known, moments[:, 0], moments[:, 1], nodes, weights, used, checks)


def product_probes(counted: Counted, known: KnownPairs, num_probes: int, seed: int) -> Probes:
    """Probes of one product each."""
    vectors, before = known.vectors.to(counted.device), counted.count
    moments = np.empty((num_probes if counted.operator.size > known.num else 0, 2))
    random, differences = stream(seed, "trace"), list[float]()
    for first in range(0, len(moments), AT_ONCE):
        probes = torch.stack([*unit_probes(vectors, min(AT_ONCE, len(moments) - first), random)])
        products = counted.many(probes)
        differences += pair_differences(probes, products)
        for place, (v, product) in enumerate(zip(probes, products, strict=True), start=first):
            w, _ = orthogonalised(product, vectors)
            moments[place] = dot(v, w), dot(w, w)
    none, num_left = np.empty((len(moments), 0)), counted.operator.size - known.num
    checks = seen_symmetry(counted.operator, num_left * np.array(differences), num_left * moments[:, 1], known.values)
    used = counted.count - before
    return Probes(counted, known, moments[:, 0], moments[:, 1], none, none, used, checks)


def whole_matrix(counted: Counted) -> tuple[Array, Record]:
    """The operator itself (P, P), where P products are few, and its checks."""
    rows = counted.rows(counted.operator.size)
    rows.fill_diagonal_(1.0)
    products = torch.cat([counted.many(some) for some in torch.split(rows, AT_ONCE)])
    matrix = products.double().numpy(force=True)
    asymmetry, scale = (float(np.linalg.norm(part)) for part in (matrix - matrix.T, matrix))
    return matrix, {**counted.operator.checks, **symmetry_checks(asymmetry, scale, counted.operator.dtype)}


def pair_differences(probes: Tensor, products: Tensor) -> list[float]:
    """u'Av - v'Au for each two of the probes (V, P)."""
    seen = _products(probes, products)
    found: list[float] = (seen - seen.T)[np.triu_indices(len(seen), 1)].tolist()
    return found


def seen_symmetry(operator: SymmetricOperator, differences: Array, squares: Array, values: Array) -> Record:
    """The operator's checks, and ||A - A'||_F / ||A||_F as far as probes of length sqrt(n) saw it.

    `differences` are u'Av - v'Au, `squares` ||Av||^2, beside the known `values`; NaN where there was one probe. The
    ratio does not shrink with n, as u'Av over the largest eigenvalue would, and rounding leaves it near epsilon.
    """
    asymmetry = float(np.mean(differences**2)) ** 0.5 if len(differences) else float("nan")
    scale = float((values**2).sum() + squares.sum() / max(len(squares), 1)) ** 0.5
    return {**operator.checks, **symmetry_checks(asymmetry, scale, operator.dtype)}


def xtrace_samples(counted: Counted, known: KnownPairs, num_probes: int, seed: int) -> tuple[Array, Record]:
    """Samples (V,) whose mean is the XTrace estimate of trace(QAQ), and whose spread is its jackknife error; checks.

    XTrace (Epperly, Tropp & Webber 2024, arXiv:2301.07825, section 2.1): the trace on the range of A times the
    probes but one, and that one's on what is left, averaged over which it is. Two products for each probe. The averaged
    numbers depend on each other, and their spread is up to 1.5 times too small where eigenvalues decay slowly; so the
    error is that of leaving out each probe altogether, which is not too small in expectation (Efron & Stein 1981,
    doi:10.1214/aos/1176345462).
    """
    vectors, num_left = known.vectors.to(counted.device), counted.operator.size - known.num
    num_probes = min(num_probes, num_left)
    probes = torch.stack([*unit_probes(vectors, num_probes, stream(seed, "trace"))]) * num_left**0.5
    products = torch.stack([orthogonalised(y, vectors)[0] for y in counted.many(probes)])
    curvatures = np.array([dot(o, y) for o, y in zip(probes, products, strict=True)])
    differences, squares = np.array(pair_differences(probes, products)), np.array([dot(y, y) for y in products])
    checks = seen_symmetry(counted.operator, differences, squares, known.values)
    basis, triangle = torch.linalg.qr(products.T)
    del products  # as long as the model, each of them
    seen = _Seen(
        num_left,
        projected=_products(basis.T, counted.many(basis.T)),
        probes=_products(basis.T, probes),
        products=np.asarray(triangle.double().numpy(force=True)),
        curvatures=curvatures,
    )
    value = seen.xtrace()
    if num_probes == 1:
        return np.array([value]), checks
    without = np.array([seen.without(place).xtrace() for place in range(num_probes)])
    return value + (num_probes - 1) * (without.mean() - without), checks


@dataclass(frozen=True, eq=False)
class _Seen:
    """Probes o_i of length sqrt(n), their products and the operator in coordinates of U, orthonormal, with AO = UR."""

    num_left: int  # n
    projected: Array  # (V, V) U'AU
    probes: Array  # (V, V) U'O
    products: Array  # (V, V) R
    curvatures: Array  # (V,) o_i'A o_i

    def xtrace(self) -> float:
        """The mean over i of trace(U_i'AU_i) + (n - V + 1) u_i'A u_i / ||u_i||^2.

        s_i is the unit vector orthogonal to the columns of R but column i. U_i = U (I - s_i s_i') then has the range of
        the products without the i-th, and u_i is the part of o_i orthogonal to it.
        """
        num, h = len(self.products), self.projected
        columns = [np.linalg.qr(np.delete(self.products, i, 1), mode="complete")[0][:, -1] for i in range(num)]
        s = np.stack(columns, axis=1)
        x = self.probes - s * (s * self.probes).sum(0)
        outside = self.curvatures - 2 * (x * self.products).sum(0) + (x * (h @ x)).sum(0)
        inside = np.trace(h) - (s * (h @ s)).sum(0)
        return float((inside + (self.num_left - num + 1) * outside / (self.num_left - (x**2).sum(0))).mean())

    def without(self, place: int) -> _Seen:
        """What would have been seen without one probe."""
        basis, triangle = np.linalg.qr(np.delete(self.products, place, 1))
        return _Seen(
            self.num_left,
            projected=basis.T @ self.projected @ basis,
            probes=basis.T @ np.delete(self.probes, place, 1),
            products=triangle,
            curvatures=np.delete(self.curvatures, place),
        )


def dot(v: Tensor, w: Tensor) -> float:
    """v'w, summed in float64."""
    return float(v.double() @ w.double())


def _products(left: Tensor, right: Tensor) -> Array:
    """left @ right.T, a piece of the long dimension at a time in float64."""
    pieces = zip(torch.split(left, 1 << 18, dim=1), torch.split(right, 1 << 18, dim=1), strict=True)
    total = torch.stack([a.double() @ b.double().T for a, b in pieces]).sum(0)
    return np.asarray(total.numpy(force=True))


def unit_probes(vectors: Tensor, num: int, random: torch.Generator) -> Iterator[Tensor]:
    """Random unit vectors (P,) orthogonal to `vectors` (K, P)."""
    for _ in range(num):
        v, _ = orthogonalised(random_like(vectors.new_empty(vectors.shape[1]), random), vectors)
        yield v / length(v)
