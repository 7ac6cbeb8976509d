"""What checkpoints are called and where their results go: short labels, a shared folder, the path that was meant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path


def labels_of(paths: Sequence[Path]) -> list[str]:
    """A short name for each checkpoint: as much of its path as tells it from the others, without "last.pt".

    Example:
        >>> labels_of([Path("runs/sgd/last.pt"), Path("runs/sam/epoch-0010.pt")])
        ['sgd', 'sam/epoch-0010.pt']
    """
    parts = []
    for path in paths:
        whole = Path(os.path.abspath(path)).parts  # noqa: PTH100 - links keep the names they were given
        parts.append(whole[:-1] if whole[-1] == "last.pt" and len(whole) > 2 else whole)
    for length in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(p[-max(length, 1 + p[-1].endswith(".pt")) :]) for p in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{'/'.join(p)} ({n})" for n, p in enumerate(parts, 1)]


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all files and folders, as seen from here where it lies below."""
    folders = [path if path.is_dir() else path.parent for path in paths]
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    return Path(os.path.relpath(common)) if common.is_relative_to(Path.cwd()) else common


def nearest_path(path: Path) -> str:
    """The end of an error about a path that is not there: files and checkpoints whose names come close to it."""
    known = [str(p) for p in path.parent.glob("*")] + [str(p) for p in path.parent.parent.glob("*/*.pt")]
    found = difflib.get_close_matches(str(path), dict.fromkeys(known), n=2, cutoff=0.7)
    return f". Did you mean {' or '.join(found)}?" if found else ""
