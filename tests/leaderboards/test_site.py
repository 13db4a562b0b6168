"""The site as text: links, ids, escaping, names of files, colours; and in a real browser where one is installed."""

import importlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from medbench.records import Record
from medbench_leaderboards import site as site_package
from medbench_leaderboards.board import Board
from medbench_leaderboards.plots import draw
from medbench_leaderboards.published import Verdict
from medbench_leaderboards.site import _ticks as code_of_ticks
from medbench_leaderboards.site import site
from medbench_leaderboards.site.curves import _ticks
from medbench_leaderboards.site.fields import fields, folded
from medbench_leaderboards.site.names import method_page, record_page, task_page
from medbench_leaderboards.site.pictures import LEGIBLE, pictures
from medbench_leaderboards.site.shown import first_upper, interval, p_value, signed

FOLDER = Path(site_package.__file__).parent
METHODS = ("place", "mgca", "gloria", "random")
TASKS = ("rsna_lp", "rsna_zs")
HOSTILE = (
    "<script>window.hit=1</script>",
    "../../x",
    '"onload="window.hit=1',
    "'><img src=x onerror=window.hit=1>",
    "\u202eevil\u2066{{ 7*7 }}{% raw %}",
    "nul\x00bel\x07\ud800",
    "a" * 1000,
    "]]><!--</title></style>&amp;",
    "..",
    "https://example.org/x.js",
)
VOID = {"meta", "link", "br", "img", "input", "col", "line", "circle", "polyline"}


@pytest.fixture(scope="session")
def maker() -> ModuleType:
    """benchmarks/site_speed.py, which makes boards of any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        return importlib.import_module("site_speed")


def verdict(board: Board, **fields: Any) -> Verdict:
    """A published number beside ours."""
    table = board.tables[-1]
    about: dict[str, Any] = {
        "row": table.rows[0].key,
        "column": table.columns[0].key,
        "table": table.name,
        "method": "PLACE",
        "paper": "PLACE (2025)",
        "arch": "ResNet-50",
        "task": "classification",
        "dataset": "RSNA",
        "protocol": "frozen encoder",
        "fraction": "1%",
        "metric": "AUROC",
        "published": "88.0",
        "source": "https://example.org/paper Table 1",
        "our_metric": "auroc",
        "ours": 88.5,
        "low": 86.0,
        "high": 90.0,
        "verdict": "reproduced",
        "why": "",
    }
    return Verdict(**(about | fields))


@pytest.fixture(scope="session")
def boards(maker: ModuleType, made_board: Board) -> dict[str, Board]:
    """Of installed tasks, made up, with hostile names and texts, and empty."""
    text = "".join(HOSTILE[:6]) + HOSTILE[7]
    return {
        "installed": made_board,
        "made up": maker.board(METHODS, TASKS, 2, ("phantom", "real")),
        "hostile": maker.board(HOSTILE, HOSTILE[:2], 1, ("phantom",), HOSTILE[:3], text),
        "empty": Board((), (), {}, {}),
    }


@pytest.fixture(scope="session")
def sites(boards: dict[str, Board]) -> dict[str, dict[str, bytes]]:
    rows = {name: [verdict(board)] if board.tables else [] for name, board in boards.items()}
    bad = boards["hostile"]
    text = HOSTILE[0] + HOSTILE[2] + HOSTILE[3]
    rows["hostile"] = [
        verdict(
            bad, method=text, paper=text, why=text, source=text, published="<1", verdict="not comparable"
        ),
        verdict(bad, row=None, column=None, table=None, ours=None, low=None, high=None, verdict="low"),
    ]
    return {name: site(board, rows[name]) for name, board in boards.items()}


class Page(HTMLParser):
    """Tags in order; every one that is opened must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID or tag in ("line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes {self.open}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, *names: str) -> list[str]:
        return [value for _, attrs in self.tags for name, value in attrs.items() if name in names]

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="session")
def parsed(sites: dict[str, dict[str, bytes]]) -> dict[str, dict[str, Page]]:
    return {
        kind: {path: Page(data.decode()) for path, data in files.items() if path.endswith(".html")}
        for kind, files in sites.items()
    }


