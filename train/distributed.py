"""Several processes on one run: which examples are mine, and the mean over all of them.

    g = sum_k n_k g_k / sum_k n_k

is the gradient of a batch whose n_k examples process k has: the same as in one process, whatever the n_k are. torch's
DistributedDataParallel takes the mean over processes instead, reduces in every backward pass, and needs the wrapped
module; here a step reduces its last gradient, and with sync "global" those that it climbs along.

Processes are those of torch.distributed's default group (torchrun), gloo on CPUs, NCCL on GPUs. Process 0 writes. All
have the same parameters at every step, and all take a step or none does.

Legend: k a process, n_k its number of examples; rows index the training part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")
Sync = Literal["local", "global"]
Gradient = list[Tensor | None]  # one entry per parameter; None where the loss does not depend on it


class ToldError(Exception):
    """What ended another process, told by it, ends this one too."""


@dataclass(frozen=True)
class Workers:
    """This process among all of them; one process by itself is 0 of 1."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def together(self, action: Callable[[], T]) -> T:
        """`action()` of every process; if it raises in one, all of them raise, and the first of those says so.

        Raises:
            ToldError: In every process but that one.
        """
        if self.size == 1:
            return action()
        result, error = _attempted(action)
        told = self.gathered(None if error is None else f"{type(error).__name__}: {error}")
        failed = next((rank for rank, text in enumerate(told) if text is not None), None)
        if failed is None:
            assert result is not None
            return result[0]
        if error is not None and failed == self.rank:
            raise error
        raise ToldError(f"process {failed} failed: {told[failed]}") from error

    def from_first(self, action: Callable[[], T]) -> T:
        """`action()` of process 0, in all processes; where it raises, they all end."""
        if self.size == 1:
            return action()
        results: list[Any] = [self.together(action if self.first else lambda: None)]
        dist.broadcast_object_list(results, src=0)
        found: T = results[0]
        return found

    def share(self, count: int) -> range:
        """My part of `count` things: parts are in order, and differ by one at most.

        Example:
            >>> Workers(1, 3).share(8)
            range(3, 6)
        """
        return range(*(-(-count * rank // self.size) for rank in (self.rank, self.rank + 1)))

    def summed(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return here
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return bool(self.summed(torch.tensor(float(here), device=device)))

    def gathered(self, value: T) -> list[T]:
        """The `value` of every process, in their order."""
        values: list[T] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


def workers() -> Workers:
    """This process among those of torch.distributed's default group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return Workers()


@contextmanager
def joined(device: str) -> Iterator[Workers]:
    """Inside, the process group that torchrun's environment describes; without torchrun, this process by itself.

    `device` is "cpu", "cuda" or "auto"; on GPUs each process has the one of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield workers()
        return
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield workers()
    finally:
        dist.destroy_process_group()


def averaged(gradient: Gradient, params: Sequence[Tensor], num_examples: int) -> Gradient:
    """The mean of a gradient over all processes, weighted by their numbers of examples; of its entries none is None."""
    return _averaged(gradient, params, _sums(params[0].device, [float(num_examples)]), num_examples)


def averaged_step(
    gradient: Gradient, params: Sequence[Tensor], num_examples: int, loss: Tensor, finite: Tensor
) -> tuple[Gradient, Tensor, Tensor]:
    """What all processes step with: mean gradient, mean loss, and whether all was finite in each of them.

    An entry is None where it is in every process.
    """
    used = [float(grad is not None) for grad in gradient]
    device = params[0].device
    local = torch.stack([loss.to(device, torch.float64) * num_examples, (~finite).to(device, torch.float64)])
    sums = _sums(device, [float(num_examples), *used], local)
    mean = _averaged(gradient, params, sums, num_examples)
    if not all(used):  # a host sync, where the loss leaves parameters out
        mean = [grad if count else None for grad, count in zip(mean, sums[1 : 1 + len(params)].tolist(), strict=True)]
    return mean, (sums[-2] / sums[0]).to(loss.dtype), sums[-1] == 0


@torch.no_grad()
def average_statistics_(model: nn.Module) -> None:
    """Give all processes the mean of their BatchNorm running statistics, which each took from its own examples.

    Their counters become the largest: with chunks of m examples a process may have had more of them than another.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            for statistic in (module.running_mean, module.running_var):
                dist.all_reduce(statistic)
                statistic.div_(dist.get_world_size())
            if module.num_batches_tracked is not None:
                dist.all_reduce(module.num_batches_tracked, op=dist.ReduceOp.MAX)


def _attempted(action: Callable[[], T]) -> tuple[tuple[T] | None, Exception | None]:
    try:
        return (action(),), None
    except Exception as error:  # whatever it is, the others wait for word of it
        return None, error


def _sums(device: torch.device, values: list[float], more: Tensor | None = None) -> Tensor:
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    if more is not None:
        sums = torch.cat([sums, more])
    dist.all_reduce(sums)
    return sums


def _averaged(gradient: Gradient, params: Sequence[Tensor], sums: Tensor, num_examples: int) -> Gradient:
    share = num_examples / sums[0]  # on the device: no host sync
    mean: Gradient = [None] * len(params)
    for dtype in {param.dtype for param in params}:  # one reduction each
        mine = [i for i, param in enumerate(params) if param.dtype == dtype]
        pieces = [gradient[i] for i in mine]
        flat = torch.cat(
            [
                torch.zeros_like(params[i]).reshape(-1) if g is None else g.reshape(-1)
                for i, g in zip(mine, pieces, strict=True)
            ]
        )
        flat.mul_(share.to(dtype))
        dist.all_reduce(flat)
        for i, piece in zip(mine, torch.split(flat, [params[i].numel() for i in mine]), strict=True):
            mean[i] = piece.view(params[i].shape)
    return mean
