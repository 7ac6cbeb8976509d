"""What is there already where results are to be written, and whether it is kept, gone on with, or replaced.

An error says what is there, and its `hint` what can be done. In the plan of a results file "early" says that points are
missing that are to come, "failed" which checkpoints have no number, and why: such a file is not finished.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from landscape.journal import differences
from landscape.results import PAGE_MARK, Record, Result, load_file

EARLY, FAILED = "early", "failed"


class OutputError(ValueError):
    """Nothing can be written here; `hint` says what can be done."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotAFileError(OutputError):
    """A folder is there, or something else that is no regular file."""


class OutputExistsError(OutputError):
    """Something is there, and was to be neither gone on with nor replaced."""


class OtherSettingsError(OutputError):
    """What is there has other settings than what was to go on."""


class UnwritableError(OutputError):
    """The folder cannot be written to."""


def finished(out: Path, plan: Record, *, force: bool = False, resume: bool = False) -> list[Result] | None:
    """The results of an equal plan, where they are whole and `resume` is given; None where `out` is to be made.

    Raises:
        NotAFileError: If a folder is there.
        OutputExistsError: If results are there, and neither `force` nor `resume` is given.
        OtherSettingsError: If they are of another plan; the message names what differs.
        UnwritableError: If `out` is to be made, and cannot be.
    """
    if out.is_dir():
        raise NotAFileError(f"{out} is a folder; give --out a file name")
    if not out.exists() or force:
        _require_writable(out)
        return None
    if not resume:
        raise OutputExistsError(f"{_shown(out)} exists", "--force replaces it, --resume keeps it if it is the same")
    file = load_file(out)
    unfinished = [name for name in (EARLY, FAILED) if file.plan.pop(name, False)]
    if told := differences(plan, file.plan):
        hint = "--force replaces it, --out writes elsewhere"
        raise OtherSettingsError(f"{_shown(out)} has other settings: {told}", hint)
    if unfinished:
        _require_writable(out)
        return None
    return file.results


def refuse_to_replace(page: Path, *, force: bool = False) -> None:
    """A page of ours is made anew whenever there is more to show; anything else stays, unless forced.

    Raises:
        NotAFileError: If no regular file is there.
        OutputExistsError: If another file is there.
    """
    if page.is_dir():
        raise NotAFileError(f"{page} is a folder; give --out a file name")
    if not page.exists() or (force and page.is_file()):
        return
    if not page.is_file():
        raise NotAFileError(f"{page} is not a regular file; give --out another name")
    with page.open("rb") as file:
        if PAGE_MARK.encode() not in file.read(1000):
            raise OutputExistsError(f"{_shown(page)} exists, and is not a page of ours", "--force replaces it")


def _require_writable(out: Path) -> None:
    there = next(folder for folder in out.absolute().parents if folder.exists())  # the others are made later
    if not os.access(there, os.W_OK):
        raise UnwritableError(f"{out.parent} cannot be written to", "--out writes elsewhere")


def _shown(path: Path) -> str:
    return shlex.quote(str(path))
