"""Steps of training methods around any torch optimizer: plain descent, SAM, ASAM, Agnostic-SAM.

    plain         g_B(theta)
    SAM           g_B(theta + rho u_B(theta))
    ASAM          g_B(theta + rho T^2 g_B(theta) / ||T g_B(theta)||)
    Agnostic-SAM  g_Bt(theta + rho1 u_Bt(theta) - rho2 u_Bv(theta + rho2 u_Bv(theta)))

is the gradient that the optimizer gets, taken at the right point and applied at theta.

Legend: theta the parameters that the optimizer updates; g_B the gradient of its mean loss on B; u_B = g_B / ||g_B||
with one 2-norm over all of theta, and 0 where that norm is 0; Bt, Bv the first and second part of B; T diagonal, of
|theta| + eta for parameters with "weight" in their name, and of 1 for the others.

Running statistics of BatchNorm move in the pass at theta over what is trained on (B, or Bt), and in no other. A step
whose loss or gradient is not finite, in any of its passes, is not taken: parameters, optimizer and statistics stay as
they were. Clipping concerns the last gradient only: the others are normalized. Schedulers belong to the optimizer that
is wrapped.

Every method takes the same options. `m` perturbs chunks of m examples, each on its own, and averages the gradients
found there (m-sharpness, Foret et al. 2021, section 3). With `same_rng` all passes of a step draw the same dropout
masks, and the global generators end where one pass leaves them. A batch may be `MicroBatches`.

Under torch.distributed, with a batch of its own in each process, `sync="local"` climbs in each process along its own
gradient (m-sharpness, m the examples of a process) and steps with the mean of the gradients found there;
`sync="global"` climbs along the mean gradient: the step of one process that has all examples, but for BatchNorm. Means
are over examples, of which processes may have different numbers, at least one each. `Parts` is a batch that is split
already, for methods that split. A model in DistributedDataParallel takes no `sync`: it takes the mean over processes in
every pass.

With a `scaler` (torch.amp.GradScaler, for float16), `step` does all that concerns it: directions are normalized and
need no unscaling, the last gradient is unscaled, clipped and stepped with, and the scale is updated; if any pass was
not finite the scale backs off. Do not call the scaler outside. Autocast belongs into `loss`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from train.batches import MicroBatches, Parts, groups, split, weighted
from train.distributed import Sync
from train.steps import Core, Loss, frozen_statistics

__all__ = ["ASAM", "SAM", "AgnosticSAM", "Descent", "Method", "MicroBatches", "Parts", "SubsetSAM", "frozen_statistics"]

B = TypeVar("B")  # a batch: a tensor, or a tuple, list or dict of tensors (or of such), examples first
Variant = Literal["full", "simple"]


class Method(Protocol):
    """One training step, whatever the method."""

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        ...

    def step(
        self,
        loss: Loss[B],
        batch: B | Parts[B] | MicroBatches[B],
        *,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> Tensor:
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

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, sync: Sync | None = None) -> None:
        self._core = Core(model, optimizer, sync=sync)

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._core.num_skipped

    def step(
        self,
        loss: Loss[B],
        batch: B | Parts[B] | MicroBatches[B],
        *,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> Tensor:
        """Take one step with g_B(theta); the loss of B at theta."""
        core = self._core
        with core.attempt(scaler, max_grad_norm):
            for whole in weighted(groups(batch)):
                core.pass_at_theta(loss, whole, last=True)
        return core.loss

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

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        rho: float = 0.05,
        m: int | None = None,
        same_rng: bool = False,
        sync: Sync | None = None,
    ) -> None:
        _check_radius("rho", rho)
        self.rho, self.m = rho, m
        self._core = Core(model, optimizer, same_rng=same_rng, sync=sync)

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._core.num_skipped

    def step(
        self,
        loss: Loss[B],
        batch: B | Parts[B] | MicroBatches[B],
        *,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> Tensor:
        """Take one step; the loss of B at theta.

        Raises:
            ValueError: If the optimizer holds nothing to train.
        """
        core = self._core
        with core.attempt(scaler, max_grad_norm):
            for whole in weighted(groups(batch, m=self.m)):
                gradient = core.pass_at_theta(loss, whole)
                core.move_((self.rho, gradient))
                core.pass_(loss, whole, last=True)
        return core.loss

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and the count of skipped steps."""
        return self._core.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._core.load_state_dict(state)


class ASAM:
    """Adaptive SAM: the perturbation of a weight grows with its size. Two passes over the batch.

    Kwon et al. 2021, arXiv:2102.11600, algorithm 1, as the authors' code has it: parameters with "weight" in their name
    are scaled (scales of norm layers too), all others are climbed as in SAM.

    Raises:
        ValueError: If `rho` or `eta` is negative or not finite, or the model has no name for one of the parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        rho: float = 0.5,
        eta: float = 0.01,
        m: int | None = None,
        same_rng: bool = False,
        sync: Sync | None = None,
    ) -> None:
        _check_radius("rho", rho)
        _check_radius("eta", eta)
        self.rho, self.eta, self.m = rho, eta, m
        self._core = Core(model, optimizer, same_rng=same_rng, sync=sync)
        self._names: dict[Tensor, str] = {param: name for name, param in model.named_parameters()}
        self._check_named([param for group in optimizer.param_groups for param in group["params"]])

    @property
    def scaled_names(self) -> list[str]:
        """Names of the parameters whose perturbation is scaled by |theta| + eta."""
        return [name for name in self._names.values() if "weight" in name]

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._core.num_skipped

    def step(
        self,
        loss: Loss[B],
        batch: B | Parts[B] | MicroBatches[B],
        *,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> Tensor:
        """Take one step; the loss of B at theta.

        Raises:
            ValueError: If the optimizer holds nothing to train, or a parameter that is not of the model.
        """
        core = self._core
        with core.attempt(scaler, max_grad_norm):
            self._check_named(core.params)
            scaled = ["weight" in self._names[param] for param in core.params]
            for whole in weighted(groups(batch, m=self.m)):
                gradient = core.pass_at_theta(loss, whole)
                core.move_adaptively_(self.rho, gradient, scaled=scaled, eta=self.eta)
                core.pass_(loss, whole, last=True)
        return core.loss

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and the count of skipped steps."""
        return self._core.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._core.load_state_dict(state)

    def _check_named(self, params: list[Tensor]) -> None:
        nameless = [tuple(param.shape) for param in params if param not in self._names]
        if nameless:
            raise ValueError(
                f"ASAM scales by name, but the model has no name for {len(nameless)} of the optimizer's parameters "
                f"(the first has shape {nameless[0]}): give the model that they belong to"
            )


