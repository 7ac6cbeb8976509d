"""What was read of a model, and whether the model still is, and in a pass remains, what was read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from landscape.batches import bytes_of


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Trainable parameters and buffers, by name; of frozen parameters, often many, a checksum of their bytes."""

    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    running_statistics: tuple[str, ...]
    frozen: Mapping[str, int]

    def holds(self, name: str, tensor: Tensor) -> bool:
        """Whether a tensor of that name was read, and had the bytes that it has."""
        if name in self.frozen:
            return _checksum(tensor) == self.frozen[name]
        taken = self.params.get(name, self.buffers.get(name))
        return taken is not None and _same(taken, tensor)


def snapshot_of(model: nn.Module, params: Mapping[str, Tensor]) -> Snapshot:
    """What is there now; `params` holds the trainable parameters."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    frozen = {name: _checksum(p) for name, p in model.named_parameters() if name not in params}
    return Snapshot(params, buffers, tuple(_running_statistics(model)), frozen)


def refuse_changed(model: nn.Module, before: Snapshot) -> None:
    """Refuse a model that is no longer what was read of it.

    Of buffers only running statistics of normalization layers count, which training and recalibrating move. A forward
    pass may write the others (counters, caches, tables): they are measured as they were read.

    Raises:
        ValueError: If parameters or running statistics have changed, are gone or are new.
    """
    now = {**dict(model.named_parameters()), **_running_statistics(model)}
    taken = [*before.params, *before.frozen, *before.running_statistics]
    changed = [name for name in taken if name not in now]
    changed += [name for name, tensor in now.items() if not before.holds(name, tensor)]
    if changed:
        told = _listed(changed)
        raise ValueError(f"the model has changed since this objective first read it ({told}): make a new objective")


def refuse_written(params: Mapping[str, Tensor], before: Snapshot) -> None:
    """Refuse parameters that a pass has written, be it with what they held: `params` were made for that pass alone.

    Raises:
        ValueError: If some were.
    """
    untouched = {name for name, p in params.items() if p.is_inference() or p._version == 0}
    written = [name for name, p in params.items() if name not in untouched or not _same(p, before.params[name])]
    if written:
        raise ValueError(
            f"the forward pass writes parameters that are to be measured: {_listed(written)} (F.embedding with "
            "max_norm, or a constraint written into the weights). Do so once, before measuring, or give the "
            "constrained weights to the layer without writing them"
        )


def refuse_rewritten_weights(model: nn.Module) -> None:
    """Refuse embeddings that shorten their rows in each pass.

    Raises:
        ValueError: If there is one.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            fix = f"weight.copy_(weight.renorm({module.norm_type:g}, 0, {module.max_norm:g}))"
            raise ValueError(
                f"{name or type(module).__name__} has max_norm={module.max_norm:g}: its forward pass shortens rows of "
                f"the weights that are to be measured. Do so once, {fix} in torch.no_grad(), and set its max_norm to "
                "None"
            )


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(bytes_of(tensor))


def _running_statistics(model: nn.Module) -> dict[str, Tensor]:
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    found = {id(statistic) for norm in norms for statistic in (norm.running_mean, norm.running_var)}
    return {name: buffer for name, buffer in model.named_buffers() if id(buffer) in found}


def _same(one: Tensor, other: Tensor) -> bool:
    """Byte for byte: NaN is itself."""
    if one.device != other.device:
        return False
    return bool(one.reshape(-1).view(torch.uint8).equal(other.reshape(-1).view(torch.uint8)))


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = [*names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
