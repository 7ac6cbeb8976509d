"""A density, a diagonal and a curvature trace with plain numbers, to be drawn."""

import numpy as np

from landscape.results import CurvatureTrace, Density, Diagonal


def density(**changes):
    grid = np.linspace(-1, 5, 7)
    values = {
        "grid": grid,
        "mean": np.array([0.0, 1.0, 0.1, 1e-9, 0.01, 0.0, 0.0]),
        "low": np.array([0.0, 0.9, 0.05, 0.0, 0.0, 0.0, 0.0]),
        "high": np.array([0.0, 1.1, 0.15, 1e-8, 0.02, 0.0, 0.0]),
        "nodes": np.zeros((4, 2)),
        "weights": np.full((4, 2), 0.5),
        "sticks": np.array([40.0, 20.0]),
        "stick_residuals": np.array([0.1, 0.2]),
        "size": 100,
        "kernel_width": 0.3,
        "num_matvecs": 8,
        "checkpoint": {"label": "sgd", "hash": "hash of sgd"},
        "settings": {"operator": "hessian", "split": "train"},
    }
    return Density(**(values | changes))


def along_run(**changes):
    values = {
        "epoch": np.array([1, 2, 3]),
        "values": np.array([[4.0, 2.0], [6.0, 3.0], [8.0, 4.0]]),
        "residuals": np.full((3, 2), 0.01),
        "converged": np.ones((3, 2), bool),
        "complete": np.ones(3, bool),
        "num_matvecs": np.full(3, 9),
        "loss": np.array([1.0, 0.5, 0.2]),
        "overlap": np.array([np.nan, 0.5, 0.9]),
        "along_gradient": np.array([1.0, 2.0, 3.0]),
        "along_sam": np.array([1.5, 2.5, 3.5]),
        "learning_rate": np.array([0.1, 0.1, 0.0]),
        "stability_limit": np.array([38.0, 38.0, np.inf]),
        "checkpoint": {"label": "sgd", "hash": "hash of sgd"},
    }
    return CurvatureTrace(**(values | changes))


def entries(name="sgd", traces=(3.0, -8.0, 0.5), **changes):
    values = {
        "values": np.concatenate([np.full(6, traces[0] / 6), np.full(2, traces[1] / 2), np.full(4, traces[2] / 4)]),
        "standard_error": np.full(12, 0.1),
        "names": ["in.weight", "in.bias", "out.weight"],
        "shapes": [[2, 3], [2], [4]],
        "tensor_traces": np.array(traces),
        "tensor_standard_errors": np.array([0.3, 0.4, 0.05]),
        "trace": sum(traces),
        "trace_standard_error": 0.7,
        "num_samples": 60,
        "num_matvecs": 60,
        "checkpoint": {"label": name, "hash": f"hash of {name}"},
        "settings": {"operator": "hessian", "split": "train"},
    }
    return Diagonal(**(values | changes))


def hundred_tensors():
    """Tensors of one entry each, with traces from -50 to 49."""
    traces = np.arange(-50.0, 50.0)
    shapes = {"names": [f"t{n}" for n in range(100)], "shapes": [[1]] * 100}
    errors = {"standard_error": np.ones(100), "tensor_standard_errors": np.ones(100)}
    return entries(traces=(0.0,) * 3, values=traces, tensor_traces=traces, **shapes, **errors)
