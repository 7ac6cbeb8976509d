import math

import pytest

from landscape.formatting import percent, plus_minus, short, signed, told_apart


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "0"), (2.5, "2.50"), (20180.0, "20180"), (1.234e-5, "1.23e-5"), (math.nan, "nan"), (-math.inf, "-inf")],
)
def test_three_significant_digits_and_what_is_not_a_number_as_it_is(value, told):
    assert short(value) == told


def test_an_uncertainty_that_vanishes_in_the_shown_digits_is_bounded_never_zero():
    assert plus_minus(20.18, 1e-9) == "20.180 ± <0.001"
    assert plus_minus(1e-6, 1e-8) == "1.00e-06 ± 1.0e-08"
    assert plus_minus(1e300, 0.05) == "1.00e+300 ± 5.0e-02"


def test_a_change_always_has_its_sign():
    assert signed(0.1, 0.02) == "+0.100 ± 0.020"
    assert signed(-0.1, 0.02) == "−0.100 ± 0.020"


def test_a_fraction_without_an_error_has_none():
    assert percent(0.9, 0.015) == "90.0 ± 1.5 %"
    assert percent(0.9, math.nan) == "90.0 %"
    assert percent(math.nan, math.nan) == "—"


def test_names_are_told_apart_by_what_they_do_not_share():
    assert told_apart(["a, x", "a, y", "a, y"]) == {"a, x": "x", "a, y": "y"}
    assert told_apart(["a, x", "a, x"]) == {"a, x": "a, x"}
    assert told_apart(["a", "a, smallest"]) == {"a": "a", "a, smallest": "smallest"}
    assert told_apart([]) == {}
