"""How many products and how much time do the five largest eigenvalues take, at the same accuracy as PyHessian's?

    python benchmarks/eigenvalues.py [--examples 256] [--batch-size 128] [--epochs 20] [--out FILE]

A ResNet-20 is trained on digits32; the Hessian is that of its mean loss on the first examples of the training part.
The reference is a float64 run of our own to a residual of 1e-5; the smallest eigenvalue is known to 1e-2. All
contestants run in one process, in float32, on the same examples in the same batches:

    landscape      top_eigenpairs to a residual of 1e-3: all its products, those of residuals and completeness included
    scipy          eigsh (ARPACK) over our product, tol 1e-3: what the iteration alone takes
    PyHessian      its power iteration over a loader, from tol 1e-3 down, tenfold each time, until all five are within
                   1e-3 of the reference, and on until they are as accurate as ours. It finds those of the largest
                   magnitude, and is compared with these.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pyhessian import hessian as pyhessian
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape.lanczos import top_eigenpairs
from landscape.objective import Objective
from landscape.operators import hessian
from landscape.results import Array
from train.checkpoint import read, restore
from train.config import TrainConfig
from train.loop import train

ACCURACY = 1e-3
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class Row:
    name: str
    values: Array
    num_products: int
    seconds: float

    def error(self, reference: Array) -> float:
        """The largest relative error of the five."""
        return float((np.abs(self.values - reference) / np.abs(reference)).max())

    def text(self, reference: Array, best: Row) -> str:
        return (
            f"| {self.name} | {self.num_products} | {self.seconds:.1f} | {self.error(reference):.1e} "
            f"| {self.num_products / best.num_products:.1f} | {self.seconds / best.seconds:.1f} |"
        )


def trained(epochs: int) -> tuple[nn.Module, Tensor, Tensor]:
    config = TrainConfig(data="digits32", model="resnet20", epochs=epochs, batch_size=64, probe_every=10**9)
    with tempfile.TemporaryDirectory() as folder:
        train(config, folder)
        model, splits = restore(read(Path(folder) / "last.pt"))
    return model, *splits.train


def objective(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Objective:
    batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    return Objective(model, nn.CrossEntropyLoss(), batches)


def reference(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Array:
    """The five largest, descending, and the smallest."""
    single = hessian(objective(model, x, y, batch_size))
    rough = top_eigenpairs(single, 5, tolerance=1e-5, max_matvecs=1000)
    smallest = top_eigenpairs(single, 1, which="smallest", tolerance=1e-2)
    double = hessian(objective(copy.deepcopy(model).double(), x.double(), y, batch_size))
    largest = top_eigenpairs(double, 5, tolerance=1e-5, start=rough.vectors)
    for pairs in (largest, smallest):
        assert pairs.converged.all()
        assert pairs.complete
    return np.concatenate([largest.values, smallest.values])


def ours(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Row:
    started = time.perf_counter()
    pairs = top_eigenpairs(hessian(objective(model, x, y, batch_size)), 5, tolerance=ACCURACY)
    assert pairs.converged.all()
    assert pairs.complete
    return Row("landscape, residual 1e-3", pairs.values, pairs.num_matvecs, time.perf_counter() - started)


def scipys(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Row:
    operator, count = hessian(objective(model, x, y, batch_size)), 0

    def matvec(v: Array) -> Array:
        nonlocal count
        count += 1
        return operator.matvec(torch.as_tensor(v.ravel(), dtype=operator.dtype)).numpy()

    started = time.perf_counter()
    start = np.random.default_rng(0).normal(size=operator.size).astype(np.float32)
    linear = LinearOperator(operator.shape, matvec=matvec, dtype=np.float32)
    values = eigsh(linear, 5, which="LA", tol=ACCURACY, v0=start, return_eigenvectors=False)
    return Row("scipy's eigsh on our product, tol 1e-3", np.sort(values)[::-1], count, time.perf_counter() - started)


def pyhessians(model: nn.Module, x: Tensor, y: Tensor, batch_size: int, tolerance: float) -> Row:
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size)
    torch.manual_seed(0)
    count = 0
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the graphs that it leaves behind
        peer = pyhessian(copy.deepcopy(model), nn.CrossEntropyLoss(), dataloader=loader, cuda=False)
        product = peer.dataloader_hv_product

        def counted(v: list[Tensor]) -> tuple[float, list[Tensor]]:
            nonlocal count
            count += 1
            found: tuple[float, list[Tensor]] = product(v)
            return found

        peer.dataloader_hv_product = counted
        values = np.array(peer.eigenvalues(maxIter=1000, tol=tolerance, top_n=5)[0])
    values = values[np.argsort(-np.abs(values))]
    return Row(f"PyHessian, loader, tol {tolerance:.0e}", values, count, time.perf_counter() - started)


def pyhessian_rows(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int, largest: Array, accuracy: float
) -> Iterator[Row]:
    for tolerance in TOLERANCES:
        row = pyhessians(model, x, y, batch_size, tolerance)
        yield row
        if row.error(largest) <= accuracy:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model, x, y = trained(options.epochs)
    data = x[: options.examples], y[: options.examples], options.batch_size
    ends = reference(model, *data)
    largest = ends[np.argsort(-np.abs(ends))][:5]
    best = ours(model, *data)
    rows = [(best, ends[:5]), (scipys(model, *data), ends[:5])]
    print(f"reference {ends}", *(row.text(true, best) for row, true in rows), sep="\n", flush=True)
    for row in pyhessian_rows(model, *data, largest, min(ACCURACY, best.error(ends[:5]))):
        rows.append((row, largest))
        print(row.text(largest, best), flush=True)
    today = f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
    loss = objective(model, *data).centre.loss
    text = (
        f"ResNet-20 after {options.epochs} epochs on digits32, {options.examples} examples in batches of "
        f"{options.batch_size}, loss {loss:.4f}, {platform.machine()}, {torch.get_num_threads()} thread, torch "
        f"{torch.__version__}, {today}. Reference: {', '.join(f'{value:.5g}' for value in ends[:5])}; smallest "
        f"{ends[-1]:.5g}.\n\n| | products | seconds | largest relative error | products, landscape = 1 | seconds, "
        "landscape = 1 |\n|---|---|---|---|---|---|\n"
    ) + "\n".join(row.text(true, best) for row, true in rows)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
