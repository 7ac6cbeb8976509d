"""What a measurement returns, and the file it is kept in: the waist between computing and drawing.

Arrays are numpy, so that a results file can be read, drawn and compared without torch.
Every result carries `checkpoint` (what was measured), `settings` (everything that decides the numbers)
and `checks` (what was verified on the way). A value that is not finite stays as it is, with a status.

A file is an .npz without pickles: member `header` (JSON: format, plan, and type, checkpoint, settings,
checks and plain values of each result), member `run` (JSON: seconds, host, memory, command; the only
member that may differ between equal runs), and arrays named `0.loss`, `0.x`, `1.values`, ...

Legend: S grid steps, E examples whose losses are kept, K eigenpairs, P parameters, T checkpoints of a trajectory,
G grid of a density, V probes, M steps of each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Record = dict[str, Json]
Array = npt.NDArray[np.float64]

FORMAT = 1
PAGE_MARK = '<meta name="generator" content="landscape"'  # by which a page of ours is known
MAX_BYTES = 1 << 30  # a results file that unpacks to more than this is refused before it is read

# Status of a grid cell. Never a sentinel in the data.
MISSING, OK, NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY, FAILED = range(6)


_PLAIN: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,)}

_CROSS_CHECK = ("eigenvalue", "difference", "trace", "trace_standard_error", "num_matvecs")


class ResultsError(ValueError):
    """A results file that cannot be read, or that holds something else than was expected."""


def _plot(result: Result) -> Figure:
    """The result as a plotly figure; `landscape.figures` has more ways to draw it, and several in one."""
    from landscape.figures import figure_of

    return figure_of(result)


def _short(result: Result) -> str:
    """What a result is, and the shapes of its arrays: not their thousands of numbers."""
    label, (arrays, values) = result.checkpoint.get("label"), taken_apart(result)
    told = [repr(label)] if label else []
    told += [f"{name}={value!r}" for name, value in values.items() if isinstance(value, bool | int | float | str)]
    told += [f"{name} {array.shape}" for name, array in arrays.items()]
    return f"{type(result).__name__}({', '.join(told)})"


def _html(result: Result) -> str:
    """The result as a notebook shows it, with a picture that needs neither script nor network."""
    from landscape.figures import html_of

    return html_of(result)


@dataclass(frozen=True, eq=False, kw_only=True)
class Metric:
    """The mean of a caller's own metric over the examples, and its standard error, at each point of a grid."""

    mean: Array  # (S, S), of a line (S,)
    standard_error: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class ExampleLosses:
    """The losses of some examples at each point of a grid, to compare checkpoints example by example.

    `denominator` is what each adds to the denominator of the mean (1 where the mean is over examples). Which examples
    these are is `settings["paired_hash"]`, equal for equal examples of equal data.
    """

    loss: npt.NDArray[np.floating]  # (S, S, E), of a line (S, E)
    denominator: Array  # (E,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Line:
    """Mean loss along a line: `loss[i]` is at centre + x[i] axis. The other columns are those of `Surface`."""

    x: Array  # (S,)
    loss: Array  # (S,)
    standard_error: Array  # (S,)
    accuracy: Array  # (S,)
    status: npt.NDArray[np.uint8]  # (S,)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    examples: ExampleLosses | None = None
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short
    plot = _plot
    _repr_html_ = _html

    @property
    def num_nonfinite(self) -> int:
        """Number of points that were measured and are not finite."""
        return _num_nonfinite(self.status)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trajectory:
    """The checkpoints of a run as a plane sees them, in the order of their epochs.

    (x, y) is the point of the plane nearest to a checkpoint, `distance` how far the checkpoint is from it, in the
    2-norm of all parameters. `loss` is the checkpoint's own, `plane_loss` the plane's at (x, y): a contour drawn under
    the trajectory shows the second, which is the first only where the distance is zero. `explained_variance` is the
    share of the squared distances from the plane's centre that lies in the plane.
    """

    epoch: npt.NDArray[np.int64]  # (T,)
    x: Array  # (T,)
    y: Array  # (T,)
    distance: Array  # (T,)
    loss: Array  # (T,)
    standard_error: Array  # (T,) of loss
    plane_loss: Array  # (T,)
    explained_variance: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Surface:
    """Mean loss on a plane: `loss[i, j]` is at centre + x[i] axis0 + y[j] axis1.

    `standard_error` is that of the mean over the examples, `accuracy` a fraction (NaN where the task has none).
    `status` says for each cell: 0 missing, 1 ok, 2 nan, 3 +inf, 4 -inf, 5 failed. Where they were asked for: `metrics`
    by name, the losses of some `examples`, and the `trajectory` of a run, seen from this plane.
    """

    x: Array  # (S,)
    y: Array  # (S,)
    loss: Array  # (S, S)
    standard_error: Array  # (S, S)
    accuracy: Array  # (S, S)
    status: npt.NDArray[np.uint8]  # (S, S)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    examples: ExampleLosses | None = None
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)
    trajectory: Trajectory | None = None

    __repr__ = _short
    plot = _plot
    _repr_html_ = _html

    @property
    def num_nonfinite(self) -> int:
        """Number of cells that were measured and are not finite."""
        return _num_nonfinite(self.status)


