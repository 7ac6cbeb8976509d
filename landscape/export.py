"""Results in the formats of others: CSV, JSON, VTK for ParaView, xarray, and pictures for paper.

What is not finite stays so: nan, inf and -inf in CSV, VTK and xarray, with the status of its cell; null in JSON, which
has no such numbers, beside the status that says which.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from landscape.grouping import line_groups, spectrum_kind, styles
from landscape.picture import (
    Width,
    compared,
    congruence_picture,
    curvature_picture,
    density_picture,
    difference_picture,
    line_picture,
    overview_picture,
    picture_bytes,
    planes,
    relief_picture,
    spectrum_picture,
    trajectory_picture,
)
from landscape.readings import QUANTITIES
from landscape.results import (
    Congruence,
    CongruenceTrace,
    CurvatureTrace,
    DataSpread,
    Density,
    Eigenpairs,
    Estimate,
    Json,
    Record,
    Result,
    Surface,
    taken_apart,
)
from landscape.view import Scale

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def export_csv(results: Sequence[Result], stem: Path) -> dict[Path, bytes]:
    """A table for each result, as files beside `stem`: a row for each point, eigenvalue or epoch; full precision.

    The run on a surface is a second table, a row for each of its checkpoints.
    """
    written: dict[Path, bytes] = {}
    for path, result in _named(results, stem, "csv"):
        written[path] = _csv(result).encode()
        if isinstance(result, Surface) and result.trajectory is not None:
            run = taken_apart(result.trajectory)[0]
            written[path.with_name(f"{path.stem}-trajectory.csv")] = _table(run).encode()
    return written


def export_json(results: Sequence[Result], stem: Path) -> dict[Path, bytes]:
    """All results in one document: type, checkpoint, settings, checks, and every array as nested lists."""
    document = {"results": [_document(result) for result in results]}
    return {_file(stem, "json"): json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()}


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


@dataclass(frozen=True)
class Drawing:
    """A picture, the part of its file's name that tells it from others, and what it shows."""

    name: str
    caption: str
    picture: Figure


def drawings(
    results: Sequence[Result],
    *,
    relief: bool = False,
    width: Width | None = None,
    scale: Scale = "auto",
    clip: float | None = None,
) -> list[Drawing]:
    """Pictures for paper: one for each plane, for each kind of line, and for each other kind of result.

    Surfaces are contours, or with `relief` in three dimensions; where they kept the losses of equal examples, their
    differences have a picture too. A checkpoint looks the same in all of them.

    Raises:
        ValueError: If there is nothing to draw, or for a relief no surface.
    """
    shown = [one for one in results if not _of_layer(one)]
    surfaces = [one for one in shown if isinstance(one, Surface)]
    look: dict[str, Any] = {"known": styles(results), **({"width": width} if width else {})}
    drawn: list[tuple[str, str, Callable[..., Figure], Sequence[Result]]] = []
    if relief and not surfaces:
        relief_picture([])  # which says what makes one
    several = planes(surfaces)
    for n, (plane, mine) in enumerate(several, 1):
        place = f"-plane-{n}" if len(several) > 1 else ""
        draw = relief_picture if relief else overview_picture
        data = " and ".join(dict.fromkeys(str(one.settings.get("split") or "unnamed data") for one in mine))
        told = f"mean loss on {data}, {plane}"
        drawn.append((f"surface{place}", told, functools.partial(draw, scale=scale, clip=clip), mine))
        if not relief and compared(mine):
            drawn.append((f"difference{place}", f"paired differences, {plane}", difference_picture, mine))
    if runs := [one for one in surfaces if one.trajectory is not None]:
        drawn.append(("run", "a run seen from its plane", trajectory_picture, runs))
    groups = line_groups(shown)
    for n, group in enumerate(groups, 1):
        place, told = f"-{n}" if len(groups) > 1 else "", f"mean {group.data} loss, {group.name}"
        drawn.append((f"line{place}", told, line_picture, group.lines))
    for name, (of, draw, what) in _CURVES.items():
        if curves := [one for one in shown if isinstance(one, of)]:
            kinds = dict.fromkeys(spectrum_kind(one) for one in curves if isinstance(one, Spectral))
            drawn.append((name, "; ".join([what, *kinds]), draw, curves))
    if not drawn:
        raise ValueError("there is nothing to draw: pictures are of surfaces, lines, eigenvalues and congruence traces")
    return [Drawing(name, told, draw(mine, **look)) for name, told, draw, mine in drawn]


