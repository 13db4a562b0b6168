"""Rankings and their metrics against definitions, scikit-learn and literal resamples; ties, edges, sizes of blocks."""

import dataclasses
import io
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from medbench.metrics import retrieval
from medbench.metrics.bootstrap import patient_bootstrap_weights, percentile_interval
from medbench.metrics.retrieval import (
    Groups,
    Items,
    Similarity,
    cosine,
    left_out,
    rank,
    retrieval_metrics,
)
from medbench.task import Metric

Labels = Sequence[str | None]


def given_by(matrix: npt.ArrayLike) -> Similarity:
    values = np.asarray(matrix)
    return lambda rows, columns: values[rows, columns]


def items(count: int, classes: Labels | None = None, pairs: Labels | None = None, films: int = 1) -> Items:
    """Each patient has so many."""
    return Items([f"s{k}" for k in range(count)], [f"p{k // films}" for k in range(count)], classes, pairs)


def by_name(metrics: Sequence[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def cohort(
    count: int, classes: int = 3, seed: int = 0, films: int = 2, words: int | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], Items]:
    """Vectors of images and texts that resemble their pair and class; `words`: only so many texts differ."""
    rng = np.random.default_rng(seed)
    label = rng.integers(classes, size=count)
    images = rng.normal(size=(count, 16)) + rng.normal(size=(classes, 16))[label]
    texts = images + rng.normal(size=(count, 16))
    if words is not None:
        texts = texts[rng.integers(words, size=count)]
    names: list[str | None] = [f"c{k}" for k in label]
    pairs: list[str | None] = [f"study {k}" for k in range(count)]
    return images.astype(np.float32), texts.astype(np.float32), items(count, names, pairs, films)


# From the definitions: a ranking is a list of places, ties are all lists that the similarities allow.


def precision_of(relevant: Sequence[bool], k: int) -> float:
    return sum(relevant[:k]) / k


def average_precision_of(relevant: Sequence[bool]) -> float:
    return sum(precision_of(relevant, k + 1) for k, hit in enumerate(relevant) if hit) / sum(relevant)


def over_all_orders(
    similarities: Sequence[float], relevant: Sequence[bool], measure: Callable[[list[bool]], float]
) -> float | None:
    """Expected value over all falling orders; None without a relevant item."""
    if not any(relevant):
        return None
    values = [
        measure([relevant[k] for k in order])
        for order in itertools.permutations(range(len(relevant)))
        if all(similarities[a] >= similarities[b] for a, b in itertools.pairwise(order))
    ]
    return sum(values) / len(values)


@st.composite
def galleries(draw: st.DrawFn) -> tuple[npt.NDArray[np.float64], Items, Items]:
    count, others = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    value = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1e-9, 0.5, 3.0])
    label = st.sampled_from(["a", "b", None])
    rows = draw(st.lists(st.lists(value, min_size=others, max_size=others), min_size=count, max_size=count))
    sides = [
        items(
            n,
            draw(st.lists(label, min_size=n, max_size=n)),
            draw(st.lists(label, min_size=n, max_size=n)),
        )
        for n in (count, others)
    ]
    return np.array(rows), sides[0], sides[1]


@settings(max_examples=60, deadline=None)
@given(galleries())
def test_every_metric_is_its_mean_over_all_orders_of_tied_items(
    case: tuple[npt.NDArray[np.float64], Items, Items],
) -> None:
    matrix, images, texts = case
    rows = rank(given_by(matrix), images, texts)
    for direction, table, queries, gallery in (
        ("i2t", matrix, images, texts),
        ("t2i", matrix.T, texts, images),
    ):
        ks = range(1, len(gallery) + 1)
        found = by_name(retrieval_metrics(rows[rows["direction"] == direction], tuple(ks), tuple(ks)))
        measures: dict[str, tuple[str, Callable[[list[bool]], float]]] = {
            "map": ("classes", average_precision_of),
            "median_rank": ("pairs", lambda relevant: relevant.index(True) + 1),
        }
        for k in ks:
            measures[f"p_at_{k}"] = ("classes", lambda relevant, k=k: precision_of(relevant, k))
            measures[f"r_at_{k}"] = ("pairs", lambda relevant, k=k: any(relevant[:k]))
        assert set(found) == {f"{direction}_{name}" for name in measures}
        for name, (relation, measure) in measures.items():
            mine, theirs = getattr(queries, relation), getattr(gallery, relation)
            expected = [
                over_all_orders(line, [label is not None and label == other for other in theirs], measure)
                for line, label in zip(table.tolist(), mine, strict=True)
            ]
            known = [value for value in expected if value is not None]
            metric = found[f"{direction}_{name}"]
            assert metric.n == len(known)
            if known:
                average = np.median if name == "median_rank" else np.mean
                assert metric.value == pytest.approx(average(known), abs=1e-12)
            else:
                assert (metric.value, metric.low, metric.high) == (None, None, None)