@dataclass(frozen=True, eq=False, kw_only=True)
class Eigenpairs:
    """The K algebraically largest eigenvalues, descending, each with its true residual ||Hv - lam v||.

    An eigenvalue of H lies within `residuals[i]` of `values[i]`. `converged[i]` says that the residual met the
    tolerance; `complete`, that a fresh random start saw nothing beyond the last one. `num_matvecs` counts
    every product, checks included. `loss` is the mean loss at theta (NaN for a bare matvec). With settings["which"]
    "smallest" they are the smallest ones, still descending; with "both" settings["k"] at each end.
    """

    values: Array  # (K,)
    vectors: npt.NDArray[np.floating] | None  # (K, P), rows; None where they were not kept
    residuals: Array  # (K,)
    converged: npt.NDArray[np.bool_]  # (K,)
    complete: bool
    num_matvecs: int
    loss: float = float("nan")
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short

    def ratio(self, place: int = 5) -> float:
        """lambda_1 / lambda_place (from 1); NaN where fewer of the largest are known."""
        which, k = self.settings.get("which"), self.settings.get("k")
        known = k if which == "both" and isinstance(k, int) else len(self.values)
        if which == "smallest" or not 1 <= place <= known:
            return float("nan")
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(self.values[0] / self.values[place - 1])

    plot = _plot
    _repr_html_ = _html


@dataclass(frozen=True, eq=False, kw_only=True)
class CurvatureTrace:
    """The K largest eigenvalues of the Hessian at T checkpoints of a run; the columns are those of `Eigenpairs`.

    `overlap` is the share of the space of the K eigenvectors that lies in that of the checkpoint before (NaN at the
    first). `along_gradient` and `along_sam` are v'Hv for the unit vectors along the gradient and along SAM's step.
    `stability_limit` is the largest curvature at which full-batch descent with `learning_rate` is stable, in theory;
    NaN where the run's method is not SGD.
    """

    epoch: npt.NDArray[np.int64]  # (T,)
    values: Array  # (T, K)
    residuals: Array  # (T, K)
    converged: npt.NDArray[np.bool_]  # (T, K)
    complete: npt.NDArray[np.bool_]  # (T,)
    num_matvecs: npt.NDArray[np.int64]  # (T,)
    loss: Array  # (T,)
    overlap: Array  # (T,)
    along_gradient: Array  # (T,)
    along_sam: Array  # (T,)
    learning_rate: Array  # (T,)
    stability_limit: Array  # (T,)
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short
    plot = _plot
    _repr_html_ = _html


@dataclass(frozen=True, eq=False, kw_only=True)
class Density:
    """The density of an operator's eigenvalues: K sticks of mass 1/size each, and a bulk that has the other mass.

    `mean` is the bulk's density on `grid`, smoothed by Gaussians of standard deviation `kernel_width` and averaged over
    V probes; low..high is a Student-t interval for that average (its confidence is in settings), NaN with fewer than 4
    probes, which `note` then says. It does not hold the errors of quadrature and smoothing. `nodes` and `weights` are
    those of each probe's quadrature, the weights of a probe with the sum 1. A stick is an eigenvalue that was
    found by itself, to within its residual. `num_matvecs` are the products of the probes.
    """

    grid: Array  # (G,)
    mean: Array  # (G,)
    low: Array  # (G,)
    high: Array  # (G,)
    nodes: Array  # (V, M)
    weights: Array  # (V, M)
    sticks: Array  # (K,)
    stick_residuals: Array  # (K,)
    size: int
    kernel_width: float
    num_matvecs: int
    note: str = ""
    loss: float = float("nan")
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short
    plot = _plot
    _repr_html_ = _html


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimate:
    """One number about an operator (its trace, its Frobenius norm, ...) from random probes.

    `standard_error` is over the probes, NaN with fewer than 4 of them; `note` then says so. Of few probes it is itself
    uncertain: `interval` is as wide as that makes it. `num_matvecs` are the products that it took.
    """

    quantity: str
    value: float
    standard_error: float
    num_samples: int
    num_matvecs: int
    note: str = ""
    loss: float = float("nan")
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short
    _repr_html_ = _html

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's interval for the value: NaN without a standard error, the value itself where that is exact."""
        half = self.standard_error and t_factor(self.num_samples, confidence) * self.standard_error
        return self.value - half, self.value + half


