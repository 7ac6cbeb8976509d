"""One budget of products for all questions about a curvature: extreme eigenpairs, density, trace, Frobenius norm.

The eigenpairs take what they need. Fresh probes, independent of them and orthogonal to the converged ones, get the
rest: each makes one Lanczos run, a sample of the density, and its first product is one of the trace and of the norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.krylov import Counted, Progress
from landscape.lanczos import least_matvecs, top_eigenpairs
from landscape.operators import SymmetricOperator
from landscape.probes import known_pairs, lanczos_probes
from landscape.results import Density, Eigenpairs, Estimate, Record, Result
from landscape.smoothing import MIN_SAMPLES
from landscape.spectrum import density_of, effective_rank, frobenius_norm_of, trace_of

Ends = Literal["largest", "both"]


@dataclass(frozen=True, eq=False)
class Curvature:
    """What one budget answered; `density` is None where no product was left for it, the estimates then are NaN."""

    pairs: Eigenpairs
    density: Density | None
    trace: Estimate
    frobenius_norm: Estimate
    effective_rank: Estimate

    @property
    def results(self) -> list[Result]:
        """All of it, to save."""
        density = [] if self.density is None else [self.density]
        return [self.pairs, *density, self.trace, self.frobenius_norm, self.effective_rank]

    @property
    def num_matvecs(self) -> int:
        """All products: those of the pairs, checks included, and those of the probes."""
        return self.pairs.num_matvecs + self.trace.num_matvecs


def curvature(
    operator: SymmetricOperator,
    *,
    k: int = 5,
    which: Ends = "largest",
    budget: int = 100,
    tolerance: float = 1e-3,
    num_steps: int = 40,
    seed: int = 0,
    start: Tensor | npt.NDArray[np.floating] | None = None,
    basis_size: int | None = None,
    basis_device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Curvature:
    """Eigenpairs, density, trace, Frobenius norm and effective rank in at most `budget` products, checks included.

    The pairs are those of `top_eigenpairs`. The probes are at least 4 where 4 products are left, of up to `num_steps`
    steps each. Where the budget runs out before the pairs converge, or before there are 4 probes, what is there is
    returned, with flags and notes that say so.

    Raises:
        ValueError: If `which` is unknown, budget too small to find and certify k pairs, or an option of
            `top_eigenpairs` is wrong.
        FloatingPointError: If a product is not finite.

    Example:
        >>> values = torch.cat([torch.tensor([9.0, 8.0, 7.0]), torch.linspace(0, 1, 97)]).double()
        >>> found = curvature(SymmetricOperator(lambda v: values * v, 100, torch.float64), k=3)
        >>> found.pairs.values.round(2).tolist(), found.num_matvecs <= 100
        ([9.0, 8.0, 7.0], True)
        >>> abs(found.trace.value - values.sum().item()) < 4 * found.trace.standard_error
        True
    """
    if which not in get_args(Ends):
        raise ValueError(f"which must be one of {get_args(Ends)}, got {which!r}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    least = least_matvecs(operator.size, k, which)
    if budget < least:
        raise ValueError(f"budget must be at least {least} products for k = {k} ({which}), certified; got {budget}")
    pairs = top_eigenpairs(
        operator,
        k,
        which=which,
        tolerance=tolerance,
        seed=seed,
        start=start,
        max_matvecs=budget,
        basis_size=basis_size,
        basis_device=basis_device,
        progress=progress,
    )
    known, rest = known_pairs(operator, pairs), budget - pairs.num_matvecs
    share = rest // max(MIN_SAMPLES, math.ceil(rest / num_steps))
    steps = max(1, min(share, operator.size - known.num))
    counted = Counted(operator, progress, basis_device, count=pairs.num_matvecs)
    probes = lanczos_probes(counted, known, rest // steps, steps, seed)
    settings: Record = {"budget": budget, "seed": seed, "num_deflated": known.num}
    trace = trace_of(probes, {**settings, "method": "hutchinson"})
    return Curvature(
        pairs,
        density=density_of(probes, settings) if len(probes.nodes) or not probes.num_left else None,
        trace=trace,
        frobenius_norm=frobenius_norm_of(probes, settings),
        effective_rank=effective_rank(trace, pairs),
    )
