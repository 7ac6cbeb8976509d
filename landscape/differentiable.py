"""Whether the network and its loss have a second derivative, and which of their functions is to blame where not.

Autograd's own functions are differentiable or say so. A function of the model's own (torch.autograd.Function) may have
a backward that gives numbers without a graph, or takes what its forward kept, and a forward pass may detach what it
goes on with: then a product lacks, silently, what comes through there. The first is seen in the graph; the others are
looked for in finite differences, of the gradient or (`landscape.linearised`) of the outputs:

    |p - d(h)| / |d(h)|    p a product, d(h) the central difference with a step h,    noise |d(100 h) - d(h)| / |d(h)|

A fault is what does not shrink with the step: more than three times the noise. What is less, and yet more than is
allowed, decides nothing: rounding in what stays single precision, or kinks.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from landscape.batches import converted, rows, to_device
from landscape.kernels import SecondOrder
from landscape.losses import LossFunction, terms, unreduced
from landscape.objective import Objective
from landscape.passes import as_tensor, copied
from landscape.products import NotTwiceDifferentiableError, leaves_of, quiet, terms_at
from landscape.results import Record

_FEW = 4  # examples, in float64: seldom does a kink lie within a step of one of them
_MOVED, _MOVED_SEED = 1e-2, 1000  # of the length of theta
_TOLERANCE = 1e-3
_LONGER, _SURE = 100.0, 3.0  # another step, over this one; times what the two differ by
_CUTS = (
    *(torch.Tensor.detach, torch.detach, torch.Tensor.item, torch.Tensor.__float__),
    torch.Tensor.data.__get__,  # type: ignore[attr-defined]
)
_SHORT = (torch.float32, torch.bfloat16, torch.float16)
_SHORTENING = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)
_HIDDEN = "None of the inputs have requires_grad"  # a warning of torch's

STEP = 1e-6  # on each side, of a finite difference along a vector of length 1

Sides = tuple[Tensor, Callable[[float], Tensor]]  # a product, and the finite difference with a step that it is to be

_COPIES, _SHARE_OF_MEMORY = 12, 0.5  # of theta in float64, at most at once; of what there is
_WHOLE: WeakKeyDictionary[Objective, Objective] = WeakKeyDictionary()  # what a part is of
_FOUND: WeakKeyDictionary[Objective, dict[Callable[[Objective, Tensor], Sides], Record]] = WeakKeyDictionary()


def checked_against_gradients(objective: Objective) -> Record:
    """How far a product is from the change of the gradient, as `checked` has it: nine gradients and three products."""
    return checked(objective, _sides)


def checked(objective: Objective, sides: Callable[[Objective, Tensor], Sides]) -> Record:
    """How far products are from finite differences, relative, where the graph may lack something.

    That is where the model or the loss has functions of its own, or lets go of a graph: detached, or under no_grad. On
    four examples in float64, also where the model asks for less, near theta, along three random vectors, of which the
    nearest counts: a kink may lie in the way of one. NaN, and `gradient_change_undecided` in place of
    `gradient_change_ok`, where nothing is decided: the model takes no float64, differences with another step differ as
    much, or the copies would take too much memory. Once for an objective and its parts: one forward pass over these
    examples; where there is anything to be checked, `sides` three times, on a copy of the model.
    """
    whole = _WHOLE.get(objective, objective)
    found = _FOUND.setdefault(whole, {})
    if sides not in found:
        found[sides] = _checked(whole, sides)
    return dict(found[sides])


def share_checks(objective: Objective, part: Objective) -> None:
    """Let what is found of an objective hold for a part of its data: it is of the same model and loss."""
    _WHOLE[part] = _WHOLE.get(objective, objective)


def _checked(objective: Objective, sides: Callable[[Objective, Tensor], Sides]) -> Record:
    batch = to_device(objective.first_batch, objective.theta.device)
    few = replace(objective, batches=[rows(batch, slice(0, _FEW)) if objective.may_cut else batch], metrics={})
    with quiet(few, 0, "frozen"), torch.enable_grad(), refusing_hidden_parameters():
        try:
            with _Cuts() as cuts:
                loss = _loss(few, few.theta.clone().requires_grad_())
            if not cuts.seen and not any(isinstance(node, BackwardCFunction) for node in nodes_of(loss)):
                return {}
            del loss
            if (needed := _COPIES * 8 * few.theta.numel()) > _SHARE_OF_MEMORY * _memory(few.theta):
                return _undecided(f"takes {needed:,} bytes, over half of the memory")
            with _Doubling():
                found = _found(few, sides)
        except (RuntimeError, TypeError, NotTwiceDifferentiableError):  # told by the product, in its own precision
            return _undecided("the model does not run in float64, or has no second derivative there")
    if math.isnan(found):
        return _undecided("rounding or kinks hide the difference")
    return {"gradient_change": found, "gradient_change_ok": found <= _TOLERANCE}


def _undecided(reason: str) -> Record:
    return {"gradient_change": math.nan, "gradient_change_undecided": reason}


def _memory(theta: Tensor) -> float:
    """Bytes of the machine, or of its GPU what is free."""
    if theta.is_cuda:
        return torch.cuda.mem_get_info(theta.device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


class _Cuts(TorchFunctionMode):
    """Inside, sees whether numbers that need a gradient are gone on with without one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        needed = any(isinstance(one, Tensor) and one.requires_grad for one in args)
        found = func(*args, **(kwargs or {}))
        made_without = not torch.is_grad_enabled() and isinstance(found, Tensor) and found.is_floating_point()
        self.seen |= needed and (made_without or func in _CUTS)
        return found