@dataclass(frozen=True, eq=False, kw_only=True)
class Diagonal:
    """The diagonal of an operator, each entry with its standard error, and its sum over each tensor of theta.

    The entries are those of theta: the tensors `names`, one after the other, each flattened from its shape in `shapes`;
    an operator that knows none has one, called "all". `tensor_traces` are the sums over each tensor, `trace` that over
    all; their standard errors are from the spread of the sums over probes, for the errors of entries depend on each
    other. All errors are over the probes: NaN with fewer than 4, which `note` then says, and 0 where the operator was
    small enough to be measured whole.
    """

    values: npt.NDArray[np.floating]  # (P,)
    standard_error: npt.NDArray[np.floating]  # (P,)
    names: Sequence[str]  # (B,)
    shapes: Sequence[Sequence[int]]  # (B,)
    tensor_traces: Array  # (B,)
    tensor_standard_errors: Array  # (B,)
    trace: float
    trace_standard_error: float
    num_samples: int
    num_matvecs: int
    note: str = ""
    loss: float = float("nan")
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short
    plot = _plot
    _repr_html_ = _html

    def tensor(self, name: str) -> npt.NDArray[np.floating]:
        """The entries of one tensor, in its shape.

        Raises:
            KeyError: If there is none of this name.
        """
        if name not in self.names:
            raise KeyError(f"no tensor is called {name}: {', '.join(self.names)}")
        place = list(self.names).index(name)
        sizes = [math.prod(shape) for shape in self.shapes]
        start = sum(sizes[:place])
        return self.values[start : start + sizes[place]].reshape(self.shapes[place])


_NUM_SLOPES = 3  # of the largest eigenvalue over 1 / N: in each half of the data, and between the halves and all of it


@dataclass(frozen=True, eq=False, kw_only=True)
class DataSpread:
    """What eigenvalues and trace owe to the sample of the examples: their errors as those of all data of the kind.

    `standard_error` is that of each of the K `values` at its fixed vector, from the spread over random parts, a lower
    bound. That of `trace` has two parts, the sample of the data, `trace_data_error`, and the random probes it is over.
    The largest eigenvalue of a sample is too large on average: `subset_values` are those of disjoint subsets, each of
    `subset_sizes` examples (what the mean divides by), the whole sample last, and `bias` is what a + c / N through them
    leaves at the whole sample; `bias_standard_error` is of few subsets, and of the law a + c / N it says nothing.
    `num_matvecs` counts products in units of one over all data.
    """

    values: Array  # (K,)
    standard_error: Array  # (K,)
    trace: float
    trace_standard_error: float
    subset_sizes: Array  # (T,)
    subset_values: Array  # (T,)
    bias: float
    num_examples: float
    num_parts: int
    num_matvecs: int
    trace_data_error: float = float("nan")
    bias_standard_error: float = float("nan")
    loss: float = float("nan")
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short
    _repr_html_ = _html

    def examples_for(self, relative_error: float) -> float:
        """How many examples bring standard error and bias of the largest eigenvalue below this share of it."""
        return self._examples(relative_error, float(self.standard_error[0]), abs(self.bias))

    def examples_interval(self, relative_error: float, confidence: float = 0.95) -> tuple[float, float]:
        """Where that number lies: a squared error over B parts is spread as chi^2 with B - 1 degrees of freedom."""
        from scipy.special import chdtri

        free, tail = self.num_parts - 1, (1 - confidence) / 2
        errors = [
            float(self.standard_error[0]) * float(free / chdtri(free, share)) ** 0.5 for share in (tail, 1 - tail)
        ]
        spread = float(np.nan_to_num(t_factor(_NUM_SLOPES, confidence) * self.bias_standard_error))
        biases = [max(abs(self.bias) - spread, 0.0), abs(self.bias) + spread]
        low, high = (self._examples(relative_error, *both) for both in zip(errors, biases, strict=True))
        return low, high

    def _examples(self, relative_error: float, error: float, bias: float) -> float:
        wanted = relative_error * abs(float(self.values[0]))
        return float(np.ceil(self.num_examples * max((error / wanted) ** 2, bias / wanted))) if wanted else float("nan")


