"""Holm's adjustment against the definition, one comparison after another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.statistics.holm import holm


def by_definition(p: list[float], level: float) -> list[bool]:
    """Which are rejected at a level: from the smallest on, as long as p <= level / (number of those left)."""
    rejected = [False] * len(p)
    left = list(range(len(p)))
    while left:
        smallest = min(left, key=lambda k: p[k])
        if p[smallest] > level / len(left):
            break
        rejected[smallest] = True
        left.remove(smallest)
    return rejected


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.999))
def test_it_rejects_what_the_procedure_rejects(p: list[float], level: float) -> None:
    adjusted = [value for value in holm(p) if value is not None]
    near = any(abs(value - level) < 1e-9 for value in adjusted)  # rounding decides
    assert near or [value <= level for value in adjusted] == by_definition(p, level)
    assert all(one >= other for one, other in zip(adjusted, p, strict=True))
    assert all(value <= 1 for value in adjusted)


def test_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_comparisons_that_were_not_made_count_for_nothing() -> None:
    assert holm([None, 0.01, None, 0.04]) == [None, 0.02, None, 0.04]
    assert holm([]) == []
    assert holm([None]) == [None]
