"""Steps of training methods around any torch optimizer: plain descent, SAM, Agnostic-SAM.

    plain         g_B(theta)
    SAM           g_B(theta + rho u_B(theta))
    Agnostic-SAM  g_Bt(theta + rho1 u_Bt(theta) - rho2 u_Bv(theta + rho2 u_Bv(theta)))

is the gradient that the optimizer gets, taken at the right point and applied at theta.

Legend: theta the parameters that the optimizer updates; g_B the gradient of its mean loss on B; u_B = g_B / ||g_B||
with one 2-norm over all of theta, and 0 where that norm is 0; Bt, Bv the first and second part of B.

Running statistics of BatchNorm move in the pass at theta over what is trained on (B, or Bt), and in no other. A step
whose loss or gradient is not finite is not taken: parameters, optimizer and statistics stay as they were. Clipping
concerns the last gradient only: the others are normalized. Schedulers belong to the optimizer that is wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from train.batches import split

B = TypeVar("B")  # a batch: a tensor, or a tuple, list or dict of tensors (or of such), examples first
Gradient = Sequence[Tensor | None]  # one entry per parameter; None where the loss does not depend on it
Variant = Literal["full", "simple"]


class Method(Protocol):
    """One training step, whatever the method."""

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        ...

    def step(self, loss: Callable[[nn.Module, B], Tensor], batch: B, *, max_grad_norm: float | None = None) -> Tensor:
        """Take one step; the loss at theta, before it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs to go on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        ...


class Descent:
    """The base optimizer by itself, behind the same step and the same guard as the others."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._core = _Core(model, optimizer)

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._core.num_skipped

    def step(self, loss: Callable[[nn.Module, B], Tensor], batch: B, *, max_grad_norm: float | None = None) -> Tensor:
        """Take one step with g_B(theta); the loss of B at theta."""
        with self._core.attempt(max_grad_norm):
            return self._core.pass_(loss, batch)[0]

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and the count of skipped steps."""
        return self._core.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._core.load_state_dict(state)


class SAM:
    """Sharpness-aware minimization: step with g_B(theta + rho u_B(theta)). Two passes over the batch.

    Foret et al. 2021, arXiv:2010.01412, algorithm 1. `loss(model, batch)` must be a mean over the batch. Weight decay
    of the base optimizer takes no part in the perturbation.

    Raises:
        ValueError: If `rho` is negative or not finite.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.0)
        >>> sam = SAM(model, torch.optim.SGD(model.parameters(), lr=0.5), rho=0.5)
        >>> float(sam.step(lambda model, x: model(x).square().mean(), torch.ones(4, 1)))
        1.0
        >>> model.weight.item()  # 1 - 0.5 * 2 * (1 + 0.5)
        -0.5
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, rho: float = 0.05) -> None:
        _check_radius("rho", rho)
        self.rho = rho
        self._core = _Core(model, optimizer)

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._core.num_skipped

    def step(self, loss: Callable[[nn.Module, B], Tensor], batch: B, *, max_grad_norm: float | None = None) -> Tensor:
        """Take one step; the loss of B at theta.

        Raises:
            ValueError: If the optimizer holds nothing to train.
        """
        core = self._core
        with core.attempt(max_grad_norm):
            value, gradient = core.pass_(loss, batch)
            with frozen_statistics(core.model):
                core.move_((self.rho, gradient))
                core.pass_(loss, batch)
        return value

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and the count of skipped steps."""
        return self._core.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._core.load_state_dict(state)


class SubsetSAM:
    """SAM on the first part of each batch; the second is dropped.

    The control for Agnostic-SAM: it trains on the same examples, with the same batch statistics.

    Raises:
        ValueError: If `rho` is negative or not finite, or `split_ratio` is not between 0 and 1.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, rho: float = 0.05, split_ratio: float = 0.7
    ) -> None:
        _check_ratio(split_ratio)
        self.split_ratio = split_ratio
        self._model = model
        self._sam = SAM(model, optimizer, rho=rho)

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._sam.num_skipped

    def step(self, loss: Callable[[nn.Module, B], Tensor], batch: B, *, max_grad_norm: float | None = None) -> Tensor:
        """Take one step; the loss of Bt at theta.

        Raises:
            ValueError: If the batch is too small to split.
        """
        trained, _ = split(batch, self.split_ratio, model=self._model)
        return self._sam.step(loss, trained, max_grad_norm=max_grad_norm)

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and the count of skipped steps."""
        return self._sam.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._sam.load_state_dict(state)


