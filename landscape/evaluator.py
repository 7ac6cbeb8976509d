"""The loss at many points, evaluated in one way that is fixed at the start and then never changes.

An `Engine` says how: examples of a forward pass, layout of the tensors, precision, compilation, what BatchNorm does.
Whatever of it is chosen by timing changes the last bits of a loss, so it is part of a result's settings: equal engines
give equal bits on one device, whatever the order and the company in which the points are measured.

A point is written into tensors that are made once, theta = centre + a axis0 + b axis1 from the untouched centre, and
takes one functional call of the model over all of the data. Nothing here waits for the device but whoever reads the
sums. Memory: one theta (two with channels_last), the data, and one forward pass; nothing grows with the points.

Legend: P parameters, D axes, K points of a block, N examples, E examples whose losses are kept.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from landscape.batches import Batch, count, cut, has_images, laid_out, to_device
from landscape.batches import Layout as Layout
from landscape.objective import Objective, Reference
from landscape.passes import float32_products, naming_batches_of_one
from landscape.results import Record
from landscape.sums import sums_of

Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Batch], tuple[Tensor, Tensor]]
Precision = Literal["fp32", "tf32", "bf16"]
BatchNorm = Literal["frozen", "recalibrated", "train"]

CALIBRATION_EXAMPLES = 2048
COMPILED_TOLERANCE = {"fp32": 1e-6, "tf32": 1e-3, "bf16": 1e-2}  # relative, of the loss of a micro-batch
_USUAL = {"cpu": 64, "cuda": 1024}  # micro-batches that stay in a CPU's cache, and fill a GPU
_TRIED = {"cpu": (64, 128, 32, 256), "cuda": (1024, 256, 4096)}
_WORTH_IT = 1.1  # a choice by timing leaves the usual one only for a gain that is no noise
_COMPILE_SECONDS = 300.0  # what a surface must take before compiling, of half a minute, is tried
_COMPILE_FLOPS = {"cpu": 5e13, "cuda": 5e15}  # about that, without a clock


class CompilerError(RuntimeError):
    """The engine is compiled, and the forward pass cannot be compiled here."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a point is evaluated: all that decides the last bits of its loss.

    `micro_batch` examples go through the model at a time (0: the batches as they come). `precision` is of the forward
    pass alone; weights stay as they are, and losses are summed in float64. BatchNorm is "frozen" at its running
    statistics, has them "recalibrated" at each point on the first examples of the data (2,048, in pieces of at most 256
    where batches may be cut), or takes those of each batch ("train"), which are then part of what is measured.

    Raises:
        ValueError: If a choice is unknown, or micro_batch is negative or would cut the batches of "train".
    """

    micro_batch: int = 0
    layout: Layout = "contiguous"
    precision: Precision = "fp32"
    compiled: bool = False
    batch_norm: BatchNorm = "frozen"

    def __post_init__(self) -> None:
        for name, choices in (("layout", Layout), ("precision", Precision), ("batch_norm", BatchNorm)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        if self.micro_batch < 0:
            raise ValueError(f"micro_batch must be at least 0, got {self.micro_batch}")
        if self.micro_batch and self.batch_norm == "train":
            raise ValueError("batch_norm='train' measures the batches as they are: micro_batch must be 0")

    def record(self) -> Record:
        """The settings of a result that the engine decides."""
        return {
            "micro_batch": self.micro_batch,
            "layout": self.layout,
            "precision": self.precision,
            "compiled": self.compiled,
            "batch_norm": self.batch_norm,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluator:
    """An objective, made ready for one engine. `batches` is empty where the data is read anew on each pass.

    `examples` are the places, ascending, of those whose losses are kept one by one.
    """

    objective: Objective
    engine: Engine
    theta: Tensor  # (P,), written at each point
    params: dict[str, Tensor]  # views of theta, or copies in another layout
    batches: list[Batch]
    calibration: list[Batch]
    forward: Forward = field(repr=False)
    examples: Sequence[int] = ()

    def sums(self, centre: Tensor, axes: Tensor, points: Sequence[Sequence[float]]) -> Tensor:
        """Rows (K, num_sums + E) in float64, still on the device, at centre + sum_d points[k][d] axes[d].

        A row is the objective's sums, then the losses of `examples`.
        """
        width = self.objective.num_sums + len(self.examples)
        total = torch.zeros(len(points), width, dtype=torch.float64, device=centre.device)
        with torch.no_grad(), self.objective.undisturbed(), _precision(self.engine.precision, centre.device):
            if self.batches:
                for row, point in zip(total, points, strict=True):
                    self._write(centre, axes, point)
                    buffers, first = self._buffers(), 0
                    for batch in self.batches:
                        first += self._add(row, buffers, batch, first)
                return total
            buffers_of = []
            for point in points if self.engine.batch_norm == "recalibrated" else []:
                self._write(centre, axes, point)
                buffers_of.append(self._buffers())
            first = size = 0
            for batch in _prepared(self.objective, self.engine):  # read once for all points of the block
                for k, point in enumerate(points):
                    self._write(centre, axes, point)
                    size = self._add(total[k], buffers_of[k] if buffers_of else self._buffers(), batch, first)
                first += size
        return total

    def _add(self, row: Tensor, buffers: dict[str, Tensor], batch: Batch, first: int) -> int:
        """Add a batch, whose first example is the data's `first`, to a row; how many losses it has."""
        with _norms(self.objective.model, train=self.engine.batch_norm == "train"):
            sums, losses = self.forward(self.params, buffers, batch)
        row[: len(sums)] += sums
        low, high = (bisect.bisect_left(self.examples, place) for place in (first, first + len(losses)))
        if low < high:
            kept = losses[[place - first for place in self.examples[low:high]]]
            row[len(sums) + low : len(sums) + high] = kept
        return len(losses)

    def _write(self, centre: Tensor, axes: Tensor, point: Sequence[float]) -> None:
        torch.add(centre, axes[0], alpha=point[0], out=self.theta)
        for axis, coordinate in zip(axes[1:], point[1:], strict=True):
            self.theta.add_(axis, alpha=coordinate)
        if self.engine.layout == "channels_last":
            for name, view in self.objective.named(self.theta).items():
                self.params[name].copy_(view)

    def _buffers(self) -> dict[str, Tensor]:
        """Copies of the model's buffers, which a pass may write; recalibrated for the parameters as they are now."""
        buffers = self.objective.buffers
        if self.engine.batch_norm == "recalibrated":
            for name, _ in _batch_norms(self.objective.model):
                for statistic, start in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
                    buffers[f"{name}.{statistic}" if name else statistic].fill_(start)
            with _norms(self.objective.model, train=True, cumulative=True):
                forward = _eager(self.objective)
                for batch in self.calibration:
                    forward(self.params, buffers, batch)
        return buffers


