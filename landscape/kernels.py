"""Convolution, and BatchNorm in eval mode, whose second derivatives cost what they must.

A convolution y = w * x is linear in w and in x, so every piece of its second derivative is a convolution of the same
kinds as in its first: with the two adjoints dx = B(g, w) and dw = C(g, x), and tangents dx', dw' of these,

    g' = w * dx' + dw' * x        x' = B(g, dw')        w' = C(g, dx')

torch's own double backward makes C by a convolution whose kernel is an image, which costs twice as much. BatchNorm at
its running statistics is y s + t with s = weight / sqrt(var + eps) for each channel, and right after a convolution
w * x it is one with s w: no pass of its own is left in either derivative. Values are those of the model itself.

`SecondOrder` puts both in place of torch's while a graph is built. The formulas are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_Settings = tuple[list[int], list[int], list[int], bool, list[int], int]  # as aten's convolution has them


class _Made(NamedTuple):
    """A convolution that was made: a BatchNorm that comes next becomes part of it."""

    output: Tensor
    versions: tuple[int, int, int]  # of output, input and weight: changed in place, they are no convolution any more
    node: object  # of the graph that made the output
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    settings: _Settings


class SecondOrder(TorchFunctionMode):
    """Inside, convolutions and BatchNorm in eval mode build graphs whose derivative is fast.

    With `frozen`, the graph of a gradient depends on the incoming gradient alone, not on weights or activations: that
    is enough for J v by two vector-Jacobian products, and costs less. Without `convolutions` these and BatchNorm are
    torch's own, and only what has a wrong second derivative there is not.
    """

    def __init__(self, *, frozen: bool = False, convolutions: bool = True) -> None:
        super().__init__()
        self.frozen, self.convolutions = frozen, convolutions
        self.last: _Made | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS and self.convolutions:
            return self._convolution(func, *args, **kwargs)
        if func is F.batch_norm and self.convolutions:
            return self._batch_norm(*args, **kwargs)
        if func is torch._weight_norm:
            return _weight_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(
        self,
        func: Callable[..., Any],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | list[int] = 1,
        padding: int | str | list[int] = 0,
        dilation: int | list[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        num_dims = _CONVOLUTIONS[func]
        if isinstance(padding, str) or input.ndim != num_dims + 2:
            plain: Tensor = func(input, weight, bias, stride, padding, dilation, groups)
            return plain
        settings = (
            _listed(stride, num_dims),
            _listed(padding, num_dims),
            _listed(dilation, num_dims),
            False,
            [0] * num_dims,
            groups,
        )
        output: Tensor = _Convolution.apply(input, weight, bias, settings, self.frozen, ())
        versions = output._version, input._version, weight._version
        self.last = _Made(output, versions, output.grad_fn, input, weight, bias, settings)
        return output

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        scale = torch.rsqrt(running_var + eps) if weight is None else weight * torch.rsqrt(running_var + eps)
        shift = -running_mean * scale if bias is None else bias - running_mean * scale
        made = self.last
        if made is None or made.output is not input or not _untouched(made):
            channels = (1, -1, *[1] * (input.ndim - 2))
            return torch.addcmul(shift.view(channels), input, scale.view(channels))
        with torch.no_grad():
            value = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        kernel = made.weight * scale.view(-1, *[1] * (made.weight.ndim - 1))
        shift = shift if made.bias is None else torch.addcmul(shift, made.bias, scale)
        output: Tensor = _Convolution.apply(made.input, kernel, shift, made.settings, self.frozen, (value,))
        return output


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / ||v||, the norm over all dimensions but one (-1: over all). Torch's own has a wrong second derivative."""
    over = [n for n in range(v.ndim) if dim == -1 or n != dim % v.ndim]
    return v * (g / v.square().sum(over, keepdim=True).sqrt())


def _untouched(made: _Made) -> bool:
    """Whether the graph still is what the convolution made: not detached, cut, hooked or written since."""
    output, input, weight = made.output, made.input, made.weight
    wanted = any(t is not None and t.requires_grad for t in (input, weight, made.bias))
    versions = output._version, input._version, weight._version
    hooked = bool(output._backward_hooks) or output.retains_grad
    same = output.grad_fn is made.node and output.requires_grad == wanted
    return same and versions == made.versions and not hooked


class _Convolution(torch.autograd.Function):
    """The convolution; `known` holds its output where that was made already."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: _Settings,
        frozen: bool,
        known: tuple[Tensor, ...],
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.settings, ctx.frozen = settings, frozen
        return known[0] if known else torch.ops.aten.convolution(input, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        input, weight = (t.detach() for t in ctx.saved_tensors) if ctx.frozen else ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad[:3]
        for_input, for_weight = _Adjoints.apply(gradient, input, weight, ctx.settings, of_input, of_weight)
        for_bias = gradient.sum((0, *range(2, gradient.ndim))) if of_bias else None
        return for_input, for_weight, for_bias, None, None, None


class _Adjoints(torch.autograd.Function):
    """B(g, w) and C(g, x)."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        gradient: Tensor,
        input: Tensor,
        weight: Tensor,
        settings: _Settings,
        of_input: bool,
        of_weight: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(gradient, input, weight)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return _adjoints(gradient, input, weight, settings, of_input, of_weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, along_input: Tensor | None, along_weight: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gradient, input, weight = ctx.saved_tensors
        of_gradient, of_input, of_weight = ctx.needs_input_grad[:3]
        for_gradient = for_input = for_weight = None
        if of_gradient and along_input is not None:
            for_gradient = torch.ops.aten.convolution(along_input, weight, None, *ctx.settings)
        if of_gradient and along_weight is not None:
            second = torch.ops.aten.convolution(input, along_weight, None, *ctx.settings)
            for_gradient = second if for_gradient is None else for_gradient.add_(second)
        if of_input and along_weight is not None:
            for_input, _ = _adjoints(gradient, input, along_weight, ctx.settings, True, False)
        if of_weight and along_input is not None:
            _, for_weight = _adjoints(gradient, along_input, weight, ctx.settings, False, True)
        return for_gradient, for_input, for_weight, None, None, None


def _adjoints(
    gradient: Tensor, input: Tensor, weight: Tensor, settings: _Settings, of_input: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    found = torch.ops.aten.convolution_backward(gradient, input, weight, None, *settings, (of_input, of_weight, False))
    return found[0], found[1]


def _listed(value: int | list[int], num_dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * num_dims if len(values) == 1 else values
