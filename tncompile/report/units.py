"""Numbers as people read them: three digits that count, and a unit that fits."""

from __future__ import annotations

_DECIMAL = ("", "k", "M", "G", "T", "P")
_NEXT = 999.5  # what would round to four digits takes the next unit


def show_flops(number: int) -> str:
    """FLOPs with a decimal prefix.

    >>> show_flops(1_091_208_224), show_flops(999_999), show_flops(0)
    ('1.09 GFLOP', '1 MFLOP', '0 FLOP')
    """
    value, prefix = float(number), 0
    while value >= _NEXT and prefix < len(_DECIMAL) - 1:
        value /= 1000
        prefix += 1
    return f"{_digits(value)} {_DECIMAL[prefix]}FLOP"


def show_seconds(seconds: float) -> str:
    """Time in a unit that fits.

    >>> show_seconds(0.0243), show_seconds(3.4e-05), show_seconds(0.9999), show_seconds(75)
    ('24.3 ms', '34 µs', '1 s', '75 s')
    """
    value, unit = seconds * 1e6, "µs"
    for larger in ("ms", "s"):
        if value >= _NEXT:
            value, unit = value / 1000, larger
    return f"{_digits(value)} {unit}"


def show_size(number: int) -> str:
    """Bytes in a binary unit, three digits.

    >>> show_size(64), show_size(2**26), show_size(71_999_999)
    ('64 B', '64 MiB', '68.7 MiB')
    """
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value >= _NEXT:
            value, unit = value / 1024, larger
    return f"{_digits(value)} {unit}"


def show_factor(factor: float) -> str:
    """How many times.

    >>> show_factor(77672.2), show_factor(1.25), show_factor(42.04)
    ('77,672x', '1.25x', '42x')
    """
    return f"{_digits(factor)}x"


def show_ratio(dense_by_trained: float) -> str:
    """How much smaller a generator is than its weight, or plainly how much larger.

    >>> show_ratio(77672.2), show_ratio(0.25)
    ('77,672x smaller', '4x LARGER')
    """
    if dense_by_trained == 1:
        return "as large"
    if dense_by_trained < 1:
        return f"{show_factor(1 / dense_by_trained)} LARGER"
    return f"{show_factor(dense_by_trained)} smaller"


def show_share(share: float) -> str:
    """A part of a whole, small ones with a digit more.

    >>> show_share(0.25), show_share(0.0028), show_share(0.00001)
    ('25%', '0.3%', '<0.1%')
    """
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.1%}"


def against(seconds: float, other: float) -> str:
    """How much faster or slower than another time, and plainly so.

    >>> against(1.0, 40.0), against(2.0, 1.0), against(1.0, 1.004)
    ('40x faster', '2x SLOWER', 'as fast')
    """
    if seconds <= 0 or other <= 0:
        return "as fast" if seconds == other else "not comparable"
    if max(seconds, other) <= 1.01 * min(seconds, other):
        return "as fast"
    if seconds < other:
        return f"{show_factor(other / seconds)} faster"
    return f"{show_factor(seconds / other)} SLOWER"


def _digits(value: float) -> str:
    """Three digits that count, no exponent.

    >>> _digits(999.6), _digits(12.34), _digits(1.999), _digits(0.0712), _digits(12345.6)
    ('1,000', '12.3', '2', '0.071', '12,346')
    """
    if value >= 99.95:
        return f"{value:,.0f}"
    places = 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{places}f}".rstrip("0").rstrip(".")
