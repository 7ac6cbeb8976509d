"""The engines of a Hessian product: ways to one number, up to rounding, that differ in time and memory.

H v = d/dtheta (grad L(theta) . v) for a loss L. Double backward differentiates the gradient's graph once more
(Pearlmutter 1994, doi:10.1162/neco.1994.6.1.147) and keeps the graphs that the memory holds: a product then costs about
two gradients, and about three where the graph is built anew. Forward over reverse pushes v through the
gradient as a tangent, with less memory and nothing to keep; compiled, it is one schedule of fused kernels.
Finite differences of the gradient,

    H v = (grad L(theta + h v/||v||) - grad L(theta - h v/||v||)) ||v|| / (2 h) + O(h^2),

are no derivative: where a network has kinks they see those between the two points, and they are taken only on demand.

Legend: P parameters.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from landscape.batches import Batch, count
from landscape.differentiable import (
    checked_against_gradients,
    explaining,
    nodes_of,
    refuse_cut_graphs,
    refusing_cuts,
    refusing_hidden_parameters,
)
from landscape.kernels import SecondOrder
from landscape.losses import known, with_reduction
from landscape.objective import Objective
from landscape.products import Cutting, DataSum, Params, Piece, leaves_of, quiet, terms_at
from landscape.results import Record

ProductEngine = Literal[
    "retained",
    "recomputed",
    "forward-over-reverse",
    "compiled",
    "finite-differences",
    "finite-differences-across-kinks",
    "timed",
]

COMPILED_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-10}  # relative, of a product: ReLU nets differ by kinks
_WORTH_IT = 1.1  # a choice by timing leaves the usual engine only for a gain that is no noise
_PRODUCTS = 100  # of a usual run
_COMPILE_SECONDS = 600.0  # what such a run must take before compiling, of about a minute, is tried
_KINKS = (  # how the names of autograd's nodes begin
    *("Relu", "LeakyRelu", "Prelu", "Rrelu", "Threshold", "Hardtanh", "Hardswish", "Hardsigmoid", "Clamp", "Abs"),
    *("Max", "AdaptiveMax", "FractionalMax", "Min", "Amax", "Amin", "Hardshrink", "Softshrink"),
)


def hessian_sum(
    objective: Objective,
    engine: ProductEngine,
    *,
    cutting: Cutting,
    memory_bytes: int,
    only: frozenset[str] | None = None,
) -> tuple[DataSum, Record]:
    """The Hessian's products by an engine, with the settings that say which; the sum's checks say more.

    "retained" keeps the graphs that `memory_bytes` hold and is the fastest nearly everywhere; "timed" looks for a
    faster one. "compiled" falls back to it, with the reason, where compiling fails or a product comes out otherwise.
    Where `only` some parameters matter, what is found at the others is left open.

    Raises:
        ValueError: If the engine is unknown, has no rule for the network, or would cross kinks unasked.
    """
    if engine not in get_args(ProductEngine):
        raise ValueError(f"engine must be one of {get_args(ProductEngine)}, got {engine!r}")
    if engine == "recomputed":
        memory_bytes = 0
    rule = DoubleBackward(objective, leaves_of(objective))
    usual = DataSum(objective, rule, cutting, memory_bytes, checks=checked_against_gradients(objective))
    forward = replace(usual, rule=ForwardOverReverse(objective))
    if engine == "timed":
        return _fastest(usual, forward)
    if engine == "compiled":
        compiled_sum, reason = _compiled_sum(usual)
        if compiled_sum is None:
            return usual, {"engine": "retained", "engine_reason": reason}
        return compiled_sum, {"engine": engine}
    if engine == "forward-over-reverse":
        difference = _difference(usual, forward)  # raises where there is no rule
        if not difference <= COMPILED_TOLERANCE[objective.theta.dtype]:
            raise ValueError(
                f"forward over reverse differs by {difference:.1e} from double backward here (torch.no_grad inside the "
                "model, or a forward rule of torch's that is wrong for it): take engine='retained'"
            )
        forward.checks["forward_difference"] = difference
        return forward, {"engine": engine}
    if engine.startswith("finite-differences"):
        step = finite_difference_step(objective.theta.dtype)
        if engine == "finite-differences" and (kinks := _kinks(objective, cutting)):
            raise ValueError(
                f"finite differences would count the kinks of this network ({', '.join(kinks)}), which its Hessian "
                "does not: take engine='retained', or 'finite-differences-across-kinks' if that is what you want"
            )
        found = replace(usual, rule=FiniteDifferences(objective, step), checks={"exact": False})
        return found, {"engine": engine, "finite_difference_step": step}
    return replace(usual, rule=replace(rule, only=only)), {"engine": engine}


def finite_difference_step(dtype: torch.dtype) -> float:
    """The step that balances rounding, eps/h, against the curvature's own change, h^2: the cube root of eps.

    A length in parameter space, not a share of theta's: on a ResNet-20 with GELU in float32 products along random and
    top directions are then within 0.3 %, where a step of a share of ||theta|| is off by a third along the top one.
    """
    return math.cbrt(torch.finfo(dtype).eps)


def _fastest(usual: DataSum, forward: DataSum) -> tuple[DataSum, Record]:
    """The engine whose second product on the first piece takes least, with the seconds of a product on all of them."""
    num_pieces = sum(1 for _ in usual.pieces())
    kept = min(1.0, usual.num_kept / num_pieces)
    seconds = kept * _seconds(usual) + (1 - kept) * _seconds(replace(usual, memory_bytes=0))
    timed: Record = {"retained": num_pieces * seconds}
    best, name = usual, "retained"
    try:
        timed["forward-over-reverse"] = num_pieces * (other := _seconds(forward))
        agrees = _difference(usual, forward) <= COMPILED_TOLERANCE[usual.objective.theta.dtype]
        if agrees and other * _WORTH_IT < seconds:
            best, name, seconds = forward, "forward-over-reverse", other
    except ValueError as error:
        timed["forward-over-reverse"] = str(error)
    if num_pieces * seconds * _PRODUCTS > _COMPILE_SECONDS:
        found, timed["compiled"] = _compiled_sum(usual)
        if found is not None:
            timed["compiled"] = num_pieces * (other := _seconds(found))
            best, name = (found, "compiled") if other * _WORTH_IT < seconds else (best, name)
    best.checks["engine_seconds"] = timed
    return best, {"engine": name}


def _compiled_sum(usual: DataSum) -> tuple[DataSum | None, str]:
    """The compiled engine, where it can be had and its product on the first piece is that of double backward."""
    size = count(next(usual.pieces()).batch)
    try:
        found = replace(usual, rule=compiled(usual.objective, size), checks={})
        difference = _difference(usual, found)
    except Exception as error:  # whatever a compiler may raise, the usual engine is there
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if not difference <= COMPILED_TOLERANCE[usual.objective.theta.dtype]:
        return None, f"a compiled product differs by {difference:.1e}"
    found.checks["compiled_difference"] = difference
    return found, ""


def _difference(usual: DataSum, found: DataSum) -> float:
    """Of the products of two engines with one random vector on the first piece, relative."""
    expected, product = (_sampled(one).matvec(_probe(one.objective)).double() for one in (usual, found))
    size = float(expected.norm())
    return float((product - expected).norm()) / size if size else float(product.norm())


def _seconds(found: DataSum) -> float:
    """Of the second of two products on the first piece."""
    sample, v = _sampled(found), _probe(found.objective)
    sample.matvec(v)
    started = time.perf_counter()
    float(sample.matvec(v)[0])  # waits for the device
    return time.perf_counter() - started


def _sampled(found: DataSum) -> DataSum:
    """The same sum over the first piece alone."""
    first = next(found.pieces()).batch
    return replace(found, objective=replace(found.objective, batches=[first]), checks={})


def _probe(objective: Objective) -> Tensor:
    v = torch.randn(objective.theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return v.to(objective.theta)


def _kinks(objective: Objective, cutting: Cutting) -> list[str]:
    """The operations of the loss whose derivative jumps, by the names of autograd's nodes."""
    batch = next(objective.pieces(micro_batch=cutting.micro_batch, layout=cutting.layout))
    with quiet(objective, 0, cutting.batch_norm), torch.enable_grad():
        loss = terms_at(objective, leaves_of(objective), batch).loss.sum()
    names = {type(node).__name__.split("Backward")[0] for node in nodes_of(loss)}
    return sorted(name for name in names if name.startswith(_KINKS))


