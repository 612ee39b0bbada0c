"""Resource quantities: ``100m`` CPU, ``1Gi`` of memory, exactly.

Source: Kubernetes ``apimachinery/pkg/api/resource/quantity.go``: a signed decimal with a binary (Ki..Ei) or
decimal (n, u, m, "", k..E) suffix, or a decimal exponent.
"""

import re
from decimal import Decimal
from fractions import Fraction

_FORM = re.compile(r"^([+-]?(?:\d+(?:\.\d*)?|\.\d+))([eE][+-]?\d+|[KMGTPE]i|[numkMGTPE]|)$")
_SCALE: dict[str, Fraction] = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    **{suffix: Fraction(1000**power) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Fraction(1024**power) for power, suffix in enumerate("KMGTPE", start=1)},
}


def parse_quantity(value: object) -> Fraction:
    """The exact amount that a quantity names. Raises ValueError on what is not a quantity."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"quantities must be strings or numbers, not {type(value).__name__}")
    text = str(value)
    match = _FORM.match(text)
    if match is None:
        raise ValueError(f"{text!r} does not match a quantity such as 100m, 1.5 or 2Gi")
    number, suffix = match.groups()
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        exponent = int(suffix[1:])
        if abs(exponent) > 30:
            raise ValueError(f"{text!r} is out of range")
        return Fraction(Decimal(number)) * Fraction(10) ** exponent
    return Fraction(Decimal(number)) * _SCALE[suffix]


def milli(value: object) -> int:
    """Thousandths, rounded up, as the scheduler counts CPU."""
    return _ceil(parse_quantity(value) * 1000)


def whole(value: object) -> int:
    """Units (bytes, pods), rounded up."""
    return _ceil(parse_quantity(value))


def _ceil(amount: Fraction) -> int:
    return -(-amount.numerator // amount.denominator)