class SubsetSAM:
    """SAM on the first part of each batch; the second is dropped.

    The control for Agnostic-SAM: it trains on the same examples, with the same batch statistics.

    Raises:
        ValueError: If `rho` is negative or not finite, or `split_ratio` is not between 0 and 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        rho: float = 0.05,
        split_ratio: float = 0.7,
        m: int | None = None,
        same_rng: bool = False,
        sync: Sync | None = None,
    ) -> None:
        _check_radius("rho", rho)
        _check_ratio(split_ratio)
        self.rho, self.split_ratio, self.m = rho, split_ratio, m
        self._core = Core(model, optimizer, same_rng=same_rng, sync=sync)

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._core.num_skipped

    def step(
        self,
        loss: Loss[B],
        batch: B | Parts[B] | MicroBatches[B],
        *,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> Tensor:
        """Take one step; the loss of Bt at theta.

        Raises:
            ValueError: If the batch is too small to split.
        """
        core = self._core
        pieces = groups(batch, m=self.m)
        first = [[split(piece, self.split_ratio, model=core.model)[0] for piece in group] for group in pieces]
        with core.attempt(scaler, max_grad_norm):
            for trained in weighted(first):
                gradient = core.pass_at_theta(loss, trained)
                core.move_((self.rho, gradient))
                core.pass_(loss, trained, last=True)
        return core.loss

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and the count of skipped steps."""
        return self._core.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._core.load_state_dict(state)


class AgnosticSAM:
    """Agnostic-SAM: climb on Bt, descend on Bv, and step with the gradient of Bt there.

    arXiv:2406.07107, algorithm 1; each gradient is divided by its own 2-norm. `variant="simple"` takes u_Bv at theta
    instead of at theta + rho2 u_Bv(theta). Bt is the first part of the batch as it comes, so batches must be shuffled;
    for the paper's Non-overlap give batches whose parts come from two fixed halves of the data
    (`train.batches.nonoverlapping_order`). Cost in passes over the whole batch: 2 (full), 1 + split_ratio (simple).

    The paper's theorem 2 says that with unnormalized steps eta1, eta2 in the place of the radii the product
    g_Bt(theta_t) . g_Bv(theta_v) is at least 1/2 (or 3/2, if negative) of g_Bt(theta) . g_Bv(theta_v). What holds is
    g_Bt(theta_t) = g_Bt + H_Bt (eta1 g_Bt - eta2 g_Bv(theta_v)) up to second order in the steps, exactly on quadratics;
    there the theorem's own steps give 3/4 and 5/4. The expansion in its proof, with 2 eta1 and one more term with H_Bv,
    differentiates theta_t, which the algorithm does not; it is off already in first order.

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
        m: int | None = None,
        same_rng: bool = False,
        sync: Sync | None = None,
    ) -> None:
        _check_radius("rho1", rho1)
        _check_radius("rho2", rho2)
        _check_ratio(split_ratio)
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {get_args(Variant)}, got {variant!r}")
        self.rho1, self.rho2, self.split_ratio, self.variant, self.m = rho1, rho2, split_ratio, variant, m
        self._core = Core(model, optimizer, same_rng=same_rng, sync=sync)

    @property
    def num_skipped(self) -> int:
        """How many steps were not taken because a loss or gradient was not finite."""
        return self._core.num_skipped

    def step(
        self,
        loss: Loss[B],
        batch: B | Parts[B] | MicroBatches[B],
        *,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> Tensor:
        """Take one step; the loss of Bt at theta.

        Raises:
            ValueError: If the batch is too small to split.
        """
        core = self._core
        parts = [
            [split(piece, self.split_ratio, model=core.model) for piece in group] for group in groups(batch, m=self.m)
        ]
        first = weighted([[part[0] for part in group] for group in parts])
        second = weighted([[part[1] for part in group] for group in parts])
        with core.attempt(scaler, max_grad_norm):
            for trained, held_out in zip(first, second, strict=True):
                gradient_t = core.pass_at_theta(loss, trained)
                gradient_v = core.pass_(loss, held_out)
                if self.variant == "full":
                    core.move_((self.rho2, gradient_v))
                    gradient_v = core.pass_(loss, held_out)
                core.move_((self.rho1, gradient_t), (-self.rho2, gradient_v))
                core.pass_(loss, trained, last=True)
        return core.loss

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimizer, and the count of skipped steps."""
        return self._core.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._core.load_state_dict(state)


def _check_radius(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")


def _check_ratio(value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"split_ratio must be above 0 and below 1, got {value}")
