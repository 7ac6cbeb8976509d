"""Products and gradients over several processes: which part of the data is mine, and the sum over all parts.

    A v = sum_k D_k A_k v / sum_k D_k

with A_k the operator of the mean loss over the part of process k, and D_k that part's denominator: the same as in one
process, however uneven the parts. A product costs each process its part of the passes, and one sum of P numbers over
all of them, in every process with the same bits. So whatever iterates on products, from the same seed, stays the same
in every process; that it does is seen at each product, where all tell a checksum of their vector. What ends one process
is told there too, and ends all.

Processes are those of torch.distributed's default group (torchrun), gloo on CPUs, NCCL on GPUs; the model is the bare
one, not wrapped for training.

Legend: k a process, P parameters.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from landscape.batches import Batch, bytes_of, count, rows
from landscape.differentiable import share_checks
from landscape.objective import NotRepeatableError, Objective
from landscape.operators import SymmetricOperator, hessian

T = TypeVar("T")


_TOLD = "all other processes were told"


class ToldError(Exception):
    """What ended another process, told by it, ends this one too."""


def shared(objective: Objective, make: Callable[[Objective], SymmetricOperator] = hessian) -> SymmetricOperator:
    """`make(objective)`, each product of which is shared by all processes; by itself in one process.

    Every process calls it with the same model and data, and later with the same vectors.

    Raises:
        ValueError: If the processes have other weights or data, are more than there are examples (or batches that
            cannot be cut), or the matrix is one that parts of the data do not add up to.
        NotRepeatableError: At a product, if the processes came to different vectors.
        ToldError: If another process failed.
    """
    rank, size = place()
    if size == 1:
        return make(objective)
    _refuse_other_work(objective)
    part = part_of(objective, rank, size)
    weight = together(lambda: part.denominator)
    operator = together(lambda: make(part if weight else objective))
    if not weight:  # no target of this part counts
        operator = replace(operator, matvec=torch.zeros_like, matvecs=torch.zeros_like, loss=0.0)
    settings = operator.settings
    if settings.get("batch_norm") == "train":
        raise ValueError("BatchNorm in train mode measures the batches as they are, which parts cut: use one process")
    if settings.get("kind") == "mc":
        raise ValueError("labels are drawn by their place in all of the data, not in a part: use one process")
    if "protocol" in settings:
        raise ValueError("the protocol sums the means of batches of 128, which parts cut: use one process")
    own = weight * torch.tensor([operator.loss, 1.0], dtype=torch.float64, device=objective.theta.device)
    loss, denominator = (float(one) for one in summed(own))

    def several(vectors: Tensor) -> Tensor:
        many = operator.matvecs
        return torch.stack([operator.matvec(v) for v in vectors]) if many is None else many(vectors)

    def product(own: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        return summed(weight * together(lambda: own(vectors), state=zlib.crc32(bytes_of(vectors)))) / denominator

    return replace(
        operator,
        matvec=partial(product, operator.matvec),
        matvecs=partial(product, several),
        loss=loss / denominator,
        settings={
            **settings,
            "data_hash": objective.data_hash,
            "num_examples": objective.num_examples,
            "num_processes": size,
        },
    )


def shared_gradient(objective: Objective, theta: Tensor | None = None) -> Tensor:
    """`objective.gradient(theta)`, of which each process makes its part; by itself in one process.

    Every process calls it with the same model, data and theta.

    Raises:
        NotRepeatableError: If the processes came to different theta.
        ToldError: If another process failed.
        ValueError: If there are more processes than examples, or than batches that cannot be cut, or no target counts.
    """
    rank, size = place()
    theta = objective.theta if theta is None else theta
    if size == 1:
        return objective.gradient(theta)
    part = together(lambda: part_of(objective, rank, size), state=zlib.crc32(bytes_of(theta)))
    total, own = together(lambda: _sums(part, theta))
    denominator = float(summed(own))
    objective.refuse_no_denominator(denominator)
    return summed(total) / denominator


def _sums(part: Objective, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the sum of losses, and the denominator."""
    total, denominator = torch.zeros_like(theta), 0.0
    for gradient, part_denominator in part.batch_gradients(theta):
        total += gradient
        denominator += part_denominator
    return total, torch.tensor(denominator, dtype=torch.float64, device=theta.device)


def part_of(objective: Objective, rank: int, size: int, *, seed: int | None = None) -> Objective:
    """The objective on part `rank` of `size` of its data: parts of examples in order, or drawn at random by `seed`.

    Parts differ by one example at most. Batches that cannot be cut are dealt out whole.

    Raises:
        ValueError: If there are more parts than examples, or than batches that cannot be cut, or the model has changed.
    """
    objective.refuse_changed()
    cut = objective.may_cut
    num = objective.num_examples if cut else sum(1 for _ in objective.read())
    if num < size:
        raise ValueError(f"{size} parts of {num} {'examples' if cut else 'batches'}: take at most {num}")
    order = torch.arange(num) if seed is None else torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(num, dtype=torch.bool)
    chosen[order.tensor_split(size)[rank]] = True
    part = replace(objective, batches=_Part(objective, chosen, cut))
    share_checks(objective, part)
    return part


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


def place() -> tuple[int, int]:
    """Which process this is, and of how many."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def together(action: Callable[[], T], *, state: int = 0) -> T:
    """`action()` of every process, if it raised in none, and all are in the same state.

    Raises:
        ToldError: In every process but the first where it raised, with what that was.
        NotRepeatableError: If the states differ.
    """
    if place()[1] == 1:
        return action()
    result, error = _attempted(action)
    if error is not None and _is_told(error):
        raise error
    told = _gathered(state if error is None else f"{type(error).__name__}: {error}", error)
    other = next((k for k, theirs in enumerate(told) if theirs != told[0]), None)
    if other is not None:
        raise NotRepeatableError(
            f"process {other} came to other numbers than process 0 (other devices, threads, libraries?): use alike ones"
        )
    assert result is not None
    return result[0]


def from_first(action: Callable[[], T]) -> T:
    """`action()` of process 0, in all processes; where it raises, they all end."""
    rank, size = place()
    if size == 1:
        return action()
    found: list[Any] = [together(action if rank == 0 else lambda: None)]
    dist.broadcast_object_list(found, src=0)
    result: T = found[0]
    return result


def _attempted(action: Callable[[], T]) -> tuple[tuple[T] | None, Exception | None]:
    try:
        return (action(),), None
    except Exception as error:  # whatever it is, the others wait for word of it
        return None, error


def _gathered(mine: object, error: Exception | None = None) -> list[Any]:
    """What all processes tell; a text is of an error, and ends all: so that one which fails anywhere may tell it."""
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    failed = next((rank for rank, theirs in enumerate(told) if isinstance(theirs, str)), None)
    if error is not None and failed == dist.get_rank():
        error.add_note(_TOLD)
        raise error
    if failed is not None:
        raise ToldError(f"process {failed} failed: {told[failed]}") from error
    return told


def _is_told(error: Exception) -> bool:
    return isinstance(error, ToldError) or _TOLD in getattr(error, "__notes__", ())


def _refuse_other_work(objective: Objective) -> None:
    mine = {"weights": objective.theta_hash, "data": objective.data_hash}
    told: list[dict[str, str]] = _gathered(mine)
    for rank, theirs in enumerate(told):
        differ = [name for name in mine if told[0][name] != theirs[name]]
        if differ:
            raise ValueError(f"process {rank} has other {' and '.join(differ)} than process 0: give all the same")