@dataclass(frozen=True, eq=False)
class DoubleBackward:
    """The gradient with its graph, differentiated once more: of all parameters, or those `only`."""

    objective: Objective
    leaves: Params
    only: frozenset[str] | None = None
    kept: bool = True
    kernels: bool = True  # those of landscape.kernels

    def graph(self, piece: Piece) -> list[Tensor | None]:
        """The gradient for each parameter, None where the loss does not depend on it."""
        kernels = SecondOrder(convolutions=self.kernels)
        with refusing_hidden_parameters(), torch.enable_grad(), kernels:
            loss = terms_at(self.objective, self.leaves, piece.batch).loss.sum()
        if not loss.requires_grad:  # no parameter is used
            return [None] * len(self.leaves)
        leaves = list(self.leaves.values())
        if piece.start > 0:
            return [*torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)]
        one = torch.ones_like(loss).requires_grad_()
        with explaining(self.objective), refusing_cuts(self.objective, loss):
            gradient: list[Tensor | None] = [
                *torch.autograd.grad(loss, leaves, one, create_graph=True, allow_unused=True)
            ]
        refuse_cut_graphs(self.objective, gradient)
        return gradient

    def product(self, graph: list[Tensor | None], v: Params) -> list[Tensor | None]:
        """One more backward pass, or the part of it that lies between the block's parameters and the loss."""
        block = {name: leaf for name, leaf in self.leaves.items() if self.only is None or name in self.only}
        parts = {name: g for name, g in zip(v, graph, strict=True) if name in block and g is not None}
        parts = {name: g for name, g in parts.items() if g.requires_grad}
        if not parts:  # a loss linear in theta
            return [None] * len(v)
        along, leaves = [v[name] for name in parts], list(block.values())
        with explaining(self.objective):
            found = torch.autograd.grad(list(parts.values()), leaves, along, retain_graph=True, allow_unused=True)
        by_name = dict(zip(block, found, strict=True))
        return [by_name.get(name) for name in v]


