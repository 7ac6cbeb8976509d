"""Numbers as a reader sees them, in the terminal and on the page: no digit that the uncertainty does not carry."""

import math
from collections.abc import Sequence


def plus_minus(value: float, error: float) -> str:
    """A value and its uncertainty, with equal decimals: two digits of the latter, five of the former at most.

    Example:
        >>> plus_minus(0.52412, 0.00042), plus_minus(20.18, 1.3), plus_minus(20.18, 1e-9)
        ('0.52412 ± 0.00042', '20.2 ± 1.3', '20.180 ± <0.001')
    """
    value, error = float(value), float(error)
    if not math.isfinite(value) or not math.isfinite(error) or error <= 0:
        return short(value) + (" ± 0" if error == 0 and math.isfinite(value) else "")
    size = math.floor(math.log10(max(abs(value), error)))
    if not -4 <= size < 6:
        return f"{value:.2e} ± {error:.1e}"
    decimals = min(max(1 - math.floor(math.log10(error)), 0), max(4 - size, 0))
    rounded = f"{error:.{decimals}f}"
    return f"{value:.{decimals}f} ± " + (rounded if float(rounded) else f"<{10.0**-decimals:.{decimals}f}")


def rounded(value: float, error: float) -> str:
    """A value in the digits that its uncertainty, which is shown elsewhere, leaves to it.

    Example:
        >>> rounded(-0.00105, 4.37), rounded(20.18, 0.031)
        ('0.0', '20.180')
    """
    text = plus_minus(value, error).partition(" ± ")[0]
    return text if float(text) else text.removeprefix("-")


def signed(value: float, error: float) -> str:
    """As `plus_minus`, always with a sign."""
    text = plus_minus(value, error)
    return text.replace("-", "−", 1) if value < 0 else f"+{text}"


def percent(value: float, error: float) -> str:
    """A fraction in percent with its uncertainty."""
    if not math.isfinite(value):
        return "—"
    if not math.isfinite(error):
        return f"{100 * value:.1f} %"
    return f"{100 * value:.1f} ± {100 * error:.1f} %"


def short(value: float) -> str:
    """Three significant digits."""
    value = value + 0.0  # no sign to a zero
    if not math.isfinite(value):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0) if value else 0}f}"


def counted(count: int, what: str) -> str:
    """A number of things."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def capital(text: str) -> str:
    """`text` as the start of a sentence; a symbol stays as it is."""
    return text if text.startswith("λ") else text[:1].upper() + text[1:]


def told_apart(names: Sequence[str]) -> dict[str, str]:
    """What is to be said of each name beside others: its parts, set off by commas, that not all of them have.

    Example:
        >>> told_apart(["hessian, train, 256 examples", "hessian, train, 1,078 examples"])
        {'hessian, train, 256 examples': '256 examples', 'hessian, train, 1,078 examples': '1,078 examples'}
    """
    parts = [name.split(", ") for name in names]
    told = [", ".join(part for part in mine if not all(part in other for other in parts)) for mine in parts]
    return {name: short if len(set(names)) > 1 and short else name for name, short in zip(names, told, strict=True)}


def shortened(text: str, most: int) -> str:
    """`text` with its middle left out where it is longer than `most` letters.

    Example:
        >>> shortened("runs/sgd/epoch-0010.pt", 12), shortened("sgd", 12)
        ('runs/…010.pt', 'sgd')
    """
    if len(text) <= most:
        return text
    ahead = max(most - 1, 2) // 2
    return f"{text[:ahead]}…{text[len(text) - (max(most - 1, 2) - ahead) :]}"
