"""Surfaces, lines, eigenvalues and traces with plain numbers, to be drawn."""

from dataclasses import replace

import numpy as np

from landscape.results import (
    CongruenceTrace,
    DataSpread,
    Eigenpairs,
    ExampleLosses,
    Line,
    Surface,
    Trajectory,
    status_of,
)


def bowl(label="sgd", *, steps=5, split="train", curvature=(4.0, 1.0), centre=0.5, **settings):
    """loss[i, j] = centre + (a x[i]^2 + b y[j]^2) / 2."""
    x = np.linspace(-1, 1, steps)
    loss = centre + 0.5 * (curvature[0] * x[:, None] ** 2 + curvature[1] * x[None, :] ** 2)
    return Surface(
        x=x,
        y=x,
        loss=loss,
        standard_error=0.1 * loss,
        accuracy=np.full_like(loss, 0.9),
        status=status_of(loss),
        checkpoint={"label": label, "hash": f"hash of {label}"},
        settings={"split": split, "num_examples": 100, "unit": "filter-normalized", **settings},
    )


def run(num_epochs=3):
    at = np.linspace(0.9, 0.0, num_epochs)
    return Trajectory(
        epoch=np.arange(1, num_epochs + 1),
        x=at,
        y=-at / 2,
        distance=at / 10,
        loss=1 + at,
        standard_error=0.01 * (1 + at),
        plane_loss=1.5 + at,
        explained_variance=0.97,
    )


def valley(label="sgd", **settings):
    """loss[i] = 0.5 + x[i]^2, from one checkpoint at 0 to another at 1."""
    x = np.linspace(-0.5, 1.5, 9)
    landmarks = [{"name": label, "coordinates": [0.0]}, {"name": "sam", "coordinates": [1.0]}]
    return Line(
        x=x,
        loss=0.5 + x**2,
        standard_error=0.1 + 0 * x,
        accuracy=0.9 + 0 * x,
        status=status_of(x),
        checkpoint={"label": label, "hash": f"hash of {label}"},
        settings={"directions": "between", "unit": "distance", "landmarks": landmarks, **settings},
        checks={"centre_ok": True, "landmarks": [{"name": "sam", "loss_on_plane": 1.5, "own_loss": 1.25}]},
    )


def changed(surface, loss):
    return replace(surface, loss=loss, status=status_of(loss))


def spectrum(label="sgd", values=(4.0, 1.0), converged=None, complete=True):
    values = np.array(values)
    converged = np.ones(len(values), bool) if converged is None else np.array(converged)
    checkpoint = {"label": label, "hash": f"hash of {label}"}
    return Eigenpairs(
        values=values,
        vectors=None,
        residuals=0.01 * np.abs(values),
        converged=converged,
        complete=complete,
        num_matvecs=12,
        loss=0.5,
        checkpoint=checkpoint,
        settings={"operator": "hessian", "split": "train"},
    )


def blocks(label="sgd", layers=None):
    """The spectra of layers, by name."""
    layers = {"conv": (4.0, 1.0), "norm": (0.5, -0.25), "fc": (40.0, 2.0)} if layers is None else layers
    found = [(name, spectrum(label, values)) for name, values in layers.items()]
    return [replace(one, settings={**one.settings, "layer": name, "num_kept": 9}) for name, one in found]


def sampled(label="sgd", values=(4.0, 1.0), errors=(0.5, 2.0)):
    """What the sample of the data leaves to the eigenvalues of `spectrum`."""
    return DataSpread(
        values=np.array(values),
        standard_error=np.array(errors),
        trace=10.0,
        trace_standard_error=0.5,
        subset_sizes=np.array([50.0, 100.0]),
        subset_values=np.array([4.4, 4.0]),
        bias=0.4,
        num_examples=100.0,
        num_parts=4,
        num_matvecs=9,
        checkpoint=spectrum(label).checkpoint,
        settings=spectrum(label).settings,
    )


def trace(label="sgd", change=(0.1, np.nan, 0.2), error=0.01):
    change = np.array(change)
    errors = np.where(np.isfinite(change), error, np.nan)
    return CongruenceTrace(
        epoch=np.arange(1, len(change) + 1),
        cosine_b=0.3 + 0 * change,
        cosine_a=0.3 + change,
        change=change,
        cosine_b_standard_error=errors,
        cosine_a_standard_error=errors,
        change_standard_error=errors,
        learning_rate=np.full(len(change), 0.1),
        num_probes=np.where(np.isfinite(change), 3, 0),
        checkpoint={"label": label, "hash": f"hash of {label}"},
        settings={"radius": 0.05, "probe_every": 2, "mode": "train"},
    )


def paired(label, losses):
    """A surface of 5 x 5 points whose examples have these losses above the bowl's."""
    kept = bowl().loss[..., None] + np.asarray(losses)
    surface = changed(bowl(label, paired_hash="same"), kept.mean(-1))
    return replace(surface, examples=ExampleLosses(loss=kept, denominator=np.ones(len(losses))))


def surface(label="sgd", *, accuracy=0.9, loss=0.5, checks=None, **settings):
    """A bowl of this loss and accuracy at its centre."""
    one = bowl(label, centre=loss, **settings)
    return replace(one, accuracy=np.full_like(one.loss, accuracy), checks=checks or {})


def pairs(label="sgd", values=(4.0, 1.0), **settings):
    """A spectrum with other settings."""
    one = spectrum(label, values)
    return replace(one, settings={**one.settings, **settings})


def seeds_of(method, make, count=3):
    """`make(seed)` for each seed of a method."""
    found = []
    for seed in range(count):
        label, config = f"{method}-{seed}", {"method": method, "seed": seed}
        found.append(replace(make(seed), checkpoint={"label": label, "hash": label, "epoch": 4, "config": config}))
    return found
