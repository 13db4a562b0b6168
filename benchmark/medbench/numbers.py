"""Numbers as people read them."""


def fraction_name(fraction: float) -> str:
    """0.01 -> "1%"."""
    return f"{fraction * 100:g}%"


def percent(value: float | None, low: float | None, high: float | None) -> str:
    """A metric of the range 0 to 1 in percent, with its interval: "61.3 [58.0, 64.4]"."""
    if value is None:
        return "not defined"
    text = f"{100 * value:.1f}"
    if low is not None and high is not None:
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return text
