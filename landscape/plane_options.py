"""Which line or plane a surface is measured on: the kinds of directions, what goes together, and the plane itself.

Nothing here imports torch until a plane is made: a shell completes the kinds.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from landscape.results import Record

if TYPE_CHECKING:
    from torch import Tensor

    from landscape.filters import Normalization
    from landscape.objective import Objective
    from landscape.plane import Plane

KINDS = ("random", "pca", "eigenvectors", "between", "gradient", "sam")
OF_EACH = ("random", "gradient", "sam")  # each checkpoint has its own; all others are one displacement
USUAL_RHO = 0.05
_MICRO_BATCH = 256  # of a Hessian product on a GPU


class NotConvergedError(ArithmeticError):
    """Eigenvectors that a plane was to be drawn along did not converge."""


@dataclass(frozen=True, kw_only=True)
class PlaneOptions:
    """What decides the line or plane of a surface: the options of `landscape surface` that say where to look.

    `directions` is one of KINDS, or a file of directions. `layers` move alone. `rho` is the radius of "sam";
    `normalization`, `output_dims` (NAME=DIM) and `normalize_by`, another checkpoint, are of "random". `trajectory` is a
    run whose checkpoints are drawn as well.
    """

    directions: str = "random"
    line: bool = False
    normalization: Normalization = "filter"
    seed: int = 0
    rho: float | None = None
    layers: tuple[str, ...] = ()
    output_dims: tuple[str, ...] = ()
    normalize_by: Path | None = None
    trajectory: Path | None = None
    save_directions: bool = False

    def check(self, num_checkpoints: int) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: If they do not, or there is neither a kind nor a file called `directions`.
        """
        kind = self.directions
        if kind not in KINDS and not Path(kind).is_file():
            near = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(KINDS)}"
            raise ValueError(f"`directions`: there is no kind and no file {kind!r}; {hint}")
        if kind == "between" and num_checkpoints not in (2, 3):
            raise ValueError(f"`directions='between'` takes two checkpoints or three, got {num_checkpoints}")
        if kind == "between" and self.line and num_checkpoints == 3:
            raise ValueError("a line between checkpoints takes two, got 3")
        if self.rho is not None and kind != "sam":
            raise ValueError("`rho` is of `directions='sam'`")
        if kind != "random" and (self.normalize_by or self.output_dims or self.normalization != "filter"):
            raise ValueError("`normalization`, `normalize_by` and `output_dim` are of random directions")
        if self.line and self.trajectory is not None:
            raise ValueError("`trajectory` is drawn on a plane: leave out `line`")

    def record(self) -> Record:
        """The options that decide a plane, as primitives; a file of directions by its content, not by its name."""
        kind = self.directions
        return {
            "directions": kind if kind in KINDS else hashlib.sha256(Path(kind).read_bytes()).hexdigest(),
            "line": self.line,
            "normalization": self.normalization,
            "seed": self.seed,
            "rho": self.rho,
            "layers": list(self.layers),
            "output_dims": list(self.output_dims),
        }


def parsed_output_dims(words: Sequence[str]) -> dict[str, int]:
    """The dimension of the output units by name, of words NAME=DIM.

    Raises:
        ValueError: If a word is none.

    Example:
        >>> parsed_output_dims(["Conv1D=1"])
        {'Conv1D': 1}
    """
    found = {}
    for word in words:
        name, _, dim = word.rpartition("=")
        if not name or not dim.isdigit():
            raise ValueError(f"`output_dim` takes NAME=DIM, such as Conv1D=1, got {word!r}")
        found[name] = int(dim)
    return found


def plane_of(
    objective: Objective,
    options: PlaneOptions,
    *,
    normalize_by: Objective | None = None,
    others: Sequence[Objective] = (),
    names: Sequence[str] = (),
    run: Sequence[Mapping[str, Tensor]] = (),
    progress: Callable[[int], None] | None = None,
) -> Plane:
    """The line or plane through a checkpoint that the options ask for, where they name a kind, not a file.

    `others` are the checkpoints that lie on a plane "between" with it, `names` those of all; `run` holds the tensors,
    by name, of the checkpoints that "pca" is of. `progress` gets the products of "eigenvectors".

    Raises:
        NotConvergedError: If eigenvectors did not converge.
        ValueError: As the functions of landscape.directions and landscape.trajectory.
    """
    from landscape import directions

    kind, layers = options.directions, options.layers
    if kind == "between":
        between = directions.line_between if len(others) == 1 else directions.plane_through
        return between(objective, *others, names=names, layers=layers)
    if kind == "random":
        plane = directions.random_plane(
            objective,
            seed=options.seed,
            normalization=options.normalization,
            layers=layers,
            normalize_by=normalize_by,
            output_dims=parsed_output_dims(options.output_dims),
        )
    elif kind == "pca":
        plane = _pca_plane(objective, run, layers)
    elif kind == "eigenvectors":
        plane = _eigenvector_plane(objective, options, progress)
    else:
        rho = None if kind == "gradient" else USUAL_RHO if options.rho is None else options.rho
        plane = directions.ascent_plane(objective, rho=rho, seed=options.seed, layers=layers)
    return directions.axis_line(plane) if options.line else plane


def _pca_plane(objective: Objective, run: Sequence[Mapping[str, Tensor]], layers: Sequence[str]) -> Plane:
    import torch

    from landscape.trajectory import pca_plane

    rows = [torch.cat([state[name].reshape(-1) for name in objective.shapes]) for state in run]
    return pca_plane(objective, torch.stack(rows).to(objective.theta), layers=layers)


def _eigenvector_plane(objective: Objective, options: PlaneOptions, progress: Callable[[int], None] | None) -> Plane:
    from landscape import operators
    from landscape.directions import eigenvector_plane
    from landscape.lanczos import top_eigenpairs
    from landscape.plane import layer_mask

    on_gpu = objective.theta.is_cuda and objective.may_cut  # elsewhere 64, or whole batches
    operator = operators.hessian(objective, micro_batch=_MICRO_BATCH if on_gpu else None)
    if options.layers:
        operator = operators.restricted(operator, layer_mask(objective, options.layers))
    pairs = top_eigenpairs(operator, 2, seed=options.seed, progress=progress)
    if not pairs.converged.all():
        raise NotConvergedError("the eigenvectors did not converge, so no plane is drawn along them")
    return eigenvector_plane(objective, pairs, layers=options.layers)