def test_like_sorting_in_float64_and_scikit_learn_without_ties() -> None:
    images, texts, described = cohort(70)
    found = by_name(retrieval_metrics(rank(cosine(images, texts), described, described)))
    classes, pairs = np.array(described.classes), np.array(described.pairs)
    one, other = (
        v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1)[:, None] for v in (images, texts)
    )
    matrix = one @ other.T
    for line in (*matrix, *matrix.T):
        assert len(np.unique(line.astype(np.float32))) == len(line)
    for direction, table in (("i2t", matrix), ("t2i", matrix.T)):
        orders = [np.argsort(-line) for line in table]
        for k in (1, 2, 5, 10):
            shares = [(classes[order[:k]] == classes[q]).mean() for q, order in enumerate(orders)]
            assert found[f"{direction}_p_at_{k}"].value == pytest.approx(np.mean(shares), abs=1e-12)
        for k in (1, 5, 10):
            hits = [pairs[q] in pairs[order[:k]] for q, order in enumerate(orders)]
            assert found[f"{direction}_r_at_{k}"].value == pytest.approx(np.mean(hits), abs=1e-12)
        ranks = [int(np.flatnonzero(order == q)[0]) + 1 for q, order in enumerate(orders)]
        assert found[f"{direction}_median_rank"].value == np.median(ranks)
        precisions = np.array(
            [average_precision_score(classes == classes[q], line) for q, line in enumerate(table)]
        )
        metric = found[f"{direction}_map"]
        assert metric.value == pytest.approx(precisions.mean(), abs=1e-12)
        assert metric.per_class == pytest.approx({c: precisions[classes == c].mean() for c in set(classes)})


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30, unique_by=lambda v: np.float32(v * 1e-270)),
    st.data(),
)
def test_average_precision_like_scikit_learn_for_any_scores(values: list[float], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.sampled_from(["a", "b"]), min_size=len(values), max_size=len(values)))
    rows = rank(given_by([values]), items(1, ["a"]), items(len(values), list(labels)))
    groups = Groups.from_bytes(rows["class_order"][0], rows["class_ties"][0], len(values))
    found = groups.average_precision(np.array([0.0, *np.cumsum(1 / np.arange(1, len(values) + 1))]))
    if "a" in labels:
        ranks = np.argsort(np.argsort(values))  # scikit-learn merges scores that are close to each other
        truth = [label == "a" for label in labels]
        assert found == pytest.approx(average_precision_score(truth, ranks), abs=1e-12)
    else:
        assert math.isnan(found)


@pytest.mark.parametrize("at_once", [1, 3, 7, 64, 1000])
@pytest.mark.parametrize("kind", ["vectors", "matrix"])
def test_blocks_do_not_change_a_bit(kind: str, at_once: int) -> None:
    images, texts, described = cohort(101, words=23)
    similarity = cosine(images, texts) if kind == "vectors" else given_by(images @ texts.T)
    rows = rank(similarity, described, described, at_once)
    whole = rank(similarity, described, described)
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)
    assert retrieval_metrics(rows) == retrieval_metrics(whole)
    assert (whole["pair_tied"] > 1).any()


