"""The Hessian as a product with a vector: what an algorithm needs to know of a matrix, and no more.

H v for H = d^2/dtheta^2 of the mean loss: double backward, batch by batch, divided by the data's denominator, so a
short last batch weighs what it holds (Pearlmutter 1994, doi:10.1162/neco.1994.6.1.147). The graph of a batch's
gradient does not depend on v: as many as the memory budget holds are kept, and a product costs about two gradients
there; the other batches build theirs anew each time, for about three.

Legend: P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.objective import Batch, Objective
from landscape.results import Record

MEMORY_BYTES = 2 << 30  # for retained graphs


@dataclass(frozen=True, eq=False)
class SymmetricOperator:
    """A symmetric matrix (size, size), known by its product with a vector (size,).

    `loss` is the mean loss where the matrix is a curvature of one; `settings` go into every result made from it.
    """

    matvec: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype = torch.float32
    device: torch.device | None = None
    loss: float = float("nan")
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.size, self.size


def hessian(objective: Objective, *, memory_bytes: int = MEMORY_BYTES) -> SymmetricOperator:
    """Hessian of the mean loss at `objective.theta`, over all its data, in eval mode.

    One product costs about two gradients where a batch's graph is kept within `memory_bytes`, three where not.

    Raises:
        NotRepeatableError: If two passes over the data give different losses or batches.
    """
    settings = {"operator": "hessian", "engine": "double backward, retained graphs", **objective.describe()}
    products = _BatchProducts(objective, memory_bytes)
    return SymmetricOperator(
        products,
        objective.theta.numel(),
        objective.theta.dtype,
        objective.theta.device,
        loss=objective.centre.loss,
        checkpoint={"hash": objective.theta_hash},
        settings=settings,
        checks={"repeatable": True},
    )


class _BatchProducts:
    """The products of all batches, with as many of their gradients' graphs kept as the memory holds."""

    def __init__(self, objective: Objective, memory_bytes: int) -> None:
        self.objective = objective
        self.memory_bytes = memory_bytes
        self.kept: list[tuple[Tensor, Tensor]] = []  # of the first batches: leaf, gradient with its graph
        self.num_kept: int | None = None

    def __call__(self, v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for index, batch in enumerate(self.objective.read()):
            with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no double backward
                leaf, gradient = self.kept[index] if index < len(self.kept) else self._gradient(index, batch)
                total += _vector_product(gradient, leaf, v)
        return total / self.objective.denominator

    def _gradient(self, index: int, batch: Batch) -> tuple[Tensor, Tensor]:
        if self.num_kept is None:
            self.num_kept = self.memory_bytes // max(_graph_bytes(self.objective, batch), 1)
        made = _gradient_with_graph(self.objective, batch)
        if index == len(self.kept) < self.num_kept:
            self.kept.append(made)
        return made


def _gradient_with_graph(objective: Objective, batch: Batch) -> tuple[Tensor, Tensor]:
    leaf = objective.theta.clone().requires_grad_()
    with objective.undisturbed(), torch.enable_grad():
        loss = objective.terms(leaf, batch).loss.sum()
        return leaf, torch.autograd.grad(loss, leaf, create_graph=True)[0]


def _graph_bytes(objective: Objective, batch: Batch) -> int:
    """Bytes that the graph of a batch's gradient holds on to."""
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        made = _gradient_with_graph(objective, batch)
    del made  # until here every storage was alive, so that no address was counted for two
    return sum(saved.values())


def _vector_product(gradient: Tensor, leaf: Tensor, v: Tensor) -> Tensor:
    if not gradient.requires_grad:  # a loss linear in theta
        return torch.zeros_like(v)
    product = torch.autograd.grad(gradient, leaf, v, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(v) if product is None else product


def restricted(operator: SymmetricOperator, keep: Tensor) -> SymmetricOperator:
    """The block of an operator on the entries where `keep` (size,) is true, with zeros elsewhere: D A D.

    Its eigenvectors do not move the other entries; beside its block's eigenvalues it has zeros.
    """
    mask = keep.to(device=operator.device, dtype=operator.dtype)
    return replace(
        operator,
        matvec=lambda v: mask * operator.matvec(mask * v),
        settings={**operator.settings, "num_kept": int(keep.sum())},
    )
