"""Products of a curvature of the mean loss with vectors, as a sum over pieces of the data.

A v = (1/D) sum_b A_b v, with A_b of the sum of losses of piece b and D the denominator of all pieces, so that a short
last piece weighs what it holds. How A_b v is made is a `Rule`: a graph that does not depend on v, and what follows from
it. As many graphs as the memory holds are kept; the other pieces build theirs anew for each product. Both have the
same bits, so that what is kept may differ from machine to machine.

Legend: P parameters, K vectors (rows), D denominator of the mean loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batches import Batch, Layout, count, has_images
from landscape.losses import Terms
from landscape.objective import Objective
from landscape.passes import naming_batches_of_one
from landscape.results import Record

BatchNorm = Literal["frozen", "train"]
Params = dict[str, Tensor]
Graph = Any  # what a rule needs of a piece to make products from it

_USUAL = {"cpu": 64}  # examples of a piece: activations that stay in a cache. Elsewhere, the batches as they come
_CPU_BYTES = 2 << 30  # for graphs that are kept, where nobody says
_SHARE_OF_FREE = 0.5  # of a GPU's memory, for the same


class NotTwiceDifferentiableError(ValueError):
    """The model or the loss holds something that has a first derivative only."""


@dataclass(frozen=True)
class Piece:
    """Examples that go through the model together, the first of which is number `start` of the data."""

    batch: Batch
    start: int


class Rule(Protocol):
    """How a product is made on one piece: a graph that does not depend on the vector, and what follows from it."""

    @property
    def kept(self) -> bool:
        """Whether a graph is worth its memory."""

    def graph(self, piece: Piece) -> Graph:
        """What all products on this piece share."""

    def product(self, graph: Graph, v: Params) -> list[Tensor | None]:
        """The product, for each parameter."""


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How the data is cut into pieces: `micro_batch` examples each (0: the batches as they come), in a layout."""

    micro_batch: int
    layout: Layout
    batch_norm: BatchNorm = "frozen"


def usual_cutting(objective: Objective, *, micro_batch: int | None = None, batch_norm: BatchNorm) -> Cutting:
    """The pieces that most networks are fastest with, by a rule, so always the same.

    Raises:
        ValueError: If a micro-batch is asked for where batches cannot be cut.
    """
    whole = batch_norm == "train" or not objective.may_cut
    if whole and micro_batch:
        reason = "of batch_norm='train' are part of what is measured" if batch_norm == "train" else "cannot be cut"
        raise ValueError(f"the batches {reason}: micro_batch must be 0, got {micro_batch}")
    on_cpu = objective.theta.device.type == "cpu"
    size = _USUAL.get(objective.theta.device.type, 0) if micro_batch is None else micro_batch
    images = on_cpu and not whole and has_images(objective.shapes, objective.first_batch)
    return Cutting(
        micro_batch=0 if whole else size,
        layout="channels_last" if images else "contiguous",
        batch_norm=batch_norm,
    )


def usual_memory(objective: Objective) -> int:
    """Bytes for graphs that are kept: 2 GiB on a CPU, half of what is free on a GPU."""
    if objective.theta.is_cuda:
        return int(_SHARE_OF_FREE * torch.cuda.mem_get_info(objective.theta.device)[0])
    return _CPU_BYTES


@dataclass(eq=False)
class Kept:
    """The graphs of the first pieces, how many of them the memory holds (if known), and whether these are all."""

    graphs: list[Graph] = field(default_factory=list, repr=False)
    room: int | None = None
    whole: bool = False