class _Doubling(TorchFunctionMode):
    """Inside, what asks for less than double precision has that: norms and attention that say torch.float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        func = torch.Tensor.double if func in _SHORTENING else func
        return func(*map(_longer, args), **{name: _longer(one) for name, one in (kwargs or {}).items()})


def _longer(argument: Any) -> Any:  # noqa: ANN401
    return torch.float64 if isinstance(argument, torch.dtype) and argument in _SHORT else argument


def _found(few: Objective, sides: Callable[[Objective, Tensor], Sides]) -> float:
    """How far products are from finite differences along the nearest of three vectors.

    One of torch's losses, which needs no check and may be so small that differences of it are rounding, gives way to
    the sum of squares. But to a loss may be nothing what the squares see, as a shift of all logits is to cross-entropy:
    where they fail it is taken itself, of outputs so much smaller that it is not small. NaN where it counts no target.
    """
    doubled = _doubled(few)
    if not few.per_example:
        return _nearest(doubled, sides)
    found = _nearest(replace(doubled, loss=_squares, reduction="sum"), sides)
    if found <= _TOLERANCE:
        return found
    inputs, target = doubled.first_batch
    output = as_tensor(doubled.model(inputs)).detach()
    loss = unreduced(doubled.loss) if doubled.loss else None
    if loss is None or not bool(terms(loss, output, target, reduction=None).denominator.any()):
        return math.nan
    largest = max(1.0, float(output.abs().max()))
    own = replace(doubled, loss=partial(_sum_of_smaller, loss, largest), reduction="sum")
    return _nearest(own, sides) or found  # 0: a loss linear in the outputs sees nothing


def _nearest(few: Objective, sides: Callable[[Objective, Tensor], Sides]) -> float:
    decided = [off for seed in range(3) if not math.isnan(off := _off(*sides(few, _direction(few, seed))))]
    return min(decided, default=math.nan)


def _off(product: Tensor, seen: Callable[[float], Tensor]) -> float:
    """How far a product is from the finite difference, with the step that is the better one; NaN if noise is as far."""
    short = seen(STEP)
    if (off := distance(product, short)) <= _TOLERANCE:
        return off
    longer = seen(_LONGER * STEP)
    if (nearer := distance(product, longer)) <= _TOLERANCE:
        return nearer
    return off if off > _SURE * distance(longer, short) else math.nan


def _doubled(few: Objective) -> Objective:
    """The same in float64, of a copy of the model, its parameters moved off what may be a kink, and of the loss.

    Where biases are 0, as before training, many a ReLU is given exactly 0.
    """
    model = copied(few.model).double()
    moved = few.theta.double()
    moved += _MOVED * float(moved.norm()) * _direction(few, _MOVED_SEED)
    with torch.no_grad():
        for name, view in few.named(moved).items():
            model.get_parameter(name).copy_(view)
    batches = [converted(few.first_batch, torch.float64)]
    loss = copy.deepcopy(few.loss).double() if isinstance(few.loss, nn.Module) else few.loss
    return replace(few, model=model, loss=loss, batches=batches)


def _squares(output: Tensor, _target: Tensor) -> Tensor:
    return output.square().sum() / 2


def _sum_of_smaller(loss: LossFunction, largest: float, output: Tensor, target: Tensor) -> Tensor:
    return loss(output / largest, target).sum()


def _direction(few: Objective, seed: int) -> Tensor:
    v = torch.randn(few.theta.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return v.div_(v.norm()).to(few.theta)


def _loss(few: Objective, leaf: Tensor) -> Tensor:
    with SecondOrder(convolutions=False):
        return terms_at(few, few.named(leaf), few.first_batch).loss.sum()


def _slope(few: Objective, theta: Tensor) -> Tensor:
    leaf = theta.detach().requires_grad_()
    with few.holding(few.named(leaf)):
        return torch.autograd.grad(_loss(few, leaf), leaf)[0]


def _sides(few: Objective, v: Tensor) -> Sides:
    leaf = few.theta.clone().requires_grad_()
    with few.holding(few.named(leaf)):
        loss = _loss(few, leaf)
        if not loss.requires_grad:  # all of the graph is cut
            return torch.zeros_like(loss), partial(change, partial(_loss, few), few.theta, v)
        gradient = torch.autograd.grad(loss, leaf, create_graph=True)[0]
        zero = torch.zeros_like(v)
        product = torch.autograd.grad(gradient, leaf, v)[0] if gradient.requires_grad else zero
    return product, partial(change, partial(_slope, few), few.theta, v)


def change(of: Callable[[Tensor], Tensor], theta: Tensor, v: Tensor, step: float) -> Tensor:
    """The central difference of a function of theta along v."""
    ahead = of(torch.add(theta, v, alpha=step))
    return ahead.sub_(of(torch.sub(theta, v, alpha=step))).div_(2 * step)


def distance(product: Tensor, change: Tensor) -> float:
    """Of a product from what it is to be, relative to that where it is not zero."""
    size = float(change.norm())
    return float((product - change).norm()) / size if size else float(product.norm())


@contextlib.contextmanager
def refusing_hidden_parameters() -> Iterator[None]:
    """Around a forward pass: a block under reentrant checkpointing, whose input needs no gradient, has none itself."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=_HIDDEN)
            yield
    except UserWarning as error:
        if _HIDDEN not in str(error):
            raise
        raise NotTwiceDifferentiableError(
            "reentrant checkpointing hides the parameters of its block: checkpoint(..., use_reentrant=False)"
        ) from error


