"""The look of a picture for paper: its width, its letters, its axes, and the file that holds it.

`width` is that of one column ("single") or of both ("double") of a two-column paper. Letters are of 6 to 8 points:
place pictures unscaled. A legend stands above the axes, where it hides nothing.
"""

from __future__ import annotations

import functools
import io
import math
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from landscape.formatting import shortened
from landscape.grouping import Style
from landscape.results import Array, write_atomically
from landscape.view import log_ticks, tick_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

Width = Literal["single", "double"]
WIDTHS = {"single": 3.25, "double": 6.75}  # inches, as in the styles of ICML and CVPR
LETTER = 0.06  # inches that a letter of 7 points is wide, on average
GREY = "#6b6b6b"
_LAST = "Last Resort High-Efficiency"  # matplotlib's own, which has a box for each letter

DASHES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
DASHES |= {"longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 1, 3))}
MARKS = {"circle": "o", "square": "s", "diamond": "D", "cross": "P", "triangle-up": "^", "triangle-down": "v"}
MARKS |= {"pentagon": "p", "star": "*"}

_UNDATED: dict[str, dict[str, Any]] = {"png": {"Software": ""}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_SETTINGS: Any = {"svg.hashsalt": "landscape", "svg.fonttype": "none", "pdf.fonttype": 42}


def save_picture(picture: Picture, path: str | Path, *, caption: str = "") -> None:
    """Write a picture as the suffix of `path` says: png (300 dots an inch), svg or pdf.

    Fonts travel within a pdf as TrueType, which printers and submission systems ask for; letters stay letters in svg.
    The same picture gives the same bytes. `caption` is kept as the file's description.

    Raises:
        ValueError: If the suffix is none of these.
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in _UNDATED:
        raise ValueError(f"a picture is written as {', '.join(_UNDATED)}, got {str(path)!r}")
    content = picture_bytes(picture, kind, caption=caption)
    write_atomically(Path(path), lambda file: file.write(content))


def picture_bytes(picture: Picture, kind: str, *, caption: str = "", dots: int = 300) -> bytes:
    """What `save_picture` writes; `dots` to an inch are of png."""
    import matplotlib as mpl

    _find_letters(picture, kind)
    described = {"pdf": "Subject"}.get(kind, "Description")
    told = _UNDATED[kind] | ({described: caption} if caption else {})
    file = io.BytesIO()
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # one for each letter of each text; ours is one line
        picture.savefig(file, format=kind, dpi=dots, metadata=told)
    return file.getvalue()


def _find_letters(picture: Picture, kind: str) -> None:
    """Give each text that needs it the installed fonts that have its letters; warn of letters that none has.

    The fonts stand in the order of their names, so that one machine makes the same picture each time. A viewer of svg
    has fonts of its own.
    """
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties, findfont, fontManager
    from matplotlib.text import Text

    first = mpl.rcParams["font.sans-serif"][:1]
    texts = [(text, set(text.get_text()) - {"\n"}) for text in picture.findobj(Text)]
    lacking = set().union(*(letters for _, letters in texts)) - _letters_of(findfont(FontProperties()))
    lacking = {letter for letter in lacking if not letter.isspace()}
    if not lacking:
        return
    chosen: list[str] = []
    left = set(lacking)
    for font in sorted(fontManager.ttflist, key=lambda font: (font.name, font.weight != 400, font.style, font.fname)):
        if left and font.name not in (*chosen, _LAST) and (found := left & _letters_of(font.fname)):
            chosen.append(font.name)
            left -= found
    for text, letters in texts:
        if letters & lacking:
            text.set_fontfamily([*first, *chosen])
    if left and kind != "svg":
        warnings.warn(
            f"no installed font has {' '.join(sorted(left))}: boxes stand for them in the picture", stacklevel=3
        )


@functools.cache
def _letters_of(path: str) -> frozenset[str]:
    """The letters that a font has; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


def inches(width: Width) -> float:
    """The width of a column, or of both."""
    if width not in get_args(Width):
        raise ValueError(f"width must be one of {get_args(Width)}, got {width!r}")
    return WIDTHS[width]


def empty_picture(width: float, height: float, *, arranged: bool = True) -> Picture:
    """A picture of so many inches; its axes are arranged so that nothing overlaps, or placed by hand."""
    from matplotlib.figure import Figure as MatplotlibFigure

    return MatplotlibFigure(figsize=(width, height), dpi=150, layout="constrained" if arranged else None)


def curve(ax: Axes, at: Array, value: Array, error: Array, style: Style, *, mark: bool, label: str = "") -> None:
    """A line of one checkpoint with a band of its error."""
    ax.fill_between(at, value - error, value + error, color=style.color, alpha=0.2, linewidth=0)
    marked: dict[str, Any] = {"marker": MARKS[style.symbol], "markersize": 2.5} if mark else {}
    look: dict[str, Any] = {"color": style.color, "linestyle": DASHES[style.dash], "linewidth": 1.2}
    ax.plot(at, value, label=label or named(style), **look, **marked)


def labelled(ax: Axes, x: str, y: str) -> None:
    """Titles of the axes, and a quiet grid."""
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(which="both", labelsize=7)
    ax.grid(color="#e3e5e8", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def epoch_axis(ax: Axes) -> None:
    """Ticks at whole epochs."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def log_axis(ax: Axes) -> None:
    """A log axis with round ticks."""
    ax.set_yscale("log")
    ticks = [10**tick for tick in log_ticks(*(math.log10(value) for value in ax.get_ylim()))]
    ax.set_yticks(ticks, tick_labels(ticks))
    ax.minorticks_off()


def legend(picture: Picture, ax: Axes, *, room: float | None = None) -> None:
    """The names of all that is in `ax`, above the axes, in as many columns as fit into `room` inches."""
    from matplotlib.legend import Legend

    handles, names = ax.get_legend_handles_labels()
    if not names:
        return
    across = room or picture.get_figwidth()
    most = int((across - 0.5) / LETTER)
    names = ["\n".join(textwrap.wrap(shortened(name, 3 * most), most)) for name in names]
    columns = max(1, int(across / (LETTER * max(len(line) for name in names for line in name.split("\n")) + 0.5)))
    look: dict[str, Any] = {"fontsize": 7, "frameon": False, "ncols": min(columns, len(names)), "columnspacing": 1.2}
    if room is None:
        lines = sum(1 + name.count("\n") for name in names) / columns
        picture.set_figheight(picture.get_figheight() + 0.15 * max(math.ceil(lines) - 1, 0))
        picture.legend(handles, names, loc="outside upper left", **look)
    else:
        ax.add_artist(Legend(ax, handles, names, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, **look))


def named(style: Style) -> str:
    """A name as matplotlib shows it: no mathematics, and not hidden for its underscore."""
    name = literal(style.name)
    return f" {name}" if name.startswith("_") else name


def literal(name: str) -> str:
    """A name without mathematics."""
    return name.replace("$", r"\$")
