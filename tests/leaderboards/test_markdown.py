"""The Markdown page: what it says for sure, and what it never does."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from medbench.records import Record
from medbench.results import Results
from medbench_leaderboards.board import build
from medbench_leaderboards.markdown import page

MakeRecord = Callable[..., Record]
Page = Callable[[list[Record]], str]
GOLDEN = Path(__file__).with_name("golden.md")


@pytest.fixture
def markdown(given: Callable[..., Results]) -> Page:
    """The page of some records."""
    return lambda records: page(build(given(records)))


def rows(page: str) -> dict[str, list[str]]:
    """Cells of the page's tables by their first one."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {line[0]: line[1:] for line in cells}


def test_golden(board: list[Record], markdown: Page) -> None:
    assert markdown(board) == GOLDEN.read_text(encoding="utf-8")


def test_the_order_of_records_and_when_they_were_made_do_not_matter(
    board: list[Record], markdown: Page
) -> None:
    page = markdown(board)
    for seed in range(5):
        shuffled = board + board[:3]  # a record given twice is one record
        random.Random(seed).shuffle(shuffled)
        later = [
            r.model_copy(update={"times": r.times.model_copy(update={"created": "2030"})}) for r in shuffled
        ]
        assert markdown(later) == page


def test_no_records(record: MakeRecord, markdown: Page) -> None:
    assert "No records to show" in markdown([])
    page = markdown([record(source="mixed")])
    assert "No records to show" in page
    assert "1 record mixing phantom and real data (clip)" in page


@pytest.mark.parametrize(
    "other",
    [
        {"source": "real"},
        {"recipe": "paper"},
        {"source": "real", "subset": "202 of 26,684"},
        {"corpus_subset": "10 of 20"},
    ],
)
def test_what_differs_in_kind_never_shares_a_table(
    record: MakeRecord, other: dict[str, str], markdown: Page
) -> None:
    page = markdown([record("clip", value=0.61), record("place", value=0.62, **other)])
    tables = [part for part in page.split("\n## ")[1:] if "| method" in part]
    assert len(tables) == 2
    for table in tables:
        assert ("61.0" in table) != ("62.0" in table)


@pytest.mark.parametrize(
    "other",
    [
        {"data_fingerprint": "x" * 64},
        {"split_sha256": "x" * 64},
        {"task_config": {"penalties": [1]}},
        {"task_owner": "somebody 1.0"},
    ],
)
def test_what_differs_in_the_task_never_shares_a_column(
    record: MakeRecord, other: dict[str, object], markdown: Page
) -> None:
    page = markdown([record("clip", value=0.61), record("place", value=0.62, **other)])
    cells = rows(page)
    assert len([name for name in cells["method"] if name.startswith("rsna_lp 1% #")]) == 2
    assert sorted(cells["clip (paper)"][:2]) == sorted(["–", "61.0 [58.5, 64.0] §"])
    assert sorted(cells["place (reconstruction)"][:2]) == sorted(["–", "62.0 [59.5, 65.0] §"])


@pytest.mark.parametrize(
    "other",
    [
        {"method_config": {"temperature": 1}},
        {"pretrain_config": {"lr": 1.0}},
        {"precision": "bf16"},
        {"method_owner": "medbench 0.2.0"},
        {"kind": "checkpoint", "key": "a" * 64},
        {"fidelity": "official-code"},
    ],
)
def test_what_differs_in_the_encoder_never_shares_a_row(
    record: MakeRecord, other: dict[str, object], markdown: Page
) -> None:
    page = markdown([record("clip", seed=0, value=0.61), record("clip", seed=1, value=0.63, **other)])
    assert " ± " not in "".join(line for line in page.splitlines() if line.startswith("|"))
    names = [name for name in rows(page) if name.startswith("clip")]
    assert len(names) == 2
    assert "61.0" in page
    assert "63.0" in page


def test_two_checkpoints_are_two_rows(record: MakeRecord, markdown: Page) -> None:
    keys = enumerate("ab")
    page = markdown(
        [record("clip", seed=s, value=0.6 + s / 10, kind="checkpoint", key=k * 64) for s, k in keys]
    )
    assert len([name for name in rows(page) if name.startswith("clip #")]) == 2
    assert "checkpoint aaaaaaaaaaaa" in page


def test_a_release_of_the_plugin_does_not_split_a_column(record: MakeRecord, markdown: Page) -> None:
    page = markdown([record("clip"), record("place", task_owner="medbench 0.2.0")])
    assert rows(page)["method"] == ["rsna_lp 1%", "mean rank"]


def test_seeds_are_averaged_with_the_sample_deviation(record: MakeRecord, markdown: Page) -> None:
    page = markdown([record(seed=s, value=v) for s, v in enumerate([0.6, 0.7, 0.8])])
    assert rows(page)["clip (paper)"][0] == "70.0 ± 10.0, 3 seeds"
    page = markdown([record(seed=0, value=0.6), record(seed=1, value=0.7)])
    assert rows(page)["clip (paper)"][0] == "65.0 ± 7.1, 2 seeds"


def test_a_seed_with_the_same_predictions_is_not_counted_twice(record: MakeRecord, markdown: Page) -> None:
    page = markdown([record(seed=s, value=0.6, predictions="same") for s in (2, 0, 1)])
    assert rows(page)["clip (paper)"][0] == "60.0 [57.5, 63.0] §‡"
    assert "seed 1 has the very predictions of seed 0: a repeat, not counted" in page
    assert "seed 2 has the very predictions of seed 0: a repeat, not counted" in page


