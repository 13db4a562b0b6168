"""Reports of about one length are run together, so that little time goes into padding."""

from collections.abc import Sequence

PASS_TOKENS = 32
"""What one more pass through the transformer costs beside its tokens, in tokens: between 4 (width 768) and 80 (width
128), from the number of its kernels and their start."""


def length_groups(lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """Cut reports, sorted by length, where passes and padded tokens together cost least.

    Args:
        lengths: tokens of each report, at least 1 each.

    Returns:
        (rows, longest) of each group; every row is in one of them.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    # best[n]: cost of the shortest n reports, and where their last group starts
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(
            min((best[start][0] + PASS_TOKENS + (end - start) * longest, start) for start in range(end))
        )
    groups = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.append((order[start:end], lengths[order[end - 1]]))
        end = start
    return groups
