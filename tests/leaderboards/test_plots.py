"""Pictures: what they show, that everything stays inside them, and that equal boards give equal bytes."""

import hashlib
import os
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from medbench.records import MetricValue, Record
from medbench_leaderboards.board import Board, Cell, Column, MeanRank, Ranking, Row, Seed, Table
from medbench_leaderboards.plots import draw
from medbench_leaderboards.plots import figures as all_figures
from medbench_leaderboards.plots.critical_difference import critical_difference, groups
from medbench_leaderboards.plots.heat_map import heat_map
from medbench_leaderboards.plots.label_efficiency import label_efficiency
from medbench_leaderboards.plots.mean_ranks import mean_ranks
from medbench_leaderboards.plots.per_class import class_means, per_class
from medbench_leaderboards.plots.series import series, slug
from medbench_leaderboards.plots.style import MUTED, figure, house_style, looks, svg, text_width

MakeRecord = Callable[..., Record]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with house_style():
        yield


@pytest.fixture
def table(record: MakeRecord) -> Callable[..., Table]:
    """A function that makes a table: so many methods, two tasks at three fractions and one that does not train."""

    def make(methods: int = 5, source: str = "phantom", name: str = "m{}", task: str = "rsna_lp") -> Table:
        identity = record().identity
        rows = tuple(
            Row(
                f"r{n}",
                name.format(n),
                name.format(n),
                "baseline" if n == 0 else "paper",
                "medbench",
                "",
                identity,
            )
            for n in range(methods)
        )
        columns = tuple(
            Column(
                f"{t} {f}",
                f"{t} {f}",
                t,
                1,
                f,
                t != "zs",
                "rsna",
                None,
                "mgca",
                400,
                "auroc",
                1,
                t != "lower",
                "",
            )
            for t in (task, "lower", "zs")
            for f in ((0.01, 0.1, 1.0) if t != "zs" else (1.0,))
        )
        cells = {}
        for n, row in enumerate(rows):
            for c, column in enumerate(columns):
                mean = 0.5 + 0.4 * (n + 1) / (methods + 1) + c / 100
                cells[row.key, column.key] = Cell(
                    row.key, column.key, "ok", (), mean, None, mean - 0.03, mean + 0.04
                )
        cells[rows[-1].key, columns[0].key] = Cell(rows[-1].key, columns[0].key, "n/a")
        cells[rows[-1].key, columns[1].key] = Cell(rows[-1].key, columns[1].key, "missing")
        ranks = tuple(MeanRank(row.key, 1.0 + n, max(1, 0.5 + n), 1.5 + n) for n, row in enumerate(rows[:-1]))
        return Table(
            source,
            "tiny",
            "full sets",
            f"{source}-tiny-full",
            rows,
            columns,
            cells,
            (),
            Ranking(tuple(column.key for column in columns), ranks, 1.5, 3),
            Ranking(tuple(column.key for column in columns[:-1]), ranks[1:], 2.5, 2),
            (),
            (),
        )

    return make


