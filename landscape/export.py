"""Results in the formats of others: CSV, JSON, VTK for ParaView, xarray, and pictures for paper.

What is not finite stays so: nan, inf and -inf in CSV, VTK and xarray, with the status of its cell; null in JSON, which
has no such numbers, beside the status that says which.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from landscape.gallery import Drawing
from landscape.picture import picture_bytes
from landscape.results import (
    DataSpread,
    Density,
    Diagonal,
    Json,
    Record,
    Result,
    Surface,
    strict_json,
    taken_apart,
)
from landscape.view import STATUS_NAMES

if TYPE_CHECKING:
    import xarray


def export_csv(results: Sequence[Result], stem: Path) -> dict[Path, bytes]:
    """A table for each result, as files beside `stem`: a row for each point, eigenvalue or epoch; full precision.

    What has rows of its own is a second table: the run on a surface, the sticks and the nodes of a density, the subsets
    of an error of the sample. The last file, -about.json, says of each table what its columns are, and has checkpoint,
    settings, checks and single values.
    """
    written: dict[Path, bytes] = {}
    about: dict[str, Json] = {}
    for path, result in _named(results, stem, "csv"):
        for part, columns in _tables(result).items():
            file = path.with_name(f"{path.stem}-{part}.csv") if part else path
            written[file] = _table(columns).encode()
            meanings: dict[str, Json] = {name: _MEANINGS[name] for name in map(_base, columns) if name in _MEANINGS}
            plain = {name: strict_json(value) for name, value in _plain(result).items()}
            about[file.name] = {"type": type(result).__name__, "columns": meanings, **plain}
    return written | {_file(stem, "json", "about"): _json({"status": _STATUS, "tables": about})}


def export_json(results: Sequence[Result], stem: Path) -> dict[Path, bytes]:
    """All results in one document: type, checkpoint, settings, checks, and every array as nested lists.

    `meanings` says what the arrays are, `status` what the status of a cell means.
    """
    found = [_document(result) for result in results]
    names = {_base(name) for one in found for name in one}
    meanings: Json = {name: meaning for name, meaning in _MEANINGS.items() if name in names}
    return {_file(stem, "json"): _json({"status": _STATUS, "meanings": meanings, "results": [*found]})}


def export_vtk(results: Sequence[Result], stem: Path) -> dict[Path, bytes]:
    """A legacy VTK file (RECTILINEAR_GRID, binary) for each surface, with all its arrays as point data.

    ParaView draws it as it is; its filter Warp By Scalar makes a relief of the loss.

    Raises:
        ValueError: If there is no surface.
    """
    surfaces = [result for result in results if isinstance(result, Surface)]
    if not surfaces:
        raise ValueError("VTK is for surfaces, and there is none: use csv or json")
    return {path: _vtk(surface) for path, surface in _named(surfaces, stem, "vtk") if isinstance(surface, Surface)}


def to_xarray(result: Surface) -> xarray.Dataset:
    """A surface as a dataset with coordinates x and y; settings, checks and checkpoint are its attributes.

    Raises:
        ImportError: If xarray is not installed.
    """
    import xarray

    return xarray.Dataset(
        {name: (("x", "y"), array) for name, array in _on_grid(result).items()},
        coords={"x": result.x, "y": result.y},
        attrs={name: json.dumps(getattr(result, name)) for name in ("checkpoint", "settings", "checks")},
    )


def picture_files(drawn: Sequence[Drawing], stem: Path, kind: str) -> dict[Path, bytes]:
    """The content of a png, svg or pdf file for each drawing; one by itself has the stem's name.

    The same drawings give the same bytes; fonts travel with a pdf, and letters stay letters in svg; the file's
    description is the caption.
    """
    return {
        _file(stem, kind, *([one.name] if len(drawn) > 1 else [])): picture_bytes(
            one.picture, kind, caption=one.caption
        )
        for one in drawn
    }


_STATUS: dict[str, Json] = {str(code): name for code, name in STATUS_NAMES.items()}
_MEANINGS: dict[str, Json] = {
    "x": "coordinate along the first axis, in settings.unit",
    "y": "coordinate along the second axis, in settings.unit",
    "loss": "mean loss over the examples, in the unit of the loss (nats for a cross-entropy)",
    "standard_error": "of the mean over the examples; of eigenvalues and estimates, as their type says",
    "accuracy": "fraction of the examples; nan where the task has none",
    "status": "of the cell, a code",
    "distance": "of the checkpoint from the plane, 2-norm of all parameters",
    "plane_loss": "the plane's loss at (x, y)",
    "values": "eigenvalues of the operator, which is of the mean loss",
    "residuals": "||Hv - lambda v||: an eigenvalue lies within it",
    "converged": "the residual met the tolerance",
    "complete": "a fresh start saw nothing beyond the last eigenvalue",
    "num_matvecs": "products with the operator, checks included",
    "overlap": "share of the top space that was there at the checkpoint before",
    "along_gradient": "curvature v'Hv along the unit gradient",
    "along_sam": "curvature v'Hv along SAM's step",
    "stability_limit": "largest curvature that is stable, by full-batch theory",
    "grid": "eigenvalue",
    "mean": "density of the bulk, smoothed by a Gaussian of kernel_width; of a metric, its mean over the examples",
    "low": "lower end of the Student-t interval over probes",
    "high": "upper end of the Student-t interval over probes",
    "nodes": "of the quadrature of a probe, an eigenvalue",
    "weights": "of the nodes; those of a probe sum to 1",
    "sticks": "eigenvalues found by themselves",
    "stick_residuals": "of the sticks",
    "subset_sizes": "examples of each subset",
    "subset_values": "largest eigenvalue of each subset",
    "cosine_b": "cosine of the two gradients before a step, mean of the epoch's probes",
    "cosine_a": "cosine of the two gradients after the step, on the same examples",
    "change": "cosine_a - cosine_b",
    **{f"{name}_standard_error": "over the probes of the epoch" for name in ("cosine_b", "cosine_a", "change")},
    "num_probes": "probes of the epoch",
    "epoch": "epochs of training that were done",
    "learning_rate": "mean over the steps of the epoch; of a followed checkpoint, its own",
    "tensor": "of the parameters, its name",
    "place": "in the tensor, flattened, from 0",
    "value": "of the entry; of an estimate, the estimate",
    "tensor_traces": "sum of the entries of the tensor",
    "tensor_standard_errors": "of tensor_traces, from the spread of the sums over probes",
    "probe": "which random probe, from 0",
    "node": "which node of it, from 0",
}
Arrays = dict[str, npt.NDArray[np.generic]]
PICTURES = ("png", "svg", "pdf")
TABLES: dict[str, Callable[[Sequence[Result], Path], dict[Path, bytes]]] = {
    "csv": export_csv,
    "json": export_json,
    "vtk": export_vtk,
}


def _named(results: Sequence[Result], stem: Path, suffix: str) -> Iterator[tuple[Path, Result]]:
    """A file for each result; one by itself has the stem's name."""
    if len(results) == 1:
        yield _file(stem, suffix), results[0]
        return
    for index, result in enumerate(results):
        label = re.sub(r"[^\w.+-]+", "_", str(result.checkpoint.get("label") or "")).strip("._")
        parts = [str(index), type(result).__name__.lower(), *([label] if label else [])]
        yield _file(stem, suffix, *parts), result


