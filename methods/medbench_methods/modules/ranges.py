"""Numbers of a config that can be computed with."""

import math
from typing import Any

from medbench.errors import UsageError


def expect(
    config: Any,
    *fields: str,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Refuse numbers outside of a range, and what is no number.

    Args:
        config: has the fields.
        fields: their names; None and switches are let through, where a field may be one. Of several numbers, each
            is looked at.
        least: the smallest value.
        above: every value is greater.
        most: the greatest value.
        below: every value is smaller.

    Raises:
        UsageError: it names the first field that is outside, its value and the range.
    """
    for field in fields:
        value = getattr(config, field)
        if value is None or isinstance(value, bool):
            continue
        each = value if isinstance(value, tuple) else (value,)
        # of which NaN is none
        if all(least <= v <= most and above < v < below and math.isfinite(v) for v in each):
            continue
        bounds = (("at least", least), ("above", above), ("at most", most), ("below", below))
        expected = " and ".join(f"{word} {bound:g}" for word, bound in bounds if math.isfinite(bound))
        raise UsageError(f"method.{field} is {value}; expected {expected or 'a number'}.")


def expect_terms(config: Any) -> None:
    """Of a config of losses: every `..._weight` 0 or more and one of them above 0, every temperature above 0.

    Raises:
        UsageError: it names the field, or all the weights.
    """
    names = list(config.__dataclass_fields__)
    weights = [name for name in names if name.endswith("_weight")]
    expect(config, *weights, least=0)
    if weights and not any(getattr(config, name) for name in weights):
        raise UsageError(
            f"{', '.join(f'method.{name}' for name in weights)} are all 0, which leaves nothing to learn; set one of"
            " them above 0."
        )
    expect(config, *(name for name in names if name.endswith("temperature")), above=0)


def check_decoder(config: Any) -> None:
    """Refuse a `decoder_width` that can not be cut into `decoder_heads`, and into sines and cosines of two axes.

    Raises:
        UsageError: it names both fields.
    """
    expect(config, "decoder_width", "decoder_heads", least=1)
    if config.decoder_width % config.decoder_heads or config.decoder_width % 4:
        raise UsageError(
            f"method.decoder_width is {config.decoder_width}; expected a multiple of 4 and of method.decoder_heads"
            f" ({config.decoder_heads})."
        )
