"""What does a product with a curvature cost, in plain gradients, and against other tools?

    python benchmarks/products.py [--model resnet20] [--examples 256] [--rounds 4] [--device cpu] [--compiled]

One network (resnet20: 0.27 M parameters), images of 32x32x3 in batches of 128, one vector. The contestants take turns,
a product each, so that whatever else the machine does meets all alike; the best round of each counts. The products are
held against ours. Peers that cannot be imported are left out: curvlinops 3.0.1 (pip install
curvlinops-for-pytorch==3.0.1), PyHessian 0.1.

    plain gradient     forward and backward over the same data in eval mode, at its best batch size and layout: the unit
    landscape, ...     our engines, at their usual micro-batch and layout
    curvlinops         HessianLinearOperator, without its own checks
    PyHessian          dataloader_hv_product: its path for more than one batch
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import io
import math
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from landscape.objective import Objective
from landscape.operators import fisher, gauss_newton, hessian
from train.models import build

BATCH = 128
Round = Callable[[], Tensor]  # one product, or gradient


def plain(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Round]:
    """Ways to a gradient by the model alone, by batch size and layout: the fastest is the unit."""
    found = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        for size in (32, 64, 128, 256):
            own = copy.deepcopy(model).to(memory_format=layout)
            found[f"{size}, {name}"] = _gradient(own, x.contiguous(memory_format=layout), y, size)
    return found


def _gradient(model: nn.Module, x: Tensor, y: Tensor, size: int) -> Round:
    batches, params = list(zip(x.split(size), y.split(size), strict=True)), list(model.parameters())
    loss = nn.CrossEntropyLoss(reduction="sum")

    def round_() -> Tensor:
        total = [torch.zeros_like(p) for p in params]
        for inputs, targets in batches:
            torch._foreach_add_(total, torch.autograd.grad(loss(model(inputs), targets), params))
        return total[0]

    return round_


def curvlinops(model: nn.Module, batches: list[tuple[Tensor, Tensor]], v: Tensor) -> Round:
    from curvlinops import HessianLinearOperator

    own = copy.deepcopy(model)
    operator = HessianLinearOperator(
        own, nn.CrossEntropyLoss(), list(own.parameters()), batches, check_deterministic=False, num_data=_count(batches)
    )
    return lambda: operator @ v


def pyhessian(model: nn.Module, batches: list[tuple[Tensor, Tensor]], v: Tensor) -> Round:
    from pyhessian import hessian as their_hessian

    own = copy.deepcopy(model)
    params = list(own.parameters())
    pieces = [piece.view_as(p) for piece, p in zip(v.split([p.numel() for p in params]), params, strict=True)]
    theirs = their_hessian(own, nn.CrossEntropyLoss(), dataloader=batches, cuda=v.is_cuda)

    def round_() -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()):
            _, product = theirs.dataloader_hv_product(pieces)
        return torch.cat([p.reshape(-1) for p in product])

    return round_


def contestants(model: nn.Module, x: Tensor, y: Tensor, v: Tensor, *, compiled: bool) -> dict[str, tuple[Round, str]]:
    """Rounds by name, each with how it goes through the data."""
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    objective = Objective(model, nn.CrossEntropyLoss(), batches)
    rounds = {f"plain gradient, {how}": (round_, how) for how, round_ in plain(model, x, y).items()}
    engines = ["retained", "recomputed", "forward-over-reverse", *(["compiled"] if compiled else [])]
    operators = {f"landscape, {name}": hessian(objective, engine=name) for name in engines}  # type: ignore[arg-type]
    operators |= {"landscape, Gauss-Newton": gauss_newton(objective), "landscape, Fisher": fisher(objective)}
    for name, operator in operators.items():
        settings = operator.settings
        how = f"{settings['micro_batch'] or BATCH}, {settings['layout']}, {settings['engine']}"
        rounds[name] = (lambda operator=operator: operator.matvec(v)), how
    for name, make in (("curvlinops 3.0.1", curvlinops), ("PyHessian, loader", pyhessian)):
        with contextlib.suppress(ImportError):
            rounds[name] = make(model, batches, v), f"{BATCH}, contiguous"
    return rounds


def table(data_as: dict[str, str], best: dict[str, float], products: dict[str, Tensor]) -> list[str]:
    """A line for each contestant, but of the plain gradients the fastest alone, which is the unit."""
    unit = min((name for name in best if name.startswith("plain")), key=lambda name: best[name])
    expected = products["landscape, retained"].double()
    lines = ["| | data as | seconds | plain gradients | apart from ours |", "|---|---|---|---|---|"]
    for name, how in data_as.items():
        if name.startswith("plain") and name != unit:
            continue
        hessian_too = not any(other in name for other in ("gradient", "Gauss", "Fisher"))
        apart = f"{float((products[name].double() - expected).norm() / expected.norm()):.0e}" if hessian_too else ""
        label = "plain gradient" if name == unit else name
        lines.append(f"| {label} | {how} | {best[name]:.3f} | {best[name] / best[unit]:.2f} | {apart} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compiled", action="store_true", help="also the compiled engine, which takes a minute to make"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # PyHessian's, of graphs and gradients
    model = build(options.model, in_channels=3, num_classes=10, seed=0).eval().to(options.device)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=stream).to(p))
    x = torch.randn(options.examples, 3, 32, 32, generator=stream).to(options.device)
    y = torch.randint(10, (options.examples,), generator=stream).to(options.device)
    v = torch.randn(sum(p.numel() for p in model.parameters()), generator=stream).to(options.device)
    rounds = contestants(model, x, y, v, compiled=options.compiled)
    products = {name: round_() for name, (round_, _) in rounds.items()}
    best = dict.fromkeys(rounds, math.inf)
    for _ in range(options.rounds):
        for name, (round_, _) in rounds.items():
            best[name] = min(best[name], _seconds(x, round_))
    lines = table({name: how for name, (_, how) in rounds.items()}, best, products)
    where = torch.cuda.get_device_name() if x.is_cuda else f"{platform.machine()}, {torch.get_num_threads()} thread"
    today = f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
    text = (
        f"{options.model}, {options.examples} examples, {where}, torch {torch.__version__}, {today}; best of "
        f"{options.rounds} rounds.\n\n"
    ) + "\n".join(lines)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


def _count(batches: list[tuple[Tensor, Tensor]]) -> int:
    return sum(len(targets) for _, targets in batches)


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _seconds(x: Tensor, action: Callable[[], object]) -> float:
    started = _now(x)
    action()
    return _now(x) - started


if __name__ == "__main__":
    main()