KINDS = ("installed", "made up", "hostile", "empty")


@pytest.mark.parametrize("kind", KINDS)
def test_links_lead_somewhere_and_ids_are_unique(
    sites: dict[str, dict[str, bytes]], parsed: dict[str, dict[str, Page]], kind: str
) -> None:
    found = parsed[kind]
    ids = {path: page.attributes("id") for path, page in found.items()}
    for path, page in found.items():
        assert len(ids[path]) == len(set(ids[path])), path
        for label in page.attributes("aria-labelledby", "for"):
            assert label in ids[path], (path, label)
        for link in page.attributes("href", "src"):
            if link == "data:,":
                continue
            parts = urlsplit(link)
            assert not parts.scheme and not parts.netloc and not parts.path.startswith("/"), (path, link)
            there = [*PurePosixPath(path).parent.parts, *PurePosixPath(unquote(parts.path)).parts]
            target = str(PurePosixPath(*_walk(there))) if parts.path else path
            assert target in sites[kind], (path, link)
            if parts.fragment:
                assert parts.fragment in ids[target], (path, link)


def _walk(parts: list[str]) -> list[str]:
    walked: list[str] = []
    for part in parts:
        if part == "..":
            walked.pop()
        else:
            walked.append(part)
    return walked


def test_every_page_can_be_reached(
    sites: dict[str, dict[str, bytes]], parsed: dict[str, dict[str, Page]]
) -> None:
    files, found = sites["made up"], parsed["made up"]
    reached, todo = {"index.html"}, ["index.html"]
    while todo:
        path = todo.pop()
        for link in found[path].attributes("href"):
            name = urlsplit(link).path
            if name.endswith(".html"):
                target = str(
                    PurePosixPath(*_walk([*PurePosixPath(path).parent.parts, *PurePosixPath(name).parts]))
                )
                if target not in reached:
                    reached.add(target)
                    todo.append(target)
    left_out = {path for path in found if b"LEFT OUT" in files[path]}
    assert set(found) - reached == left_out and len(left_out) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_asks_for_anything_else(parsed: dict[str, dict[str, Page]], kind: str) -> None:
    for path, page in parsed[kind].items():
        [policy] = [meta["content"] for meta in page.named("meta") if "http-equiv" in meta]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        scripts = page.named("script")
        assert [PurePosixPath(script["src"]).name for script in scripts] == ["board.js"], path
        assert {tag for tag, _ in page.tags}.isdisjoint(
            {"style", "iframe", "object", "embed", "base", "form"}
        )
        assert not [
            name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"
        ]


def test_hostile_names_make_no_markup_and_leave_the_folder_nowhere(
    sites: dict[str, dict[str, bytes]], parsed: dict[str, dict[str, Page]], boards: dict[str, Board]
) -> None:
    files, board = sites["hostile"], boards["hostile"]
    for path in files:
        kinds = r"(?:(?:tasks|methods|records)/)?[a-z0-9-]+\.(?:html|css|js)|pictures/[a-z0-9-]+\.svg"
        assert re.fullmatch(kinds, path), path
        assert len(path) < 120
    methods = len(HOSTILE)
    columns = len(board.tables[0].columns)
    assert sum(path.startswith("methods/") for path in files) == methods
    assert sum(path.startswith("records/") for path in files) == methods * columns - 1 + 1
    shown = "".join(parsed["hostile"]["index.html"].text)
    for name in HOSTILE:
        assert name.replace("\ud800", "?").replace("\x00", "\ufffd") in shown.replace("\x00", "\ufffd"), name
    assert "{{ 7*7 }}" in shown
    for path, page in parsed["hostile"].items():
        assert all(tag.isalnum() for tag, _ in page.tags), path


def test_names_that_look_alike_have_files_of_their_own(record: Any) -> None:
    assert method_page("a/b") != method_page("a b") != method_page("A-b")
    assert task_page("t", "x y") != task_page("t x", "y")
    one, other = (record().model_copy(update={"cell_id": cell}) for cell in ("../../a", "../../b"))
    assert record_page(one) != record_page(other)
    assert ".." not in record_page(one)


