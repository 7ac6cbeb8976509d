"""Which radius suits which method? Digits with 40 % label noise, every radius of every method, several seeds.

    python benchmarks/radii.py [--seeds 0,1,2] [--epochs 40] [--jobs 1]

A radius is chosen by validation accuracy of the last epoch; test accuracy stands beside it and chooses nothing. The
table goes to stdout, every single run to benchmarks/radii.json. Every method gets the same grid; for Agnostic-SAM a
radius is rho1, with rho2 half of it, as in the paper.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: the net is too small to share

from train.checkpoint import write_atomically
from train.config import TrainConfig
from train.loop import train

RADII = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
NO_PROBE = 10**9  # beyond the last step: only the very first step is probed

Run = dict[str, str | int | float | None]


def sweep(seeds: list[int], epochs: int) -> list[TrainConfig]:
    variants: list[dict[str, object]] = [{"method": "sgd"}]
    variants += [{"method": method, "rho": rho} for method in ("sam", "sam-subset") for rho in RADII]
    variants += [{"method": "agnostic-sam", "rho1": rho, "rho2": rho / 2} for rho in RADII]
    shared = {"label_noise": 0.4, "epochs": epochs, "probe_every": NO_PROBE}
    return [TrainConfig.from_dict({**shared, **variant, "seed": seed}) for seed in seeds for variant in variants]


def measure(config: TrainConfig) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(config, folder)
    return {
        "variant": name(config),
        "seed": config.seed,
        "status": outcome.status,
        "val_accuracy": outcome.metrics["val_accuracy"],
        "test_accuracy": outcome.test_accuracy,
        "train_loss": outcome.metrics["train_loss"],
    }


def name(config: TrainConfig) -> str:
    if config.method == "sgd":
        return "sgd"
    if config.method == "agnostic-sam":
        return f"agnostic-sam {config.rho1:g}/{config.rho2:g}"
    return f"{config.method} {config.rho:g}"


def table(runs: list[Run]) -> str:
    variants = list(dict.fromkeys(str(run["variant"]) for run in runs))
    lines = [
        "| method and radius | runs | validation accuracy, % | test accuracy, % | train loss |",
        "|---|---|---|---|---|",
    ]
    for variant in variants:
        mine = [run for run in runs if run["variant"] == variant and run["status"] == "finished"]
        if not mine:
            lines.append(f"| {variant} | 0 | diverged | | |")
            continue
        validation, test = (_spread([run[key] for run in mine]) for key in ("val_accuracy", "test_accuracy"))
        loss = statistics.fmean(float(run["train_loss"] or 0.0) for run in mine)
        lines.append(f"| {variant} | {len(mine)} | {validation} | {test} | {loss:.3f} |")
    return "\n".join(lines)


def _spread(values: list[str | int | float | None]) -> str:
    percent = [100 * float(value) for value in values if value is not None]
    deviation = statistics.stdev(percent) if len(percent) > 1 else float("nan")
    return f"{statistics.fmean(percent):.1f} ± {deviation:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    configs = sweep([int(seed) for seed in options.seeds.split(",")], options.epochs)
    runs: list[Run] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for run in pool.map(measure, configs):
            runs.append(run)
            print(f"{len(runs)}/{len(configs)} {run}", file=sys.stderr, flush=True)
            text = json.dumps({"epochs": options.epochs, "runs": runs}, indent=1).encode()
            write_atomically(options.out, lambda file, text=text: file.write(text))
    print(table(runs))


if __name__ == "__main__":
    main()