@dataclass(frozen=True, eq=False, kw_only=True)
class Congruence:
    """Gradient congruence c(theta) = cos(g_Bt(theta), g_Bv(theta_v)), in eval mode, at one checkpoint.

    `status` is "ok" or says why the value is NaN (a zero gradient has no direction).
    """

    value: float
    standard_error: float
    status: str = "ok"
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short
    _repr_html_ = _html


@dataclass(frozen=True, eq=False, kw_only=True)
class CongruenceTrace:
    """Congruence along a training run, one mean per epoch, in train mode, as the training probe recorded it.

    `cosine_b` is before a step, `cosine_a` after it on the same samples, `change` their difference. The standard
    errors are over the probes of an epoch. NaN where an epoch was not probed, or (errors) probed once.
    """

    epoch: npt.NDArray[np.int64]  # (E,)
    cosine_b: Array  # (E,)
    cosine_a: Array  # (E,)
    change: Array  # (E,)
    cosine_b_standard_error: Array  # (E,)
    cosine_a_standard_error: Array  # (E,)
    change_standard_error: Array  # (E,)
    learning_rate: Array  # (E,) mean over the epoch's steps
    num_probes: npt.NDArray[np.int64]  # (E,)
    checkpoint: Record = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    checks: Record = field(default_factory=dict)

    __repr__ = _short
    plot = _plot
    _repr_html_ = _html


Part = Metric | ExampleLosses | Trajectory  # of a surface or line
Result = (
    Surface
    | Line
    | Eigenpairs
    | CurvatureTrace
    | Density
    | Estimate
    | Diagonal
    | DataSpread
    | Congruence
    | CongruenceTrace
)
_TYPES: dict[str, type[Result]] = {
    "Line": Line,
    "Surface": Surface,
    "Eigenpairs": Eigenpairs,
    "CurvatureTrace": CurvatureTrace,
    "Density": Density,
    "Estimate": Estimate,
    "Diagonal": Diagonal,
    "DataSpread": DataSpread,
    "Congruence": Congruence,
    "CongruenceTrace": CongruenceTrace,
}


@dataclass(frozen=True, eq=False)
class ResultsFile:
    """A whole results file: the results, the plan that decided them, and what one run happened to cost."""

    results: list[Result]
    plan: Record
    run: Record


_RESOLVED = {"float32": 1e-6, "float64": 2e-15}  # residuals over the largest eigenvalue, some units of rounding


def status_of(loss: Array) -> npt.NDArray[np.uint8]:
    """The status of measured values: ok, nan, +inf or -inf."""
    status = np.full(loss.shape, OK, dtype=np.uint8)
    status[np.isnan(loss)] = NAN
    status[np.isposinf(loss)] = POSITIVE_INFINITY
    status[np.isneginf(loss)] = NEGATIVE_INFINITY
    return status


def t_factor(num_samples: int, confidence: float = 0.95) -> float:
    """How many standard errors Student's interval reaches to either side of a mean of `num_samples`.

    Example:
        >>> [round(t_factor(num), 2) for num in (4, 20, 60)]
        [3.18, 2.09, 2.0]
    """
    from scipy.special import stdtrit

    return float(stdtrit(num_samples - 1, (1 + confidence) / 2))