@contextlib.contextmanager
def explaining(objective: Objective) -> Iterator[None]:
    """Inside, what autograd says of a second derivative that does not exist becomes an error that names functions."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise NotTwiceDifferentiableError(_explained(objective, str(error))) from error


@contextlib.contextmanager
def refusing_cuts(objective: Objective, output: Tensor) -> Iterator[None]:
    """Around the first backward through `output`, from a gradient that requires one itself.

    A backward is linear in the gradient that comes in. One that gives numbers without a graph in return (torch.no_grad
    or numpy inside) has cut it, and a product would lack, silently, what comes through there.
    """
    cut: set[str] = set()

    def look(node: Any, found: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> None:  # noqa: ANN401
        if not any(gradient is not None and gradient.requires_grad for gradient in given):
            return
        for gradient, (into, _) in zip(found, node.next_functions, strict=True):
            if gradient is None or into is None or gradient.requires_grad:
                continue
            if bool(gradient.count_nonzero()):
                cut.add(type(node).__name__)

    own = [node for node in nodes_of(output) if isinstance(node, BackwardCFunction)]
    hooks = [node.register_hook(partial(look, node)) for node in own]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if cut:
        raise NotTwiceDifferentiableError(_explained(objective, f"{', '.join(sorted(cut))} gives no graph of its own"))


def refuse_cut_graphs(objective: Objective, gradient: Sequence[Tensor | None]) -> None:
    """Refuse a gradient with functions in it whose backward is marked as differentiable once.

    torch raises only where the error's node is run, which `autograd.grad` takes for unneeded: the product would lack
    what comes through it, silently.
    """
    if any(type(node).__name__ == "Error" for node in nodes_of(*[g for g in gradient if g is not None])):
        raise NotTwiceDifferentiableError(_explained(objective, "a backward is marked as differentiable only once"))


def _explained(objective: Objective, reason: str) -> str:
    """Why there is no second derivative, with the functions of the model's own that may be to blame."""
    batch = to_device(objective.first_batch, objective.theta.device)
    with quiet(objective, 0, "frozen"), torch.enable_grad():
        loss = terms_at(objective, leaves_of(objective), batch).loss.sum()
    own = sorted({type(node).__name__ for node in nodes_of(loss) if isinstance(node, BackwardCFunction)})
    suspects = f" (functions of its own: {', '.join(own)})" if own else ""
    return (
        f"the model or its loss has no second derivative{suspects}: {' '.join(reason.split())[:300]}. "
        "Give such a function a differentiable backward, or take engine='finite-differences'"
    )


def nodes_of(*values: Tensor) -> Iterator[Any]:
    """The nodes of the graph that made the values."""
    waiting, seen = [value.grad_fn for value in values], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [parent for parent, _ in node.next_functions]
