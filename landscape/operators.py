"""The Hessian and its relatives as products with vectors: what an algorithm needs to know of a matrix, and no more.

H = d^2/dtheta^2 of the mean loss over all data. How products are made: `landscape.engines` and
`landscape.linearised`.

Legend: P parameters, K vectors (rows).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor

from landscape.differentiable import checked_against_gradients
from landscape.engines import DoubleBackward, ProductEngine, hessian_sum
from landscape.linearised import (
    FisherKind,
    Linearised,
    OutputCurvature,
    checked_against_outputs,
    drawn,
    empirical,
    exact,
)
from landscape.objective import Objective
from landscape.products import BatchNorm, DataSum, Kept, leaves_of, usual_cutting, usual_memory
from landscape.results import Record


@dataclass(frozen=True, eq=False)
class SymmetricOperator:
    """A symmetric matrix (size, size), known by its product with a vector (size,).

    `loss` is the mean loss where the matrix is a curvature of one; `settings` go into every result made from it.
    `matvecs`, where there is one, makes the products with the rows of (K, size) for less than one by one. `shapes` are
    those of the tensors that theta consists of, by name and in order, where that is known.
    """

    matvec: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype = torch.float32
    device: torch.device | None = None
    loss: float = float("nan")
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)
    matvecs: Callable[[Tensor], Tensor] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.size, self.size


OperatorOf = Callable[[Objective], SymmetricOperator]


def hessian(
    objective: Objective,
    *,
    engine: ProductEngine = "retained",
    memory_bytes: int | None = None,
    micro_batch: int | None = None,
    batch_norm: BatchNorm = "frozen",
    only: Collection[str] | None = None,
) -> SymmetricOperator:
    """Hessian of the mean loss at `objective.theta`, over all its data, in eval mode.

    One product costs about two gradients where the graphs of all gradients fit into `memory_bytes` (2 GiB; on a GPU
    half of what is free), and about three where they do not. The default engine is the fastest for most networks, and a
    rule, so that equal runs have equal bits; "timed" looks for a faster one, and `settings` and `checks` say what was
    found. Data goes through the model `micro_batch` examples at a time, 64 on a CPU. With batch_norm="train" the
    statistics are those of each batch, and the batches as they come are part of what is measured. `only` the parameters
    of these names: their block, as a matrix of their size, for less where they lie near the loss.

    Where the model or the loss has functions of its own, or lets go of a graph (detach, no_grad), `checks` have
    `gradient_change`: how far products on four examples are from finite differences (landscape.differentiable), NaN
    where rounding or kinks leave that undecided.

    Raises:
        NotRepeatableError: If two passes over the data give different losses or batches.
        NotTwiceDifferentiableError: At the first product, if the model or the loss has only one derivative.
        ValueError: If parameters are not finite, the engine does not suit, batches cannot be cut as asked, or a name of
            `only` is unknown.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> objective = Objective(torch.nn.Linear(2, 1, bias=False), torch.nn.MSELoss(), [(x, torch.ones(3, 1))])
        >>> hessian(objective).matvec(torch.tensor([3.0, 3.0]))  # 2/3 x'x = diag(2/3, 16/3)
        tensor([ 2., 16.])
    """
    loss = _checked_loss(objective)
    cutting = usual_cutting(objective, micro_batch=micro_batch, batch_norm=batch_norm)
    memory_bytes = usual_memory(objective) if memory_bytes is None else memory_bytes
    unknown = sorted({*(only or ())} - objective.shapes.keys())
    if unknown or (only is not None and not only):
        raise ValueError(f"only takes names of trainable parameters, got {', '.join(unknown) or 'none'}")
    names = None if only is None else frozenset(only)
    found, settings = hessian_sum(objective, engine, cutting=cutting, memory_bytes=memory_bytes, only=names)
    whole = _operator("hessian", objective, found, settings, loss)
    return whole if names is None else block(whole, _places(objective, names))


def gauss_newton(
    objective: Objective,
    *,
    memory_bytes: int | None = None,
    micro_batch: int | None = None,
    batch_norm: BatchNorm = "frozen",
) -> SymmetricOperator:
    """Gauss-Newton matrix of the mean loss: J' H_out J, with H_out the Hessian of the loss at the outputs, exact.

    It is the Hessian without the curvature of the network itself; positive semi-definite for a loss that is convex in
    the output, and equal to the Hessian for a network linear in theta (Schraudolph 2002). One product costs about 1.2
    gradients where the graphs fit into memory. The options are those of `hessian`.

    Raises:
        NotRepeatableError: If two passes over the data give different losses or batches.
        NotTwiceDifferentiableError: At the first product, if a backward of the model cannot be differentiated.
        ValueError: If the objective was made from sums, or as in `hessian`.
    """
    return _linearised("gauss-newton", objective, exact(objective), {}, memory_bytes, micro_batch, batch_norm)


def fisher(
    objective: Objective,
    *,
    kind: FisherKind = "mc",
    seed: int = 0,
    memory_bytes: int | None = None,
    micro_batch: int | None = None,
    batch_norm: BatchNorm = "frozen",
) -> SymmetricOperator:
    """Fisher matrix: the outer products of examples' gradients, summed and divided as the mean loss is.

    "mc" takes the gradients at one label for each target, drawn from the model's own distribution once, by `seed`: its
    mean over seeds is the Gauss-Newton matrix for cross-entropy, squared errors and binary cross-entropy with logits,
    whose distributions are known; other losses are refused. "empirical" takes the labels of the data, and is neither
    (Kunstner et al. 2019, arXiv:1905.12558). Each label of an example that has many is one by itself. Of squared errors
    and binary cross-entropy an example's gradient is that of the sum over its O outputs, and the mean is over outputs
    too: that makes O times the mean outer product of the gradients of the examples' own means. A product costs about
    1.2 gradients where the graphs fit into memory.

    Raises:
        NotRepeatableError: If two passes over the data give different losses or batches.
        ValueError: If the kind is unknown, or not known for this loss, or as in `hessian`.
    """
    if kind not in get_args(FisherKind):
        raise ValueError(f"kind must be one of {get_args(FisherKind)}, got {kind!r}")
    curvature = drawn(objective, seed) if kind == "mc" else empirical(objective)
    how: Record = {"kind": kind, "seed_of_labels": seed} if kind == "mc" else {"kind": kind}
    return _linearised("fisher", objective, curvature, how, memory_bytes, micro_batch, batch_norm)


def _linearised(
    name: str,
    objective: Objective,
    curvature: OutputCurvature,
    settings: Record,
    memory_bytes: int | None,
    micro_batch: int | None,
    batch_norm: BatchNorm,
) -> SymmetricOperator:
    loss = _checked_loss(objective)
    cutting = usual_cutting(objective, micro_batch=micro_batch, batch_norm=batch_norm)
    memory_bytes = usual_memory(objective) if memory_bytes is None else memory_bytes
    rule, checks = Linearised(objective, leaves_of(objective), curvature), checked_against_outputs(objective)
    found = DataSum(objective, rule, cutting, memory_bytes, checks=checks)
    return _operator(name, objective, found, {"engine": "retained", **settings}, loss)


def _operator(name: str, objective: Objective, found: DataSum, settings: Record, loss: float) -> SymmetricOperator:
    cutting, described = found.cutting, objective.describe()
    found.checks["repeatable"] = True  # or the loss and the hash of the data would have raised
    if cutting.batch_norm == "train":
        loss, described["batch_norm"] = found.loss(), "train"
    how: Record = {"operator": name, **settings, "micro_batch": cutting.micro_batch, "layout": cutting.layout}
    return SymmetricOperator(
        found.matvec,
        objective.theta.numel(),
        objective.theta.dtype,
        objective.theta.device,
        loss=loss,
        checkpoint={"hash": objective.theta_hash},
        settings={**how, **described},
        checks=found.checks,
        matvecs=found.matvecs,
        shapes={name: tuple(shape) for name, shape in objective.shapes.items()},
    )


def _checked_loss(objective: Objective) -> float:
    """The mean loss, of finite parameters and the same in two passes."""
    if not isinstance(objective, Objective):
        raise TypeError(
            f"a matrix is that of an objective, Objective(model, loss, batches), got a {type(objective).__name__}"
        )
    names = [name for name, p in objective.named(objective.theta).items() if not bool(p.isfinite().all())]
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ValueError(f"parameters hold NaN or infinities, there is no curvature: {shown}. Take another checkpoint")
    sparse = [name for name, m in objective.model.named_modules() if getattr(m, "sparse", False) is True]
    if sparse:
        raise ValueError(f"sparse gradients have no second derivative: set .sparse = False on {', '.join(sparse)}")
    objective.refuse_changed()
    return objective.centre.loss


def per_layer(
    objective: Objective, *, memory_bytes: int | None = None, micro_batch: int | None = None
) -> dict[str, SymmetricOperator]:
    """For each layer the block of the Hessian that belongs to its own parameters, all from one set of graphs.

    A layer is a module with trainable parameters of its own, by name, in the order of theta; a block has their size. A
    product with a block costs less than one with the whole Hessian, where the graphs fit into `memory_bytes`: it goes
    back from the layer to the loss, and no further; they are built once for all layers. What lies between layers is in
    none of the blocks, so that the whole Hessian may be far from them (Granziol & Juarev 2026, arXiv:2602.00816).

    Raises:
        NotRepeatableError: If two passes over the data give different losses or batches.
        NotTwiceDifferentiableError: At the first product, if the model or the loss has only one derivative.
        ValueError: As in `hessian`.
    """
    loss = _checked_loss(objective)
    cutting = usual_cutting(objective, micro_batch=micro_batch, batch_norm="frozen")
    memory_bytes = usual_memory(objective) if memory_bytes is None else memory_bytes
    leaves, kept, checks = leaves_of(objective), Kept(), checked_against_gradients(objective)
    blocks = {}
    for layer in dict.fromkeys(name.rpartition(".")[0] or name for name in objective.shapes):
        names = frozenset(name for name in objective.shapes if (name.rpartition(".")[0] or name) == layer)
        rule = DoubleBackward(objective, leaves, names)
        found = DataSum(objective, rule, cutting, memory_bytes, checks=dict(checks))
        found.kept = kept
        whole = _operator("hessian", objective, found, {"engine": "retained", "layer": layer}, loss)
        blocks[layer] = block(whole, _places(objective, names))
    return blocks


def _places(objective: Objective, names: Collection[str]) -> Tensor:
    """Which entries (P,) of theta belong to some parameters."""
    return torch.cat([torch.full((shape.numel(),), name in names) for name, shape in objective.shapes.items()])


def restricted(operator: SymmetricOperator, keep: Tensor) -> SymmetricOperator:
    """The block of an operator on the entries where `keep` (size,) is true, with zeros elsewhere: D A D.

    Its eigenvectors do not move the other entries; beside its block's eigenvalues it has zeros.
    """
    many = operator.matvecs
    mask = keep.to(device=operator.device, dtype=operator.dtype)
    return replace(
        operator,
        matvec=lambda v: mask * operator.matvec(mask * v),
        matvecs=None if many is None else lambda vectors: mask * many(mask * vectors),
        settings={**operator.settings, **_kept_record(keep)},
    )


def block(operator: SymmetricOperator, keep: Tensor) -> SymmetricOperator:
    """The block of an operator on the entries where `keep` (size,) is true, as a matrix of that size alone.

    Its trace, density and eigenvalues are the block's; a product costs one of the whole.
    """
    places = keep.nonzero().squeeze(1).to(operator.device)

    def spread(vectors: Tensor) -> Tensor:
        whole = vectors.new_zeros(*vectors.shape[:-1], operator.size)
        whole[..., places] = vectors
        return whole

    many = operator.matvecs
    return replace(
        operator,
        matvec=lambda v: operator.matvec(spread(v))[places],
        matvecs=None if many is None else lambda vectors: many(spread(vectors))[:, places],
        size=len(places),
        settings={**operator.settings, **_kept_record(keep)},
        shapes=_kept_shapes(operator.shapes, keep),
    )


def _kept_shapes(shapes: Mapping[str, tuple[int, ...]], keep: Tensor) -> dict[str, tuple[int, ...]]:
    """Those of what is left of each tensor: a list where it is not all of it."""
    parts = torch.split(keep, [math.prod(shape) for shape in shapes.values()]) if shapes else []
    kept = {name: int(part.sum()) for name, part in zip(shapes, parts, strict=True)}
    return {
        name: shapes[name] if count == math.prod(shapes[name]) else (count,) for name, count in kept.items() if count
    }


def _kept_record(keep: Tensor) -> Record:
    content = keep.to("cpu", torch.bool).numpy().tobytes()
    return {"num_kept": int(keep.sum()), "kept_hash": hashlib.sha256(content).hexdigest()}
