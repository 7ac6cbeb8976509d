"""How many points of a surface per second, against other tools and against the plain forward pass?

    python benchmarks/surfaces.py [--examples 512] [--points 9] [--rounds 3] [--device cpu] [--out FILE]

One ResNet-20 (0.27 M parameters), images of 32x32x3, one set of examples for all; its weights are nudged, for
loss-landscapes divides by the norm of a zero. The contestants take turns, a round of points each, so that whatever else
the machine does meets all alike; the best round of each counts. Peers that cannot be imported are left out:
loss-landscapes 3.0.6 (pip install loss-landscapes==3.0.6), landscaper 1.3.1 (it pins numpy < 2: run this script in an
environment of its own).

    plain forward      the model by itself in inference mode, at its best batch size and layout: the limit
    landscape          loss, standard error and accuracy, through the engine that a surface of 51 x 51 points gets
    ... uncompiled     and the one of a short surface
    loss-landscapes    random_plane with its own Loss, on one batch of all examples
    landscaper         compute_loss_landscape with the evaluation of its quickstart: a loader of 128, a mean of means
    Li et al. 2018     its loop as in the original code: copy weights, a new loader with two workers, .item() for loss
                       and for correct predictions of each batch (GPU only; elsewhere the workers cost most)
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
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape.directions import random_plane
from landscape.evaluator import Engine, compiled_for, prepare, usual
from landscape.objective import Objective
from landscape.surface import coarse_to_fine, grid, plan_surface
from train.models import build

Round = Callable[[], int]  # measures some points, and says how many


def ours(model: nn.Module, x: Tensor, y: Tensor, num_points: int, *, long: bool) -> tuple[Round, str, float]:
    """A round, the engine it uses, and what starting a surface costs, in points."""
    objective = Objective(model, nn.CrossEntropyLoss(), [(x, y)])
    plane = random_plane(objective, seed=0)
    started = _now(x)
    engine = usual(objective, Engine())
    if long:
        engine = compiled_for(objective, engine, num_points=51**2)
    plan_surface(objective, plane, steps=51, engine=engine)
    start = _now(x) - started
    evaluator, coordinates = prepare(objective, engine), grid(51, 1.0)
    places = [[float(coordinates[k // 51]), float(coordinates[k % 51])] for k in coarse_to_fine(51, 2)[:num_points]]

    def round_() -> int:
        evaluator.sums(plane.centre, plane.axes, places).tolist()
        return num_points

    round_()
    started = _now(x)
    round_()
    how = f"{engine.micro_batch}, {engine.layout}" + (", compiled" if engine.compiled else "")
    return round_, how, start / ((_now(x) - started) / num_points)


def plain(model: nn.Module, x: Tensor, num_points: int) -> tuple[Round, str]:
    """The fastest way through the model by itself."""
    found: list[tuple[float, str, nn.Module, list[Tensor]]] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = copy.deepcopy(model).eval().to(memory_format=layout)
        for size in (32, 64, 128, 256, len(x)):
            batches = list(x.contiguous(memory_format=layout).split(size))
            _forward(own, batches)
            seconds = min(_seconds(x, lambda own=own, batches=batches: _forward(own, batches)) for _ in range(2))
            found.append((seconds, f"{size}, {str(layout).removeprefix('torch.')}", own, batches))
    _, name, own, batches = min(found, key=lambda one: one[0])

    def round_() -> int:
        for _ in range(num_points):
            _forward(own, batches)
        return num_points

    return round_, name


def loss_landscapes(model: nn.Module, x: Tensor, y: Tensor, num_points: int) -> Round:
    """Its own random plane, of about as many points."""
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    steps = max(2, math.isqrt(num_points))
    metric = Loss(nn.CrossEntropyLoss(), x, y)
    own = copy.deepcopy(model).eval()

    def round_() -> int:
        with torch.no_grad():  # as a careful user would: by itself it builds graphs
            loss_landscapes.random_plane(own, metric, distance=1, steps=steps, deepcopy_model=True)
        return steps**2

    return round_


def landscaper(model: nn.Module, x: Tensor, y: Tensor, num_points: int) -> Round:
    """Its own plane, of about as many points."""
    from landscaper.compute import compute_loss_landscape

    steps = max(2, math.isqrt(num_points))
    loader, loss = DataLoader(TensorDataset(x, y), batch_size=128), nn.CrossEntropyLoss()
    own = copy.deepcopy(model).eval()
    axes = [[torch.randn_like(p) for p in own.parameters()] for _ in range(2)]

    def evaluate(model: nn.Module, data: DataLoader[tuple[Tensor, ...]]) -> float:
        return sum(loss(model(inputs), targets).item() for inputs, targets in data) / len(data)

    def round_() -> int:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            compute_loss_landscape(own, loader, axes, evaluate, steps=steps, dim=2, device=x.device.type)
        return steps**2

    return round_


def original_loop(model: nn.Module, x: Tensor, y: Tensor, num_points: int) -> Round:
    """What evaluating a point costs in the code of Li et al. 2018, on a device that is not the CPU."""
    own, weights = copy.deepcopy(model).eval(), [p.detach().clone() for p in model.parameters()]
    axes = [[torch.randn_like(p) for p in weights] for _ in range(2)]
    data, loss = TensorDataset(x.cpu(), y.cpu()), nn.CrossEntropyLoss()

    def round_() -> int:
        for k in range(num_points):
            for p, w, a, b in zip(own.parameters(), weights, *axes, strict=True):
                p.data = w + 0.01 * k * a + 0.02 * k * b
            total = correct = 0.0
            with torch.no_grad():
                for inputs, targets in DataLoader(data, batch_size=128, num_workers=2):
                    inputs, targets = inputs.to(x.device), targets.to(x.device)
                    outputs = own(inputs)
                    total += loss(outputs, targets).item() * len(targets)
                    correct += outputs.argmax(1).eq(targets).sum().item()
        return num_points

    return round_


def _forward(model: nn.Module, batches: list[Tensor]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model(batch)


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _seconds(x: Tensor, action: Callable[[], object]) -> float:
    started = _now(x)
    action()
    return _now(x) - started


def contestants(
    model: nn.Module, x: Tensor, y: Tensor, num_points: int
) -> tuple[dict[str, tuple[Round, str]], dict[str, float]]:
    """Rounds by name, each with how it goes through the data; and the cost of our starts, in points."""
    rounds: dict[str, tuple[Round, str]] = {"plain forward": plain(model, x, num_points)}
    starts: dict[str, float] = {}
    for name in ("landscape", "landscape, uncompiled"):
        round_, how, starts[name] = ours(model, x, y, num_points, long=name == "landscape")
        rounds[name] = round_, how
    for name, make in (("loss-landscapes", loss_landscapes), ("landscaper", landscaper)):
        with contextlib.suppress(ImportError):
            rounds[name] = make(model, x, y, num_points), "one batch" if name == "loss-landscapes" else "loader of 128"
    if x.is_cuda:
        rounds["Li et al. 2018"] = original_loop(model, x, y, num_points), "new loader of 128, two workers"
    return rounds, starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--points", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = build("resnet20", in_channels=3, num_classes=10, seed=0).eval().to(options.device)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(options.examples, 3, 32, 32, generator=stream).to(options.device)
    y = torch.randint(10, (options.examples,), generator=stream).to(options.device)
    rounds, starts = contestants(model, x, y, options.points)
    best = dict.fromkeys(rounds, math.inf)
    for _ in range(options.rounds):
        for name, (round_, _) in rounds.items():
            started = _now(x)
            count = round_()
            best[name] = min(best[name], (_now(x) - started) / count)
    lines = ["| | data as | seconds per point | points per second, landscape = 1 |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {how} | {best[name]:.4f} | {best['landscape'] / best[name]:.2f} |"
        for name, (_, how) in rounds.items()
    ]
    where = torch.cuda.get_device_name() if x.is_cuda else f"{platform.machine()}, {torch.get_num_threads()} thread"
    today = f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
    text = (
        f"ResNet-20, {options.examples} examples, {where}, torch {torch.__version__}, {today}; best of "
        f"{options.rounds} rounds of {options.points} points. Starting a surface (engine, reference, hashes) took the "
        f"time of {starts['landscape, uncompiled']:.1f} points, with compiling {starts['landscape']:.1f}.\n\n"
    ) + "\n".join(lines)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
