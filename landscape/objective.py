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
import copy
import hashlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batches import Batch, Layout, bytes_of, content, count, cut, laid_out, to_device
from landscape.losses import (
    LossFunction,
    Reduction,
    Terms,
    check_reduction,
    check_stated_reduction,
    known,
    terms,
    unreduced,
)
from landscape.results import Array, Record

Sums = Callable[[nn.Module, Batch], tuple[Tensor, Tensor | float]]
Metric = Callable[[Tensor, Tensor], Tensor]  # of (output, target) for each example of a batch: (B,)

PIECE = 256  # at most, of the examples of a batch that go through the model at once: they stay in a cache, and fit

_SEED = 0  # of every pass
_OTHER_SEED = 1_000_003  # of passes that check it

_HALF = (torch.float16, torch.bfloat16)
_STORED = "_dtype_before_float32"  # attribute of a copy in float32

_END = object()
NUM_SUMS = 8  # loss, denominator, loss^2, loss * denominator, denominator^2, examples, correct, targets


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

    A model of half precision is measured in a float32 copy of its weights, and settings say so.

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
        object.__setattr__(self, "model", _in_float32(self.model))
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError("the model has no trainable parameters: nothing to measure (requires_grad is off)")
        kinds = {(p.dtype, p.device) for p in trainable.values()}
        if len(kinds) > 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
            found = ", ".join(sorted({f"{dtype} on {device}" for dtype, device in kinds}))
            raise ValueError(f"parameters must share one device and be float32 or float64, got {found}: model.float()?")
        _refuse_rewritten_weights(self.model)

    @classmethod
    def from_sums(cls, model: nn.Module, sums: Sums, batches: Iterable[Batch]) -> Objective:
        """An objective from `sums(model, batch) -> (sum of losses, count)`, for any shape of model and batch.

        Standard errors and accuracies are NaN: sums do not show the examples.
        """
        return cls(model, None, batches, sums=sums)

    @cached_property
    def theta(self) -> Tensor:
        """The parameters (P,) as they were when first asked for: the centre of every measurement."""
        return torch.cat([p.detach().reshape(-1) for p in self._trainable.values()])

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Parameter names with their shapes, in the order of theta."""
        return {name: p.shape for name, p in self._trainable.items()}

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of theta by parameter name."""
        pieces = torch.split(theta, [shape.numel() for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def evaluate(self, theta: Tensor | None = None) -> Evaluation:
        """Mean loss, its standard error and accuracy at theta. One forward pass over the data."""
        sums = self.evaluation_sums(self.theta if theta is None else theta).numpy(force=True)
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
        own = _generators_of(self.batches)
        before = [generator.get_state() for generator in own]
        try:
            yield from self._read_once()
        finally:  # put back, so that the next pass has this order too
            for generator, state in zip(own, before, strict=True):
                generator.set_state(state)

    def _read_once(self) -> Iterator[Batch]:
        with self._random_state(_SEED), _seeded_for_data(_SEED):
            batches, drawn = iter(self.batches), _global_states()
        empty = True
        while True:
            with self._random_state(_SEED), _seeded_for_data(_SEED):
                _restore(drawn)
                batch, drawn = next(batches, _END), _global_states()
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
        """Gradient (P,) of the mean loss at theta. One forward and backward pass over the data."""
        total, denominator = torch.zeros_like(self.theta), 0.0
        for gradient, part in self.batch_gradients(theta):
            total += gradient
            denominator += part
        return total / denominator

    def batch_gradients(self, theta: Tensor | None = None) -> Iterator[tuple[Tensor, float]]:
        """For each batch: the gradient (P,) of its sum of losses, and its denominator."""
        leaf = (self.theta if theta is None else theta).detach().clone().requires_grad_()
        for index, batch in enumerate(self.read()):
            gradient, denominator = torch.zeros_like(leaf), 0.0
            for piece in self._cut(batch):
                with self.undisturbed(_SEED + index), torch.enable_grad():
                    found = self.terms(leaf, piece)
                    gradient += torch.autograd.grad(found.loss.sum(), leaf)[0]
                denominator += float(found.denominator.double().sum())
            yield gradient, denominator

    def terms(self, theta: Tensor, batch: Batch) -> Terms:
        """Losses and denominators of one batch at theta, differentiable in theta. Call it inside `undisturbed()`."""
        buffers = {f"model.{name}": buffer.clone() for name, buffer in self.model.named_buffers()}
        parameters = {f"model.{name}": view for name, view in self.named(theta).items()}
        found: Terms = functional_call(self.batch_terms, (parameters, buffers), (to_device(batch, theta.device),))
        return found

    @contextlib.contextmanager
    def undisturbed(self, seed: int = _SEED) -> Iterator[None]:
        """Eval mode and whole float32 inside; afterwards modes and random state are as they were, also on an error."""
        modes = [(module, module.training) for module in self.model.modules()]
        with self._random_state(seed), float32_products("ieee") if self.theta.is_cuda else contextlib.nullcontext():
            try:
                for module, _ in modes:
                    module.training = False
                yield
            finally:
                for module, training in modes:
                    module.training = training

    @contextlib.contextmanager
    def _random_state(self, seed: int) -> Iterator[None]:
        if self.theta.is_cuda:
            with torch.random.fork_rng(devices=[self.theta.device]):
                torch.manual_seed(seed)
                yield
            return
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)  # 2 microseconds, where fork_rng and manual_seed take 66
        try:
            yield
        finally:
            torch.set_rng_state(before)

    @cached_property
    def centre(self) -> Evaluation:
        """The evaluation at theta itself, made twice from different random states.

        Raises:
            NotRepeatableError: If the two differ: the model draws at random in eval mode, or the data changes.
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
        loss, standard_error, accuracy = summarise(sums[0])
        return Evaluation(float(loss), float(standard_error), float(accuracy), int(sums[0][5]))

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
            model = copy.deepcopy(self.model)
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
                output = _tensor(model(piece[0])).detach()
                found = terms(self._loss, output, piece[1], reduction=self.reduction)
                total += float(found.loss.double().sum())
                denominator += float(found.denominator.double().sum())
                moved += self._moved_by_rounding(output, piece[1])
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
            **({"stored_dtype": str(stored)} if (stored := getattr(self.model, _STORED, None)) else {}),
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
        digest = hashlib.sha256()
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
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
        """A module from a batch to its terms, whose child `model` is the model."""
        if self.sums is not None:
            return _SumsOfBatch(self.model, self.sums)
        call = _TermsOfBatch(self.model, self._loss, self.reduction, self.metrics)
        if known(self._loss) is None:
            inputs, target = _pair(to_device(self.first_batch, self.theta.device))
            buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            with self.undisturbed(), torch.no_grad():
                output = _tensor(functional_call(self.model, (self.named(self.theta), buffers), (inputs,)))
                check_reduction(self._loss, output, target, self.reduction)
        return call


def _pair(batch: Batch) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        got = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, list | tuple) else type(batch).__name__
        raise ValueError(f"a batch must be (inputs, target), got a {got}: use Objective.from_sums for other shapes")
    inputs, target = batch
    return inputs, target


def _in_float32(model: nn.Module) -> nn.Module:
    """The model itself or, where it has weights of half precision, a copy that computes in float32."""
    halves = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype in _HALF})
    if not halves:
        return model
    whole = copy.deepcopy(model).float()
    whole.register_forward_pre_hook(lambda _, args, named: (_raised(args), _raised(named)), with_kwargs=True)
    setattr(whole, _STORED, ", ".join(halves))
    return whole


def _raised(value: Batch) -> Batch:
    """What a model is given, with its tensors of half precision in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    if isinstance(value, dict):
        return {name: _raised(inner) for name, inner in value.items()}
    return type(value)(map(_raised, value)) if type(value) in (tuple, list) else value


class _TermsOfBatch(nn.Module):
    def __init__(
        self, model: nn.Module, loss: LossFunction, reduction: Reduction | None, metrics: Mapping[str, Metric]
    ) -> None:
        super().__init__()
        self.model, self.reduction, self.metrics = model, reduction, metrics
        self.loss = [
            unreduced(loss)
        ]  # in a list: a loss with class weights is no child, its buffers are not the model's

    def forward(self, batch: Batch) -> Terms:
        inputs, target = _pair(batch)
        output = _whole(_tensor(self.model(inputs)))
        found = terms(self.loss[0], output, target, reduction=self.reduction)
        if not self.metrics:
            return found
        return replace(
            found, metrics=torch.stack([self._metric(name, output.detach(), target) for name in self.metrics])
        )

    def _metric(self, name: str, output: Tensor, target: Tensor) -> Tensor:
        values = self.metrics[name](output, target)
        if not isinstance(values, Tensor) or values.shape != (len(target),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"metric {name} must return one value for each of the {len(target)} examples, got {got}")
        return values.double()


class _SumsOfBatch(nn.Module):
    def __init__(self, model: nn.Module, sums: Sums) -> None:
        super().__init__()
        self.model, self.sums = model, sums

    def forward(self, batch: Batch) -> Terms:
        loss, count = self.sums(self.model, batch)
        denominator = torch.as_tensor(count, dtype=torch.float64, device=loss.device).reshape(1)
        return Terms(_whole(loss).reshape(1), denominator, per_example=False, num_examples=int(count))


def _whole(output: Tensor) -> Tensor:
    """In float32 what autocast made in less: a loss of 8 bits would be none."""
    return output.float() if output.dtype in _HALF else output


def _tensor(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model returned a {type(output).__name__}, and loss(output, target) is of a tensor: let the model "
            "return one, or use Objective.from_sums"
        )
    return output


@contextlib.contextmanager
def _seeded_for_data(seed: int) -> Iterator[None]:
    """Inside, Python's and numpy's global generators, which a data set may draw from, start from a seed as torch's."""
    before = _global_states()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        _restore(before)


def _global_states() -> tuple[Any, ...]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002


def _restore(states: tuple[Any, ...]) -> None:
    of_torch, of_python, of_numpy = states
    torch.set_rng_state(of_torch)
    random.setstate(of_python)
    np.random.set_state(of_numpy)  # noqa: NPY002


def _generators_of(batches: object) -> list[torch.Generator]:
    """A loader's own generator, and those of its samplers."""
    holders = [batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)]
    holders.append(getattr(holders[-1], "sampler", None))
    found = {
        id(own): own for holder in holders if isinstance(own := getattr(holder, "generator", None), torch.Generator)
    }
    return list(found.values())


