"""How much of a curvature is the sample of the data: standard errors, and the upward bias of the largest eigenvalue.

The target is the curvature over all data of the kind, of which the N examples are a random sample. With S_b the Hessian
of the sum of losses of a random part b of them, n_b its denominator, and v a vector that is held fixed,

    v'Hv = sum_b v'S_b v / sum_b n_b,    error^2 = B / (B - 1) sum_b (v'S_b v - v'Hv n_b)^2 / (sum_b n_b)^2

the error of a ratio of sums over parts (Cochran 1977, Sampling Techniques, eq. 6.4). At an eigenvector it is that of
the eigenvalue in first order, and a lower bound: the eigenvector moves too. The trace is a mean over random v, whose
spread over these is added: with T(v) = n v'Hv for V of them, Var T = E[Var(T | v)] + Var(E[T | v]). The largest
eigenvalue is convex in H, so that E lambda_max(N) falls with N; it is shown on disjoint subsets of N/4 and N/2
examples, and what bias remains at N is that of a + c / N through these. Its own error is from three estimates of c: in
each half, from its quarters, and from the halves and the whole. (A bootstrap would add the bias once more.)

Legend: B parts, K eigenpairs, P parameters, V probes, T sizes of subsets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from landscape.distributed import part_of
from landscape.krylov import Counted, stream
from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import OperatorOf, hessian
from landscape.probes import dot, unit_probes, vectors_of
from landscape.results import Array, DataSpread, Eigenpairs
from landscape.smoothing import standard_error

MIN_PARTS = 4
_SUBSETS = (4, 2)


def data_error(
    objective: Objective,
    pairs: Eigenpairs,
    *,
    operator_of: OperatorOf = hessian,
    num_parts: int = 16,
    num_probes: int = 8,
    seed: int = 0,
    max_matvecs: int = 100,
) -> DataSpread:
    """What the eigenvalues of `pairs` and the trace owe to the sample of examples, from the spread over parts.

    The parts are disjoint and drawn by `seed`; fewer than `num_parts` where there are fewer examples, or batches that
    cannot be cut. `operator_of` makes the operator of which `pairs` are the eigenpairs, from an objective on a part
    of the data. The trace is that on the vectors of the pairs and on `num_probes` random ones beside them, the same
    ones for each part; its error is that of the data and of these probes, unknown with fewer than 4 of them. Cost: K
    + `num_probes` products over all data, a few passes over it for the checks of each part, and a run for the largest
    eigenvalue, which starts from the vectors known and takes up to `max_matvecs` products, on 4 quarters and on 2
    halves of the data.

    Raises:
        ValueError: If num_parts is below 4, or there are fewer examples, or batches that cannot be cut, than that; if
            num_probes is below 1, or the pairs have no vectors, are the smallest ones only, or belong to another
            operator.
        FloatingPointError: If a product is not finite.
    """
    num_parts = min(num_parts, _num_cuts(objective))
    if num_parts < MIN_PARTS:
        raise ValueError(f"the spread over parts of the data needs at least {MIN_PARTS} of them, got {num_parts}")
    if num_probes < 1:
        raise ValueError(f"num_probes must be at least 1, got {num_probes}")
    if pairs.settings.get("which") == "smallest":
        raise ValueError("the bias is that of the largest eigenvalue, and these pairs are the smallest")
    whole = operator_of(objective)
    if whole.settings.get("kind") == "mc":
        raise ValueError("labels drawn from the model are drawn anew in each part: take the empirical Fisher matrix")
    known = torch.as_tensor(vectors_of(whole, pairs)).to(whole.device, whole.dtype)
    num_left = whole.size - len(known)
    probes = [*unit_probes(known, num_probes if num_left else 0, stream(seed, "data error"))]
    parts = [part_of(objective, rank, num_parts, seed=seed) for rank in range(num_parts)]
    forms, counts = _forms(parts, torch.stack([*known, *probes]), operator_of)
    traces = forms[:, : len(known)].sum(1) + num_left * forms[:, len(known) :].sum(1) / num_probes
    values, errors = mean_and_error(forms[:, : len(known)], counts)
    trace, trace_error = mean_and_error(traces[:, None], counts)
    by_probe = num_left * forms[:, len(known) :].sum(0) / counts.sum()
    probe_error = float(standard_error(by_probe)) if num_left else 0.0
    sizes, largest, num_matvecs, converged = _subsets(objective, known, operator_of, max_matvecs, seed)
    sizes, largest = np.append(sizes, counts.sum()), np.append(largest, pairs.values[0])
    slope = float(np.polyfit(1 / sizes, largest, 1)[0])
    return DataSpread(
        values=values,
        standard_error=errors,
        trace=float(trace[0]),
        trace_standard_error=math.hypot(trace_error[0], probe_error),
        trace_data_error=float(trace_error[0]),
        subset_sizes=sizes,
        subset_values=largest,
        bias=slope / sizes[-1],
        bias_standard_error=_slope_error(sizes, largest) / sizes[-1],
        num_examples=float(counts.sum()),
        num_parts=num_parts,
        num_matvecs=len(known) + len(probes) + num_matvecs,
        loss=whole.loss,
        checkpoint=whole.checkpoint,
        settings={**whole.settings, "num_probes": len(probes), "seed": seed, "target": "new examples of the kind"},
        checks={**whole.checks, "subsets_converged": converged},
    )


def mean_and_error(forms: Array, counts: Array) -> tuple[Array, Array]:
    """sum_b forms / sum_b counts of (B, Q) and (B,), and its standard error from the spread over batches."""
    num, total = len(counts), counts.sum()
    mean = forms.sum(0) / total
    spread = ((forms - np.outer(counts, mean)) ** 2).sum(0)
    return mean, np.sqrt(num / (num - 1) * spread) / total


def _forms(parts: Sequence[Objective], vectors: Tensor, operator_of: OperatorOf) -> tuple[Array, Array]:
    """v'S_b v (B, Q) for the rows of `vectors` (Q, P), and n_b (B,)."""
    counts = np.array([part.denominator for part in parts])
    forms = np.zeros((len(parts), len(vectors)))
    for place in np.flatnonzero(counts).tolist():  # a part may have no valid target
        products = Counted(operator_of(parts[place]), None).many(vectors)
        forms[place] = [counts[place] * dot(v, product) for v, product in zip(vectors, products, strict=True)]
    return forms, counts


