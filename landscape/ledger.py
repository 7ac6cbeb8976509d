"""The products that a long measurement has made, kept so that it goes on where it was when it was killed.

A folder OUT.journal beside the results file OUT:

    plan.json              all that decides the numbers (landscape.journal); its hash is in the names of the others
    NAME-HASH.step         the results of a step that is finished: a checkpoint, or an epoch of a run
    NAME-HASH.products     every product of the step that is under way, in the order in which they were asked for; a
                           record: a line with its checksum, {"asked": hash, "product": CRC-32, "checks": what the
                           operator noted}, and the product's bytes

What iterates is a function of its products. Begun again, it asks for the same vectors and is given what is kept, until
that ends: so a run that goes on has the bits of one that was never stopped, whatever iterates, and the cost of the
products is paid once. A record that is torn, and what follows it, is made again. The file takes P numbers for each
product; it is given up, with a warning, where fewer than ten more would fit on the disk.

Legend: P size of an operator, K vectors (rows).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from landscape import journal
from landscape.distributed import from_first, place
from landscape.journal import JournalError
from landscape.operators import SymmetricOperator
from landscape.outputs import OutputExistsError
from landscape.results import Record, Result, load, save

_ROOM = 10  # products that must fit on the disk beside one that is kept

Replayed = Callable[[SymmetricOperator], SymmetricOperator]
Make = Callable[[Replayed], list[Result]]
Keep = Callable[[str, Make], list[Result]]


class LedgerWarning(UserWarning):
    """Products are no longer kept."""


def unkept(_name: str, make: Make) -> list[Result]:
    """The results of a step of which nothing is kept."""
    return make(lambda operator: operator)


@dataclass(frozen=True, eq=False)
class Ledger:
    """The steps of a measurement, in a folder that this process alone writes; None in all but the first of several."""

    folder: Path | None
    work: str = ""  # a hash of all that was decided: what is of other work is not taken for this

    def step(self, name: str, make: Make) -> list[Result]:
        """What was kept of a finished step, or what `make` finds now; its operators' products are kept meanwhile."""
        there = from_first(lambda: self._finished(name))
        if there is not None:
            return there
        if self.folder is None:
            return make(_Products(None, None).replayed)
        products = self._file(self.folder, name, "products")
        with products.open("ab", buffering=0) as file, products.open("rb") as kept:
            try:
                results = make(_Products(file, kept).replayed)
            except JournalError:
                raise
            except (ValueError, FloatingPointError):  # which would end it again
                products.unlink()
                raise
        step = self._file(self.folder, name, "step")
        try:
            save(results, step)
        except OSError as error:
            told = f"{step}: {error.strerror}, so no more than its products is kept"
            warnings.warn(told, LedgerWarning, stacklevel=2)
        else:
            products.unlink()
        return results

    def _finished(self, name: str) -> list[Result] | None:
        done = self.folder and self._file(self.folder, name, "step")
        return load(done) if done and done.exists() else None

    def _file(self, folder: Path, name: str, ending: str) -> Path:
        return folder / f"{name}-{self.work[:16]}.{ending}"


def begin(out: Path, *, force: bool = False, resume: bool = False) -> Path:
    """The journal of a results file: empty, or one that `resume` goes on with, or that `force` is to empty.

    Raises:
        OutputExistsError: If it holds anything that was measured, and neither is given.
        JournalBusyError: If another process writes that.
    """
    folder = journal.folder_of(out)
    if begun(folder) and not (force or resume):
        with journal.locked(folder / journal.PRODUCTS_LOCK, wait=False):
            told = f"{folder} holds a measurement that was not finished"
            raise OutputExistsError(told, "--resume goes on, --force anew")
    return folder


