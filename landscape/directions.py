"""Where to look: directions in parameter space, scaled so that pictures of different networks can be compared.

Filter normalization (Li et al. 2018, arXiv:1712.09913, section 4): a Gaussian direction d in which each filter gets
the norm of the same filter of theta, d_f <- d_f ||theta_f|| / ||d_f||. A filter is what one output unit depends on,
which `filters` knows by type of module. Parameters of one dimension (biases, norm scales) do not move, as with
`ignore='biasbn'` in the code of Li et al.; unlike there, this is the default.

Each parameter has a random stream of its own, from (seed, axis, parameter name), drawn on the CPU in float64: the
checkpoints of one architecture share their raw directions on every device without storing them.

Legend: P parameters, F filters of a tensor, W weights of a filter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from landscape.objective import Objective
from landscape.results import Record

Normalization = Literal["filter", "layer", "none"]


@dataclass(frozen=True, eq=False)
class Plane:
    """Two axes (2, P) through a centre theta (P,); a coordinate of 1 is a step of one axis.

    `settings` says how the axes were made, and their norms and cosine: what the picture's units mean.
    """

    centre: Tensor
    axes: Tensor
    settings: Record = field(default_factory=dict)


def random_plane(objective: Objective, *, seed: int = 0, normalization: Normalization = "filter") -> Plane:
    """Two Gaussian directions through `objective.theta`, normalised by the model's own filters.

    The two are nearly but not exactly orthogonal; their cosine is in `settings`. With normalization "layer" a
    whole tensor is one filter; with "none" the direction stays Gaussian, biases included.

    Raises:
        ValueError: If normalization is unknown.
    """
    if normalization not in get_args(Normalization):
        raise ValueError(f"normalization must be one of {get_args(Normalization)}, got {normalization!r}")
    axes = torch.stack([_random_axis(objective, seed, axis, normalization) for axis in ("axis0", "axis1")])
    norms = axes.double().norm(dim=1)
    if not norms.all():
        raise ValueError("no parameter moves: all are one-dimensional, or zero; normalization='none' moves them")
    return Plane(
        objective.theta,
        axes,
        {
            "directions": "random",
            "normalization": normalization,
            "unit": f"{normalization}-normalized" if normalization != "none" else "Gaussian",
            "seed": seed,
            "axis_norms": norms.tolist(),
            "axis_cosine": float(axes[0].double() @ axes[1].double() / norms.prod()),
            "theta_norm": float(objective.theta.double().norm()),
            "whole_tensors": [*_whole_tensors(objective)] if normalization == "filter" else [],
        },
    )


def filters(module: nn.Module, name: str, tensor: Tensor) -> Tensor | None:
    """`tensor`, parameter `name` of `module`, as rows (F, W), one for each output unit; None where it does not move.

    Conv and Linear: dimension 0. Transposed convolution (in, out/g, k...): one filter per group and output channel.
    Embedding: one per token (the padding token's does not move). Attention in-projections and recurrent layers: rows.
    Scalars, one-dimensional parameters and attention's bias_k and bias_v do not move. Anything else is one filter.
    """
    if tensor.ndim < 2 or (isinstance(module, nn.MultiheadAttention) and name in ("bias_k", "bias_v")):
        return None
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        groups = module.groups
        by_group = tensor.reshape(groups, tensor.shape[0] // groups, *tensor.shape[1:])
        return by_group.transpose(1, 2).reshape(groups * tensor.shape[1], -1)
    by_rows = (
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
    return tensor.flatten(1) if isinstance(module, by_rows) else tensor.reshape(1, -1)


def _whole_tensors(objective: Objective) -> Iterator[str]:
    """Names of the parameters that count as one filter because nothing is known of their kind."""
    for name, tensor in objective.named(objective.theta).items():
        rows = filters(*_owner(objective, name), tensor)
        if rows is not None and len(rows) == 1 and tensor.shape[0] > 1:
            yield name


def _owner(objective: Objective, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return objective.model.get_submodule(owner), leaf


def _random_axis(objective: Objective, seed: int, axis: str, normalization: Normalization) -> Tensor:
    theta = objective.named(objective.theta)
    pieces = []
    for name, tensor in theta.items():
        raw = _gaussian(tensor, seed, f"{axis}/{name}")
        known = _owner(objective, name)
        piece = raw if normalization == "none" else _normalized(raw, *known, tensor.double().cpu(), normalization)
        pieces.append(piece.reshape(-1))
    return torch.cat(pieces).to(objective.theta)


def _gaussian(like: Tensor, seed: int, purpose: str) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _normalized(raw: Tensor, module: nn.Module, name: str, theta: Tensor, normalization: Normalization) -> Tensor:
    theta_rows = filters(module, name, theta)
    if theta_rows is None:
        return torch.zeros_like(raw)
    raw_rows = filters(module, name, raw)
    assert raw_rows is not None
    if normalization == "layer":
        theta_rows, raw_rows = theta_rows.reshape(1, -1), raw_rows.reshape(1, -1)
    scale = theta_rows.norm(dim=1) / raw_rows.norm(dim=1)  # a filter of norm zero (pruned, padding) does not move
    moved = raw * _spread(scale, module, name, raw)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
        moved[module.padding_idx] = 0.0
    return moved


def _spread(scale: Tensor, module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Each filter's number, at every weight of that filter: `filters` backwards."""
    index = torch.arange(tensor.numel()).reshape(tensor.shape)
    rows = filters(module, name, index)
    assert rows is not None
    spread = torch.empty(tensor.numel(), dtype=scale.dtype)
    spread[rows.reshape(len(scale), -1)] = scale[:, None]
    return spread.view(tensor.shape)
