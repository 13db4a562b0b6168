import math

import torch

from medbench_methods.modules.positions import grid_positions


def test_positions_are_unique_and_those_of_the_equation() -> None:
    table = grid_positions(9, 8, torch.device("cpu"))
    assert table.shape == (9, 8)
    assert len({tuple(row) for row in table.tolist()}) == 9
    rates = [1.0, 10_000**-0.5]
    row, column = 2, 1
    wanted = [f(p * r) for p in (row, column) for f in (math.sin, math.cos) for r in rates]
    torch.testing.assert_close(table[3 * row + column], torch.tensor(wanted), rtol=1e-5, atol=1e-6)
