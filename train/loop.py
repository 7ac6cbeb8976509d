"""Train one run: config -> folder with config.toml, metrics.jsonl, last.pt, best.pt; ema.pt, epoch-*.pt if asked for.

best.pt is the epoch with the best validation accuracy. Where nothing is held out for validation there is none: no part
of the test data ever chooses a checkpoint.

Every method sees the same batches (agnostic-sam-nonoverlap draws their two parts from two fixed sets), the same
schedule, and the same congruence probe. A checkpoint is written before the first epoch, after each, and after the step
in which a run of one process is asked to stop (several go on from the last whole epoch); a run that is continued from
one has the same numbers, bit for bit, as one that was never stopped, its `seconds` aside.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from train import checkpoint as checkpoints
from train import distributed
from train.batches import Parts, nonoverlapping_order
from train.checkpoint import Checkpoint, Metrics
from train.compiled import forward_pass
from train.config import TrainConfig
from train.data import Part, augmented, batch_order
from train.ema import copy_statistics_, update_
from train.folder import OutputExistsError, SettingsDifferError, append_metrics, epoch_file, keep_metrics, open_folder
from train.loss import training_loss, warn_of_rounding
from train.metrics import METRIC_NAMES, cross_entropy, evaluate, finite_or_none, probe_statistics
from train.probe import congruence
from train.resume import averaged, checkpoint_of, continue_from, not_bit_identical, steps_per_epoch
from train.run import Run, SettingsError, as_settings_error, device_of, gradients_per_step, prepare
from train.schedule import learning_rate
from train.shards import Rows, my_rows
from train.streams import derived_seed, seeded

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
    """Where a run is after an epoch. `images_per_second` is the mean of the run so far, probes left out."""

    epoch: int
    epochs: int
    metrics: Metrics
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    "diverged": a loss, gradient or weight was not finite after `epoch` whole epochs and `step` steps; `message` says
    what, and last.pt is the last good epoch. "stopped": last.pt holds `step` steps, the last of them within an epoch.
    The test numbers are None in both. `metrics` are those of last.pt, after its last whole epoch. A finished run has a
    message where it was continued under other versions or threads.
    """

    status: Literal["finished", "diverged", "stopped"]
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
        """Test accuracy of the epoch with the best validation accuracy; None without a validation part."""
        return self.metrics.get("best_test_accuracy")


_Batch = tuple[Tensor, Tensor]
_Loss = Callable[[nn.Module, _Batch], Tensor]


class _DivergedError(Exception):
    pass


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a run in `folder`, or go on with the one that is there.

    `resume` starts where there is no run, returns at once where an equal one is finished, and otherwise goes on from
    last.pt. `force` removes the files of the run that is there, and nothing else. `stop` is asked after each step; once
    it says so, last.pt is written as the run is then, and the run ends.

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
    device = device_of(config.device)
    workers = distributed.workers()
    purpose = "training" if workers.first else f"training, process {workers.rank}"
    with seeded(derived_seed(config.seed, purpose), device):
        with as_settings_error():
            pretrained = not (resume and (folder / "last.pt").exists())
            run = workers.together(lambda: prepare(config, folder, device, workers, pretrained=pretrained))
        last = workers.from_first(lambda: open_folder(config, folder, resume=resume, force=force))
        if last is not None and last.epoch == config.epochs:
            workers.from_first(lambda: keep_metrics(folder, config.epochs))
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
            return _train_epochs(run, progress, stop)
        continue_from(run, last)
        outcome = _train_epochs(run, progress, stop)
        return dataclasses.replace(outcome, message=". ".join(filter(None, [outcome.message, not_bit_identical(last)])))