def test_the_order_of_records_does_not_matter(
    boards: dict[str, Board], sites: dict[str, dict[str, bytes]]
) -> None:
    board = boards["installed"]
    turned = Board(board.tables, board.left_out, dict(reversed([*board.records.items()])), board.paths)
    assert site(turned, [verdict(board)]) == sites["installed"]


def test_phantoms_are_said_loudly(sites: dict[str, dict[str, bytes]], boards: dict[str, Board]) -> None:
    files = sites["made up"]
    records = {record_page(one): one for one in boards["made up"].records.values()}
    warning = "<strong>PHANTOM</strong> data: synthetic films. These numbers say nothing about patients."
    for path, data in files.items():
        phantom = "phantom-" in path or (path in records and records[path].identity.source == "phantom")
        if path.startswith(("tasks/", "records/")):
            assert (warning in data.decode()) == phantom, path
            assert ("<title>PHANTOM" in data.decode()) == phantom
        if path.startswith("methods/") or path == "index.html":
            assert data.decode().count(warning) == 1


def test_a_record_shows_everything_in_it(
    sites: dict[str, dict[str, bytes]], boards: dict[str, Board]
) -> None:
    for one in boards["installed"].records.values():
        page = Page(sites["installed"][record_page(one)].decode())
        text = "".join(page.text)
        for path, value in fields(
            json.loads(one.model_dump_json(exclude={"metrics", "subgroups", "reliability"}))
        ):
            name = path.split(".")[-1]
            assert value in text or name in ("schema_", "error"), path
        for metric in one.metrics:
            assert metric.name in text and metric.interval in text
            assert metric.value is None or f"{metric.value:.4f}" in text
        for group in (group for block in one.subgroups for group in block.groups):
            assert group.name in text
        bins = sum(len(block.counts) for block in one.reliability)
        assert text.count(" to 0.") + text.count(" to 1.") >= bins


def test_a_record_shows_the_command_that_makes_it_again(
    sites: dict[str, dict[str, bytes]], boards: dict[str, Board]
) -> None:
    commands = {
        (one.identity.method, one.identity.task, one.identity.seed): re.search(
            r"<pre tabindex=\"0\"><code>(.*?)</code>", sites["installed"][record_page(one)].decode()
        )
        for one in boards["installed"].records.values()
        if one.identity.source == "phantom" and one.identity.fraction == 1.0
    }
    found = commands["clip", "rsna_lp", 2]
    assert found and found[1].startswith(
        "medbench run --method clip --task rsna_lp --fraction 1 --seed 2 --recipe tiny"
    )
    found = commands["random", "rsna_knn", None]
    assert found and "--seed" not in found[1]


def test_a_failed_or_skipped_record_says_why(
    maker: ModuleType, boards: dict[str, Board], record: Any
) -> None:
    failed: Record = record(status="failed", error="<b>out of memory</b>")
    board = Board((), (), {failed.cell_id: failed}, {failed.cell_id: "x.json"})
    page = site(board, ())[record_page(failed)].decode()
    assert "RuntimeError</b>: &lt;b&gt;out of memory&lt;/b&gt;" in page
    assert "LEFT OUT" in page


def test_cells_show_value_interval_rank_and_marks(
    sites: dict[str, dict[str, bytes]], boards: dict[str, Board]
) -> None:
    table = boards["installed"].tables[0]
    lines = sites["installed"]["index.html"].decode().splitlines()
    shown = next(line for line in lines if line.startswith('<td class="number cell'))
    cells = [cell for (_, column), cell in table.cells.items() if column == table.columns[0].key]
    first = next(cell for cell in cells if cell.row == table.rows[0].key)
    assert first.mean is not None and f">{100 * first.mean:.1f}<" in shown
    assert interval(first.low, first.high) in shown
    text = sites["installed"]["index.html"].decode()
    for mark in {mark for cell in table.cells.values() for mark in cell.marks}:
        assert f">{mark}</span>" in text
    assert "n/m" in text and "Missing cells, and the commands that fill them" in text