def _file(stem: Path, suffix: str, *parts: str) -> Path:
    """`stem` with parts and a suffix, which takes the place of that of a results file or another format."""
    known = stem.suffix.lower() in (f".{one}" for one in ("npz", *TABLES, *PICTURES))
    return stem.with_name(f"{'-'.join([stem.stem if known else stem.name, *parts])}.{suffix}")


def _tables(result: Result) -> dict[str, Arrays]:
    """The columns of a result's tables; those of its first table are under ""."""
    if isinstance(result, Surface):
        x, y = np.meshgrid(result.x, result.y, indexing="ij")
        grid = {name: array.ravel() for name, array in {"x": x, "y": y, **_on_grid(result)}.items()}
        return {"": grid, **({"trajectory": taken_apart(result.trajectory)[0]} if result.trajectory else {})}
    if isinstance(result, Diagonal):
        sums = {"tensor": np.array(result.names), "tensor_traces": result.tensor_traces}
        return {"": _by_entry(result), "tensors": {**sums, "tensor_standard_errors": result.tensor_standard_errors}}
    if isinstance(result, Density):
        probe, node = np.meshgrid(*map(np.arange, result.nodes.shape), indexing="ij")
        nodes = {"probe": probe, "node": node, "nodes": result.nodes, "weights": result.weights}
        return {
            "": {name: getattr(result, name) for name in ("grid", "mean", "low", "high")},
            "sticks": {"sticks": result.sticks, "stick_residuals": result.stick_residuals},
            "nodes": {name: array.ravel() for name, array in nodes.items()},
        }
    arrays = {name: array for name, array in _arrays(result).items() if not name.startswith("examples.")}
    if isinstance(result, DataSpread):
        subsets = {name: arrays.pop(name) for name in ("subset_sizes", "subset_values")}
        return {"": arrays, "subsets": subsets}
    columns: Arrays = {}
    for name, array in arrays.items():  # of (T, K) each k is a column
        columns |= {name: array} if array.ndim == 1 else {f"{name}_{k + 1}": each for k, each in enumerate(array.T)}
    single = {n: np.array([v]) for n, v in _plain(result).items() if isinstance(v, int | float | str)}
    return {"": columns or single}


