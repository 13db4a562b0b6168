import math
from dataclasses import dataclass

import pytest

from medbench.errors import UsageError
from medbench_methods.modules.ranges import expect, expect_terms


@dataclass
class Config:
    number: float | None = 1.0
    switch: bool = False
    one_weight: float = 1.0
    other_weight: float = 0.0
    temperature: float = 0.1
    learn_temperature: bool = True


@pytest.mark.parametrize("value", [0, 0.5, 1, None])
def test_numbers_inside_and_nothing_at_all_pass(value: float | None) -> None:
    config = Config(number=value)
    expect(config, "number", "switch", least=0, most=1)
    with pytest.raises(UsageError, match="one_weight is 2"):  # what comes behind them is still looked at
        expect(Config(number=value, one_weight=2), "number", "switch", "one_weight", least=0, most=1)


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (-0.1, {"least": 0}, "method.number is -0.1; expected at least 0."),
        (0, {"above": 0}, "method.number is 0; expected above 0."),
        (1, {"above": 0, "below": 1}, "method.number is 1; expected above 0 and below 1."),
        (2, {"least": 0, "most": 1}, "method.number is 2; expected at least 0 and at most 1."),
        (math.nan, {"least": 0}, "method.number is nan; expected at least 0."),
        (math.inf, {"least": 0}, "method.number is inf; expected at least 0."),
        (math.nan, {}, "method.number is nan; expected a number."),
    ],
)
def test_what_is_outside_is_refused(value: float, bounds: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        expect(Config(number=value), "number", **bounds)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(one_weight=-1), "method.one_weight is -1; expected at least 0"),
        (Config(one_weight=0), "method.one_weight, method.other_weight are all 0"),
        (Config(temperature=0), "method.temperature is 0; expected above 0"),
    ],
)
def test_weights_and_temperatures_are_checked_by_their_names(config: Config, message: str) -> None:
    expect_terms(Config())
    with pytest.raises(UsageError, match=message):
        expect_terms(config)
