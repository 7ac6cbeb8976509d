"""Numbers as characters: bands of a map, columns of a curve, in blocks or in plain ASCII.

    band(v) = floor(B (v - low) / (high - low)),    parts(v) = 1 + floor(Q (v - low) / (high - low)),  both at most all

What is not a number has a mark of its own.

Legend: R rows and C columns of characters, B bands, Q parts of a column over all its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.results import Array


@dataclass(frozen=True)
class Ink:
    """The characters of pictures: bands from low to high, parts of a column from none to all, and marks."""

    bands: str
    parts: str
    left_out: str
    stick: str


BLOCKS = Ink(" ·░▒▓█", " ▁▂▃▄▅▆▇█", "×", "│")
ASCII = Ink(" .:=*#", " .:-=*%#", "x", "|")


def ink_for(encoding: str | None) -> Ink:
    """Blocks where a terminal of this encoding can show them, otherwise plain ASCII.

    Example:
        >>> ink_for("utf-8") == BLOCKS, ink_for("latin-1") == ink_for(None) == ASCII
        (True, True)
    """
    try:
        "".join(vars(BLOCKS).values()).encode(encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS


def shaded(values: Array, low: float, high: float, ink: Ink = BLOCKS) -> list[str]:
    """`values` (R, C) as R lines, each value as its band between `low` and `high`, NaN as the mark of what is left out.

    Example:
        >>> shaded(np.array([[0.0, 5.9, np.nan]]), 0.0, 6.0, ASCII)
        [' #x']
    """
    share = (values - low) / (high - low)
    bands = np.clip(np.nan_to_num(share) * len(ink.bands), 0, len(ink.bands) - 1).astype(int)
    characters = np.where(np.isnan(values), ink.left_out, np.array(list(ink.bands))[bands])
    return ["".join(line) for line in characters]


def columns(values: Array, low: float, high: float, rows: int = 1, ink: Ink = BLOCKS) -> list[str]:
    """`values` (C,) as columns of `rows` lines, the lowest one part high; NaN is marked, what is below `low` is empty.

    Example:
        >>> columns(np.array([0.0, 0.5, 1.0, np.nan]), 0.0, 1.0)
        ['▁▅█×']
    """
    parts = len(ink.parts) - 1
    share = (values - low) / (high - low) if high > low else np.where(np.isnan(values), np.nan, 0.5)
    filled = np.where(share < 0, 0, 1 + np.floor(np.nan_to_num(share).clip(0, 1) * rows * parts))
    lines = []
    for row in reversed(range(rows)):
        of_row = np.clip(filled - parts * row, 0, parts).astype(int)
        blank = ink.left_out if row == 0 else " "
        lines.append("".join(np.where(np.isnan(values), blank, np.array(list(ink.parts))[of_row])))
    return lines
