"""Numbers that statistics give, as files hold them.

What a record says is written as it says it. What is computed from draws differs between machines in its last digits
(sums run in another order), and files that follow from the same records must not; so it is rounded.
"""

import math
from typing import Any

DIGITS = 6
"""Significant digits of a computed statistic."""


def rounded(value: float | None) -> float | None:
    """To `DIGITS`; None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def fields(value: Any, *names: str) -> dict[str, Any]:
    """Attributes by name, floats rounded."""
    found = {name: getattr(value, name) for name in names}
    return {name: rounded(own) if isinstance(own, float) else own for name, own in found.items()}
