"""Which pictures show a set of results, what each is called, and what none of them shows."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.grouping import line_groups, spectrum_kind, styles
from landscape.picture import (
    Width,
    compared,
    congruence_picture,
    curvature_picture,
    density_picture,
    diagonal_picture,
    difference_picture,
    layers_picture,
    line_picture,
    overview_picture,
    planes,
    relief_picture,
    spectrum_picture,
    trajectory_picture,
)
from landscape.readings import QUANTITIES, sample_errors
from landscape.results import (
    Congruence,
    CongruenceTrace,
    CurvatureTrace,
    DataSpread,
    Density,
    Diagonal,
    Eigenpairs,
    Estimate,
    Result,
    Surface,
)
from landscape.view import Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    surfaces = [one for one in results if isinstance(one, Surface)]
    look: dict[str, Any] = {"known": styles(results), **({"width": width} if width else {})}
    drawn: list[tuple[str, str, Callable[..., Figure], Sequence[Result]]] = []
    if relief and not surfaces:
        raise ValueError(
            "--relief draws surfaces, and there is none: leave it out, or make one with: landscape surface"
        )
    several = planes(surfaces)
    for n, (plane, mine) in enumerate(several, 1):
        place = f"-plane-{n}" if len(several) > 1 else ""
        draw = relief_picture if relief else overview_picture
        data = " and ".join(dict.fromkeys(str(one.settings.get("split") or "unnamed data") for one in mine))
        told = f"mean loss on {data}, {plane}"
        drawn.append((f"surface{place}", told, functools.partial(draw, scale=scale, clip=clip), mine))
        if not relief and compared(mine):
            drawn.append((f"difference{place}", f"paired differences on {data}, {plane}", difference_picture, mine))
    if runs := [one for one in surfaces if one.trajectory is not None]:
        drawn.append(("run", "a run seen from its plane", trajectory_picture, runs))
    groups = line_groups(results)
    for n, group in enumerate(groups, 1):
        place, told = f"-{n}" if len(groups) > 1 else "", f"mean {group.data} loss, {group.name}"
        drawn.append((f"line{place}", told, line_picture, group.lines))
    spreads = [one for one in results if isinstance(one, DataSpread)]
    for name, (of, draw, what) in _CURVES.items():
        if curves := [one for one in results if isinstance(one, of) and _of_layer(one) == (name == "layers")]:
            kinds = dict.fromkeys(spectrum_kind(one) for one in curves if isinstance(one, Spectral))
            drawn.append((name, "; ".join([what, *kinds]), draw, [*curves, *spreads]))
    if not drawn:
        raise ValueError("there is nothing to draw: pictures are of surfaces, lines, eigenvalues and congruence traces")
    return [Drawing(name, told, draw(mine, **look)) for name, told, draw, mine in drawn]


def undrawn(results: Sequence[Result]) -> str:
    """What no picture shows, in words; "" if nothing."""
    names = {DataSpread: "error of the sample", Congruence: "congruence at a checkpoint"}
    pairs = [one for one in results if isinstance(one, Eigenpairs) and not _of_layer(one)]
    beside = [one for one in results if isinstance(one, DataSpread) and any(map(_at(one), pairs))]
    left_out = Counter(
        QUANTITIES.get(one.quantity, one.quantity) if isinstance(one, Estimate) else names.get(type(one), "")
        for one in results
        if not any(one is other for other in beside)
    )
    told = [f"{what} ({count})" for what, count in left_out.items() if what]
    return f"not drawn: {', '.join(told)}: --to csv and --to json have them" if told else ""


Spectral = Eigenpairs | Density | Diagonal | CurvatureTrace
_CURVES: dict[str, tuple[type[Result], Callable[..., Any], str]] = {
    "spectrum": (Eigenpairs, spectrum_picture, "eigenvalues"),
    "layers": (Eigenpairs, layers_picture, "eigenvalues of each layer's own block"),
    "density": (Density, density_picture, "density of the eigenvalues"),
    "diagonal": (Diagonal, diagonal_picture, "trace of each tensor"),
    "curvature": (CurvatureTrace, curvature_picture, "largest eigenvalues along a run"),
    "congruence": (CongruenceTrace, congruence_picture, "gradient congruence along a run"),
}


def _at(spread: DataSpread) -> Callable[[Eigenpairs], bool]:
    return lambda pairs: bool(np.isfinite(sample_errors(pairs, [spread])).any())


def _of_layer(result: Result) -> bool:
    return isinstance(result, Eigenpairs) and "layer" in result.settings