class AgnosticSAM:
    """Agnostic-SAM: climb on Bt, descend on Bv, and step with the gradient of Bt there.

    arXiv:2406.07107, algorithm 1; each gradient is divided by its own 2-norm. `variant="simple"` takes u_Bv at theta
    instead of at theta + rho2 u_Bv(theta). Bt is the first part of the batch as it comes, so batches must be shuffled.
    Cost in passes over the whole batch: 2 (full), 1 + split_ratio (simple).

    Raises:
        ValueError: If a radius is negative or not finite, `split_ratio` is not within (0, 1), or `variant` is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        rho1: float = 0.1,
        rho2: float = 0.05,
        split_ratio: float = 0.7,
        variant: Variant = "full",
    ) -> None:
        _check_radius("rho1", rho1)
        _check_radius("rho2", rho2)
        _check_ratio(split_ratio)
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {get_args(Variant)}, got {variant!r}")
        self.rho1, self.rho2, self.split_ratio, self.variant = rho1, rho2, split_ratio, variant
        self._core = _Core(model, optimizer)

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._core.num_skipped

    def step(self, loss: Callable[[nn.Module, B], Tensor], batch: B, *, max_grad_norm: float | None = None) -> Tensor:
        """Take one step; the loss of Bt at theta.

        Raises:
            ValueError: If the batch is too small to split.
        """
        core = self._core
        trained, held_out = split(batch, self.split_ratio, model=core.model)
        with core.attempt(max_grad_norm):
            value, gradient_t = core.pass_(loss, trained)
            with frozen_statistics(core.model):
                _, gradient_v = core.pass_(loss, held_out)
                if self.variant == "full":
                    core.move_((self.rho2, gradient_v))
                    _, gradient_v = core.pass_(loss, held_out)
                core.move_((self.rho1, gradient_t), (-self.rho2, gradient_v))
                core.pass_(loss, trained)
        return value

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and the count of skipped steps."""
        return self._core.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._core.load_state_dict(state)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in train mode normalizes by the batch and leaves its running statistics and counters alone.

    Momentum 0 would still count batches, and would be lost if it was set twice; eval mode would change the loss.
    """
    moving = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in moving:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in moving:
            module.track_running_stats = True


class _Core:
    """What every method shares: passes, moves around theta, and a step that is taken whole or not at all."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer
        self.num_skipped = 0
        self._params: list[Tensor] = []
        self._theta: list[Tensor] = []  # kept between steps, so that no step allocates it
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._values: list[Tensor] = []
        self._gradient: Gradient = []

    @contextmanager
    def attempt(self, max_grad_norm: float | None) -> Iterator[None]:
        """Passes and moves inside; at the end the step with the last pass's gradient, if all is finite."""
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0, got {max_grad_norm}")
        self._remember()
        try:
            yield
            with torch.no_grad():
                torch._foreach_copy_(self._params, self._theta)
            self._finish(max_grad_norm)
        except BaseException:
            self._undo()
            raise

    @torch.enable_grad()
    def pass_(self, loss: Callable[[nn.Module, B], Tensor], batch: B) -> tuple[Tensor, Gradient]:
        """Loss and gradient of `batch` where the parameters are now."""
        value = loss(self.model, batch)
        value.backward(inputs=self._params)  # type: ignore[no-untyped-call]
        gradient = [param.grad for param in self._params]
        self._clear()
        self._values.append(value.detach())
        self._gradient = gradient
        return value.detach(), gradient

    @torch.no_grad()
    def move_(self, *terms: tuple[float, Gradient]) -> None:
        """Put the parameters at theta plus, for each term, radius * gradient / ||gradient||."""
        torch._foreach_copy_(self._params, self._theta)
        for radius, gradient in terms:
            used = [(p, g) for p, g in zip(self._params, gradient, strict=True) if g is not None]
            params, grads = [p for p, _ in used], [g for _, g in used]
            norm = get_total_norm(grads)
            scale = torch.where(norm == 0, torch.zeros_like(norm), radius / norm)  # on the device: no host sync
            torch._foreach_add_(params, torch._foreach_mul(grads, scale))

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "num_skipped": self.num_skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_skipped = state["num_skipped"]

    @torch.no_grad()
    def _remember(self) -> None:
        params = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        if not params:
            raise ValueError("the optimizer holds no parameter with requires_grad: nothing to train")
        if [id(p) for p in params] != [id(p) for p in self._params]:  # an unfrozen layer, a new parameter group
            self._theta = [torch.empty_like(p) for p in params]
        self._params = params
        self._clear()
        torch._foreach_copy_(self._theta, self._params)
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        self._statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
        self._values = []

    def _finish(self, max_grad_norm: float | None) -> None:
        grads = [g for g in self._gradient if g is not None]
        norm = get_total_norm(grads)
        finite = torch.isfinite(
            torch.stack([norm.to(torch.float64), *(v.to(torch.float64) for v in self._values)])
        ).all()
        if not finite:  # the one host sync of a step
            self._undo()
            self.num_skipped += 1
            return
        for param, gradient in zip(self._params, self._gradient, strict=True):
            param.grad = gradient
        if max_grad_norm is not None:
            clip_grads_with_norm_(self._params, max_grad_norm, norm)
        self.optimizer.step()

    @torch.no_grad()
    def _undo(self) -> None:
        torch._foreach_copy_(self._params, self._theta)
        for buffer, before in self._statistics:
            buffer.copy_(before)
        self._clear()

    def _clear(self) -> None:
        for param in self._params:
            param.grad = None


def _check_radius(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")


def _check_ratio(value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"split_ratio must be above 0 and below 1, got {value}")