def problem_of(result: Result) -> str:
    """Which check a result failed, in one line; empty where it can be believed."""
    label = result.checkpoint.get("label") or "checkpoint"
    if isinstance(result, Surface | Line):
        if not result.checks.get("centre_ok", True):
            return (
                f"{label}: the loss at the centre differs from the checkpoint's by {result.checks['centre_error']:.1g}"
            )
        allowed = result.settings.get("max_nonfinite", 0.1)
        if result.num_nonfinite > (allowed if isinstance(allowed, int | float) else 0.1) * result.loss.size:
            what = "cells" if isinstance(result, Surface) else "points"
            return f"{label}: {result.num_nonfinite} of {result.loss.size} {what} are not finite; try a smaller extent"
    if isinstance(result, Eigenpairs | Density | Estimate | Diagonal) and not result.checks.get("symmetric", True):
        return f"{label}: the product is not symmetric (error {result.checks['symmetry']:.1g})"
    if not result.checks.get("gradient_change_ok", True):
        return (
            f"{label}: products are not what finite differences see (off by {result.checks['gradient_change']:.1g}): "
            "a function of the model's own has another derivative, or .detach() or no_grad cuts the graph; "
            "requires_grad_(False) is for what is not to move"
        )
    if isinstance(result, Eigenpairs):
        if not result.converged.all():
            return f"{label}: {int((~result.converged).sum())} eigenvalues did not converge; {_remedy(result.settings)}"
        if not result.complete:
            return f"{label}: one beyond the last eigenvalue is not excluded; allow more products, or ask for fewer"
    if isinstance(result, CurvatureTrace):
        if not result.checks.get("symmetric", True):
            return f"{label}: the product is not symmetric (error {result.checks['symmetry']:.1g})"
        if not result.converged.all():
            return f"{label}: {int((~result.converged).sum())} eigenvalues did not converge; {_remedy(result.settings)}"
        if not result.complete.all():
            return f"{label}: one beyond the last eigenvalue is not excluded; allow more products, or ask for fewer"
    if isinstance(result, Congruence) and result.status != "ok":
        return f"{label}: {result.status}"
    return ""


def _remedy(settings: Record) -> str:
    """What would make eigenvalues converge: products, unless their rounding alone exceeds the tolerance."""
    dtype, tolerance = str(settings.get("dtype")), settings.get("tolerance")
    finest = _RESOLVED.get(dtype, 0.0)
    if isinstance(tolerance, float) and tolerance < finest:
        return f"{dtype} resolves no residual below about {finest:g}, so take no tolerance of {tolerance:g}"
    return "allow more products"


def _num_nonfinite(status: npt.NDArray[np.uint8]) -> int:
    return int(np.isin(status, (NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY)).sum())


def save(
    results: Result | Sequence[Result], path: str | Path, *, plan: Record | None = None, run: Record | None = None
) -> None:
    """Write results to one .npz, atomically: the file is the old one or the new one, never half of it."""
    results = [results] if isinstance(results, Result) else list(results)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    described: list[Json] = []
    for index, result in enumerate(results):
        found, values = taken_apart(result)
        arrays |= {f"{index}.{name}": array for name, array in found.items()}
        described.append({"type": type(result).__name__, **values})
    header: Record = {"format": FORMAT, "plan": plan or {}, "results": described}
    members = {"header": np.array(json.dumps(header)), "run": np.array(json.dumps(run or {})), **arrays}
    write_atomically(Path(path), lambda file: np.savez_compressed(file, allow_pickle=False, **members))


def load(path: str | Path) -> list[Result]:
    """The results in a file, always as a list.

    Raises:
        ResultsError: If the file is damaged, unsafe, or not a results file.
    """
    return load_file(path).results


def load_file(path: str | Path) -> ResultsFile:
    """A whole results file, with its plan and its run record.

    Raises:
        ResultsError: If the file is damaged, unsafe, or not a results file.
    """
    path = Path(path)
    members = _read_members(path)
    if "header" not in members:
        raise ResultsError(f"{path} is not a results file: it has no header. Make one with: landscape surface CKPT")
    header = _json_member(path, members, "header")
    if type(header.get("format")) is not int or cast(int, header["format"]) < 1 or not header.get("results"):
        raise ResultsError(f"{path} is not a results file: its header lacks format or results")
    if cast(int, header["format"]) > FORMAT:
        found = header["format"]
        raise ResultsError(f"{path} has format {found}, made by a newer landscape; this one reads {FORMAT}: upgrade")
    described = cast(list[Record], header["results"])
    results = [_result(path, index, values, members) for index, values in enumerate(described)]
    run = _json_member(path, members, "run") if "run" in members else {}
    return ResultsFile(results, cast(Record, header.get("plan", {})), run)


