"""The core of every training step: passes at and around theta, and a step that is taken whole or not at all.

A step is a list of groups; each group goes to its own perturbed point, and the gradients there are averaged:

    plain batch       one group of one batch
    exact             one group of all micro-batches: one perturbation from their common gradient
    per-micro-batch   one group for each micro-batch (m-sharpness)

Legend: theta the parameters that the optimizer updates; g a gradient of the mean loss; a pass is one forward and one
backward over the batches of a group.

Memory, in buffers of the size of theta beside the gradient of a pass: theta itself (1), what a method holds over a
pass, and with several groups the gradient summed so far (1). Gradients are consumed by the move they are for.

With `sync`, several processes make one step (train.distributed): the last gradient is the mean of theirs, "global" also
those that are climbed along. That costs one more buffer while they are exchanged.

Host syncs: perturbations cost none. Whether to step costs one; none with a fused optimizer, whose kernel is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_

from train.batches import Weighted, num_examples
from train.distributed import Gradient, Sync, averaged, averaged_step

B = TypeVar("B")
Loss = Callable[[nn.Module, B], Tensor]


class Core:
    """What every method shares, between the passes of one step and from one step to the next."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, same_rng: bool = False, sync: Sync | None = None
    ) -> None:
        if sync not in (None, *get_args(Sync)):
            raise ValueError(f"sync must be one of {get_args(Sync)} or None, got {sync!r}")
        if sync is not None and isinstance(model, DistributedDataParallel):
            raise ValueError("DistributedDataParallel exchanges gradients by itself: give its .module, or no sync")
        self.model = model
        self.optimizer = optimizer
        self.params: list[Tensor] = []
        self._same_rng, self._sync = same_rng, sync
        self._num_trained = 0
        self._num_skipped: int | Tensor = 0
        self._theta: list[Tensor] = []  # kept between steps, so that no step allocates it
        self._norms: list[nn.Module] = []
        self._statistics: list[Tensor] = []
        self._statistics_before: list[Tensor] = []
        self._watched: list[Tensor] = []  # whatever must be finite for the step to be taken
        self._losses: list[Tensor] = []
        self._summed: Gradient = []
        self._generators: list[Tensor] = []
        self._scaler: GradScaler | None = None
        self._moved = False

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken; with a fused optimizer reading it is a host sync."""
        return int(self._num_skipped)

    @property
    def loss(self) -> Tensor:
        """Mean loss at theta of what this step trains on."""
        return self._losses[0] if len(self._losses) == 1 else torch.stack(self._losses).sum()

    @contextmanager
    def attempt(self, scaler: GradScaler | None, max_grad_norm: float | None) -> Iterator[None]:
        """Passes and moves inside; at the end the step with the gradient of the last passes, if all is finite."""
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0, got {max_grad_norm}")
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._remember()
        try:
            yield
            self._return()
            self._finish(max_grad_norm)
        except BaseException:
            self._undo()
            raise

    def pass_at_theta(self, loss: Loss[B], batches: Weighted[B], *, last: bool = False) -> Gradient:
        """The first pass of a group: its loss is that of the step, and running statistics move."""
        self._return()
        if self._same_rng:
            self._generators = _generator_states(self.params)
        if self._sync is not None:
            self._num_trained += sum(num_examples(batch) for batch, _ in batches)
        if self._sync == "global" and self._losses:
            raise ValueError("sync 'global' perturbs once, for all processes: use sync='local' with m or micro-batches")
        values, gradient = self._pass(loss, batches, last=last)
        self._losses += values
        return self._exchanged(gradient, batches, last=last)

    def pass_(self, loss: Loss[B], batches: Weighted[B], *, last: bool = False) -> Gradient:
        """A pass where the parameters are now, with the running statistics left alone.

        `last`: the gradient is what this group adds to the step.
        """
        if self._same_rng:
            _set_generator_states(self._generators, self.params)
        with _frozen(self._norms):
            gradient = self._pass(loss, batches, last=last)[1]
        return self._exchanged(gradient, batches, last=last)

    @torch.no_grad()
    def move_(self, *terms: tuple[float, Gradient]) -> None:
        """Put the parameters at theta plus, for each term, radius * gradient / ||gradient||; consumes the gradients."""
        self._return()
        for radius, gradient in terms:
            params, grads = self._used(gradient)
            _scale_(grads, radius, self._norm(grads))
            torch._foreach_add_(params, grads)
            gradient.clear()
        self._leave()

    @torch.no_grad()
    def move_adaptively_(self, radius: float, gradient: Gradient, *, scaled: Sequence[bool], eta: float) -> None:
        """Put the parameters at theta + radius T^2 g / ||T g||, T = |theta| + eta where `scaled`, else 1."""
        self._return()
        used = [(p, g) for p, g, s in zip(self.params, gradient, scaled, strict=True) if g is not None and s]
        if used:
            t, scaled_grads = [p for p, _ in used], [g for _, g in used]  # the parameters hold T meanwhile: no buffer
            torch._foreach_abs_(t)
            torch._foreach_add_(t, eta)
            torch._foreach_mul_(scaled_grads, t)
        params, grads = self._used(gradient)
        norm = self._norm(grads)
        if used:
            torch._foreach_mul_(scaled_grads, t)
        torch._foreach_copy_(self.params, self._theta)
        _scale_(grads, radius, norm)
        torch._foreach_add_(params, grads)
        gradient.clear()
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer, and the count of skipped steps."""
        return {"optimizer": self.optimizer.state_dict(), "num_skipped": self.num_skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if type(state["num_skipped"]) is not int:
            raise TypeError(f"num_skipped is {state['num_skipped']!r}, not a count")
        self._num_skipped = state["num_skipped"]

    @torch.enable_grad()
    def _pass(self, loss: Loss[B], batches: Weighted[B], *, last: bool) -> tuple[list[Tensor], Gradient]:
        values = []
        if last and self._summed:
            for param, summed in zip(self.params, self._summed, strict=True):
                param.grad = summed  # backward adds to it
            self._summed = []
        for batch, weight in batches:
            value = loss(self.model, batch)
            if weight != 1.0:
                value = value * weight
            scaled = value if self._scaler is None else self._scaler.scale(value)
            scaled.backward(inputs=self.params)  # type: ignore[no-untyped-call]
            values.append(value.detach())
        gradient = [param.grad for param in self.params]
        for param in self.params:
            param.grad = None
        self._watched += values
        if last:
            self._summed = gradient
        return values, gradient

    def _exchanged(self, gradient: Gradient, batches: Weighted[B], *, last: bool) -> Gradient:
        if self._sync != "global" or last:
            return gradient
        return averaged(gradient, self.params, sum(num_examples(batch) for batch, _ in batches))

    def _used(self, gradient: Gradient) -> tuple[list[Tensor], list[Tensor]]:
        used = [(p, g) for p, g in zip(self.params, gradient, strict=True) if g is not None]
        return [p for p, _ in used], [g for _, g in used]

    def _norm(self, grads: list[Tensor]) -> Tensor:
        norm = _total_norm(grads)
        self._watched.append(norm)
        return norm

    def _leave(self) -> None:
        self._moved = True
        torch.clear_autocast_cache()  # or a step inside autocast would meet the casts of the weights before the move

    @torch.no_grad()
    def _return(self) -> None:
        if self._moved:
            torch._foreach_copy_(self.params, self._theta)
            torch.clear_autocast_cache()
        self._moved = False

    @torch.no_grad()
    def _remember(self) -> None:
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        params = [p for p in held if p.requires_grad]
        if not params:
            raise ValueError("the optimizer holds no parameter with requires_grad: nothing to train")
        if not _same(params, self.params):  # an unfrozen layer, a new parameter group
            self._theta = [torch.empty_like(p) for p in params]
        self.params = params
        for param in held:  # of frozen ones too: the optimizer would apply what an earlier step left there
            param.grad = None
        torch._foreach_copy_(self._theta, self.params)
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        statistics = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        if not _same(statistics, self._statistics):
            self._statistics_before = [torch.empty_like(buffer) for buffer in statistics]
        self._norms, self._statistics = list[nn.Module](norms), statistics
        _copy_(self._statistics_before, self._statistics)
        self._watched, self._losses, self._summed, self._moved = [], [], [], False
        self._num_trained = 0

    def _finish(self, max_grad_norm: float | None) -> None:
        gradient, self._summed = self._summed, []
        everywhere: Tensor | None = None
        if self._sync is not None:
            gradient, mean_loss, everywhere = averaged_step(
                gradient, self.params, self._num_trained, self.loss, self._finite()
            )
            self._losses, self._watched = [mean_loss], []
        for param, grad in zip(self.params, gradient, strict=True):
            param.grad = grad
        _, grads = self._used(gradient)
        norm = self._norm(grads)
        finite = self._finite() if everywhere is None else self._finite() & everywhere
        told = _takes_found_inf(self.optimizer)
        if told:
            self._num_skipped = self._num_skipped + ~finite
            self._keep_statistics_where(finite)
        elif not finite:  # the one host sync of a step
            self._num_skipped += 1
            if self._scaler is not None:
                self._unscale_(grads, finite)
                self._scaler.update()
            self._undo()
            return
        if self._scaler is not None:
            self._unscale_(grads, finite)
            norm = _total_norm(grads) if max_grad_norm is not None else norm
        if max_grad_norm is not None:
            clip_grads_with_norm_(self.params, max_grad_norm, norm)
        if self._scaler is not None:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        elif told:
            _step_where(self.optimizer, finite)
        else:
            self.optimizer.step()

    def _finite(self) -> Tensor:
        device, wide = self.params[0].device, torch.promote_types(self.params[0].dtype, torch.float32)
        return torch.isfinite(torch.stack([value.to(device, wide) for value in self._watched])).all()

    @torch.no_grad()
    def _unscale_(self, grads: list[Tensor], finite: Tensor) -> None:
        """Divide by the scale; where an earlier pass was not finite, have the scaler see it in the last gradient."""
        if grads:
            grads[0].mul_(torch.where(finite, 1.0, math.nan).to(grads[0].device))
        assert self._scaler is not None
        self._scaler.unscale_(self.optimizer)

    @torch.no_grad()
    def _keep_statistics_where(self, finite: Tensor) -> None:
        for dtype in {buffer.dtype for buffer in self._statistics}:
            now = [buffer for buffer in self._statistics if buffer.dtype == dtype]
            before = [buffer for buffer in self._statistics_before if buffer.dtype == dtype]
            kept = torch.where(finite, torch.cat([b.view(-1) for b in now]), torch.cat([b.view(-1) for b in before]))
            parts = torch.split(kept, [buffer.numel() for buffer in now])
            torch._foreach_copy_(now, [part.view_as(buffer) for part, buffer in zip(parts, now, strict=True)])

    @torch.no_grad()
    def _undo(self) -> None:
        torch._foreach_copy_(self.params, self._theta)
        torch.clear_autocast_cache()
        _copy_(self._statistics, self._statistics_before)
        self._summed, self._moved = [], False
        for param in self.params:
            param.grad = None


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in train mode normalizes by the batch and leaves its running statistics and counters alone.

    Momentum 0 would still count batches, and would be lost if it was set twice; eval mode would change the loss.
    """
    with _frozen([module for module in model.modules() if isinstance(module, _BatchNorm)]):
        yield


@contextmanager
def _frozen(norms: Sequence[nn.Module]) -> Iterator[None]:
    moving = [norm for norm in norms if norm.track_running_stats]
    for norm in moving:
        norm.__dict__["track_running_stats"] = False  # as setattr would, without its search for parameters
    try:
        yield
    finally:
        for norm in moving:
            norm.__dict__["track_running_stats"] = True


def _scale_(grads: list[Tensor], radius: float, norm: Tensor) -> None:
    scale = torch.where(norm == 0, 0.0, radius / norm)  # on the device: no host sync
    torch._foreach_mul_(grads, scale)


def _total_norm(grads: list[Tensor]) -> Tensor:
    if not grads:
        return torch.zeros(())
    norms = [norm.to(grads[0].device) for norm in torch._foreach_norm(grads)]
    total: Tensor = torch.linalg.vector_norm(
        torch.stack(norms)
    )  # as torch's get_total_norm, which first sorts by dtype
    return total


def _copy_(to: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    for dtype in {tensor.dtype for tensor in to}:  # one kernel each on a GPU
        mine = [(a, b) for a, b in zip(to, source, strict=True) if a.dtype == dtype]
        torch._foreach_copy_([a for a, _ in mine], [b for _, b in mine])


def _same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's kernel skips by itself, and would do so without harm at this step."""
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    if not all(group.get("fused") for group in optimizer.param_groups):
        return False
    for group in optimizer.param_groups:
        if group.get("momentum"):
            fresh = [
                p for p in group["params"] if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None
            ]
            if fresh and group["dampening"]:  # the first step takes the whole gradient: zeros would not be the same
                return False
            for param in fresh:  # a skip at the very first step would leave uninitialized memory there
                optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    return True


def _step_where(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    fused: Any = optimizer
    fused.grad_scale, fused.found_inf = None, (~finite).to(torch.float32)
    try:
        optimizer.step()
    finally:
        del fused.grad_scale, fused.found_inf


def _generator_states(params: Sequence[Tensor]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _cuda_devices(params))]


def _set_generator_states(states: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(_cuda_devices(params), states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)


def _cuda_devices(params: Sequence[Tensor]) -> list[torch.device]:
    return sorted({param.device for param in params if param.is_cuda}, key=str)
