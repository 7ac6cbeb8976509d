"""Gauss-Newton and Fisher matrices as products: J' B J, with J = d outputs/d theta and B a curvature at the outputs.

    Gauss-Newton       B = d^2 loss / d output^2
    Fisher             B = s s', s = d(-log p(label | output))/d output, with labels drawn from the model's own p
    empirical Fisher   B = s s', s = d loss / d output, with the labels of the data

(Schraudolph 2002, doi:10.1162/08997660260028683; Kunstner et al. 2019, arXiv:1905.12558, on what the last is not.) B
knows nothing between examples, nor between the labels of an example that has many. J v takes two vector-Jacobian
products: J'z is linear in z, and differentiating it with respect to z gives J v; its graph does not depend on v.

Legend: N examples of a piece, C classes, P parameters; z and u in the shape of the outputs (N, C, ...).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from landscape.batches import Batch
from landscape.differentiable import (
    Sides,
    change,
    checked,
    explaining,
    refuse_cut_graphs,
    refusing_cuts,
    refusing_hidden_parameters,
)
from landscape.kernels import SecondOrder
from landscape.losses import known, terms
from landscape.objective import Objective
from landscape.products import Params, Piece, leaves_of
from landscape.results import Record

FisherKind = Literal["mc", "empirical"]
OutputProduct = Callable[[Tensor], Tensor]  # B u, in the shape of the output
OutputCurvature = Callable[[Tensor, Tensor, int], OutputProduct]  # of output, target, and the first example's number
_Linearised = tuple[Tensor, Tensor, list[Tensor | None], OutputProduct] | None  # output, z, J'z for each parameter, B

_SMALLEST = 2.0**-54  # a uniform draw of exactly 0 would be a normal one of -inf


@dataclass(frozen=True, eq=False)
class Linearised:
    """J' B J on a piece: one pass forward along v, B, and one pass back."""

    objective: Objective
    leaves: Params
    curvature: OutputCurvature
    kept: bool = True
    kernels: bool = True  # those of landscape.kernels

    def graph(self, piece: Piece) -> _Linearised:
        """The output and J'z, each with its graph, and B."""
        inputs, target = piece.batch
        kernels = SecondOrder(frozen=True, convolutions=self.kernels)
        with refusing_hidden_parameters(), torch.enable_grad(), kernels:
            output = output_at(self.objective, self.leaves, inputs)
        if not output.requires_grad:  # no parameter is used
            return None
        z = torch.linspace(1, 2, output.numel()).to(output).view_as(output).requires_grad_()  # any: J'z is linear in it
        cuts = refusing_cuts(self.objective, output) if piece.start == 0 else contextlib.nullcontext()
        with explaining(self.objective), cuts:
            back = torch.autograd.grad(output, list(self.leaves.values()), z, create_graph=True, allow_unused=True)
        if piece.start == 0:
            refuse_cut_graphs(self.objective, back)
        return output, z, list(back), self.curvature(output.detach(), target, piece.start)

    def product(self, graph: _Linearised, v: Params) -> list[Tensor | None]:
        """J' B J v for each parameter."""
        tangent = self.tangent(graph, v)
        if graph is None or tangent is None:
            return [None] * len(v)
        output, _, _, curvature = graph
        leaves = list(self.leaves.values())
        return list(torch.autograd.grad(output, leaves, curvature(tangent), retain_graph=True, allow_unused=True))

    def tangent(self, graph: _Linearised, v: Params) -> Tensor | None:
        """J v; None where no output depends on a parameter."""
        if graph is None:
            return None
        _, z, back, _ = graph
        pairs = [(b, along) for b, along in zip(back, v.values(), strict=True) if b is not None and b.requires_grad]
        if not pairs:
            return None
        adjoints, directions = zip(*pairs, strict=True)
        with explaining(self.objective):
            return torch.autograd.grad(adjoints, z, directions, retain_graph=True)[0]


def checked_against_outputs(objective: Objective) -> Record:
    """How far B J v is from the change of the loss's gradient at the outputs, as `landscape.differentiable` has it.

    Along each of three vectors two forward passes, and a graph with a product of J; B is the identity where the loss is
    one of torch's own.
    """
    return checked(objective, _sides)


def _sides(few: Objective, v: Tensor) -> Sides:
    inputs, target = few.first_batch
    rule = Linearised(few, leaves_of(few), exact(few), kernels=False)
    with few.holding(rule.leaves):
        graph = rule.graph(Piece(few.first_batch, 0))
        tangent = rule.tangent(graph, few.named(v))

    def slope(theta: Tensor) -> Tensor:
        with torch.no_grad():
            output = output_at(few, few.named(theta), inputs)
        return _slope(few, output, target).detach()

    seen = partial(change, slope, few.theta, v)
    product = torch.zeros_like(slope(few.theta)) if graph is None or tangent is None else graph[3](tangent)
    return product, seen


def _slope(objective: Objective, output: Tensor, target: Tensor) -> Tensor:
    """The gradient of the sum of losses with respect to the output, with its graph."""
    leaf = output.requires_grad_()
    with torch.enable_grad():
        total = terms(_loss_of(objective), leaf, target, reduction=objective.reduction).loss.sum()
        return torch.autograd.grad(total, leaf, create_graph=True)[0]


def exact(objective: Objective) -> OutputCurvature:
    """The Hessian of the sum of losses with respect to the output, by double backward through the loss alone."""
    _loss_of(objective)

    def curvature(output: Tensor, target: Tensor, start: int) -> OutputProduct:  # noqa: ARG001
        leaf = output.requires_grad_()
        gradient = _slope(objective, leaf, target)
        if not gradient.requires_grad:  # a loss linear in the output
            return torch.zeros_like
        return lambda u: torch.autograd.grad(gradient, leaf, u, retain_graph=True)[0]

    return curvature