def strict_json(value: Json) -> Json:
    """`value` as JSON can have it, without NaN and infinities: they become null, beside the status that says which.

    Example:
        >>> strict_json({"loss": [1.0, float("nan")]})
        {'loss': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: strict_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [strict_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Fill a temporary file in the same folder, then put it in place; the old file stays until then.

    Raises:
        OSError: With the name of the file: a full disk does not say which one it stopped.
    """
    name, path = path, Path(os.path.realpath(path))  # through a link, to the file itself
    for stale in path.parent.glob(f".{path.name}.tmp-*"):
        if not _alive(stale.name.rsplit("-", 1)[-1]):
            stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None:  # one without a number has words of its own
            error.filename = str(name)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def taken_apart(value: Result | Part) -> tuple[dict[str, npt.NDArray[np.generic]], Record]:
    """The arrays of a result, and its other values; those of a part of it are called trajectory.x and so on."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    values: Record = {}
    for item in dataclasses.fields(value):
        part = getattr(value, item.name)
        if isinstance(part, np.ndarray):
            arrays[item.name] = part
            continue
        inner: dict[str, npt.NDArray[np.generic]] = {}
        if isinstance(part, Part):
            inner, values[item.name] = taken_apart(part)
        elif item.name == "metrics":
            values[item.name] = list(part)
            for name, metric in part.items():
                inner |= {f"{name}.{key}": array for key, array in taken_apart(metric)[0].items()}
        else:
            values[item.name] = part
        arrays |= {f"{item.name}.{name}": array for name, array in inner.items()}
    return arrays, values


_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _read_members(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if any(info.filename.endswith("/data.pkl") for info in infos):
                raise ResultsError(f"{path} is a checkpoint, not results: measure it with landscape surface {path}")
            size = sum(info.file_size for info in infos)
            if size > MAX_BYTES:
                raise ResultsError(f"{path} would unpack to {size:,} bytes, more than {MAX_BYTES:,}: refused unread")
            return {info.filename.removesuffix(".npy"): _read_array(archive, info) for info in infos}
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ResultsError(f"{path} is not a whole .npz file ({error}). Measure again, or copy it again") from error
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") if not str(error).startswith(str(path)) else error from None


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[np.generic]:
    """One array, its declared size held against the member's true size before anything is allocated."""
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = _NPY_HEADERS[version](file)
        except Exception as error:  # numpy parses the header as Python: a dozen kinds of errors
            raise ResultsError(f"member {info.filename} is not an array") from error
        declared = dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
        if dtype.hasobject or declared != info.file_size - file.tell():
            raise ResultsError(f"member {info.filename} holds pickled objects, or lies about its size: refused")
        data = np.frombuffer(file.read(), dtype=dtype)
    return data.reshape(shape, order="F" if fortran else "C").copy()


def _json_member(path: Path, members: Mapping[str, npt.NDArray[np.generic]], name: str) -> Record:
    with contextlib.suppress(ValueError, TypeError):
        value = json.loads(str(members[name][()]))
        if isinstance(value, dict):
            return value
    raise ResultsError(f"{path} is not a results file: its {name} is not a JSON object")


def _result(path: Path, index: int, values: Record, members: Mapping[str, npt.NDArray[np.generic]]) -> Result:
    try:
        values = dict(values)
        kind = _TYPES[str(values.pop("type"))]
        prefix = f"{index}."
        arrays = {name.removeprefix(prefix): array for name, array in members.items() if name.startswith(prefix)}
        parts = _parts(values, arrays)
        result = kind(**{**values, **parts, **arrays})  # type: ignore[arg-type]
        _check_shapes(result)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ResultsError(f"{path}: result {index} is of an unknown type or lacks a part ({error})") from error
    return result