def _train_epochs(run: Run, progress: Callable[[Progress], None] | None, stop: Callable[[], bool]) -> Outcome:
    config = run.config
    run.model.train()
    first_rows = _order(config, 0, len(run.splits.train[1]))[0].to(run.device)
    forward = forward_pass(config, run.model, lambda: _examples(run, first_rows), anywhere=run.workers.any)
    loss = training_loss(config, run.device, forward)
    try:
        while run.epoch < config.epochs:
            if not _train_epoch(run, loss, stop):
                return Outcome(
                    status="stopped",
                    folder=run.folder,
                    epoch=run.epoch,
                    step=run.step if run.workers.size == 1 else run.epoch * steps_per_epoch(run),
                    metrics=run.metrics,
                    message=f"stopped after {run.epoch} whole epochs"
                    + (f" and step {run.step}" if run.workers.size == 1 else "")
                    + ", which last.pt holds",
                )
            if progress is not None:
                rate = run.step * config.batch_size / run.seconds
                progress(Progress(epoch=run.epoch, epochs=config.epochs, metrics=run.metrics, images_per_second=rate))
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


def _train_epoch(run: Run, loss: _Loss, stop: Callable[[], bool]) -> bool:
    """Make the epoch whole, and write it down; False where the run stopped within it."""
    config = run.config
    rate = learning_rate(config, run.epoch)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    stopped = _train_steps(run, loss, stop)
    if not stopped:
        _agree(run)
    broken = checkpoints.nonfinite_names(run.model.state_dict())
    if broken:
        raise _DivergedError(f"not finite at step {run.step}: {', '.join(broken[:3])}")
    if stopped:
        if run.workers.size == 1:  # several go on from the last whole epoch: within one their BatchNorms differ
            _save(run, "last.pt")
        return False
    best_so_far = run.metrics["best_val_accuracy"]
    metrics = _measure(run, epoch=run.epoch + 1, rate=rate)
    line = {name: run.seconds if name == "seconds" else metrics[name] for name in METRIC_NAMES}
    improved = _exceeds(metrics["val_accuracy"], best_so_far)
    kept = {"best_epoch": run.epoch + 1, "best_val_accuracy": metrics["val_accuracy"]}
    metrics |= kept if improved else {name: run.metrics[name] for name in kept}
    if run.epoch + 1 == config.epochs:
        metrics |= _test_metrics(run, improved=improved)
    run.epoch, run.metrics, run.probes = run.epoch + 1, metrics, []
    if run.workers.first:
        append_metrics(run.folder, line)
    if improved:  # before last.pt: a run killed between the two makes this epoch, and its best.pt, once more
        _save(run, "best.pt")
    if run.average is not None:
        _save(run, "ema.pt", averaged)
    if config.save_every and run.epoch % config.save_every == 0:
        _save(run, epoch_file(run.epoch))
    _save(run, "last.pt")
    return True


def _save(run: Run, name: str, change: Callable[[Checkpoint], Checkpoint] = lambda checkpoint: checkpoint) -> None:
    checkpoint = checkpoint_of(run)  # in every process: it holds the random states of all
    if run.workers.first:
        checkpoints.save(change(checkpoint), run.folder / name)


def _agree(run: Run) -> None:
    """Have all processes measure, and keep, one and the same model."""
    if run.workers.size == 1:
        return
    distributed.average_statistics_(run.model)
    if run.average is not None:
        copy_statistics_(run.average, run.model)
    found = run.workers.gathered(checkpoints.content_hash(run.model.state_dict()))
    if len(set(found)) > 1:
        raise RuntimeError(f"the weights of the processes differ after epoch {run.epoch + 1}")


def _train_steps(run: Run, loss: _Loss, stop: Callable[[], bool]) -> bool:
    """What is left of an epoch's steps, with the congruence before and after each probed one; True where it stopped."""
    config, model, method = run.config, run.model, run.method
    order = _order(config, run.epoch, len(run.splits.train[1])).to(run.device)
    every = probe_interval(config, len(order) * config.epochs)
    model.train()
    for rows in order[run.step - run.epoch * len(order) :]:
        mine = my_rows(config, rows, run.workers)
        started = time.perf_counter()
        batch = _batch(run, mine)
        run.seconds += time.perf_counter() - started
        probed = run.step % every == 0
        if probed:
            whole = _examples(run, rows) if isinstance(batch, Parts) or mine is not rows else batch
            before = _probe(run, whole)
        if run.step == 0:
            warn_of_rounding(config, model, whole)
        started, num_skipped = time.perf_counter(), method.num_skipped
        method.step(loss, batch, scaler=run.scaler)  # ends with a host sync: the time is its own
        if run.average is not None and method.num_skipped == num_skipped:
            update_(run.average, model, decay=config.ema)
        run.seconds += time.perf_counter() - started
        # in float16 a skip is how the scale finds its size; one that is still too large at 1 is no matter of scale
        if method.num_skipped and (run.scaler is None or run.scaler.get_scale() < 1):
            raise _DivergedError(f"loss or gradient is not finite at step {run.step}: no step was taken")
        if probed:
            run.probes.append((before, _probe(run, whole)))
        run.step += 1
        if run.workers.any(stop()):
            return True
    return False