def texts(made: Figure) -> dict[str, Any]:
    """What is written in a picture, and where: boxes in pixels."""
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    renderer = canvas.get_renderer()
    shown = [text for text in made.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return {
        f"{n}:{text.get_text()}": text.get_window_extent(renderer)
        for n, text in enumerate(shown)
        if isinstance(text, Text)
    }


def words(made: Figure) -> set[str]:
    return {key.partition(":")[2] for key in texts(made)}


def inside(made: Figure) -> None:
    """All that is written lies in the picture."""
    width, height = made.get_size_inches() * made.dpi
    for text, box in texts(made).items():
        assert box.x0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y0 >= -1, text
        assert box.y1 <= height + 1, text


@pytest.mark.parametrize(
    ("methods", "name"),
    [(2, "$x{} ^ \\frac$ <b>&amp;"), (8, "a_method_with_a_long_name_{} #abc123")],
)
def test_all_that_is_written_is_inside_the_picture(
    table: Callable[..., Table], methods: int, name: str
) -> None:
    made = table(methods, name=name, task="rsna_lp@mgca")
    board = Board((made,), (), {}, {})
    drawn = list(all_figures(board))
    assert len(drawn) >= (4 if methods > 3 else 3)
    for path, _, one in drawn:
        inside(one)
        assert any("PHANTOM" in text for text in words(one)), path


def test_names_beside_the_lines_do_not_cover_one_another(table: Callable[..., Table]) -> None:
    made = table(14)
    same = {place: replace(cell, mean=0.8) for place, cell in made.cells.items() if cell.mean is not None}
    picture = label_efficiency(replace(made, cells={**made.cells, **same}), series(made)[0])
    assert picture is not None
    boxes = [box for text, box in texts(picture).items() if text.endswith(("(paper)", "(baseline)"))]
    assert len(boxes) == 14
    boxes.sort(key=lambda box: box.y0)
    assert all(upper.y0 >= lower.y1 - 1.5 for lower, upper in pairwise(boxes))  # a descender


def test_curves_have_a_line_a_method_and_its_points(table: Callable[..., Table]) -> None:
    made = table(3)
    picture = label_efficiency(made, series(made)[0])
    assert picture is not None
    [axes] = picture.axes
    curves = [
        line for line in axes.lines if line.get_linestyle() in ("-", "--") and line.get_marker() in "o^sDv<>"
    ]
    lengths = sorted(len(np.atleast_1d(line.get_xdata())) for line in curves if line.get_linewidth() == 1.4)
    assert lengths == [1, 3, 3]  # the last method has one value
    assert axes.get_xscale() == "log"
    assert {"1 %", "10 %", "100 %"} <= words(picture)
    top = max(curves, key=lambda line: len(np.atleast_1d(line.get_xdata())))
    first = made.cells["r0", made.columns[0].key].mean
    assert first is not None
    assert np.atleast_1d(top.get_ydata())[0] == pytest.approx(100 * first)


def test_a_task_that_does_not_train_has_no_curve(table: Callable[..., Table]) -> None:
    made = table()
    assert label_efficiency(made, series(made)[-1]) is None


def test_the_heat_map_shows_every_cell_and_says_what_is_missing(table: Callable[..., Table]) -> None:
    made = table(3)
    marked = replace(made.cells["r0", made.columns[0].key], marks=("contaminated",))
    made = replace(made, cells={**made.cells, ("r0", made.columns[0].key): marked})
    picture = heat_map(made)
    assert picture is not None
    shown = words(picture)
    for cell in made.cells.values():
        assert cell.mean is None or any(text.startswith(f"{100 * cell.mean:.1f}") for text in shown)
    assert {"n/a", "–", f"{100 * (marked.mean or 0):.1f}†"} <= shown
    assert any("†: contaminated" in text for text in shown)
    hatched = [patch for patch in picture.axes[0].patches if patch.get_hatch()]
    assert len(hatched) == 2


def test_the_better_is_the_darker_in_either_direction(table: Callable[..., Table]) -> None:
    from medbench_leaderboards.plots.heat_map import _shades

    made = table(5)
    higher, lower = made.columns[2], made.columns[5]
    assert higher.higher_is_better
    assert not lower.higher_is_better
    shades = [_shades(made, column) for column in (higher, lower)]
    assert [shades[0][row.key] for row in made.rows] == sorted(shades[0].values())
    assert [shades[1][row.key] for row in made.rows] == sorted(shades[1].values(), reverse=True)
    assert (min(shades[0].values()), max(shades[0].values())) == pytest.approx((0, 1))


def test_differences_inside_the_intervals_look_alike(table: Callable[..., Table]) -> None:
    from medbench_leaderboards.plots.heat_map import _shades

    made = table(2)
    column = made.columns[2]
    near = {
        ("r0", column.key): Cell("r0", column.key, "ok", (), 0.80, None, 0.75, 0.85),
        ("r1", column.key): Cell("r1", column.key, "ok", (), 0.81, None, 0.76, 0.86),
    }
    assert _shades(replace(made, cells={**made.cells, **near}), column) == pytest.approx(
        {"r0": 0.45, "r1": 0.55}
    )
    equal = {place: replace(cell, mean=0.8, low=None, high=None) for place, cell in near.items()}
    assert _shades(replace(made, cells={**made.cells, **equal}), column) == {"r0": 0.5, "r1": 0.5}


def test_mean_ranks_name_those_that_have_none(table: Callable[..., Table]) -> None:
    made = table(4)
    picture = mean_ranks(made, made.ranking)
    assert picture is not None
    shown = words(picture)
    assert {"1.00 [1.00, 1.50]", "3.00 [2.50, 3.50]", "Not ranked, as cells lack: m3."} <= shown
    assert mean_ranks(made, replace(made.ranking, ranks=())) is None


def test_ranks_over_image_tasks_have_pictures_of_their_own(table: Callable[..., Table]) -> None:
    made = table(6)
    drawn = {path.partition("/")[2]: picture for path, _, picture in all_figures(Board((made,), (), {}, {}))}
    assert "Mean rank over 3 tasks" in words(drawn["mean-ranks"])
    assert {"Mean rank over 2 image tasks", "Not ranked, as cells lack: m0, m5."} <= words(
        drawn["mean-ranks-image-tasks"]
    )
    assert "critical difference 2.50" in words(drawn["critical-difference-image-tasks"])
    alone = Board((replace(made, image_ranking=None),), (), {}, {})
    assert not [path for path, _, _ in all_figures(alone) if "image-tasks" in path]


def test_the_critical_difference_has_its_conditions(table: Callable[..., Table]) -> None:
    made = table(6)
    picture = critical_difference(made, made.ranking)
    assert picture is not None
    assert "critical difference 1.50" in words(picture)
    assert critical_difference(made, replace(made.ranking, critical_difference=None)) is None
    assert critical_difference(made, replace(made.ranking, ranks=made.ranking.ranks[:2])) is None
    wide = critical_difference(made, replace(made.ranking, critical_difference=60.0))
    assert wide is not None
    inside(wide)


@given(st.lists(st.floats(1, 9), min_size=1, max_size=9), st.floats(0, 9))
def test_groups_are_the_longest_runs(values: list[float], distance: float) -> None:
    """Against a slow search over all runs."""
    values = sorted(values)
    runs = {
        (a, b)
        for a in range(len(values))
        for b in range(a + 1, len(values))
        if values[b] - values[a] <= distance
    }
    longest = {(a, b) for a, b in runs if not any(c <= a and b <= d and (c, d) != (a, b) for c, d in runs)}
    assert set(groups(values, distance)) == longest


def test_classes_are_means_over_the_seeds_that_count(record: MakeRecord, table: Callable[..., Table]) -> None:
    made = table(3)
    column = made.columns[2]
    records: dict[str, Record] = {}
    cells = dict(made.cells)
    for row in made.rows[:2]:
        seeds = []
        for seed, repeats in ((0, None), (1, None), (2, 1)):
            one = record(row.name, seed=seed)
            classes = {"pleural_effusion": 0.6 + seed / 10, "edema": 0.9, "only_once": 0.5 if seed else None}
            metric = MetricValue(name="auroc", value=0.8, interval="none", n=9, per_class=classes)
            records[one.cell_id] = one.model_copy(update={"metrics": [metric]})
            seeds.append(Seed(seed, 0.8, 0.7, 0.9, one.cell_id, "", repeats))
        cells[row.key, column.key] = replace(cells[row.key, column.key], seeds=tuple(seeds))
    made = replace(made, cells=cells)
    assert class_means(cells["r0", column.key], records, "auroc") == pytest.approx(
        {"edema": 0.9, "pleural_effusion": 0.65}
    )
    picture = per_class(made, series(made)[0], records)
    assert picture is not None
    shown = words(picture)
    assert {"pleural effusion", "edema", "m0 (baseline)", "m1 (paper)"} <= shown
    assert not any(text.startswith("m2") for text in shown)  # it has no classes
    inside(picture)
    assert per_class(made, series(made)[0], {}) is None


def test_columns_that_differ_in_their_data_are_series_of_their_own(table: Callable[..., Table]) -> None:
    made = table()
    other = tuple(replace(column, key=f"other {column.key}") for column in made.columns[:3])
    split = tuple(replace(column, key=f"split {column.key}", split="clean") for column in made.columns[:3])
    found = series(replace(made, columns=(*made.columns, *other, *split)))
    assert [len(one.columns) for one in found] == [3, 3, 1, 3, 3]
    assert len({one.file for one in found}) == len({one.name for one in found}) == 5
    assert found[-1].name == "rsna_lp (clean; 3 of 3)"


def test_file_names_are_plain() -> None:
    assert slug("rsna_lp@mgca") == "rsna_lp-at-mgca"
    assert slug("lp:table:../my films.csv") == "lp-table-..-my-films.csv"
    assert slug("..") == "task"


def test_looks_are_one_for_a_method_and_differ(table: Callable[..., Table]) -> None:
    made = table(20)
    found = looks(made)
    assert len(set(found.values())) == 20
    assert looks(replace(made, rows=made.rows[::-1])) == found


@pytest.mark.parametrize(
    "seen",
    [
        np.eye(3),
        # G. Machado et al., IEEE TVCG 15(6), 2009, table of severity 1: protanopia, deuteranopia, tritanopia
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
)
def test_colour_blind_readers_can_tell_the_colours_apart(seen: Any) -> None:
    """A difference of 2 in CIELAB is just seen; markers say the same once more."""
    rgb = np.array([to_rgb(colour) for colour in MUTED])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(seen).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(np.maximum(linear @ to_xyz.T / [0.9505, 1.0, 1.089], 0.008856))
    lab = np.stack([116 * f[:, 1], 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    assert apart[np.triu_indices(len(MUTED), 1)].min() > 12


def test_text_in_svg_is_text_and_widths_are_those_of_its_font(table: Callable[..., Table]) -> None:
    made = table(name="<m{}> & 'co'")
    picture = mean_ranks(made, made.ranking)
    assert picture is not None
    tree = ElementTree.fromstring(svg(picture, "a title"))
    written = list(tree.iter(f"{SVG}text"))
    assert any(element.text == "<m1> & 'co' (paper)" for element in written)
    assert all(
        element.text == " ".join((element.text or "").split()) for element in written
    )  # SVG joins spaces
    assert all("'DejaVu Sans', 'Verdana', sans-serif" in element.get("style", "") for element in written)
    title = tree.find(f"{SVG}title")
    assert title is not None
    assert title.text == "a title"
    box = next(box for text, box in texts(picture).items() if text.endswith("Mean rank over 3 tasks"))
    width = text_width("Mean rank over 3 tasks", 12, bold=True)
    assert box.width / picture.dpi == pytest.approx(width, rel=0.03)


HASH = """
import hashlib, pickle, sys
from medbench_leaderboards.plots import draw
board = pickle.load(open(sys.argv[1], "rb"))
for path, data in sorted(draw(board).items()):
    print(path, hashlib.sha256(data).hexdigest())
"""


def test_two_processes_draw_the_same_bytes(made_board: Board, tmp_path: Path) -> None:
    """Also with another hash seed, and with a matplotlibrc of the user's own."""
    file = tmp_path / "board"
    board = replace(made_board, tables=made_board.tables[:1], records=dict(made_board.records))
    file.write_bytes(pickle.dumps(board))
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", HASH, str(file)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    drawn = draw(board)
    here = {path: hashlib.sha256(data).hexdigest() for path, data in drawn.items()}
    assert dict(line.rsplit(" ", 1) for line in done.stdout.splitlines()) == here

    # What is in them: of phantoms, 880 px wide and twice that, and nothing of the day or the program.
    assert "plots/phantom-tiny-full/heat-map.svg" in drawn
    assert "plots/phantom-tiny-full/label-efficiency-rsna_lp.png" in drawn
    for path, data in drawn.items():
        if path.endswith(".png"):
            (tmp_path / "one.png").write_bytes(data)
            with Image.open(tmp_path / "one.png") as image:
                assert image.width == 1760
                assert image.info.keys() <= {"dpi"}
        else:
            assert b"PHANTOM" in data
            assert b"<dc:date>" not in data
            assert b"Matplotlib" not in data
            assert b'width="660pt"' in data


def test_pictures_of_real_films_do_not_speak_of_phantoms(table: Callable[..., Table]) -> None:
    shown = words(figure(table(source="real"), 2.0, "a title"))
    assert shown == {"a title", "Real films. Recipe tiny, full sets."}


def test_an_empty_board_draws_nothing() -> None:
    assert draw(Board((), (), {}, {})) == {}
