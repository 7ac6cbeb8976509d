"""Model and loss as one module, from a batch to what it adds to the mean; half precision computes in float32."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from landscape.batches import Batch
from landscape.losses import LossFunction, Reduction, Terms, terms, unreduced

Sums = Callable[[nn.Module, Batch], tuple[Tensor, Tensor | float]]
Metric = Callable[[Tensor, Tensor], Tensor]  # of (output, target) for each example of a batch: (B,)

STORED = "_dtype_before_float32"  # attribute of a copy in float32

_HALF = (torch.float16, torch.bfloat16)


def in_float32(model: nn.Module) -> nn.Module:
    """The model itself or, where it has weights of half precision, a copy that computes in float32."""
    halves = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype in _HALF})
    if not halves:
        return model
    whole = copied(model).float()
    whole.register_forward_pre_hook(lambda _, args, named: (_raised(args), _raised(named)), with_kwargs=True)
    setattr(whole, STORED, ", ".join(halves))
    return whole


def _raised(value: Batch) -> Batch:
    """What a model is given, with its tensors of half precision in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    if isinstance(value, dict):
        return {name: _raised(inner) for name, inner in value.items()}
    return type(value)(map(_raised, value)) if type(value) in (tuple, list) else value


class TermsOfBatch(nn.Module):
    """A module from (input, target) to its terms, by loss(output, target)."""

    def __init__(
        self, model: nn.Module, loss: LossFunction, reduction: Reduction | None, metrics: Mapping[str, Metric]
    ) -> None:
        super().__init__()
        self.model, self.reduction, self.metrics = model, reduction, metrics
        self.loss = [unreduced(loss)]  # a list: a loss with class weights is no child, its buffers are not the model's

    def forward(self, batch: Batch) -> Terms:  # noqa: D102 - said by the class
        inputs, target = as_pair(batch)
        output = _whole(as_tensor(self.model(inputs)))
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


def as_pair(batch: Batch) -> tuple[Batch, Tensor]:
    """A batch of inputs and targets.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        got = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, list | tuple) else type(batch).__name__
        raise ValueError(f"a batch must be (inputs, target), got a {got}: use Objective.from_sums for other shapes")
    inputs, target = batch
    return inputs, target


class SumsOfBatch(nn.Module):
    """A module from a batch of any shape to its terms, by the caller's own sums."""

    def __init__(self, model: nn.Module, sums: Sums) -> None:
        super().__init__()
        self.model, self.sums = model, sums

    def forward(self, batch: Batch) -> Terms:  # noqa: D102 - said by the class
        loss, count = self.sums(self.model, batch)
        denominator = torch.as_tensor(count, dtype=torch.float64, device=loss.device).reshape(1)
        return Terms(_whole(loss).reshape(1), denominator, per_example=False, num_examples=int(count))


def _whole(output: Tensor) -> Tensor:
    """In float32 what autocast made in less: a loss of 8 bits would be none."""
    return output.float() if output.dtype in _HALF else output


def as_tensor(output: object) -> Tensor:
    """What a model returned, which is to be one tensor."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model returned a {type(output).__name__}, and loss(output, target) is of a tensor: let the model "
            "return one, or use Objective.from_sums"
        )
    return output


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
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Inside, parts of the model that are compiled (`Module.compile`, `torch.compile`) run as they were written.

    That is said to the modules and not to the compiler, which may be at work on a pass of our own.
    """
    compiled = _compiled_parts(model)
    before = [vars(module)[name] for module, name, _ in compiled]
    try:
        for module, name, written in compiled:
            vars(module)[name] = written
        yield
    finally:
        for (module, name, _), was in zip(compiled, before, strict=True):
            vars(module)[name] = was


def _compiled_parts(model: nn.Module) -> list[tuple[nn.Module, str, object]]:
    """Modules that are compiled, the attribute that is, and what it would be otherwise."""
    wrapped = [(module, getattr(module, "_orig_mod", None)) for module in model.modules()]
    in_place = [module for module in model.modules() if vars(module).get("_compiled_call_impl")]
    return [
        *((module, "forward", inner.__call__) for module, inner in wrapped if inner is not None),
        *((module, "_compiled_call_impl", None) for module in in_place),
    ]


@contextlib.contextmanager
def hooked_tensors_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards modules with hooks before their forward pass hold the tensors that they held.

    The hooks of weight_norm, spectral_norm and prune make a weight anew in each pass and leave it in its module.
    """
    hooked = [module for module in model.modules() if module._forward_pre_hooks]
    before = [{name: v for name, v in vars(module).items() if isinstance(v, Tensor)} for module in hooked]
    try:
        yield
    finally:
        for module, tensors in zip(hooked, before, strict=True):
            vars(module).update(tensors)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model with nothing compiled, also of one whose hooks have left a weight with a graph."""
    with hooked_tensors_kept(model):
        for module in model.modules():
            if module._forward_pre_hooks:
                left = {name: v.detach() for name, v in vars(module).items() if isinstance(v, Tensor)}
                vars(module).update(left)
        copy_of_model = copy.deepcopy(model)
    for module, name, written in _compiled_parts(copy_of_model):
        vars(module)[name] = written
    return copy_of_model


@contextlib.contextmanager
def naming_other_dtypes(batch: Batch, dtype: torch.dtype) -> Iterator[None]:
    """Inside, what torch says of inputs of another precision than the weights becomes an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        first = batch[0] if isinstance(batch, list | tuple) and batch else batch
        if not isinstance(first, Tensor) or not first.is_floating_point() or first.dtype == dtype:
            raise
        given, own = (str(one).removeprefix("torch.") for one in (first.dtype, dtype))
        raise ValueError(f"the inputs are {given} and the model is {own}: give both in one precision") from error


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