def _batch(run: Run, rows: Rows) -> _Batch | Parts[_Batch]:
    if isinstance(rows, Parts):
        return Parts(_examples(run, rows.first), _examples(run, rows.second))
    return _examples(run, rows)


def _examples(run: Run, rows: Tensor) -> _Batch:
    inputs, targets = run.splits.train
    if run.config.augment == "paper":
        return augmented(inputs, rows, seed=run.config.seed, epoch=run.epoch), targets[rows]
    return inputs[rows], targets[rows]


def _order(config: TrainConfig, epoch: int, num_examples: int) -> Tensor:
    if config.method == "agnostic-sam-nonoverlap":
        return nonoverlapping_order(config.seed, epoch, num_examples, config.batch_size, config.split_ratio)
    return batch_order(config.seed, epoch, num_examples, config.batch_size)


def probe_interval(config: TrainConfig, total_steps: int) -> int:
    """Steps from one probe to the next: as the settings say, or about 160 probes a run and one in 100 steps at least.

    Example:
        >>> probe_interval(TrainConfig(), 320), probe_interval(TrainConfig(), 100_000)
        (2, 100)
    """
    return config.probe_every or min(100, max(1, total_steps // 160))


def _probe(run: Run, batch: tuple[Tensor, Tensor]) -> float:
    config = run.config
    return congruence(
        run.model,
        cross_entropy,
        batch,
        split_ratio=config.split_ratio,
        radius=config.probe_radius,
        seed=derived_seed(config.seed, f"probe at step {run.step}"),
    )


def _measure(run: Run, *, epoch: int, rate: float) -> Metrics:
    """Everything of a metrics line but `seconds`, which has no place in a checkpoint."""
    return {
        "epoch": epoch,
        "step": run.step,
        **_quality(run, "train", run.model, run.splits.train),
        **_quality(run, "val", run.model, run.splits.validation),
        **_quality(run, "ema_val", run.average, run.splits.validation),
        "learning_rate": rate,
        "num_gradients": run.step * gradients_per_step(run.config),
        **probe_statistics(run.probes),
    }


def _test_metrics(run: Run, *, improved: bool) -> Metrics:
    test = run.splits.test
    last = _quality(run, "test", run.model, test)
    if improved:
        best = {f"best_{name}": value for name, value in last.items()}
    elif not len(run.splits.validation[1]):
        best = _quality(run, "best_test", None, test)
    else:
        model, _ = checkpoints.restore(checkpoints.read(run.folder / "best.pt"))
        best = _quality(run, "best_test", model.to(run.device), test)
    return last | best | _quality(run, "ema_test", run.average, test)


def _quality(run: Run, name: str, model: nn.Module | None, part: Part) -> Metrics:
    """Loss and accuracy; None for both where there is no model, or nothing to measure it on."""
    if model is None or not len(part[1]):
        return {f"{name}_loss": None, f"{name}_accuracy": None}
    loss, accuracy = evaluate(model, part, run.workers)
    return {f"{name}_loss": finite_or_none(loss), f"{name}_accuracy": accuracy}


def _exceeds(accuracy: float | None, best: float | None) -> bool:
    return accuracy is not None and (best is None or accuracy > best)


def _start(run: Run) -> None:
    run.metrics = {
        **_measure(run, epoch=0, rate=learning_rate(run.config, 0)),
        "best_epoch": None,
        "best_val_accuracy": None,
    }
    _save(run, "last.pt")
