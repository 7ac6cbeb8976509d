"""Train one run: config -> folder with config.toml, metrics.jsonl, last.pt, best.pt, epoch-*.pt if asked for.

Every method sees the same batches (agnostic-sam-nonoverlap draws their two parts from two fixed sets), the same
schedule, and the same congruence probe. A checkpoint is written before the first epoch and after each; a run that is
continued from one has the same numbers, bit for bit, as one that was never stopped, its `seconds` aside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from train import checkpoint as checkpoints
from train.batches import nonoverlapping_order, part_sizes
from train.checkpoint import Checkpoint, Metrics
from train.config import TrainConfig
from train.data import Part, Splits, augmented, batch_order, load
from train.folder import OutputExistsError, SettingsDifferError, append_metrics, epoch_file, keep_metrics, open_folder
from train.methods import ASAM, SAM, AgnosticSAM, Descent, Method, SubsetSAM
from train.metrics import METRIC_NAMES, cross_entropy, evaluate, finite_or_none, probe_statistics
from train.models import build
from train.precision import SMALLEST_COSINE, RoundedPerturbationWarning, surviving_perturbation
from train.probe import congruence
from train.schedule import learning_rate
from train.streams import derived_seed, seeded
from train.weights import load_weights_

__all__ = [
    "Outcome",
    "OutputExistsError",
    "Progress",
    "SettingsDifferError",
    "SettingsError",
    "cross_entropy",
    "evaluate",
    "gradients_per_step",
    "probe_interval",
    "train",
]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is after an epoch. `images_per_second` leaves probes out, `eta_seconds` does not."""

    epoch: int
    epochs: int
    metrics: Metrics
    images_per_second: float
    eta_seconds: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    "diverged": a loss, gradient or weight was not finite after `epoch` whole epochs and `step` steps; `message` says
    what, and last.pt is the last good epoch. The test numbers are None then. `metrics` are those of last.pt. A finished
    run has a message where it was continued under other versions or threads.
    """

    status: Literal["finished", "diverged"]
    folder: Path
    epoch: int
    step: int
    metrics: Metrics
    message: str = ""
    already_finished: bool = False

    @property
    def test_loss(self) -> float | None:
        """Test loss of the last epoch."""
        return self.metrics.get("test_loss")

    @property
    def test_accuracy(self) -> float | None:
        """Test accuracy of the last epoch."""
        return self.metrics.get("test_accuracy")

    @property
    def best_test_accuracy(self) -> float | None:
        """Test accuracy of the epoch with the best validation accuracy."""
        return self.metrics.get("best_test_accuracy")


@dataclass(kw_only=True)
class _Run:
    """What changes while a run goes on."""

    config: TrainConfig
    folder: Path
    device: torch.device
    splits: Splits  # on the device
    data: checkpoints.State
    model: nn.Module
    optimizer: torch.optim.Optimizer
    method: Method
    scaler: GradScaler | None
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    metrics: Metrics = field(default_factory=dict)


class SettingsError(ValueError):
    """Settings that the data, the network or the machine refuse."""


class _DivergedError(Exception):
    pass


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train a run in `folder`, or go on with the one that is there.

    `resume` starts where there is no run, returns at once where an equal one is finished, and otherwise goes on from
    last.pt. `force` removes the files of the run that is there, and nothing else.

    Raises:
        OutputExistsError: If the folder holds a run, and neither `resume` nor `force` is given.
        SettingsDifferError: If the run to resume has other settings.
        CheckpointError: If the checkpoint to resume from, or the file of weights, is damaged or does not fit.
        SettingsError: If the data, a batch, the images or the device do not suit the settings.
        LibraryError: If the network needs torchvision or timm, and the library is missing or does not fit torch.
    """
    folder = Path(folder)
    if resume and force:
        raise SettingsError("resume and force exclude each other: continue the run that is there, or replace it")
    device = _device(config.device)
    with seeded(derived_seed(config.seed, "training"), device):
        with _as_settings_error():
            run = _prepare(config, folder, device, pretrained=not (resume and (folder / "last.pt").exists()))
        last = open_folder(config, folder, resume=resume, force=force)
        if last is not None and last.epoch == config.epochs:
            keep_metrics(folder, last.epoch)
            return Outcome(
                status="finished",
                folder=folder,
                epoch=last.epoch,
                step=last.step,
                metrics=last.metrics,
                already_finished=True,
            )
        if last is None:
            _start(run)
            return _train_epochs(run, progress)
        _continue_from(run, last)
        outcome = _train_epochs(run, progress)
        return dataclasses.replace(outcome, message=" ".join(filter(None, [outcome.message, _not_bit_identical(last)])))


@contextlib.contextmanager
def _as_settings_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:  # a damaged file, say
            raise
        raise SettingsError(str(error)) from error


