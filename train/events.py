"""metrics.jsonl once more, as the event file that TensorBoard reads: FOLDER/tensorboard, the same numbers by epoch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from train.data.errors import LibraryError


@contextlib.contextmanager
def tensorboard_events(folder: Path) -> Iterator[Callable[[], None]]:
    """A function that brings the events of the run in `folder` to where its metrics.jsonl is.

    The first call replaces the events that are there by those of all epochs so far, so that a run that was continued,
    or is replaced, has each epoch once. What is null is left out.

    Raises:
        LibraryError: If the package tensorboard cannot be imported.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise LibraryError(f"tensorboard cannot be imported ({error}): pip install -e '.[tensorboard]'") from error
    where, written = folder / "tensorboard", 0
    writers: list[SummaryWriter] = []  # none before the first call, when the folder is known to be the run's

    def update() -> None:
        nonlocal written
        if not writers:
            for stale in where.glob("events.out.tfevents.*"):
                stale.unlink()
            writers.append(SummaryWriter(str(where)))
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        for line in map(json.loads, lines[written:]):
            for name, value in line.items():
                if name != "epoch" and value is not None:
                    writers[0].add_scalar(name, value, line["epoch"])
        writers[0].flush()
        written = len(lines)

    try:
        yield update
    finally:
        for writer in writers:
            writer.close()