def test_cosine_is_exact() -> None:
    images, texts, _ = cohort(60, words=9)
    block = cosine(images, texts)
    everything = slice(0, 60)
    whole = block(everything, everything)
    assert (whole == np.rint(whole)).all()
    assert np.abs(whole).max() <= 2**50 * (1 + 1e-6)
    for a, b in ((0, 1), (5, 13), (13, 60)):
        np.testing.assert_array_equal(block(slice(a, b), slice(7, 8)), whole[a:b, 7:8])
    turned = np.random.default_rng(0).permutation(images.shape[1])  # another order of summation
    np.testing.assert_array_equal(cosine(images[:, turned], texts[:, turned])(everything, everything), whole)
    np.testing.assert_array_equal(cosine(texts, images)(everything, everything).T, whole)
    by_column = cosine(np.asfortranarray(images), np.asfortranarray(texts))  # another order in memory
    np.testing.assert_array_equal(by_column(everything, everything), whole)
    for k in range(60):
        same = (texts == texts[k]).all(axis=1)
        assert (whole[:, same] == whole[:, [k]]).all()
    one, other = (v.astype(np.float64) for v in (images, texts))
    expected = one @ other.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(other, axis=1)
    np.testing.assert_allclose(whole / 2**50, expected, atol=1e-7)


def test_length_of_a_vector_does_not_count_even_if_its_square_overflows() -> None:
    vectors = np.array([[3.0, 4.0], [1.0, 0.0]])
    everything = slice(0, 2)
    expected = cosine(vectors, vectors)(everything, everything)
    np.testing.assert_array_equal(
        cosine(vectors * 2.0**1000, vectors * 2.0**-1000)(everything, everything), expected
    )


def test_a_collapsed_encoder_is_at_chance() -> None:
    count, images, texts = 40, np.ones((40, 8)), np.full((40, 8), -0.3)
    described = items(count, ["a"] * 30 + ["b"] * 10, [str(k) for k in range(count)])
    found = by_name(retrieval_metrics(rank(cosine(images, texts), described, described)))
    chance = (30 / 40 * 30 + 10 / 40 * 10) / 40
    for direction in ("i2t", "t2i"):
        for k in (1, 2, 5, 10):
            assert found[f"{direction}_p_at_{k}"].value == pytest.approx(chance)
            assert found[f"{direction}_p_at_{k}"].per_class == pytest.approx({"a": 0.75, "b": 0.25})
        for k in (1, 5, 10):
            assert found[f"{direction}_r_at_{k}"].value == pytest.approx(k / 40)
        assert found[f"{direction}_median_rank"].value == 20.5


def test_expected_average_precision_of_one_large_tie_is_that_of_random_orders() -> None:
    rows = rank(given_by(np.zeros((1, 12))), items(1, ["a"]), items(12, ["a"] * 5 + ["b"] * 7))
    relevant = np.arange(12) < 5
    rng = np.random.default_rng(0)
    drawn = [average_precision_of(rng.permutation(relevant).tolist()) for _ in range(4000)]
    spread = np.std(drawn) / math.sqrt(len(drawn))
    metric = by_name(retrieval_metrics(rows[:1], ()))["i2t_map"]
    assert metric.value == pytest.approx(np.mean(drawn), abs=4 * spread)


def test_negative_similarities_are_similarities() -> None:
    described = items(10, ["a"] * 5 + ["b"] * 5, [str(k) for k in range(10)])
    matrix = -2.0 + np.eye(10) + 0.5 * np.equal.outer(described.classes, described.classes)
    found = by_name(retrieval_metrics(rank(given_by(matrix), described, described)))
    assert found["i2t_map"].value == found["i2t_p_at_5"].value == found["t2i_r_at_1"].value == 1.0
    assert found["t2i_p_at_10"].value == 0.5
    assert found["t2i_median_rank"].value == 1.0


def test_similarities_one_step_of_float32_apart_are_not_tied() -> None:
    near = np.float32([[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.5]])
    rows = rank(given_by(near), items(1, pairs=["1"]), items(3, pairs=["0", "1", "2"]))
    assert rows.loc[0, ["pair_above", "pair_tied", "pair_tied_relevant"]].tolist() == [0, 1, 1]
    rows = rank(given_by(-near), items(1, pairs=["1"]), items(3, pairs=["0", "1", "2"]))
    assert rows.loc[0, ["pair_above", "pair_tied", "pair_tied_relevant"]].tolist() == [2, 1, 1]


