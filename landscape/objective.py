"""The loss as a function of theta: mean loss, accuracy and gradient over fixed data.

theta is flat (P,): the trainable parameters in named_parameters() order, tied ones once. The model is read, never
written: every pass runs on theta's views in place of the parameters and on copies of the buffers, in eval mode,
and leaves modes, gradients, buffers and the random state as they were. Every pass starts from one fixed random state
of torch, Python and numpy, so that a shuffling loader gives the same order each time; what is random in the model
itself is found out and refused.

Legend: P parameters, N examples.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.stateless import _reparametrize_module

from landscape.batches import Batch, Layout, bytes_of, content, count, cut, laid_out, to_device
from landscape.generators import generators_of, global_states, restore, seeded_for_data, torch_seeded
from landscape.losses import (
    LossFunction,
    Reduction,
    Terms,
    check_reduction,
    check_stated_reduction,
    known,
    terms,
)
from landscape.passes import (
    STORED,
    Metric,
    Sums,
    SumsOfBatch,
    TermsOfBatch,
    as_pair,
    as_tensor,
    copied,
    float32_products,
    hooked_tensors_kept,
    in_float32,
    naming_batches_of_one,
    naming_other_dtypes,
    uncompiled,
)
from landscape.results import Array, Record
from landscape.snapshot import Snapshot, refuse_changed, refuse_rewritten_weights, refuse_written, snapshot_of
from landscape.sums import NUM_SUMS, summarise, sums_of

PIECE = 256  # at most, of the examples of a batch that go through the model at once: they stay in a cache, and fit

_FEW = 8  # examples that show what a pass does to the parameters
_SEED = 0  # of every pass
_OTHER_SEED = 1_000_003  # of passes that check it

_END = object()


class NotRepeatableError(RuntimeError):
    """Two passes at the same theta gave different losses or data: no measurement would mean anything."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss with its standard error over the examples, and accuracy (NaN where the task has none)."""

    loss: float
    standard_error: float
    accuracy: float
    num_examples: int


@dataclass(frozen=True)
class Reference:
    """The mean loss by a plain loop, and how far a rounding of the model's outputs moves it, relative to it.

    That is eps sum |dL/do| |o| / L to first order, for outputs o and the loss L summed over them: little where losses
    are large, and much where they are differences of large outputs. 0 where the loss is none of torch's own.
    """

    loss: float
    rounding: float