def test_a_result_without_a_seed_stands_alone_and_lacks_none(record: MakeRecord, markdown: Page) -> None:
    checkpoint = {"kind": "checkpoint", "key": "a" * 64}
    page = markdown(
        [record(seed=s, value=0.6 + s / 10, **checkpoint) for s in (0, 1)]
        + [record(fraction=1.0, seed=None, value=0.9, **checkpoint)]
    )
    assert rows(page)["clip (paper)"] == ["65.0 ± 7.1, 2 seeds", "90.0 [87.5, 93.0]", "1.00"]
    assert "Missing" not in page


def test_two_results_of_one_seed_that_nothing_tells_apart_are_not_averaged(
    record: MakeRecord, markdown: Page
) -> None:
    page = markdown([record(key="one", value=0.6), record(key="two", value=0.9)])
    assert rows(page)["clip (paper)"] == ["ambiguous", "–"]
    assert "are all of seed 0 and differ in what a table can not tell apart" in page


def test_skipped_failed_and_undefined_cells_say_why(record: MakeRecord, markdown: Page) -> None:
    page = markdown(
        [
            record("clip", fraction=0.01, status="skipped", reason="too few patients"),
            record("clip", fraction=0.1, status="failed", error="out of memory"),
            record("clip", fraction=1.0, value=None),
        ]
    )
    assert rows(page)["clip (paper)"] == ["n/a", "failed", "n/a", "–"]
    assert "- clip (paper), rsna_lp 1%: n/a: too few patients" in page
    assert "- clip (paper), rsna_lp 10%: seed 0 failed: RuntimeError: out of memory" in page
    assert "- clip (paper), rsna_lp 100%: not defined in 1 of 1 records" in page
    assert "`medbench run --method clip --task rsna_lp --fraction 0.1 --seed 0 " in page
    assert page.count("medbench run") == 1  # skipped and undefined cells are finished: nothing fills them


def test_a_failure_that_was_mended_is_forgotten(record: MakeRecord, markdown: Page) -> None:
    mended = record(value=0.6)
    failed = record(status="failed", error="out of memory")
    assert failed.cell_id == mended.cell_id
    assert markdown([failed, mended]) == markdown([mended])


def test_missing_cells_name_the_command_that_fills_them(record: MakeRecord, markdown: Page) -> None:
    page = markdown(
        [record("clip", fraction=f, seed=s, value=0.5 + s / 10) for f, s in [(0.01, 0), (0.01, 1), (0.1, 1)]]
        + [record("random", fraction=0.01, seed=0)]
    )
    command = "medbench run --method {} --task rsna_lp --fraction 0.1 --seed 0 --recipe tiny --precision 32"
    assert f"- clip (paper), rsna_lp 10%: `{command.format('clip')}`" in page
    assert f"- random (baseline), rsna_lp 10%: `{command.format('random')}`" in page
    assert rows(page)["random (baseline)"][1] == "–"


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({"source": "real"}, "--data rsna=DIR --corpus table:FILE"),
        ({"source": "real", "kind": "checkpoint", "key": "k"}, "--data rsna=DIR --checkpoint PATH"),
        ({"source": "real", "kind": "untrained"}, "--data rsna=DIR"),
    ],
)
def test_commands_for_real_data_name_what_only_the_user_knows(
    record: MakeRecord, fields: dict[str, str], flags: str, markdown: Page
) -> None:
    page = markdown([record("clip", **fields), record("place", fraction=0.1, **fields)])
    assert f"--fraction 0.1 --seed 0 --recipe tiny --precision 32 {flags}`" in page


def test_complete_rows_come_first_by_mean_rank(record: MakeRecord, markdown: Page) -> None:
    page = markdown(
        [
            *(record("b", fraction=f, value=0.7) for f in (0.01, 0.1)),
            *(record("c", fraction=f, value=v) for f, v in ((0.01, 0.8), (0.1, 0.7))),
            record("a", value=0.99),
            record("d", status="skipped", fraction=1.0, reason="too few"),
        ]
    )
    cells = rows(page)
    assert [name for name in cells if "(paper)" in name] == [
        "c (paper)",
        "b (paper)",
        "a (paper)",
        "d (paper)",
    ]
    # a column in which nobody has a value makes no row incomplete; ties share a rank
    assert [line[-1] for name, line in cells.items() if "(paper)" in name] == [
        "1.25",
        "1.75",
        "1/2",
        "0/2",
    ]


def test_a_metric_that_is_better_low_is_ranked_so(record: MakeRecord, markdown: Page) -> None:
    page = markdown([record(m, value=v, higher_is_better=False) for m, v in [("a", 0.3), ("b", 0.2)]])
    assert [name for name in rows(page) if "(paper)" in name] == ["b (paper)", "a (paper)"]
    assert "lower is better" in page


def test_only_the_newest_version_of_a_task_is_shown(record: MakeRecord, markdown: Page) -> None:
    page = markdown([record("clip", value=0.61), record("place", value=0.62, task_version=2)])
    assert "clip (paper)" not in rows(page)
    assert (
        "1 record of rsna_lp version 1 (metric version 1); the newest is version 2 (metric version 1)" in page
    )
    page = markdown([record("clip", value=0.61), record("place", value=0.62, metric_version=2)])
    assert "clip (paper)" not in rows(page)
    page = markdown([record("clip", status="skipped", reason="too few"), record("place", metric_version=2)])
    assert rows(page)["clip (paper)"] == ["n/a", "0/1"]


def test_phantom_is_said_plainly(record: MakeRecord, markdown: Page) -> None:
    assert "PHANTOM data: synthetic films." in markdown([record()])
    assert "PHANTOM" not in markdown([record(source="real")])
