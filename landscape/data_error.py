"""How far a curvature depends on which examples were measured: the sampling error of the data.

Of an eigenvalue lam = v'Hv at fixed v, the spread of v'H_b v over B random parts of the data tells the standard error
of new draws of as many examples: lam is a ratio of sums over the parts, sum q_b / sum d_b with q_b = d_b v'H_b v and
d_b a part's denominator, so that (Cochran 1977, Sampling Techniques, eq. 6.4)

    SE^2 = B/(B-1) sum_b (q_b - lam d_b)^2 / (sum_b d_b)^2

It is a lower bound, for v was fitted to the same data. That fit also lifts the largest eigenvalue: it is convex in H,
so that its mean over parts of the data is never below that of the whole, and no resampling tells its bias; the
eigenvalues of halves and quarters show it.

Legend: B parts, K eigenpairs, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from landscape.batches import may_cut
from landscape.distributed import part_of
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import SymmetricOperator, hessian
from landscape.results import Array, Eigenpairs

MIN_PARTS = 4  # for a standard error
_WANTED = 0.05  # relative error that a recommended number of examples gives

Make = Callable[[Objective], SymmetricOperator]


@dataclass(frozen=True, eq=False, kw_only=True)
class DataError:
    """Standard errors (K,) of eigenvalues over new draws of the data at fixed vectors, each a lower bound.

    NaN with fewer than 4 parts. `values` are the Rayleigh quotients of the vectors over all parts: the eigenvalues.
    """

    values: Array  # (K,)
    standard_errors: Array  # (K,)
    num_parts: int
    num_examples: int

    def examples_for(self, relative_error: float = _WANTED) -> Array:
        """As many examples (K,) as would bring each standard error down to this share of its value."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.abs(self.standard_errors / self.values) / relative_error
        return np.ceil(self.num_examples * share**2)


def data_error(
    objective: Objective, pairs: Eigenpairs, *, make: Make = hessian, num_parts: int = 16, seed: int = 0
) -> DataError:
    """The sampling errors of `pairs`, those of `make(objective)`, from disjoint parts of the data drawn by `seed`.

    Costs a product for each pair, and a few passes over the data for the checks of each part. Fewer parts are taken
    where there are fewer examples, or batches that cannot be cut.

    Raises:
        ValueError: If the pairs have no vectors, or those of other parameters, or num_parts is below 2.
    """
    if pairs.vectors is None:
        raise ValueError("these eigenpairs came without their vectors: keep them (--save-vectors)")
    if pairs.vectors.shape[1] != objective.theta.numel():
        raise ValueError(f"the vectors have {pairs.vectors.shape[1]} entries, the model {objective.theta.numel()}")
    if num_parts < 2:
        raise ValueError(f"num_parts must be at least 2, got {num_parts}")
    num_parts = min(num_parts, _num_cuts(objective))
    vectors = torch.as_tensor(pairs.vectors).to(objective.theta)
    forms, weights = [], []
    for part in (part_of(objective, rank, num_parts, seed=seed) for rank in range(num_parts)):
        operator = make(part)
        products = torch.stack([operator.matvec(v) for v in vectors])
        forms.append((vectors.double() * products.double()).sum(1).numpy(force=True))
        weights.append(part.denominator)
    values, errors = _ratio(np.array(forms), np.array(weights))
    return DataError(values=values, standard_errors=errors, num_parts=num_parts, num_examples=objective.num_examples)


def largest_by_size(
    objective: Objective, *, make: Make = hessian, tolerance: float = 1e-2, seed: int = 0
) -> dict[int, Array]:
    """The largest eigenvalue of all the data, of each half and each quarter drawn by `seed`: by their examples.

    What the mean falls by from quarters to halves and from halves to the whole is the upward bias of fewer examples;
    where it still falls at the end, the largest eigenvalue of all the data lies above that of more. Costs three runs.

    Raises:
        ValueError: If there are fewer than 4 examples, or batches that cannot be cut.
    """
    found = {}
    for num_parts in (4, 2, 1):
        parts = [part_of(objective, rank, num_parts, seed=seed) for rank in range(num_parts)]
        values = [top_eigenpairs(make(part), 1, tolerance=tolerance, seed=seed).values[0] for part in parts]
        found[objective.num_examples // num_parts] = np.array(values)
    return found


def _ratio(forms: Array, weights: Array) -> tuple[Array, Array]:
    """Means (K,) and standard errors (K,) from forms (B, K) and weights (B,)."""
    sums = np.where(weights[:, None] > 0, forms * weights[:, None], 0.0)  # a part may have no valid target
    values = sums.sum(0) / weights.sum()
    num_parts = len(weights)
    if num_parts < MIN_PARTS:
        return values, np.full_like(values, np.nan)
    spread = ((sums - values * weights[:, None]) ** 2).sum(0)
    return values, np.sqrt(spread * num_parts / (num_parts - 1)) / weights.sum()


def _num_cuts(objective: Objective) -> int:
    return objective.num_examples if may_cut(objective) else sum(1 for _ in objective.read())
