"""The top eigenvalue and the trace by PyHessian on the same data, beside ours: two programs, one number.

PyHessian (Yao et al. 2020, arXiv:1912.07145) finds the eigenvalue of largest magnitude by power iteration, which stops
where two estimates in a row are close: that says little about the distance from the eigenvalue, so its tolerance is set
a hundred times below ours. It runs on a copy of the model, in eval mode, over the same batches. What it finds is a
function of its products, so that these can be kept, and a check that was stopped goes on (`landscape.ledger`).
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings

import numpy as np
import torch
from torch import Tensor

from landscape.batches import to_device
from landscape.ledger import Replayed
from landscape.losses import known
from landscape.objective import Objective
from landscape.operators import SymmetricOperator
from landscape.passes import copied
from landscape.results import Eigenpairs, Record

_TOLERANCE = 1e-5  # relative, between two of its estimates
_MAX_PRODUCTS = 500
_TRACE_PRODUCTS = 30


def pyhessian_check(
    objective: Objective, pairs: Eigenpairs, *, seed: int = 0, replayed: Replayed = lambda operator: operator
) -> Record:
    """What PyHessian finds: `eigenvalue` and its relative `difference` from ours, `trace` with `trace_standard_error`.

    Compared with the pair of largest magnitude among `pairs`; NaN where PyHessian found the other end of the spectrum,
    which these pairs are not of. `num_matvecs` counts its products, which `replayed` may keep: at most 530.

    Raises:
        ImportError: If PyHessian is not installed.
        ValueError: If it cannot measure this: a loss that is no mean over examples, some parameters frozen, float64.
    """
    require_comparable(objective)
    import pyhessian
    from pyhessian.utils import group_product

    count = 0
    model = copied(objective.model).eval()
    batches = [to_device(batch, objective.theta.device) for batch in objective.read()]
    with objective.undisturbed(seed), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of its backward(create_graph=True)
        found = pyhessian.hessian(model, objective.loss, dataloader=batches, cuda=objective.theta.is_cuda)
        product = found.dataloader_hv_product

        def parts(v: Tensor) -> list[Tensor]:
            return list(objective.named(v).values())

        def matvec(v: Tensor) -> Tensor:
            return torch.cat([part.reshape(-1) for part in product(parts(v))[1]])

        size, device = objective.theta.numel(), objective.theta.device
        kept = replayed(SymmetricOperator(matvec, size, device=device, settings={"engine": "pyhessian"}))

        def counted(v: list[Tensor]) -> tuple[float, list[Tensor]]:
            nonlocal count
            count += 1
            hv = parts(kept.matvec(torch.cat([part.reshape(-1) for part in v])))
            return group_product(hv, v).item(), hv

        found.dataloader_hv_product = counted
        values, _ = found.eigenvalues(maxIter=_MAX_PRODUCTS, tol=_TOLERANCE, top_n=1)
        samples = np.array(found.trace(maxIter=_TRACE_PRODUCTS, tol=0.0))
    theirs, ours = float(values[0]), float(pairs.values[np.argmax(np.abs(pairs.values))])
    comparable = theirs * ours > 0 and abs(theirs) < 1.1 * abs(ours)  # else it is of the end that ours are not of
    return {
        "eigenvalue": theirs,
        "difference": abs(theirs - ours) / abs(ours) if comparable else math.nan,
        "trace": float(samples.mean()),
        "trace_standard_error": float(samples.std(ddof=1) / len(samples) ** 0.5),
        "num_matvecs": count,
    }


def require_comparable(objective: Objective) -> None:
    """Refuse what PyHessian cannot measure, before anything is.

    Raises:
        ImportError: If PyHessian is not installed.
        ValueError: If it cannot measure this.
    """
    import pyhessian  # noqa: F401

    module = None if objective.loss is None else known(objective.loss)
    weighted = module is None or getattr(module, "weight", None) is not None or module.reduction != "mean"
    if weighted:
        raise ValueError("PyHessian needs a plain mean over the examples: one of torch's losses, without class weights")
    if not all(p.requires_grad for p in objective.model.parameters()):
        raise ValueError("PyHessian measures all parameters, and some of these do not require a gradient")
    if objective.theta.dtype != torch.float32:
        raise ValueError(f"PyHessian measures float32, and this model is {objective.theta.dtype}")
