"""From a run to its checkpoint, and back: what is kept, and where it goes on."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from train import checkpoint as checkpoints
from train.checkpoint import Checkpoint, State
from train.folder import keep_metrics
from train.run import Run


def checkpoint_of(run: Run) -> Checkpoint:
    """The run as it is now. Within an epoch it holds that epoch so far: its probes, and the seconds until here."""
    schedule: State = {"name": run.config.schedule, "epochs": run.config.epochs, "next_epoch": run.epoch}
    if run.step != run.epoch * steps_per_epoch(run):
        schedule["so_far"] = {"probes": [list(pair) for pair in run.probes], "seconds": run.seconds}
    optimizer = run.method.state_dict()
    if run.scaler is not None:
        optimizer["scaler"] = run.scaler.state_dict()
    if run.average is not None:
        optimizer["ema"] = _weights(run.average)
    mine = {"cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state(run.device)
    rng = {
        name if rank == 0 else f"{name} of process {rank}": state
        for rank, states in enumerate(run.workers.gathered(mine))
        for name, state in states.items()
    }
    return Checkpoint(
        config=run.config,
        model=_weights(run.model),
        optimizer=optimizer,
        schedule=schedule,
        rng=rng,
        data=run.data,
        epoch=run.epoch,
        step=run.step,
        metrics=run.metrics,
        versions=checkpoints.versions_here(run.config),
    )


def averaged(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the average of the weights in their place: to be measured, not to go on from."""
    return dataclasses.replace(checkpoint, model=checkpoint.optimizer["ema"], optimizer={})


def continue_from(run: Run, last: Checkpoint) -> None:
    """Put the run where the checkpoint `last` was made.

    Raises:
        CheckpointError: If the checkpoint is of other data or another network, or is damaged.
    """
    if last.data.get("hash") != run.data["hash"]:
        raise checkpoints.CheckpointError(f"{run.folder}: the data is not what the run was started with")
    if not last.optimizer:
        raise checkpoints.CheckpointError(
            f"{run.folder}/last.pt cannot be continued from: it is an ema.pt, an average of weights without the rest"
        )
    unfit = checkpoints.misfits(run.model.state_dict(), last.model)
    steps, so_far = steps_per_epoch(run), last.schedule.get("so_far")
    if not 0 <= last.step - last.epoch * steps <= (steps if so_far else 0):
        unfit.append(f"step {last.step} of epoch {last.epoch}, with {steps} steps an epoch")
    if unfit:
        raise checkpoints.CheckpointError(f"{run.folder}/last.pt cannot be continued from: {'; '.join(unfit)}")
    try:
        run.model.load_state_dict(last.model)
        run.method.load_state_dict(last.optimizer)
        if run.scaler is not None:
            run.scaler.load_state_dict(last.optimizer["scaler"])
        if run.average is not None:
            run.average.load_state_dict(last.optimizer["ema"])
        for group in run.optimizer.param_groups:
            for param in group["params"]:
                buffer = run.optimizer.state[param].get("momentum_buffer")
                if buffer is not None and buffer.shape != param.shape:
                    raise ValueError(f"a momentum of shape {tuple(buffer.shape)} for {tuple(param.shape)}")
        of = f" of process {run.workers.rank}" if run.workers.rank else ""
        if f"cpu{of}" in last.rng or not of:
            torch.set_rng_state(last.rng[f"cpu{of}"])
        if f"cuda{of}" in last.rng and run.device.type == "cuda":
            torch.cuda.set_rng_state(last.rng[f"cuda{of}"], run.device)
        if not {"best_epoch", "best_val_accuracy"} <= set(last.metrics):
            raise KeyError("best_val_accuracy")
        if so_far:
            run.probes = [(float(before), float(after)) for before, after in so_far["probes"]]
            run.seconds = float(so_far["seconds"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise checkpoints.CheckpointError(f"{run.folder}/last.pt cannot be continued from: {error}") from error
    run.epoch, run.step, run.metrics = last.epoch, last.step, dict(last.metrics)
    run.seconds = max(run.seconds, run.workers.from_first(lambda: keep_metrics(run.folder, last.epoch)))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def steps_per_epoch(run: Run) -> int:
    """How many whole batches an epoch has."""
    return len(run.splits.train[1]) // run.config.batch_size


def not_bit_identical(last: Checkpoint) -> str:
    """What differs from the machine that wrote a checkpoint, where that changes the last bits of what follows."""
    now = checkpoints.versions_here(last.config)
    changed = [
        f"{name} {last.versions.get(name, 'none')} then, {now.get(name, 'none' if name != 'processes' else 1)} now"
        for name in sorted({*now, *last.versions})
        if last.versions.get(name) != now.get(name)
    ]
    if not changed:
        return ""
    return f"Continued with {', '.join(changed)}: not bit for bit what an uninterrupted run would be."
