"""What is measured of a surface while it runs, kept so that nothing is lost and several workers can share the work.

A folder OUT.journal beside the results file OUT:

    plan.json          written before the first point, whole: all that decides the numbers, the engine included
    1-of-3.jsonl       one file for each shard, append-only; a line: CRC-32 of the rest, a space, and
                       {"surface": 0, "micro_batch": 64, "points": {"12": the point's row in base64}}

Each line is on the disk before the next points are measured. A torn last line (the power went) is dropped, a damaged
one in the middle is an error. One process at a time writes a shard. A row is eight sums, two for each metric, and the
losses that are kept, as little-endian float64: read back bit for bit, and no larger in memory than on the disk.

Legend: a shard is one of n workers, 1 to n; a surface is one of those of a command, 0 to m - 1.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from landscape.results import Record, write_atomically

FORMAT = 2
PRODUCTS_LOCK = "products.lock"  # of whoever writes products (landscape.ledger)
Row = npt.NDArray[np.float64]


class JournalError(ValueError):
    """A journal that cannot be read, or that is of other work than the one that is to go on."""


class JournalBusyError(RuntimeError):
    """Another process writes the same shard."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Points of one surface with their sums, and the micro-batches that they were measured with."""

    points: dict[int, Row] = field(default_factory=dict)
    micro_batches: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class ShardFile:
    """The memory of one surface in one shard's file (landscape.surface.Memory)."""

    file: BinaryIO
    surface: int
    kept: Kept

    def known(self) -> Mapping[int, Row]:
        """The points that were there when the shard was opened."""
        return self.kept.points

    def add(self, points: Mapping[int, Row], micro_batch: int) -> None:
        """Append a line; it is on the disk when this returns."""
        body: Record = {
            "surface": self.surface,
            "micro_batch": micro_batch,
            "points": {str(point): _written(row) for point, row in points.items()},
        }
        line = memoryview(line_of(body))
        try:
            while line:
                line = line[self.file.write(line) :]
            os.fsync(self.file.fileno())
        except OSError as error:
            error.filename = self.file.name  # a full disk does not say which file it stopped
            raise


def folder_of(out: Path) -> Path:
    """The journal of a results file."""
    return out.with_name(f"{out.name}.journal")


