"""What a filter is: the weights that one output unit depends on, by type of module, and directions that get its norm.

Filter normalization (Li et al. 2018, arXiv:1712.09913, section 4): d_f <- d_f ||theta_f|| / ||d_f|| for each filter f.
Parameters of one dimension (biases, norm scales) do not move, as with `ignore='biasbn'` in the code of Li et al.;
unlike there, this is the default. Nor do norm and channel scales of other shapes, the magnitudes of a weight norm, and
a filter of norm zero (pruned, padding). A parametrized weight has the filters of the module that uses it.

Legend: F filters of a tensor, W weights of a filter.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, type_before_parametrizations

from landscape.objective import Objective
from landscape.results import Record

Normalization = Literal["filter", "layer", "none"]
OutputDims = Mapping[str, int]  # by name of a parameter, or of a type of module, the dimension of its output units

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BY_ROWS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_Kind = Literal["still", "given", "transposed", "rows", "whole"]


def filters(module: nn.Module, name: str, tensor: Tensor, *, output_dim: int | None = None) -> Tensor | None:
    """`tensor`, parameter `name` of `module`, as rows (F, W), one for each output unit; None where it does not move.

    Conv and Linear: dimension 0. Transposed convolution (in, out/g, k...): one filter per group and output channel.
    Embedding: one per token (the padding token's does not move). Attention in-projections and recurrent layers: rows.
    Scalars, one-dimensional parameters, one number for each channel (C, 1, ...), norm scales, magnitudes of a weight
    norm (weight_g) and attention's bias_k and bias_v do not move. Anything else is one filter. `output_dim` overrides
    all this: its slices are the filters.
    """
    kind = _kind(module, name, tensor, output_dim)
    if kind == "still":
        return None
    if kind == "given":
        assert output_dim is not None
        return tensor.movedim(output_dim, 0).reshape(tensor.shape[output_dim], -1)
    if kind == "transposed":
        groups = int(module.groups)  # type: ignore[arg-type]
        by_group = tensor.reshape(groups, tensor.shape[0] // groups, *tensor.shape[1:])
        return by_group.transpose(1, 2).reshape(groups * tensor.shape[1], -1)
    return tensor.flatten(1) if kind == "rows" else tensor.reshape(1, -1)


def output_dim_of(objective: Objective, name: str, output_dims: OutputDims) -> int | None:
    """The overriding dimension of a parameter: by its own name, else by the type of the module that holds it."""
    if name in output_dims:
        return output_dims[name]
    module, leaf = owner(objective, name)
    of_weights = len(objective.shapes[name]) >= 2 and not _is_magnitude(module, leaf)  # the module's bias stays
    return output_dims.get(_type_name(module)) if of_weights else None


def check_output_dims(objective: Objective, output_dims: OutputDims) -> None:
    """Refuse an override that fits no parameter.

    Raises:
        ValueError: If a name is neither a parameter's nor a module type's, or a parameter has no such dimension.
    """
    types = {_type_name(owner(objective, name)[0]) for name in objective.shapes}
    for key in output_dims:
        if key not in objective.shapes and key not in types:
            raise ValueError(
                f"output_dims: no parameter or module type {key!r}{nearest(key, [*objective.shapes, *types])}"
            )
    for name, shape in objective.shapes.items():
        dim = output_dim_of(objective, name, output_dims)
        if dim is not None and not 0 <= dim < len(shape):
            raise ValueError(f"output_dims: {name} of shape {tuple(shape)} has no dimension {dim}")


def filter_groups(objective: Objective, *, output_dims: OutputDims | None = None) -> list[Record]:
    """How each parameter is cut into filters: its name, shape, number of filters, and the rule that says so.

    Example:
        >>> objective = Objective(nn.Linear(2, 3), nn.MSELoss(), [(torch.ones(1, 2), torch.ones(1, 3))])
        >>> [(group["name"], group["num_filters"], group["rule"]) for group in filter_groups(objective)]
        [('weight', 3, 'Linear: dimension 0'), ('bias', 0, 'one-dimensional: does not move')]
    """
    output_dims = output_dims or {}
    check_output_dims(objective, output_dims)
    found: list[Record] = []
    for name, tensor in objective.named(objective.theta).items():
        module, leaf = owner(objective, name)
        dim = output_dim_of(objective, name, output_dims)
        rows = filters(module, leaf, tensor, output_dim=dim)
        rule = _rule(module, leaf, tensor, dim)
        count = 0 if rows is None else len(rows)
        found.append({"name": name, "shape": list(tensor.shape), "num_filters": count, "rule": rule})
    return found


def groups_text(groups: Sequence[Record]) -> str:
    """The groups of `filter_groups` as a table."""
    rows = [["parameter", "shape", "filters", "rule"]]
    for group in groups:
        shape = "x".join(map(str, cast(list[int], group["shape"]))) or "1"
        rows.append([str(group["name"]), shape, str(group["num_filters"]), str(group["rule"])])
    names, shapes, counts, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{row[0]:<{names}}  {row[1]:<{shapes}}  {row[2]:>{counts}}  {row[3]}" for row in rows)


def filter_rows(objective: Objective, name: str, tensor: Tensor, output_dims: OutputDims) -> Tensor | None:
    """`tensor`, of the shape of parameter `name`, as rows (F, W); None where the parameter does not move."""
    return filters(*owner(objective, name), tensor, output_dim=output_dim_of(objective, name, output_dims))


def normalized(
    raw: Tensor, objective: Objective, name: str, theta: Tensor, normalization: Normalization, output_dims: OutputDims
) -> Tensor:
    """`raw` with the norm of `theta`, by filter ("layer": as a whole); zero where the parameter does not move."""
    theta_rows, raw_rows = (filter_rows(objective, name, one, output_dims) for one in (theta, raw))
    if theta_rows is None or raw_rows is None:
        return torch.zeros_like(raw)
    if normalization == "layer":
        theta_rows, raw_rows = theta_rows.reshape(1, -1), raw_rows.reshape(1, -1)
    scale = theta_rows.norm(dim=1) / raw_rows.norm(dim=1)
    index = filter_rows(objective, name, torch.arange(raw.numel()).reshape(raw.shape), output_dims)
    assert index is not None
    spread = torch.empty(raw.numel(), dtype=scale.dtype)
    spread[index.reshape(len(scale), -1)] = scale[:, None]  # each filter's number, at every weight of that filter
    moved = raw * spread.view(raw.shape)
    module, _ = owner(objective, name)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
        moved[module.padding_idx] = 0.0
    return moved


def owner(objective: Objective, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and the parameter's name in it; of a parametrized one the module that uses it.

    The two of a weight norm are weight_g, the magnitudes, and weight_v, as in its older form.
    """
    path, _, leaf = name.rpartition(".")
    module = objective.model.get_submodule(path)
    if not isinstance(module, ParametrizationList):
        return module, leaf
    of, _, parametrized = path.rpartition("parametrizations.")
    parts = {"original": ""}
    if isinstance(module[0], _WeightNorm):
        parts = {"original0": "_g", "original1": "_v"}
    if leaf not in parts:
        return module, leaf
    return objective.model.get_submodule(of.removesuffix(".")), parametrized + parts[leaf]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: those that come close to it."""
    known = list(dict.fromkeys(known))
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; the nearest: {', '.join(found)}" if found else f"; there are {', '.join(known[:8])}"


def _kind(module: nn.Module, name: str, tensor: Tensor, output_dim: int | None) -> _Kind:
    if output_dim is not None:
        return "given"
    if tensor.ndim < 2 or isinstance(module, _NORMS) or _is_magnitude(module, name):
        return "still"
    if isinstance(module, nn.MultiheadAttention) and name in ("bias_k", "bias_v"):
        return "still"
    if isinstance(module, _TRANSPOSED):
        return "transposed"
    if isinstance(module, _BY_ROWS):
        return "rows"
    return "still" if tensor.numel() == len(tensor) else "whole"


def _is_magnitude(module: nn.Module, name: str) -> bool:
    """Whether it is one of those that a weight norm multiplies its directions by."""
    return isinstance(module, _BY_ROWS + _TRANSPOSED) and name.endswith("_g")


def _type_name(module: nn.Module) -> str:
    return type_before_parametrizations(module).__name__


def _rule(module: nn.Module, name: str, tensor: Tensor, output_dim: int | None) -> str:
    kind, of = _kind(module, name, tensor, output_dim), _type_name(module)
    if kind == "still":
        return f"{'one-dimensional' if tensor.ndim < 2 else f'{name} of {of}'}: does not move"
    if kind == "transposed":
        return f"{of}: one for each group and output channel"
    if kind == "rows":
        padding = getattr(module, "padding_idx", None)
        return f"{of}: dimension 0" + (f", but row {padding} (padding) does not move" if padding is not None else "")
    return f"dimension {output_dim}, as given" if kind == "given" else f"of no known kind ({of}): one filter"
