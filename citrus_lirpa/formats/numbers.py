"""Numbers as people write them."""

from __future__ import annotations

from ..errors import ConfigError


def parse_number(text: str | float) -> float:
    """Read a number or a fraction such as ``8/255``; raise ConfigError where it is neither."""
    try:
        numerator, slash, denominator = str(text).partition("/")
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"'{text}' is not a number; expected one like 0.1 or 8/255") from None