def prepare(objective: Objective, engine: Engine, examples: Sequence[int] = ()) -> Evaluator:
    """An objective made ready for an engine: data and parameters in its layout, the forward pass compiled or not.

    The losses of `examples`, places in the data, ascending, are kept one by one.

    Raises:
        ValueError: If the engine does not suit the objective: tf32 without a GPU, recalibration without BatchNorm.
    """
    model, theta = objective.model, objective.theta.clone()
    if engine.precision == "tf32" and not theta.is_cuda:
        raise ValueError("precision tf32 is of GPUs: use fp32 or bf16")
    if engine.precision != "fp32" and theta.dtype != torch.float32:
        raise ValueError(f"precision {engine.precision} is of a float32 model, this one is {theta.dtype}")
    if engine.batch_norm == "recalibrated" and not _batch_norms(model):
        raise ValueError("there is no BatchNorm with running statistics to recalibrate: use batch_norm='frozen'")
    if engine.micro_batch and not objective.may_cut:
        raise ValueError("these batches cannot be cut: examples are not told apart in them. Use micro_batch=0")
    params = objective.named(theta)
    if engine.layout == "channels_last":
        params = {name: _in_layout(view, engine.layout) for name, view in params.items()}
    resident = isinstance(objective.batches, list | tuple)
    return Evaluator(
        objective=objective,
        engine=engine,
        theta=theta,
        params=params,
        batches=list(_prepared(objective, engine)) if resident else [],
        calibration=_calibration(objective, engine),
        forward=_compiled(objective, engine) if engine.compiled else _eager(objective),
        examples=examples,
    )


