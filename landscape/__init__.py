"""Measure the loss around a checkpoint: surfaces, Hessian eigenvalues, gradient congruence.

`import landscape as ls` is light: each name is imported when it is first used, so that drawing needs no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape import figures
    from landscape.alignment import gradient_congruence
    from landscape.directions import Plane, random_plane
    from landscape.lanczos import top_eigenpairs
    from landscape.objective import Objective
    from landscape.operators import SymmetricOperator, hessian
    from landscape.report import write_report
    from landscape.results import Congruence, CongruenceTrace, Eigenpairs, Surface, load, save
    from landscape.surface import loss_surface

__version__ = "0.1.0"

_HOME = {
    "Objective": "objective",
    "Plane": "directions",
    "random_plane": "directions",
    "loss_surface": "surface",
    "SymmetricOperator": "operators",
    "hessian": "operators",
    "top_eigenpairs": "lanczos",
    "gradient_congruence": "alignment",
    "Surface": "results",
    "Eigenpairs": "results",
    "Congruence": "results",
    "CongruenceTrace": "results",
    "load": "results",
    "save": "results",
    "write_report": "report",
}

__all__ = [
    "Congruence",
    "CongruenceTrace",
    "Eigenpairs",
    "Objective",
    "Plane",
    "Surface",
    "SymmetricOperator",
    "figures",
    "gradient_congruence",
    "hessian",
    "load",
    "loss_surface",
    "random_plane",
    "save",
    "top_eigenpairs",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name == "figures":
        return importlib.import_module("landscape.figures")
    if name not in _HOME:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    return getattr(importlib.import_module(f"landscape.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
