"""How far a long measurement is, where somebody watches: a bar on a terminal, otherwise a plain line every ten seconds.

Nothing here is used by what measures: that calls a `progress` function, if it is given one.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

Count = Callable[[str, str, int, int | None], None]  # what, unit, done, total where it is known

_EVERY = 10.0  # seconds between plain lines


@contextlib.contextmanager
def counting(*, quiet: bool = False) -> Iterator[Count]:
    """Inside, `count(what, unit, done, total)` shows on stderr how far `what` is, whose text after a comma may change.

    The time that is left is reckoned from what was done since the first call: what a resumed run had done before says
    nothing of its pace.
    """
    bars: dict[str, Any] = {}
    state: dict[str, Any] = {"what": "", "last": time.monotonic()}

    def count(what: str, unit: str, done: int, total: int | None) -> None:
        now, name = time.monotonic(), what.split(",")[0]
        if quiet:
            return
        if name != state["what"]:
            for bar in bars.values():
                bar.close()
            bars.clear()
            state.update(what=name, started=now, first=done)
        if sys.stderr.isatty():
            if name not in bars:
                bars[name] = _bar(what, unit, done, total)
            bars[name].set_description_str(what, refresh=False)
            bars[name].update(done - bars[name].n)
        elif now - state["last"] >= _EVERY:
            told = f"{done}/{total} {unit}" if total else f"{done} {unit}"
            if total and done > state["first"]:
                left = (now - state["started"]) * (total - done) / (done - state["first"])
                told += f", about {left:.0f} s left"
            sys.stderr.write(f"{what}: {told}\n")
            sys.stderr.flush()
            state["last"] = now

    try:
        yield count
    finally:
        for bar in bars.values():
            bar.close()


def _bar(what: str, unit: str, done: int, total: int | None) -> Any:  # noqa: ANN401 (tqdm has no types)
    form = "{desc}  {n_fmt}/{total_fmt} {bar} eta {remaining}" if total else None
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=f" {unit}",
        bar_format=form,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
    )