def empirical(objective: Objective) -> OutputCurvature:
    """Outer products of the losses' gradients, at the labels of the data."""
    loss = _known(objective, nn.CrossEntropyLoss, nn.NLLLoss, nn.MSELoss, nn.BCEWithLogitsLoss, nn.BCELoss)
    of_classes = isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)

    def curvature(output: Tensor, target: Tensor, start: int) -> OutputProduct:  # noqa: ARG001
        leaf = output.requires_grad_()
        with torch.enable_grad():
            total = terms(loss, leaf, target, reduction=None).loss.sum()
        return _outer(torch.autograd.grad(total, leaf)[0], of_classes=of_classes)

    return curvature


def drawn(objective: Objective, seed: int) -> OutputCurvature:
    """Outer products of the gradients of -log p at one label for each target, drawn from the model's own p.

    p is the softmax of cross-entropy, whatever its smoothing; the normal distribution of variance 1/2 around the output
    for squared errors; a coin for each logit of binary cross-entropy. What a target weighs in the loss (ignored ones
    nothing) it weighs here, so that the mean over draws is the Gauss-Newton matrix. The draws of an example depend on
    `seed` and its place in the data, not on how the data is cut.

    Raises:
        ValueError: If the loss is another one, or a binary cross-entropy with weights.
    """
    module = _known(objective, nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss)
    if isinstance(module, nn.BCEWithLogitsLoss) and (module.weight is not None or module.pos_weight is not None):
        raise ValueError("Fisher with drawn labels of a weighted BCEWithLogitsLoss is not defined: drop its weights")

    def curvature(output: Tensor, target: Tensor, start: int) -> OutputProduct:
        if isinstance(module, nn.CrossEntropyLoss):
            draws = _uniforms(seed, start, (len(output), *output.shape[2:])).to(output.device)
            p = output.double().softmax(1)
            labels = (p.cumsum(1) < draws.unsqueeze(1)).sum(1).clamp_max(p.shape[1] - 1)
            weight = _weight_of_targets(module, output, target)
            scores = (p - _one_hot(labels, p)) * weight.double().sqrt().unsqueeze(1)
            return _outer(scores.to(output.dtype), of_classes=True)
        draws = _uniforms(seed, start, tuple(output.shape)).to(output.device)
        if isinstance(module, nn.MSELoss):
            scores = 2**0.5 * torch.special.ndtri(draws.clamp_min(_SMALLEST))
        else:
            p = output.double().sigmoid()
            scores = p - (draws < p).double()
        return _outer(scores.to(output.dtype), of_classes=False)

    return curvature


def output_at(objective: Objective, params: Params, inputs: Batch) -> Tensor:
    """The model's output for a piece, differentiable in `params`; its buffers are copies."""
    output: Tensor = functional_call(objective.model, (params, objective.buffers), (inputs,))
    return output


def _loss_of(objective: Objective) -> Callable[[Tensor, Tensor], Tensor]:
    if objective.loss is None:
        raise ValueError(
            "Gauss-Newton and Fisher matrices need loss(output, target), and this objective was made from sums: "
            "use Objective(model, loss, batches), or the Hessian"
        )
    return objective.loss


def _known(objective: Objective, *kinds: type[nn.Module]) -> nn.Module:
    module = known(_loss_of(objective))
    if not isinstance(module, kinds):
        name = getattr(objective.loss, "__name__", type(objective.loss).__name__)
        choices = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"this Fisher matrix is known for {choices}, got {name}: use the Gauss-Newton matrix")
    return module


def _outer(scores: Tensor, *, of_classes: bool) -> OutputProduct:
    """B u = s (s'u): over the classes of each label, or over all outputs of an example."""
    dims = (1,) if of_classes else tuple(range(1, scores.ndim))
    return lambda u: scores * (scores * u).sum(dims, keepdim=True) if dims else scores * scores * u


def _weight_of_targets(loss: nn.CrossEntropyLoss, output: Tensor, target: Tensor) -> Tensor:
    """What each target weighs in the sum of losses, whose Hessian at the output is that times diag(p) - pp'."""
    num_classes = output.shape[1]
    weight = loss.weight if isinstance(loss.weight, Tensor) else output.new_ones(num_classes)
    smooth = loss.label_smoothing / num_classes * weight.sum()
    if target.is_floating_point():
        along_classes = weight.view(-1, *[1] * (output.ndim - 2))
        return (1 - loss.label_smoothing) * (target * along_classes).sum(1) + smooth
    valid = target.ne(loss.ignore_index)
    return ((1 - loss.label_smoothing) * weight[target.where(valid, 0)] + smooth) * valid


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(labels, like.shape[1]).movedim(-1, 1).to(like)


def _uniforms(seed: int, start: int, shape: tuple[int, ...]) -> Tensor:
    """Draws in [0, 1) for examples from number `start` on: those of a counter, so that any example's can be had."""
    num_examples, per_example = shape[0], int(np.prod(shape[1:]))
    blocks = -(-per_example // 4)  # of four draws: what a step of this counter gives
    key = int.from_bytes(hashlib.sha256(f"{seed}/labels".encode()).digest()[:16])
    counter = np.random.Generator(np.random.Philox(key=key).advance(start * blocks))
    draws = counter.random(num_examples * blocks * 4).reshape(num_examples, -1)[:, :per_example]
    return torch.from_numpy(draws.reshape(shape))
