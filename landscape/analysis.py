"""All that is asked of the curvature at a checkpoint, and the answers, from one operator.

The eigenpairs come first. Density, trace and diagonal take what is known from them out of what they estimate; a budget
shares its products among all of these. Beside them: what they owe to the sample of the data, the blocks of the layers,
and another program's numbers.

Legend: P parameters, K eigenpairs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from landscape import operators
from landscape.budget import curvature
from landscape.crosscheck import pyhessian_check, require_comparable
from landscape.distributed import place, shared
from landscape.engines import ProductEngine
from landscape.entries import diagonal
from landscape.krylov import Progress
from landscape.lanczos import least_matvecs, top_eigenpairs
from landscape.ledger import Replayed
from landscape.objective import Objective
from landscape.operators import SymmetricOperator
from landscape.plane import layer_mask, layers_of
from landscape.products import BatchNorm
from landscape.protocols import paper_hessian, weights_of
from landscape.results import DataSpread, Eigenpairs, Record, Result
from landscape.sampling import data_error
from landscape.spectrum import effective_rank, spectral_density, trace

NUM_PARTS = 16  # random parts of the data, for the spread between them

Matrix = Literal["hessian", "gauss-newton", "fisher", "empirical-fisher"]
Protocol = Literal["clean", "paper"]

_OF_EIGENVALUES = ("top", "tolerance", "max_matvecs", "seed")
_OF_THE_PAPER = ("protocol", "which", "budget", "density", "trace", "diagonal", "save_vectors")


@dataclass(frozen=True, kw_only=True)
class HessianOptions:
    """What is asked of the curvature at a checkpoint: the options of `landscape hessian` that decide its numbers.

    `top` eigenvalues at the end, or at each end, that `which` names, to a residual of `tolerance` times the largest
    |lambda|, in `max_matvecs` products at most, with as many vectors at a time as `basis_memory` GB hold (None: 40).
    `density`, `trace` and `diagonal` are asked for beside them; or `budget` products answer all but the last.

    Of the matrix `operator` with the labels of `seed`, its block of these `layers`, made by `engine`; with
    protocol="paper" the paper's (`landscape.protocols`). `data_error` adds what eigenvalues and trace owe to the sample
    of the data, `per_layer` the eigenvalues of each layer's own block, `cross_check` PyHessian's numbers. Eigenvectors
    are left out of the results without `save_vectors`.

    Raises:
        ValueError: If options do not go together, or a choice is unknown.

    Example:
        >>> HessianOptions(budget=100, trace=True)
        Traceback (most recent call last):
        ValueError: `budget` answers density and trace too: leave out `density` and `trace`
    """

    top: int = 5
    which: Literal["largest", "smallest", "both"] = "largest"
    tolerance: float = 1e-3
    max_matvecs: int = 200
    basis_memory: float | None = None
    budget: int | None = None
    density: bool = False
    trace: bool = False
    operator: Matrix = "hessian"
    protocol: Protocol = "clean"
    engine: ProductEngine = "retained"
    layers: tuple[str, ...] = ()
    batch_norm: BatchNorm = "frozen"
    data_error: bool = False
    per_layer: bool = False
    diagonal: bool = False
    cross_check: bool = False
    save_vectors: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kinds in (("operator", Matrix), ("protocol", Protocol)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {get_args(kinds)}, got {getattr(self, name)!r}")
        whole = self.operator == "hessian" and not self.layers and self.batch_norm == "frozen"
        if self.budget is not None and (self.density or self.trace):
            raise ValueError("`budget` answers density and trace too: leave out `density` and `trace`")
        if self.budget is not None and self.diagonal:
            raise ValueError("`budget` has no products for a diagonal: use `max_matvecs`, `trace` and `density`")
        if self.which == "smallest" and (self.budget is not None or self.trace):
            raise ValueError("`budget` and `trace` need the largest eigenvalues: use `which='both'`")
        if self.engine != "retained" and self.operator != "hessian":
            raise ValueError(f"`engine` is of the Hessian, not of {self.operator}")
        if self.protocol == "paper" and not self._usual_but_for(*_OF_EIGENVALUES, *_OF_THE_PAPER):
            raise ValueError("`protocol='paper'` is of the Hessian, its own parameters, in eval mode")
        if self.per_layer and not whole:
            raise ValueError("`per_layer` is of the whole Hessian, in eval mode")
        if self.data_error and (self.batch_norm != "frozen" or self.which == "smallest"):
            raise ValueError("`data_error` is of the largest eigenvalues, in eval mode")
        if self.data_error and self.operator == "fisher":
            raise ValueError("`data_error` draws no labels: use `operator='empirical-fisher'`")
        if self.cross_check and self.which == "smallest":
            raise ValueError("`cross_check` is of the eigenvalue of largest magnitude: use `which='both'`")
        if self.cross_check and importlib.util.find_spec("pyhessian") is None:
            raise ValueError("`cross_check` needs PyHessian: pip install pyhessian")
        if self.cross_check and not whole:
            raise ValueError("`cross_check` is of the whole Hessian, in eval mode")

    def check_run(self) -> None:
        """Refuse what is not measured along a run.

        Raises:
            ValueError: If more is asked for than the largest eigenvalues of the Hessian.
        """
        if not self._usual_but_for(*_OF_EIGENVALUES):
            raise ValueError(
                "a run is followed by the largest eigenvalues of its Hessian: give single checkpoints for other options"
            )

    def check_shared(self) -> None:
        """Refuse what several processes cannot share.

        Raises:
            ValueError: If something is asked for that one process measures by itself.
        """
        alone = {
            "`per_layer`": self.per_layer,
            "`cross_check`": self.cross_check,
            "`engine='timed'`": self.engine == "timed",
            "`protocol='paper'`": self.protocol == "paper",
            "`batch_norm='train'`": self.batch_norm == "train",
            "`operator='fisher'`": self.operator == "fisher",
        }
        if found := [option for option, given in alone.items() if given]:
            raise ValueError(f"{found[0]} is measured by one process: leave out torchrun")

    def record(self) -> Record:
        """The options as primitives."""
        return {**dataclasses.asdict(self), "layers": list(self.layers)}

    def _usual_but_for(self, *free: str) -> bool:
        fixed = [item for item in dataclasses.fields(self) if item.name not in free]
        return all(getattr(self, item.name) == item.default for item in fixed)


def hessian_analysis(
    objective: Objective,
    options: HessianOptions,
    *,
    replayed: Replayed = lambda operator: operator,
    progress: Progress | None = None,
) -> list[Result]:
    """Everything that was asked for, as results to save or to show: the eigenpairs first.

    The costs are those of what is asked for: `top_eigenpairs`, `spectral_density` (4 probes of 80 products), `trace`
    (60), `diagonal`, `curvature` for a budget, `data_error` (some 60), `per_layer` (some 40 for each). `replayed` makes
    an operator whose products are kept (landscape.ledger); `progress` gets the number of products.

    Raises:
        NotRepeatableError: If two passes over the data give different losses or batches.
        NotTwiceDifferentiableError: If the model or the loss has only one derivative.
        ValueError: If the data, the model or an operator does not suit what is asked for.
        FloatingPointError: If a product is not finite.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> objective = Objective(torch.nn.Linear(2, 1, bias=False), torch.nn.MSELoss(), [(x, torch.ones(3, 1))])
        >>> pairs, found, rank = hessian_analysis(objective, HessianOptions(top=2, trace=True))  # diag(2/3, 16/3)
        >>> pairs.values.round(3).tolist(), round(found.value, 3), type(rank).__name__
        ([5.333, 0.667], 6.0, 'Estimate')
    """
    check_fit(objective, options)
    operator = replayed(chosen_operator(objective, options))
    pairs, others = _of_one_operator(operator, options, progress)
    if options.data_error:
        others.append(_data_error(objective, pairs, options, replayed))
    if options.per_layer:
        others += [_block_pairs(replayed(block), options) for block in operators.per_layer(objective).values()]
    if options.cross_check:
        check = pyhessian_check(objective, pairs, seed=options.seed, replayed=replayed)
        pairs = dataclasses.replace(pairs, checks={**pairs.checks, "pyhessian": check})
    return [pairs if options.save_vectors else dataclasses.replace(pairs, vectors=None), *others]


def check_fit(objective: Objective, options: HessianOptions) -> None:
    """Refuse options that do not fit an objective's model or data, at no cost.

    Raises:
        ValueError: If layers are unknown, more eigenvalues are asked for than there are or than the memory can find, or
            the data or the loss does not suit.
    """
    least = 4 if place()[1] == 1 else NUM_PARTS * place()[1]
    if options.data_error and objective.num_examples < least:
        raise ValueError(f"`data_error` takes parts of the data: {objective.num_examples} examples are too few")
    if options.cross_check:
        require_comparable(objective)
    names = weights_of(objective) if options.protocol == "paper" else layers_of(objective, options.layers)
    size = sum(objective.shapes[name].numel() for name in names)
    least_matvecs(size, options.top, options.which)
    _basis_size(size, objective.theta.dtype, options)


def chosen_operator(objective: Objective, options: HessianOptions) -> SymmetricOperator:
    """The matrix that is asked for, of which each of several processes has a part of the data."""
    return shared(objective, lambda part: _own_operator(part, options))


def product_cost(objective: Objective, options: HessianOptions) -> Record:
    """How a product of the matrix is made, and the seconds that it takes. Cost: two products."""
    operator = chosen_operator(objective, options)
    v = torch.ones(operator.size, dtype=operator.dtype, device=operator.device)
    for _ in range(2):  # the first builds what is kept
        started = time.perf_counter()
        float(operator.matvec(v)[0])  # waits for the device
    seconds = time.perf_counter() - started
    names = ("operator", "engine", "engine_reason", "micro_batch", "layout", "batch_norm", "dtype", "num_examples")
    told: Record = {name: operator.settings[name] for name in names if name in operator.settings}
    return {**told, "size": operator.size, "seconds_per_product": seconds, **operator.checks}


def _own_operator(objective: Objective, options: HessianOptions) -> SymmetricOperator:
    if options.protocol == "paper":
        return paper_hessian(objective)
    if options.operator == "hessian":
        names = layers_of(objective, options.layers) if options.layers else None
        found = operators.hessian(objective, engine=options.engine, batch_norm=options.batch_norm, only=names)
        return _with_layers(found, options.layers)
    if options.operator == "gauss-newton":
        found = operators.gauss_newton(objective, batch_norm=options.batch_norm)
    else:
        kind: Literal["mc", "empirical"] = "mc" if options.operator == "fisher" else "empirical"
        found = operators.fisher(objective, kind=kind, seed=options.seed, batch_norm=options.batch_norm)
    if not options.layers:
        return found
    return _with_layers(operators.block(found, layer_mask(objective, options.layers)), options.layers)


def _with_layers(operator: SymmetricOperator, layers: Collection[str]) -> SymmetricOperator:
    told: Record = {"layers": list(layers)} if layers else {}
    return dataclasses.replace(operator, settings={**operator.settings, **told})


def _of_one_operator(
    operator: SymmetricOperator, options: HessianOptions, progress: Progress | None
) -> tuple[Eigenpairs, list[Result]]:
    """The eigenpairs, and what is estimated with them taken out."""
    basis_size, seed = _basis_size(operator.size, operator.dtype, options), options.seed
    if options.budget is not None and options.which != "smallest":
        found = curvature(
            operator,
            k=options.top,
            which=options.which,
            budget=options.budget,
            tolerance=options.tolerance,
            seed=seed,
            basis_size=basis_size,
            progress=progress,
        )
        return found.pairs, found.results[1:]
    pairs = top_eigenpairs(
        operator,
        options.top,
        which=options.which,
        tolerance=options.tolerance,
        seed=seed,
        max_matvecs=options.max_matvecs,
        basis_size=basis_size,
        progress=progress,
    )
    others: list[Result] = []
    if options.density:
        others.append(spectral_density(operator, seed=seed, pairs=pairs, progress=progress))
    if options.trace:
        estimate = trace(operator, seed=seed, pairs=pairs, progress=progress)
        others += [estimate, effective_rank(estimate, pairs)]
    if options.diagonal:
        others.append(diagonal(operator, seed=seed, pairs=pairs, progress=progress))
    return pairs, others


def _data_error(objective: Objective, pairs: Eigenpairs, options: HessianOptions, replayed: Replayed) -> DataSpread:
    plain = dataclasses.replace(options, engine="retained")  # parts are many, and small

    def of_part(part: Objective) -> SymmetricOperator:
        return replayed(chosen_operator(part, plain))

    return data_error(objective, pairs, operator_of=of_part, num_parts=NUM_PARTS, seed=options.seed)


def _block_pairs(block: SymmetricOperator, options: HessianOptions) -> Eigenpairs:
    found = top_eigenpairs(block, min(options.top, block.size), tolerance=options.tolerance, seed=options.seed)
    return dataclasses.replace(found, vectors=None)


def _basis_size(size: int, dtype: torch.dtype, options: HessianOptions) -> int | None:
    """How many vectors of the operator's size fit into the memory that was given."""
    if options.basis_memory is None:
        return None
    fitting = int(options.basis_memory * 1e9 / (size * dtype.itemsize))
    needed = (2 if options.which == "both" else 1) * options.top + 2
    if fitting < min(needed, size):
        memory = needed * size * dtype.itemsize / 1e9
        raise ValueError(f"`basis_memory` holds {fitting} vectors, `top` {options.top} needs {needed}: {memory:.2g} GB")
    return min(fitting, size)