def usual(objective: Objective, engine: Engine) -> Engine:
    """`engine` with the micro-batch and layout that most networks are fastest with: by a rule, so always the same."""
    if not objective.may_cut or engine.batch_norm == "train":
        return replace(engine, micro_batch=0)
    size = _USUAL.get(objective.theta.device.type, 64)
    images = has_images(objective.shapes, _sample(objective, size))
    return replace(engine, micro_batch=size, layout="channels_last" if images else "contiguous")


def compiled_for(objective: Objective, engine: Engine, *, num_points: int) -> Engine:
    """`engine` with the forward pass compiled, where so many points take so much arithmetic that it repays.

    By a count of operations, not by a clock, so always the same on one machine. Where compiling fails, or the compiled
    pass does not agree with the plain one, the engine stays as it is.
    """
    least = _COMPILE_FLOPS.get(objective.theta.device.type, math.inf)
    if not engine.micro_batch or engine.compiled:
        return engine
    if num_points * objective.num_examples * _flops(objective) < least:
        return engine
    return _try_compiling(objective, engine)[0]


def choose(objective: Objective, engine: Engine, *, num_points: int) -> tuple[Engine, Record]:
    """`engine` with the micro-batch and layout that are fastest here, found by timing, and what was timed.

    The usual choice is left only for one that is a tenth faster. Costs about one pass over the data. Compiles where the
    surface is long enough to repay it, and the compiled pass agrees with the plain one. Another time, or on another
    machine, the choice may be another: it is part of a result's settings.
    """
    first = usual(objective, engine)
    if not first.micro_batch:
        return first, {}
    tried = _TRIED.get(objective.theta.device.type, (64,))
    layouts: list[Layout] = ["channels_last", "contiguous"] if first.layout == "channels_last" else ["contiguous"]
    budget = objective.num_examples
    timed: Record = {}
    best, best_seconds = first, math.inf
    sizes: list[tuple[int, Layout | None]] = [(first.micro_batch, layout) for layout in layouts]
    sizes += [(size, None) for size in tried if size != first.micro_batch]
    for size, layout in sizes:
        candidate = replace(best, micro_batch=size, layout=layout or best.layout)
        batch = _sample(objective, size)
        cost = 2 * count(batch)
        if timed and (cost > budget or count(batch) < size):
            continue
        budget -= cost
        seconds, _ = _timed(objective, candidate, batch)
        timed[f"{size} {candidate.layout}"] = seconds
        if seconds * _WORTH_IT < best_seconds:
            best, best_seconds = candidate, seconds
    if best_seconds * objective.num_examples * num_points > _COMPILE_SECONDS:
        best, compiling = _try_compiling(objective, best, than=best_seconds)
        return best, {"seconds_per_example": timed, "compile": compiling}
    return best, {"seconds_per_example": timed}


def backed_off(objective: Objective, engine: Engine) -> Engine:
    """The engine for a device that ran out of memory: half the micro-batch.

    Raises:
        MemoryError: If less cannot be had.
    """
    size = (engine.micro_batch or count(objective.first_batch)) // 2
    if size < 1 or not objective.may_cut or engine.batch_norm == "train":
        raise MemoryError("out of memory, and the batches cannot be made smaller")
    return replace(engine, micro_batch=size)


def reference(objective: Objective, engine: Engine) -> Reference:
    """The loss at the centre by a plain loop over a copy of the model, in full precision, with the same BatchNorm."""
    return objective.reference(
        batch_norm=engine.batch_norm, calibration=_calibration(objective, replace(engine, layout="contiguous"))
    )


def has_running_statistics(model: nn.Module) -> bool:
    """Whether the model has BatchNorm that keeps running statistics."""
    return bool(_batch_norms(model))