def test_queries_without_anything_relevant_are_left_out_and_counted() -> None:
    images = items(4, ["a", "b", None, "c"], ["1", "2", None, "9"])
    texts = items(3, ["a", "b", None], ["1", "2", None])
    matrix = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    rows = rank(given_by(matrix), images, texts)
    assert left_out(rows) == {"i2t_class": 2, "i2t_pair": 2, "t2i_class": 1, "t2i_pair": 1}
    found = by_name(retrieval_metrics(rows, (1,), (1,)))
    assert found["i2t_p_at_1"].value == found["i2t_r_at_1"].value == 0.5
    assert found["i2t_map"].value == 0.75
    assert found["i2t_median_rank"].value == 1.5
    assert {metric.n for name, metric in found.items() if name.startswith("i2t")} == {2}
    assert {metric.n for name, metric in found.items() if name.startswith("t2i")} == {2}
    assert found["i2t_map"].per_class == {"a": 1.0, "b": 0.5}
    assert rows.loc[3, ["pair_relevant", "pair_above", "pair_tied", "pair_tied_relevant"]].tolist() == [0] * 4


def test_a_class_of_one() -> None:
    described = items(12, ["rare"] + ["a"] * 11)
    found = by_name(retrieval_metrics(rank(given_by(np.eye(12)), described, described)))
    assert found["i2t_p_at_1"].per_class == {"a": 1.0, "rare": 1.0}
    assert found["i2t_p_at_10"].per_class["rare"] == pytest.approx(0.1)
    assert found["i2t_map"].per_class["rare"] == 1.0


def test_several_films_of_one_report() -> None:
    images = items(4, pairs=["1", "1", "2", "2"])
    texts = items(2, pairs=["1", "2"])
    matrix = np.array([[2.0, 1.0], [1.0, 2.0], [0.0, 3.0], [3.0, 0.0]])
    rows = rank(given_by(matrix), images, texts)
    found = by_name(retrieval_metrics(rows, recall_at=(1, 2)))
    assert set(found) == {f"{d}_{n}" for d in ("i2t", "t2i") for n in ("r_at_1", "r_at_2", "median_rank")}
    assert found["i2t_r_at_1"].value == 0.5
    assert found["t2i_r_at_1"].value == 0.5  # films by text: [2, 1, 0, 3] and [1, 2, 3, 0]
    assert found["t2i_median_rank"].value == 1.5
    assert found["t2i_r_at_2"].value == 1.0
    assert rows.loc[rows["direction"] == "t2i", "pair_relevant"].tolist() == [2, 2]


