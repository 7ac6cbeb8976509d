"""Measure the loss around a checkpoint: surfaces, Hessian eigenvalues, gradient congruence.

`import landscape as ls` is light: each name is imported when it is first used, so that drawing needs no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape import figures
    from landscape.alignment import gradient_congruence
    from landscape.analysis import HessianOptions, hessian_analysis
    from landscape.budget import Curvature, curvature
    from landscape.directions import (
        Plane,
        along,
        ascent_plane,
        axis_line,
        eigenvector_plane,
        line_between,
        plane_through,
        random_line,
        random_plane,
    )
    from landscape.entries import diagonal
    from landscape.filters import filter_groups
    from landscape.following import curvature_trace
    from landscape.lanczos import top_eigenpairs
    from landscape.objective import Objective
    from landscape.operators import SymmetricOperator, fisher, gauss_newton, hessian, per_layer
    from landscape.paired import paired_difference, paired_rise
    from landscape.report import write_report
    from landscape.results import (
        Congruence,
        CongruenceTrace,
        CurvatureTrace,
        DataSpread,
        Density,
        Diagonal,
        Eigenpairs,
        Estimate,
        Line,
        Surface,
        Trajectory,
        load,
        save,
    )
    from landscape.sampling import data_error
    from landscape.spectrum import effective_rank, frobenius_norm, spectral_density, trace
    from landscape.surface import loss_line, loss_surface
    from landscape.trajectory import pca_plane, project_run

__version__ = "0.1.0"

_HOME = {
    "Objective": "objective",
    "Plane": "directions",
    "random_line": "directions",
    "random_plane": "directions",
    "line_between": "directions",
    "plane_through": "directions",
    "eigenvector_plane": "directions",
    "ascent_plane": "directions",
    "along": "directions",
    "axis_line": "directions",
    "pca_plane": "trajectory",
    "project_run": "trajectory",
    "filter_groups": "filters",
    "loss_line": "surface",
    "loss_surface": "surface",
    "SymmetricOperator": "operators",
    "hessian": "operators",
    "gauss_newton": "operators",
    "fisher": "operators",
    "per_layer": "operators",
    "top_eigenpairs": "lanczos",
    "spectral_density": "spectrum",
    "trace": "spectrum",
    "frobenius_norm": "spectrum",
    "effective_rank": "spectrum",
    "Curvature": "budget",
    "curvature": "budget",
    "HessianOptions": "analysis",
    "hessian_analysis": "analysis",
    "data_error": "sampling",
    "diagonal": "entries",
    "curvature_trace": "following",
    "CurvatureTrace": "results",
    "gradient_congruence": "alignment",
    "paired_difference": "paired",
    "paired_rise": "paired",
    "Line": "results",
    "Surface": "results",
    "Trajectory": "results",
    "Eigenpairs": "results",
    "Density": "results",
    "DataSpread": "results",
    "Diagonal": "results",
    "Estimate": "results",
    "Congruence": "results",
    "CongruenceTrace": "results",
    "load": "results",
    "save": "results",
    "write_report": "report",
}

__all__ = [
    "Congruence",
    "CongruenceTrace",
    "Curvature",
    "CurvatureTrace",
    "DataSpread",
    "Density",
    "Diagonal",
    "Eigenpairs",
    "Estimate",
    "HessianOptions",
    "Line",
    "Objective",
    "Plane",
    "Surface",
    "SymmetricOperator",
    "Trajectory",
    "along",
    "ascent_plane",
    "axis_line",
    "curvature",
    "curvature_trace",
    "data_error",
    "diagonal",
    "effective_rank",
    "eigenvector_plane",
    "figures",
    "filter_groups",
    "fisher",
    "frobenius_norm",
    "gauss_newton",
    "gradient_congruence",
    "hessian",
    "hessian_analysis",
    "line_between",
    "load",
    "loss_line",
    "loss_surface",
    "paired_difference",
    "paired_rise",
    "pca_plane",
    "per_layer",
    "plane_through",
    "project_run",
    "random_line",
    "random_plane",
    "save",
    "spectral_density",
    "top_eigenpairs",
    "trace",
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