@contextlib.contextmanager
def opened(folder: Path, decided: Record, *, anew: bool) -> Iterator[Ledger]:
    """Inside, the ledger of a measurement: an empty one or, unless `anew`, one that goes on.

    It is removed at the end, where all went well. Of several processes (landscape.distributed) the first one writes.

    Raises:
        JournalBusyError: If another process writes it.
        JournalError: If what is there is of other work; the message names what differs.
    """
    if place()[0]:
        yield Ledger(None)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with journal.locked(folder / journal.PRODUCTS_LOCK, wait=False):
        try:
            if anew or not begun(folder):
                journal.remove(folder, own=True)
                journal.write_plan(folder, {"decided": decided})
            journal.refuse_other_work(folder, decided)
            yield Ledger(folder, hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest())
        except BaseException:
            if not begun(folder):
                remove(folder)
            raise
        remove(folder)


def begun(folder: Path) -> bool:
    """Whether a folder holds anything that was measured: products, steps, or points of a surface."""
    return any(path.stat().st_size for path in [*journal.products_files(folder), *journal.shard_files(folder)])


def remove(folder: Path) -> None:
    """Delete all that this process keeps; of a folder that holds anything else, only what is a journal's."""
    journal.remove(folder, own=True)
    (folder / journal.PRODUCTS_LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


@dataclass(eq=False)
class _Products:
    """The products of one step, from its file and, from where that ends, into it."""

    file: BinaryIO | None  # unbuffered: what is written is the system's at once, and kill -9 does not undo it
    kept: BinaryIO | None
    count: int = 0
    replaying: bool = True
    keeping: bool = True

    def replayed(self, operator: SymmetricOperator) -> SymmetricOperator:
        """The operator, whose products are kept, and not made again."""
        many = operator.matvecs
        return replace(
            operator,
            matvec=lambda v: self._product(operator, v, operator.matvec),
            matvecs=None if many is None else lambda vectors: self._product(operator, vectors, many),
        )

    def _product(self, operator: SymmetricOperator, vectors: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        digest = hashlib.blake2b(f"{operator.settings.get('engine')}/".encode(), digest_size=16)
        digest.update(_bytes(vectors))
        asked = digest.hexdigest()
        kept = from_first(lambda: self._read(asked, vectors.nbytes)) if self.replaying else None
        if kept is not None:
            operator.checks.update(kept[0])
            product = torch.frombuffer(bytearray(kept[1]), dtype=vectors.dtype)
            return product.reshape(vectors.shape).to(vectors.device)
        self.replaying = False
        product = make(vectors)
        if self.file is not None and self.keeping:
            self._append(self.file, {"asked": asked, "checks": operator.checks}, _bytes(product))
        return product

    def _read(self, asked: str, num_bytes: int) -> tuple[Record, bytes] | None:
        """What the operator had noted at the next product, and that; None from the first record on that is torn."""
        if self.file is None or self.kept is None:
            return None
        start = self.kept.tell()
        body = journal.body_of(self.kept.readline())
        found = b"" if body is None else self.kept.read(num_bytes)
        if body is None or len(found) < num_bytes or zlib.crc32(found) != body["product"]:
            self.file.truncate(start)
            return None
        self.count += 1
        if body["asked"] != asked:
            raise JournalError(
                f"{self.file.name}: product {self.count} is of another vector or engine than is asked for now "
                "(another machine, or another build of a library?): go on where it was begun, or --force starts anew"
            )
        return body["checks"], found

    def _append(self, file: BinaryIO, body: Record, product: memoryview) -> None:
        start, folder = file.seek(0, os.SEEK_END), Path(file.name).parent
        try:
            if shutil.disk_usage(folder).free < _ROOM * product.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for part in (journal.line_of({**body, "product": zlib.crc32(product)}), product):
                left = memoryview(part)
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            self.keeping = False
            file.truncate(start)
            told = f"{file.name}: {error.strerror}, so products are no longer kept; --resume would go on from here"
            warnings.warn(told, LedgerWarning, stacklevel=2)


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes, in the order of its elements, without a copy where it is on the host."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