def undrawn(results: Sequence[Result]) -> str:
    """What no picture shows, in words; "" if nothing."""
    names = {DataSpread: "error of the sample", Congruence: "congruence at a checkpoint"}
    left_out = Counter(
        "spectrum of a layer"
        if _of_layer(one)
        else QUANTITIES.get(one.quantity, one.quantity)
        if isinstance(one, Estimate)
        else names.get(type(one), "")
        for one in results
    )
    told = [f"{what} ({count})" for what, count in left_out.items() if what]
    return f"not drawn: {', '.join(told)}: --to csv and --to json have them" if told else ""


def export_picture(
    results: Sequence[Result],
    stem: Path,
    *,
    kind: str,
    relief: bool = False,
    width: Width | None = None,
    scale: Scale = "auto",
    clip: float | None = None,
) -> dict[Path, bytes]:
    """The `drawings` as png, svg or pdf files beside `stem`.

    `width` is that of a "single" or "double" column, in place of each picture's own. The same results give the same
    bytes; fonts travel with a pdf, and letters stay letters in svg; the file's description is the caption.

    Raises:
        ValueError: If there is nothing to draw, or for a relief no surface.
    """
    return picture_files(drawings(results, relief=relief, width=width, scale=scale, clip=clip), stem, kind)


def picture_files(drawn: Sequence[Drawing], stem: Path, kind: str) -> dict[Path, bytes]:
    """The content of a file for each drawing; one by itself has the stem's name."""
    return {
        _file(stem, kind, *([one.name] if len(drawn) > 1 else [])): picture_bytes(
            one.picture, kind, caption=one.caption
        )
        for one in drawn
    }


Spectral = Eigenpairs | Density | CurvatureTrace
_CURVES: dict[str, tuple[type[Result], Callable[..., Any], str]] = {
    "spectrum": (Eigenpairs, spectrum_picture, "eigenvalues"),
    "density": (Density, density_picture, "density of the eigenvalues"),
    "curvature": (CurvatureTrace, curvature_picture, "largest eigenvalues along a run"),
    "congruence": (CongruenceTrace, congruence_picture, "gradient congruence along a run"),
}


def _of_layer(result: Result) -> bool:
    return isinstance(result, Eigenpairs) and "layer" in result.settings


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


def _csv(result: Result) -> str:
    if isinstance(result, Surface):
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        arrays = _on_grid(result)
        writer.writerow(("x", "y", *arrays))
        for (i, x), (j, y) in ((a, b) for a in enumerate(result.x) for b in enumerate(result.y)):
            writer.writerow([float(x), float(y), *(array[i, j].item() for array in arrays.values())])
        return file.getvalue()
    columns = {n: a for n, a in _arrays(result).items() if a.ndim == 1 and not n.startswith("examples.")}
    if isinstance(result, Density):
        columns = {name: columns[name] for name in ("grid", "mean", "low", "high")}
    if not columns:
        columns = {n: np.array([v]) for n, v in _plain(result).items() if isinstance(v, int | float | str)}
    return _table(columns)


def _table(columns: Arrays) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([value.item() for value in row] for row in zip(*columns.values(), strict=True))
    return file.getvalue()


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
    label = surface.checkpoint.get("label") or "surface"
    return f"landscape: mean loss of {label}".encode("ascii", "replace").decode().replace("\n", " ")[:255]


def _document(result: Result) -> Json:
    arrays: dict[str, Json] = {name: _listed(array.tolist()) for name, array in _arrays(result).items()}
    plain = {name: _listed(value) for name, value in _plain(result).items()}
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


def _listed(value: Json) -> Json:
    if isinstance(value, list):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
