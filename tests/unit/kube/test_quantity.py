"""Quantities are exact."""

from fractions import Fraction

import pytest

from netplane.kube.quantity import milli, parse_quantity, whole


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("100m", Fraction(1, 10)),
        ("1.5", Fraction(3, 2)),
        (2, Fraction(2)),
        ("1Gi", Fraction(2**30)),
        ("1E", Fraction(10**18)),
        ("1Ei", Fraction(2**60)),
        ("1e3", Fraction(1000)),
        ("-5k", Fraction(-5000)),
    ],
)
def test_amounts(text: object, amount: Fraction) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", "1Q", "Gi", "1.2.3", True, None, "1e99"])
def test_nonsense_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"quantit|range"):
        parse_quantity(text)


def test_rounding_is_up() -> None:
    assert milli("1u") == 1
    assert whole("1500m") == 2
