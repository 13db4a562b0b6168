from itertools import pairwise

import pytest

from medbench_methods.modules.length_groups import PASS_TOKENS, length_groups

LENGTHS = (112, 20, 85, 61, 64, 70, 25, 69, 53, 112, 81, 66, 68, 58, 49, 65)


def cost(groups: list[tuple[list[int], int]]) -> int:
    return sum(PASS_TOKENS + len(rows) * longest for rows, longest in groups)


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[:8], (7,), (3, 3, 3), (2, 90), (5, 5, 200, 5)])
def test_every_report_is_in_one_group_that_is_long_enough_for_it(lengths: tuple[int, ...]) -> None:
    groups = length_groups(lengths)
    assert sorted(row for rows, _ in groups for row in rows) == list(range(len(lengths)))
    assert all(max(lengths[row] for row in rows) == longest for rows, longest in groups)


@pytest.mark.parametrize("lengths", [LENGTHS[:8], (5, 5, 200, 5), (2, 90), (40, 41, 42, 43, 44)])
def test_no_other_cut_costs_less(lengths: tuple[int, ...]) -> None:
    ordered = sorted(lengths)
    costs = []
    for choice in range(2 ** (len(ordered) - 1)):
        cuts = [0, *(i + 1 for i in range(len(ordered) - 1) if choice >> i & 1), len(ordered)]
        costs.append(sum(PASS_TOKENS + (b - a) * ordered[b - 1] for a, b in pairwise(cuts)))
    assert cost(length_groups(lengths)) == min(costs)


def test_equal_lengths_are_one_pass() -> None:
    assert len(length_groups([50] * 40)) == 1


def test_a_third_of_the_padded_tokens_is_saved() -> None:
    groups = length_groups(LENGTHS)
    assert len(groups) > 2
    tokens = sum(len(rows) * longest for rows, longest in groups)
    assert tokens < 2 / 3 * len(LENGTHS) * max(LENGTHS)