def gradients_per_step(config: TrainConfig) -> float:
    """Gradient evaluations of one step, in units of one gradient over the whole batch; probes are not counted.

    Example:
        >>> gradients_per_step(TrainConfig(method="sam")), gradients_per_step(TrainConfig(method="agnostic-sam"))
        (2.0, 2.0)
    """
    share = part_sizes(config.batch_size, config.split_ratio)[0] / config.batch_size
    return {"sgd": 1.0, "sam-subset": 2 * share, "agnostic-sam-simple": 1 + share}.get(config.method, 2.0)


def _train_epochs(run: _Run, progress: Callable[[Progress], None] | None) -> Outcome:
    config, started, first = run.config, time.perf_counter(), run.epoch
    try:
        while run.epoch < config.epochs:
            seconds, step = run.seconds, run.step
            _train_epoch(run)
            if progress is not None:
                images = (run.step - step) * config.batch_size
                per_epoch = (time.perf_counter() - started) / (run.epoch - first)
                progress(
                    Progress(
                        epoch=run.epoch,
                        epochs=config.epochs,
                        metrics=run.metrics,
                        images_per_second=images / (run.seconds - seconds),
                        eta_seconds=per_epoch * (config.epochs - run.epoch),
                    )
                )
    except _DivergedError as error:
        return Outcome(
            status="diverged",
            folder=run.folder,
            epoch=run.epoch,
            step=run.step,
            metrics=run.metrics,
            message=f"{error}; last.pt holds epoch {run.epoch}. Try a smaller lr or radius",
        )
    return Outcome(status="finished", folder=run.folder, epoch=run.epoch, step=run.step, metrics=run.metrics)


def _train_epoch(run: _Run) -> None:
    config = run.config
    rate = learning_rate(config, run.epoch)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    probes = _train_steps(run)
    broken = checkpoints.nonfinite_names(run.model.state_dict())
    if broken:
        raise _DivergedError(f"not finite at step {run.step}: {', '.join(broken[:3])}")
    best_so_far = run.metrics["best_val_accuracy"]
    metrics = _measure(run, epoch=run.epoch + 1, rate=rate, probes=probes)
    line = {name: run.seconds if name == "seconds" else metrics[name] for name in METRIC_NAMES}
    improved = best_so_far is None or (metrics["val_accuracy"] or 0.0) > best_so_far
    kept = {"best_epoch": run.epoch + 1, "best_val_accuracy": metrics["val_accuracy"]}
    metrics |= kept if improved else {name: run.metrics[name] for name in kept}
    if run.epoch + 1 == config.epochs:
        metrics |= _test_metrics(run, improved=improved)
    run.epoch, run.metrics = run.epoch + 1, metrics
    append_metrics(run.folder, line)
    if improved:  # before last.pt: a run killed between the two makes this epoch, and its best.pt, once more
        checkpoints.save(_checkpoint(run), run.folder / "best.pt")
    if config.save_every and run.epoch % config.save_every == 0:
        checkpoints.save(_checkpoint(run), run.folder / epoch_file(run.epoch))
    checkpoints.save(_checkpoint(run), run.folder / "last.pt")


def _train_steps(run: _Run) -> list[tuple[float, float]]:
    """One epoch of steps; the congruence before and after each probed one."""
    config, model, method = run.config, run.model, run.method
    inputs, targets = run.splits.train
    order = _order(config, run.epoch, len(targets)).to(run.device)
    every = probe_interval(config, len(order) * config.epochs)
    probes = []
    model.train()
    for rows in order:
        augment = config.augment == "paper"
        images = augmented(inputs, rows, seed=config.seed, epoch=run.epoch) if augment else inputs[rows]
        batch = images, targets[rows]
        probed = run.step % every == 0
        before = _probe(run, batch) if probed else math.nan
        if run.step == 0:
            _warn_of_rounding(run, batch)
        started = time.perf_counter()
        method.step(_loss(config, run.device), batch, scaler=run.scaler)  # ends with a host sync: the time is its own
        run.seconds += time.perf_counter() - started
        # in float16 a skip is how the scale finds its size; one that is still too large at 1 is no matter of scale
        if method.num_skipped and (run.scaler is None or run.scaler.get_scale() < 1):
            raise _DivergedError(f"loss or gradient is not finite at step {run.step}: no step was taken")
        if probed:
            probes.append((before, _probe(run, batch)))
        run.step += 1
    return probes


def _order(config: TrainConfig, epoch: int, num_examples: int) -> Tensor:
    if config.method == "agnostic-sam-nonoverlap":
        return nonoverlapping_order(config.seed, epoch, num_examples, config.batch_size, config.split_ratio)
    return batch_order(config.seed, epoch, num_examples, config.batch_size)


