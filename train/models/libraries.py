"""Networks of torchvision and timm, without their weights: nothing is downloaded.

Neither library is imported before a network of it is wanted. torchvision takes a second, and fails where it was built
for another torch.
"""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType

import torch
from torch import nn

# They would return a second and third output in train mode, which no loss here expects. Without saying how they
# initialise, they warn.
_WITHOUT_AUXILIARY_HEADS = {"aux_logits": False, "init_weights": True}


class LibraryError(ImportError):
    """A library that a network needs is missing, or cannot be imported."""


def torchvision_classifier(name: str, in_channels: int, num_classes: int) -> nn.Module:
    """torchvision's classifier `name` with a head for `num_classes`; GoogLeNet and Inception without auxiliary heads.

    Raises:
        ValueError: If torchvision has no classifier of this name, or the images have other than three channels.
        LibraryError: If torchvision is missing, or does not fit torch.
    """
    models = torchvision_models()
    known = models.list_models(module=models)  # the module's own are the classifiers
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}{_nearest(name, known)}")
    if in_channels != 3:
        raise ValueError(
            f"torchvision:{name} takes images of 3 channels; the data has {in_channels}: "
            "use data in colour, or a network of ours"
        )
    options = _WITHOUT_AUXILIARY_HEADS if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def timm_network(name: str, in_channels: int, num_classes: int) -> nn.Module:
    """timm's network `name` with a head for `num_classes`.

    Raises:
        ValueError: If timm has no network of this name.
        LibraryError: If timm is missing, or cannot be imported.
    """
    timm = _imported("timm", "pip install timm")
    if not timm.is_model(name):  # refuses "hf-hub:..." too, which would be downloaded
        raise ValueError(f"timm has no network {name!r}{_nearest(name, timm.list_models())}")
    model: nn.Module = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
    return model


def torchvision_models() -> ModuleType:
    """The module torchvision.models.

    Raises:
        LibraryError: If torchvision is missing, or does not fit torch.
    """
    fix = "pip install --force-reinstall torch torchvision"
    if torch.__version__.endswith("+cpu"):
        fix += ", both from the index that this CPU build of torch came from"
    return _imported("torchvision.models", fix)


def _imported(module: str, fix: str) -> ModuleType:
    library = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or library).partition(".")[0] != library:
            raise LibraryError(f"{library} needs {error.name}, which is missing: {fix}") from error
        raise LibraryError(f"{library} is not installed: {fix}") from error
    except (ImportError, RuntimeError, AttributeError, OSError) as error:  # what a build for another torch has raised
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LibraryError(f"{library} does not fit torch {torch.__version__} ({reason}). The fix: {fix}") from error


def _nearest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=3)
    return f". Did you mean {' or '.join(repr(item) for item in found)}?" if found else ""
