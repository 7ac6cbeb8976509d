"""Which method is best, when each has its best radius? Digits and digits32, clean labels and 40 % label noise.

    python benchmarks/methods.py [--tasks digits,digits-noise40,digits32,digits32-noise40] [--jobs 1]

Every method has the same grid of radii. All of it is run with two seeds (digits32: one); the radius with the best mean
validation accuracy of the last epoch is run with all five, and these are the result. Test accuracy chooses nothing. For
Agnostic-SAM a radius is rho1, with rho2 half of it, as in the paper. A run whose loss was no number counts as the
accuracy of a guess. Every single run goes to benchmarks/methods.json as soon as it is made, and none there is made
again; the tables go to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: the nets are too small to share

from train.checkpoint import write_atomically
from train.config import TrainConfig
from train.loop import train

SELECTION_SEEDS, ALL_SEEDS = {"digits": (0, 1), "digits32": (0,)}, (0, 1, 2, 3, 4)
NO_PROBE = 10**9  # beyond the last step: only the very first step is probed
GUESS = 0.1  # ten classes
METHODS = ("sgd", "sam", "sam-subset", "asam", "agnostic-sam-simple", "agnostic-sam-nonoverlap", "agnostic-sam")
_DIGITS = {"data": "digits", "epochs": 40, "batch_size": 128}  # 320 steps
_DIGITS32 = {"data": "digits32", "epochs": 20, "batch_size": 64}  # 320 steps too, on images of 32x32x3
TASKS: dict[str, dict[str, object]] = {
    "digits": _DIGITS,
    "digits-noise40": {**_DIGITS, "label_noise": 0.4},
    "digits32": _DIGITS32,
    "digits32-noise40": {**_DIGITS32, "label_noise": 0.4},
}
_WIDE, _NARROW = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2, 2.4), (0.1, 0.2, 0.4, 0.6, 0.8, 1.2)
RADII = {
    "digits": _WIDE,
    "digits-noise40": _WIDE,
    "digits32": (0.1, 0.4, 0.8),  # clean labels: the radius hardly matters
    "digits32-noise40": _NARROW,
}

Run = dict[str, str | int | float | None]
Key = tuple[str, str, float, int]  # task, method, radius, seed


def config(key: Key) -> TrainConfig:
    task, method, radius, seed = key
    radii = {"rho1": radius, "rho2": radius / 2} if method.startswith("agnostic") else {"rho": radius}
    return TrainConfig.from_dict({**TASKS[task], **radii, "method": method, "seed": seed, "probe_every": NO_PROBE})


def measure(key: Key) -> Run:
    task, method, radius, seed = key
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(config(key), folder)
    metrics = outcome.metrics if outcome.status == "finished" else {}
    return {
        "task": task,
        "method": method,
        "radius": radius,
        "seed": seed,
        "status": outcome.status,
        "val_accuracy": metrics.get("val_accuracy", GUESS),
        "test_accuracy": metrics.get("test_accuracy", GUESS),
        "best_test_accuracy": metrics.get("best_test_accuracy", GUESS),
        "train_loss": metrics.get("train_loss"),
    }


def key_of(run: Run) -> Key:
    return str(run["task"]), str(run["method"]), float(run["radius"] or 0.0), int(run["seed"] or 0)


def selection_seeds(task: str) -> tuple[int, ...]:
    return SELECTION_SEEDS[str(TASKS[task]["data"])]


def radii(task: str, method: str) -> tuple[float, ...]:
    return (0.0,) if method == "sgd" else RADII[task]


def grid(tasks: list[str]) -> Iterator[Key]:
    for task in tasks:
        for seed in selection_seeds(task):
            for method in METHODS:
                yield from ((task, method, radius, seed) for radius in radii(task, method))


def chosen(runs: list[Run], task: str, method: str) -> float:
    """The radius with the best mean validation accuracy over the seeds that all radii have; the smaller of equals."""
    mine = _selection(runs, task, method)
    return max(radii(task, method), key=lambda radius: _mean(mine, radius))


def _selection(runs: list[Run], task: str, method: str) -> list[Run]:
    seeds = selection_seeds(task)
    return [run for run in runs if (run["task"], run["method"]) == (task, method) and run["seed"] in seeds]


def _mean(runs: list[Run], radius: float) -> float:
    return statistics.fmean(float(run["val_accuracy"] or 0.0) for run in runs if run["radius"] == radius)


def table(runs: list[Run], task: str) -> str:
    """Markdown: a line for each method at its chosen radius."""
    lines = [
        "| method | radius | validation, % | test, last epoch, % | test, best epoch, % | train loss |",
        "|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        radius = chosen(runs, task, method)
        mine = [run for run in runs if key_of(run)[:3] == (task, method, radius)]
        columns = [_spread([run[name] for run in mine]) for name in ("val_accuracy", "test_accuracy")]
        best = _spread([run["best_test_accuracy"] for run in mine])
        losses = [float(run["train_loss"]) for run in mine if run["train_loss"] is not None]
        loss = f"{statistics.fmean(losses):.3f}" if losses else ""
        shown = {"sgd": "", "agnostic": f"{radius:g}/{radius / 2:g}"}.get(method.partition("-")[0], f"{radius:g}")
        lines.append(f"| {method} | {shown} | {' | '.join(columns)} | {best} | {loss} |")
    return "\n".join(lines)


def grid_table(runs: list[Run], task: str) -> str:
    """Markdown: mean validation accuracy of every radius."""
    values = radii(task, "sam")
    lines = ["| method | " + " | ".join(f"{radius:g}" for radius in values) + " |", "|---" * (len(values) + 1) + "|"]
    for method in METHODS[1:]:
        mine = _selection(runs, task, method)
        lines.append(f"| {method} | " + " | ".join(f"{100 * _mean(mine, radius):.1f}" for radius in values) + " |")
    return "\n".join(lines)


def _spread(values: list[str | int | float | None]) -> str:
    percent = [100 * float(value) for value in values if value is not None]
    return f"{statistics.fmean(percent):.1f} ± {statistics.stdev(percent):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    tasks = options.tasks.split(",")
    runs: list[Run] = json.loads(options.out.read_text()) if options.out.exists() else []
    with ProcessPoolExecutor(options.jobs) as pool:
        _make(pool, list(grid(tasks)), runs, options.out)
        best = [(task, method, chosen(runs, task, method)) for task in tasks for method in METHODS]
        _make(pool, [(*one, seed) for one in best for seed in ALL_SEEDS], runs, options.out)
    for task in tasks:
        print(f"## {task}\n\n{table(runs, task)}\n\n{grid_table(runs, task)}\n")


def _make(pool: ProcessPoolExecutor, keys: list[Key], runs: list[Run], out: Path) -> None:
    made = {key_of(run) for run in runs}
    waiting: list[Future[Run]] = [pool.submit(measure, key) for key in keys if key not in made]
    for count, done in enumerate(as_completed(waiting), 1):
        runs.append(done.result())
        print(f"{count}/{len(waiting)} {runs[-1]}", file=sys.stderr, flush=True)
        runs.sort(key=lambda run: (list(TASKS).index(str(run["task"])), METHODS.index(str(run["method"])), key_of(run)))
        write_atomically(out, lambda file: file.write(json.dumps(runs, indent=0).encode()))


if __name__ == "__main__":
    main()