def test_the_overview_shows_the_pictures_of_its_tables(
    sites: dict[str, dict[str, bytes]], parsed: dict[str, dict[str, Page]], boards: dict[str, Board]
) -> None:
    files, shown = sites["installed"], parsed["installed"]["index.html"].named("img")
    assert [one["alt"].partition(".")[0] for one in shown if one["src"].startswith("pictures/phantom")] == [
        "Every task, every method",
        "Mean ranks",
        "Rsna_lp, label efficiency",
    ]
    for one in shown:
        svg = files[one["src"]]
        assert svg.startswith(b"<?xml") and b"<script" not in svg and b'href="http' not in svg
        assert int(one["width"]) >= 880 and one["loading"] == "lazy"
    assert {path for path in files if path.endswith(".svg")} == {one["src"] for one in shown}
    drawn = draw(boards["installed"])
    assert files[shown[0]["src"]] == drawn["plots/phantom-tiny-full/heat-map.svg"]


def test_what_nobody_could_read_is_not_drawn(maker: ModuleType) -> None:
    board = maker.board([f"m{n}" for n in range(LEGIBLE + 1)], ["lp"], 1)
    assert pictures(board) == {"phantom-tiny-full": []}


def test_all_pairs_of_a_column_are_in_the_matrix(
    sites: dict[str, dict[str, bytes]], boards: dict[str, Board]
) -> None:
    table = boards["made up"].tables[0]
    text = sites["made up"][task_page(table.name, "rsna_lp")].decode()
    pairs = [
        c for c in table.comparisons if c.column in {k.key for k in table.columns if k.task == "rsna_lp"}
    ]
    assert text.count("<small>p = ") + text.count("<small>p &lt; ") == len(pairs) == 3 * 6
    one = pairs[0]
    assert (
        one.difference.value is not None
        and one.difference.low is not None
        and one.difference.high is not None
    )
    forth = (
        f"{signed(one.difference.value)}<small>[{signed(one.difference.low)}, {signed(one.difference.high)}]"
    )
    back = f"{signed(-one.difference.value)}<small>[{signed(-one.difference.high)}, {signed(-one.difference.low)}]"
    assert forth in text or back in text


def test_where_lower_is_better_the_smaller_value_wins(maker: ModuleType) -> None:
    from dataclasses import replace

    made = maker.board(METHODS, ("a", "b"), 1)
    [table] = made.tables
    columns = tuple(replace(column, higher_is_better=False) for column in table.columns)
    sure = tuple(replace(comparison, p_holm=0.001) for comparison in table.comparisons)
    files = site(
        Board((replace(table, columns=columns, comparisons=sure),), (), made.records, made.paths), ()
    )
    text = files[task_page(table.name, "a")].decode()
    assert 'data-first="ascending"' in text and "lower is better" in text
    assert 'class="number plus">−' in text and 'class="number minus">' not in text


def test_a_record_leads_to_its_file(boards: dict[str, Board]) -> None:
    from dataclasses import replace

    board = boards["installed"]
    files = site(replace(board, base="../results of mine"), ())
    for cell_id, path in board.paths.items():
        page = Page(files[record_page(board.records[cell_id])].decode())
        links = [unquote(link) for link in page.attributes("href")]
        assert links.count(f"../../results of mine/{path}") == 1


def test_numbers() -> None:
    assert first_upper("of MGCA") == "Of MGCA" and first_upper("") == ""
    assert (signed(0.0123), signed(-0.0123), signed(-0.0001)) == ("+1.2", "−1.2", "0.0")
    assert (p_value(0.0004), p_value(0.0321)) == ("p &lt; 0.001", "p = 0.032")
    assert interval(None, 0.5) == ""