def _by_entry(result: Diagonal) -> Arrays:
    """Of each entry the tensor it is of, and its place in that, flattened."""
    sizes = [math.prod(shape) for shape in result.shapes]
    places = np.concatenate([np.arange(size) for size in sizes])
    arrays: Arrays = {"tensor": np.repeat(np.array(result.names), sizes), "place": places}
    return {**arrays, "value": result.values, "standard_error": result.standard_error}


def _table(columns: Arrays) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([value.item() for value in row] for row in zip(*columns.values(), strict=True))
    return file.getvalue()


def _base(column: str) -> str:
    """The name of the array that a column is of."""
    return re.sub(r"_\d+$", "", column.rpartition(".")[2])


def _json(document: Json) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _vtk(surface: Surface) -> bytes:
    shape = surface.loss.shape
    head = f"# vtk DataFile Version 3.0\n{_title(surface)}\nBINARY\nDATASET RECTILINEAR_GRID\n"
    head += f"DIMENSIONS {shape[0]} {shape[1]} 1\n"
    parts = [head.encode()]
    for axis, values in (("X", surface.x), ("Y", surface.y), ("Z", np.zeros(1))):
        parts += [f"{axis}_COORDINATES {len(values)} double\n".encode(), values.astype(">f8").tobytes(), b"\n"]
    parts.append(f"POINT_DATA {surface.loss.size}\n".encode())
    for name, array in _on_grid(surface).items():
        values = array.astype(">f8")
        parts += [f"SCALARS {name} double 1\nLOOKUP_TABLE default\n".encode(), values.tobytes(order="F"), b"\n"]
    return b"".join(parts)


def _title(surface: Surface) -> str:
    label, settings = surface.checkpoint.get("label") or "surface", surface.settings
    names = ("split", "num_examples", "directions", "seed", "unit")
    told = ", ".join(f"{name} {settings[name]}" for name in names if settings.get(name) is not None)
    codes = " ".join(f"{code} {name}" for code, name in _STATUS.items())
    text = f"landscape: mean loss of {str(label)[:80]}; {told[:100]}; status {codes}"
    return text.encode("ascii", "replace").decode().replace("\n", " ")[:255]


def _document(result: Result) -> dict[str, Json]:
    arrays: dict[str, Json] = {name: strict_json(array.tolist()) for name, array in _arrays(result).items()}
    plain = {name: strict_json(value) for name, value in _plain(result).items()}
    return {"type": type(result).__name__, **plain, **arrays}


def _on_grid(surface: Surface) -> Arrays:
    """The arrays that have a number for each point, metrics among them."""
    return {name: array for name, array in taken_apart(surface)[0].items() if array.shape == surface.loss.shape}


def _arrays(result: Result) -> Arrays:
    arrays = taken_apart(result)[0]
    arrays.pop("vectors", None)  # as long as the model; the results file has them
    return arrays


def _plain(result: Result) -> Record:
    return {name: value for name, value in taken_apart(result)[1].items() if name != "vectors"}