def _subsets(
    objective: Objective, known: Tensor, operator_of: OperatorOf, max_matvecs: int, seed: int
) -> tuple[Array, Array, int, bool]:
    """Sizes and largest eigenvalues of disjoint parts, products, in those over all data, and if all converged."""
    sizes, largest, num_matvecs, converged = [], [], 0.0, True
    for num in _SUBSETS:
        for first in range(num):
            part = part_of(objective, first, num, seed=seed)
            if not part.denominator > 0:  # no valid target
                continue
            pairs = top_eigenpairs(operator_of(part), 1, start=known, max_matvecs=max_matvecs)
            sizes.append(part.denominator)
            largest.append(pairs.values[0])
            num_matvecs += pairs.num_matvecs / num
            converged &= bool(pairs.converged[0])
    return np.array(sizes), np.array(largest), math.ceil(num_matvecs), converged


def _slope_error(sizes: Array, largest: Array) -> float:
    """Of d largest / d (1 / size); NaN where a subset had no valid target."""
    if len(sizes) != sum(_SUBSETS) + 1:
        return math.nan
    x, inner = 1 / sizes, ([0, 1], [2, 3], [4, 5])  # the subsets of one that is larger
    slopes = [
        (largest[few].mean() - largest[more]) / (x[few].mean() - x[more])
        for few, more in zip(inner, (4, 5, 6), strict=True)
    ]
    return float(np.std(slopes, ddof=1) / len(slopes) ** 0.5)


def _num_cuts(objective: Objective) -> int:
    return objective.num_examples if objective.may_cut else sum(1 for _ in objective.read())