@pytest.mark.parametrize(
    ("low", "high"), [(80.0, 95.3), (0.0, 0.0), (99.99, 100.0), (3.2, 3.4), (0.0, 100.0)]
)
def test_ticks_hold_the_values(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    assert len({round(b - a, 6) for a, b in pairwise(ticks)}) == 1


def test_fields_are_flat_and_escaped() -> None:
    value = {"a": {"b": [1, 2.5], "c": {}}, "d": [{"e": None}], "f": "<b>", "g": []}
    assert fields(value) == [("a.b", "[1, 2.5]"), ("a.c", "{}"), ("d.0.e", "null"), ("f", "<b>"), ("g", "[]")]
    assert "&lt;b&gt;" in folded("<i>", "x", value) and "<i>" not in folded("<i>", "x", value)
    assert folded("empty", "x", {}) == "" == folded("none", "x", None)


# Colours.


def palette() -> dict[str, tuple[str, str]]:
    text = (FOLDER / "style.css").read_text()
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", text)
    return {name: (light, dark) for name, light, dark in found}


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_it_should_be() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the known grey just below AA


TEXT = [
    *product(("text", "quiet", "link"), ("page", "raised")),
    *((f"{kind}-text", kind) for kind in ("best", "warn", "bad", "cool")),
]
GRAPHICS = [*product((*(f"s{k}" for k in range(8)), "edge", "focus"), ("page",)), ("focus", "raised")]


@pytest.mark.parametrize(
    ("front", "back", "least"), [(*pair, 4.5) for pair in TEXT] + [(*pair, 3.0) for pair in GRAPHICS]
)
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_for_wcag_aa(front: str, back: str, least: float, theme: int) -> None:
    colours = palette()
    assert contrast(colours[front][theme], colours[back][theme]) >= least


def test_no_colour_but_those_of_the_palette() -> None:
    text = (FOLDER / "style.css").read_text()
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert used <= set(palette())
    assert "#" not in re.sub(r"light-dark\([^)]*\)", "", text)
    assert "url(" not in text and "@import" not in text


# In a browser.


@pytest.fixture(scope="module")
def browser(maker: ModuleType) -> Iterator[Any]:
    chromium = maker.chromium()
    if chromium is None:
        pytest.skip(
            "no chromium, chromium-browser or google-chrome on the path; Debian's package chromium has one"
        )
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=list(maker.BROWSER_FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def folders(
    sites: dict[str, dict[str, bytes]], maker: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    made = {}
    for kind in ("made up", "hostile"):
        made[kind] = tmp_path_factory.mktemp("site")
        maker.write(sites[kind], made[kind])
    return made


@pytest.fixture
def visit(browser: Any, folders: dict[str, Path]) -> Iterator[Any]:
    """A function that opens a file of a site; at the end nothing was said on the console and nothing else asked for."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def go(kind: str, path: str, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on(
            "request",
            lambda request: asked.append(request.url),
        )
        tab.goto((folders[kind] / path).as_uri())
        return tab

    yield go
    for context in contexts:
        context.close()
    assert said == []
    assert asked or not contexts
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data"}


def first_table(tab: Any) -> Any:
    return tab.locator("table.rows").first


def order(tab: Any) -> list[str]:
    rows: list[str] = first_table(tab).locator("tbody tr:visible bdi").all_inner_texts()
    return rows


def test_columns_are_sorted_by_mouse_and_keyboard(visit: Any) -> None:
    tab = visit("made up", "index.html")
    heading = first_table(tab).locator("th[data-column='3']")  # behind the mean ranks
    button = heading.locator("button")
    value = "rows => rows.map(r => Number(r.cells[3].dataset.v))"
    rows = first_table(tab).locator("tbody tr")
    button.click()
    assert heading.get_attribute("aria-sort") == "descending"
    values = rows.evaluate_all(value)
    assert values == sorted(values, reverse=True) and len(values) == len(METHODS)
    button.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert rows.evaluate_all(value) == sorted(values)
    name = first_table(tab).locator("th[data-column='0'] button")
    name.focus()
    tab.keyboard.press("Space")
    assert order(tab) == sorted(METHODS)
    assert first_table(tab).locator("th[aria-sort]").count() == 1
    assert "sorted by method, ascending" in tab.locator("[role=status]").inner_text()


def test_what_has_no_value_is_sorted_last_both_ways(visit: Any) -> None:
    tab = visit("made up", "index.html")
    button = first_table(tab).locator("th[data-sort]").last.locator("button")
    for _ in range(2):
        button.click()
        assert order(tab)[-1] == METHODS[-1]


def test_rows_are_filtered_by_words_and_by_fidelity(visit: Any) -> None:
    tab = visit("made up", "index.html")
    box = tab.get_by_label("Filter methods")
    box.fill("GLO")
    assert order(tab) == ["gloria"]
    assert tab.locator("[role=status]").inner_text() == "2 of 8 rows"
    box.fill("nothing like it")
    assert order(tab) == []
    box.fill("")
    tab.get_by_label("Fidelity").select_option("paper")
    assert order(tab) == ["mgca"]


def test_published_rows_are_filtered_by_verdict(visit: Any) -> None:
    tab = visit("hostile", "published.html")
    tab.get_by_label("Verdict").select_option("low")
    assert order(tab) == ["PLACE"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_systems_until_it_is_switched_and_then_remembered(visit: Any, scheme: str) -> None:
    tab = visit("made up", "index.html", color_scheme=scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    expected = {name: palette()["page"][place] for place, name in enumerate(("light", "dark"))}

    def page_colour() -> str:
        parts = re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        return "#" + "".join(f"{int(part):02x}" for part in parts[:3])

    assert page_colour() == expected[scheme]
    tab.get_by_role("button", name=f"{other.capitalize()} theme").click()
    assert page_colour() == expected[other]
    assert tab.locator("button.theme").inner_text() == f"{scheme.capitalize()} theme"
    first_table(tab).locator("thead a").first.click()
    tab.wait_for_url("**/tasks/*")
    assert page_colour() == expected[other]


def test_without_storage_the_theme_still_switches(visit: Any) -> None:
    tab = visit("made up", "published.html")
    tab.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('refused'); }})"
    )
    tab.reload()
    tab.get_by_role("button", name="Dark theme").click()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_from_the_overview_to_a_record_and_back(visit: Any) -> None:
    tab = visit("made up", "index.html")
    first_table(tab).locator("tbody td a").first.click()
    tab.wait_for_url("**/methods/*")
    assert tab.locator("tr:target").count() == 1
    tab.locator("tr:target td.seeds a").first.click()
    tab.wait_for_url("**/records/*")
    assert tab.locator("h1").inner_text().startswith("place on rsna_lp")
    tab.get_by_role("navigation", name="Site").get_by_text("Overview").click()
    tab.wait_for_url("**/index.html")


def test_the_first_stop_of_the_keyboard_skips_to_the_content(visit: Any) -> None:
    tab = visit("made up", "index.html")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    outline = "getComputedStyle(document.querySelector('th button')).outlineStyle"
    tab.locator("th button").first.focus()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Shift+Tab")
    assert tab.evaluate(outline) == "solid"


@pytest.mark.parametrize("kind", ["made up", "hostile"])
def test_no_page_scrolls_sideways_on_a_phone(visit: Any, folders: dict[str, Path], kind: str) -> None:
    folder = folders[kind]
    shown = ["index.html", "published.html"]
    shown += [
        str(next((folder / name).iterdir()).relative_to(folder)) for name in ("tasks", "methods", "records")
    ]
    tab = visit(kind, "index.html", viewport={"width": 360, "height": 740})
    for path in reversed(shown):
        tab.goto((folder / path).as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, path
    box = tab.locator(".scroll").first
    box.evaluate("each => { each.scrollLeft = 200; }")
    left = box.evaluate("each => each.getBoundingClientRect().left")
    assert (
        abs(box.locator("tbody th").first.evaluate("each => each.getBoundingClientRect().left") - left) <= 1.5
    )


def test_hostile_names_run_nothing(visit: Any, folders: dict[str, Path]) -> None:
    tab = visit("hostile", "index.html")
    for folder in ("tasks", "methods", "records"):
        for path in sorted((folders["hostile"] / folder).iterdir())[:3]:
            tab.goto(path.as_uri())
            assert tab.evaluate("window.hit") is None
            assert tab.locator("h1").inner_text()


def test_everything_is_read_without_script(visit: Any) -> None:
    tab = visit("made up", "index.html", java_script_enabled=False)
    assert tab.locator("button.theme").is_hidden() and tab.locator(".tools").is_hidden()
    assert first_table(tab).locator("tbody tr").count() == len(METHODS)


def test_backticks_are_code_and_the_rest_is_text() -> None:
    assert code_of_ticks("run `a<b` on <i>") == "run <code>a&lt;b</code> on &lt;i&gt;"