def _batch_norms(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return [(name, module) for name, module in found if module.running_mean is not None]


@contextlib.contextmanager
def _norms(model: nn.Module, *, train: bool, cumulative: bool = False) -> Iterator[None]:
    """Inside, BatchNorm takes the statistics of its batch, and (`cumulative`) averages all of them."""
    if not train:
        yield
        return
    modules = [module for _, module in _batch_norms(model)]
    before = [(module.training, module.momentum) for module in modules]
    try:
        for module in modules:
            module.training = True
            if cumulative:
                module.momentum = None
        with naming_batches_of_one():
            yield
    finally:
        for module, (training, momentum) in zip(modules, before, strict=True):
            module.training, module.momentum = training, momentum


@contextlib.contextmanager
def _precision(precision: Precision, device: torch.device) -> Iterator[None]:
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return
    with float32_products("tf32") if precision == "tf32" else contextlib.nullcontext():
        yield


def _prepared(objective: Objective, engine: Engine) -> Iterator[Batch]:
    return objective.pieces(micro_batch=engine.micro_batch, layout=engine.layout)


def _in_layout(tensor: Tensor, layout: Layout) -> Tensor:
    image = tensor.ndim == 4 and layout == "channels_last"
    return tensor.clone(memory_format=torch.channels_last if image else torch.contiguous_format)


def _calibration(objective: Objective, engine: Engine) -> list[Batch]:
    if engine.batch_norm != "recalibrated":
        return []
    found, num_examples = [], 0
    for piece in objective.pieces(layout=engine.layout):
        found.append(piece)
        num_examples += count(piece)
        if num_examples >= CALIBRATION_EXAMPLES:
            break
    return [batch for batch in found if count(batch) != 1] or found  # one example has no variance


def _eager(objective: Objective) -> Forward:
    """From parameters, buffers and a batch to the sums of the batch, and its losses."""
    terms = objective.batch_terms  # made here, for a compiler cannot look into how it is made

    def forward(params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        named = {f"model.{name}": tensor for name, tensor in [*params.items(), *buffers.items()]}
        found = functional_call(terms, named, (batch,))
        return sums_of(found), found.loss

    return forward


def _compiled(objective: Objective, engine: Engine) -> Forward:
    plain = _eager(objective)
    compiled = torch.compile(plain, dynamic=False)
    from torch._dynamo.exc import TorchDynamoException  # of the compiler, not of what it compiled; slow to import

    def forward(params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        whole = count(batch) == engine.micro_batch  # a short last one would be compiled for itself
        try:
            found: tuple[Tensor, Tensor] = (compiled if whole else plain)(params, buffers, batch)
        except TorchDynamoException as error:
            reason = " ".join(str(error).strip().split("\n\n")[0].split())[:200]
            raise CompilerError(
                f"the plan compiles the forward pass, and there is no working compiler here: {reason}"
            ) from error
        return found

    return forward


def _sample(objective: Objective, size: int) -> Batch:
    return next(cut(to_device(objective.first_batch, objective.theta.device), size))


def _timed(objective: Objective, engine: Engine, batch: Batch) -> tuple[float, Tensor]:
    """Seconds for an example, of the second of two passes over one micro-batch, and its sums."""
    forward = _compiled(objective, engine) if engine.compiled else _eager(objective)
    batch = laid_out(batch, engine.layout)
    params = {name: _in_layout(view, engine.layout) for name, view in objective.named(objective.theta).items()}
    buffers = objective.buffers
    with torch.no_grad(), objective.undisturbed(), _precision(engine.precision, objective.theta.device):
        forward(params, buffers, batch)[0].tolist()
        started = time.perf_counter()
        found, _ = forward(params, buffers, batch)
        found.tolist()  # waits for the device
        return (time.perf_counter() - started) / max(count(batch), 1), found


def _flops(objective: Objective) -> float:
    """Arithmetic of the forward pass for an example: counted, so the same on every machine."""
    batch, forward = _sample(objective, 2), _eager(objective)
    with torch.no_grad(), objective.undisturbed(), FlopCounterMode(display=False) as counter:
        forward(objective.named(objective.theta), objective.buffers, batch)
    return float(counter.get_total_flops() / max(count(batch), 1))


def _try_compiling(objective: Objective, engine: Engine, *, than: float = math.inf) -> tuple[Engine, Record]:
    """The compiled engine, where it can be had, agrees with the plain one on a micro-batch, and is faster than that."""
    batch, compiled = _sample(objective, engine.micro_batch), replace(engine, compiled=True)
    if count(batch) < engine.micro_batch:
        return engine, {"used": False, "reason": "the data is smaller than a micro-batch"}
    _, expected = _timed(objective, engine, batch)
    try:
        compiled_seconds, found = _timed(objective, compiled, batch)
    except Exception as error:  # whatever a compiler may raise, the plain pass is there
        return engine, {"used": False, "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    difference = float((found[0] - expected[0]).abs() / expected[0].abs())
    used = difference <= COMPILED_TOLERANCE[engine.precision] and compiled_seconds * _WORTH_IT < than
    return (compiled if used else engine), {"used": used, "difference": difference}