@contextlib.contextmanager
def float32_products(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Inside, products and convolutions of float32 on GPUs are made in float32, or in TF32, which keeps 10 bits."""
    cudnn: Any = torch.backends.cudnn  # untyped in torch
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = precision
        yield
    finally:
        for backend, was in zip(backends, before, strict=True):
            backend.fp32_precision = was


@contextlib.contextmanager
def naming_batches_of_one() -> Iterator[None]:
    """Inside, what torch says of BatchNorm over one value becomes an error that says what to do."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "a batch of one example has no statistics for BatchNorm: give batches of at least two, the last one too, "
            "or use batch_norm='frozen'"
        ) from error


def summarise(sums: Array) -> tuple[Array, Array, Array]:
    """Mean loss, its standard error, and accuracy from sums (..., 8 or more).

    The mean is a ratio of sums over examples, so its standard error is the linearised one (Cochran 1977,
    Sampling Techniques, eq. 6.4): the spread of loss_i - mean * denominator_i.
    """
    loss, denominator, loss2, cross, denominator2, count, correct, targets = np.moveaxis(sums[..., :NUM_SUMS], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean = loss / denominator
        spread = np.maximum(loss2 - 2 * mean * cross + mean**2 * denominator2, 0.0)
        standard_error = np.sqrt(spread * count / (count - 1)) / denominator
        return mean, standard_error, correct / targets


def metric_means(sums: Array) -> list[tuple[Array, Array]]:
    """The mean of each metric and its standard error, from sums (..., num_sums)."""
    count = sums[..., 5]
    found = []
    for at in range(NUM_SUMS, sums.shape[-1], 2):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean = sums[..., at] / count
            variance = np.maximum(sums[..., at + 1] / count - mean**2, 0.0)
            found.append((mean, np.sqrt(variance / (count - 1))))
    return found


def sums_of(found: Terms) -> Tensor:
    """The sums (num_sums,) in float64 of one batch."""
    loss, denominator = found.loss.double(), found.denominator.double()
    nan = loss.new_tensor(float("nan"))
    spread = [loss @ loss, loss @ denominator, denominator @ denominator] if found.per_example else [nan, nan, nan]
    count = loss.new_tensor(float(found.num_examples))
    correct = nan if found.correct is None else found.correct.double()
    targets = nan if found.targets is None else found.targets.double()
    sums = torch.stack([loss.sum(), denominator.sum(), *spread, count, correct, targets])
    if found.metrics is None:
        return sums
    return torch.cat([sums, torch.stack([found.metrics.sum(1), found.metrics.square().sum(1)], 1).reshape(-1)])


def _refuse_rewritten_weights(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            fix = f"weight.copy_(weight.renorm({module.norm_type:g}, 0, {module.max_norm:g}))"
            raise ValueError(
                f"{name or type(module).__name__} has max_norm={module.max_norm:g}: its forward pass shortens rows of "
                f"the weights that are to be measured. Do so once, {fix} in torch.no_grad(), and set its max_norm to "
                "None"
            )