def _parts(values: Record, arrays: dict[str, npt.NDArray[np.generic]]) -> dict[str, object]:
    """Trajectory, metrics and losses of examples; their arrays are taken out of the surface's or line's."""

    def own(prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        return {name.removeprefix(prefix): arrays.pop(name) for name in [*arrays] if name.startswith(prefix)}

    found: dict[str, object] = {}
    if isinstance(plain := values.get("trajectory"), dict):
        found["trajectory"] = Trajectory(**plain, **own("trajectory."))  # type: ignore[arg-type]
    if isinstance(values.get("examples"), dict):
        found["examples"] = ExampleLosses(**own("examples."))  # type: ignore[arg-type]
    if isinstance(names := values.get("metrics"), list):
        found["metrics"] = {str(name): Metric(**own(f"metrics.{name}.")) for name in names}  # type: ignore[arg-type]
    return found


def _check_parts(result: Surface | Line) -> None:
    """Shapes of what a surface or line may hold besides its own arrays."""
    shape, trajectory = result.loss.shape, result.trajectory if isinstance(result, Surface) else None
    if not isinstance(trajectory, Trajectory | None) or not isinstance(result.examples, ExampleLosses | None):
        raise TypeError("trajectory or examples is not an object")
    for metric in result.metrics.values():
        if not metric.mean.shape == metric.standard_error.shape == shape:
            raise ValueError("a metric is of a wrong shape")
    if (kept := result.examples) is not None and kept.loss.shape != (*shape, len(kept.denominator)):
        raise ValueError("the losses of its examples are of a wrong shape")
    if trajectory is not None:
        shapes = {array.shape for array in taken_apart(trajectory)[0].values()}
        if len(shapes) > 1 or trajectory.epoch.ndim != 1:
            raise ValueError("its trajectory is of a wrong shape")


def _check_plain(result: Result) -> None:
    """Types of what is not an array; numbers that are not finite are numbers."""
    for part in (result, getattr(result, "trajectory", None)):
        for f in dataclasses.fields(part) if part is not None else ():
            kinds, value = _PLAIN.get(str(f.type)), getattr(part, f.name)
            if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
                raise TypeError(f"{f.name} is no {f.type}, but {value!r}")
    check = result.checks.get("pyhessian")
    if isinstance(check, dict) and not all(isinstance(check.get(name), int | float) for name in _CROSS_CHECK):
        raise TypeError(f"its cross-check lacks one of {', '.join(_CROSS_CHECK)}")


def _check_shapes(result: Result) -> None:
    if isinstance(result, Surface | Line):
        _check_parts(result)
    for name in ("checkpoint", "settings", "checks"):
        if not isinstance(getattr(result, name), dict):
            raise TypeError(f"{name} is not an object")
    _check_plain(result)
    arrays = {f.name: v for f in dataclasses.fields(result) if isinstance(v := getattr(result, f.name), np.ndarray)}
    if any(array.dtype.kind not in "fiub" for array in taken_apart(result)[0].values()):
        raise TypeError("an array does not hold numbers")
    if isinstance(result, Surface):
        expected = {name: (len(result.x), len(result.y)) for name in arrays} | {
            "x": (len(result.x),),
            "y": (len(result.y),),
        }
        if not (np.isfinite(result.x).all() and np.isfinite(result.y).all() and result.loss.size):
            raise ValueError("its coordinates are not finite")
    elif isinstance(result, Eigenpairs):
        expected = {name: (len(result.values),) for name in arrays if name != "vectors"}
    elif isinstance(result, CurvatureTrace):
        count, num_values = len(result.epoch), result.values.shape[-1]
        wide = dict.fromkeys(("values", "residuals", "converged"), (count, num_values))
        expected = {**dict.fromkeys(arrays, (count,)), **wide}
    elif isinstance(result, Density):
        expected = {
            **dict.fromkeys(("grid", "mean", "low", "high"), (len(result.grid),)),
            **dict.fromkeys(("nodes", "weights"), (len(result.nodes), result.weights.shape[-1])),
            **dict.fromkeys(("sticks", "stick_residuals"), (len(result.sticks),)),
        }
    elif isinstance(result, Diagonal):
        sizes, count = [math.prod(shape) for shape in result.shapes], len(result.names)
        expected = {
            **dict.fromkeys(("values", "standard_error"), (sum(sizes),)),
            **dict.fromkeys(("tensor_traces", "tensor_standard_errors"), (count,)),
        }
        if len(sizes) != count:
            raise ValueError("names and shapes differ in number")
    elif isinstance(result, DataSpread):
        expected = {
            **dict.fromkeys(("values", "standard_error"), (len(result.values),)),
            **dict.fromkeys(("subset_sizes", "subset_values"), (len(result.subset_sizes),)),
        }
    else:
        expected = {name: (len(next(iter(arrays.values()))),) for name in arrays}
    wrong = [name for name, shape in expected.items() if arrays[name].shape != shape]
    if wrong:
        raise ValueError(f"of a wrong shape: {', '.join(wrong)}")
