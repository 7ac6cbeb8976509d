"""What a person is told of a run: before it starts, while it goes on, at its end; and of what it would be.

Texts are lines of any length: who prints them wraps them.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from train import timing
from train.config import TrainConfig
from train.loop import Outcome, Progress
from train.plan import Plan, published_shape, size_warning
from train.run import SettingsError, device_of

_RADII = {"sgd": (), "sam": ("rho",), "sam-subset": ("rho", "split_ratio"), "asam": ("rho", "eta")}
_RADII_OF_AGNOSTIC = ("rho1", "rho2", "split_ratio")


def start_text(config: TrainConfig) -> str:
    """What is about to be trained: network, data, method with its radii; below it a warning, where there is one."""
    settings = config.to_dict()
    radii = _RADII.get(config.method, _RADII_OF_AGNOSTIC)
    method = " ".join([config.method, *(f"{name}={settings[name]:g}" for name in radii)])
    over = "" if config.method == "sgd" else " over sgd"
    noise = f", {100 * config.label_noise:g} % of the training labels wrong" if config.label_noise else ""
    shape = published_shape(config.data)
    warning = size_warning(config.model, shape) if shape else ""
    return (
        f"{config.model} on {config.data}{noise}: {method}{over} lr={config.lr:g} momentum={config.momentum:g}, "
        f"{config.epochs} epochs, seed {config.seed}, {config.device}" + (f"\nwarning: {warning}" if warning else "")
    )


def processes_text(config: TrainConfig, size: int) -> str:
    """What `size` processes do together, and what each does by itself."""
    climbing = {"global": "perturbing together", "local": "each perturbing by itself"}[config.sam_sync]
    if config.method == "sgd":
        climbing = "taking the mean gradient"
    elif config.m:
        climbing = f"perturbing each chunk of {config.m} by itself"
    return f"{size} processes, {climbing}; on CPUs BatchNorm takes its statistics from the examples of each process"


def progress_text(at: Progress) -> str:
    """Training loss, validation accuracy and pace after an epoch."""
    loss, accuracy = at.metrics["train_loss"], at.metrics["val_accuracy"]
    told = f"loss {math.nan if loss is None else loss:.3f}"
    told += "" if accuracy is None else f", validation {100 * accuracy:.1f} %"
    return f"{told}, {at.images_per_second:,.0f} images/s"


def outcome_text(outcome: Outcome) -> str:
    """The files of a run that has ended, each with the accuracy of its weights."""
    metrics = outcome.metrics
    there = " (there already)" if outcome.already_finished else ""
    line = f"saved {_file(outcome, 'last.pt')}{there}   "
    if outcome.test_accuracy is None:
        return f"{line}epoch {outcome.epoch}, before it diverged"
    loss = metrics["train_loss"]
    line += (
        f"test accuracy {100 * outcome.test_accuracy:.1f} % (last epoch), "
        f"train loss {math.nan if loss is None else loss:.3g}\n"
    )
    average = metrics.get("ema_test_accuracy")
    if average is not None:
        line += f"saved {_file(outcome, 'ema.pt')}   test accuracy of the averaged weights {100 * average:.1f} %\n"
    if metrics["best_epoch"] is None:
        return f"{line}no best.pt: nothing was held out for validation, so there is nothing to choose an epoch by"
    best = 100 * (metrics["best_val_accuracy"] or 0)
    at = f"best validation accuracy {best:.1f} %, at epoch {metrics['best_epoch']:.0f}"
    return f"{line}saved {_file(outcome, 'best.pt')}   {at}"


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """How a run ended, as primitives."""
    return {
        "status": outcome.status,
        "checkpoint": str(outcome.folder / "last.pt"),
        "epoch": outcome.epoch,
        "metrics": dict(outcome.metrics),
        "already_finished": outcome.already_finished,
    }


def plan_lines(config: TrainConfig, plan: Plan, time: str) -> list[str]:
    """The counts of a run that is planned, with the line that `estimated` makes of its time, and what to beware of."""
    return [
        f"{plan.num_parameters:,} parameters, {plan.num_train:,} training examples of {plan.num_classes} classes",
        f"{plan.num_steps:,} steps: {config.epochs} epochs of {plan.steps_per_epoch:,}",
        f"{plan.num_gradients:.4g} gradients of a whole batch per step",
        *([_scaled_text(plan.scaled_names, config.eta)] if plan.scaled_names else []),
        time,
        *([f"warning: {plan.warning}"] if plan.warning else []),
    ]


def estimated(config: TrainConfig, plan: Plan) -> tuple[dict[str, str | int | float] | None, str]:
    """What the steps of a run would take, as a record and as a line; without the device, none and why."""
    try:
        device_of(config.device)
    except SettingsError as error:
        return None, f"time not estimated: {error}"
    found = timing.time_steps(config, image_shape=plan.image_shape, num_classes=plan.num_classes)
    seconds = plan.num_steps * found.seconds_per_step
    times = found.batch_size / found.timed_batch_size
    scaled = f", times {times:.3g}" if times > 1 else ""
    unfit = f" ({found.too_large} did not fit into memory)" if found.too_large else ""
    told = (
        f"about {duration(seconds)} of steps on {found.device}, {found.seconds_per_step:.3g} s each: an estimate from "
        f"{found.num_timed} on {found.timed_batch_size} random images{scaled}{unfit}; reading images, probes and "
        "evaluation come on top"
    )
    return {**vars(found), "seconds": seconds}, told


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would take.

    Example:
        >>> duration(0.034), duration(35_100), duration(6e8)
        ('0.034 s', '9.8 h', '6,944 days')
    """
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _scaled_text(names: Sequence[str], eta: float) -> str:
    """How many parameters ASAM scales and which, those that differ in their numbers alone as one."""
    kinds = Counter(re.sub(r"\d+", "*", name) for name in names)
    listed = ", ".join(f"{num} {kind}" if num > 1 else kind for kind, num in kinds.items())
    return f"asam scales {len(names)} parameters by |theta| + {eta:g}: {listed} (* is a number; --json names each)"


def _file(outcome: Outcome, name: str) -> str:
    return shlex.quote(str(outcome.folder / name))
