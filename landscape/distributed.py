"""A curvature's products over several processes: which part of the data is mine, and the sum over all parts.

    A v = sum_k D_k A_k v / sum_k D_k

with A_k the operator of the mean loss over the part of process k, and D_k that part's denominator: the same as in one
process, however uneven the parts. A product costs each process its part of the passes, and one sum of P numbers over
all of them, in every process with the same bits. So whatever iterates on products, from the same seed, stays the same
in every process, without a word between them.

Processes are those of torch.distributed's default group (torchrun), gloo on CPUs, NCCL on GPUs; the model is the bare
one, not wrapped for training.

Legend: k a process, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from landscape.batches import Batch, count, rows
from landscape.objective import Objective
from landscape.operators import SymmetricOperator, hessian


def shared(objective: Objective, make: Callable[[Objective], SymmetricOperator] = hessian) -> SymmetricOperator:
    """`make(objective)`, each product of which is shared by all processes; by itself in one process.

    Every process calls it with the same model and data, and later with the same vectors: a process that stops leaves
    the others waiting until their group gives up.

    Raises:
        ValueError: If the processes have other weights or data, are more than there are examples (or batches that
            cannot be cut), or the matrix is one that parts of the data do not add up to.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return make(objective)
    rank, size = dist.get_rank(), dist.get_world_size()
    _refuse_other_work(objective)
    part = part_of(objective, rank, size)
    operator = make(part)
    settings = operator.settings
    if settings.get("batch_norm") == "train":
        raise ValueError("BatchNorm in train mode measures the batches as they are, which parts cut: use one process")
    if settings.get("kind") == "mc":
        raise ValueError("labels are drawn by their place in all of the data, not in a part: use one process")
    weight = part.denominator

    def own_sum(mean: Tensor) -> Tensor:
        return mean * weight if weight else torch.zeros_like(mean)  # a part may have no valid target

    own = own_sum(torch.tensor([operator.loss, 1.0], dtype=torch.float64, device=objective.theta.device))
    loss, denominator = (float(one) for one in summed(own))

    def matvecs(vectors: Tensor) -> Tensor:
        many = operator.matvecs
        products: Tensor = torch.stack([operator.matvec(v) for v in vectors]) if many is None else many(vectors)
        return summed(own_sum(products)) / denominator

    return replace(
        operator,
        matvec=lambda v: summed(own_sum(operator.matvec(v))) / denominator,
        matvecs=matvecs,
        loss=loss / denominator,
        settings={
            **settings,
            "data_hash": objective.data_hash,
            "num_examples": objective.num_examples,
            "num_processes": size,
        },
    )


def part_of(objective: Objective, rank: int, size: int, *, seed: int | None = None) -> Objective:
    """The objective on part `rank` of `size` of its data: parts of examples in order, or drawn at random by `seed`.

    Parts differ by one example at most. Batches that cannot be cut are dealt out whole.

    Raises:
        ValueError: If there are more parts than examples, or than batches that cannot be cut.
    """
    cut = objective.may_cut
    num = objective.num_examples if cut else sum(1 for _ in objective.read())
    if num < size:
        raise ValueError(f"{size} parts of {num} {'examples' if cut else 'batches'}: take at most {num}")
    order = torch.arange(num) if seed is None else torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(num, dtype=torch.bool)
    chosen[order.tensor_split(size)[rank]] = True
    return replace(objective, batches=_Part(objective, chosen, cut))


@dataclass(frozen=True, eq=False)
class _Part:
    """The examples of an objective's data where `chosen` is true, or the batches."""

    objective: Objective
    chosen: Tensor
    cut: bool

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for batch in self.objective.read():
            mine = self.chosen[start : start + (count(batch) if self.cut else 1)]
            start += len(mine)
            if mine.all():
                yield batch
            elif mine.any():
                yield rows(batch, mine)


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, in each of them."""
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def _refuse_other_work(objective: Objective) -> None:
    mine = {"weights": objective.theta_hash, "data": objective.data_hash}
    told: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(told, mine)
    for rank, theirs in enumerate(told):
        differ = [name for name in mine if told[0][name] != theirs[name]]
        if differ:
            raise ValueError(f"process {rank} has other {' and '.join(differ)} than process 0: give all the same")
