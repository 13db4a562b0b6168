"""Published figures: the file, the reviewed map, and verdicts on hand-made boards."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.errors import DataError
from medbench.plugins import load_catalogue
from medbench.records import Corpus, MetricValue, Record, WeightsIdentity
from medbench_leaderboards import csv
from medbench_leaderboards.board import Board, Cell, Column, Ranking, Row, Seed, Table
from medbench_leaderboards.published import (
    Figure,
    Protocol,
    ProtocolMap,
    PublishedMethod,
    Verdict,
    figures,
    protocol_map,
    verdicts,
)
from medbench_leaderboards.published_tables import as_json, beside_ours, blocks, fill

DOCS = Path(__file__).resolve().parents[2] / "docs"
CATALOGUE = load_catalogue(third_party=False)

MGCA = Figure(
    method="MGCA",
    paper="MGCA",
    arch="ResNet-50",
    task="linear classification",
    dataset="RSNA",
    protocol="linear probe",
    fraction="1%",
    metric="AUROC",
    value="88.6",
    source="a table",
)
REVIEWED = ProtocolMap(
    {
        MGCA.key: Protocol("rsna_lp@mgca", "auroc", "mgca_cls", "same layer", "other films at 1 %"),
        ("generation", "report generation", "IU", "BLEU (0-1 scale)"): Protocol("", "", "", "no task", ""),
        ("scaled", "linear classification", "RSNA", "AUROC (0-1 scale)"): Protocol(
            "rsna_lp@mgca", "auroc", "mgca_cls", "same layer", ""
        ),
        ("second", "linear classification", "RSNA", "AP"): Protocol(
            "rsna_lp@mgca", "average_precision", "mgca_cls", "same layer", ""
        ),
    },
    {
        "MGCA": PublishedMethod("mgca", ("mimic_cxr", "as released"), "the same"),
        "Random": PublishedMethod("random", (), "untrained"),
        "G2D": PublishedMethod("", (), "no method here"),
    },
)

MakeBoard = Callable[..., Board]


@pytest.fixture
def hand_made(record: Callable[..., Record]) -> MakeBoard:
    """A function that makes a board of one cell: `mgca`, `paper`, real and full unless it is told otherwise."""

    def make(
        mean: float | None = 0.886,
        low: float | None = 0.87,
        high: float | None = 0.90,
        *,
        method: str = "mgca",
        corpus: str | None = "mimic_cxr",
        corpus_subset: str | None = None,
        backbone: str = "resnet50.tv2_in1k",
        seeds: int = 1,
        second: tuple[tuple[float | None, float | None, float | None], ...] = (),
        status: Any = "ok",
        notes: tuple[str, ...] = (),
        marks: tuple[str, ...] = (),
        split: str = "mgca_cls",
        subset: str | None = None,
        **identity: Any,
    ) -> Board:
        weights = WeightsIdentity(
            kind="untrained" if corpus is None else "pretrained",
            key="k",
            corpus=None
            if corpus is None
            else Corpus(dataset=corpus, source="real", subset=corpus_subset, fingerprint="c"),
        )
        fields = {"source": "real", "recipe": "paper", **identity}
        records = {}
        for seed in range(seeds):
            one = record(
                method,
                "rsna_lp@mgca",
                0.01,
                seed,
                mean,
                method_config={"backbone": backbone},
                weights=weights,
                **fields,
            )
            if second:
                value, bottom, top = second[seed]
                metric = MetricValue(
                    name="average_precision", value=value, low=bottom, high=top, interval="b", n=9
                )
                one = one.model_copy(update={"metrics": [*one.metrics, metric]})
            records[one.cell_id] = one
        first = next(iter(records.values())).identity
        row = Row("r", method, method, "paper", "medbench", "about", first)
        column = Column(
            "c",
            "rsna_lp@mgca 1%",
            "rsna_lp@mgca",
            1,
            0.01,
            True,
            "rsna",
            subset,
            split,
            4003,
            "auroc",
            1,
            True,
            "",
        )
        cell = Cell(
            row="r",
            column="c",
            status=status,
            seeds=tuple(
                Seed(seed, mean, low, high, cell_id, "path", None)
                for seed, cell_id in enumerate(sorted(records))
            ),
            mean=mean,
            low=low,
            high=high,
            notes=notes,
            marks=marks,
        )
        table = Table(
            first.source,
            first.recipe,
            "full sets",
            "real-paper-full",
            (row,),
            (column,),
            {("r", "c"): cell},
            (),
            Ranking((), (), None, 0),
            None,
            (),
            (),
        )
        return Board((table,), (), records, {})

    return make


def judge(board: Board, figure: Figure = MGCA) -> Verdict:
    [verdict] = verdicts(board, [figure], REVIEWED)
    return verdict


# The file and the map.


def test_every_figure_is_in_the_map_and_every_method_has_a_meaning() -> None:
    reviewed = protocol_map()
    assert {figure.key for figure in figures()} <= set(reviewed.protocols)
    assert {figure.method for figure in figures()} == set(reviewed.methods)


def test_every_string_of_the_map_is_in_the_file() -> None:
    """A misspelt string would stand in no figure, and leave its figures unmapped."""
    published = {figure.key for figure in figures()}
    for place in range(4):
        used = {key[place] for key in protocol_map().protocols}
        assert used == {key[place] for key in published}


def test_the_map_names_tasks_methods_metrics_and_splits_that_there_are() -> None:
    reviewed = protocol_map()
    for entry in reviewed.protocols.values():
        assert entry.reason
        if not entry.ours:
            continue
        spec = CATALOGUE.tasks[entry.ours]
        assert entry.our_metric in (spec.primary_metric, "dice_mgca")
        assert entry.split in CATALOGUE.load("datasets", spec.dataset).splits
    for method in reviewed.methods.values():
        assert method.reason
        assert not method.ours or method.ours in CATALOGUE.methods


def test_the_metric_that_is_no_primary_one_is_a_metric_of_its_protocol() -> None:
    from medbench.metrics import segmentation

    assert '"dice_mgca"' in Path(segmentation.__file__).read_text()


def test_corpora_of_the_map_are_those_that_records_name() -> None:
    known = {"mimic_cxr"}
    for spec in CATALOGUE.methods.values():
        if spec.released:
            known |= {layout.corpus for layout in spec.load_released().layouts}
    for method in protocol_map().methods.values():
        assert set(method.corpora) <= known


def test_nothing_unread_is_in_the_file() -> None:
    for figure in figures():
        assert figure.source
        assert not figure.source.startswith(("SECONDARY", "NOT SEEN"))
        assert "?" not in asdict(figure).values()
    assert sum(figure.bound for figure in figures()) == 8


def test_a_value_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    names = "method,paper,arch,task,dataset,protocol,fraction,metric,value,source"
    file.write_text(f"{names}\nMGCA,-,-,t,d,p,1%,AUROC,?,s\n")
    with pytest.raises(DataError, match=r"p.csv, line 2: expected a number, or `<` and a number, found '\?'"):
        figures(file)


ENTRY = '[[protocol]]\nprotocol = "p"\ntask = "t"\ndataset = "d"\nmetric = ["m", "n"]\n'
METHOD = '[[method]]\npublished = "A"\nreason = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY + METHOD, "p, d: expected a `reason`, found none"),
        (ENTRY + 'ours = "x"\nreason = "r"\n' + METHOD, "belong together; found"),
        (
            ENTRY + 'reason = "r"\n' + ENTRY + 'reason = "r"\n' + METHOD,
            "p, t, d, m stands in two entries. Keep one",
        ),
        (ENTRY + 'reason = "r"\n' + METHOD + METHOD, "method A stands in two entries"),
    ],
)
def test_a_map_that_was_not_reviewed_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "m.toml"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        protocol_map(file)


# Verdicts.


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ("88.6", "reproduced"),
        ("86.0", "reproduced"),  # a point below the interval
        ("91", "reproduced"),
        ("91.1", "low"),
        ("85.9", "high"),
    ],
)
def test_our_interval_and_a_point_decide(hand_made: MakeBoard, value: str, outcome: str) -> None:
    verdict = judge(hand_made(), replace(MGCA, value=value))
    assert (verdict.verdict, verdict.published) == (outcome, value)
    assert (verdict.ours, verdict.low, verdict.high) == pytest.approx((88.6, 87.0, 90.0))
    assert (verdict.row, verdict.column, verdict.table) == ("r", "c", "real-paper-full")
    assert "one seed. Differs all the same: other films at 1 %" in verdict.why


def test_a_verdict_says_what_our_cell_is_marked_with(hand_made: MakeBoard) -> None:
    verdict = judge(hand_made(marks=("contaminated", "one seed")))
    assert "; one seed; ours is marked contaminated. Differs all the same: " in verdict.why
    assert "marked" not in judge(hand_made(marks=("one seed",))).why


@pytest.mark.parametrize(
    ("low", "outcome"), [(0.0, "reproduced"), (0.0199, "reproduced"), (0.02, "high"), (0.3, "high")]
)
def test_a_bound_is_a_bound(hand_made: MakeBoard, low: float, outcome: str) -> None:
    verdict = judge(hand_made(low + 0.01, low, low + 0.02), replace(MGCA, value="<1"))
    assert (verdict.verdict, verdict.published) == (outcome, "<1")


@given(published=st.floats(0, 100), mean=st.floats(0, 1), below=st.floats(0, 0.5), above=st.floats(0, 0.5))
def test_exactly_one_verdict_by_a_second_reading(
    published: float, mean: float, below: float, above: float
) -> None:
    """Against the words of the page, over all numbers."""
    from medbench_leaderboards.published import _compared  # the board around it decides nothing

    value = f"{published:.1f}"
    low, high = 100 * (mean - below), 100 * (mean + above)
    entry = REVIEWED.protocols[MGCA.key]
    table = Table("", "", "", "", (), (), {}, (), Ranking((), (), None, 0), None, (), ())
    row, column = Row("r", "", "", "", "", "", None), None  # type: ignore[arg-type]
    column = Column("c", "", "", 1, 1.0, True, "", None, "", 1, "auroc", 1, True, "")
    verdict = _compared(
        replace(MGCA, value=value),
        entry,
        table,
        row,
        column,
        Cell("r", "c", "ok"),
        (100 * mean, low, high, 1),
    ).verdict
    inside = low - 1 <= float(value) <= high + 1
    assert (verdict == "reproduced") == inside
    if not inside:
        assert verdict == ("high" if mean * 100 > float(value) else "low")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"source": "phantom"}, "ours: of phantom films"),
        ({"recipe": "tiny"}, "ours: of the recipe `tiny`"),
        ({"subset": "202 of 26,684"}, "ours: of a subset of the films (202 of 26,684)"),
        ({"corpus_subset": "1 of 2"}, "ours: pretrained on a subset (1 of 2)"),
        (
            {"backbone": "vit_base_patch16_224"},
            "ours: of another backbone (ViT-B/16)",
        ),
        ({"backbone": "resnet18"}, "ours: of another backbone (resnet18)"),
        (
            {"split": "clean"},
            "ours: on the split `clean`; the figure is of `mgca_cls` (`--split mgca_cls`)",
        ),
        ({"corpus": "table"}, "ours: pretrained on table; the figure is of mimic_cxr or as released"),
        ({"corpus": None}, "ours: pretrained on something that no record names"),
        ({"mean": None, "low": None, "high": None}, "ours: ok: there is no value"),
        ({"low": None, "high": None}, "ours: `auroc` has no interval"),
        ({"status": "failed", "notes": ("out of memory",)}, "ours: failed: out of memory"),
        ({"status": "missing"}, "no record of `mgca` on `rsna_lp@mgca` at 1% of the labels"),
        ({"method": "clip"}, "no record of `mgca` on `rsna_lp@mgca` at 1% of the labels"),
    ],
)
def test_what_stands_in_the_way(hand_made: MakeBoard, changed: dict[str, Any], why: str) -> None:
    verdict = judge(hand_made(**changed))
    assert verdict.verdict == "not comparable"
    assert verdict.why.startswith(why)
    assert (verdict.row, verdict.column, verdict.table, verdict.ours) == (None, None, None, None)


@pytest.mark.parametrize(
    ("figure", "why"),
    [
        (replace(MGCA, metric="F1"), "unmapped: nobody has reviewed this protocol and metric"),
        (replace(MGCA, method="XYZ"), "unmapped: nobody has said which method XYZ is here"),
        (replace(MGCA, method="G2D"), "no method here"),
        (
            Figure(
                "MGCA",
                "",
                "",
                "report generation",
                "IU",
                "generation",
                "100%",
                "BLEU (0-1 scale)",
                "0.3",
                "",
            ),
            "no task",
        ),
        (replace(MGCA, fraction="10%"), "no record of `mgca` on `rsna_lp@mgca` at 10% of the labels"),
    ],
)
def test_what_is_not_compared_says_why(hand_made: MakeBoard, figure: Figure, why: str) -> None:
    assert judge(hand_made(), figure).why == why


def test_an_untrained_encoder_is_compared_with_untrained_ones(hand_made: MakeBoard) -> None:
    random = replace(MGCA, method="Random")
    assert judge(hand_made(method="random", corpus=None), random).verdict == "reproduced"
    assert "pretrained on mimic_cxr" in judge(hand_made(method="random"), random).why


def test_scales_of_one_and_of_hundred_agree(hand_made: MakeBoard) -> None:
    scaled = replace(MGCA, protocol="scaled", metric="AUROC (0-1 scale)", value="0.886")
    verdict = judge(hand_made(), scaled)
    assert (verdict.verdict, verdict.published) == ("reproduced", "0.886")
    assert verdict.ours == pytest.approx(88.6)


def test_of_a_second_metric_the_mean_over_seeds_and_of_their_bounds(hand_made: MakeBoard) -> None:
    figure = replace(MGCA, protocol="second", metric="AP", value="52.0")
    board = hand_made(seeds=2, second=((0.5, 0.4, 0.6), (0.54, 0.46, 0.62)))
    verdict = judge(board, figure)
    assert (verdict.ours, verdict.low, verdict.high) == pytest.approx((52.0, 43.0, 61.0))
    assert "2 seeds" in verdict.why
    none = judge(hand_made(second=((None, None, None),)), figure)
    assert none.why == "ours: `average_precision` is not defined there"
    assert judge(hand_made(), figure).why == "ours: the records have no `average_precision`"


def test_an_empty_board_has_a_verdict_for_every_figure() -> None:
    made = verdicts(Board((), (), {}, {}))
    assert len(made) == len(figures())
    assert {verdict.verdict for verdict in made} == {"not comparable"}
    assert all(verdict.why for verdict in made)


# Tables.


def test_the_section_of_a_leaderboard(hand_made: MakeBoard) -> None:
    made = verdicts(
        hand_made(),
        [MGCA, replace(MGCA, value="<1"), replace(MGCA, method="G2D"), replace(MGCA, method="G2D")],
        REVIEWED,
    )
    text = beside_ours(made, {"r": "mgca (a | b)"})
    assert "| 88.6        | 88.6 [87.0, 90.0]      | **reproduced** |" in text
    assert "| <1          | 88.6 [87.0, 90.0]      | **high**       |" in text
    assert r"mgca (a \| b)" in text
    assert "- linear classification, RSNA, AUROC: other films at 1 %" in text
    assert "Not comparable:\n\n- 2: no task or method here is the same" in text
    absent = verdicts(hand_made(source="phantom"), [MGCA, replace(MGCA, fraction="10%")], REVIEWED)
    text = beside_ours(absent, {})
    assert "- 1: there is no record of ours yet\n- 1: ours: of phantom films, which are no patients" in text


def test_json_has_what_was_compared_and_counts_the_rest(hand_made: MakeBoard) -> None:
    made = verdicts(hand_made(), [MGCA, *2 * [replace(MGCA, method="G2D")]], REVIEWED)
    told = json.loads(json.dumps(as_json(made)))
    [compared] = told["compared"]
    assert (compared["published"], compared["verdict"], compared["row"]) == ("88.6", "reproduced", "r")
    assert told["not_comparable"] == [{"why": "no method here", "figures": 2}]


def test_csv_has_every_figure_and_ours_where_it_was_compared(hand_made: MakeBoard) -> None:
    board = hand_made()
    one, other = csv.published(board, verdicts(board, [MGCA, replace(MGCA, method="G2D")], REVIEWED))
    assert set(one) == set(other) == set(csv.PUBLISHED)
    assert (one["published"], one["verdict"], one["row"]) == (
        "88.6",
        "reproduced",
        board.tables[0].rows[0].name,
    )
    assert (one["ours"], one["low"], one["high"]) == (88.6, 87.0, 90.0)
    assert (other["verdict"], other["why"]) == ("not comparable", "no method here")
    assert other["row"] is other["column"] is other["ours"] is None


def test_a_leaderboard_without_anything_to_compare_says_so() -> None:
    text = beside_ours(verdicts(Board((), (), {}, {})), {})
    assert "None of ours can be compared with a published figure yet." in text


def test_the_page_shows_the_map() -> None:
    page = (DOCS / "published.md").read_text()
    assert page == fill(page), "run: python -m medbench_leaderboards.published_tables docs/published.md"
    for name in blocks():
        assert f"<!-- table: {name} -->" in page


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="expected <!-- table: sources -->"):
        fill("# Published figures\n")
