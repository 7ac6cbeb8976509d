"""The folder of a run: config.toml, metrics.jsonl, *.pt; who may write, where it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from train import checkpoint as checkpoints
from train.checkpoint import Checkpoint, CheckpointError
from train.config import TrainConfig, differences


class OutputExistsError(FileExistsError):
    """The folder holds a run already, and the caller chose neither to continue nor to replace it."""


class SettingsDifferError(ValueError):
    """The folder holds a run with other settings than the one that was to be continued."""


def open_folder(config: TrainConfig, folder: Path, *, resume: bool, force: bool) -> Checkpoint | None:
    """Make the folder ready, and read the checkpoint to go on from, if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    present = _run_files(folder)
    if present and force:
        for path in present:
            path.unlink()
    elif present and not resume:
        raise OutputExistsError(
            f"{folder} holds a run already: --resume continues it, --force replaces it, --out names another folder"
        )
    elif (folder / "last.pt").exists():
        last = checkpoints.read(folder / "last.pt")
        _refuse_other_settings(config, last.config, folder)
        return last
    elif (folder / "config.toml").exists():
        _refuse_other_settings(config, TrainConfig.from_toml((folder / "config.toml").read_text()), folder)
    text = config.to_toml().encode()
    checkpoints.write_atomically(folder / "config.toml", lambda file: file.write(text))
    (folder / "metrics.jsonl").write_bytes(b"")
    return None


def append_metrics(folder: Path, line: Mapping[str, object]) -> None:
    """Add the line of an epoch to metrics.jsonl, on the disk when this returns."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def keep_metrics(folder: Path, num_epochs: int) -> float:
    """Drop metrics after epoch `num_epochs`, and a torn last line; the seconds spent until then."""
    path = folder / "metrics.jsonl"
    kept = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            line = json.loads(text)
            if line["epoch"] <= num_epochs:
                kept.append(line)
    if [line["epoch"] for line in kept] != list(range(1, num_epochs + 1)):
        raise CheckpointError(
            f"{path} does not hold the epochs 1 to {num_epochs} that last.pt has behind it: it was edited or lost. "
            "--force starts the run anew"
        )
    content = "".join(json.dumps(line) + "\n" for line in kept).encode()
    if not path.exists() or path.read_bytes() != content:
        checkpoints.write_atomically(path, lambda file: file.write(content))
    return float(kept[-1]["seconds"]) if kept else 0.0


def epoch_file(epoch: int) -> str:
    """The name of the checkpoint that is kept of an epoch; names sort as their epochs do, up to 9999."""
    return f"epoch-{epoch:04d}.pt"


def kept_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints along a run, in the order of their epochs: epoch-*.pt, then last.pt.

    Raises:
        FileNotFoundError: If the folder holds none.
    """
    present = _run_files(folder)
    found = [path for path in present if path.name.startswith("epoch-")]
    found.sort(key=lambda path: int(path.stem.removeprefix("epoch-")))
    found += [path for path in present if path.name == "last.pt"]
    if not found:
        raise FileNotFoundError(f"{folder} holds no epoch-*.pt and no last.pt: it is not the folder of a run")
    return found


def _run_files(folder: Path) -> list[Path]:
    names = ("config.toml", "metrics.jsonl", "last.pt", "best.pt", "ema.pt")
    kept = [path for path in sorted(folder.glob("epoch-*.pt")) if re.fullmatch(r"epoch-\d{4,}\.pt", path.name)]
    events = sorted(folder.glob("tensorboard/events.out.tfevents.*"))
    return [folder / name for name in names if (folder / name).exists()] + kept + events


def _refuse_other_settings(config: TrainConfig, found: TrainConfig, folder: Path) -> None:
    changed = [
        f"{name} {getattr(found, name)} there, {getattr(config, name)} now" for name in differences(found, config)
    ]
    if changed:
        raise SettingsDifferError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}): --force replaces it"
        )