_Batch = tuple[Tensor, Tensor]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _loss(config: TrainConfig, device: torch.device) -> Callable[[nn.Module, _Batch], Tensor]:
    if config.precision == "fp32":
        return _loss_in_float32(config)

    def autocast_loss(model: nn.Module, batch: _Batch) -> Tensor:
        with torch.autocast(device.type, dtype=_AUTOCAST[config.precision]):
            logits = model(batch[0])
        return nn.functional.cross_entropy(logits.float(), batch[1], label_smoothing=config.label_smoothing)

    return autocast_loss


def _loss_in_float32(config: TrainConfig) -> Callable[[nn.Module, _Batch], Tensor]:
    if not config.label_smoothing:
        return cross_entropy

    def smoothed_loss(model: nn.Module, batch: _Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=config.label_smoothing)

    return smoothed_loss


def _warn_of_rounding(run: _Run, batch: _Batch) -> None:
    config = run.config
    radius = config.rho1 if config.method.startswith("agnostic") else config.rho
    if config.precision == "fp32" or config.method == "sgd" or radius == 0:
        return
    loss, dtype = _loss_in_float32(config), _AUTOCAST[config.precision]
    found = surviving_perturbation(run.model, loss, batch, radius=radius, dtype=dtype)
    if not found.cosine >= SMALLEST_COSINE:
        warnings.warn(
            f"{config.precision} rounds away much of the perturbation of radius {radius:g}: what is left has "
            f"{found.norm_ratio:.2f} times its length and a cosine of {found.cosine:.2f} with it. "
            f"Use precision fp32{'' if config.precision == 'fp16' else ' or fp16'}, or a larger radius",
            RoundedPerturbationWarning,
            stacklevel=2,
        )