@pytest.mark.parametrize(("which", "k"), [("p_at", 13), ("p_at", 0), ("r_at", 13), ("r_at", -1)])
def test_k_beyond_the_gallery_is_refused(which: str, k: int) -> None:
    images, texts, described = cohort(12)
    rows = rank(cosine(images, texts), described, described)
    ks = {"precision_at": (1,), "recall_at": (1,)} | {
        {"p": "precision_at", "r": "recall_at"}[which[0]]: (1, k)
    }
    with pytest.raises(
        ValueError, match=rf"i2t_{which}_{k} looks at the first {k} of a gallery of 12: k is 1 to 12"
    ):
        retrieval_metrics(rows, **ks)
    retrieval_metrics(rows, (12,), (12,))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    images, texts, described = cohort(12)
    matrix = images @ texts.T
    matrix[3, 4] = bad
    with pytest.raises(ValueError, match="1 of 144 similarities are not finite"):
        rank(given_by(matrix), described, described)
    texts[4, 5] = bad
    with pytest.raises(ValueError, match="1 of 12 vectors have no direction"):
        cosine(images, texts)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 of 3 vectors have no direction"):
        cosine(np.eye(3), np.diag([0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"shapes are \(3, 3\), \(3, 2\)"):
        cosine(np.eye(3), np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"vectors are \(N, E\), found shape \(3,\)"):
        cosine(np.ones(3), np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"similarities of 2 queries and 3 items have shape \(2, 2\)"):
        rank(given_by(np.eye(2)), items(2, ["a"] * 2), items(3, ["a"] * 3))
    with pytest.raises(ValueError, match="neither classes nor pairs"):
        rank(given_by(np.eye(2)), items(2), items(2))
    with pytest.raises(ValueError, match="pairs are given for images or for texts only"):
        rank(given_by(np.eye(2)), items(2, ["a"] * 2, ["1", "2"]), items(2, ["a"] * 2))
    with pytest.raises(ValueError, match="'samples': 2, 'patients': 1"):
        Items(["a", "b"], ["p"])
    with pytest.raises(ValueError, match="found none"):
        items(0)


def test_rows_alone_give_the_metrics_again() -> None:
    images, texts, described = cohort(50, words=20)
    rows = rank(cosine(images, texts), described, described)
    buffer = io.BytesIO(rows.to_parquet(index=False))
    assert retrieval_metrics(pd.read_parquet(buffer)) == retrieval_metrics(rows)


def test_a_ranking_takes_two_bits_an_item_at_most() -> None:
    images, texts, described = cohort(400, words=30)
    rows = rank(cosine(images, texts), described, described)
    assert (
        max(
            len(order) + len(ties)
            for order, ties in zip(rows["class_order"], rows["class_ties"], strict=True)
        )
        <= 100
    )
    groups = Groups.from_bytes(rows["class_order"][0], rows["class_ties"][0], 400)
    assert len(groups.size) <= 30
    assert groups.size.sum() <= 400
    assert groups.relevant.sum() == rows["class_relevant"][0]


def test_the_order_of_images_and_texts_does_not_matter() -> None:
    images, texts, described = cohort(60, words=20)
    turned = np.random.default_rng(1).permutation(60)
    again = Items(*(np.array(getattr(described, f.name))[turned].tolist() for f in dataclasses.fields(Items)))
    other = retrieval_metrics(rank(cosine(images[turned], texts[turned]), again, again))
    for a, b in zip(retrieval_metrics(rank(cosine(images, texts), described, described)), other, strict=True):
        a_values, b_values = dataclasses.asdict(a), dataclasses.asdict(b)
        a_drawn, b_drawn = a_values.pop("bootstrap"), b_values.pop("bootstrap")
        assert a_drawn["resample"] == b_drawn["resample"]
        np.testing.assert_allclose(a_drawn["draws"], b_drawn["draws"])
        assert a_values.pop("per_class") == pytest.approx(b_values.pop("per_class"))
        assert a_values == pytest.approx(b_values)


def test_intervals_are_those_of_literal_resamples() -> None:
    images, texts, described = cohort(41, words=30, films=3)
    rows = rank(cosine(images, texts), described, described)
    mine = rows[rows["direction"] == "t2i"].reset_index(drop=True)
    weights = patient_bootstrap_weights(mine["patient"].tolist(), np.zeros(len(mine), bool))
    for metric in retrieval_metrics(mine):
        _, _, name = metric.name.partition("_")
        values = {**retrieval._class_values(mine, (1, 2, 5, 10)), **retrieval._pair_values(mine, (1, 5, 10))}[
            name
        ]
        average = np.median if name == "median_rank" else np.mean
        drawn = np.array([average(np.repeat(values, row)) for row in weights])
        low, high = percentile_interval(drawn)
        assert metric.low == pytest.approx(low, abs=1e-12)
        assert metric.high == pytest.approx(high, abs=1e-12)
        assert metric.low <= metric.value <= metric.high
        assert "over patients" in metric.interval


def test_names_directions_and_versions() -> None:
    images, texts, described = cohort(20)
    metrics = retrieval_metrics(rank(cosine(images, texts), described, described))
    one = ["p_at_1", "p_at_2", "p_at_5", "p_at_10", "map", "r_at_1", "r_at_5", "r_at_10", "median_rank"]
    assert [metric.name for metric in metrics] == [f"{d}_{name}" for d in ("i2t", "t2i") for name in one]
    for metric in metrics:
        assert metric.higher_is_better == (not metric.name.endswith("median_rank"))
        assert (metric.version, metric.n) == (1, 20)
        assert bool(metric.per_class) == ("_p_at_" in metric.name or metric.name.endswith("_map"))
