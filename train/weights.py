"""Pretrained weights from a file on this machine, put into a network; nothing is downloaded.

Files are those of torch.save: torchvision's and timm's weights, checkpoints of others that keep them under "state_dict"
or "model", and ours. They are read with weights_only=True, never otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from train.checkpoint import CheckpointError, check_archive, load_plain, misfits, nonfinite_names

# Before torch 1.6, torch.save wrote one pickle after the other, a number first. Many of torchvision's files are such.
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")  # of GoogLeNet and Inception: we train without them
_NUM_NAMED = 5


def load_weights_(model: nn.Module, path: str | Path) -> bool:
    """Put the weights of a file into `model`; whether the head, too, is the file's.

    The head is the model's last layer. Where the file has it for another number of classes, it stays as it was drawn.
    Names may carry the "module." of a DataParallel; counters of batches, which old files lack, then stay at zero.

    Raises:
        ValueError: If there is no such file.
        UnsafeCheckpointError: If the file names code. Nothing of it is run.
        CheckpointError: If the file is damaged, holds no weights, or weights that are not finite or do not fit.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"weights: there is no file {path}")
    expected = model.state_dict()
    found = _fitted(_state(path), expected)
    head = _head(expected)
    new_head = _has_other_classes(expected, found, head)
    if new_head:
        found |= {name: expected[name] for name in head}
    problems = misfits(expected, found)
    if problems:
        raise CheckpointError(f"the weights in {path} do not fit the model: {'; '.join(problems)}")
    bad = nonfinite_names(found)
    if bad:
        raise CheckpointError(f"{path} holds weights that are not finite: {', '.join(bad[:_NUM_NAMED])}")
    model.load_state_dict(found)
    return not new_head


def _state(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        is_legacy = file.read(len(_LEGACY_START)) == _LEGACY_START
    if not is_legacy:
        check_archive(path)
    content = load_plain(path)
    outer = content if isinstance(content, dict) else {}
    for state in (outer, outer.get("state_dict"), outer.get("model")):
        if isinstance(state, Mapping) and state and all(isinstance(tensor, Tensor) for tensor in state.values()):
            return {str(name): tensor for name, tensor in state.items()}
    keys = ", ".join(str(key) for key in list(outer)[:_NUM_NAMED]) or type(content).__name__
    raise CheckpointError(
        f"{path} holds no weights: neither tensors by name, nor such under 'state_dict' or 'model'; it has {keys}"
    )


def _fitted(found: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    # torchvision's DenseNet files say "norm.1" for "norm1": from before a name could not hold a dot
    found = {re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(?=\d)", r"\1", name): found[name] for name in found}
    found = {name: tensor for name, tensor in found.items() if name in expected or not _is_auxiliary(name)}
    counters = {name: torch.zeros_like(expected[name]) for name in expected if name.endswith("num_batches_tracked")}
    return counters | found if not counters.keys() & found.keys() else found


def _is_auxiliary(name: str) -> bool:
    return name.startswith(_AUXILIARY_HEADS)


def _head(state: Mapping[str, Tensor]) -> list[str]:
    """The tensors of the last layer; of every classifier of torchvision they are those that know the classes."""
    layer = list(state)[-1].rpartition(".")[0]
    return [name for name in state if name.rpartition(".")[0] == layer]


def _has_other_classes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], head: list[str]) -> bool:
    """Whether the two heads differ in their number of classes, and in nothing else."""
    if any(name not in found for name in head):
        return False
    pairs = [(expected[name].shape, found[name].shape) for name in head]
    return all(len(a) == len(b) and a[1:] == b[1:] and a[0] != b[0] for a, b in pairs)