def write_plan(folder: Path, plan: Record) -> Record:
    """Put a plan in place, unless another worker did so first; the plan that is there now."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "plan": plan}, indent=1).encode()
    with locked(folder / "plan.lock", wait=True):
        if not (folder / "plan.json").exists():
            write_atomically(folder / "plan.json", lambda file: file.write(text))
    return read_plan(folder)


def read_plan(folder: Path) -> Record:
    """The plan of a journal.

    Raises:
        JournalError: If there is none, or it is no plan.
    """
    path, content = folder / "plan.json", None
    with contextlib.suppress(ValueError, FileNotFoundError):
        content = json.loads(path.read_text())
    known = isinstance(content, dict) and type(content.get("format")) is int and isinstance(content.get("plan"), dict)
    if content is None or not known:
        raise JournalError(f"{path} is not the plan of a journal: --force starts anew")
    if content["format"] > FORMAT:
        raise JournalError(f"{path} has format {content['format']}, made by a newer landscape: upgrade")
    if content["format"] < FORMAT:
        raise JournalError(f"{path} was made by an older landscape: go on with that, or --force starts anew")
    return cast(Record, content["plan"])


def refuse_other_work(folder: Path, decided: Record) -> None:
    """Refuse to go on with a journal that was begun with other decisions.

    Raises:
        JournalError: The message names what differs.
    """
    there, command = cast(Record, read_plan(folder).get("decided", {})), decided.get("command", "surface")
    if there.get("command", "surface") != command:
        raise JournalError(
            f"{folder} is that of a {there.get('command', 'surface')}: landscape {command} --force starts anew"
        )
    if told := differences(decided, there):
        raise JournalError(f"{folder} is of other settings: {told}. landscape {command} --force starts anew")


def differences(now: Record, there: Record) -> str:
    """The names under which two records differ; of records inside them, with both values."""
    told = []
    for name in sorted({*now, *there}):
        mine, theirs = now.get(name), there.get(name)
        if mine != theirs and isinstance(mine, dict) and isinstance(theirs, dict):
            told += [f"{key} {theirs.get(key)} -> {mine.get(key)}" for key in mine if mine[key] != theirs.get(key)]
        elif mine != theirs:
            told.append(name)
    return ", ".join(told)


@contextlib.contextmanager
def opened(folder: Path, shard: tuple[int, int], num_surfaces: int) -> Iterator[list[ShardFile]]:
    """Inside, a memory for each surface, backed by the file of one shard, which nobody else may write meanwhile.

    Raises:
        JournalBusyError: If another process writes it.
        JournalError: If a line of it is damaged.
    """
    path = folder / _shard_name(shard)
    with locked(path, wait=False) as file:
        known, whole = _read(path)
        file.truncate(whole)  # a torn last line
        file.seek(whole)
        yield [ShardFile(file, index, known.get(index, Kept())) for index in range(num_surfaces)]


def merged(folder: Path, num_surfaces: int) -> list[Kept]:
    """The points of all shards, for each surface.

    Raises:
        JournalError: If a line is damaged, or two shards have other numbers for one point.
    """
    found = [Kept() for _ in range(num_surfaces)]
    for path in shard_files(folder):
        for surface, kept in _read(path)[0].items():
            if surface >= num_surfaces:
                raise JournalError(f"{path} has points of surface {surface}, and the plan has {num_surfaces}")
            for point, row in kept.points.items():
                if not np.array_equal(found[surface].points.setdefault(point, row), row, equal_nan=True):
                    raise JournalError(
                        f"{path} has other numbers for point {point} than another shard: "
                        "landscape surface --force starts anew"
                    )
            new = [size for size in kept.micro_batches if size not in found[surface].micro_batches]
            found[surface].micro_batches.extend(new)
    return found


def shard_files(folder: Path) -> list[Path]:
    """The files of all shards that have begun."""
    return sorted(path for path in folder.glob("*.jsonl") if re.fullmatch(r"\d+-of-\d+\.jsonl", path.name))


def reset(folder: Path, shard: tuple[int, int]) -> None:
    """Forget the points of one shard.

    Raises:
        JournalBusyError: If another process writes it.
    """
    with locked(folder / _shard_name(shard), wait=False) as file:
        file.truncate(0)


def products_files(folder: Path) -> list[Path]:
    """The products and finished steps of a curvature (landscape.ledger)."""
    return [path for ending in ("step", "products") for path in folder.glob(f"*.{ending}")]


def remove(folder: Path, *, wait: bool = False, own: bool = False) -> None:
    """Delete a journal that nobody writes; of a folder that holds anything else, only what is a journal's.

    Of a ledger that is this process's `own`, the lock stays.

    Raises:
        JournalBusyError: If a process writes one of its shards, unless this is to `wait` for it; then all is kept.
    """
    if not folder.is_dir():
        return
    products = folder / PRODUCTS_LOCK
    files = [folder / "plan.lock", *shard_files(folder), *([products] if products.exists() and not own else [])]
    with contextlib.ExitStack() as held:
        for path in files:
            held.enter_context(locked(path, wait=wait or path.name == "plan.lock"))
        for path in [folder / "plan.json", *files, *products_files(folder)]:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def forget(folder: Path, decided: Record) -> None:
    """Delete what a process left of this work that was killed after it had saved the results, unless one writes it."""
    with contextlib.suppress(JournalError, JournalBusyError):
        if (folder / "plan.json").exists() and read_plan(folder).get("decided") == decided:
            remove(folder)


def parse_shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """A shard from "i/n", or from a SLURM job array's variables where `text` is "slurm".

    Raises:
        ValueError: If it is neither, or the array has gaps.

    Example:
        >>> parse_shard("2/3", {})
        (2, 3)
        >>> array = {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "3"}
        >>> parse_shard("slurm", array | {"SLURM_ARRAY_TASK_STEP": "1"})
        (3, 3)
    """
    if text == "slurm":
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        missing = [name for name in names if not environment.get(name, "").isdigit()]
        if missing:
            raise ValueError(f"shard slurm needs a job array (sbatch --array): {', '.join(missing)} is not set")
        task, first, count = (int(environment[name]) for name in names)
        step = int(environment.get("SLURM_ARRAY_TASK_STEP") or 1)
        last = int(environment.get("SLURM_ARRAY_TASK_MAX") or first + (count - 1) * step)
        index, beside = divmod(task - first, step)
        if last != first + (count - 1) * step or beside or not 0 <= index < count:
            tasks = f"task {task} of {count}, from {first} to {last} by {step}"
            raise ValueError(f"shard slurm needs an array without gaps, got {tasks}: use --array=1-{count}")
        return index + 1, count
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    shard = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard must be i/n with 1 <= i <= n, or slurm; got {text!r}")
    return shard


def _shard_name(shard: tuple[int, int]) -> str:
    return f"{shard[0]}-of-{shard[1]}.jsonl"


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[BinaryIO]:
    """Inside, the file, which nobody else has locked.

    Raises:
        JournalBusyError: If somebody has, unless this is to `wait`.
    """
    while True:
        with path.open("ab+", buffering=0) as file:  # closing unlocks, and has nothing left to write
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                other = "give another --out" if path.name == PRODUCTS_LOCK else "take another shard or --out"
                told = f"another process writes {path}: wait for it, or {other}"
                raise JournalBusyError(told) from error
            if _is_at(path, file):  # or else whoever held the lock until now has deleted it
                yield file
                return


def _is_at(path: Path, file: BinaryIO) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _read(path: Path) -> tuple[dict[int, Kept], int]:
    """What is kept of each surface, and how many bytes of whole lines there are."""
    found: dict[int, Kept] = {}
    whole = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            body = body_of(line) if line.endswith(b"\n") else None
            if body is None and not file.read(1):
                break
            if body is None:
                raise JournalError(f"{path}: line {number} is damaged. Delete the file to measure its points again")
            kept = found.setdefault(body["surface"], Kept())
            kept.points.update({int(point): _read_row(text) for point, text in body["points"].items()})
            if body["micro_batch"] not in kept.micro_batches:
                kept.micro_batches.append(body["micro_batch"])
            whole += len(line)
    return found, whole


def line_of(body: Record) -> bytes:
    """A line: the CRC-32 of the rest, a space, and JSON."""
    text = json.dumps(body).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def body_of(line: bytes) -> dict[str, Any] | None:
    """What a line holds, if its checksum is right; then it is as we wrote it."""
    check, _, text = line.rstrip(b"\n").partition(b" ")
    with contextlib.suppress(ValueError):
        if int(check, 16) == zlib.crc32(text):
            return cast(dict[str, Any], json.loads(text))
    return None


def _written(row: Row) -> str:
    return base64.b64encode(row.astype("<f8").tobytes()).decode()


def _read_row(text: str) -> Row:
    return np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64)