@dataclass(eq=False)
class DataSum:
    """The sum over all pieces of the data of a rule's products, divided by the denominator of the mean.

    A device that runs out of memory gives up the graphs that are kept, then half of each piece, and goes on; `checks`
    says so, and what they say is gone on with: a ledger (landscape.ledger) keeps them with each product.
    """

    objective: Objective = field(repr=False)
    rule: Rule = field(repr=False)
    cutting: Cutting
    memory_bytes: int
    checks: Record = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept, init=False)  # of this sum alone, or shared with others of the same rule

    def matvec(self, v: Tensor) -> Tensor:
        """The product with one vector (P,)."""
        return self.matvecs(v[None])[0]

    def matvecs(self, vectors: Tensor) -> Tensor:
        """The products with vectors (K, P), which share the graphs that are not kept."""
        theta = self.objective.theta
        if vectors.shape[1:] != theta.shape or not vectors.is_floating_point():
            found = f"{tuple(vectors.shape[1:])} of {vectors.dtype}"
            raise ValueError(f"a product takes a vector of {len(theta):,} floating-point numbers, got {found}")
        while True:
            self._heed_checks()
            try:
                return self._pass(vectors) / self.objective.denominator
            except torch.OutOfMemoryError:
                pass  # and let go of what the failed pass held, before the next
            except (RuntimeError, NotTwiceDifferentiableError) as error:
                if not getattr(self.rule, "kernels", False):
                    raise
                self._leave_kernels(error)
                continue
            self._back_off()

    def _heed_checks(self) -> None:
        """Go on as this sum had to, or the one that was stopped and whose checks these are."""
        if "out_of_memory" in self.checks:
            self.kept.room = 0
        if isinstance(size := self.checks.get("micro_batch_that_fits"), int):
            self.cutting = replace(self.cutting, micro_batch=size)
        if "kernels" in self.checks and getattr(self.rule, "kernels", False):
            self.rule = replace(self.rule, kernels=False)  # type: ignore[type-var]

    def _leave_kernels(self, error: Exception) -> None:
        """Go on with torch's own kernels, which some ways to write a model need; their error is the one to be told."""
        self.kept.graphs.clear()
        self.kept.room, self.kept.whole = None, False
        self.checks["kernels"] = f"torch's own: {type(error).__name__}: {' '.join(str(error).split())[:120]}"

    def _pass(self, vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        rows = [(self.objective.named(v), self.objective.named(row)) for v, row in zip(vectors, total, strict=True)]
        with self._held():
            for index, graph in enumerate(self._graphs()):
                with quiet(self.objective, index, self.cutting.batch_norm):
                    for v, row in rows:
                        for there, product in zip(row.values(), self.rule.product(graph, v), strict=True):
                            if product is not None:
                                there += product
        return total

    def _held(self) -> contextlib.AbstractContextManager[None]:
        """What a rule differentiates at stays in the model, for a backward pass that runs parts of it again."""
        leaves = getattr(self.rule, "leaves", None)
        return contextlib.nullcontext() if leaves is None else self.objective.holding(leaves)

    def _graphs(self) -> Iterator[Graph]:
        kept, index = self.kept, -1
        if kept.whole:
            yield from kept.graphs
            return
        for index, piece in enumerate(self.pieces()):
            if index < len(kept.graphs):
                yield kept.graphs[index]
                continue
            with quiet(self.objective, index, self.cutting.batch_norm):
                graph = self.rule.graph(piece)
            if index < self.num_kept:
                kept.graphs.append(graph)
            yield graph
        kept.whole = len(kept.graphs) == index + 1

    @torch.no_grad()
    def loss(self) -> float:
        """The mean loss as the products see it: with BatchNorm as it is in them."""
        params, total = self.objective.named(self.objective.theta), 0.0
        for index, piece in enumerate(self.pieces()):
            with quiet(self.objective, index, self.cutting.batch_norm):
                total += float(terms_at(self.objective, params, piece.batch).loss.double().sum())
        return total / self.objective.denominator

    @property
    def num_kept(self) -> int:
        """As many graphs as the memory holds."""
        if not self.rule.kept or not self.memory_bytes:
            return 0
        if self.kept.room is None:
            with quiet(self.objective, 0, self.cutting.batch_norm), self._held():
                self.kept.room = self.memory_bytes // max(_graph_bytes(self.rule, next(self.pieces())), 1)
        return self.kept.room

    def pieces(self) -> Iterator[Piece]:
        """The data, cut as it is used."""
        start = 0
        for batch in self.objective.pieces(micro_batch=self.cutting.micro_batch, layout=self.cutting.layout):
            yield Piece(batch, start)
            start += len(batch[1]) if self.objective.sums is None else count(batch)

    def _back_off(self) -> None:
        torch.cuda.empty_cache()
        self.kept.whole = False
        if self.kept.graphs:
            self.kept.graphs.clear()
            self.checks["out_of_memory"] = "no graphs are kept"
            return
        size = (self.cutting.micro_batch or count(self.objective.first_batch)) // 2
        if size < 1 or not self.objective.may_cut or self.cutting.batch_norm == "train":
            raise MemoryError("out of memory, and the batches cannot be made smaller")
        self.checks["micro_batch_that_fits"] = size
        self.checks["out_of_memory"] = f"micro-batches of {size}, no graphs are kept"


@contextlib.contextmanager
def quiet(objective: Objective, index: int, batch_norm: BatchNorm) -> Iterator[None]:
    """What every product on a piece is made in: an objective undisturbed, and attention by its plain kernel.

    The fused attention kernels have no second derivative.
    """
    with objective.undisturbed(index), sdpa_kernel(SDPBackend.MATH), naming_batches_of_one():
        if batch_norm == "train":
            for module in objective.model.modules():
                module.training = isinstance(module, _BatchNorm)
        yield


def terms_at(objective: Objective, params: Params, batch: Batch) -> Terms:
    """Losses and denominators of a piece, differentiable in `params`; its buffers are copies."""
    buffers = {f"model.{name}": buffer for name, buffer in objective.buffers.items()}
    found: Terms = functional_call(
        objective.batch_terms, ({f"model.{name}": p for name, p in params.items()}, buffers), (batch,)
    )
    return found


def leaves_of(objective: Objective) -> Params:
    """The parameters at theta, to differentiate with respect to: one set for all graphs."""
    return {name: view.requires_grad_() for name, view in objective.named(objective.theta.clone()).items()}


def _graph_bytes(rule: Rule, piece: Piece) -> int:
    """Bytes that the graph of a piece holds on to."""
    saved: dict[int, int] = {}

    def count_once(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(count_once, lambda tensor: tensor):
        made = rule.graph(piece)
    del made  # until here every storage was alive, so that no address was counted for two
    return sum(saved.values())