@dataclass(frozen=True, eq=False)
class ForwardOverReverse:
    """The gradient's derivative along v, by pushing v forward through its computation."""

    objective: Objective
    kept: bool = False

    def graph(self, piece: Piece) -> Piece:
        """The piece itself: nothing is shared between products."""
        return piece

    def product(self, graph: Piece, v: Params) -> list[Tensor | None]:
        """Forward, backward, and both along v."""

        def loss(params: Params) -> Tensor:
            return terms_at(self.objective, params, graph.batch).loss.sum()

        params = self.objective.named(self.objective.theta)
        try:
            with _without_notices():
                return list(jvp(grad(loss), (params,), (v,))[1].values())
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"no forward rule, take engine='retained': {reason}") from error


@dataclass(frozen=True, eq=False)
class Compiled:
    """Forward over reverse as one compiled function; a piece shorter than the others goes without."""

    plain: ForwardOverReverse
    size: int
    function: Callable[[Params, Params, Params, Batch], Params]
    kept: bool = False

    def graph(self, piece: Piece) -> Piece:
        """The piece itself."""
        return piece

    def product(self, graph: Piece, v: Params) -> list[Tensor | None]:
        """The compiled product."""
        if count(graph.batch) != self.size:  # it would be compiled for itself
            return self.plain.product(graph, v)
        objective = self.plain.objective
        with _without_notices():
            return list(self.function(objective.named(objective.theta), v, objective.buffers, graph.batch).values())


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Inside, torch does not tell us that its own forward rules use torch.jit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def compiled(objective: Objective, size: int) -> Compiled:
    """Forward over reverse, to be compiled when first used."""
    call = _LossSum(objective)

    def product(params: Params, v: Params, buffers: Params, batch: Batch) -> Params:
        def loss(params: Params) -> Tensor:
            named = {f"model.{name}": tensor for name, tensor in [*params.items(), *buffers.items()]}
            found: Tensor = functional_call(call, named, (batch,))
            return found

        found: Params = jvp(grad(loss), (params,), (v,))[1]
        return found

    return Compiled(ForwardOverReverse(objective), size, torch.compile(product, dynamic=False, fullgraph=True))


class _LossSum(nn.Module):
    """The sum of losses of a batch, without what a compiler cannot follow."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = objective.model, [objective]
        module = known(objective.loss) if objective.loss is not None else None
        self.summed = [None if module is None else with_reduction(module, "sum")]

    def forward(self, batch: Batch) -> Tensor:
        objective, summed = self.objective[0], self.summed[0]
        if objective.sums is not None:
            return objective.sums(self.model, batch)[0]
        inputs, target = batch
        output = self.model(inputs)
        if summed is not None:
            total: Tensor = summed(output, target)
            return total
        assert objective.loss is not None
        value = objective.loss(output, target)
        return value * len(target) if objective.reduction == "mean" else value


@dataclass(frozen=True, eq=False)
class FiniteDifferences:
    """Central differences of the gradient, `step` long on each side."""

    objective: Objective
    step: float
    kept: bool = False

    def graph(self, piece: Piece) -> Piece:
        """The piece itself: nothing is shared between products."""
        return piece

    def product(self, graph: Piece, v: Params) -> list[Tensor | None]:
        """Two gradients."""
        length = math.sqrt(sum(float(along.double().square().sum()) for along in v.values()))
        if length == 0:
            return [None] * len(v)
        ahead, behind = (self._gradient(graph.batch, v, sign * self.step / length) for sign in (1, -1))
        return [(a - b) * (length / (2 * self.step)) for a, b in zip(ahead, behind, strict=True)]

    def _gradient(self, batch: Batch, v: Params, factor: float) -> list[Tensor]:
        centre = self.objective.named(self.objective.theta)
        params = {name: torch.add(p, v[name], alpha=factor).requires_grad_() for name, p in centre.items()}
        with torch.enable_grad(), self.objective.holding(params):
            loss = terms_at(self.objective, params, batch).loss.sum()
            return list(torch.autograd.grad(loss, list(params.values()), materialize_grads=True, allow_unused=True))
