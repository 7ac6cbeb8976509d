"""What a signal does: the first one lets a run end after the step that is under way, the second one ends it at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn


class Terminated(BaseException):
    """SIGTERM came: what KeyboardInterrupt is to SIGINT."""


def terminate(_signal: int, _frame: object) -> NoReturn:
    """The handler of a SIGTERM that ends what runs at once."""
    raise Terminated


@contextlib.contextmanager
def signals_noted() -> Iterator[Callable[[], bool]]:
    """Inside, a first SIGINT or SIGTERM is only noted, and raised at the end; a second one is raised at once.

    What comes is a function that says whether one was noted. A signal that the caller ignores stays ignored.

    Raises:
        KeyboardInterrupt: For a SIGINT.
        Terminated: For a SIGTERM.
    """
    noted: list[int] = []

    def note(number: int, _frame: object) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise _raised_by(number)

    # one that the caller ignores, as a shell does for what it starts in the background, stays ignored
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heeded}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if noted:
        raise _raised_by(noted[0])


def _raised_by(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()