def probe_interval(config: TrainConfig, total_steps: int) -> int:
    """Steps from one probe to the next: as the settings say, or about 160 probes a run and one in 100 steps at least.

    Example:
        >>> probe_interval(TrainConfig(), 320), probe_interval(TrainConfig(), 100_000)
        (2, 100)
    """
    return config.probe_every or min(100, max(1, total_steps // 160))


def _probe(run: _Run, batch: tuple[Tensor, Tensor]) -> float:
    config = run.config
    return congruence(
        run.model,
        cross_entropy,
        batch,
        split_ratio=config.split_ratio,
        radius=config.probe_radius,
        seed=derived_seed(config.seed, f"probe at step {run.step}"),
    )


def _measure(run: _Run, *, epoch: int, rate: float, probes: list[tuple[float, float]]) -> Metrics:
    """Everything of a metrics line but `seconds`, which has no place in a checkpoint."""
    train_loss, train_accuracy = evaluate(run.model, run.splits.train)
    val_loss, val_accuracy = evaluate(run.model, run.splits.validation)
    metrics: Metrics = {
        "epoch": epoch,
        "step": run.step,
        "train_loss": finite_or_none(train_loss),
        "train_accuracy": train_accuracy,
        "val_loss": finite_or_none(val_loss),
        "val_accuracy": val_accuracy,
        "learning_rate": rate,
        "num_gradients": run.step * gradients_per_step(run.config),
    }
    return metrics | probe_statistics(probes)


def _test_metrics(run: _Run, *, improved: bool) -> Metrics:
    loss, accuracy = evaluate(run.model, run.splits.test)
    best_loss, best_accuracy = loss, accuracy
    if not improved:
        best, _ = checkpoints.restore(checkpoints.read(run.folder / "best.pt"))
        best_loss, best_accuracy = evaluate(best.to(run.device), run.splits.test)
    return {
        "test_loss": finite_or_none(loss),
        "test_accuracy": accuracy,
        "best_test_loss": finite_or_none(best_loss),
        "best_test_accuracy": best_accuracy,
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device is 'cuda', but torch sees no CUDA device here: use 'cpu' or 'auto'")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def _prepare(config: TrainConfig, folder: Path, device: torch.device, *, pretrained: bool) -> _Run:
    splits = load(config)
    _check_batch(config, len(splits.train[1]))
    data = checkpoints.describe_data(config, splits)
    in_channels = splits.train[0].shape[1]
    model = build(config.model, in_channels=in_channels, num_classes=splits.num_classes, seed=config.seed)
    _check_images(config.model, model, splits.train[0][:2])
    if config.weights and pretrained:
        load_weights_(model, config.weights)
    model.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    return _Run(
        config=config,
        folder=folder,
        device=device,
        splits=_moved(splits, device),
        data=data,
        model=model,
        optimizer=optimizer,
        method=_method(config, model, optimizer),
        scaler=GradScaler(device.type) if config.precision == "fp16" else None,
    )


def _check_batch(config: TrainConfig, num_examples: int) -> None:
    if config.batch_size > num_examples:
        raise ValueError(
            f"batch_size is {config.batch_size}, but there are only {num_examples} training examples: use a smaller one"
        )
    # every method is probed, and the probe splits; 2, since all our models have BatchNorm
    part_sizes(config.batch_size, config.split_ratio, smallest=2)


def _check_images(name: str, model: nn.Module, images: torch.Tensor) -> None:
    """A first look in eval mode, which draws nothing and moves no statistics."""
    model.eval()
    try:
        with torch.no_grad():
            model(images)
    except (RuntimeError, ValueError, AssertionError) as error:  # what the layers of the libraries raise
        size = "x".join(str(length) for length in images.shape[1:])
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the network {name} does not take images of {size}: {reason}") from error
    model.train()


def _method(config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> Method:
    ratio = config.split_ratio
    if config.method == "sgd":
        return Descent(model, optimizer)
    if config.method == "sam":
        return SAM(model, optimizer, rho=config.rho)
    if config.method == "sam-subset":
        return SubsetSAM(model, optimizer, rho=config.rho, split_ratio=ratio)
    if config.method == "asam":
        return ASAM(model, optimizer, rho=config.rho, eta=config.eta)
    variant: Literal["full", "simple"] = "simple" if config.method == "agnostic-sam-simple" else "full"
    return AgnosticSAM(model, optimizer, rho1=config.rho1, rho2=config.rho2, split_ratio=ratio, variant=variant)


def _moved(splits: Splits, device: torch.device) -> Splits:
    def moved(part: Part) -> Part:
        return part[0].to(device), part[1].to(device)

    return dataclasses.replace(
        splits, train=moved(splits.train), validation=moved(splits.validation), test=moved(splits.test)
    )


def _start(run: _Run) -> None:
    run.metrics = {
        **_measure(run, epoch=0, rate=learning_rate(run.config, 0), probes=[]),
        "best_epoch": None,
        "best_val_accuracy": None,
    }
    checkpoints.save(_checkpoint(run), run.folder / "last.pt")


def _continue_from(run: _Run, last: Checkpoint) -> None:
    if last.data.get("hash") != run.data["hash"]:
        raise checkpoints.CheckpointError(f"{run.folder}: the data is not what the run was started with")
    unfit = checkpoints.misfits(run.model.state_dict(), last.model)
    steps = len(run.splits.train[1]) // run.config.batch_size
    if last.step != last.epoch * steps:
        unfit.append(f"step {last.step} of epoch {last.epoch}, with {steps} steps an epoch")
    if unfit:
        raise checkpoints.CheckpointError(f"{run.folder}/last.pt cannot be continued from: {'; '.join(unfit)}")
    try:
        run.model.load_state_dict(last.model)
        run.method.load_state_dict(last.optimizer)
        if run.scaler is not None:
            run.scaler.load_state_dict(last.optimizer["scaler"])
        for group in run.optimizer.param_groups:
            for param in group["params"]:
                buffer = run.optimizer.state[param].get("momentum_buffer")
                if buffer is not None and buffer.shape != param.shape:
                    raise ValueError(f"a momentum of shape {tuple(buffer.shape)} for {tuple(param.shape)}")
        torch.set_rng_state(last.rng["cpu"])
        if "cuda" in last.rng and run.device.type == "cuda":
            torch.cuda.set_rng_state(last.rng["cuda"], run.device)
        if not {"best_epoch", "best_val_accuracy"} <= set(last.metrics):
            raise KeyError("best_val_accuracy")
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise checkpoints.CheckpointError(f"{run.folder}/last.pt cannot be continued from: {error}") from error
    run.epoch, run.step, run.metrics = last.epoch, last.step, dict(last.metrics)
    run.seconds = keep_metrics(run.folder, last.epoch)


def _not_bit_identical(last: Checkpoint) -> str:
    """What differs from the machine that wrote a checkpoint, where that changes the last bits of what follows."""
    now = checkpoints.versions_here()
    changed = [
        f"{name} {last.versions.get(name)} then, {now[name]} now"
        for name in now
        if last.versions.get(name) != now[name]
    ]
    if not changed:
        return ""
    return f"Continued with {', '.join(changed)}: not bit for bit what an uninterrupted run would be."


def _checkpoint(run: _Run) -> Checkpoint:
    rng = {"cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(run.device)
    return Checkpoint(
        config=run.config,
        model={name: tensor.detach().cpu() for name, tensor in run.model.state_dict().items()},
        optimizer=run.method.state_dict() | ({} if run.scaler is None else {"scaler": run.scaler.state_dict()}),
        schedule={"name": run.config.schedule, "epochs": run.config.epochs, "next_epoch": run.epoch},
        rng=rng,
        data=run.data,
        epoch=run.epoch,
        step=run.step,
        metrics=run.metrics,
        versions=checkpoints.versions_here(),
    )