@dataclass(frozen=True, eq=False)
class Objective:
    """The mean loss of `model` over `batches`, as a function of its trainable parameters.

    `batches` yields (input, target) pairs, the same ones in each pass; `loss(output, target)` is any of torch's
    losses, or a callable whose `reduction` ("mean" or "sum" over the batch) is given, and is then verified.
    `metrics` are measured along with the loss on surfaces and lines: each a callable of (output, target) with one value
    for each example, whose mean is taken. For other shapes of model and batch see `from_sums`.

    The model is read when theta is first asked for, and is refused once its parameters or running statistics have
    changed: after more training make a new objective. Other buffers are measured as they were read. A model of half
    precision is measured in a float32 copy of its weights, and settings say so.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 3.0)
        >>> data = [(torch.eye(2), torch.zeros(2, 1)), (torch.zeros(1, 2), torch.ones(1, 1))]
        >>> objective = Objective(model, torch.nn.MSELoss(), data)
        >>> objective.evaluate().loss  # (9 + 9 + 1) / 3 examples: no mean of means
        6.333333333333333
    """

    model: nn.Module
    loss: LossFunction | None
    batches: Iterable[Batch]
    _: KW_ONLY
    reduction: Reduction | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    sums: Sums | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batches, Iterator):
            raise TypeError("batches can be read only once (an iterator); give a list or a loader")
        unfit = [name for name in self.metrics if not name.isidentifier()]
        if unfit:
            raise ValueError(f"a metric's name is made of letters, digits and _, got {unfit[0]!r}")
        check_stated_reduction(self.loss, self.reduction)
        object.__setattr__(self, "model", in_float32(getattr(self.model, "_orig_mod", self.model)))  # of torch.compile
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.model.modules()):
            raise ValueError("a model of torch.jit takes no parameters but its own: give the model it was made from")
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError("the model has no trainable parameters: nothing to measure (requires_grad is off)")
        kinds = {(p.dtype, p.device) for p in trainable.values()}
        if len(kinds) > 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
            found = ", ".join(sorted({f"{dtype} on {device}" for dtype, device in kinds}))
            raise ValueError(f"parameters must share one device and be float32 or float64, got {found}: model.float()?")
        refuse_rewritten_weights(self.model)

    @classmethod
    def from_sums(cls, model: nn.Module, sums: Sums, batches: Iterable[Batch]) -> Objective:
        """An objective from `sums(model, batch) -> (sum of losses, count)`, for any shape of model and batch.

        Standard errors and accuracies are NaN: sums do not show the examples.
        """
        return cls(model, None, batches, sums=sums)

    @cached_property
    def theta(self) -> Tensor:
        """The parameters (P,) as they were when first asked for: the centre of every measurement."""
        return self._read[0]

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Copies of the model's buffers, by name, as they were when theta was asked for: a pass may write them."""
        return {name: buffer.clone() for name, buffer in self._read[1].buffers.items()}

    @cached_property
    def _read(self) -> tuple[Tensor, Snapshot]:
        theta = torch.cat([p.detach().reshape(-1) for p in self._trainable.values()])
        return theta, snapshot_of(self.model, self.named(theta))

    def refuse_changed(self) -> None:
        """Refuse a model that is no longer the one whose theta was read.

        Raises:
            ValueError: If its parameters, or running statistics of its normalization layers, have changed.
        """
        refuse_changed(self.model, self._read[1])

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Parameter names with their shapes, in the order of theta."""
        return {name: p.shape for name, p in self._trainable.items()}

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of theta by parameter name."""
        pieces = torch.split(theta, [shape.numel() for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def evaluate(self, theta: Tensor | None = None) -> Evaluation:
        """Mean loss, its standard error and accuracy at theta. One forward pass over the data.

        Raises:
            ValueError: If no target counts, so that there is no mean; without a theta, if the model has changed.
        """
        if theta is None:
            self.refuse_changed()
        return self._evaluation(self.evaluation_sums(self.theta if theta is None else theta).numpy(force=True))

    def _evaluation(self, sums: Array) -> Evaluation:
        self.refuse_no_denominator(sums[1])
        loss, standard_error, accuracy = summarise(sums)
        return Evaluation(float(loss), float(standard_error), float(accuracy), int(sums[5]))

    @torch.no_grad()
    def evaluation_sums(self, theta: Tensor, *, seed: int = _SEED) -> Tensor:
        """The sums (num_sums,) in float64 behind `evaluate`, still on the device, so that many points share one sync.

        `seed` decides what the model may draw at random; nothing, in a model that can be measured.
        """
        total = torch.zeros(self.num_sums, dtype=torch.float64, device=theta.device)
        for index, piece in enumerate(self.pieces()):
            with self.undisturbed(seed + index):
                total += sums_of(self.terms(theta, piece))
        return total

    @property
    def num_sums(self) -> int:
        """How many sums a pass makes: those of `summarise`, and for each metric its sum and the sum of its squares."""
        return NUM_SUMS + 2 * len(self.metrics)

    @torch.no_grad()
    def example_denominators(self) -> Tensor:
        """What each example (N,) adds to the denominator of the mean, in float64. One pass over the data."""
        found = []
        for piece in self.pieces():
            with self.undisturbed():
                found.append(self.terms(self.theta, piece).denominator.double())
        return torch.cat(found)

    def read(self) -> Iterator[Batch]:
        """The batches of one pass, the same ones in each: a loader draws its order from a fixed random state."""
        if isinstance(self.batches, list | tuple) and self.batches:
            yield from self.batches
            return
        own = generators_of(self.batches)
        before = [generator.get_state() for generator in own]
        try:
            yield from self._read_once()
        finally:  # put back, so that the next pass has this order too
            for generator, state in zip(own, before, strict=True):
                generator.set_state(state)

    def _read_once(self) -> Iterator[Batch]:
        with torch_seeded(_SEED, self.theta.device), seeded_for_data(_SEED):
            batches, drawn = iter(self.batches), global_states()
        empty = True
        while True:
            with torch_seeded(_SEED, self.theta.device), seeded_for_data(_SEED):
                restore(drawn)
                batch, drawn = next(batches, _END), global_states()
            if batch is _END:
                break
            empty = False
            yield batch
        if empty:
            raise ValueError("batches is empty: nothing to measure on")

    @cached_property
    def may_cut(self) -> bool:
        """Whether an example's loss is its own, so that batches may be cut anywhere."""
        if self.sums is not None or not self.per_example:
            return False
        of_batches = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.running_mean is None]
        return not of_batches and count(self.first_batch) > 0

    def pieces(self, *, micro_batch: int | None = None, layout: Layout = "contiguous") -> Iterator[Batch]:
        """The data of one pass on the device, `micro_batch` examples at a time (0: as they come), in a layout.

        By default at most 256 where batches may be cut, so that memory does not grow with them.
        """
        for batch in self.read():
            for piece in self._cut(batch, micro_batch):
                yield laid_out(piece, layout)

    def _cut(self, batch: Batch, micro_batch: int | None = None) -> Iterator[Batch]:
        size = (PIECE if self.may_cut else 0) if micro_batch is None else micro_batch
        yield from cut(to_device(batch, self.theta.device), size)

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """Gradient (P,) of the mean loss at theta. One forward and backward pass over the data.

        Raises:
            ValueError: If no target counts, so that there is no mean; without a theta, if the model has changed.
        """
        if theta is None:
            self.refuse_changed()
        total, denominator = torch.zeros_like(self.theta), 0.0
        for gradient, part in self.batch_gradients(theta):
            total += gradient
            denominator += part
        self.refuse_no_denominator(denominator)
        return total / denominator

    def batch_gradients(self, theta: Tensor | None = None) -> Iterator[tuple[Tensor, float]]:
        """For each batch: the gradient (P,) of its sum of losses, and its denominator."""
        leaf = (self.theta if theta is None else theta).detach().clone().requires_grad_()
        for index, batch in enumerate(self.read()):
            gradient, denominator = torch.zeros_like(leaf), 0.0
            for piece in self._cut(batch):
                held = self.holding(self.named(leaf))
                with self.undisturbed(_SEED + index), torch.enable_grad(), held:
                    found = self.terms(leaf, piece)
                    gradient += torch.autograd.grad(found.loss.sum(), leaf)[0]
                denominator += float(found.denominator.double().sum())
            yield gradient, denominator

    def terms(self, theta: Tensor, batch: Batch) -> Terms:
        """Losses and denominators of one batch at theta, differentiable in theta. Call it inside `undisturbed()`."""
        buffers = {f"model.{name}": buffer for name, buffer in self.buffers.items()}
        parameters = {f"model.{name}": view for name, view in self.named(theta).items()}
        found: Terms = functional_call(self.batch_terms, (parameters, buffers), (to_device(batch, theta.device),))
        return found

    @contextlib.contextmanager
    def holding(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the model has these parameters, and copies of its buffers, also where a backward pass runs it again.

        That is what checkpointing does, and it would see the model's own.
        """
        with _reparametrize_module(self.model, {**params, **self.buffers}, tie_weights=True):
            yield

    @contextlib.contextmanager
    def undisturbed(self, seed: int = _SEED) -> Iterator[None]:
        """Eval mode and whole float32 inside, and nothing compiled that the model compiles.

        Afterwards modes, random state, and what hooks left in their modules are as they were, also on an error.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        with (
            torch_seeded(seed, self.theta.device),
            float32_products("ieee") if self.theta.is_cuda else contextlib.nullcontext(),
            uncompiled(self.model),
            hooked_tensors_kept(self.model),
        ):
            try:
                for module, _ in modes:
                    module.training = False
                yield
            finally:
                for module, training in modes:
                    module.training = training

    @cached_property
    def centre(self) -> Evaluation:
        """The evaluation at theta itself, made twice from different random states.

        Raises:
            NotRepeatableError: If the two differ: the model draws at random in eval mode, or the data changes.
            ValueError: If no target counts, so that there is no mean.
        """
        sums = [self.evaluation_sums(self.theta, seed=seed).numpy(force=True) for seed in (_SEED, _OTHER_SEED)]
        first, second = (float(summarise(found)[0]) for found in sums)
        # every sum bit for bit on a CPU; a GPU may add in another order
        tolerance = 1e2 * torch.finfo(self.theta.dtype).eps if self.theta.is_cuda else 0.0
        if not np.allclose(sums[0], sums[1], rtol=tolerance, atol=0.0, equal_nan=True):
            raise NotRepeatableError(
                f"two passes at the same weights gave {first:.9g} and {second:.9g}: the model draws at random in eval "
                "mode (functional dropout?), or the batches change"
            )
        return self._evaluation(sums[0])

    def refuse_no_denominator(self, denominator: float) -> None:
        """Refuse a mean over nothing, and say why there is nothing.

        Raises:
            ValueError: If the denominator is 0.
        """
        if denominator != 0:
            return
        if self.sums is not None:
            reason = "the counts of all batches add up to 0"
        else:
            targets = torch.cat([as_pair(batch)[1].reshape(-1) for batch in self.read()])
            index = getattr(known(self._loss), "ignore_index", None)
            ignored = index is not None and len(targets) > 0 and bool(targets.eq(index).all())
            reason = f"all {len(targets)} targets are ignored (ignore_index={index})"
            reason = reason if ignored else f"the {len(targets)} targets weigh nothing (class weights of 0?)"
        raise ValueError(f"{reason}: the mean loss has no denominator. Check the targets and the loss")

    @cached_property
    def denominator(self) -> float:
        """What the mean divides by: examples, valid targets or class weights, summed over the data."""
        return float(self.evaluation_sums(self.theta)[1])

    @cached_property
    def num_examples(self) -> int:
        """Examples of one pass; of an objective from sums, its counts."""
        if self.sums is not None:
            return self.centre.num_examples
        return sum(len(batch[1]) for batch in self.read())

    @property
    def per_example(self) -> bool:
        """Whether the loss of each example is known by itself."""
        return self.loss is not None and known(self.loss) is not None

    @property
    def first_batch(self) -> Batch:
        """The first batch of a pass."""
        return next(self.read())

    def reference(
        self, *, batch_norm: Literal["frozen", "recalibrated", "train"] = "frozen", calibration: Iterable[Batch] = ()
    ) -> Reference:
        """Mean loss by a plain loop over the model itself: independent of everything above, to hold it against.

        BatchNorm uses its running statistics, those of `calibration` in their place, or those of each batch. It does
        so in a copy of the model.
        """
        with self.undisturbed(_OTHER_SEED), torch.no_grad():  # so that what draws at random does not agree with itself
            model = copied(self.model)
            norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
            for norm in norms if batch_norm == "recalibrated" else []:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
                norm.train()
            with naming_batches_of_one():
                for batch in calibration:
                    batch = to_device(batch, self.theta.device)
                    _ = model(batch[0]) if self.sums is None else self.sums(model, batch)
                for norm in norms:
                    norm.train(batch_norm == "train")
                return self._plain_loop(model, whole=batch_norm == "train")

    def _plain_loop(self, model: nn.Module, *, whole: bool) -> Reference:
        total, denominator, moved = 0.0, 0.0, 0.0
        for piece in self.pieces(micro_batch=0 if whole else None):
            if self.sums is not None:
                loss, number = self.sums(model, piece)
                total, denominator = total + float(loss), denominator + float(number)
            else:
                output = as_tensor(model(piece[0])).detach()
                found = terms(self._loss, output, piece[1], reduction=self.reduction)
                total += float(found.loss.double().sum())
                denominator += float(found.denominator.double().sum())
                moved += self._moved_by_rounding(output, piece[1])
        self.refuse_no_denominator(denominator)
        rounding = moved / abs(total) if total else 0.0
        return Reference(total / denominator, rounding if math.isfinite(rounding) else 0.0)

    def _moved_by_rounding(self, output: Tensor, target: Tensor) -> float:
        if not self.per_example:
            return 0.0
        leaf = output.clone().requires_grad_()
        with torch.enable_grad():
            loss = terms(self._loss, leaf, target, reduction=self.reduction).loss.sum()
            slope = torch.autograd.grad(loss, leaf)[0]
        return torch.finfo(output.dtype).eps * float((slope * output).abs().double().nansum())  # 0 * inf: masked

    def describe(self) -> Record:
        """What is measured, on which data: the part of a result's settings that the objective decides."""
        return {
            "loss": "sums" if self.loss is None else getattr(self.loss, "__name__", type(self.loss).__name__),
            "num_examples": self.num_examples,
            "num_parameters": self.theta.numel(),
            "data_hash": self.data_hash,
            "batch_norm": "frozen",
            "mode": "eval",
            "dtype": str(self.theta.dtype).removeprefix("torch."),
            **({"stored_dtype": str(stored)} if (stored := getattr(self.model, STORED, None)) else {}),
            "device": self.theta.device.type,
            "threads": torch.get_num_threads(),
            "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
        }

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over the shapes, dtypes and bytes of all examples, in order, however they are cut into batches.

        Raises:
            NotRepeatableError: If two passes give different batches.
            TypeError: If a batch holds something whose content cannot be hashed.
        """
        first, second = self._hash_of_one_pass(), self._hash_of_one_pass()
        if first != second:
            raise NotRepeatableError(
                "two passes over the data gave different batches (augmentation, or an order of its own): "
                "give a list, or a loader that does not shuffle"
            )
        return first

    def _hash_of_one_pass(self) -> str:
        digests: dict[str, tuple[object, hashlib._Hash]] = {}  # by place in a batch: where batches end does not matter
        for batch in self.read():
            for place, kind, found in content(batch):
                known_kind, digest = digests.get(place, (None, hashlib.sha256(place.encode())))
                if kind != known_kind:
                    digest.update(repr(kind).encode())
                digest.update(found)
                digests[place] = kind, digest
        return hashlib.sha256("".join(digest.hexdigest() for _, digest in digests.values()).encode()).hexdigest()

    @cached_property
    def theta_hash(self) -> str:
        """SHA-256 over the names, shapes, dtypes and bytes of the parameters and buffers."""
        digest, before = hashlib.sha256(), self._read[1]
        params = {name: before.params.get(name, live) for name, live in self.model.named_parameters()}
        for name, tensor in {**params, **before.buffers}.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(bytes_of(tensor))
        return digest.hexdigest()

    @cached_property
    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def _loss(self) -> LossFunction:
        if self.loss is None:
            raise ValueError("this objective was made from sums and has no loss(output, target)")
        return self.loss

    @cached_property
    def batch_terms(self) -> nn.Module:
        """A module from a batch to its terms, whose child `model` is the model. Made with a pass over a few examples.

        Raises:
            ValueError: If the pass writes parameters, or the reduction of the loss is not what was stated.
        """
        if self.sums is not None:
            call: nn.Module = SumsOfBatch(self.model, self.sums)
        else:
            call = TermsOfBatch(self.model, self._loss, self.reduction, self.metrics)
        piece = next(self.pieces(micro_batch=_FEW if self.may_cut else 0))
        params = {name: view.clone() for name, view in self.named(self.theta).items()}
        state = {**params, **self.buffers}
        with self.undisturbed(), torch.no_grad(), naming_other_dtypes(piece, self.theta.dtype):
            if self.loss is not None and known(self.loss) is None:
                inputs, target = as_pair(piece)
                output = as_tensor(functional_call(self.model, state, (inputs,)))
                check_reduction(self.loss, output, target, self.reduction)
            else:
                functional_call(call, {f"model.{name}": tensor for name, tensor in state.items()}, (piece,))
        refuse_written(params, self._read[1])
        return call
